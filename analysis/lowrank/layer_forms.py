"""A layer, and the features that a dictionary reads from its output, as forms of its input.

Their eigenvectors are directions of ``mlp_in``, with the constant 1 last where the layer has
biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.lowrank.sums import Forms, Observed, Totals, documents_of
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.corpus.documents import Corpus
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.progress import progress
from sae.dictionary import Dictionary
from sae.reading import Reading, readings

BLOCK = 256
"""Features whose forms are in memory together, at most."""

_BLOCK_SIZE = 2**25  # numbers in the eigenvectors of a block, at most


@dataclass(frozen=True, eq=False)
class LayerForms:
    """A layer, and the features that are read from its output."""

    model: Model
    site: Site  # of the output
    inter: Interactions  # from the activation's own coordinates
    dictionary: Dictionary
    reader: Literal["pinv", "encoder"]

    @classmethod
    def of(
        cls, model: Model, dictionary: Dictionary, reader: Literal["pinv", "encoder"]
    ) -> LayerForms:
        """Of the dictionary's own layer."""
        site = dictionary.known_site("rank_curve")
        layer = model.layer(site.layer)
        inputs = Basis.identity(layer.d_model, device=model.device)
        outputs = dictionary.basis(reader, least_squares=reader == "pinv")
        return cls(model, site, Interactions(layer, inputs, outputs), dictionary, reader)

    @property
    def d_input(self) -> int:
        """Width of the forms' input, the constant included where the layer has biases."""
        return self.inter.layer.d_model + self.inter.layer.has_constant

    def read(self, corpus: Corpus, n_documents: int) -> Iterator[tuple[Reading, Tensor]]:
        """Each batch with the forms' inputs at its counted tokens."""
        at, layer = Site("mlp_in", self.site.layer), self.inter.layer
        for reading in readings(self.model, corpus, [at, self.site], n_documents=n_documents):
            yield reading, layer.lift(reading.activations[at].to(layer.dtype))

    def observed(self, corpus: Corpus, n_documents: int) -> Iterator[Observed]:
        """Each batch with the dictionary's active features."""
        for reading, x in self.read(corpus, n_documents):
            code = self.dictionary.active(reading.activations[self.site])
            yield Observed(x, code, documents_of(reading))

    def whole(self, block: list[int]) -> Callable[[Tensor], Tensor]:
        """A function from the layer's inputs to what these features read from its output."""
        outputs, layer = self.inter.outputs.subset(block), self.inter.layer
        return lambda x: outputs.coordinates(layer(x[:, : layer.d_model]))

    def forms(self, block: list[int], n_rank: int, totals: Totals) -> Block:
        """Some features' forms, with eigenpairs by size, by contribution on data, and by sign."""
        spectra = [self.inter.spectrum(feature, space="model") for feature in block]
        values = torch.stack([spectrum.values for spectrum in spectra])
        vectors = torch.stack([spectrum.vectors for spectrum in spectra])
        added = (values.double() * totals.mean_squares(vectors)).abs()
        order = added.argsort(dim=1, descending=True, stable=True)[:, :n_rank]
        feature = torch.tensor(block, device=values.device)
        constant = values.new_tensor([self.inter.bias(one) for one in block])
        first = vectors[:, :n_rank].contiguous()
        by_size = Forms(feature, values[:, :n_rank], first, constant, self.whole(block))
        by_data, by_sign = (
            replace(
                by_size,
                values=values.gather(1, chosen),
                vectors=vectors.take_along_dim(chosen[:, :, None], dim=1),
            )
            for chosen in (order, alternating(values)[:, :n_rank])
        )
        energy = values.double().square().cumsum(1)
        kept = torch.cat([energy[:, :n_rank], energy[:, -1:]], dim=1) / energy[:, -1:]
        ranks = [(spectrum.effective_rank, spectrum.entropy_rank) for spectrum in spectra]
        return Block(by_size, by_data, by_sign, kept.cpu().numpy(), np.array(ranks))

    def blocks(self) -> Iterator[list[int]]:
        """All features, some at a time, so that their eigenvectors fit in memory."""
        n_feature = self.dictionary.n_feature
        size = max(1, min(BLOCK, _BLOCK_SIZE // self.d_input**2))
        for start in progress(range(0, n_feature, size), "ranks", "block"):
            yield list(range(start, min(start + size, n_feature)))


def alternating(values: Float[Tensor, "form rank"]) -> Int64[Tensor, "form rank"]:
    """An order of eigenvalues that come by size: the largest positive, the largest negative, the
    next positive, and so on; what is left of one sign comes last."""
    positive = values > 0
    counts = [sign.long().cumsum(1) for sign in (positive, ~positive)]
    place = torch.where(positive, 2 * counts[0], 2 * counts[1] + 1)
    return place.argsort(dim=1, stable=True)


@dataclass(frozen=True, eq=False)
class Block:
    """Some features' forms, their eigenpairs in three orders, and the ranks of all of them."""

    by_size: Forms
    by_data: Forms
    by_sign: Forms
    energy: Float[np.ndarray, "form rank_and_whole"]
    effective: Float[np.ndarray, "form two"]  # effective and entropy rank
