"""The pairs of an MLP's input features that are active in a behaviour's cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.behaviour.in_model import ModelCases
from sae.dictionary import Dictionary
from sae.sparse import Code

_NUMBERS = 2**22  # of pairs at tokens that are held at a time


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Some tokens with their features, the constant last, and the pairs of those."""

    case: Int64[Tensor, " token"]
    at: Int64[Tensor, " token"]
    features: Int64[Tensor, "token width"]  # beyond the constant: none
    values: Float[Tensor, "token width"]
    ends: Int64[Tensor, "two pair"]  # places of the two among a token's features
    numbers: Int64[Tensor, "token pair"]  # see `ActivePairs.ends`
    product: Float[Tensor, "token pair"]  # of both activations; zero where there is no pair


@dataclass(frozen=True, eq=False)
class ActivePairs:
    """The pairs of features that are active at any token of the cases but the first, up to the
    answer; the constant is numbered after all features."""

    cases: ModelCases
    inputs: Float[Tensor, "case pos model"]  # of the MLP
    dictionary: Dictionary

    @cached_property
    def tokens(self) -> Int64[Tensor, "token 2"]:
        """Case and position of each token that is looked at."""
        n_pos = self.cases.tokens.shape[1]
        at = torch.arange(n_pos)
        inside = (at[None] <= self.cases.position[:, None]) & (at[None] > 0)
        return inside.nonzero()

    @cached_property
    def code(self) -> Code:
        """The features of those tokens."""
        case, at = self.tokens.mT
        x = self.inputs[case, at]
        return self.dictionary.to("cpu").active(x.to(self.dictionary.dtype))

    @cached_property
    def values(self) -> Float[Tensor, "case feature"]:
        """How active each feature is over a case's tokens, the constant once in each."""
        code = self.code
        values = torch.zeros(len(self.cases), self.dictionary.n_feature + 1, dtype=torch.float64)
        case = self.tokens[:, 0]
        values.index_put_((case[code.rows], code.features.long()), code.values.double(),
                          accumulate=True)  # fmt: skip
        values[:, -1] = 1
        return values

    def values_of(self, used: list[int]) -> Float[Tensor, "case pos feature"]:
        """How active some features are at each token; the constant is 1."""
        code, shape = self.code, self.cases.tokens.shape
        values = torch.zeros(*shape, len(used), dtype=torch.float64)
        column = torch.full((self.dictionary.n_feature + 1,), -1)
        column[used] = torch.arange(len(used))
        at = column[code.features.long()]
        case, position = self.tokens[code.rows[at >= 0]].mT
        values[case, position, at[at >= 0]] = code.values[at >= 0].double()
        if (place := int(column[-1])) >= 0:
            values[self.tokens[:, 0], self.tokens[:, 1], place] = 1
        return values

    def ends(self, numbers: Int64[Tensor, " pair"]) -> tuple[Tensor, Tensor]:
        """The two features of each pair, by the pairs' numbers."""
        n = self.dictionary.n_feature + 1
        return numbers // n, numbers % n

    def by_tokens(self, per_pair: int = 1) -> Iterator[TokenPairs]:
        """The pairs at all tokens, a few tokens at a time: as many as ``per_pair`` numbers of each
        pair fit in memory for."""
        n, code = self.dictionary.n_feature, self.code
        width = int(code.starts.diff().max()) + 1 if code.n_row else 1
        ends = torch.triu_indices(width, width)
        step = max(1, _NUMBERS // (width * max(width, per_pair)))
        for start in range(0, code.n_row, step):
            case, at = self.tokens[start : start + step].mT
            features, values = _padded(code, start, start + len(case), width, n)
            one, other = features[:, ends[0]], features[:, ends[1]]
            numbers = torch.minimum(one, other) * (n + 1) + torch.maximum(one, other)
            product = values[:, ends[0]] * values[:, ends[1]]
            yield TokenPairs(case, at, features, values, ends, numbers, product)

    def together(self, share: float) -> list[tuple[int, int]]:
        """The pairs that are active at a token of this share of the affected cases or more."""
        inside = self.cases.affected[self.cases.label] > 0
        found = []
        for some in self.by_tokens():
            there = (some.product != 0) & inside[some.case][:, None]
            cases = some.case[:, None].expand_as(some.numbers)
            found.append(torch.stack([some.numbers[there], cases[there]]))
        both = torch.unique(torch.cat(found, dim=1), dim=1)
        numbers, counts = torch.unique(both[0], return_counts=True)
        first, second = self.ends(numbers[counts >= share * inside.sum()])
        return list(zip(first.tolist(), second.tolist(), strict=True))


def _padded(code: Code, start: int, end: int, width: int, constant: int) -> tuple[Tensor, Tensor]:
    """The features and values of some rows, the constant last; where there are fewer, zeros."""
    starts, counts = code.starts[start:end], code.starts.diff()[start:end]
    place = torch.arange(width - 1)
    at = (starts[:, None] + place).clamp(max=max(len(code.features) - 1, 0))
    inside = place < counts[:, None]
    features = torch.where(inside, code.features[at].long(), constant + 1)
    values = torch.where(inside, code.values[at].double(), 0.0)
    last = torch.full((len(starts), 1), constant)
    ones = torch.ones(len(starts), 1, dtype=torch.float64)
    return torch.cat([features, last], 1), torch.cat([values, ones], 1)
