"""What putting single pairs at their means does, computed from the weights and not by running the
model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.in_model import ModelCases
from circuits.attention.paths import text_paths
from circuits.model.site import Site


class Prediction:
    """What single edits do to some cases' margins, from the weights: with patterns and scales of
    each text as data, through later MLPs exactly."""

    def __init__(self, cases: ModelCases, some: Sequence[int]) -> None:
        self.cases, self.some = cases, list(some)
        self.model = model = cases.model.in_dtype(torch.float64)
        lengths = model.mask(cases.tokens).sum(1)
        self.paths = [text_paths(model, cases.tokens[row, : int(lengths[row])]) for row in some]
        sites = [Site("mlp_in", layer) for layer in range(model.n_layer)]
        end = Site("resid_post", model.n_layer - 1)
        self.read = [
            {s: x[0] for s, x in model.read(p.tokens[None], [*sites, end]).items()}
            for p in self.paths
        ]
        self.reads = cases.directions().double()
        self.end = end

    def without(
        self, layer: int, terms: PairTerms, mean: Float[Tensor, "some pos model"]
    ) -> Float[Tensor, " some"]:
        """The change of each margin where what some pairs of a layer write is put at this mean."""
        each = enumerate(zip(self.some, mean, strict=True))
        return torch.stack([self._one(n, row, layer, terms, at) for n, (row, at) in each])

    def _one(
        self, number: int, row: int, layer: int, terms: PairTerms, mean: Float[Tensor, "pos model"]
    ) -> Float[Tensor, ""]:
        paths, read = self.paths[number], self.read[number]
        positions = torch.arange(paths.n_position)
        wrote = terms(read[Site("mlp_in", layer)].to(terms.written)).double()
        lost = mean[: len(wrote)].to(wrote) - wrote
        lost[0] = 0  # a text's first token is left alone
        changed = {layer: lost}

        def arrives(site: Site) -> Tensor:
            return torch.stack([
                paths.carry(delta, Site("mlp_out", at), positions, site).sum(0)
                for at, delta in changed.items()
            ]).sum(0)  # fmt: skip

        for later in range(layer + 1, self.model.n_layer):
            bilinear = self.model.layer(later).to(torch.float64)
            x = read[Site("mlp_in", later)]
            changed[later] = bilinear(x + arrives(Site("mlp_in", later))) - bilinear(x)
        at = int(self.cases.position[row])
        scale = self.model.scale(read[self.end][at])
        made = arrives(self.end)[at] @ self.reads[row] / scale
        return self.cases.side[row] * made
