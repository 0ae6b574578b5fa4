"""Where a behaviour's contrast comes from: which layer, which pairs of features, computed or not.

The contrast is the mean margin of the affected classes (not good, not bad). By the direct path it
is a sum over the embedding and each layer's attention and MLP; within an MLP it is a sum over pairs
of features, the constant and the dictionary's error. Both add up to the model's number, because
every case is read with its own answers and its own final scale.

*Computed or inherited?* In effects of the factors, an MLP's input is ``x = μ + nN + sS + nsX``, and
the target effect (X, for negation) of ``xᵀQx`` is exactly ``2 NᵀQS``, computed here; ``2 μᵀQX``,
inherited, for it was in the input already; and what the spread within the classes adds. A rank-2
picture of ``Q`` cannot show the difference: it looks just as perfect where all is inherited.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.behaviour.bounds import DIRECT, INHERITED, WITHIN
from analysis.behaviour.in_model import ModelCases
from circuits.algebra.bilinear import BilinearLayer
from circuits.arguments import checked
from sae.dictionary import Dictionary

MOST_FEATURES = 2048  # whose pairs are all looked at: about a gigabyte


@dataclass(frozen=True, eq=False)
class Origins:
    """The shares of a layer's contrast: they sum to one, or are all zero where it has none."""

    contrast: float  # target effect of the MLP's output along the mean direction, in logits
    computed: float
    inherited: float
    within: float  # of the spread within the classes


def made_here(computed: float, inherited: float, within: float) -> bool:
    """Whether these shares are of a contrast that is computed, rather than read."""
    return computed > 0 and abs(inherited) <= INHERITED and abs(within) <= WITHIN


@checked
def by_layer(cases: ModelCases) -> pd.DataFrame:
    """What the embedding and each layer's attention and MLP add to the contrast, directly.

    Columns: component, layer, contrast (mean margin over the affected classes), elsewhere (over the
    others), which sum to the model's own margins where the metric is a logit difference; and of an
    MLP (else NaN) what share of its own contrast is computed, inherited and within the classes.
    """
    parts = [("embedding", 0, "resid_pre@0")]
    layers = range(cases.model.n_layer)
    for layer in layers:
        parts += [("attention", layer, f"attn_out@{layer}"), ("MLP", layer, f"mlp_out@{layer}")]
    sites = [*(site for _, _, site in parts), *(f"mlp_in@{layer}" for layer in layers)]
    found, reads = cases.read_with_answers(sites)
    others = 1 - cases.affected
    rows = []
    for component, layer, site in parts:
        values = (found[site] * reads).sum(1)
        row: dict[str, Any] = {"component": component, "layer": layer}
        row["contrast"] = float((cases.weights(cases.affected) * values).sum())
        row["elsewhere"] = float((cases.weights(others) * values).sum()) if others.any() else 0.0
        row |= dict.fromkeys(("computed", "inherited", "within"), float("nan"))
        if component == "MLP":
            bilinear = cases.model.layer(layer).to("cpu", torch.float64)
            x = found[f"mlp_in@{layer}"].double()
            shares = asdict(origins(cases, bilinear, x, reads.double().mean(0)))
            if shares.pop("contrast"):
                row |= shares
        rows.append(row)
    return pd.DataFrame(rows)


def origins(
    cases: ModelCases,
    layer: BilinearLayer,
    x: Float[Tensor, "case model"],
    direction: Float[Tensor, " model"],
    among: Bool[Tensor, " case"] | None = None,
) -> Origins:
    """The shares of the target effect of ``direction · layer(x)``; ``among`` some of the cases."""
    form = layer.interaction(direction)
    lifted = layer.lift(x)
    total = cases.effects(((lifted @ form) * lifted).sum(1), among)[cases.target]
    effects = cases.effects(lifted, among)
    n_effect, target = len(effects), cases.target
    crossed = effects @ form @ effects.mT
    # effects are numbered so that two of them make the one whose number is their exclusive or
    inherited = crossed[0, target] + crossed[target, 0]
    computed = sum(
        (crossed[one, one ^ target] for one in range(1, n_effect) if one != target),
        crossed.new_zeros(()),
    )
    if not total:  # nothing to have a share of
        return Origins(0.0, 0.0, 0.0, 0.0)
    return Origins(
        float(total),
        float(computed / total),
        float(inherited / total),
        float(1 - (computed + inherited) / total),
    )


@dataclass(frozen=True)
class Totals:
    """A layer's contrast as a sum, in logits: the first four make the last."""

    pairs: float  # of features
    constant: float  # with a feature, or itself
    bias: float
    error: float  # of the dictionary
    mlp: float


@dataclass(frozen=True, eq=False)
class PairAccount:
    """What each pair of an MLP's input features adds to a behaviour's contrast, in logits."""

    cases: ModelCases
    layer_number: int
    layer: BilinearLayer
    dictionary: Dictionary
    x: Float[Tensor, "case model"]  # the MLP's input
    reads: Float[Tensor, "case model"]  # what the contrast reads of its output
    margin: float  # the model's own, over the affected classes

    @classmethod
    def of(cls, cases: ModelCases, layer: int, dictionary: Dictionary) -> PairAccount:
        """Of a layer, by its direct path to the answers, in float64; made once for some cases."""
        dictionary.check_autoencoder("PairAccount.of")

        def account() -> PairAccount:
            site = f"mlp_in@{layer}"
            found, reads = cases.read_with_answers([site])
            weights = cases.weights(cases.affected)
            return cls(
                cases,
                layer,
                cases.model.layer(layer).to("cpu", torch.float64),
                dictionary.to("cpu"),
                found[site].double(),
                reads.double(),
                float((weights * (found[cases.last] * reads).sum(1)).sum()),
            )

        return cases.once((layer, dictionary.fingerprint), account)

    @cached_property
    def features(self) -> Int64[Tensor, " feature"]:
        """Those that are active in any case; the constant, numbered after all, last.

        Of more than a few thousand, for which all pairs would not fit in memory, those that write
        most; what the others write then counts as the dictionary's error.
        """
        code = self.dictionary.active(self.x.to(self.dictionary.dtype))
        some = code.counts.nonzero()[:, 0]
        if len(some) > MOST_FEATURES:
            total = torch.zeros(self.dictionary.n_feature, dtype=torch.float64)
            total.scatter_add_(0, code.features, code.values.double().abs())
            written = total[some] * self.dictionary.decoder[some].double().norm(dim=1)
            some = some[written.topk(MOST_FEATURES).indices].sort().values
        return torch.cat([some, torch.tensor([self.dictionary.n_feature])])

    @cached_property
    def values(self) -> Float[Tensor, "case feature"]:
        """How active each is; the constant is 1."""
        some = self.features[:-1]
        code = self.dictionary.active(self.x.to(self.dictionary.dtype))
        place = torch.full((self.dictionary.n_feature,), -1)
        place[some] = torch.arange(len(some))
        known = place[code.features] >= 0
        values = torch.zeros(len(self.x), len(some) + 1, dtype=torch.float64)
        values[code.rows[known], place[code.features[known]]] = code.values[known].double()
        values[:, -1] = 1
        return values

    @cached_property
    def written(self) -> Float[Tensor, "feature input"]:
        """What each writes to the MLP's (lifted) input."""
        decoder = self.dictionary.decoder[self.features[:-1]].double()
        offset = self.dictionary.offset.double()
        return torch.cat([self.layer.lift(decoder, 0.0), self.layer.lift(offset[None])])

    @cached_property
    def error(self) -> Float[Tensor, "case input"]:
        """What the features miss."""
        return self.layer.lift(self.x) - self.values @ self.written

    @cached_property
    def mean_read(self) -> Float[Tensor, " model"]:
        """The direction that the mean case reads."""
        return self.reads.mean(0)

    @cached_property
    def origins(self) -> Origins:
        """Computed here, or inherited."""
        return self.origins_among(None)

    def origins_among(self, among: Bool[Tensor, " case"] | None) -> Origins:
        """The same among some of the cases, along the direction that all read on average."""
        return origins(self.cases, self.layer, self.x, self.mean_read, among)

    @property
    def towards(self) -> float:
        """The sign of a contrast that favours the right answers."""
        return 1.0 if self.cases.effects(self.cases.side)[self.cases.target] > 0 else -1.0

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Of each feature: its mean over the classes and what each factor and both add."""
        effects = self.cases.effects(self.values).mT
        table = pd.DataFrame(effects.numpy(), columns=list(self.cases.effects_named))
        table.insert(0, "feature", self.features.numpy())
        return table

    @cached_property
    def weight(self) -> Float[Tensor, "feature feature"]:
        """Twice the form along the mean direction (once on the diagonal): each pair's weight."""
        form = self.written @ self.layer.interaction(self.mean_read) @ self.written.mT
        return 2 * form - torch.diag(form.diagonal())

    def added(
        self, places: Int64[Tensor, " some"] | slice = slice(None)
    ) -> Float[Tensor, "class some some"]:
        """What each pair of some of the features adds to each class's margin."""
        written, values = self.written[places], self.values[:, places]
        classes = torch.eye(len(self.cases.signs), dtype=torch.float64)
        total = written.new_zeros(len(classes), len(written), len(written))
        for rows, direction, length in self.cases.by_answers(self.reads):
            form = written @ self.layer.interaction(direction) @ written.mT
            z = values[rows]
            for number, one in enumerate(classes):
                weights = self.cases.weights(one)[rows] * length
                total[number] += form * ((z * weights[:, None]).mT @ z)
        return total * (2 - torch.eye(len(written), dtype=written.dtype))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair that is active together in any affected case, or adds anything: first, second,
        weight, contrast, elsewhere, together, and what it adds to each class's margin, under the
        class's label.

        ``contrast`` is the mean over the affected classes, ``elsewhere`` over the others;
        ``together`` is the share of affected cases that both are active in.
        """
        cases = self.cases
        added = self.added().triu()
        affected = cases.affected.double()
        others = 1 - affected
        inside = torch.tensordot(affected / affected.sum(), added, dims=1)
        outside = torch.tensordot(others / others.sum().clamp(min=1), added, dims=1)
        on = (self.values != 0).double()[affected[cases.label] > 0]
        together = on.mT @ on / len(on)
        first, second = ((added != 0).any(0) | (together.triu() > 0)).nonzero(as_tuple=True)
        columns = {
            "first": self.features[first],
            "second": self.features[second],
            "weight": self.weight[first, second],
            "contrast": inside[first, second],
            "elsewhere": outside[first, second],
            "together": together[first, second],
            **{label: added[c, first, second] for c, label in enumerate(cases.behaviour.labels)},
        }
        table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        return table.sort_values(
            "contrast", key=abs, ascending=False, kind="stable", ignore_index=True
        )

    @cached_property
    def case_totals(self) -> Float[Tensor, " case"]:
        """What the whole MLP adds to each case's margin."""
        return self.cases.side * (self.layer(self.x) * self.reads).sum(1)

    @cached_property
    def class_totals(self) -> Float[Tensor, " class"]:
        """The same for each class."""
        return self.cases.class_means(self.case_totals)

    def added_to_cases(self, pairs: pd.DataFrame) -> Float[Tensor, "case pair"]:
        """What each of some pairs adds to each case's margin."""
        i, j = self._ends(pairs)
        added = self.values[:, i] * self.values[:, j]
        for rows, direction, length in self.cases.by_answers(self.reads):
            form = self.written @ self.layer.interaction(direction) @ self.written.mT
            added[rows] *= form[i, j] * length[:, None]
        return added * self.cases.side.double()[:, None] * torch.where(i == j, 1.0, 2.0)

    def _ends(self, pairs: pd.DataFrame) -> tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]:
        """The places of each pair's features among the active ones."""
        place = {int(feature): i for i, feature in enumerate(self.features)}
        first, second = (
            torch.tensor([place[f] for f in pairs[name]], dtype=torch.int64)
            for name in ("first", "second")
        )
        return first, second

    def computed(self, pairs: pd.DataFrame) -> Float[Tensor, "pair two"]:
        """Of the target effect of some pairs, what is computed and what inherited, in logits:
        ``weight · (Nᵢ Sⱼ + Sᵢ Nⱼ)`` and ``weight · (μᵢ Xⱼ + Xᵢ μⱼ)``."""
        i, j = self._ends(pairs)
        effects, target = self.cases.effects(self.values), self.cases.target
        sign = 1.0 if self.origins.contrast >= 0 else -1.0
        weight = sign * self.weight[i, j]
        made = sum(
            (effects[a, i] * effects[a ^ target, j] for a in range(1, len(effects)) if a != target),
            torch.zeros(len(i), dtype=torch.float64),
        )
        held = effects[0, i] * effects[target, j] + effects[target, i] * effects[0, j]
        return torch.stack([weight * made, weight * held], dim=1)

    def computed_by(self, ends: list[tuple[int, int]]) -> float:
        """Of what some pairs add to the target effect, the share that they compute from the two
        factors; NaN where they add less than a tenth of the contrast."""
        there = set(self.features.tolist())
        active = [pair for pair in ends if there.issuperset(pair)]
        pairs = pd.DataFrame(active, columns=["first", "second"], dtype="int64")
        i, j = self._ends(pairs)
        added = (self.weight[i, j] * self.values[:, i] * self.values[:, j]).sum(1)
        total = float(self.cases.effects(added)[self.cases.target])
        contrast = self.origins.contrast
        if not contrast or total / contrast < DIRECT:
            return float("nan")
        return float(self.computed(pairs)[:, 0].sum()) / abs(total)

    @cached_property
    def totals(self) -> Totals:
        """The contrast as a sum."""
        cases, constant = self.cases, self.dictionary.n_feature
        weights = cases.weights(cases.affected)
        with_constant = self.pairs["second"] == constant
        outputs = self.layer(self.x)
        bias = 0.0
        if self.layer.down_bias is not None:
            bias = float((weights * (self.reads @ self.layer.down_bias)).sum())
        return Totals(
            pairs=float(self.pairs.loc[~with_constant, "contrast"].sum()),
            constant=float(self.pairs.loc[with_constant, "contrast"].sum()),
            bias=bias,
            error=self._error(weights),
            mlp=float((weights * (outputs * self.reads).sum(1)).sum()),
        )

    def _error(self, weights: Float[Tensor, " case"]) -> float:
        left, right = self.layer.factors
        lifted, missed = self.layer.lift(self.x), self.error
        known = lifted - missed
        through = (lifted @ left.mT) * (lifted @ right.mT) - (known @ left.mT) * (known @ right.mT)
        return float((weights * ((through @ self.layer.down.mT) * self.reads).sum(1)).sum())
