"""How well groups explain a matrix: one block of one sign for each gate.

A gate between two groups is ``u vᵀ``, so groups are good if each block of the matrix between two of
them is a product of non-negative loadings, up to one sign. ``description_length`` adds the cost of
the loadings to the cost of what they leave unexplained, in nats. A loading costs the logarithm of
the number of pairs; the rest costs as much as Gaussian noise of a fifth of a typical weight, about
what superposition adds. Merging two halves of a gate saves loadings; merging features of different
gates, or of opposite signs, leaves much unexplained. So the number of groups is not a setting.

A matrix may also have no groups: that of a few directions in which features take part by degrees is
described shorter by two or more loadings for every feature (``without_groups``).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_NOISE = 0.2  # of the median weight: what groups need not explain


def block(
    matrix: Float[np.ndarray, "a b"], steps: int = 8
) -> tuple[float, Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """The block's best product ``strength · one twoᵀ`` of non-negative loadings of length 1, with
    the sign that explains more, by alternating projections from the row sums."""
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
    """The blocks of one matrix under changing groups, each computed once."""

    def __init__(self, matrix: Float[np.ndarray, "node node"]) -> None:
        self.matrix = matrix
        there = np.triu(matrix)
        self._ends = np.nonzero(there)
        sizes = np.abs(there[self._ends])
        self._noise = 2 * (_NOISE * float(np.median(sizes))) ** 2 if len(sizes) else 1.0
        self._price = float(np.log(len(sizes) + 1))  # of a loading
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}

    def description_length(self, groups: list[tuple[int, ...]]) -> float:
        """The cost of describing the matrix by blocks between these groups; smaller is better."""
        of = np.empty(len(self.matrix), dtype=np.int64)
        for name, members in enumerate(groups):
            of[list(members)] = name
        touching = np.sort(np.stack([of[ends] for ends in self._ends], axis=1), axis=1)
        return sum(self._length(groups[i], groups[j]) for i, j in np.unique(touching, axis=0))

    def one_loading_each(self, groups: list[tuple[int, ...]]) -> float:
        """The cost where a node has the same loading in all blocks of its group."""
        loading, strongest = np.zeros(len(self.matrix)), np.zeros(len(groups))
        of = np.empty(len(self.matrix), dtype=np.int64)
        for i, one in enumerate(groups):
            of[list(one)] = i
            for two in groups:
                strength, loads, _ = block(self.matrix[np.ix_(one, two)])
                if abs(strength) > strongest[i]:
                    strongest[i], loading[list(one)] = abs(strength), loads
        of_group = np.eye(len(groups))[of] * loading[:, None]  # columns of length 1
        strengths = of_group.T @ self.matrix @ of_group
        left = self._left(self.matrix - of_group @ strengths @ of_group.T)
        n_blocks = int((np.triu(strengths) != 0).sum())
        labels = len(self.matrix) * float(np.log(len(groups)))
        return (len(self.matrix) + n_blocks) * self._price + labels + left

    def without_groups(self) -> float:
        """The cost by two or more loadings for every node, of one sign or the other."""
        values, vectors = np.linalg.eigh(self.matrix)
        order = np.argsort(-np.abs(values))
        left, costs = self.matrix.copy(), [np.inf]
        for rank, place in enumerate(order[: len(order) // 2], start=1):
            left = left - values[place] * np.outer(vectors[:, place], vectors[:, place])
            if rank >= 2:
                loadings = rank * len(self.matrix) - rank * (rank - 1) // 2
                costs.append(loadings * self._price + self._left(left))
        return min(costs)

    def _left(self, rest: Float[np.ndarray, "node node"]) -> float:
        return float((np.triu(rest) ** 2).sum()) / self._noise

    def _length(self, one: tuple[int, ...], two: tuple[int, ...]) -> float:
        """A block's share: by loadings or as noise, whichever is shorter."""
        key = (one, two) if one <= two else (two, one)
        if key not in self._known:
            part = self.matrix[np.ix_(*key)]
            strength, *_ = block(part)
            same = key[0] == key[1]
            loadings = len(one) if same else len(one) + len(two) - 1
            twice = 2 if same else 1  # each pair counts once
            inside = float((part**2).sum())
            left = max(inside - strength**2, 0.0)
            by_loadings = left / twice / self._noise + loadings * self._price
            self._known[key] = min(by_loadings, inside / twice / self._noise)
        return self._known[key]
