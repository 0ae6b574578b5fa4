"""What features share: the small spaces that some of them lie in, and directions that vary alike.

A pair of features can only be called special against features of its own kind. Where eighty
features lie in eight dimensions, any form in those dimensions gives large weights to many of their
pairs, and none of these pairs is special. So features are turned only among their like: those of a
*shared space* within it, and in each space only those directions into each other along which the
features are about equally large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float, Int
from scipy import sparse, special
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from circuits.algebra.directions import ROWS

_EVEN = 1.3  # directions turn into each other if their sizes differ by at most this factor
_UNEVEN = 3.0  # or by this one, where there would be fewer than
_NARROW = 10
_FEWEST = 12  # features in a shared space: a few near-copies are none
_INSIDE = 0.9  # of what its features have in a shared space, others with so much belong to it
_SMALL = 0.75  # a shared space has at most this share of all dimensions


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
        blocks, broad = _blocks(sizes), _blocks(sizes, _UNEVEN)
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

    ``white`` are the features in whitened coordinates. Features are joined where their cosine is
    larger than any of so many random ones would be; what is joined is a shared space if it has
    fewer dimensions than features, and fewer than the whole.
    """
    n, rank = white.shape
    spaces = torch.zeros(n, dtype=torch.int64, device=white.device)
    if rank < 3:
        return spaces
    unit = torch.nn.functional.normalize(white, dim=1).float()
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
    found = torch.from_numpy(part).long().to(white.device)
    counts, names = torch.bincount(found), count(1)
    for name in (counts >= _FEWEST).nonzero()[:, 0].tolist():
        some = (found == name).nonzero()[:, 0]
        gram = white[some].mT @ white[some]
        dimensions = float(gram.trace() ** 2 / gram.square().sum().clamp(min=1e-300))
        if 1.5 * dimensions <= len(some) and dimensions <= _SMALL * rank:
            axes = torch.linalg.eigh(gram).eigenvectors[:, -math.ceil(dimensions) :]
            inside = (white @ axes).square().sum(1) / white.square().sum(1).clamp(min=1e-300)
            belongs = (inside >= _INSIDE * inside[some].median()) & (spaces == 0)
            belongs[some] = True
            spaces[belongs] = next(names)
    return spaces


def chance(n: int) -> float:
    """About the largest of so many normal values."""
    return math.sqrt(2 * math.log(max(n, 2)))
