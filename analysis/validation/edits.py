"""Exact edits of a running model: pairs of features removed from an MLP's output, or added.

What some pairs write is ``Σ zᵢ zⱼ P[(W dᵢ)*(V dⱼ) + (W dⱼ)*(V dᵢ)]``, at every token from its own
activations, with nothing projected or averaged; a pair of a feature with itself counts once. An
edit changes every output feature that the pairs feed, not only the ones that a circuit names. The
first token of each row is left alone, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.graph.records import Interaction
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.records import Word
from sae.dictionary import Dictionary
from sae.sparse import Code


class EditKind(Word):
    """What was done to the model."""

    NONE = "none"
    REMOVE = "remove"
    KEEP = "keep"
    REMOVE_GATE = "remove_gate"
    PATCH = "patch"
    MEAN = "mean"
    OTHER_CIRCUIT = "other_circuit"
    UNTRAINED = "untrained"
    UNTRAINED_REMOVE = "untrained_remove"
    FEATURES = "features"  # of a twin; what follows needs its original
    OTHER_FEATURES = "other_features"
    ORIGINAL = "original"
    ORIGINAL_FEATURES = "original_features"
    ORIGINAL_OTHER_FEATURES = "original_other_features"


class DrawKind(Word):
    """In what random pairs are like the circuit's."""

    SAME_NUMBER = "same_number"
    SAME_SIZE = "same_size"  # as many as write as much together


_EDITS = {
    EditKind.NONE: "none",
    EditKind.REMOVE: "remove the circuit",
    EditKind.KEEP: "keep only the circuit",
    EditKind.REMOVE_GATE: "remove gate {}",
    EditKind.PATCH: "patch from the other answer",
    EditKind.MEAN: "replace the MLP by its mean",
    EditKind.OTHER_CIRCUIT: "control: circuit of {}",
    EditKind.UNTRAINED: "control: untrained model",
    EditKind.UNTRAINED_REMOVE: "control: untrained model, circuit removed",
    EditKind.FEATURES: "remove the circuit's features",
    EditKind.OTHER_FEATURES: "control: as many other features, the draw that removes most",
    EditKind.ORIGINAL: "original ({}): none",
    EditKind.ORIGINAL_FEATURES: "original: remove the same features",
    EditKind.ORIGINAL_OTHER_FEATURES: (
        "control: original, as many other features, the draw that removes most"
    ),
}


def edit_label(kind: str, target: str = "") -> str:
    """An edit in words; ``target`` names the gate, the other circuit or the original."""
    return _EDITS[EditKind(kind)].replace("{}", target)


_AT_A_TIME = 2**23  # numbers of products that are held at a time

Change = Callable[[Tensor, Tensor], Tensor]
"""Of an MLP's input and output (``batch pos model``), the new output."""


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
        bilinear = model.layer(layer).to(torch.float64)
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


@contextmanager
def edited(model: Model, layer: int, change: Change) -> Iterator[Model]:
    """Within the block an MLP's output is what ``change`` makes of its input and output."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen[:] = [x]
        return x

    def function(y: Tensor) -> Tensor:
        new = change(seen[0], y).to(y)
        return torch.cat([y[:, :1], new[:, 1:]], dim=1)

    with model.replaced({Site("mlp_in", layer): keep, Site("mlp_out", layer): function}):
        yield model


def removing(terms: PairTerms) -> Change:
    """The output without the pairs, at every token."""
    return lambda x, y: y - terms(x)
