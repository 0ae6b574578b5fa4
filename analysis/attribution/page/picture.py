"""Where the nodes of a trace stand in its picture: tokens from left to right, layers upwards.

Columns are as wide as what stands in them needs, so a text whose last token has most of the nodes
is still seen on one screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from circuits.plotting.display import cut

_WIDTH, _HEIGHT = 800.0, 500.0  # of the picture, which may be larger
_MARGIN, _GAP = 74.0, 3.0
_RADII = 3.0, 12.0  # of the smallest and the largest node
_LETTER, _PILL = 6.8, 26.0
_NARROW = 12.0  # column
_LABELS = {False: 26.0, True: 76.0}  # height of the tokens, if they are turned
_N_FLOW = 90  # edges that are drawn behind everything


def picture(
    nodes: pd.DataFrame, edges: pd.DataFrame, layers: pd.DataFrame, tokens: Sequence[str]
) -> dict[str, Any]:
    """The places of all marks in pixels; ``tokens`` as they are shown."""
    words = [cut(token) for token in tokens]
    inner = (nodes["kind"] != "logit").to_numpy()
    top = len(layers) + 1
    row = np.select([nodes["kind"] == "token", ~inner], [0, top], nodes["layer"] + 1)
    column = nodes["position"].to_numpy() + 1  # the constants stand before the text
    radii = _radii(nodes["influence"].to_numpy(), inner)
    cells: dict[tuple[int, int], list[int]] = {}
    for number in np.flatnonzero(inner).tolist():
        cells.setdefault((int(row[number]), int(column[number])), []).append(number)
    widths, turned = _widths(cells, radii, words)
    packed = {
        cell: _packed(radii[numbers].tolist(), widths[cell[1]] - _GAP)
        for cell, numbers in cells.items()
    }
    heights, middles = _rows(
        [[high for cell, (_, high) in packed.items() if cell[0] == n] for n in range(top + 1)],
        _HEIGHT - _LABELS[turned],
    )
    left = list(accumulate(widths, initial=_MARGIN))
    centres = [start + width / 2 for start, width in zip(left, widths, strict=False)]
    x, y = np.zeros(len(nodes)), np.full(len(nodes), middles[-1])
    for (level, at), numbers in cells.items():
        for number, (dx, dy) in zip(numbers, packed[level, at][0], strict=True):
            x[number], y[number] = centres[at] + dx, middles[level] + dy
    pills = _pills(nodes["label"][~inner].to_list(), centres[-1], left[-1])
    x[~inner] = [middle for middle, _ in pills]
    bottom = sum(heights)
    return {
        "width": left[-1],
        "height": bottom + _LABELS[turned],
        "turned": turned,
        "tokens": [
            {"x": at, "y": bottom + 10, "text": word}
            for at, word in zip(centres[1:], words, strict=True)
        ],
        "rows": [{"y": y, "height": h} for y, h in zip(middles, heights, strict=True)],
        "places": [{"x": x[i], "y": y[i], "r": radii[i]} for i in range(len(nodes))],
        "pills": [width for _, width in pills],
        "flow": _flow(nodes, edges),
    }


def _radii(influence: Float[np.ndarray, " node"], inner: Bool[np.ndarray, " node"]) -> np.ndarray:
    """Of each mark: a node's area grows with its influence."""
    most = max(influence[inner].max(initial=0), 1e-300)
    least, largest = _RADII
    return least + (largest - least) * np.sqrt(np.minimum(influence / most, 1))


def _rows(cells: Sequence[Sequence[float]], least: float) -> tuple[list[float], list[float]]:
    """The height and the middle of each row, from the heights of its cells; the lowest first."""
    heights = [max([30.0, *(16 + high for high in row)]) for row in cells]
    spare = max(least - sum(heights), 0) / len(heights)
    heights = [height + spare for height in heights]
    above = list(accumulate(reversed(heights)))[::-1]  # where each row ends, from the top
    return heights, [end - height / 2 for end, height in zip(above, heights, strict=True)]


def _widths(
    cells: Mapping[tuple[int, int], list[int]], radii: np.ndarray, words: Sequence[str]
) -> tuple[list[float], bool]:
    """Of each column, the constants' first; and whether tokens must be turned to fit."""
    needed = [0.0 if not any(at == 0 for _, at in cells) else 24.0, *(_NARROW for _ in words)]
    for (_, at), numbers in cells.items():
        sizes = 2 * radii[numbers] + _GAP
        needed[at] = max(
            needed[at], float(sizes.max()) + _GAP, float(np.sqrt((sizes**2).sum() * 1.5))
        )
    labelled = [
        needed[0],
        *(max(n, _LETTER * len(w) + 8) for n, w in zip(needed[1:], words, strict=True)),
    ]
    inside = _WIDTH - _MARGIN
    turned = sum(labelled) > inside
    chosen = needed if turned else labelled
    spare = max(inside - sum(chosen), 0) / sum(needed[1:])
    return [
        chosen[0],
        *(w + spare * n for w, n in zip(chosen[1:], needed[1:], strict=True)),
    ], turned


def _packed(radii: Sequence[float], width: float) -> tuple[list[tuple[float, float]], float]:
    """Circles in lines of a width, around the middle of a cell; the height of the cell."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for number, radius in enumerate(radii):
        if lines[-1] and used + 2 * radius > width:
            lines.append([])
            used = 0.0
        lines[-1].append(number)
        used += 2 * radius + _GAP
    heights = [2 * max(radii[number] for number in line) + _GAP for line in lines]
    places = [(0.0, 0.0)] * len(radii)
    top = -sum(heights) / 2
    for line, height in zip(lines, heights, strict=True):
        x = -(sum(2 * radii[number] + _GAP for number in line) - _GAP) / 2
        for number in line:
            places[number] = (x + radii[number], top + height / 2)
            x += 2 * radii[number] + _GAP
        top += height
    return places, sum(heights)


def _pills(labels: Sequence[str], middle: float, end: float) -> list[tuple[float, float]]:
    """The middle and width of each target's mark: around the last token, or left of the end."""
    widths = [_LETTER * len(cut(label)) + _PILL for label in labels]
    right = min(middle + (sum(widths) + 8 * (len(widths) - 1)) / 2, end - 2)
    places = []
    for width in reversed(widths):
        places.append((right - width / 2, width))
        right -= width + 8
    return places[::-1]


def _flow(nodes: pd.DataFrame, edges: pd.DataFrame) -> list[tuple[int, int, float]]:
    """The edges that carry most influence: source, reader, and how much they carry."""
    sizes = edges["value"].abs()
    shares = sizes / sizes.groupby(edges["node"]).transform("sum").clip(lower=1e-300)
    carried = shares * nodes["influence"].to_numpy()[edges["node"]]
    table = edges.assign(carried=carried)[edges["source"] >= 0]
    table = table.sort_values("carried", ascending=False, kind="stable").head(_N_FLOW)
    return list(zip(table["source"], table["node"], table["carried"], strict=True))
