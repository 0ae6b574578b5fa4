"""The strongest entries of ``write form writeᵀ``, exactly, without that matrix.

Tiles of it are multiplied, searched and dropped. Three things make it quick, and none of them
changes the answer:

1. *Reach.* With the form's eigenpairs, ``|xᵀQy| ≤ s(x) s(y)`` where ``s(x)² = xᵀ|Q|x``. Features
   are sorted by ``s``; a tile whose bound lies under the n-th best pair so far is not multiplied.
   A form whose eigenvalues do not decay has no reach worth knowing, and is not decomposed.
2. *Screen.* Where bfloat16 products are fast, tiles are multiplied in it. How far off an entry can
   be follows from what rounding took from each row, so no entry that might belong is missed.
3. *Score.* What passes is multiplied again in float64, which also makes the result independent
   of tiles and of the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS, _COLUMNS = 512, 1024  # of a tile: it stays in cache between its product and its search


@dataclass
class Search:
    """The ``n`` strongest pairs over all the outputs that are given to ``look``."""

    write: Float[Tensor, "in input"]
    n: int

    def __post_init__(self) -> None:
        self.visited = self.tiles = 0
        self._tiles_each = sum(1 for _ in tiles(len(self.write)))
        self._found = _Found.nothing(self.write.device)
        self._floor = -float("inf")  # |weight| that the n-th best pair has at least

    def look(
        self, output: int, form: Callable[[], Float[Tensor, "input input"]], ceiling: float
    ) -> None:
        """Search one output, unless no weight of it can exceed ``ceiling`` and that is too low."""
        self.tiles += self._tiles_each
        if ceiling <= self._floor:
            return
        factors = _Factors.of(self.write, form())
        for rows, columns in tiles(len(self.write)):
            if 2 * factors.bound(rows, columns) > self._floor:
                self.visited += 1
                self._search_tile(output, factors, rows, columns)
        self._found = factors.score(self._found, output)
        self._shrink()

    def table(self) -> pd.DataFrame:
        """The pairs found, strongest first; equal ones in the order of their indices."""
        found = self._found
        table = pd.DataFrame(
            {
                "output": found.output.cpu().numpy(),
                "first": found.first.cpu().numpy(),
                "second": found.second.cpu().numpy(),
                "weight": found.weight.cpu().numpy(),
            }
        )
        strength = -table["weight"].abs()
        order = np.lexsort((table["second"], table["first"], table["output"], strength))
        return table.iloc[order[: self.n]].reset_index(drop=True)

    def _search_tile(self, output: int, factors: _Factors, rows: slice, columns: slice) -> None:
        tile, error = factors.screened(rows, columns)
        weights = tile.float().abs_().mul_(2)
        if columns.start == rows.start:  # the tile on the diagonal: each pair once, squares once
            square = weights[:, : weights.shape[0]]
            square.diagonal().mul_(0.5)
            square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril_(-1), -1)
        slack, share = 2 * error.absolute, error.relative
        if self._floor < 0 and weights.numel() >= self.n:
            best = float(weights.flatten().topk(self.n).values[-1])
            self._floor = max(self._floor, best * (1 - share) - slack if best > 0 else -1.0)
        passing = max((self._floor - slack) / (1 + share), 0.0)
        where = (weights >= passing).nonzero()
        if len(where):
            seen = weights[where[:, 0], where[:, 1]].double()
            self._found = self._found.and_also(
                output,
                where[:, 0] + rows.start,
                where[:, 1] + columns.start,
                lower=seen * (1 - share) - slack,
                upper=seen * (1 + share) + slack,
            )
            self._shrink()

    def _shrink(self) -> None:
        if len(self._found.lower) > self.n:
            self._floor = max(self._floor, float(self._found.lower.topk(self.n).values[-1]))
            self._found = self._found.keep(self._found.upper >= self._floor)


@dataclass
class _Error:
    absolute: float
    relative: float


@dataclass
class _Found:
    """Pairs that may be among the best: positions of an output's factors until they are scored."""

    output: Int[Tensor, " pair"]
    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    lower: Float[Tensor, " pair"]  # bounds of |weight|
    upper: Float[Tensor, " pair"]
    weight: Float[Tensor, " pair"]  # NaN until scored

    @classmethod
    def nothing(cls, device: torch.device) -> _Found:
        index = torch.empty(0, dtype=torch.int64, device=device)
        value = torch.empty(0, dtype=torch.float64, device=device)
        return cls(index, index, index, value, value, value)

    def and_also(
        self, output: int, first: Tensor, second: Tensor, lower: Tensor, upper: Tensor
    ) -> _Found:
        new = (torch.full_like(first, output), first, second, lower, upper, lower * float("nan"))
        return _Found(*(torch.cat([a, b]) for a, b in zip(self._columns(), new, strict=True)))

    def keep(self, mask: Tensor) -> _Found:
        return _Found(*(column[mask] for column in self._columns()))

    def _columns(self) -> tuple[Tensor, ...]:
        return self.output, self.first, self.second, self.lower, self.upper, self.weight


@dataclass
class _Factors:
    """``matrix[order[i], order[j]] = left[i] · right[j]``, and how large that can be."""

    left: Float[Tensor, "in input"]
    right: Float[Tensor, "in input"]
    order: Int[Tensor, " in"]
    left_reach: Float[Tensor, " in"]  # |left[i] · right[j]| ≤ left_reach[i] right_reach[j]
    right_reach: Float[Tensor, " in"]

    @classmethod
    def of(cls, write: Tensor, form: Tensor) -> _Factors:
        if not _decays(form):
            left, right = write @ form, write
            order = torch.arange(len(write), device=write.device)
            factors = cls(left, right, order, left.norm(dim=1), right.norm(dim=1))
        else:
            values, vectors = torch.linalg.eigh(form)
            right = write @ (vectors * values.abs().sqrt())
            reach = right.norm(dim=1)
            order = reach.argsort(descending=True, stable=True)
            right, reach = right[order], reach[order]
            factors = cls(right * values.sign(), right, order, reach, reach)
        factors._prepare_screen()
        return factors

    def _prepare_screen(self) -> None:
        self.screen = _screen_dtype(self.left)
        self.left_screen, self.right_screen = self.left.to(self.screen), self.right.to(self.screen)
        self.right_size, self.right_lost = _rounded(self.right, self.right_screen)
        if self.left_reach is self.right_reach:  # equal up to signs
            self.left_size, self.left_lost = self.right_size, self.right_lost
        else:
            self.left_size, self.left_lost = _rounded(self.left, self.left_screen)

    def bound(self, rows: slice, columns: slice) -> float:
        """No entry of this tile is larger, up to rounding."""
        largest = float(self.left_reach[rows].max() * self.right_reach[columns].max())
        return largest * (1 + 1e-4)

    def screened(self, rows: slice, columns: slice) -> tuple[Tensor, _Error]:
        """The tile in the screen's dtype, and how far off its entries can be.

        ``|x·y − x̃·ỹ| ≤ |x − x̃||y| + |x̃||y − ỹ|``, the rounding of the sum of products in the
        accumulator, and the rounding of the result.
        """
        left, right = self.left_size[rows].max(), self.right_size[columns].max()
        left_lost, right_lost = self.left_lost[rows].max(), self.right_lost[columns].max()
        accumulator = torch.promote_types(self.screen, torch.float32)
        summing = self.left.shape[1] * torch.finfo(accumulator).eps
        absolute = left_lost * right + (left + left_lost) * right_lost + 2 * summing * left * right
        tile = self.left_screen[rows] @ self.right_screen[columns].mT
        return tile, _Error(float(absolute), torch.finfo(self.screen).eps)

    def score(self, found: _Found, output: int) -> _Found:
        """The pairs of this output with their weight in float64 and their features' indices."""
        new = (found.output == output) & found.weight.isnan()
        first, second = found.first[new], found.second[new]
        weights = []
        for i, j in zip(first.split(_ROWS * 8), second.split(_ROWS * 8), strict=True):
            dots = (self.left[i].double() * self.right[j].double()).sum(1)
            weights.append(torch.where(i == j, dots, 2 * dots))
        if weights:
            weight = torch.cat(weights)
            one, two = self.order[first], self.order[second]
            found.first[new], found.second[new] = torch.minimum(one, two), torch.maximum(one, two)
            found.weight[new] = weight
            found.lower[new] = found.upper[new] = weight.abs()
        return found


def _decays(form: Tensor) -> bool:
    """Whether a few eigenvalues dominate, so that knowing them is worth their price.

    ``(Σλ²)² / Σλ⁴`` is near d/2 for a random form and a few for one that decays; estimated from
    what the form does to a few random vectors. It decides what is quick, never what is found.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(len(form), 16, dtype=torch.float64, generator=generator).to(form)
    once = form @ random
    squares = once.double().square().sum() / 16
    fourths = (form @ once).double().square().sum() / 16
    return bool(squares**2 <= len(form) / 8 * fourths)


def _rounded(rows: Tensor, screened: Tensor) -> tuple[Tensor, Tensor]:
    """The length of each row, and of what rounding took from it."""
    lost = screened.new_zeros(len(rows), dtype=rows.dtype)
    if screened.dtype != rows.dtype:
        lost = (rows - screened).norm(dim=1)
    return rows.norm(dim=1), lost


def tiles(size: int) -> Iterator[tuple[slice, slice]]:
    """The tiles of the upper triangle, the rows' own square first in each strip."""
    for row in range(0, size, _ROWS):
        for column in range(row, size, _COLUMNS):
            yield slice(row, min(row + _ROWS, size)), slice(column, min(column + _COLUMNS, size))


def _screen_dtype(tensor: Tensor) -> torch.dtype:
    if tensor.dtype == torch.float64:
        return torch.float32
    if tensor.is_cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else tensor.dtype
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast and tensor.device.type == "cpu" else tensor.dtype
