"""Figures that only a circuit's page has: features on eigenvectors, activations approximated."""

from __future__ import annotations

from typing import Any

import pandas as pd

from circuits.figures import BLUE, GREEN, GREY, Figure, line, points
from circuits.text import two


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
