"""What a run measures of each layer: the strongest interactions, and how far few eigenvectors go.

Shards are kept until a file is finished, so that the measurement resumes after an interruption;
other settings have shards of their own. With data a second pass, over the corpus, counts how often
each listed pair is active together. Rotated features are the control.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from analysis.discovery.provenance import check_dictionaries, wanted_layers
from analysis.lowrank.curve import RankCurve
from analysis.lowrank.measure import MIN_ACTIVE, rank_curve
from analysis.runs.alone import alone
from analysis.runs.run import Run
from circuits.algebra.basis import rotated
from circuits.algebra.interactions import Interactions
from circuits.corpus.documents import Corpus
from circuits.errors import RunError, check_count
from circuits.graph.coactivation import Batch, count_coactivation
from circuits.graph.significance import scored_strongest
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.manifest import step_written
from circuits.storage.shards import remove_shards
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, readings

_CONTROL_OUTPUTS = 256  # that the control measures


@alone
def run_interactions(
    run: Run,
    *,
    n: int = 16,
    layers: Iterable[int] | None = None,
    reader: Literal["pinv", "encoder"] = "pinv",
    corpus: Corpus | None = None,
    n_documents: int = N_DOCUMENTS,
    q: float = 0.05,
) -> dict[str, Any]:
    """The ``n`` strongest pairs of each output of each layer with dictionaries at ``mlp_in`` and
    ``mlp_out``, into ``RUN/interactions/layer-<i>.parquet``; with the first documents of a
    ``corpus`` also the data weights.

    Returns for each layer the file, and how many outputs have a pair at ``q`` beside how many of
    the first 256 do with the input features rotated; where it replaces a table of other settings,
    which.
    """
    if not 0 < q < 1:
        raise RunError(
            f"q = {q} must lie between 0 and 1: it is a share of false discoveries. Try 0.05."
        )
    read: dict[str, Any] = {"corpus": None, "n_documents": 0}
    if corpus is not None:
        check_count("run_interactions", n_documents, None, "n_documents")
        read = {"corpus": corpus.fingerprint, "n_documents": n_documents}
    answer: dict[str, Any] = {}
    for layer in wanted_layers(run.model, run.dictionaries, layers):
        sites = mlp_sites(layer)
        hashes = {str(site): run.dictionaries[site].fingerprint for site in sites}
        of = {"model": run.model.fingerprint, **hashes}
        into, inter = run.dictionaries[sites[0]], run.interactions(layer, reader=reader)
        active = None if corpus is None else _activations(run.model, into, corpus, n_documents)
        file = run.folder.interactions(layer)
        table = _strongest(inter, n, run.folder.interaction_shards(layer), active)
        made_of = {"n": n, "reader": reader, **read, "of": of}
        before = _made_before(run, f"interactions of layer {layer}")
        with step_written(run.folder.path, f"interactions of layer {layer}", made_of) as making:
            table.to_parquet(making.place(file), index=False)
        for shards in (run.folder.interaction_shards(layer), file.with_suffix("")):  # or of 0.1
            remove_shards(shards)
        n_control = min(inter.n_output, _CONTROL_OUTPUTS)
        control = Interactions(inter.layer, rotated(inter.inputs), inter.outputs)
        chance = scored_strongest(control, n, range(n_control))
        answer[f"layer {layer}"] = {
            "file": str(file),
            "outputs": int(table["output"].nunique()),
            "listed of each": n,
            "read by": reader,
            f"with a listed pair at q {q:.12g}": _discoveries(table, q),
            "the same, features rotated": f"{_discoveries(chance, q)} of {n_control}",
            **_replaced(before, made_of),
        }
    return answer


def _replaced(before: Mapping[str, Any], made_of: Mapping[str, Any]) -> dict[str, str]:
    """In which settings the table that was there differed."""
    names = {"n": "n", "reader": "reader", "corpus": "text", "n_documents": "documents"}
    differ = [
        f"{said} = {before[key] or 'none':.12}" if key == "corpus" else f"{said} = {before[key]}"
        for key, said in names.items()
        if key in before and before[key] != made_of[key]
    ]
    return {"replaces": f"a table of {', '.join(differ)}"} if differ else {}


def _made_before(run: Run, step: str) -> dict[str, Any]:
    """What the step was made of the last time."""
    made: dict[str, Any] = {entry["step"]: entry["made_of"] for entry in run.manifest}.get(step, {})
    return made


def _strongest(
    inter: Interactions, n: int, shards: Path, activations: Iterable[Batch] | None
) -> pd.DataFrame:
    """The table; its shards are apart from those of other settings."""
    table = scored_strongest(inter, n, folder=shards / f"{n}-{inter.fingerprint[:12]}")
    if activations is not None:
        table = count_coactivation(activations, table, inter.inputs.n_feature).of(table)
    return table


@alone
def run_rank(
    run: Run,
    *,
    layers: Iterable[int] | None = None,
    reader: Literal["pinv", "encoder"] = "encoder",
    corpus: Corpus | None = None,
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    seed: int = 0,
) -> dict[int, RankCurve]:
    """`rank_curve` for each layer with a dictionary at ``mlp_out``, or for those named, saved in
    the run; after an interruption the same call resumes. Without a corpus it is measured on the
    built-in stories that training holds out."""
    check_dictionaries(run.model, run.dictionaries)
    curves: dict[int, RankCurve] = {}
    for layer in wanted_layers(run.model, run.dictionaries, layers, ["mlp_out"]):
        shards = run.folder.rank_shards(layer)
        curve = curves[layer] = rank_curve(
            run.model,
            run.dictionaries[Site("mlp_out", layer)],
            corpus=corpus,
            reader=reader,
            n_documents=n_documents,
            min_active=min_active,
            seed=seed,
            folder=shards,
        )
        with step_written(run.folder.path, f"rank of layer {layer}", curve.about) as making:
            curve.save(making.place(run.folder.rank(layer)))
        remove_shards(shards)
    return curves


def _discoveries(table: pd.DataFrame, q: float) -> int:
    return int(table.loc[table["q"] <= q, "output"].nunique())


def _activations(
    model: Model, dictionary: Dictionary, corpus: Corpus, n_documents: int
) -> Iterator[Batch]:
    """The active features of the tokens that count, for ``count_coactivation``."""
    site = dictionary.known_site("active")
    for reading in readings(model, corpus, [site], n_documents=n_documents):
        code = dictionary.active(reading.activations[site].to(dictionary.device))
        yield padded(code.starts, code.features, code.values)


def padded(starts: torch.Tensor, features: torch.Tensor, values: torch.Tensor) -> Batch:
    """Rows of unequal length, row r from ``starts[r]`` on, as rows that end in zeros."""
    lengths = starts.diff()
    widest = max(int(lengths.max()) if len(lengths) else 0, 1)
    filled = torch.arange(widest, device=starts.device) < lengths[:, None]
    indices = torch.zeros(filled.shape, dtype=torch.int64, device=starts.device)
    strengths = values.new_zeros(filled.shape)
    indices[filled], strengths[filled] = features.long(), values
    return indices, strengths
