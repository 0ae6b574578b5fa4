"""What each pair of an MLP's input features adds to a behaviour, by all ways to the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.contrast import Origins
from analysis.attribution.flow.flow import Flow, aligned, shapes
from analysis.behaviour.in_model import ModelCases
from circuits.algebra.bilinear import BilinearLayer
from sae.dictionary import Dictionary
from sae.sparse import Code

_NUMBERS = 2**22  # of products of the hidden layer that are held at a time


@dataclass(frozen=True, eq=False)
class FlowPairs:
    """The pairs of features that are active at any token of the cases but the first, up to the
    answer; the constant is numbered after all features."""

    flow: Flow
    layer_number: int
    dictionary: Dictionary

    @property
    def cases(self) -> ModelCases:
        """The behaviour's cases."""
        return self.flow.cases

    @cached_property
    def layer(self) -> BilinearLayer:
        """The MLP, in float64."""
        return self.flow.layer(self.layer_number)

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
        x = self.flow.inputs[self.layer_number][case, at]
        return self.dictionary.to("cpu").active(x.to(self.dictionary.dtype))

    @cached_property
    def written(self) -> Float[Tensor, "feature input"]:
        """What each feature writes to the MLP's (lifted) input; the constant last."""
        decoder = self.dictionary.decoder.cpu().double()
        offset = self.dictionary.offset.cpu().double()
        return torch.cat([self.layer.lift(decoder, 0.0), self.layer.lift(offset[None])])

    @cached_property
    def _entries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each pair at each token: the case, the pair's number, what it adds to the margin, and
        the product of both activations."""
        n, code = self.dictionary.n_feature, self.code
        left, right = (self.written @ factor.mT for factor in self.layer.factors)
        width = int(code.starts.diff().max()) + 1 if code.n_row else 1
        rows = max(1, _NUMBERS // (width * self.layer.d_hidden))
        side = self.cases.side.double()
        found = []
        for start in range(0, code.n_row, rows):
            case, at = self.tokens[start : start + rows].mT
            features, values = _padded(code, start, start + len(case), width, n)
            gates = self.flow.reads[self.layer_number][case, at] @ self.layer.down
            gates = gates * side[case][:, None]
            one, other = (
                factor[features.clamp(max=n)] * values[..., None] for factor in (left, right)
            )
            made = einsum(one * gates[:, None], other, "row a hidden, row b hidden -> row a b")
            made = made + made.mT - torch.diag_embed(made.diagonal(dim1=1, dim2=2))
            a, b = torch.triu_indices(width, width)
            low, high = features[:, a], features[:, b]
            numbers = torch.minimum(low, high) * (n + 1) + torch.maximum(low, high)
            product = values[:, a] * values[:, b]
            there = product != 0
            cases_of = case[:, None].expand_as(numbers)
            found.append((cases_of[there], numbers[there], made[:, a, b][there], product[there]))
        case, number, value, product = (torch.cat(parts) for parts in zip(*found, strict=True))
        return case, number, value, product

    def added(self, numbers: Int64[Tensor, " pair"]) -> Float[Tensor, "case pair"]:
        """What some pairs, in rising order, add to each case's margin."""
        case, number, value, _ = self._entries
        place = torch.searchsorted(numbers, number).clamp(max=max(len(numbers) - 1, 0))
        known = numbers[place] == number
        made = torch.zeros(len(self.cases), len(numbers), dtype=torch.float64)
        made.index_put_((case[known], place[known]), value[known], accumulate=True)
        return made

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair that adds anything, those that add most to any affected class first: number,
        first, second, weight (what it adds for a product of one, on average), contrast, elsewhere,
        and what it adds to each class."""
        cases = self.cases
        case, number, value, product = self._entries
        numbers, place = torch.unique(number, return_inverse=True)
        added, together = (
            torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, place, each)
            for each in (value, product)
        )
        counts = torch.bincount(cases.label, minlength=len(cases.signs)).double()
        by_class = torch.zeros(len(cases.signs), len(numbers), dtype=torch.float64)
        weight = value / counts[cases.label[case]]
        by_class.index_put_((cases.label[case], place), weight, accumulate=True)
        affected = cases.affected.double()
        others = 1 - affected
        n = self.dictionary.n_feature + 1
        columns = {
            "number": numbers,
            "first": numbers // n,
            "second": numbers % n,
            "weight": torch.where(together != 0, added / together, 0.0),
            "contrast": (affected / affected.sum()) @ by_class,
            "elsewhere": (others / others.sum().clamp(min=1)) @ by_class,
        } | dict(zip(cases.behaviour.labels, by_class, strict=True))
        table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        most = table[list(cases.behaviour.affected)].max(axis=1)
        order = most.sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

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

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Of each feature: its mean over the classes and what each factor and both add."""
        table = pd.DataFrame(
            self.cases.effects(self.values).mT.numpy(), columns=list(self.cases.effects_named)
        )
        table.insert(0, "feature", range(len(table)))
        return table

    @cached_property
    def origins(self) -> Origins:
        """Of the target effect that flows through this MLP: what it computes of both factors, what
        its input had already, and the rest: of the spread within the classes, or made later, by
        what reads it. Tokens are compared within `shapes`; a shape that lacks a class has no
        effects, and counts for the rest."""
        cases, target = self.cases, self.cases.target
        x, reads = (self._back(part) for part in (self.flow.inputs, self.flow.reads))
        total = cases.effects((reads * self.layer(x)).sum((1, 2)))[target]
        left, right = self.layer.factors
        computed = inherited = total.new_zeros(())
        for effects, gates, share in self._effects(self.layer.lift(x)):
            one, other = effects @ left.mT, effects @ right.mT
            crossed = einsum(one, other, gates, "a at h, b at h, at h -> a b")
            inherited = inherited + share * (crossed[0, target] + crossed[target, 0])
            for a in range(1, len(effects)):
                if a != target:
                    computed = computed + share * crossed[a, a ^ target]
        if not total:
            return Origins(0.0, 0.0, 0.0, 0.0)
        made, held = float(computed / total), float(inherited / total)
        return Origins(float(total), made, held, 1 - made - held)

    def computed(self, pairs: pd.DataFrame) -> Float[Tensor, "pair two"]:
        """Of the target effect of some pairs, what is computed of both factors and what was in the
        input already, in logits."""
        cases, target = self.cases, self.cases.target
        used = sorted(set(pairs["first"]) | set(pairs["second"]))
        column = torch.full((self.dictionary.n_feature + 1,), -1)
        column[used] = torch.arange(len(used))
        i, j = (column[torch.tensor(pairs[end].to_numpy())] for end in ("first", "second"))
        left, right = (self.written[used] @ factor.mT for factor in self.layer.factors)
        both = left[i] * right[j] + left[j] * right[i]
        both = torch.where((i == j)[:, None], both / 2, both)
        made = held = torch.zeros(len(i), dtype=torch.float64)
        for effects, gates, share in self._effects(aligned(cases, self._values_of(used))):
            form = share * gates @ both.mT  # offset pair
            first, second = effects[:, :, i], effects[:, :, j]
            held = held + (form * (first[0] * second[target] + first[target] * second[0])).sum(0)
            for a in range(1, len(effects)):
                if a != target:
                    made = made + (form * first[a] * second[a ^ target]).sum(0)
        sign = 1.0 if float(cases.effects(cases.side)[target]) > 0 else -1.0
        return sign * torch.stack([made, held], dim=1)

    def _values_of(self, used: list[int]) -> Float[Tensor, "case pos feature"]:
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

    def _back(self, parts: tuple[Tensor, ...]) -> Float[Tensor, "case at model"]:
        return aligned(self.cases, parts[self.layer_number])

    def _effects(
        self, back: Float[Tensor, "case at width"]
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Of each shape that has all classes: the effects of some values, what each product of the
        MLP's adds on average, and the share of the cases."""
        cases, reads = self.cases, self._back(self.flow.reads)
        for rows in shapes(cases):
            among = torch.zeros(len(cases), dtype=torch.bool)
            among[rows] = True
            if len(cases.label[rows].unique()) == len(cases.signs):
                gates = cases.effects(reads, among)[0] @ self.layer.down
                yield cases.effects(back, among), gates, len(rows) / len(cases)

    def active_together(self, share: float) -> list[tuple[int, int]]:
        """The pairs that are active at a token of this share of the affected cases or more."""
        case, number, _, _ = self._entries
        inside = self.cases.affected[self.cases.label] > 0
        both = torch.unique(torch.stack([number, case]), dim=1)
        numbers, counts = torch.unique(both[0][inside[both[1]]], return_counts=True)
        often = numbers[counts >= share * inside.sum()]
        n = self.dictionary.n_feature + 1
        return list(zip((often // n).tolist(), (often % n).tolist(), strict=True))


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
