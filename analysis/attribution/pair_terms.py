"""What pairs of an MLP's input features write: ``Σ zᵢ zⱼ P[(W dᵢ)*(V dⱼ) + (W dⱼ)*(V dᵢ)]``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.graph.records import Interaction
from circuits.model.model import Model
from sae.dictionary import Dictionary
from sae.sparse import Code

_AT_A_TIME = 2**23  # numbers of products that are held at a time


@dataclass(frozen=True, eq=False)
class PairTerms:
    """What each of some pairs of input features writes to an MLP's output."""

    dictionary: Dictionary
    first: Int64[Tensor, " pair"]
    second: Int64[Tensor, " pair"]  # n_feature: the constant
    written: Float[Tensor, "pair model"]  # for a product of one

    @classmethod
    def of(
        cls, model: Model, layer: int, dictionary: Dictionary, pairs: Iterable[tuple[int, int]]
    ) -> PairTerms:
        """Of features of ``mlp_in`` of a layer; feature ``n_feature`` is the constant."""
        ends = torch.tensor([sorted(pair) for pair in pairs], dtype=torch.int64).reshape(-1, 2)
        bilinear = model.layer(layer).to(dictionary.decoder.device, torch.float64)
        features, offset = dictionary.decoder.double(), dictionary.offset.double()
        write = torch.cat([bilinear.lift(features, 0.0), bilinear.lift(offset[None])])
        left, right = bilinear.factors
        a, b = (write[ends[:, side].to(write.device)] for side in (0, 1))
        products = (a @ left.mT) * (b @ right.mT)
        crossed = (b @ left.mT) * (a @ right.mT)
        once = (ends[:, 0] == ends[:, 1]).to(products.device)
        written = torch.where(once[:, None], products, products + crossed) @ bilinear.down.mT
        return cls(dictionary, ends[:, 0], ends[:, 1], written.to(dictionary.dtype))

    def __len__(self) -> int:
        return len(self.first)

    def subset(self, chosen: Int64[Tensor, " chosen"]) -> PairTerms:
        """Some of the pairs."""
        return replace(
            self,
            first=self.first[chosen],
            second=self.second[chosen],
            written=self.written[chosen.to(self.written.device)],
        )

    def products(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch pair"]:
        """``zᵢ zⱼ`` of each pair, at each token; the constant's ``z`` is 1."""
        rows = x.reshape(-1, x.shape[-1]).to(self.dictionary.dtype)
        tiles = rows.split(max(1, _AT_A_TIME // max(1, len(self))))
        parts = [self.products_of(self.dictionary.active(tile)) for tile in tiles]
        return torch.cat(parts).reshape(*x.shape[:-1], len(self))

    def products_of(self, code: Code) -> Float[Tensor, "row pair"]:
        """The same of activations that are known."""
        device, constant = code.values.device, self.dictionary.n_feature
        needed, place = torch.unique(torch.cat([self.first, self.second]), return_inverse=True)
        i, j = place.to(device).view(2, len(self))
        column = torch.full((constant + 1,), -1, device=device)
        column[needed.to(device)] = torch.arange(len(needed), device=device)
        at = column[code.features.long()]
        values = code.values.new_zeros(code.n_row, len(needed))
        values[code.rows[at >= 0], at[at >= 0]] = code.values[at >= 0]
        values[:, needed.to(device) == constant] = 1
        return values[:, i] * values[:, j]

    def __call__(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """What all pairs write together."""
        return self.products(x) @ self.written

    @property
    def sizes(self) -> Float[Tensor, " pair"]:
        """How long what each writes is, for a product of one."""
        return self.written.norm(dim=1)


def terms_of(
    model: Model, layer: int, dictionary: Dictionary, pairs: Iterable[Interaction]
) -> PairTerms:
    """What the interactions of a circuit write."""
    return PairTerms.of(model, layer, dictionary, [(pair.first, pair.second) for pair in pairs])
