"""What each pair of an MLP's input features does to a behaviour's margins, as a share of what all
of that MLP's output does beyond its mean (`LayerEffect`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.across.active_pairs import ActivePairs
from analysis.attribution.across.effect import LayerEffect, beyond_mean
from analysis.attribution.across.recorded import aligned, class_means, matched
from analysis.attribution.contrast import Origins
from analysis.behaviour.in_model import ModelCases
from circuits.algebra.bilinear import BilinearLayer
from sae.dictionary import Dictionary

_NUMBERS = 2**22  # of products at tokens that are held at a time
_N_LISTED = 4096  # pairs


@dataclass(frozen=True, eq=False)
class EffectOrigins(Origins):
    """The same of what depends on an MLP by any way: all five shares sum to one."""

    later: float  # made by what reads it, later layers or norms, otherwise in each class


@dataclass(frozen=True, eq=False)
class EffectPairs:
    """Of the pairs that are active (`ActivePairs`), those that do most."""

    effect: LayerEffect
    dictionary: Dictionary

    @property
    def cases(self) -> ModelCases:
        """The behaviour's cases."""
        return self.effect.recorded.cases

    @property
    def layer_number(self) -> int:
        """Of the MLP."""
        return self.effect.layer

    @cached_property
    def layer(self) -> BilinearLayer:
        """The MLP, in float64."""
        return self.effect.recorded.layer(self.layer_number)

    @cached_property
    def active(self) -> ActivePairs:
        """All pairs that are active."""
        x = self.effect.recorded.inputs[self.layer_number]
        return ActivePairs(self.cases, x, self.dictionary)

    @cached_property
    def written(self) -> Float[Tensor, "feature input"]:
        """What each feature writes to the MLP's (lifted) input; the constant last."""
        decoder = self.dictionary.decoder.cpu().double()
        offset = self.dictionary.offset.cpu().double()
        return torch.cat([self.layer.lift(decoder, 0.0), self.layer.lift(offset[None])])

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pair, by its number, in rising order: what it does for a product of one, on
        average, and how much it does in either direction."""
        n, side = self.dictionary.n_feature, self.cases.side.double()
        left, right = (self.written @ factor.mT for factor in self.layer.factors)
        found = []
        for some in self.active.by_tokens(self.layer.d_hidden):
            gates = self.effect.reads[some.case, some.at] @ self.layer.down
            gates = gates * side[some.case][:, None]
            one, other = (
                factor[some.features.clamp(max=n)] * some.values[..., None]
                for factor in (left, right)
            )
            made = einsum(one * gates[:, None], other, "row a hidden, row b hidden -> row a b")
            made = made + made.mT - torch.diag_embed(made.diagonal(dim1=1, dim2=2))
            there = some.product != 0
            value = made[:, some.ends[0], some.ends[1]]
            found.append((some.numbers[there], value[there], some.product[there]))
        number, value, product = (torch.cat(parts) for parts in zip(*found, strict=True))
        numbers, place = torch.unique(number, return_inverse=True)
        added, together, size = (
            torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, place, each)
            for each in (value, product, value.abs())
        )
        return numbers, torch.where(together != 0, added / together, 0.0), size

    @cached_property
    def energy(self) -> float:
        """Of all pairs that are active, listed or not, as of the matrix of their weights."""
        numbers, weight, _ = self._sums
        first, second = self.active.ends(numbers)
        return float((weight.square() * torch.where(first == second, 1.0, 0.5)).sum())

    @cached_property
    def _listed(self) -> tuple[Tensor, Tensor, Tensor]:
        """First, second and weight of the pairs that are listed."""
        numbers, weight, size = self._sums
        some = size.topk(min(_N_LISTED, len(size))).indices.sort().values
        return *self.active.ends(numbers[some]), weight[some]

    @cached_property
    def added(self) -> Float[Tensor, "case pair"]:
        """What each of the listed pairs adds to each case's margin, beyond its mean over the
        classes; in the order of their numbers."""
        return self._added[0]

    @cached_property
    def added_running(self) -> Float[Tensor, "case pair"]:
        """The same in the network as it runs."""
        return self._added[1]

    @cached_property
    def _added(self) -> tuple[Tensor, Tensor]:
        first, second, _ = self._listed
        side, reads = self.cases.side.double()[:, None, None], self.effect.reads
        gates = [(each @ self.layer.down) * side for each in (reads, self.effect.running_reads)]
        made = [torch.empty(len(self.cases), len(first), dtype=torch.float64) for _ in gates]
        step = max(1, _NUMBERS // reads[..., 0].numel())
        for start in range(0, len(first), step):
            here = slice(start, start + step)
            used, ends = torch.unique(torch.stack([first[here], second[here]]), return_inverse=True)
            values = self.active.values_of(used.tolist())
            product = beyond_mean(self.effect.recorded, values[..., ends[0]] * values[..., ends[1]])
            both = self.products(used, *ends).mT
            for each, gate in zip(made, gates, strict=True):
                each[:, here] = (product * (gate @ both)).sum(1)
        return made[0], made[1]

    def products(self, used: Tensor, i: Tensor, j: Tensor) -> Float[Tensor, "pair hidden"]:
        """What pairs of some features make in the hidden layer, for a product of one."""
        left, right = (self.written[used] @ factor.mT for factor in self.layer.factors)
        both = left[i] * right[j] + left[j] * right[i]
        return torch.where((i == j)[:, None], both / 2, both)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The pairs that do most, in the order of their numbers: first, second, weight (what it
        adds for a product of one, on average), contrast, elsewhere, and what it adds to each class
        beyond its mean over the classes."""
        cases = self.cases
        first, second, weight = self._listed
        by_class = cases.class_means(self.added)
        affected = cases.affected.double()
        others = 1 - affected
        columns = {
            "first": first,
            "second": second,
            "weight": weight,
            "contrast": (affected / affected.sum()) @ by_class,
            "elsewhere": (others / others.sum().clamp(min=1)) @ by_class,
        } | dict(zip(cases.behaviour.labels, by_class, strict=True))
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})

    @cached_property
    def known(self) -> float:
        """Of the contrast that depends on this MLP, the part that the dictionary's features and
        the constant make, all pairs together."""
        cases, (case, at) = self.cases, self.active.tokens.mT
        x = self.effect.recorded.inputs[self.layer_number]
        read = self.dictionary.decode(self.dictionary.encode(x[case, at].to(self.dictionary.dtype)))
        seen = x.clone()
        seen[case, at] = read.to(x)
        made = self.effect.shared(self.layer(seen))
        return float((cases.weights(cases.affected) * cases.side * made).sum())

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Of each feature: its mean over the classes and what each factor and both add."""
        table = pd.DataFrame(
            self.cases.effects(self.active.values).mT.numpy(),
            columns=list(self.cases.effects_named),
        )
        table.insert(0, "feature", range(len(table)))
        return table

    @cached_property
    def origins(self) -> EffectOrigins:
        """Of the target effect that depends on this MLP: what it computes of both factors, what
        its input had already, what is made later, as the network reads what it writes otherwise in
        each class, and of the spread within the classes the rest. The first three are of class
        means: of inputs, and of what is read. Tokens are compared within `matched` cases; where
        those lack a class they have no effects, and count for the rest."""
        cases, target = self.cases, self.cases.target
        x = aligned(cases, self.effect.recorded.inputs[self.layer_number])
        total = cases.effects(cases.side * self.effect.total)[target]
        left, right = self.layer.factors
        computed = inherited = later = total.new_zeros(())
        for effects, gates, share in self._effects(self.layer.lift(x)):
            one, other = effects @ left.mT, effects @ right.mT
            crossed = einsum(one, other, gates[0], "a at h, b at h, at h -> a b")
            inherited = inherited + share * (crossed[0, target] + crossed[target, 0])
            for a in range(1, len(effects)):
                if a != target:
                    computed = computed + share * crossed[a, a ^ target]
                    turned = [a ^ target ^ b for b in range(len(effects))]
                    later = later + share * (gates[a] * (one * other[turned]).sum(0)).sum()
        if not total:
            return EffectOrigins(0.0, 0.0, 0.0, 0.0, 0.0)
        made, held, after = (float(part / total) for part in (computed, inherited, later))
        return EffectOrigins(float(total), made, held, 1 - made - held - after, after)

    def computed(self, pairs: pd.DataFrame) -> Float[Tensor, "pair two"]:
        """Of the target effect of some pairs, what is computed of both factors and what was in the
        input already, in logits."""
        cases, target = self.cases, self.cases.target
        used = sorted(set(pairs["first"]) | set(pairs["second"]))
        column = torch.full((self.dictionary.n_feature + 1,), -1)
        column[used] = torch.arange(len(used))
        i, j = (column[torch.tensor(pairs[end].to_numpy())] for end in ("first", "second"))
        both = self.products(torch.tensor(used), i, j)
        made = held = torch.zeros(len(i), dtype=torch.float64)
        for effects, gates, share in self._effects(aligned(cases, self.active.values_of(used))):
            form = share * gates[0] @ both.mT  # offset pair
            first, second = effects[:, :, i], effects[:, :, j]
            held = held + (form * (first[0] * second[target] + first[target] * second[0])).sum(0)
            for a in range(1, len(effects)):
                if a != target:
                    made = made + (form * first[a] * second[a ^ target]).sum(0)
        sign = 1.0 if float(cases.effects(cases.side)[target]) > 0 else -1.0
        return sign * torch.stack([made, held], dim=1)

    def _effects(
        self, back: Float[Tensor, "case at width"]
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Of matched cases of all classes: the effects of some values, those of what each product
        of the MLP's adds, and the share of the cases. Where a class has no token there are none."""
        cases, reads = self.cases, aligned(self.cases, self.effect.reads)
        signs = cases.signs.double()
        for rows in matched(cases):
            if len(cases.label[rows].unique()) == len(cases.signs):
                whole = class_means(cases, back, rows)[1].all(0)[:, None]
                values, gates = (
                    einsum(signs, whole * class_means(cases, each, rows)[0],
                           "label effect, label at w -> effect at w") / len(signs)
                    for each in (back, reads)
                )  # fmt: skip
                yield values, gates @ self.layer.down, len(rows) / len(cases)
