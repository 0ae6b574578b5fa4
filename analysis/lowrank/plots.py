"""Figure 9 of the paper from the tables of a rank curve; controls are drawn in grey."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.lowrank.loss import Replacement
from analysis.lowrank.sums import Control
from circuits.plotting.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Figure,
    axes,
    counts,
    line,
    points,
)

_DASHES = {
    Control.RANDOM: "solid",
    Control.TOKENS: "longdash",
    Control.ROTATED: "dot",
    Control.SHUFFLED: "dash",
    Control.UNTRAINED: "dashdot",
}
_CORRELATION = "correlation on active tokens, rank {}"


def by_rank(mean: pd.DataFrame, note: str) -> Figure:
    """Mean correlation by rank, on active and on all tokens, beside the controls."""
    band = {"x": [*mean.index, *mean.index[::-1]], "y": [*mean["high"], *mean["low"][::-1]]}
    traces = [
        {"type": "scatter", **band, "mode": "lines", "fill": "toself", "line": {"width": 0},
         "fillcolor": "rgba(76,141,255,0.2)", "hoverinfo": "skip",
         "name": "95 %, features resampled"},
        *(line(mean.index, mean[f"mean_{name}"], name.value, line={"color": GREY, "dash": dash})
          for name, dash in _DASHES.items()),
        line(mean.index, mean["mean_all"], "all tokens", line={"color": GREEN, "dash": "dash"}),
        line(mean.index, mean["mean"], "active tokens", line={"color": BLUE, "width": 3}),
    ]  # fmt: skip
    layout = axes("eigenvectors", "mean correlation", xaxis={"type": "log"})
    return Figure("by-rank", "Correlation by rank", note, traces, mean.reset_index(), layout)


def thresholds(shares: pd.DataFrame, rank: int, note: str) -> Figure:
    """The share of features above every correlation."""
    traces = [
        *(line(shares.index, shares[name], name.value, line={"color": GREY, "dash": dash})
          for name, dash in _DASHES.items()),
        line(shares.index, shares["share"], "features", line={"color": BLUE, "width": 3}),
    ]  # fmt: skip
    title = f"Share above every threshold, rank {rank}"
    layout = axes(_CORRELATION.format(rank), "share of features above it")
    return Figure("thresholds", title, note, traces, shares.reset_index(), layout)


def distribution(
    own: pd.Series, controls: Mapping[Control, pd.Series], rank: int, note: str
) -> Figure:
    """How correlations are distributed over features at one rank."""
    edges = np.linspace(-1, 1, 41)
    made = [
        counts(controls[control], edges, control.value, color=GREY, dash=dash)
        for control, dash in _DASHES.items()
    ]
    made.append(counts(own, edges, "features", color=BLUE, width=3))
    table = pd.concat([table for _, table in made], ignore_index=True)
    title = f"Distribution over features, rank {rank}"
    layout = axes(_CORRELATION.format(rank), "share of features")
    return Figure("distribution", title, note, [trace for trace, _ in made], table, layout)


def scatter_by(rows: pd.DataFrame, rank: int, column: str, label: str, note: str) -> Figure:
    """Each feature's correlation against another of its columns."""
    table = rows[["feature", column, "correlation"]].reset_index(drop=True)
    names = [f"feature {feature}" for feature in table["feature"]]
    traces = [points(table[column], table["correlation"], "features", names,
                     marker={"color": BLUE, "size": 6, "opacity": 0.6})]  # fmt: skip
    scale = "log" if column == "n_active" else "linear"
    layout = axes(label, f"correlation, rank {rank}", xaxis={"type": scale})
    title = f"Correlation at rank {rank} against {label}"
    return Figure(f"by-{column}", title, note, traces, table, layout)


def losses(loss: pd.DataFrame, note: str) -> Figure:
    """What truncation costs the model, between the dictionary's own loss and zero ablation."""
    rows = loss.set_index("replaced_by")
    baselines = (Replacement.CLEAN, Replacement.ZERO, Replacement.SAE)
    ranks = [name for name in rows.index if name not in baselines]
    styles = {
        "rotated": ("random directions", {"color": GREY, "dash": "dot"}),
        "chosen": ("only values approximated", {"color": BLUE, "dash": "dash"}),
        "loss": ("chosen among approximations", {"color": BLUE, "width": 3}),
    }
    traces = [line(ranks, rows.loc[ranks, column], name, line=style)
              for column, (name, style) in styles.items()]  # fmt: skip
    for name, dash in ((Replacement.ZERO, "dot"), (Replacement.SAE, "dash")):
        level = [float(rows.loc[name, "loss"])] * len(ranks)
        style = {"color": ORANGE, "dash": dash}
        traces.append(line(ranks, level, f"{name} in its place", line=style))
    layout = {"yaxis": {"title": {"text": "loss, nats a token"}}}
    return Figure("losses", "Loss with every feature truncated", note, traces, loss, layout)
