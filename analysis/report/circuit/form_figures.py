"""Figures that only a circuit's page has: features on eigenvectors, activations approximated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from circuits.plotting.display import two
from circuits.plotting.figure import BLUE, GREEN, GREY, Figure, line, points

_NEAR = 0.15  # of two cosines whose names would meet


def projections(table: pd.DataFrame, note: str) -> Figure:
    """Features and meaningful directions on the top positive and negative eigenvectors."""
    styles: dict[str, dict[str, Any]] = {
        "beside it": {"marker": {"color": GREY, "size": 6, "opacity": 0.7}},
        "in the circuit": {"mode": "markers+text", "textposition": "middle right",
                           "texttemplate": "%{customdata}",
                           "marker": {"color": BLUE, "size": 11}},
        "direction": {"mode": "markers+text", "textposition": _apart(table),
                      "marker": {"color": GREEN, "size": 12, "symbol": "star-diamond"}},
    }  # fmt: skip
    names = {"beside it": "interact, not in the circuit", "direction": "meaningful directions"}
    traces = [
        points(
            rows["positive"],
            rows["negative"],
            names.get(kind, kind),
            rows["name"],
            customdata=[None if pd.isna(f) else int(f) for f in rows["feature"]],
            **style,
        )
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


def _apart(table: pd.DataFrame) -> list[str]:
    """Where the name of each direction stands, above or below it, so that neighbours' do not meet:
    of directions from the top down, one that is near to the one before has its name below."""
    rows = table[table["kind"] == "direction"]
    places = {int(row): "top center" for row in rows.index}
    order = rows.sort_values("negative", ascending=False).index.tolist()
    for before, row in pairwise(order):
        near = abs(rows.loc[before, "negative"] - rows.loc[row, "negative"]) < _NEAR
        if near and places[before] == "top center":
            places[row] = "bottom center"
    return list(places.values())


def approximation(key: str, name: str, found: dict[str, Any], note: str) -> Figure:
    """An activation against its approximations; one rank is shown at a time."""
    table, ranks = found["points"], [row["rank"] for row in found["ranks"]]
    most = float(table["activation"].max())
    least = min(0.0, float(table["activation"].min()))
    same = line([least, most], [least, most], "equal", line={"color": GREY, "dash": "dot"})
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
        "xaxis": {"title": {"text": "made of so many eigenvectors (choose in the legend)"}},
        "yaxis": {"title": {"text": "activation"}},
    }
    return Figure(key, f"{name}: activation against its approximation", note, traces, table, layout)
