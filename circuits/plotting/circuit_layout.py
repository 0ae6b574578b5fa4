"""Where the parts of a circuit's picture stand: groups of input features, gates, output features.

From left to right, as it computes: input features in a circle for each group, the gates that pairs
of groups form, and the output features that are written. Nothing is random, so the same circuit
gives the same picture. Distance means nothing; only membership of a group and the edges do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

_RADIUS = 17.0  # of a feature's node
_APART = 76.0  # between neighbouring nodes of a group, captions included
_BETWEEN = 52.0  # groups
_LETTER = 8.2  # of a group's name
_MARGIN = 64.0
_MOST_NODES = 120  # features that are drawn, those of the strongest pairs first


@dataclass(frozen=True)
class Node:
    """An input feature, and the number of its group."""

    feature: int
    label: str
    group: int


@dataclass(frozen=True)
class Edge:
    """A pair of features."""

    first: int
    second: int
    strength: float  # its width, and by its sign its colour
    text: str  # shown where it is pointed at


@dataclass(frozen=True)
class Junction:
    """A gate of two groups."""

    gate: str
    first: int
    second: int
    value: float
    share: float


@dataclass(frozen=True)
class Target:
    """An output feature."""

    feature: int
    label: str
    effect: float | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Drawing:
    """The parts of a circuit that are drawn."""

    name: str
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    gates: Sequence[Junction]
    outputs: Sequence[Target]
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
    pairs = _drawn_pairs(drawing.edges)
    members = _members(drawing, pairs)
    spots = _groups(
        {group: len(of) for group, of in members.items()},
        {group: min(len(drawing.groups[group]), 30) * _LETTER / 2 for group in members},
    )
    right = max((s.x + s.radius for s in spots.values()), default=0.0)
    bottom = max((s.y + s.radius for s in spots.values()), default=0.0) + _MARGIN
    gates = sorted(
        (gate for gate in drawing.gates if {gate.first, gate.second} <= set(spots)),
        key=lambda gate: spots[gate.first].y + spots[gate.second].y,  # so that few wires cross
    )
    height = max(bottom, 96.0 * len(gates) + 60, 58.0 * len(drawing.outputs) + 60, 300.0)
    spots = {g: _Spot(s.x, s.y + (height - bottom) / 2, s.radius) for g, s in spots.items()}
    labels = {node.feature: node.label for node in drawing.nodes}
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
            {"pair": n, "first": edge.first, "second": edge.second, "strength": edge.strength}
            for n in pairs
            for edge in [drawing.edges[n]]
        ],
        "gates": _column(gates, right + 130, height),
        "outputs": _column(drawing.outputs, right + 310, height),
    }


def _drawn_pairs(edges: Sequence[Edge]) -> list[int]:
    """Places of the pairs that are drawn: the strongest, as long as their features fit."""
    chosen: list[int] = []
    features: set[int] = set()
    for place in sorted(range(len(edges)), key=lambda n: -abs(edges[n].strength)):
        wider = features | {edges[place].first, edges[place].second}
        if len(wider) <= _MOST_NODES:
            features = wider
            chosen.append(place)
    return chosen


def _members(drawing: Drawing, pairs: list[int]) -> dict[int, list[int]]:
    """The features of some pairs by group."""
    used = {end for n in pairs for end in (drawing.edges[n].first, drawing.edges[n].second)}
    members: dict[int, list[int]] = {}
    for node in drawing.nodes:
        if node.feature in used:
            members.setdefault(node.group, []).append(node.feature)
    return dict(sorted(members.items()))


def _column(parts: Sequence[Junction | Target], x: float, height: float) -> list[dict[str, Any]]:
    """Gates or outputs, one below the other."""
    return [
        {**asdict(part), "place": n, "x": x, "y": height * (n + 0.5) / len(parts)}
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
