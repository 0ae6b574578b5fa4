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
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

Ends = Sequence[tuple[int, int]]


def links(
    recorded: Recorded,
    earlier: tuple[int, Dictionary, Ends],
    later: tuple[int, Dictionary, Ends],
) -> Float[Tensor, "later earlier"]:
    """What each pair of an earlier layer adds to the contrast as a part of each pair of a later
    one, in logits; both as a layer, its dictionary of ``mlp_in`` and pairs."""
    layer, dictionary, ends = earlier
    terms = PairTerms.of(recorded.model, layer, dictionary.to("cpu"), ends)
    products, written = terms.products(recorded.inputs[layer]).double(), terms.written.double()
    fed = _Fed.of(recorded, *later)
    what = f"pairs of layer {layer} that feed layer {later[0]}"
    parts = [
        fed.part(_arriving(recorded, layer, later[0], products[..., [n]] * written[n]))
        for n in progress(range(len(terms)), what, "pair")
    ]
    return torch.stack(parts, dim=1)


@torch.no_grad()
def _arriving(
    recorded: Recorded, layer: int, later: int, written: Float[Tensor, "case pos model"]
) -> Float[Tensor, "case pos model"]:
    """What something that a layer's MLP wrote is at the input of a later MLP."""
    tiles, device = recorded.cases.tiles, recorded.model.device
    each = written.to(device).split([len(rows) for rows in tiles])
    run = recorded.run
    found = [run.carried(rows, x, layer, later) for rows, x in zip(tiles, each, strict=True)]
    return torch.cat(found).cpu()


@dataclass(frozen=True, eq=False)
class _Fed:
    """Some pairs of an MLP, and how the contrast reads their products."""

    recorded: Recorded
    encoder: Float[Tensor, "used model"]  # zero: the constant
    values: Float[Tensor, "case pos used"]
    ends: Int64[Tensor, "two pair"]  # places among those
    alone: Bool[Tensor, " pair"]  # with the constant
    gates: Float[Tensor, "case pos pair"]  # of the contrast, for a product of one

    @classmethod
    def of(cls, recorded: Recorded, layer: int, dictionary: Dictionary, pairs: Ends) -> _Fed:
        cases, constant = recorded.cases, dictionary.n_feature
        found = EffectPairs(LayerEffect.of(recorded, layer), dictionary)
        used, ends = torch.unique(torch.tensor(list(pairs)).mT, return_inverse=True)
        gates = found.effect.reads @ found.layer.down @ found.products(used, *ends).mT
        weights = cases.weights(cases.affected)[:, None, None]
        rows = dictionary.encoder.cpu().double()
        rows = torch.cat([rows, torch.zeros_like(rows[:1])])[used]
        values = found.active.values_of(used.tolist())
        return cls(recorded, rows, values, ends, (used == constant)[ends].any(0), weights * gates)

    def part(self, x: Float[Tensor, "case pos model"]) -> Float[Tensor, " pair"]:
        """What a part of the MLP's input adds to the contrast, by each pair."""
        part = torch.where(self.values != 0, x @ self.encoder.mT, 0.0)
        i, j = self.ends
        made = part[..., i] * self.values[..., j] + self.values[..., i] * part[..., j]
        made = made * torch.where(self.alone, 1.0, 0.5)
        return (beyond_mean(self.recorded, made) * self.gates).sum((0, 1))
