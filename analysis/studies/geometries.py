"""Dictionaries of different shapes, because trained ones are not spread evenly.

Features that crowd into a few dimensions, share a direction or vary more along some directions than
along others have large interactions without any gate. Each shape here can be planted with gates, or
with forms that respect the shape and hold no pairs at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.directions import random_orthonormal
from circuits.graph.significance import RotationNull

_Random = torch.Generator
_Rows = Float[Tensor, "feature model"]


def _falling(n: int, d: int, random: _Random) -> _Rows:
    return _even(n, d, random) * torch.arange(1, d + 1).double() ** -0.25


def _steep(n: int, d: int, random: _Random) -> _Rows:
    return _even(n, d, random) * torch.arange(1, d + 1).double() ** -0.5


def _common(n: int, d: int, random: _Random) -> _Rows:
    shared = torch.nn.functional.normalize(_even(1, d, random), dim=1)
    return _even(n, d, random) / d**0.5 + shared


def _low(n: int, d: int, random: _Random) -> _Rows:
    rows = torch.zeros(n, d, dtype=torch.float64)
    rows[:, : max(d // 4, 1)] = _even(n, max(d // 4, 1), random)
    return rows


def _floor(n: int, d: int, random: _Random) -> _Rows:
    return _low(n, d, random) + 0.1 * _even(n, d, random)


def _clusters(n: int, d: int, random: _Random) -> _Rows:
    sizes = torch.arange(1, d + 1).double() ** -0.25
    sizes = sizes[torch.randperm(d, generator=random)]
    space, width = torch.arange(n) % 8, max(d // 8, 1)
    inside = torch.arange(d) // width == space[:, None]
    return _even(n, d, random) * inside * sizes


def _crowd(n: int, d: int, random: _Random) -> _Rows:
    rows = _even(n, d, random)
    rows[: int(0.15 * n), max(d // 8, 1) :] = 0
    return rows


def _halves(n: int, d: int, random: _Random) -> _Rows:
    inside = torch.arange(d) % 2 == torch.arange(n)[:, None] % 2
    return _even(n, d, random) * inside


def _even(n: int, d: int, random: _Random) -> _Rows:
    return torch.randn(n, d, dtype=torch.float64, generator=random)


GEOMETRIES: dict[str, Callable[[int, int, _Random], _Rows]] = {
    "even": _even,
    "falling": _falling,
    "steep": _steep,
    "common direction": _common,
    "low rank": _low,
    "low rank, floor": _floor,
    "clusters": _clusters,
    "crowd": _crowd,
    "halves": _halves,
}
"""Directions at random; variances that fall as 1/√k or 1/k; a direction that all share, as large as
the rest of each; a quarter of the dimensions, alone or with a tenth of it in all; eight spaces of
an eighth of the dimensions; 15 % of the features in one such space; two spaces of a half each."""


def directions(geometry: str, n: int, d: int, random: _Random) -> _Rows:
    """Unit directions of this shape, turned at random."""
    rows = GEOMETRIES[geometry](n, d, random)
    if geometry != "even":
        rows = rows @ random_orthonormal(d, d, random)
    return rows / rows.norm(dim=1, keepdim=True)


def without_pairs(null: RotationNull, random: _Random) -> Float[Tensor, "model model"]:
    """A form of norm 1 with no pairs in it, in a space that the features share (the eight leading
    directions, where they share none): half of it at random, half one product of two directions."""
    n_space = int(null.spaces.max()) if len(null.spaces) else 0
    if n_space:
        name = 1 + int(torch.randint(n_space, (1,), generator=random))
        inside = null.white[null.spaces == name] * null.sizes @ null.directions
        _, sizes, axes = torch.linalg.svd(inside, full_matrices=False)
        axes = axes[sizes > 1e-3 * sizes[0]]
    else:
        axes = null.directions[:8]
    spread = _even(len(axes), len(axes), random)
    one, two = _even(2, len(axes), random)
    form = torch.zeros(len(null.directions.mT), len(null.directions.mT), dtype=torch.float64)
    for part in (spread + spread.mT, torch.outer(one, two) + torch.outer(two, one)):
        whole = axes.mT @ part @ axes
        form += whole / whole.norm()
    return form / form.norm()
