"""Figures as plain values: what plotly draws, the table that was drawn, and what it is a figure of.

A figure is plotly's own JSON, so ``plotly.graph_objects.Figure(figure.drawn)`` shows it in Jupyter
and the report draws it with plotly's JavaScript. What a reader would get wrong: it names no
background and no colour of text; those are the page's, light or dark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.lowrank.curve import CONTROLS, RankCurve
from analysis.report.text import two

BLUE, ORANGE, GREY, GREEN = "#4c8dff", "#f07f3c", "#8b93a1", "#2fa36b"
"""For what is positive or the thing itself, negative, controls, and what has a meaning."""

DIVERGING = [[0.0, ORANGE], [0.5, "rgba(128,128,128,0.06)"], [1.0, BLUE]]
"""Negative, nothing, positive."""

_DASHES = dict(zip(CONTROLS, ("dot", "dash", "dashdot"), strict=True))


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of a page."""

    key: str  # names it on its page
    title: str
    note: str  # n, seed, and what it must not be taken for
    traces: list[dict[str, Any]]
    table: pd.DataFrame  # its data, as they are given away
    layout: dict[str, Any] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, Any]:
        """What plotly takes."""
        return {"data": self.traces, "layout": {"height": 360, **self.layout}}


def line(x: Any, y: Any, name: str, **style: Any) -> dict[str, Any]:
    """A line of a figure."""
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name, **style}


def points(x: Any, y: Any, name: str, text: Any = None, **style: Any) -> dict[str, Any]:
    """Points of a figure; what they are is said where one is pointed at."""
    trace = {"type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "name": name}
    if text is not None:
        trace |= {
            "text": list(text),
            "hovertemplate": "%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
        }
    return trace | style


def counts(values: Any, edges: Any, name: str, **style: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """A histogram as steps of equal area, so that samples of unequal size can be compared."""
    found = np.asarray([v for v in values if v is not None and np.isfinite(v)], dtype=float)
    held, bins = np.histogram(found, edges)
    share = held / max(len(found), 1)
    middle = (bins[:-1] + bins[1:]) / 2
    table = pd.DataFrame({"of": name, "from": bins[:-1], "to": bins[1:], "n": held, "share": share})
    trace = line(middle, share, f"{name} (n = {len(found):,})", line={"shape": "hvh", **style})
    return trace, table


def heat_map(
    matrix: np.ndarray, labels: list[str], numbers: list[int], groups: list[int], note: str
) -> Figure:
    """The matrix among some features, ordered by group, with lines between groups."""
    most = float(np.abs(matrix).max(initial=0)) or 1.0
    places = list(range(len(labels)))
    trace = {
        "type": "heatmap", "z": matrix.tolist(), "x": places, "y": places, "zmin": -most,
        "zmax": most, "colorscale": DIVERGING, "colorbar": {"title": {"text": "weight"}},
        "text": [[f"{a} × {b}" for b in labels] for a in labels],
        "hovertemplate": "%{text}<br>%{z:.4g}<extra></extra>",
    }  # fmt: skip
    ends = [i - 0.5 for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    low, high = -0.5, len(labels) - 0.5
    lines = [{"type": "line", "x0": e, "x1": e, "y0": low, "y1": high} for e in ends]
    lines += [{"type": "line", "y0": e, "y1": e, "x0": low, "x1": high} for e in ends]
    for each in lines:
        each["line"] = {"color": GREY, "width": 1}
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": labels, "showgrid": False}
    table = pd.DataFrame(
        [(a, b, matrix[i, j]) for i, a in enumerate(labels) for j, b in enumerate(labels)],
        columns=["first", "second", "weight"],
    )
    layout = {"height": 150 + 26 * max(len(labels), 8), "shapes": lines,
              "xaxis": {**ticks, "ticktext": [str(number) for number in numbers]},
              "yaxis": {**ticks, "autorange": "reversed"}}  # fmt: skip
    return Figure("matrix", "Interaction matrix, ordered by group", note, [trace], table, layout)


def eigenvalues(table: pd.DataFrame, note: str) -> Figure:
    """Both ends of a spectrum, beside that of random directions."""
    colours = [BLUE if value > 0 else ORANGE for value in table["eigenvalue"]]
    traces = [
        line(table["place"], table["random direction"], "random directions, mean",
             mode="lines+markers", marker={"size": 4}, line={"color": GREY, "dash": "dot"}),
        points(table["place"], table["eigenvalue"], "this form",
               marker={"size": 8, "color": colours}),
    ]  # fmt: skip
    layout = {"xaxis": {"title": {"text": "place, from the largest"}},
              "yaxis": {"title": {"text": "eigenvalue"}}}  # fmt: skip
    return Figure("spectrum", "Eigenvalues of the form", note, traces, table, layout)


def projections(table: pd.DataFrame, note: str) -> Figure:
    """Features and meaningful directions on the top positive and negative eigenvectors."""
    styles: dict[str, dict[str, Any]] = {
        "beside it": {"marker": {"color": GREY, "size": 6, "opacity": 0.7}},
        "in the circuit": {"marker": {"color": BLUE, "size": 11}},
        "direction": {"mode": "markers+text", "textposition": "top center",
                      "marker": {"color": GREEN, "size": 12, "symbol": "star-diamond"}},
    }  # fmt: skip
    names = {"beside it": "interact, not in the circuit", "direction": "meaningful directions"}
    traces = [
        points(rows["positive"], rows["negative"], names.get(kind, kind), rows["name"], **style)
        for kind, style in styles.items()
        if len(rows := table[table["kind"] == kind])
    ]
    axis = {"range": [-1.05, 1.05], "zeroline": True}
    layout = {
        "height": 480,
        "xaxis": {**axis, "title": {"text": "cosine with the top positive eigenvector"}},
        "yaxis": {**axis, "title": {"text": "cosine with the top negative eigenvector"}},
    }
    return Figure("projections", "Features on the top eigenvectors", note, traces, table, layout)


def approximation(key: str, name: str, found: dict[str, Any], note: str) -> Figure:
    """An activation against its approximations; one rank is shown at a time."""
    table, ranks = found["points"], [row["rank"] for row in found["ranks"]]
    most = float(table["activation"].max())
    same = line([0, most], [0, most], "equal", line={"color": GREY, "dash": "dot"})
    traces = [same]
    start = 1 if len(ranks) > 1 else 0
    for place, row in enumerate(found["ranks"]):
        r, control = (two(row[key]) or "none" for key in ("correlation", "random directions"))
        label = f"rank {row['rank']}: r = {r} (random directions {control})"
        visible = True if place == start else "legendonly"
        traces.append(
            points(table[f"rank {row['rank']}"], table["activation"], label, visible=visible,
                   marker={"color": BLUE, "size": 6, "opacity": 0.6})
        )  # fmt: skip
    layout = {
        "height": 420,
        "xaxis": {"title": {"text": "made of so many eigenvectors"}},
        "yaxis": {"title": {"text": "activation"}},
    }
    return Figure(key, f"{name}: activation against its approximation", note, traces, table, layout)


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
