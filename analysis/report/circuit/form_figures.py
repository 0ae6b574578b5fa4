"""Figures of a circuit's form: its matrix, its eigenvalues, features on its top eigenvectors, and
activations against their approximations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.circuit.labels import Labels
from circuits.plotting.display import two
from circuits.plotting.figure import (
    BLUE,
    GREEN,
    GREY,
    Figure,
    axes,
    eigenvalues,
    heat_map,
    line,
    points,
)

_MOST_IN_MATRIX = 60  # features of a heat map
_NEAR = 0.15  # of two cosines whose names would overlap


def form_figures(
    form: CircuitForm, text: TextActivations | None, labels: Labels, seed: int
) -> list[Figure]:
    """All of them; approximations only where a text was read."""
    features = form.features[:_MOST_IN_MATRIX]
    n = len(features)
    group = {f.feature: f.group for f in form.found.circuit.features}
    some = "" if n == len(form.features) else f" (the first {n} of {len(form.features)})"
    made = [
        heat_map(
            form.matrix[:n, :n],
            [labels.name(f) for f in features],
            features,
            [group[f] for f in features],
            f"Weights among the circuit's {n} features{some}, layer {form.layer}. They were chosen "
            f"for their large weights, so a low-rank look of this matrix proves nothing.",
        ),
        eigenvalues(
            form.eigenvalues(seed),
            f"The whole form on the MLP's input, {len(form.spectrum)} eigenvalues. Dotted: mean "
            f"over 20 forms of random directions of equal length, seed {seed}.",
        ),
        _projections(
            form.projections(),
            f"Cosines in the space of the MLP's input: n = {n} features of the circuit, and up to "
            f"40 others that interact most. The sign of an eigenvector is arbitrary; here each "
            f"points to the circuit's features.",
        ),
    ]
    if text is not None:
        made += _approximations(form, text, labels, seed)
    return made


def _approximations(
    form: CircuitForm, text: TextActivations, labels: Labels, seed: int
) -> list[Figure]:
    made = []
    for output in form.outputs_shown():
        found = form.approximations(text, output, seed)
        if found is not None:
            note = (
                f"n = {found['n']:,} tokens of {text.n_documents} documents where it is active, "
                f"{len(found['points'])} of them drawn; nothing is refitted. Control: the same "
                f"eigenvalues along random directions, seed {seed}."
            )
            name = f"Output feature {output}"
            if caption := labels.output_caption(output):
                name += f", which promotes “{caption}”"
            made.append(_approximation(f"approximation-{output}", name, found, note))
    return made


def _projections(table: pd.DataFrame, note: str) -> Figure:
    """Features and meaningful directions on the top positive and negative eigenvectors."""
    styles: dict[str, dict[str, Any]] = {
        "other": {"marker": {"color": GREY, "size": 6, "opacity": 0.7}},
        "in the circuit": {"mode": "markers+text", "textposition": "middle right",
                           "texttemplate": "%{customdata}",
                           "marker": {"color": BLUE, "size": 11}},
        "direction": {"mode": "markers+text", "textposition": _apart(table),
                      "marker": {"color": GREEN, "size": 12, "symbol": "star-diamond"}},
    }  # fmt: skip
    names = {"other": "not in the circuit", "direction": "meaningful directions"}
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
    titles = [f"cosine with the top {sign} eigenvector" for sign in ("positive", "negative")]
    layout = axes(*titles, height=480, xaxis=axis, yaxis=axis)
    return Figure("projections", "Features on the top eigenvectors", note, traces, table, layout)


def _apart(table: pd.DataFrame) -> list[str]:
    """Where to put the name of each direction, so that names do not overlap: above it, or below
    it where the next direction above is near and has its name above."""
    rows = table[table["kind"] == "direction"]
    places = {int(row): "top center" for row in rows.index}
    order = rows.sort_values("negative", ascending=False).index.tolist()
    for before, row in pairwise(order):
        near = abs(rows.loc[before, "negative"] - rows.loc[row, "negative"]) < _NEAR
        if near and places[before] == "top center":
            places[row] = "bottom center"
    return list(places.values())


def _approximation(key: str, name: str, found: dict[str, Any], note: str) -> Figure:
    """An activation against its approximations; one rank is visible at first."""
    table, ranks = found["points"], [row["rank"] for row in found["ranks"]]
    most = float(table["activation"].max())
    least = min(0.0, float(table["activation"].min()))
    traces = [line([least, most], [least, most], "equal", line={"color": GREY, "dash": "dot"})]
    start = 1 if len(ranks) > 1 else 0
    for place, row in enumerate(found["ranks"]):
        r, control = (two(row[key]) or "none" for key in ("correlation", "random directions"))
        label = f"rank {row['rank']}: r = {r} (random directions {control})"
        visible = True if place == start else "legendonly"
        traces.append(
            points(table[f"rank {row['rank']}"], table["activation"], label, visible=visible,
                   marker={"color": BLUE, "size": 6, "opacity": 0.6})
        )  # fmt: skip
    layout = axes("approximation (choose the rank in the legend)", "activation", height=420)
    return Figure(key, f"{name}: activation against its approximation", note, traces, table, layout)
