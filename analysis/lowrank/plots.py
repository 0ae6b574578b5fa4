"""Figure 9 of the paper for a `RankCurve`: every picture has its controls, in grey."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.lowrank.curve import CONTROLS, RankCurve
from circuits.plotting.figure import BLUE, GREEN, GREY, ORANGE, Figure, counts, line, points

_DASHES = dict(zip(CONTROLS, ("dot", "dash", "dashdot"), strict=True))


def figures(curve: RankCurve, rank: int) -> list[Figure]:
    """Correlation by rank; at one rank its distribution, the share above every threshold, and what
    it goes with; the loss."""
    about = curve.about
    note = (
        f"{about['site']}, features read by {about['reader']}: n = {len(curve.compared(rank))} "
        f"features active on {about['min_active']} or more of {about['n_token']:,} tokens, seed "
        f"{about['seed']}. "
    )
    chance = (
        "Controls: the same eigenvalues along random directions (rotated), another feature's "
        "form (shuffled), a model that learnt nothing (untrained)."
    )
    return [
        by_rank(curve, note + chance),
        distribution(curve, rank, note + chance),
        thresholds(curve, rank, note + chance),
        scatter_by(curve, rank, "n_active", "tokens it is active on", note),
        scatter_by(curve, rank, "effective_rank", "effective rank of its form", note),
        losses(curve, f"{about['n_loss_documents']} documents, seed {about['seed']}."),
    ]


def by_rank(curve: RankCurve, note: str) -> Figure:
    """Mean correlation by rank, on active and on all tokens, beside the controls."""
    mean = curve.mean
    band = {"x": [*mean.index, *mean.index[::-1]], "y": [*mean["high"], *mean["low"][::-1]]}
    traces = [
        {"type": "scatter", **band, "mode": "lines", "fill": "toself", "line": {"width": 0},
         "fillcolor": "rgba(76,141,255,0.2)", "hoverinfo": "skip",
         "name": "95 %, features resampled"},
        *(line(mean.index, mean[f"mean_{name}"], name, line={"color": GREY, "dash": _DASHES[name]})
          for name in CONTROLS),
        line(mean.index, mean["mean_all"], "all tokens", line={"color": GREEN, "dash": "dash"}),
        line(mean.index, mean["mean"], "active tokens", line={"color": BLUE, "width": 3}),
    ]  # fmt: skip
    layout = {"xaxis": {"type": "log", "title": {"text": "eigenvectors"}},
              "yaxis": {"title": {"text": "mean correlation"}}}  # fmt: skip
    return Figure("by-rank", "Correlation by rank", note, traces, mean.reset_index(), layout)


def thresholds(curve: RankCurve, rank: int, note: str) -> Figure:
    """The share of features above every correlation."""
    shares = curve.thresholds(rank)
    traces = [
        *(line(shares.index, shares[name], name, line={"color": GREY, "dash": _DASHES[name]})
          for name in CONTROLS),
        line(shares.index, shares["share"], "features", line={"color": BLUE, "width": 3}),
    ]  # fmt: skip
    layout = {"xaxis": {"title": {"text": f"correlation on active tokens, rank {rank}"}},
              "yaxis": {"title": {"text": "share of features above it"}}}  # fmt: skip
    title = f"Share above every threshold, rank {rank}"
    return Figure("thresholds", title, note, traces, shares.reset_index(), layout)


def distribution(curve: RankCurve, rank: int, note: str) -> Figure:
    """How correlations are spread over features at a rank."""
    edges, made = np.linspace(-1, 1, 41), []
    for name in CONTROLS:
        found = curve.compared(rank, f"correlation_{name}")
        made.append(counts(found, edges, name, color=GREY, dash=_DASHES[name]))
    made.append(counts(curve.compared(rank), edges, "features", color=BLUE, width=3))
    layout = {"xaxis": {"title": {"text": f"correlation on active tokens, rank {rank}"}},
              "yaxis": {"title": {"text": "share of features"}}}  # fmt: skip
    table = pd.concat([table for _, table in made], ignore_index=True)
    title = f"Distribution over features, rank {rank}"
    return Figure("distribution", title, note, [trace for trace, _ in made], table, layout)


def scatter_by(curve: RankCurve, rank: int, column: str, label: str, note: str) -> Figure:
    """Each feature's correlation against something else that is known of it."""
    rows = curve.at(rank)
    rows = rows[rows["n_active"] >= curve.about["min_active"]].dropna(subset=["correlation"])
    table = rows[["feature", column, "correlation"]].reset_index(drop=True)
    names = [f"feature {feature}" for feature in table["feature"]]
    traces = [points(table[column], table["correlation"], "features", names,
                     marker={"color": BLUE, "size": 6, "opacity": 0.6})]  # fmt: skip
    scale = "log" if column == "n_active" else "linear"
    layout = {"xaxis": {"type": scale, "title": {"text": label}},
              "yaxis": {"title": {"text": f"correlation, rank {rank}"}}}  # fmt: skip
    title = f"Correlation at rank {rank} against {label}"
    return Figure(f"by-{column}", title, note, traces, table, layout)


def losses(curve: RankCurve, note: str) -> Figure:
    """What truncation costs the model, between the dictionary's own loss and a zero."""
    loss = curve.loss.set_index("replaced_by")
    ranks = [name for name in loss.index if "rank" in name]
    styles = {
        "rotated": ("random directions", {"color": GREY, "dash": "dot"}),
        "chosen": ("only values approximated", {"color": BLUE, "dash": "dash"}),
        "loss": ("chosen among approximations", {"color": BLUE, "width": 3}),
    }
    traces = [line(ranks, loss.loc[ranks, column], name, line=style)
              for column, (name, style) in styles.items()]  # fmt: skip
    for name, dash in (("zero", "dot"), ("sae", "dash")):
        level = [float(loss.loc[name, "loss"])] * len(ranks)
        traces.append(
            line(ranks, level, f"{name} in its place", line={"color": ORANGE, "dash": dash})
        )
    layout = {"yaxis": {"title": {"text": "loss, nats a token"}}}
    return Figure("losses", "Loss with every feature truncated", note, traces, curve.loss, layout)
