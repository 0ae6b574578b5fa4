"""Interactions between two sets of features: one number for each pair of a row and a column.

Both sets are read in one small space, such as that of an attention head, so the matrix is
``left · rightᵀ`` of two thin factors. It is not symmetric: it has singular values, and a pair
occurs once, so that its weight is the entry itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import TensorError, check_count, check_index, check_range, check_rows, largest

ROWS, COLUMNS = 512, 4096
"""Of a tile, which is multiplied, searched and dropped."""

_Found = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class SingularSpectrum:
    """The singular values of a matrix of interactions, falling, and their vectors as rows."""

    values: Float[Tensor, " rank"]
    left: Float[Tensor, "rank row"]  # orthonormal
    right: Float[Tensor, "rank column"]  # orthonormal
    total_energy: float  # Σ σ² of all values

    def __len__(self) -> int:
        return len(self.values)

    def energy(self, rank: int) -> float:
        """The share of the squared norm that the first ``rank`` values hold."""
        rank = check_index("SingularSpectrum.energy", rank, len(self) + 1, "rank")
        held = float(self.values[:rank].double().square().sum())
        return held / self.total_energy if self.total_energy > 0 else 1.0

    def matrix(self) -> Float[Tensor, "row column"]:
        """The matrix made of these values."""
        return (self.left.mT * self.values) @ self.right

    def __repr__(self) -> str:
        sizes = f"{self.left.shape[1]} x {self.right.shape[1]}"
        share = f"{self.energy(len(self)):.1%} of the energy"
        return f"SingularSpectrum({len(self)} values of a matrix of {sizes}, {share})"


@checked
@dataclass(frozen=True, eq=False, repr=False)
class CrossInteractions:
    """``matrix()[i, j] = left[i] · right[j]``: how strongly row feature i and column feature j
    interact. The offset of a basis and a bias follow the features as rows of their own."""

    left: Float[Tensor, "row rank"]
    right: Float[Tensor, "column rank"]
    left_labels: tuple[str, ...]
    right_labels: tuple[str, ...]
    names: tuple[str, ...] = ("first", "second")  # of the two sets, in tables

    def __post_init__(self) -> None:
        if len(self.names) != 2:
            raise TensorError(
                f"CrossInteractions: {len(self.names)} names for two sets of features. Pass two."
            )
        sides = (self.left, self.left_labels), (self.right, self.right_labels)
        for name, (rows, labels) in zip(self.names, sides, strict=True):
            check_rows("CrossInteractions", rows, len(labels), f"labels of {name} features")
        sizes = {"left": largest(self.left), "right": largest(self.right)}
        check_range("CrossInteractions", self.left.dtype, sizes, self.left.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of row features and of column features, with offsets and biases."""
        return len(self.left), len(self.right)

    def matrix(self) -> Float[Tensor, "row column"]:
        """Every pair at once."""
        return self.left @ self.right.mT

    def spectrum(self, rank: int | None = None) -> SingularSpectrum:
        """The singular values that are not zero, or the first ``rank``, without the matrix."""
        left, right = (torch.linalg.qr(side.double()) for side in (self.left, self.right))
        vectors, values, other = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
        kept = int((values > 1e-12 * values.max()).sum()) if len(values) else 0
        if rank is not None:
            kept = min(kept, check_count("CrossInteractions.spectrum", rank, None, "rank"))
        dtype, energy = self.left.dtype, float(values.square().sum())
        rows, columns = (left.Q @ vectors[:, :kept]).mT, other[:kept] @ right.Q.mT
        return SingularSpectrum(values[:kept].to(dtype), rows.to(dtype), columns.to(dtype), energy)

    def strongest(self, n: int) -> pd.DataFrame:
        """The ``n`` pairs of largest |weight|, exactly and in bounded memory: numbers, weight and
        labels. Tiles whose factors are too short to hold one are skipped."""
        n = check_count("CrossInteractions.strongest", n, None, "n")
        (left, rows, long), (right, columns, wide) = (
            _by_length(side) for side in (self.left, self.right)
        )
        # of an entry, in the tile's dtype: nothing that may belong is missed
        lost = 4 * left.shape[1] * torch.finfo(left.dtype).eps
        empty = np.empty(0, dtype=np.int64)
        found: _Found = (empty, empty, np.empty(0))
        floor = -1.0
        for start in range(0, len(left), ROWS):
            for begin in range(0, len(right), COLUMNS):
                bound = long[start] * wide[begin]
                if bound * (1 + lost) < floor:
                    break  # those behind it are shorter
                one, two = left[start : start + ROWS], right[begin : begin + COLUMNS]
                first, second = _may_belong((one @ two.mT).abs_(), n, floor, 2 * lost * bound)
                weight = (one[first].double() * two[second].double()).sum(1)
                new = rows[first + start], columns[second + begin], weight
                found = _best(found, new, n)
                floor = abs(float(found[-1][-1])) if len(found[-1]) == n else -1.0
        return self._table(found)

    def _table(self, found: _Found) -> pd.DataFrame:
        (one, two), (first, second, weight) = self.names, found
        return pd.DataFrame(
            {
                one: first,
                two: second,
                "weight": weight,
                f"{one}_label": [self.left_labels[row] for row in first],
                f"{two}_label": [self.right_labels[column] for column in second],
            }
        )

    def __repr__(self) -> str:
        (one, two), (rows, columns) = self.names, self.shape
        rank = self.left.shape[1]
        return f"CrossInteractions({rows} {one} x {columns} {two} features, rank {rank} or less)"


def _by_length(side: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """The rows by falling length, their numbers, and the lengths."""
    length = torch.linalg.vector_norm(side, dim=1, dtype=torch.float64)
    order = length.argsort(descending=True, stable=True)
    return side[order], order, length[order].tolist()


def _may_belong(tile: Tensor, n: int, floor: float, slack: float) -> tuple[Tensor, Tensor]:
    """The places of a tile of sizes that may be among the ``n`` largest."""
    passing = floor - slack
    if tile.numel() > n:
        passing = max(passing, float(tile.flatten().topk(n).values[-1]) - slack)
    first, second = (tile >= passing).nonzero(as_tuple=True)
    return first, second


def _best(found: _Found, new: tuple[Tensor, Tensor, Tensor], n: int) -> _Found:
    """The ``n`` strongest of both, ties by index."""
    joined = zip(found, (part.cpu().numpy() for part in new), strict=True)
    first, second, weight = map(np.concatenate, joined)
    order = np.lexsort((second, first, -np.abs(weight)))[:n]
    return first[order], second[order], weight[order]
