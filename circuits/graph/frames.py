"""What features share: the small spaces that some of them lie in, and directions that vary alike.

A pair of features can only be called special against features of its own kind. Where eighty
features lie in eight dimensions, any form in those dimensions gives large weights to many of their
pairs, and none of these pairs is special. So only similar features are rotated into each other:
those of a *shared space* within it, and in each space only directions along which the features are
about equally large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float, Int
from scipy import sparse, special
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from circuits.algebra.pair_search import ROWS

_EVEN = 1.3  # directions turn into each other if their sizes differ by at most this factor
_UNEVEN = 2.0  # or by this one, where there would be fewer than
_NARROW = 10
_BROAD = 3.0  # and by this one where noise is measured
_FEWEST = 12  # features in a shared space: a few near-copies are none
_INSIDE = 0.9  # of what its features have in a shared space, others with so much belong to it
_OWN = 0.7  # and of these themselves
_DROP = 2.0  # an eigenvalue is this much larger than the next where a space ends
_SMALL = 0.75  # a shared space has at most this share of all dimensions
_SAMPLE = 1024  # features whose squared cosines are looked at, at most
_BEYOND = 1.25  # an eigenvalue is this much beyond the edge of random ones to split features
_SETTLING = 5  # rounds in which features choose where they belong


@dataclass(frozen=True, eq=False)
class Frame:
    """Some features in coordinates in which they turn: ``rows = turned * sizes @ axes``."""

    place: Int[Tensor, " feature"]  # of each feature among them, or −1
    turned: Float[Tensor, "some rank"]  # orthonormal columns
    sizes: Float[Tensor, " rank"]
    axes: Float[Tensor, "rank model"]  # orthonormal rows
    blocks: list[slice]  # directions of about one size
    broad: list[slice]  # the same with less care, in which noise is measured

    @classmethod
    def of(
        cls,
        features: Int[Tensor, " some"],
        n_feature: int,
        turned: Float[Tensor, "some rank"],
        sizes: Float[Tensor, " rank"],
        axes: Float[Tensor, "rank model"],
    ) -> Frame:
        """Of what an SVD gives, largest size first."""
        place = torch.full((n_feature,), -1, device=features.device)
        place[features] = torch.arange(len(features), device=features.device)
        rank = int((sizes > 1e-7 * sizes[:1]).sum())
        sizes = sizes[:rank]
        blocks, broad = _blocks(sizes), _blocks(sizes, _BROAD)
        return cls(place, turned[:, :rank], sizes, axes[:rank], blocks, broad)


def _blocks(sizes: Float[Tensor, " rank"], even: float = _EVEN) -> list[slice]:
    """Directions of about one size, of sizes that fall."""
    blocks, start, n = [], 0, len(sizes)
    for end in range(1, n + 1):
        ratio = float(sizes[start] / sizes[end]) if end < n else math.inf
        few = end - start < _NARROW or (n - end < _NARROW and sizes[start] <= _UNEVEN * sizes[-1])
        if ratio > (_UNEVEN if few else even):
            blocks.append(slice(start, end))
            start = end
    return blocks


def turning(sizes: Float[Tensor, " rank"]) -> Int[Tensor, " some"]:
    """The directions that can turn into others: those of blocks of three and more."""
    order = sizes.argsort(descending=True, stable=True)
    wide = [order[block] for block in _blocks(sizes[order]) if block.stop - block.start >= 3]
    return torch.cat(wide).sort().values if wide else order[:0]


def frames(
    white: Float[Tensor, "feature rank"],
    sizes: Float[Tensor, " rank"],
    spaces: Int[Tensor, " feature"],
) -> list[Frame]:
    """Of the rows ``white * sizes``: a frame for each shared space. Space 0 is that of all
    features, also of those that have their own."""
    order = sizes.argsort(descending=True, stable=True)
    axes = torch.eye(len(sizes)).to(white)[order]
    everything = torch.arange(len(white), device=white.device)
    found = [Frame.of(everything, len(white), white[:, order], sizes[order], axes)]
    for name in range(1, int(spaces.max()) + 1 if len(spaces) else 1):
        own = (spaces == name).nonzero()[:, 0]
        parts = torch.linalg.svd(white[own] * sizes, full_matrices=False)
        found.append(Frame.of(own, len(white), *parts))
    return found


def shared_spaces(white: Float[Tensor, "feature rank"]) -> Int[Tensor, " feature"]:
    """The shared space of each feature, numbered from 1; 0 where it has none.

    ``white`` are the features in whitened coordinates. Squared cosines that split them in two show
    spaces of many features; those of few are seen from cosines larger than any of so many random
    ones would be. What is found is a shared space if it has fewer dimensions than features, and
    fewer than the whole.
    """
    n, rank = white.shape
    spaces = torch.zeros(n, dtype=torch.int64, device=white.device)
    if rank < 3:
        return spaces
    unit = torch.nn.functional.normalize(white, dim=1)
    names = count(1)
    for some in [*_split(unit, torch.arange(n, device=white.device)), *_joined(unit.float())]:
        if not bool(spaces[some].any()):
            _settle(unit, some, spaces, names)
    return spaces


def _settle(
    unit: Float[Tensor, "feature rank"],
    some: Int[Tensor, " some"],
    spaces: Int[Tensor, " feature"],
    names: Iterator[int],
) -> None:
    """Give these features, and others that lie with them, a space of their own if it is small."""
    for _ in range(_SETTLING):
        if len(some) < _FEWEST:
            return
        values, vectors = torch.linalg.eigh(unit[some].mT @ unit[some])
        n_axes = _n_axes(values.flip(0), len(some))
        if n_axes is None:
            return
        inside = (unit @ vectors[:, -n_axes:]).square().sum(1)
        needed = torch.full_like(inside, _INSIDE)
        needed[some] = _OWN
        before = some
        some = ((inside >= needed * inside[some].median()) & (spaces == 0)).nonzero()[:, 0]
        if torch.equal(some, before):
            break
    if len(some) >= _FEWEST:
        spaces[some] = next(names)


def _n_axes(values: Float[Tensor, " rank"], n: int) -> int | None:
    """The dimensions of a shared space, from falling eigenvalues: up to where they drop most, or
    else about as many as hold these features; None if they are too many for a space of its own."""
    most = int(_SMALL * len(values))
    drops = values[1:most] / values[2 : most + 1].clamp(min=1e-9 * float(values[0]))
    if len(drops) and float(drops.max()) > _DROP:
        dimensions = float(drops.argmax()) + 2
    else:
        dimensions = _dimensions(values.sum(), values.square().sum())
    small = 1.5 * dimensions <= n and dimensions <= most
    return math.ceil(dimensions) if small else None


def _dimensions(total: Float[Tensor, ""], squares: Float[Tensor, ""]) -> float:
    """How many equal eigenvalues would have this sum and this sum of squares."""
    return float(total**2 / squares.clamp(min=1e-300))


def _joined(unit: Float[Tensor, "feature rank"]) -> Iterator[Int[Tensor, " some"]]:
    """Features joined by a cosine that is larger than any of so many random ones would be."""
    n, rank = unit.shape
    t = float(special.stdtrit(max(rank - 1, 1), 1 - 1 / (n * (n + 1))))
    large = t / math.sqrt(rank - 1 + t**2)
    joined = [
        (unit[start : start + ROWS] @ unit.mT).abs_().gt(large).nonzero()
        + torch.tensor([start, 0], device=unit.device)
        for start in range(0, n, ROWS)
    ]
    first, second = torch.cat(joined).cpu().unbind(1)
    ones = torch.ones(len(first)).numpy()
    links = sparse.coo_matrix((ones, (first.numpy(), second.numpy())), shape=(n, n))
    _, part = connected_components(links, directed=False)
    found = torch.from_numpy(part).long().to(unit.device)
    for name in (torch.bincount(found) >= _FEWEST).nonzero()[:, 0].tolist():
        yield (found == name).nonzero()[:, 0]


def _split(
    unit: Float[Tensor, "feature rank"], some: Int[Tensor, " some"]
) -> Iterator[Int[Tensor, " some"]]:
    """The features in parts, each of which squared cosines do not split further.

    Of random directions the squared cosines, less their mean, have no eigenvalue beyond the edge of
    Marchenko and Pastur's law; halves that lie in different spaces give one.
    """
    if len(some) < 2 * _FEWEST:
        yield some
        return
    rows = unit[some]
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    sample = rows[drawn.to(rows.device)]
    squares = (sample @ sample.mT).square()
    squares = squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean()
    values, vectors = torch.linalg.eigh(squares)
    gram = rows.mT @ rows
    dimensions = _dimensions(gram.trace(), gram.square().sum())
    edge = (1 + math.sqrt(len(sample) / max(dimensions * (dimensions + 1) / 2 - 1, 1.0))) ** 2
    if float(values[-1]) <= _BEYOND * edge:
        yield some
        return
    side = vectors[:, -1] > 0
    forms = [sample[part].mT @ sample[part] / max(int(part.sum()), 1) for part in (side, ~side)]
    first = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(_SETTLING):  # each goes where its squared cosines are larger
        before = first
        first = ((rows @ (forms[0] - forms[1])) * rows).sum(1) > 0
        if not 0 < int(first.sum()) < len(rows):
            yield some
            return
        if bool((first == before).all()):
            break
        forms = [rows[part].mT @ rows[part] / int(part.sum()) for part in (first, ~first)]
    for part in (first, ~first):
        yield from _split(unit, some[part])


def chance(n: int) -> float:
    """About the largest of so many normal values."""
    return math.sqrt(2 * math.log(max(n, 2)))
