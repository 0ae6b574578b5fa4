"""The strongest entries of ``write form writeᵀ``, exactly, without that matrix.

Tiles of it are multiplied, searched and dropped. Four things make this fast:

1. *Reach.* With the form's eigenpairs, ``|xᵀQy| ≤ s(x) s(y)`` where ``s(x)² = xᵀ|Q|x``. Features
   are sorted by ``s``; a tile whose bound is below the n-th best pair so far is not multiplied.
   A form whose eigenvalues do not decay is not decomposed, since its bounds skip nothing.
2. *Screen.* Where bfloat16 products are fast, tiles are multiplied in it. The error of an entry is
   bounded by what rounding took from each row, so no entry that may belong is missed. Of a tile
   only the rows are looked at whose largest entry may belong; soon there are few.
3. *Score.* Entries that pass are computed again in float64 from the features and the form, so the
   result does not depend on tiles, screen and decomposition.
4. The constant feature, one row that is often much larger than all others, is scored separately,
   so that it does not widen the error bounds of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ArgumentError, largest

ROWS, COLUMNS = 512, 1024
"""Of a tile: it stays in cache between its product and its search, and no scratch has more rows."""

PENDING = 2**17
"""Pairs that may wait for their score: this bounds the memory."""


# the output, first, second and weight of pairs
_Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
# the first and second of pairs by their place in an output's factors, and bounds of |weight|
_Seen = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass
class Search:
    """The ``n`` strongest pairs over all the outputs that are given to ``look``."""

    features: Float[Tensor, "feature model"]
    constant: Float[Tensor, " input"] | None  # what the constant feature writes, if there is one
    n: int

    def __post_init__(self) -> None:
        self.visited = self.tiles = 0
        self._tiles_each = sum(1 for _ in tiles(len(self.features)))
        index: np.ndarray = np.empty(0, dtype=np.int64)
        self._found: _Found = (index, index, index, np.empty(0))
        self._floor = -math.inf  # the n-th best pair is at least this strong

    def look(
        self, output: int, form: Callable[[], Float[Tensor, "input input"]], ceiling: float
    ) -> None:
        """Search one output; ``ceiling`` bounds its weights, and a low one lets it be skipped."""
        self.tiles += self._tiles_each
        if ceiling < self._floor:
            return
        given = form()
        if self.constant is not None:
            self._keep(_constant_pairs(output, self.features, self.constant, given))
        given = given[: self.features.shape[1], : self.features.shape[1]]
        factors = Factors.of(self.features, given)
        seen, fresh = _nothing_seen(given), 0
        for rows, columns in tiles(len(self.features)):
            if 2 * factors.bound(rows, columns) >= self._floor:
                self.visited += 1
                new = self._search_tile(factors, rows, columns)
                fresh += len(new[0])
                if len(new[0]):
                    seen = _joined(seen, new)
            if fresh > self.n:  # often enough for a high floor, rarely enough to cost little
                seen, fresh = self._may_belong(seen), 0
                if len(seen[0]) > PENDING + 4 * self.n:
                    self._score(output, factors, given, seen)
                    seen = _nothing_seen(given)
        self._score(output, factors, given, self._may_belong(seen))

    def table(self) -> pd.DataFrame:
        """The pairs found, strongest first, ties by index."""
        names = ("output", "first", "second", "weight")
        return pd.DataFrame(dict(zip(names, self._found, strict=True)))

    def _search_tile(self, factors: Factors, rows: slice, columns: slice) -> _Seen:
        """The pairs of a tile that may be among the best, and how strong they can be."""
        tile, absolute, share = factors.screened(rows, columns)
        tile.abs_()
        slack = 2 * absolute
        on_diagonal = columns.start == rows.start
        if self._floor == -math.inf and tile.numel() >= self.n:
            weights = weights_of_rows(
                tile, torch.arange(len(tile), device=tile.device), on_diagonal
            )
            best = float(weights.flatten().topk(self.n).values[-1])
            if best >= 0:  # else some of them were masked
                self._floor = (best * (1 - share) - slack) * factors.scale
        passing = max((self._floor / factors.scale - slack) / (1 + share), 0.0)
        some = (2 * row_maxima(tile) >= passing).nonzero()[:, 0]
        weights = weights_of_rows(tile, some, on_diagonal)
        where = (weights >= passing).nonzero()
        seen = weights[where[:, 0], where[:, 1]].double()
        lower, upper = seen * (1 - share) - slack, seen * (1 + share) + slack
        first, second = some[where[:, 0]] + rows.start, where[:, 1] + columns.start
        return first, second, lower * factors.scale, upper * factors.scale

    def _may_belong(self, seen: _Seen) -> _Seen:
        """Those that may still be among the best, given the bounds of all of them."""
        first, second, lower, upper = seen
        known = torch.from_numpy(np.abs(self._found[-1])).to(lower)
        bounds = torch.cat([lower, known])
        if len(bounds) >= self.n:
            self._floor = max(self._floor, float(bounds.topk(self.n).values[-1]))
        kept = upper >= self._floor
        return first[kept], second[kept], lower[kept], upper[kept]

    def _score(self, output: int, factors: Factors, form: Tensor, seen: _Seen) -> None:
        if len(seen[0]):
            ends = factors.order[seen[0]], factors.order[seen[1]]
            self._keep(scored(output, self.features, form, *ends))

    def _keep(self, new: _Found) -> None:
        output, first, second, weight = map(np.concatenate, zip(self._found, new, strict=True))
        order = np.lexsort((second, first, output, -np.abs(weight)))[: self.n]
        self._found = (output[order], first[order], second[order], weight[order])
        if len(order) == self.n:
            self._floor = max(self._floor, abs(float(self._found[-1][-1])))


@dataclass
class Factors:
    """``matrix[order[i], order[j]] = scale · left[i] · right[j]``, and how large that can be."""

    left: Float[Tensor, "in input"]
    right: Float[Tensor, "in input"]
    order: Int[Tensor, " in"]
    left_reach: Float[Tensor, " in"]  # |left[i] · right[j]| ≤ left_reach[i] right_reach[j]
    right_reach: Float[Tensor, " in"]
    arithmetic: float  # what making the factors in float arithmetic can have done to an entry
    scale: float

    @classmethod
    def of(cls, write: Tensor, form: Tensor) -> Factors:
        """The factors of ``write form writeᵀ``."""
        # powers of two, so that nothing is rounded and no product leaves the screen's range
        write_scale, form_scale = power_of_two(write), power_of_two(form)
        scale = write_scale * write_scale * form_scale
        if write_scale != 1:
            write = write / write_scale
        if form_scale != 1:
            form = form / form_scale
        lost = 16 * len(form) ** 0.5 * torch.finfo(form.dtype).eps
        if not decays(form):
            left, right = write @ form, write
            order = torch.arange(len(write), device=write.device)
            reach, size = left.norm(dim=1), right.norm(dim=1)
            arithmetic = lost * float(size.max() ** 2 * form.norm())
            return cls(left, right, order, reach, size, arithmetic, scale)
        values, vectors = eigenvectors(form)
        right = write @ (vectors * values.abs().sqrt())
        reach = right.norm(dim=1)
        arithmetic = lost * float(write.norm(dim=1).max() ** 2 * values.abs().max())
        order = reach.argsort(descending=True, stable=True)
        right, reach = right[order], reach[order]
        return cls(right * values.sign(), right, order, reach, reach, arithmetic, scale)

    def __post_init__(self) -> None:
        """Round the factors to the screen's precision, and bound what that loses in each strip."""
        self.screen = screen_dtype(self.left)
        self.left_screen, self.right_screen = self.left.to(self.screen), self.right.to(self.screen)
        # memory that is asked for anew for each tile would take longer than its product
        self._scratch = self.left_screen.new_empty(ROWS * COLUMNS)
        right = rounded(self.right, self.right_screen)
        equal = self.left_reach is self.right_reach  # up to signs
        left = right if equal else rounded(self.left, self.left_screen)
        self._left, self._right = (
            tuple(map(strip_maxima, (reach, *rounded)))
            for reach, rounded in ((self.left_reach, left), (self.right_reach, right))
        )

    def bound(self, rows: slice, columns: slice) -> float:
        """No entry of this tile is larger."""
        most = largest_of(self._left[0], rows) * largest_of(self._right[0], columns)
        return (most * (1 + 1e-4) + self.arithmetic) * self.scale

    def screened(self, rows: slice, columns: slice) -> tuple[Tensor, float, float]:
        """The tile in the screen's dtype, until the next is asked for, and its entries' largest
        absolute and relative errors.

        ``|x·y − x̃·ỹ| ≤ |x − x̃||y| + |x̃||y − ỹ|``, the rounding of the sum of products in the
        accumulator, the rounding of the result, and what making the factors has lost already.
        """
        size, lost = (largest_of(maxima, rows) for maxima in self._left[1:])
        other, other_lost = (largest_of(maxima, columns) for maxima in self._right[1:])
        accumulator = torch.promote_types(self.screen, torch.float32)
        summing = self.left.shape[1] * torch.finfo(accumulator).eps
        absolute = lost * other + (size + lost) * other_lost + 2 * summing * size * other
        left, right = self.left_screen[rows], self.right_screen[columns]
        shape = len(left), len(right)
        tile = self._scratch[: math.prod(shape)].view(shape)
        torch.mm(left, right.mT, out=tile)
        return tile, absolute + self.arithmetic, torch.finfo(self.screen).eps


def strip_maxima(numbers: Float[Tensor, " in"]) -> list[float]:
    """The largest of each ``ROWS``."""
    return [float(strip.max()) for strip in numbers.split(ROWS)]


def largest_of(maxima: list[float], some: slice) -> float:
    """Of the strips that these rows or columns lie in."""
    return max(maxima[some.start // ROWS : -(-some.stop // ROWS)])


def row_maxima(tile: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
    """Of numbers that are not negative: as integers, bfloat16 numbers have the same order, and
    their maximum is ten times as fast."""
    if tile.dtype != torch.bfloat16:
        return tile.amax(1)
    return tile.view(torch.int16).amax(1).view(torch.bfloat16).float()


def weights_of_rows(
    tile: Float[Tensor, "row column"], some: Int[Tensor, " some"], on_diagonal: bool
) -> Float[Tensor, "some column"]:
    """The |weights| in some rows of a tile: each pair once (its mirror is −1), squares once."""
    weights = tile[some].float().mul_(2)
    if on_diagonal:
        column = torch.arange(tile.shape[1], device=tile.device)
        weights = torch.where(column == some[:, None], weights / 2, weights)
        weights = torch.where(column < some[:, None], -1, weights)
    return weights


def _joined(one: _Seen, two: _Seen) -> _Seen:
    first, second, lower, upper = map(torch.cat, zip(one, two, strict=True))
    return first, second, lower, upper


def _nothing_seen(like: Tensor) -> _Seen:
    index = torch.zeros(0, dtype=torch.int64, device=like.device)
    bounds = torch.zeros(0, dtype=torch.float64, device=like.device)
    return index, index, bounds, bounds


def scored(output: int, features: Tensor, form: Tensor, first: Tensor, second: Tensor) -> _Found:
    """The weights of some pairs in float64, each pair with its lower index first."""
    one, two = torch.minimum(first, second), torch.maximum(first, second)
    form = form.double()
    weights = []
    for i, j in zip(one.split(ROWS * 8), two.split(ROWS * 8), strict=True):
        rows, place = i.unique(return_inverse=True)  # a strong feature is in many pairs
        images = features[rows].double() @ form
        dots = (images[place] * features[j].double()).sum(1)
        weights.append(torch.where(i == j, dots, 2 * dots))
    weight = torch.cat(weights) if weights else form.new_zeros(0)
    outputs = np.full(len(one), output, dtype=np.int64)
    return outputs, one.cpu().numpy(), two.cpu().numpy(), weight.cpu().numpy()


def _constant_pairs(output: int, features: Tensor, constant: Tensor, form: Tensor) -> _Found:
    """The pairs of the constant feature with every feature, and with itself."""
    image = form.double() @ constant.double()
    along = image[: features.shape[1]]  # features write nothing to the constant coordinate
    weights = [2 * (rows.double() @ along) for rows in features.split(ROWS * 8)]
    weight = torch.cat([*weights, (constant.double() @ image)[None]]).cpu().numpy()
    index: np.ndarray = np.arange(len(weight), dtype=np.int64)
    return np.full_like(index, output), index, np.full_like(index, index[-1]), weight


def eigenvectors(form: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    """In float64 where float32 does not converge, as of a form of exactly deficient rank."""
    try:
        values, vectors = torch.linalg.eigh(form)
    except RuntimeError:
        values, vectors = (part.to(form) for part in torch.linalg.eigh(form.double()))
    return values, vectors


def decays(form: Tensor) -> bool:
    """Whether a few eigenvalues dominate, so that the decomposition is worth its cost: ``(Σλ²)² /
    Σλ⁴``, which is near d/2 for a random form, estimated from images of a few random vectors."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(len(form), 16, dtype=torch.float64, generator=generator).to(form)
    once = form @ random
    squares = once.double().square().sum() / 16
    fourths = (form @ once).double().square().sum() / 16
    return bool(squares**2 <= len(form) / 8 * fourths)


def with_scores(
    table: pd.DataFrame, output: int, score: Callable[[pd.DataFrame, int], pd.DataFrame]
) -> pd.DataFrame:
    """An output's table with the columns that a caller's function adds."""
    columns = {*table}
    made: object = score(table, output)
    if not isinstance(made, pd.DataFrame) or not columns <= {*made}:
        raise ArgumentError(
            f"strongest_of_each: score returned a {type(made).__name__} that is not the table of "
            f"its output with further columns. Return what it is given: table.assign(…)."
        )
    return made


def power_of_two(tensor: Tensor) -> float:
    """A power of two near the largest entry, to divide by without rounding."""
    size = largest(tensor)
    return 2.0 ** min(math.frexp(size)[1], 1000) if size > 0 else 1.0


def rounded(rows: Tensor, screened: Tensor) -> tuple[Tensor, Tensor]:
    """The length of each row, and of what rounding took from it."""
    lost = rows.new_zeros(len(rows))
    if screened.dtype != rows.dtype:
        lost = (rows - screened.to(rows.dtype)).norm(dim=1)
    return rows.norm(dim=1), lost


def tiles(size: int) -> Iterator[tuple[slice, slice]]:
    """The tiles of the upper triangle, the rows' own square first in each strip."""
    for row in range(0, size, ROWS):
        for column in range(row, size, COLUMNS):
            yield slice(row, min(row + ROWS, size)), slice(column, min(column + COLUMNS, size))


def screen_dtype(tensor: Tensor) -> torch.dtype:
    """A dtype whose products are fast enough for a first pass, or the tensor's own."""
    if tensor.dtype == torch.float64:
        return torch.float32
    if tensor.is_cuda:  # partial sums may be rounded to bfloat16, which has no bound here
        return tensor.dtype
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast and tensor.device.type == "cpu" else tensor.dtype
