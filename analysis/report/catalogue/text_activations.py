"""Activations on some documents, read once per layer: contexts of pairs, and output activations.

A pair's strongest contexts are those where the *product* of its two activations is largest, which
need not be where either feature is strongest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.corpus.documents import Corpus
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import shown
from sae.dictionary import Dictionary
from sae.reading import Reading, readings
from sae.sparse import Code

_N_DOCUMENTS = 300
_CONTEXT = 8  # tokens on each side


@dataclass(frozen=True, eq=False)
class TextActivations:
    """The features' activations at a layer's MLP on every counted token, numbered in order."""

    model: Model
    readings: list[Reading]
    x: Float[Tensor, "token model"]  # the MLP's input
    inputs: Code
    outputs: Code
    n_documents: int

    @classmethod
    def read(
        cls,
        model: Model,
        layer: int,
        dictionaries: dict[Site, Dictionary],
        corpus: Corpus,
        n_documents: int = _N_DOCUMENTS,
    ) -> TextActivations:
        """The first documents of a corpus."""
        into, out = mlp_sites(layer)
        found = list(readings(model, corpus, [into, out], n_documents=n_documents))
        x = torch.cat([reading.activations[into] for reading in found])
        y = torch.cat([reading.activations[out] for reading in found])
        n = min(n_documents, corpus.n_documents or n_documents)
        inputs, outputs = (
            dictionaries[site].to(model.device).active(values.to(dictionaries[site].dtype))
            for site, values in ((into, x), (out, y))
        )
        return cls(model, found, x, inputs, outputs, n)

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def places(self) -> Int64[np.ndarray, "token three"]:
        """Each token's batch, row and position in the row."""
        found = []
        for number, reading in enumerate(self.readings):
            here = reading.counted.nonzero().numpy()
            found.append(np.concatenate([np.full((len(here), 1), number), here], axis=1))
        return np.concatenate(found)

    def row(self, token: int) -> tuple[Int64[Tensor, " pos"], int]:
        """The row of text that a token is in, and its position there."""
        number, row, place = self.places[token].tolist()
        batch = self.readings[number].batch
        return batch.tokens[row, batch.mask[row]], place

    def window(self, token: int) -> dict[str, Any]:
        """The words around a token, and its place among them."""
        number, row, place = self.places[token].tolist()
        reading = self.readings[number]
        counted = reading.counted[row].nonzero()[:, 0].tolist()
        around = [p for p in counted if abs(p - place) <= _CONTEXT]
        words = self.model.token_texts(reading.batch.tokens[row, around].tolist())
        return {"tokens": [shown(word) for word in words], "place": around.index(place)}

    def pair(self, first: int, second: int, n: int = 4) -> tuple[float, list[dict[str, Any]]]:
        """A pair's mean product over all tokens, and its strongest contexts in different rows."""
        one, other = _column(self.inputs, first), _column(self.inputs, second)
        product = one * other
        contexts = [
            self.window(token) | {"first": float(one[token]), "second": float(other[token])}
            for token in self._largest(product, n)
        ]
        return float(product.mean()), contexts

    def strongest(self, output: int, n: int) -> list[int]:
        """The strongest tokens of an output feature, from different rows."""
        return self._largest(_column(self.outputs, output), n)

    def _largest(self, values: Float[np.ndarray, " token"], n: int) -> list[int]:
        """The tokens with the largest values, from different rows; of equals the earlier."""
        order = np.argsort(-np.abs(values), kind="stable")[: 64 * n]
        chosen: list[int] = []
        rows: set[tuple[int, int]] = set()
        for token in order.tolist():
            number, row, _ = self.places[token].tolist()
            if values[token] == 0 or len(chosen) == n:
                break
            if (number, row) not in rows:
                rows.add((number, row))
                chosen.append(token)
        return chosen

    def active(
        self, output: int
    ) -> tuple[Int64[np.ndarray, " active"], Float[np.ndarray, " active"]]:
        """The tokens where an output feature is active, and its activations."""
        values = _column(self.outputs, output)
        tokens = np.flatnonzero(values)
        return tokens, values[tokens]


def _column(code: Code, feature: int) -> Float[np.ndarray, " token"]:
    """A feature's activations; of the constant, numbered after all, ones."""
    if feature == code.n_feature:
        return np.ones(code.n_row)
    own = slice(*code.by_feature.starts[feature : feature + 2].tolist())
    whole = np.zeros(code.n_row)
    values = code.values[code.by_feature.entries[own]]
    whole[code.by_feature.rows[own].cpu().numpy()] = values.double().cpu().numpy()
    return whole
