"""The pairs whose entry of ``features form featuresᵀ`` reaches a high bar, exactly.

Few do. So what all pairs are multiplied out for is only the part along the first eigenvectors, in
the screen's precision. The rest of an entry is bounded: ``|Σ λ x y| ≤ t(x) t(y)`` with
``t(x)² = Σ |λ| x²``. The pairs that may reach the bar then are computed in full.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.algebra.pair_search import (
    ROWS,
    Factors,
    decays,
    eigenvectors,
    largest_of,
    power_of_two,
    row_maxima,
    strip_maxima,
    tiles,
)

_UNEVEN, _FAR = 1.2, 4.0  # the rest of an entry over its mean; deviations that few entries reach


def reaching(
    features: Float[Tensor, "feature input"],
    form: Float[Tensor, "input input"],
    bar: float,
    spare: Float[Tensor, " feature"] | None = None,
) -> Iterator[Int[Tensor, "pair two"]]:
    """The pairs of different features whose entry of ``features form featuresᵀ`` is ``bar`` or
    more, and those that the form's own precision cannot separate from them, a few at a time. With
    ``spare``, all pairs whose entry and ``spare[i] spare[j]`` together are.
    """
    scale = power_of_two(form)
    form, bar = form / scale, bar / scale
    spare = features.new_zeros(len(features)) if spare is None else spare / scale**0.5
    factors, rest = _leading(features, form, bar, spare)
    yield from _reaching_in_tiles(features, form, bar, bar, spare, factors, rest)


def reaching_by_change(
    features: Float[Tensor, "feature input"],
    form: Float[Tensor, "input input"],
    bar: float,
    change: Float[Tensor, "input input"],
    least: float,
) -> Iterator[Int[Tensor, "pair two"]]:
    """The pairs that reach ``bar`` in the form: all of those whose entry of ``change`` is ``least``
    or more: of a change along few directions, most tiles hold none."""
    values, vectors = eigenvectors(change)
    reach = (features @ (vectors * values.abs().sqrt())).norm(dim=1)
    order = reach.argsort(descending=True, stable=True)
    reach, right = reach[order], features[order]
    lost = 16 * len(form) ** 0.5 * torch.finfo(form.dtype).eps
    arithmetic = lost * float(right.norm(dim=1).max() ** 2 * (form.norm() + change.norm()))
    # one object for both would say that the two factors are equal up to signs
    factors = Factors(right @ form, right, order, reach, reach.clone(), arithmetic, 1.0)
    none = torch.zeros_like(reach)
    yield from _reaching_in_tiles(features, form, bar, least, none, factors, none)


def _leading(
    features: Tensor, form: Tensor, bar: float, spare: Float[Tensor, " feature"]
) -> tuple[Factors, Float[Tensor, " in"]]:
    """The part of the entries along as few eigenvectors as leave few pairs that may reach the bar,
    and for each feature how much of the rest it may have, and of what is spare."""
    values, vectors = eigenvectors(form)
    strongest = values.abs().argsort(descending=True)
    values, vectors = values[strongest], vectors[:, strongest]
    whole = features @ (vectors * values.abs().sqrt())
    squares = whole.square()
    mean = squares.mean(0).double()
    rest = mean.sum() - mean.cumsum(0) + spare.square().mean()
    # of random features, entries so far out are one in ten thousand
    enough = bar - _UNEVEN * rest >= _FAR * mean.square().cumsum(0).sqrt()
    n = int(enough.int().argmax()) + 1 if enough.any() else len(values)
    n = min(-(-n // 8) * 8, len(values))
    own = (squares[:, n:].sum(1) + spare.square()).sqrt()
    reach = (squares.sum(1) + spare.square()).sqrt()
    order = (reach if decays(form) else own).argsort(descending=True, stable=True)
    right, reach = whole[order, :n], reach[order]
    lost = 16 * len(form) ** 0.5 * torch.finfo(form.dtype).eps
    arithmetic = lost * float(features.norm(dim=1).max() ** 2 * values.abs().max())
    left = right * values[:n].sign()
    return Factors(left, right, order, reach, reach, arithmetic, 1.0), own[order]


def _reaching_in_tiles(
    features: Tensor,
    form: Tensor,
    bar: float,
    least: float,
    spare: Float[Tensor, " feature"],
    factors: Factors,
    rest: Float[Tensor, " in"],
) -> Iterator[Int[Tensor, "pair two"]]:
    """Of tiles whose bound is ``least`` or more: the pairs that reach the bar, if the rest of an
    entry is as large as it may be and then in full."""

    def in_full(first: Tensor, second: Tensor) -> Int[Tensor, "pair two"]:
        pairs = factors.order[torch.stack([first, second], dim=1)[first < second]]
        one, two = pairs.unbind(1)
        entries = ((features[one] @ form) * features[two]).sum(1).abs()
        reached = entries + spare[one] * spare[two] + factors.arithmetic >= bar
        return pairs[reached].sort(dim=1).values

    most, waiting, n_waiting = strip_maxima(rest), list[tuple[Tensor, Tensor]](), 0
    for rows, columns in tiles(len(features)):
        if factors.bound(rows, columns) < least:
            continue
        tile, absolute, share = factors.screened(rows, columns)
        at_most = absolute + rest[rows] * largest_of(most, columns)
        passing = (bar * (1 - 1e-6) - at_most) / (1 + share)
        near = (row_maxima(tile.abs_()) >= passing).nonzero()[:, 0]
        if len(near):
            row, column = (tile[near] >= passing[near, None]).nonzero().unbind(1)
            waiting.append((near[row] + rows.start, column + columns.start))
            n_waiting += len(row)
        if n_waiting > ROWS:
            yield in_full(*map(torch.cat, zip(*waiting, strict=True)))
            waiting, n_waiting = [], 0
    if waiting:
        yield in_full(*map(torch.cat, zip(*waiting, strict=True)))
