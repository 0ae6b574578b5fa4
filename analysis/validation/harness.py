"""A behaviour's cases on a running model, to be measured with one edit after another.

Activations before the edited MLP are the same whatever is edited, so they are read once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.behaviour.in_model import ModelCases
from analysis.validation.edits import Change, EditKind, PairTerms, edited
from circuits.model.site import mlp_sites
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
        found = cases.read(mlp_sites(layer))
        x, y = (found[str(site)].to(self.model.device) for site in mlp_sites(layer))
        self.x, self.y = x, y
        self.plain = cases.margins()
        self.base = self.affected(self.plain)
        self.others = 1 - cases.affected
        self.floor = self.affected(self.swapped(lambda x, y, rows: self.mean(self.y).expand_as(y)))

    def mean(self, values: Float[Tensor, "case model"]) -> Float[Tensor, " model"]:
        """Over the classes, each alike."""
        return self.cases.class_means(values.cpu()).mean(0).to(values)

    def affected(self, margins: Float[Tensor, " case"]) -> float:
        """The mean margin of the affected classes."""
        means = self.cases.class_means(margins)
        return float((means * self.cases.affected).sum() / self.cases.affected.sum())

    def everywhere(self, change: Change) -> Float[Tensor, " case"]:
        """Margins with the MLP's output changed at every token."""
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

    @cached_property
    def codes(self) -> list[Code]:
        """The input features of every token, as many cases at a time as are run at a time."""
        site = mlp_sites(self.layer)[0]
        return [
            self.into.active(x[site].to(self.into.dtype).flatten(0, 1))
            for x in (self.model.read(rows, [site]) for rows in self.cases.tiles)
        ]

    def swapped(self, swap: Swap) -> Float[Tensor, " case"]:
        """Margins with the MLP's output changed at each case's position alone."""
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

    def side_effect(self, margins: Float[Tensor, " case"]) -> float:
        """The largest relative change of a class that is not affected; NaN where all are."""
        means, plain = (self.cases.class_means(m)[self.others > 0] for m in (margins, self.plain))
        return float(((means - plain).abs() / plain.abs()).max()) if len(plain) else float("nan")

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
            "contrast": contrast,
            "removed": 1 - contrast / self.base,
            "low": low,
            "high": high,
            "side_effect": self.side_effect(margins),
            "faithfulness": (contrast - self.floor) / spread if spread else float("nan"),
            **{label: float(mean) for label, mean in zip(labels, means, strict=True)},
        }
