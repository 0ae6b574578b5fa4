"""Where the parts of a circuit's picture stand: groups of input features, gates, output features.

From left to right, as it computes: input features in a circle for each group, the gates that pairs
of groups form, and the output features that are written. All places are worked out here, without
dice, so that the same circuit gives the same picture. What a reader would get wrong: distance means
nothing; only membership of a group and the edges do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from circuits.graph.circuit import Circuit, Gate, Output

RADIUS = 17.0
"""Of a feature's node."""

_APART = 76.0  # between neighbouring nodes of a group, captions included
_BETWEEN = 52.0  # groups
_LETTER = 8.2  # of a group's name
_MARGIN = 64.0
_MOST_NODES = 120  # features that are drawn, those of the strongest pairs first


@dataclass(frozen=True)
class Spot:
    """A place in the picture."""

    x: float
    y: float
    radius: float = 0.0


def drawn_pairs(circuit: Circuit) -> list[int]:
    """Places of the pairs that are drawn: the strongest, as long as their features fit."""
    order = sorted(
        range(len(circuit.interactions)),
        key=lambda n: -abs(strength(circuit, n)),
    )
    chosen: list[int] = []
    features: set[int] = set()
    for place in order:
        pair = circuit.interactions[place]
        wider = features | {pair.first, pair.second}
        if len(wider) <= _MOST_NODES:
            features = wider
            chosen.append(place)
    return chosen


def strength(circuit: Circuit, place: int) -> float:
    """What a pair's edge is drawn by: its contrast where there is a behaviour, else its weight."""
    pair = circuit.interactions[place]
    return pair.weight if pair.contrast is None else pair.contrast


def picture(circuit: Circuit) -> dict[str, Any]:
    """Everything that is drawn, with its place."""
    pairs = drawn_pairs(circuit)
    members = _members(circuit, pairs)
    spots = _groups(
        {group: len(of) for group, of in members.items()},
        {group: min(len(circuit.group_name(group)), 30) * _LETTER / 2 for group in members},
    )
    right = max((s.x + s.radius for s in spots.values()), default=0.0)
    bottom = max((s.y + s.radius for s in spots.values()), default=0.0) + _MARGIN
    gates = sorted(
        (gate for gate in circuit.gates if {gate.first, gate.second} <= set(spots)),
        key=lambda gate: spots[gate.first].y + spots[gate.second].y,  # so that few wires cross
    )
    height = max(bottom, 96.0 * len(gates) + 60, 58.0 * len(circuit.outputs) + 60, 300.0)
    spots = {g: Spot(s.x, s.y + (height - bottom) / 2, s.radius) for g, s in spots.items()}
    labels = {f.feature: f.label for f in circuit.features}
    return {
        "width": right + 460,
        "height": height,
        "groups": [
            {"group": group, "name": circuit.group_name(group), **asdict(spot)}
            for group, spot in spots.items()
        ],
        "nodes": [
            {"feature": feature, "group": group, "label": labels[feature], **asdict(spot)}
            for group, of in members.items()
            for feature, spot in _inside(of, spots[group])
        ],
        "edges": [
            {"pair": n, "first": one, "second": two, "strength": strength(circuit, n)}
            for n in pairs
            for one, two in [_ends(circuit, n)]
        ],
        "gates": _gates(gates, right + 130, height),
        "outputs": _outputs(circuit.outputs, right + 310, height),
    }


def _members(circuit: Circuit, pairs: list[int]) -> dict[int, list[int]]:
    """The features of some pairs by group."""
    used = {end for n in pairs for end in _ends(circuit, n)}
    members: dict[int, list[int]] = {}
    for feature in circuit.features:
        if feature.feature in used:
            members.setdefault(feature.group, []).append(feature.feature)
    return dict(sorted(members.items()))


def _gates(gates: list[Gate], x: float, height: float) -> list[dict[str, Any]]:
    return [
        {
            "gate": gate.gate,
            "first": gate.first,
            "second": gate.second,
            "value": gate.weight if gate.contrast is None else gate.contrast,
            "share": gate.share,
            "place": n,
            "x": x,
            "y": _column(n, len(gates), height),
        }
        for n, gate in enumerate(gates)
    ]


def _outputs(outputs: Sequence[Output], x: float, height: float) -> list[dict[str, Any]]:
    return [
        {**asdict(output), "x": x, "y": _column(n, len(outputs), height)}
        for n, output in enumerate(outputs)
    ]


def _ends(circuit: Circuit, place: int) -> tuple[int, int]:
    pair = circuit.interactions[place]
    return pair.first, pair.second


def _column(place: int, of: int, height: float) -> float:
    return height * (place + 0.5) / max(of, 1)


def _size(n: int) -> float:
    """Of the circle that holds so many nodes."""
    if n == 1:
        return RADIUS + 22
    if n <= 7:
        return _APART / (2 * math.sin(math.pi / n)) + RADIUS + 16
    return _APART / 2 * math.sqrt(n) + RADIUS + 16


def _groups(sizes: dict[int, int], half_names: dict[int, float]) -> dict[int, Spot]:
    """One circle for each group, on a circle of circles that do not touch, nor do their names."""
    radii = {group: _size(n) for group, n in sizes.items()}
    n = len(radii)
    if n == 0:
        return {}
    if n == 1:
        ((group, radius),) = radii.items()
        return {group: Spot(max(radius, half_names[group]) + _MARGIN, radius + _MARGIN, radius)}
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
    return {g: Spot(x - left, y - top, radii[g]) for g, (x, y) in raw.items()}


def _inside(features: list[int], circle: Spot) -> list[tuple[int, Spot]]:
    """The nodes of a group: a ring of a few, a sunflower's seeds of many."""
    n, found = len(features), []
    for place, feature in enumerate(features):
        if n == 1:
            radius, angle = 0.0, 0.0
        elif n <= 7:
            # the first at the top: captions of two, one below the other, do not meet
            radius, angle = circle.radius - RADIUS - 16, 2 * math.pi * (place / n - 1 / 4)
        else:
            radius = (circle.radius - RADIUS - 16) * math.sqrt((place + 0.5) / n)
            angle = place * math.pi * (3 - math.sqrt(5))
        x, y = circle.x + radius * math.cos(angle), circle.y + radius * math.sin(angle)
        found.append((feature, Spot(x, y, RADIUS)))
    return found
