"""How far two eigenvectors go: widths, readers and controls, from several seeds; and what it costs.

Each seed trains a model of the default plan and, on it, dictionaries of several widths at
``mlp_out``. The last control is the strictest: an untrained model with a dictionary trained
on *it*. `rank_curve` has a cheaper one beside every number.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from analysis import rank_curve
from analysis.lowrank.curve import RankCurve
from analysis.lowrank.sums import Forms, Observed, Resampling, active_sums, on_all, totals_of
from benchmarks.measure import extra_memory, machine, table
from circuits.corpus import built_in
from circuits.corpus.documents import split_corpus
from circuits.model import Model, ModelPlan, load_model, train_model
from circuits.model.loading import untrained
from sae import Dictionary, TrainingPlan, train_saes
from sae.sparse import Code

WIDTHS = ((64, 8), (128, 8), (256, 10), (512, 10))  # features, k; 256 and 10 are the default plan's
UNTRAINED = "of an untrained model"
READERS = ("encoder", "pinv")
THRESHOLDS = (0.5, 0.75, 0.9)


def trained_on(model: Model, seed: int, n_features: int, k: int, folder: Path) -> Dictionary:
    plan = TrainingPlan(sites=("mlp_out@0",), n_features=n_features, k=k, seed=seed)
    (found,) = train_saes(model, built_in(seed), plan, folder, device=model.device).values()
    return found


def curves(seed: int, device: str) -> dict[tuple[str, str], RankCurve]:
    """Of one seed, by dictionary and reader."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = train_model(ModelPlan(seed=seed), built_in(seed), folder / "model", device=device)
        model = load_model(trained.folder, device=device)
        studied = {f"{n}, k {k}": (model, n, k) for n, k in WIDTHS}
        studied[f"256, k 10, {UNTRAINED}"] = (untrained(model, seed), 256, 10)
        held_out = split_corpus(built_in(seed))[1]
        for called, (owner, n, k) in studied.items():
            dictionary = trained_on(owner, seed, n, k, folder / called.replace(" ", "-"))
            for reader in READERS:
                found[called, reader] = rank_curve(
                    owner, dictionary, corpus=held_out, reader=reader, seed=seed
                )
    return found


def row(called: str, reader: str, of_seeds: list[RankCurve]) -> tuple[str, ...]:
    """Means over seeds; of the default threshold also the least and the most."""
    summaries = [curve.summary() for curve in of_seeds]
    shares = [curve.share_above(0.75) for curve in of_seeds]
    over = [f"{mean(curve.share_above(t) for curve in of_seeds):.2f}" for t in THRESHOLDS]
    nulls = ("rotated", "shuffled", "untrained")
    losses = [curve.loss.set_index("replaced_by")["recovered"] for curve in of_seeds]
    kept = [f"{mean(loss[n] for loss in losses):.2f}" for n in ("rank 2", "full rank")]
    return (
        called,
        reader,
        f"{mean(one['n_compared'] for one in summaries):.0f}",
        f"{mean(one['median'] for one in summaries):.3f}",
        " / ".join(over),
        f"{min(shares):.2f} to {max(shares):.2f}",
        f"{mean(one['share_above_full_rank'] for one in summaries):.2f}",
        " / ".join(f"{mean(one[f'share_above_{n}'] for one in summaries):.2f}" for n in nulls),
        "-" if UNTRAINED in called else " / ".join(kept),  # there is no loss to be recovered
    )


CONTROLS = ("features", "reader",
            "above .75 with two: features / random directions / tokens' outputs",
            "lift over random directions, of the seeds", "one of each sign",
            "median R²: features / random / tokens",
            "rank for R² .9: features / random / tokens")  # fmt: skip


def controls_row(called: str, reader: str, of_seeds: list[RankCurve]) -> tuple[str, ...]:
    """Features beside directions of the same model that are no features; means over seeds."""
    summaries = [curve.summary() for curve in of_seeds]
    lifts = [one["share_above"] - one["share_above_random"] for one in summaries]

    def each(name: str) -> str:
        names = (name, f"{name}_random", f"{name}_tokens")
        return " / ".join(f"{mean(one[n] for one in summaries):.2f}" for n in names)

    ranks = [
        [one[f"needed{end}"] for one in summaries] for end in ("", "_random", "_tokens")
    ]  # None: more than any that was tried
    return (
        called,
        reader,
        each("share_above"),
        f"{min(lifts):+.2f} to {max(lifts):+.2f}",
        f"{mean(one['share_above_by_sign'] for one in summaries):.2f}",
        each("median_r2"),
        " / ".join("-" if None in of else f"{mean(of):.0f}" for of in ranks),
    )


def widths(device: str, n_seeds: int) -> str:
    by_seed = [curves(seed, device) for seed in range(n_seeds)]
    by_kind = {key: [found[key] for found in by_seed] for key in by_seed[0]}
    rows = [row(*key, of) for key, of in by_kind.items()]
    beside = [controls_row(*key, of) for key, of in by_kind.items()]
    header = (
        "features", "reader", "compared", "median, rank 2", "above .5 / .75 / .9",
        ".75, of the seeds", ".75, whole form", ".75: rotated / shuffled / untrained",
        "loss recovered, rank 2 / whole",
    )  # fmt: skip
    return f"{table(beside, CONTROLS)}\n\n{table(rows, header)}"


def random_layer(d: int, n_feature: int, n_token: int, k: int) -> tuple[Any, list[Observed]]:
    """Forms and tokens of a large layer, with nothing to find: for time and memory alone."""
    draw = torch.Generator().manual_seed(0)
    chunks = []
    for first in range(0, n_token, 2**14):
        n = min(2**14, n_token - first)
        x = torch.randn(n, d, generator=draw)
        active = torch.randint(0, n_feature, (n, k), generator=draw).sort(1).values
        code = Code.of_equal_rows(active, torch.rand(n, k, generator=draw) + 0.1, n_feature)
        chunks.append(Observed(x, code, torch.arange(first, first + n) // 40))

    def forms(block: range) -> Forms:
        matrices = torch.randn(len(block), d, d, generator=draw)
        return Forms.of_matrices((matrices + matrices.mT) / 2, list(block))

    return forms, chunks


def cost(n_block: int = 128) -> str:
    """One block of 4096 features at width 512; the whole is that many blocks."""
    make, tokens = random_layer(512, 4096, 40_000, 32)
    totals, taken = totals_of(tokens), {}

    def block() -> object:
        start = time.perf_counter()
        forms = replace(make(range(n_block)), whole=lambda x: x[:, :n_block])
        taken["eigenpairs"] = time.perf_counter() - start
        start = time.perf_counter()
        sums = active_sums(forms, tokens, Resampling(200))
        taken["active tokens, 200 replicates"] = time.perf_counter() - start
        start = time.perf_counter()
        found = on_all(forms, tokens, totals, sums[0])
        taken["all tokens"] = time.perf_counter() - start
        return found

    more = extra_memory(block)
    whole = sum(taken.values()) * 4096 / n_block
    rows = [(name, f"{seconds:.1f} s") for name, seconds in taken.items()]
    rows.append((f"4096 features: {4096 // n_block} such blocks", f"{whole:.0f} s"))
    rows.append(("memory of a block, above the tokens", f"{more / 2**20:.0f} MiB"))
    said = f"{n_block} of 4096 features, width 512, 32 active on each of 40,000 tokens, 64 ranks"
    return table(rows, (said, "measured"))


def run(device: str, n_seeds: int = 3) -> str:
    """Shares, controls and losses by width and reader; then what a large dictionary costs."""
    shares = widths(device, n_seeds)
    return f"{machine()}, seeds 0 to {n_seeds - 1}.\n\n{shares}\n\n{cost()}"
