"""A run's rank curves: ``RUN/rank/layer-<i>.parquet`` and ``.json``, recorded in its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from analysis.lowrank.curve import RankCurve
from analysis.lowrank.measure import MIN_ACTIVE, rank_curve
from circuits.corpus.documents import Corpus
from circuits.errors import RankError
from circuits.storage.manifest import record
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS


def run_rank(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    *,
    layers: Iterable[int] | None = None,
    reader: Literal["pinv", "encoder"] = "pinv",
    corpus: Corpus | None = None,
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    seed: int = 0,
) -> dict[int, RankCurve]:
    """`rank_curve` for the given layers, by default each with a dictionary at ``mlp_out``; saved in
    the run, and an interrupted call resumes. Without a corpus: the built-in stories that training
    holds out."""
    there = {site.layer: each for site, each in dictionaries.items() if site.point == "mlp_out"}
    wanted = sorted(there if layers is None else set(layers))
    absent = sorted(set(wanted) - set(there))
    if not wanted or absent:
        raise RankError(
            f"{run} has dictionaries at mlp_out of layers {sorted(there) or 'none'}, not of "
            f"{absent or 'any'}. Train them: circuits sae train {run}"
        )
    curves, made = {}, []
    for layer in wanted:
        half_way = Path(run) / "rank" / f".layer-{layer}"
        curves[layer] = rank_curve(
            model,
            there[layer],
            corpus=corpus,
            reader=reader,
            n_documents=n_documents,
            min_active=min_active,
            seed=seed,
            folder=half_way,
        )
        shutil.rmtree(half_way, ignore_errors=True)
        table = curves[layer].save(Path(run) / "rank" / f"layer-{layer}")
        made += [table, table.with_suffix(".json")]
    made_of = {f"layer {layer}": dict(curve.about) for layer, curve in curves.items()}
    record(run, "rank", made_of, made)
    return curves
