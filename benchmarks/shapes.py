"""Pairs found in dictionaries of every shape, and in forms that hold no pairs.

Three AND gates of two features by two, at an SNR of 10, written along the features or read by the
pseudoinverse's rows; ten layers each. Recall at q = 0.05 beside what is reached when the pairs are
named; the strongest pairs by weight, as many as were planted; the share of false edges, with noise
spread evenly and in a space that features share; and forms without gates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.runs.run import Run
from analysis.studies.geometries import GEOMETRIES
from analysis.studies.planted import Planted, Truth, edge_scores, plant, score
from benchmarks.measure import machine, table
from circuits import Basis

SEEDS = 10
SMALL = ((32, 256), (32, 64), (64, 64), (64, 128))
"""Dimensions and features: few of both, and hardly more features than dimensions."""
HEADER = ("features", "gates", "recall", "named", "strongest", "false", "false, shared noise",
          "any, no gates", "any, shared, no gates")  # fmt: skip


def run(folder: str | None = None) -> str:
    """The table, with a row for the dictionary of a run's MLP input; takes about five minutes."""
    rows = []
    for geometry in GEOMETRIES:
        rows += _rows(geometry, Planted(geometry=geometry), None)
    for d, n in SMALL:
        rows += _rows(f"even, {n} of {d}", Planted(d, n), None)
    if folder is not None:
        own = Run(folder, device="cpu").interactions(0).inputs
        rows += _rows(f"of a run ({own.n_feature} of {own.d_model})", Planted(), own)
    head = (
        f"{machine()}. 512 features of 64 dimensions where a row names none, seeds 0 to "
        f"{SEEDS - 1}, q = 0.05, SNR 10."
    )
    return f"{head}\n\n{table(rows, HEADER)}"


def _rows(name: str, sizes: Planted, own: Basis | None) -> list[tuple[str, ...]]:
    nothing = [f"{_nothing(sizes, noise, own):.2f}" for noise in ("even", "shared")]
    rows = []
    for made_of in ("readers", "written"):
        even, shared, strongest = [], [], []
        for seed in range(SEEDS):
            for noise, scores in (("even", even), ("shared", shared)):
                inter, (truth,) = plant(_sizes(sizes, noise, seed, 3, made_of), own)
                scores.append(score(inter, 0, truth))
                if noise == "even":
                    pairs = inter.without_constant.strongest(len(truth.weights), 0)
                    named = zip(pairs["first"], pairs["second"], strict=True)
                    strongest.append(edge_scores(named, truth.weights)["recall"])
        figures = [np.mean([one[of] for one in even]) for of in ("recall", "named")]
        figures += [np.mean(strongest)]
        figures += [np.mean([one["false"] for one in some]) for some in (even, shared)]
        rows.append((name, made_of, *(f"{figure:.2f}" for figure in figures), *nothing))
    return rows


def _sizes(
    sizes: Planted, noise: str, seed: int, n_gates: int, made_of: str = "written"
) -> Planted:
    return replace(
        sizes, n_gates=n_gates, snr=10.0, largest=2, kinds=("AND",), made_of=made_of, noise=noise,
        seed=seed,
    )  # fmt: skip


def _nothing(sizes: Planted, noise: str, own: Basis | None) -> float:
    """The share of forms without gates that have an edge."""
    found = []
    for seed in range(2 * SEEDS):
        inter, _ = plant(_sizes(sizes, noise, seed, 0), own)
        found.append(score(inter, 0, Truth())["n_found"] > 0)
    return float(np.mean(found))
