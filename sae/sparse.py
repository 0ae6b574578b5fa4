"""Sparse codes: which features are active on each row, and how strongly.

Where a row has fewer than k positive scores, entries are zero: kept, but inactive.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torch.nn import functional

from circuits.arguments import checked_kinds
from circuits.errors import check_count, check_rows, check_some

_FEW = 512  # shorter rows are not worth grouping
_WORTH_NUMPY = 2**14  # numbers; from fewer, torch selects
_WORTH_A_THREAD = 2**15  # numbers


@checked_kinds
@dataclass(frozen=True, eq=False)
class Code:
    """A sparse matrix by rows: row r has the entries ``starts[r]`` to ``starts[r + 1]``."""

    starts: Int64[Tensor, " row_and_end"]
    features: Int64[Tensor, " entry"]
    values: Float[Tensor, " entry"]
    n_feature: int

    def __post_init__(self) -> None:
        check_count("Code", self.n_feature, None, "n_feature")

    @classmethod
    def of_equal_rows(
        cls, features: Int64[Tensor, "row k"], values: Float[Tensor, "row k"], n_feature: int
    ) -> Code:
        """A code whose rows all have k entries."""
        n_row, k = features.shape
        starts = torch.arange(0, n_row * k + 1, k, device=features.device)
        return cls(starts, features.reshape(-1), values.reshape(-1), n_feature)

    @classmethod
    def of_counts(
        cls, counts: Int64[Tensor, " row"], features: Tensor, values: Tensor, n_feature: int
    ) -> Code:
        """A code whose rows have these numbers of entries."""
        return cls(functional.pad(counts.cumsum(0), (1, 0)), features, values, n_feature)

    @classmethod
    def joined(cls, codes: Sequence[Code]) -> Code:
        """The rows of some codes, one code after another."""
        codes = check_some("Code.joined", codes, "codes")
        parts = zip(*((c.starts.diff(), c.features, c.values) for c in codes), strict=True)
        counts, features, values = map(torch.cat, parts)
        return cls.of_counts(counts, features, values, codes[0].n_feature)

    @property
    def n_row(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1

    @property
    def active(self) -> Bool[Tensor, " entry"]:
        """Which entries are not zero."""
        return self.values != 0

    @cached_property
    def rows(self) -> Int64[Tensor, " entry"]:
        """The row of each entry."""
        numbers = torch.arange(self.n_row, device=self.starts.device)
        return numbers.repeat_interleave(self.starts.diff(), output_size=len(self.features))

    @property
    def counts(self) -> Int64[Tensor, " feature"]:
        """On how many rows each feature is active."""
        counts = torch.zeros(self.n_feature, dtype=torch.int64, device=self.features.device)
        return counts.scatter_add_(0, self.features, self.active.long())

    def dense(self) -> Float[Tensor, "row feature"]:
        """The whole matrix."""
        whole = self.values.new_zeros(self.n_row, self.n_feature)
        whole[self.rows, self.features] = self.values
        return whole

    def times(self, vectors: Float[Tensor, "feature model"]) -> Float[Tensor, "row model"]:
        """The sum of each row's features' vectors, weighted: ``dense() @ vectors``."""
        check_rows("Code.times", vectors, self.n_feature, "features")
        # in a fixed order, so the same bits each time
        return functional.embedding_bag(
            self.features, vectors, self.starts, per_sample_weights=self.values, mode="sum",
            include_last_offset=True,
        )  # fmt: skip

    def products(
        self, rows: Float[Tensor, "row model"], vectors: Float[Tensor, "feature model"]
    ) -> Float[Tensor, " entry"]:
        """``rows @ vectorsᵀ`` at each entry: its row's vector times its feature's."""
        check_rows("Code.products", rows, self.n_row, "rows")
        check_rows("Code.products", vectors, self.n_feature, "features")
        if fused(rows):
            from sae.kernels import products

            return products(self.starts, self.features, rows, vectors)
        _torch_has_warned()
        size = (self.n_row, self.n_feature)
        zeros = torch.zeros_like(self.values)
        pattern = torch.sparse_csr_tensor(
            self.starts, self.features, zeros, size, check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, rows, vectors.mT, beta=0).values()

    @cached_property
    def by_feature(self) -> _ByFeature:
        """The same entries feature by feature, rows ascending."""
        if self.features.device.type == "cpu":  # a counting sort: ten times faster
            entries = np.arange(len(self.features), dtype=np.int32)
            matrix = scipy.sparse.csr_matrix(
                (entries, self.features.numpy(), self.starts.numpy()),
                shape=(self.n_row, self.n_feature),
            ).tocsc()
            parts = (matrix.indptr, matrix.indices, matrix.data)
            return _ByFeature(*(torch.from_numpy(part.astype(np.int64)) for part in parts))
        features, order = torch.sort(self.features, stable=True)
        every = torch.arange(self.n_feature + 1, device=features.device)
        return _ByFeature(torch.searchsorted(features, every), self.rows[order], order)


@cache
def _torch_has_warned() -> None:
    """Torch warns once per process that its sparse tensors are in beta; silence that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(empty, empty[:0], torch.zeros(0), (0, 1), check_invariants=False)


@dataclass(frozen=True, eq=False)
class _ByFeature:
    """The entries of a code by feature: ``starts[f]`` to ``starts[f + 1]`` belong to feature f."""

    starts: Int64[Tensor, " feature_and_end"]
    rows: Int64[Tensor, " entry"]
    entries: Int64[Tensor, " entry"]  # their positions in the code

    def times(
        self, values: Float[Tensor, " entry"], vectors: Float[Tensor, "row model"]
    ) -> Float[Tensor, "feature model"]:
        """The sum of each feature's rows, weighted by values in the code's order."""
        return Code(self.starts, self.rows, values[self.entries], len(vectors)).times(vectors)


def fused(x: Tensor) -> bool:
    """Whether our own kernels can be used: on a GPU, where Triton comes with torch."""
    return x.is_cuda and x.dtype == torch.float32 and find_spec("triton") is not None


def strongest(
    scores: Float[Tensor, "row feature"], k: int
) -> tuple[Float[Tensor, "row k"], Int64[Tensor, "row k"]]:
    """The k largest of each row and their positions, in any order; any of equal ones.

    The k largest of a row lie in the k groups with the largest maxima, which take one vectorised
    pass (the members of a group lie a stride apart); then only k groups of ``√(n / k)`` are
    searched.
    """
    n_row, n = scores.shape
    size = 1 << round(math.log2(n / k) / 2)  # of a group
    if n < _FEW or size == 1:
        places = _first_largest(scores, k)
        return scores.gather(1, places), places
    n_group = -(-n // size)
    if n_group * size != n:
        scores = functional.pad(scores, (0, n_group * size - n), value=float("-inf"))
    groups = _first_largest(scores.view(n_row, size, n_group).amax(1), k)
    within = torch.arange(0, n_group * size, n_group, device=scores.device)
    members = (groups[:, None] + within[:, None]).reshape(n_row, -1)
    candidates = scores.gather(1, members)
    places = _first_largest(candidates, k)
    return candidates.gather(1, places), members.gather(1, places)


def _first_largest(scores: Float[Tensor, "row place"], k: int) -> Int64[Tensor, "row k"]:
    """Positions of the k largest of each row; the rows are shared among torch's threads."""
    n_row, n = scores.shape
    integers_do = scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.bfloat16)
    if not integers_do or scores.numel() < _WORTH_NUMPY:
        return scores.topk(k, sorted=False).indices
    if k == n:
        return torch.arange(k).expand(n_row, k)
    bits = scores.float().contiguous().numpy().view(np.int32)
    found = np.empty((n_row, k), np.int64)
    n_part = min(torch.get_num_threads(), max(1, scores.numel() // _WORTH_A_THREAD))
    bounds = [n_row * part // n_part for part in range(n_part + 1)]
    few_bits = scores.dtype == torch.bfloat16

    def select(part: int) -> None:
        rows = slice(bounds[part], bounds[part + 1])
        _select(bits[rows], found[rows], few_bits)

    if n_part == 1:
        select(0)
    else:
        list(_threads(n_part).map(select, range(n_part)))
    return torch.from_numpy(found)


def _select(
    bits: Int32[np.ndarray, "row place"], found: Int64[np.ndarray, "row k"], few_bits: bool
) -> None:
    """NumPy's partition of integers, which is faster than any selection of floats."""
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # ordered as the numbers are
    n_row, n = keys.shape
    k = found.shape[1]
    if few_bits:  # the lower half is free for breaking ties
        keys |= np.arange(n - 1, -1, -1, dtype=np.int32)
    least = np.partition(keys, n - k, axis=1)[:, n - k, None]
    chosen = keys >= least
    flat = np.flatnonzero(chosen)
    if len(flat) != n_row * k:  # some rows have several equal to the k-th
        surplus = chosen.sum(1) - k
        for row in surplus.nonzero()[0]:
            equal = (keys[row] == least[row]).nonzero()[0]
            chosen[row, equal[len(equal) - surplus[row] :]] = False
        flat = np.flatnonzero(chosen)
    np.subtract(flat.reshape(n_row, k), np.arange(0, keys.size, n)[:, None], out=found)


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "select")
