"""A layer's strongest interactions as one Parquet file: weight, z, q, and what they add on data.

The pass over outputs leaves shards beside the file, so a second call goes on where the first
stopped; without data a file is the shards merged. With data a second pass, over the corpus, counts
how often each listed pair fires together. What the same numbers look like where there is nothing,
rotated or shuffled features tell: ``control``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from circuits.model.site import mlp_sites
from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.interactions import Interactions
from circuits.corpus.documents import Corpus
from circuits.errors import RunError, check_count
from circuits.storage.files import written_whole
from circuits.graph.coactivation import Batch, count_coactivation
from circuits.storage.manifest import record
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.algebra.controls import rotated, shuffled
from circuits.graph.significance import scored_strongest
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, activations_in_order

_CONTROLS = {"rotated": rotated, "shuffled": shuffled}
_CONTROL_OUTPUTS = 256  # that the share of chance is told from


def layer_interactions(
    layer: BilinearLayer,
    inputs: Basis,
    outputs: Basis,
    path: str | Path,
    n: int = 16,
    activations: Iterable[Batch] | None = None,
    control: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The ``n`` strongest pairs of each output, written to ``path`` (its shards to the folder of
    the same name): output, first, second, weight, z, q; with ``activations`` of the input features
    also coactivation, together and data_weight. ``control`` puts "rotated" or "shuffled" features
    in the place of the inputs.
    """
    path = Path(path)
    if control is not None:
        if control not in _CONTROLS:
            raise RunError(f"no control '{control}'. Ask for {' or '.join(_CONTROLS)}.")
        inputs = _CONTROLS[control](inputs, seed)
    inter = Interactions(layer, inputs, outputs)
    table = scored_strongest(inter, n, folder=path.with_suffix(""))
    if activations is not None:
        table = count_coactivation(activations, table, inputs.n_feature).of(table)
    with written_whole(path) as file:
        table.to_parquet(file, index=False)
    return table


def run_interactions(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    *,
    n: int = 16,
    layers: Iterable[int] | None = None,
    reader: Literal["pinv", "encoder"] = "pinv",
    corpus: Corpus | None = None,
    n_documents: int = N_DOCUMENTS,
    q: float = 0.05,
) -> dict[str, Any]:
    """``layer_interactions`` for each layer with dictionaries at ``mlp_in`` and ``mlp_out``, into
    ``RUN/interactions/layer-<i>.parquet``; with the first documents of a ``corpus`` also the data
    weights. Tells what was written and how many outputs have a pair at ``q``, beside how many of
    the first 256 do with the input features rotated.
    """
    if not 0 < q < 1:
        raise RunError(f"q = {q} is no share of false discoveries. Ask for 0 < q < 1, say 0.05.")
    if corpus is not None:
        check_count("run_interactions", n_documents, None, "n_documents")
    told: dict[str, Any] = {}
    made, hashes = [], {"model": model.fingerprint}
    for layer in _wanted(run, model, dictionaries, layers):
        into, out = (dictionaries[site] for site in mlp_sites(layer))
        hashes |= {str(site): dictionaries[site].fingerprint for site in mlp_sites(layer)}
        path = Path(run) / "interactions" / f"layer-{layer}.parquet"
        fired = None
        if corpus is not None:
            fired = dictionary_activations(model, into, corpus, n_documents)
        inputs, outputs = into.basis(), out.basis(reader)
        table = layer_interactions(model.layer(layer), inputs, outputs, path, n, fired)
        made.append(path)
        n_control = min(outputs.n_feature, _CONTROL_OUTPUTS)
        control = Interactions(model.layer(layer), rotated(inputs), outputs)
        chance = scored_strongest(control, n, range(n_control))
        told[f"layer {layer}"] = {
            "file": str(path),
            "outputs": int(table["output"].nunique()),
            f"with a pair at q {q:g}": _discoveries(table, q),
            "the same, features rotated": f"{_discoveries(chance, q)} of {n_control}",
        }
    text = None if corpus is None else corpus.fingerprint
    read = {"corpus": text, "n_documents": n_documents if text else 0}
    record(run, "interactions", {"n": n, "reader": reader, **read, "of": hashes}, made)
    return told


def _wanted(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    layers: Iterable[int] | None,
) -> list[int]:
    there = [
        layer
        for layer in range(model.n_layer)
        if {Site("mlp_in", layer), Site("mlp_out", layer)} <= set(dictionaries)
    ]
    wanted = sorted(there if layers is None else set(layers))
    absent = sorted(set(wanted) - set(there))
    if not wanted or absent:
        raise RunError(
            f"{run} has dictionaries at both mlp_in and mlp_out of layers {there or 'none'}, not "
            f"of {absent or 'any'}. Train them: circuits sae train {run}"
        )
    return wanted


def _discoveries(table: pd.DataFrame, q: float) -> int:
    return int(table.loc[table["q"] <= q, "output"].nunique())


def dictionary_activations(
    model: Model, dictionary: Dictionary, corpus: Corpus, n_documents: int = N_DOCUMENTS
) -> Iterator[Batch]:
    """The active features of the tokens that count (``sae.reading``), as ``count_coactivation`` wants
    them."""
    site = dictionary.known_site("active")
    for x in activations_in_order(model, corpus, site, n_documents=n_documents):
        code = dictionary.active(x.to(dictionary.device))
        yield padded(code.starts, code.features, code.values)


def padded(starts: torch.Tensor, features: torch.Tensor, values: torch.Tensor) -> Batch:
    """Rows of unequal length, row r from ``starts[r]`` to ``starts[r + 1]``, as rows of equal
    length that end in zeros."""
    lengths = starts.diff()
    widest = max(int(lengths.max()) if len(lengths) else 0, 1)
    row = torch.repeat_interleave(torch.arange(len(lengths), device=starts.device), lengths)
    place = torch.arange(len(features), device=starts.device) - starts[row]
    indices = torch.zeros(len(lengths), widest, dtype=torch.int64, device=starts.device)
    strengths = values.new_zeros(len(lengths), widest)
    indices[row, place] = features.long()
    strengths[row, place] = values
    return indices, strengths
