"""A behaviour's cases on a running model, to be measured with one edit after another.

Activations before the edited MLP are the same whatever is edited, so they are read once and kept;
after the last MLP there is nothing but the norm and the logits, which are computed where they are
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.bounds import LEAST
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.behaviour.strata import frames, strata
from analysis.validation.criteria import Whole
from analysis.validation.edits import Change, EditKind, edited
from circuits.algebra.bilinear import computing_dtype
from circuits.graph.circuit import Circuit
from circuits.model.site import Site, mlp_sites
from sae.dictionary import Dictionary
from sae.sparse import Code

_N_BOOTSTRAP = 1000

# of the input and output at each case's position, and the cases' numbers: the new output there
Swap = Callable[[Tensor, Tensor, Tensor], Tensor]


class Harness:
    """A behaviour's cases, to be run with one edit after another."""

    def __init__(self, cases: ModelCases, layer: int, into: Dictionary, seed: int) -> None:
        self.cases, self.model, self.layer, self.into = cases, cases.model, layer, into
        self.seed = seed
        sites = [*mlp_sites(layer), Site("resid_mid", layer)]
        found = cases.read(sites)
        self.x, self.y, self.before = (found[str(site)].to(self.model.device) for site in sites)
        self.plain = cases.margins()
        self.base = self.affected(self.plain)
        self.at_mean = self.swapped(lambda x, y, rows: self.mean(self.y).expand_as(y))
        self.floor = self.affected(self.at_mean)

    @property
    def is_last(self) -> bool:
        """Whether no attention follows: then what an edit does at other tokens is never seen."""
        return self.layer == self.model.n_layer - 1

    def mean(self, values: Float[Tensor, "case model"]) -> Float[Tensor, " model"]:
        """Over the classes, each alike."""
        return self.cases.class_means(values.cpu()).mean(0).to(values)

    def affected(self, margins: Float[Tensor, " case"]) -> float:
        """The mean margin of the affected classes."""
        return affected_margin(self.cases, margins)

    def everywhere(self, change: Change) -> Float[Tensor, " case"]:
        """Margins with the MLP's output changed at every token."""
        if self.is_last:
            return self._answered(change(self.x, self.y))
        with edited(self.model, self.layer, change):
            return self.cases.margins()

    def without(self, terms: PairTerms) -> Float[Tensor, " case"]:
        """Margins with what some pairs write removed at every token.

        The activations before the edit are the same whatever is edited: they are kept.
        """
        codes = iter(self.codes)

        def change(x: Tensor, y: Tensor) -> Tensor:
            return y - (terms.products_of(next(codes)) @ terms.written).view(y.shape)

        return self.everywhere(change)

    def without_features(self, features: list[int]) -> Float[Tensor, " case"]:
        """Margins with what some features write removed from the MLP's input, at every token but
        the first. This needs no bilinear layer."""
        codes = iter(self.codes)

        def change(x: Tensor) -> Tensor:
            new = x - self._written(next(codes), features).view(x.shape).to(x)
            return new if self.is_last else torch.cat([x[:, :1], new[:, 1:]], dim=1)

        if self.is_last:
            mlp = self.model.network.model.layers[self.layer].mlp
            return self._answered(mlp(change(self.x).to(self.model.dtype)))
        with self.model.replaced({mlp_sites(self.layer)[0]: change}):
            return self.cases.margins()

    def _written(self, code: Code, features: list[int]) -> Float[Tensor, "row model"]:
        """What some features of a code write."""
        chosen = torch.isin(code.features, torch.tensor(features).to(code.features))
        return replace(code, values=code.values * chosen).times(self.into.decoder)

    @cached_property
    def codes(self) -> list[Code]:
        """The input features of every token, as many cases at a time as are run at a time; of the
        cases' positions alone where no others are seen."""
        inputs = [self.x] if self.is_last else self.inputs
        return [self.into.active(x.to(self.into.dtype).flatten(0, -2)) for x in inputs]

    @cached_property
    def inputs(self) -> list[Float[Tensor, "case pos model"]]:
        """The MLP's input at every token, as many cases at a time as are run at a time."""
        site = mlp_sites(self.layer)[0]
        return [self.model.read(rows, [site])[site] for rows in self.cases.tiles]

    @property
    def tokens_read(self) -> Float[Tensor, "token model"]:
        """The MLP's input at the tokens of the texts."""
        kept = [
            x[self.model.mask(rows).to(x.device)]
            for x, rows in zip(self.inputs, self.cases.tiles, strict=True)
        ]
        return torch.cat(kept).to(self.into.dtype)

    def swapped(self, swap: Swap) -> Float[Tensor, " case"]:
        """Margins with the MLP's output changed at each case's position alone."""
        if self.is_last:
            every = torch.arange(len(self.cases), device=self.y.device)
            return self._answered(swap(self.x, self.y, every))
        place = 0

        def change(x: Tensor, y: Tensor) -> Tensor:
            nonlocal place
            cases = torch.arange(place, place + len(y))
            place += len(y)
            here = torch.arange(len(y), device=y.device)
            at = self.cases.position[cases].to(y.device)
            new = y.clone()
            new[here, at] = swap(x[here, at], y[here, at], cases.to(y.device)).to(y)
            return new

        return self.everywhere(change)

    def _answered(self, y: Float[Tensor, "case model"]) -> Float[Tensor, " case"]:
        """Margins with these outputs of the last MLP at the cases' positions."""
        logits = self.model.logits_of(self.before + y.to(self.before)).cpu()
        return self.cases.margins(logits.to(computing_dtype(logits)))

    def side_effect(self, margins: Float[Tensor, " case"]) -> float:
        """The largest relative change of a class that is not affected; NaN where all are."""
        return largest_side_effect(self.cases, margins, self.plain)

    def strata_table(
        self, without: Float[Tensor, " case"], kept: Float[Tensor, " case"]
    ) -> pd.DataFrame:
        """What the circuit does in each stratum."""
        return effects_by_stratum(self.cases, self.plain, without, kept, self.at_mean)

    def case_table(
        self, without: Float[Tensor, " case"], kept: Float[Tensor, " case"]
    ) -> pd.DataFrame:
        """The margins of every case: as it is, without the circuit, and with it alone."""
        labels = [case.label for case in self.cases.behaviour.cases]
        margins = {"margin": self.plain, "without": without, "alone": kept}
        return pd.DataFrame({"class": labels} | {k: v.tolist() for k, v in margins.items()})

    def origins_table(self) -> pd.DataFrame:
        """Whether the contrast, towards the right answers, is computed or inherited: over all
        cases, and in each frame."""
        account = PairAccount.of(self.cases, self.layer, self.into)
        rows: list[dict[str, Any]] = []
        for kind, value, among in frames(self.cases):
            found = asdict(account.origins_among(among))
            found["contrast"] *= account.towards
            rows.append({"kind": kind, "value": value, "n": int(among.sum())} | found)
        return pd.DataFrame(rows)

    def whole(self, circuit: Circuit, without: Float[Tensor, " case"]) -> Whole:
        """What criteria ask over all cases, of a circuit and the margins without it."""
        account = PairAccount.of(self.cases, self.layer, self.into)
        ends = [(pair.first, pair.second) for pair in circuit.interactions]
        return Whole(
            int(torch.bincount(self.cases.label, minlength=len(self.cases.signs)).min()),
            float(self.cases.shown(self.plain).min()),
            1 - self.affected(without) / self.base,
            account.computed_by(ends),
        )

    def among(self, chosen: Bool[Tensor, " case"]) -> Harness | None:
        """The same with some of the cases alone, for rows of them; None where a class has too few
        of them to say anything."""
        if bool(chosen.all()):
            return self
        counts = torch.bincount(self.cases.label[chosen], minlength=len(self.cases.signs))
        if int(counts.min()) < LEAST:
            return None
        behaviour = self.cases.behaviour
        cases = tuple(c for c, on in zip(behaviour.cases, chosen.tolist(), strict=True) if on)
        some = copy(self)
        some.cases = in_model(replace(behaviour, cases=cases), self.model)
        some.plain, some.at_mean = self.plain[chosen], self.at_mean[chosen]
        some.base, some.floor = some.affected(some.plain), some.affected(some.at_mean)
        return some

    def row(
        self, kind: EditKind, margins: Float[Tensor, " case"], n_pairs: int, target: str = ""
    ) -> dict[str, Any]:
        """One line of the table; ``removed`` is the share of the affected classes' margin that the
        edit removes, more than one where it turns answers round."""
        cases, labels = self.cases, self.cases.behaviour.labels
        means = cases.class_means(margins)
        draws = cases.resampled(margins, _N_BOOTSTRAP, self.seed)
        plain_draws = cases.resampled(self.plain, _N_BOOTSTRAP, self.seed)
        inside = cases.affected.double()
        removed = 1 - (draws @ inside) / (plain_draws @ inside)
        low, high = (float(removed.quantile(q)) for q in (0.025, 0.975))
        contrast = self.affected(margins)
        spread = self.base - self.floor
        return {
            "kind": kind.value,
            "target": target,
            "n_pairs": n_pairs,
            "n_cases": len(cases),
            "contrast": contrast,
            "removed": 1 - contrast / self.base,
            "low": low,
            "high": high,
            "side_effect": self.side_effect(margins),
            "faithfulness": (contrast - self.floor) / spread if spread else float("nan"),
            **{label: float(mean) for label, mean in zip(labels, means, strict=True)},
        }


def affected_margin(cases: ModelCases, margins: Float[Tensor, " case"]) -> float:
    """The mean margin of the affected classes, each alike."""
    means = cases.class_means(margins)
    return float((means * cases.affected).sum() / cases.affected.sum())


def largest_side_effect(
    cases: ModelCases, margins: Float[Tensor, " case"], plain: Float[Tensor, " case"]
) -> float:
    """The largest relative change of a class that is not affected; NaN where all are."""
    other = cases.affected == 0
    means, before = (cases.class_means(m)[other] for m in (margins, plain))
    return float(((means - before).abs() / before.abs()).max()) if len(before) else float("nan")


def effects_by_stratum(
    cases: ModelCases,
    plain: Float[Tensor, " case"],
    without: Float[Tensor, " case"],
    kept: Float[Tensor, " case"],
    at_mean: Float[Tensor, " case"],
) -> pd.DataFrame:
    """What a circuit does in each stratum: its mean margin, the share of it that is ``left``
    without the circuit, and the share of the MLP's effect that is ``kept`` by it alone. NaN where
    an affected stratum has no margin to lose, or the MLP none to add: it is not shown there, so
    nothing can be claimed of it."""
    rows = []
    for affected in (True, False):
        for each in strata(cases, affected):
            margin, left, alone, floor = (
                float(margins[each.rows].mean()) for margins in (plain, without, kept, at_mean)
            )
            there = margin > 0 if affected else margin != 0
            share = (alone - floor) / (margin - floor) if margin > floor else float("nan")
            rows.append((each.kind, each.value, affected, len(each.rows), each.judged, margin,
                         left / margin if there else float("nan"), share))  # fmt: skip
    names = ["kind", "value", "affected", "n", "judged", "margin", "left", "kept"]
    return pd.DataFrame(rows, columns=names)


def counterparts(cases: ModelCases) -> Int64[Tensor, " case"]:
    """For each case that of the same minimal pair which asks for the other answer, and differs in
    nothing but the last factor where there are two; itself where there is none."""
    assert cases.pair is not None  # the caller has looked
    behaviour, places = cases.behaviour, []
    for case, side in zip(behaviour.cases, cases.side.tolist(), strict=True):
        alike = [behaviour.value_of(case, factor) for factor in behaviour.factors[:-1]]
        places.append((side, case.pair, *alike))
    number = {place: n for n, place in enumerate(places)}
    return torch.tensor([number.get((-s, *rest), n) for n, (s, *rest) in enumerate(places)])


def have_counterparts(cases: ModelCases) -> Bool[Tensor, " case"]:
    """Which cases have one that is not themselves: a patch says something of these alone."""
    return counterparts(cases) != torch.arange(len(cases))


def some_cases(cases: ModelCases, rows: Int64[Tensor, " row"]) -> ModelCases:
    """Some of the cases, at least one of each class."""
    behaviour = replace(
        cases.behaviour, cases=tuple(cases.behaviour.cases[row] for row in rows.tolist())
    )
    parts = {name: getattr(cases, name)[rows] for name in ("tokens", "position", "answer", "side")}
    # classes are in order of appearance, which may be another one here
    order = torch.tensor([cases.behaviour.labels.index(label) for label in behaviour.labels])
    label = order.argsort()[cases.label[rows]]
    signs = cases.signs[order]
    return replace(cases, behaviour=behaviour, kept={}, label=label, signs=signs, **parts)
