"""What the pairs of earlier layers feed to those of later ones.

A later pair is a product of two activations, each a linear function of the stream where it is
active. So with attention patterns and norm scales as they were, what an earlier pair wrote has an
exact part in it: half through either of its features, all of it where the other is the constant.
MLPs between pass nothing on: what they write counts as written by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.attribution.across.effect import LayerEffect, beyond_mean
from analysis.attribution.across.pairs import EffectPairs
from analysis.attribution.across.recorded import Recorded
from analysis.attribution.pair_terms import PairTerms
from circuits.errors import check_memory
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_Ends = Sequence[tuple[int, int]]
_HELD = 6  # numbers of each pair at each token that are held at a time


@dataclass(frozen=True, eq=False)
class LaterPairs:
    """Some pairs of an MLP, and how the contrast reads their products."""

    recorded: Recorded
    layer: int
    encoder: Float[Tensor, "used model"]  # zero: the constant
    values: Float[Tensor, "case pos used"]
    ends: Int64[Tensor, "two pair"]  # places among those
    with_constant: Bool[Tensor, " pair"]
    gates: Float[Tensor, "case pos pair"]  # of the contrast, for a product of one

    @classmethod
    def of(cls, recorded: Recorded, layer: int, dictionary: Dictionary, pairs: _Ends) -> LaterPairs:
        """Of features of ``mlp_in`` of a layer; feature ``n_feature`` is the constant."""
        cases, constant = recorded.cases, dictionary.n_feature
        n_number = _HELD * cases.tokens.numel() * len(pairs)
        check_memory("LaterPairs.of", 8 * n_number, "Pass fewer cases, or fewer pairs.")
        found = EffectPairs(LayerEffect.of(recorded, layer), dictionary)
        used, ends = torch.unique(torch.tensor(list(pairs)).mT, return_inverse=True)
        gates = found.effect.reads @ found.layer.down @ found.products(used, *ends).mT
        weights = cases.weights(cases.affected)[:, None, None]
        rows = dictionary.encoder.cpu().double()
        rows = torch.cat([rows, torch.zeros_like(rows[:1])])[used]
        values, alone = found.active.values_of(used.tolist()), (used == constant)[ends].any(0)
        return cls(recorded, layer, rows, values, ends, alone, weights * gates)

    def part(self, x: Float[Tensor, "case pos model"]) -> Float[Tensor, " pair"]:
        """How much of what each pair adds to the contrast a part of the MLP's input makes."""
        part = torch.where(self.values != 0, x @ self.encoder.mT, 0.0)
        i, j = self.ends
        made = part[..., i] * self.values[..., j] + self.values[..., i] * part[..., j]
        made = made * torch.where(self.with_constant, 1.0, 0.5)
        return (beyond_mean(self.recorded, made) * self.gates).sum((0, 1))

    @torch.no_grad()
    def fed_by(
        self, layer: int, dictionary: Dictionary, pairs: _Ends
    ) -> Float[Tensor, "later earlier"]:
        """How much of what each of these pairs adds to the contrast, in logits, each pair of an
        earlier layer wrote."""
        recorded, tiles = self.recorded, self.recorded.cases.tiles
        terms = PairTerms.of(recorded.model, layer, dictionary.to("cpu"), pairs)
        products, written = terms.products(recorded.inputs[layer]).double(), terms.written.double()
        parts = []
        for n in progress(range(len(terms)), f"links of layers {layer} and {self.layer}", "pair"):
            wrote = (products[..., [n]] * written[n]).to(recorded.model.device)
            each = wrote.split([len(rows) for rows in tiles])
            arrived = [
                recorded.run.carried(rows, x, layer, self.layer)
                for rows, x in zip(tiles, each, strict=True)
            ]
            parts.append(self.part(torch.cat(arrived).cpu()))
        return torch.stack(parts, dim=1)
