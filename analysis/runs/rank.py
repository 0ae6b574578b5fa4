"""A run's rank curves: ``RUN/rank/layer-<i>.parquet`` and ``.json``, noted in its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Literal

from analysis.discovery.provenance import wanted_layers
from analysis.lowrank.curve import RankCurve
from analysis.lowrank.measure import MIN_ACTIVE, rank_curve
from analysis.runs.run import Run
from circuits.corpus.documents import Corpus
from circuits.model.site import Site
from circuits.storage.manifest import record
from sae.reading import N_DOCUMENTS


def run_rank(
    run: Run,
    *,
    layers: Iterable[int] | None = None,
    reader: Literal["pinv", "encoder"] = "pinv",
    corpus: Corpus | None = None,
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    seed: int = 0,
) -> dict[int, RankCurve]:
    """`rank_curve` for each layer with a dictionary at ``mlp_out``, or for those named, saved in
    the run; after an interruption the same call resumes. Without a corpus it is measured on the
    built-in stories that training holds out."""
    curves, made = {}, []
    for layer in wanted_layers(run.model, run.dictionaries, layers, ["mlp_out"]):
        shards = run.folder.rank_shards(layer)
        curves[layer] = rank_curve(
            run.model,
            run.dictionaries[Site("mlp_out", layer)],
            corpus=corpus,
            reader=reader,
            n_documents=n_documents,
            min_active=min_active,
            seed=seed,
            folder=shards,
        )
        shutil.rmtree(shards, ignore_errors=True)
        curves[layer].save(run.folder.rank(layer))
        made += [run.folder.rank(layer), run.folder.rank_summary(layer)]
    made_of = {f"layer {layer}": dict(curve.about) for layer, curve in curves.items()}
    record(run.folder.path, "rank", made_of, made)
    return curves
