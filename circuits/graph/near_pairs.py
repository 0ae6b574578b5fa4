"""Pairs whose entries of a form come near to what stands out, searched once for all that follows.

Most forms have no gate. To see that took a product of all pairs for each kind of atoms, and another
for each residual after a fit. But written directions and readers are mostly much alike, and a fit
of a few pairs changes few entries by much. So all pairs that come near the bar for either kind are
found in one search. A later residual can reach the bar only there, or where the fit changed it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.algebra.reaching import reaching, reaching_by_change
from circuits.graph.frames import chance
from circuits.graph.significance import RotationNull

_LOWER = 0.9  # of the bar: a lower one answers for more residuals, and lets more pairs pass
_MANY = 512  # near pairs: with more, the strongest are searched for
_ALIKE = 0.15  # of the bar: written directions and readers that differ by less are searched at once


def lowest_entry(noise: float, n_pairs: int) -> float:
    """What a pair's entry of the residual must reach to stand out: of features at a right angle;
    of others it is more."""
    return chance(n_pairs) * noise * (1 - 1e-5) / math.sqrt(2)


@dataclass(frozen=True)
class Near:
    """All pairs whose entry of the form may be ``bar`` or more for either kind of atoms."""

    pairs: Int[Tensor, "pair two"]
    bar: float


def near_pairs(null: RotationNull, form: Tensor) -> Near | None:
    """For both kinds of atoms in one search, where these are so alike that it is no longer than
    one; nothing where they are not, or where many pairs stand out.

    With readers ``κ D a`` of written ``a``, entries are ``a·F a'`` and ``κκ' a·DFD a'``: those of
    the mean of the two forms, up to half their difference ``E`` and ``|a·E a'| ≤ e e'``.
    """
    written, readers = null.written, null.readers
    if len(written.blocks) != 1 or len(readers.blocks) != 1 or not len(written.directions):
        return None
    if not torch.equal(written.directions, readers.directions):
        return None
    inside = written.inside(null.inside(form))
    n_numbers = len(inside) * (len(inside) + 1) // 2
    bar = _LOWER * lowest_entry(float(inside.norm()) / math.sqrt(n_numbers), null.n_pairs)
    rows, turn = null.between
    other = turn[:, None] * inside * turn
    values, vectors = torch.linalg.eigh((inside - other) / 2)
    spare = (rows @ (vectors * values.abs().sqrt()).to(rows)).norm(dim=1)
    if not bar > 0 or float(spare.square().mean()) > _ALIKE * bar:
        return None
    pairs = torch.zeros(0, 2, dtype=torch.int64, device=form.device)
    for some in reaching(rows, ((inside + other) / 2).to(rows), bar, spare):
        pairs = torch.cat([pairs, some])
        if len(pairs) > _MANY:
            return None
    return Near(pairs, bar)


def pairs_reaching(
    near: Near | None,
    unit: Float[Tensor, "feature rank"],
    left: Float[Tensor, "rank rank"],
    bar: float,
    change: Float[Tensor, "rank rank"],
) -> Iterator[Int[Tensor, "pair two"]]:
    """The pairs whose entry of a residual is ``bar`` or more, a few at a time: those near in the
    form itself, and those that the fit has changed enough."""
    if near is None or near.bar > bar:
        yield from reaching(unit, left, bar)
        return
    one, two = unit[near.pairs[:, 0]], unit[near.pairs[:, 1]]
    known = near.pairs[((one @ left) * two).sum(1).abs() >= bar * (1 - 1e-5)]
    yield known
    if bool(change.any()):
        for pairs in reaching_by_change(unit, left, bar, change, bar - near.bar):
            seen = (pairs[:, None] == known).all(2).any(1)
            yield pairs[~seen]
