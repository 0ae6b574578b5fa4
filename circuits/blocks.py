"""How well groups explain a matrix: one block of one sign for each gate.

A gate between two groups is ``u vᵀ``: every feature of the one with every feature of the other, by
their loadings, all of one sign. So groups are good where each block of the matrix between two of
them is a product of non-negative loadings, up to one sign. ``description_length`` weighs what the
blocks leave unexplained against how many loadings they take (the Bayesian information criterion).
Merging two halves of a gate takes fewer loadings; merging features of different gates, or of
opposite signs, leaves much unexplained: neither number of groups nor any threshold is a setting.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_FLOOR = 0.03  # of the energy: in superposition every weight carries others' shadows


def block(
    matrix: Float[np.ndarray, "a b"], steps: int = 8
) -> tuple[float, Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """The block's best product of non-negative loadings, with the sign that explains more.

    Returns ``(strength, one, two)``: ``strength · one twoᵀ``, loadings of length 1, found by
    alternating projections (the nearest local optimum from the row sums).
    """
    best = (0.0, np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1]))
    for sign in (1.0, -1.0):
        signed = sign * matrix
        two = np.maximum(signed, 0).sum(0)
        one = np.zeros(len(signed))
        for _ in range(steps):
            one = np.maximum(signed @ two, 0)
            one /= max(float(np.linalg.norm(one)), 1e-300)
            two = np.maximum(one @ signed, 0)
            strength = float(np.linalg.norm(two))
            two /= max(strength, 1e-300)
        if strength > abs(best[0]) * (1 + 1e-12):
            best = (sign * strength, one, two)
    return best


class Blocks:
    """The blocks of one matrix under changing groups, each looked at once."""

    def __init__(self, matrix: Float[np.ndarray, "node node"]) -> None:
        self.matrix = matrix
        self.energy = float((matrix**2).sum())
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, int]] = {}

    def _gain(self, one: tuple[int, ...], two: tuple[int, ...]) -> tuple[float, int]:
        """The energy that a block explains (in both triangles), and the loadings it takes."""
        key = (one, two) if one <= two else (two, one)
        if key not in self._known:
            strength, *_ = block(self.matrix[np.ix_(*key)])
            same = key[0] == key[1]
            loadings = len(one) if same else len(one) + len(two) - 1
            self._known[key] = (strength**2 * (1 if same else 2), loadings)
        return self._known[key]

    def description_length(self, groups: list[tuple[int, ...]]) -> float:
        """What it takes to tell the matrix by blocks between these groups; smaller is better, and
        zero is what telling it entry by entry takes.

        Only blocks that earn their loadings are told; the others count as empty.
        """
        of = np.empty(len(self.matrix), dtype=np.int64)
        for name, members in enumerate(groups):
            of[list(members)] = name
        touching = np.stack([of[ends] for ends in np.nonzero(self.matrix)], axis=1)
        pairs = np.unique(np.sort(touching, axis=1), axis=0)
        gains = np.array([self._gain(groups[i], groups[j]) for i, j in pairs]).reshape(-1, 2)
        gains = gains[np.lexsort((gains[:, 1], -gains[:, 0] / gains[:, 1]))]
        n_numbers = int((np.triu(self.matrix) != 0).sum())
        left = np.maximum(self.energy - np.append(0.0, np.cumsum(gains[:, 0])), 0.0)
        loadings = np.append(0.0, np.cumsum(gains[:, 1]))
        told = n_numbers * np.log(left / self.energy + _FLOOR) + loadings * np.log(n_numbers + 1)
        return float(told.min())
