"""A circuit as a picture: input features in a circle for each group, the gates that pairs of groups
form, and the output features that are written.

Blue adds to the answers (or, in a circuit without a behaviour, to the output), orange subtracts,
and width is strength; distance means nothing. Nothing is random. The report draws the same places
(`picture`) as Jupyter (`circuit_figure`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from circuits.graph.records import Feature, Gate, Interaction, Output
from circuits.plotting.display import cut, number, shown
from circuits.plotting.figure import BLUE, GREEN, GREY, ORANGE, Figure, points

_THIN, _THICK = 1.5, 9.0
_LETTER = 7  # pixels of one, in the margin where outputs are named
_RADIUS = 17.0  # of a feature's node
_APART = 76.0  # between neighbouring nodes of a group, captions included
_BETWEEN = 52.0  # groups
_WIDE_LETTER = 8.2  # of a group's name
_MARGIN = 64.0
_MOST_NODES = 120  # features that are drawn, those of the strongest pairs first


@dataclass(frozen=True, eq=False)
class Drawing:
    """The parts of a circuit that are drawn."""

    name: str
    features: Sequence[Feature]
    interactions: Sequence[Interaction]
    gates: Sequence[Gate]
    outputs: Sequence[Output]
    groups: Mapping[int, str]  # names
    notes: tuple[str, str] = ("", "")  # sentences after the counts of pairs, and at the end
    table: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the pairs


@dataclass(frozen=True)
class _Spot:
    x: float
    y: float
    radius: float = 0.0


def picture(drawing: Drawing) -> dict[str, Any]:
    """Everything that is drawn, with its place."""
    pairs = _drawn_pairs(drawing.interactions)
    members = _members(drawing, pairs)
    spots = _groups(
        {group: len(of) for group, of in members.items()},
        {group: min(len(drawing.groups[group]), 30) * _WIDE_LETTER / 2 for group in members},
    )
    right = max((s.x + s.radius for s in spots.values()), default=0.0)
    bottom = max((s.y + s.radius for s in spots.values()), default=0.0) + _MARGIN
    gates = sorted(
        (gate for gate in drawing.gates if {gate.first, gate.second} <= set(spots)),
        key=lambda gate: spots[gate.first].y + spots[gate.second].y,  # so that few wires cross
    )
    height = max(bottom, 96.0 * len(gates) + 60, 58.0 * len(drawing.outputs) + 60, 300.0)
    spots = {g: _Spot(s.x, s.y + (height - bottom) / 2, s.radius) for g, s in spots.items()}
    labels = {feature.feature: feature.label for feature in drawing.features}
    joined = [
        dict(gate=g.gate, first=g.first, second=g.second, value=g.strength, share=g.share)
        for g in gates
    ]
    return {
        "width": right + 460,
        "height": height,
        "groups": [
            {"group": group, "name": drawing.groups[group], **asdict(spot)}
            for group, spot in spots.items()
        ],
        "nodes": [
            {"feature": feature, "group": group, "label": labels[feature], **asdict(spot)}
            for group, of in members.items()
            for feature, spot in _inside(of, spots[group])
        ],
        "edges": [
            {"pair": n, "first": pair.first, "second": pair.second, "strength": pair.strength}
            for n in pairs
            for pair in [drawing.interactions[n]]
        ],
        "gates": _column(joined, right + 130, height),
        "outputs": _column([asdict(output) for output in drawing.outputs], right + 310, height),
    }


def _drawn_pairs(pairs: Sequence[Interaction]) -> list[int]:
    """Places of the pairs that are drawn: the strongest, as long as their features fit."""
    chosen: list[int] = []
    features: set[int] = set()
    for place in sorted(range(len(pairs)), key=lambda n: -abs(pairs[n].strength)):
        wider = features | {pairs[place].first, pairs[place].second}
        if len(wider) <= _MOST_NODES:
            features = wider
            chosen.append(place)
    return chosen


def _members(drawing: Drawing, pairs: list[int]) -> dict[int, list[int]]:
    """The features of some pairs by group."""
    drawn = [drawing.interactions[n] for n in pairs]
    used = {end for pair in drawn for end in (pair.first, pair.second)}
    members: dict[int, list[int]] = {}
    for feature in drawing.features:
        if feature.feature in used:
            members.setdefault(feature.group, []).append(feature.feature)
    return dict(sorted(members.items()))


def _column(parts: list[dict[str, Any]], x: float, height: float) -> list[dict[str, Any]]:
    """Gates or outputs, one below the other."""
    return [
        {**part, "place": n, "x": x, "y": height * (n + 0.5) / len(parts)}
        for n, part in enumerate(parts)
    ]


def _size(n: int) -> float:
    """Of the circle that holds so many nodes."""
    if n == 1:
        return _RADIUS + 22
    if n <= 7:
        return _APART / (2 * math.sin(math.pi / n)) + _RADIUS + 16
    return _APART / 2 * math.sqrt(n) + _RADIUS + 16


def _groups(sizes: dict[int, int], half_names: dict[int, float]) -> dict[int, _Spot]:
    """One circle for each group, on a circle of circles that do not touch, nor do their names."""
    radii = {group: _size(n) for group, n in sizes.items()}
    n = len(radii)
    if n == 0:
        return {}
    if n == 1:
        ((group, radius),) = radii.items()
        return {group: _Spot(max(radius, half_names[group]) + _MARGIN, radius + _MARGIN, radius)}
    names = list(radii)
    reach = {group: max(radii[group], 0.8 * half_names[group]) for group in names}
    neighbours = zip(names, names[1:] + names[:1], strict=True)
    apart = max(reach[a] + reach[b] + _BETWEEN for a, b in neighbours)
    wide = apart / (2 * math.sin(math.pi / n))
    raw = {}
    for place, group in enumerate(names):
        angle = 2 * math.pi * place / n - math.pi / 2
        raw[group] = (wide * math.cos(angle), wide * math.sin(angle))
    left = min(x - max(radii[g], half_names[g]) for g, (x, _) in raw.items()) - _MARGIN / 2
    top = min(y - radii[g] for g, (_, y) in raw.items()) - _MARGIN
    return {g: _Spot(x - left, y - top, radii[g]) for g, (x, y) in raw.items()}


def _inside(features: list[int], circle: _Spot) -> list[tuple[int, _Spot]]:
    """The nodes of a group: a ring of a few, a sunflower's seeds of many."""
    n, found = len(features), []
    for place, feature in enumerate(features):
        if n == 1:
            radius, angle = 0.0, 0.0
        elif n <= 7:
            # the first at the top: captions of two, one below the other, do not meet
            radius, angle = circle.radius - _RADIUS - 16, 2 * math.pi * (place / n - 1 / 4)
        else:
            radius = (circle.radius - _RADIUS - 16) * math.sqrt((place + 0.5) / n)
            angle = place * math.pi * (3 - math.sqrt(5))
        x, y = circle.x + radius * math.cos(angle), circle.y + radius * math.sin(angle)
        found.append((feature, _Spot(x, y, _RADIUS)))
    return found


def circuit_figure(drawing: Drawing) -> Figure:
    """Groups from the left, then gates, then outputs; a pair's numbers stand at its edge."""
    drawn = picture(drawing)
    spots = {node["feature"]: node for node in drawn["nodes"]}
    traces = [*_edge_lines(drawing, drawn["edges"], spots), _node_points(drawn["nodes"])]
    if drawn["gates"]:
        traces = [_wires(drawn), *traces, _gate_points(drawn)]
    traces.append(_output_points(drawn["outputs"]))
    named = max(len(cut(shown(output["label"]))) for output in drawn["outputs"])
    layout = {
        "height": max(drawn["height"], 320), "showlegend": False, "hovermode": "closest",
        "margin": {"r": _LETTER * named}, "plot_bgcolor": "rgba(0,0,0,0)",
        "shapes": [_circle(group) for group in drawn["groups"]],
        "annotations": [_name(group) for group in drawn["groups"]],
        "xaxis": {"visible": False, "range": [0, drawn["outputs"][0]["x"] + 20]},
        "yaxis": {"visible": False, "range": [drawn["height"], 0], "scaleanchor": "x"},
    }  # fmt: skip
    return Figure("circuit", f"Circuit {shown(drawing.name)}", _note(drawing, len(drawn["edges"])),
                  traces, drawing.table, layout)  # fmt: skip


def _note(drawing: Drawing, n_drawn: int) -> str:
    n = len(drawing.interactions)
    counts = f"{n} pair{'s' * (n != 1)} of {len(drawing.features)} features"
    if n_drawn < n:
        counts += f", the {n_drawn} strongest drawn"
    first, last = drawing.notes
    colours = "Blue adds, orange subtracts, width is strength; positions mean nothing."
    return f"{counts}{first}. {colours}{last}"


def _edge_lines(
    drawing: Drawing, edges: list[dict[str, Any]], spots: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    most = max((abs(edge["strength"]) for edge in edges), default=0.0) or 1.0
    made, middles = [], []
    for edge in edges:
        start, end = spots[edge["first"]], spots[edge["second"]]
        if start is end:  # a feature with itself: a loop above it
            turn = np.linspace(0, 2 * np.pi, 25)
            x = start["x"] + 13 * np.sin(turn)
            y = start["y"] - start["radius"] - 9 + 13 * np.cos(turn)
            middles.append((x[12], y[12]))
        else:
            x, y = np.array([start["x"], end["x"]]), np.array([start["y"], end["y"]])
            middles.append((x.mean(), y.mean()))
        width = _THIN + (_THICK - _THIN) * abs(edge["strength"]) / most
        colour = BLUE if edge["strength"] > 0 else ORANGE
        made.append(
            {"type": "scatter", "mode": "lines", "x": x.tolist(), "y": y.tolist(), "name": "",
             "line": {"width": width, "color": colour}, "opacity": 0.75, "hoverinfo": "skip"}
        )  # fmt: skip
    at = [x for x, _ in middles], [y for _, y in middles]
    texts = [_numbers_of(drawing.interactions[edge["pair"]]) for edge in edges]
    held = points(*at, "pairs", texts,
                  hovertemplate="%{text}<extra></extra>",
                  marker={"size": 16, "opacity": 0})  # fmt: skip
    return [*made, held]


def _numbers_of(pair: Interaction) -> str:
    """A pair's numbers, those that are known and not zero."""
    named = {
        "weight": pair.weight, "z": pair.z, "q": pair.q, "contrast": pair.contrast,
        "elsewhere": pair.elsewhere, "data weight": pair.data_weight,
    }  # fmt: skip
    numbers = ", ".join(f"{name} {number(value)}" for name, value in named.items() if value)
    return f"feature {pair.first} × feature {pair.second}: {numbers}"


def _node_points(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return points(
        [node["x"] for node in nodes], [node["y"] for node in nodes], "features",
        [str(node["feature"]) for node in nodes], mode="markers+text",
        marker={"size": 34, "color": "#ffffff", "line": {"width": 2, "color": GREY}},
        textfont={"size": 11, "color": "#222222"},
        hovertext=[shown(node["label"]) for node in nodes],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _gate_points(drawn: dict[str, Any]) -> dict[str, Any]:
    names = {group["group"]: shown(group["name"]) for group in drawn["groups"]}
    gates = drawn["gates"]
    return points(
        [gate["x"] for gate in gates], [gate["y"] for gate in gates], "gates",
        [f"{gate['gate']} {gate['value']:+.3g}".replace("-", "−") for gate in gates],
        mode="markers+text", textposition="bottom center",
        marker={"size": 26, "symbol": "diamond", "line": {"width": 1, "color": GREY},
                "color": [BLUE if gate["value"] > 0 else ORANGE for gate in gates]},
        hovertext=[f"{names[g['first']]} {g['gate']} {names[g['second']]}: {number(g['value'])}, "
                   f"{g['share']:.0%} of all" for g in gates],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _output_points(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return points(
        [output["x"] for output in outputs], [output["y"] for output in outputs], "outputs",
        [cut(shown(output["label"])) for output in outputs], mode="markers+text",
        textposition="middle right", cliponaxis=False,
        marker={"size": 24, "symbol": "square", "color": GREEN},
        hovertext=[f"{shown(o['label'])}: effect on the answers {number(o['effect'])}"
                   if o["effect"] is not None else shown(o["label"]) for o in outputs],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _wires(drawn: dict[str, Any]) -> dict[str, Any]:
    """From both groups to each gate; and as every gate writes to every output, by one rail."""
    groups = {group["group"]: group for group in drawn["groups"]}
    gates, outputs = drawn["gates"], drawn["outputs"]
    rail = (gates[0]["x"] + outputs[0]["x"]) / 2
    lines = [
        ((end["x"] + end["radius"], end["y"]), (gate["x"], gate["y"]))
        for gate in gates
        for end in (groups[number] for number in dict.fromkeys((gate["first"], gate["second"])))
    ]
    lines += [((part["x"], part["y"]), (rail, part["y"])) for part in [*gates, *outputs]]
    heights = [part["y"] for part in [*gates, *outputs]]
    lines.append(((rail, min(heights)), (rail, max(heights))))
    x = [at for start, end in lines for at in (start[0], end[0], None)]
    y = [at for start, end in lines for at in (start[1], end[1], None)]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "", "hoverinfo": "skip",
            "line": {"width": 1, "color": GREY, "dash": "dot"}}  # fmt: skip


def _circle(group: dict[str, Any]) -> dict[str, Any]:
    x, y, r = group["x"], group["y"], group["radius"]
    return {"type": "circle", "x0": x - r, "x1": x + r, "y0": y - r, "y1": y + r, "layer": "below",
            "line": {"color": GREY, "width": 1}, "fillcolor": "rgba(128,128,128,0.10)"}  # fmt: skip


def _name(group: dict[str, Any]) -> dict[str, Any]:
    return {"x": group["x"], "y": group["y"] - group["radius"] - 14, "showarrow": False,
            "bgcolor": "rgba(255,255,255,0.6)", "text": cut(shown(group["name"]))}  # fmt: skip
