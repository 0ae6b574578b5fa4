"""Some documents read once at a layer's MLP: where pairs of features meet, and what outputs do.

What a reader would get wrong: a pair's strongest contexts are those where the *product* of its two
activations is largest, which need not be where either feature is strongest.
"""

from __future__ import annotations

from collections.abc import Iterable
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

N_DOCUMENTS = 300
"""Documents that contexts and activations on the pages of circuits are of."""

_CONTEXT = 8  # tokens on each side


@dataclass(frozen=True, eq=False)
class TextActivations:
    """The tokens that count, in order; all of them are numbered through."""

    model: Model
    readings: list[Reading]
    x: Float[Tensor, "token model"]  # what the MLP is given
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
        n_documents: int = N_DOCUMENTS,
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
        """Of each token the batch, the row of it and the position in the row."""
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
        """The words around a token, and where among them it is."""
        number, row, place = self.places[token].tolist()
        reading = self.readings[number]
        counted = reading.counted[row].nonzero()[:, 0].tolist()
        around = [p for p in counted if abs(p - place) <= _CONTEXT]
        tokens = reading.batch.tokens[row, around].tolist()
        words = self.model.words("contexts").convert_ids_to_tokens(tokens)
        return {"tokens": [shown(word) for word in words], "place": around.index(place)}

    def pairs(
        self, pairs: Iterable[tuple[int, int]], constant: int, n: int = 4
    ) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """Each pair's strongest contexts, of different rows of text; feature ``constant`` is 1."""
        columns = _Columns(self.inputs, constant)
        found = {}
        for first, second in pairs:
            one, other = columns.of(first), columns.of(second)
            product = one * other
            contexts = []
            for token in self._largest(product, n):
                about = {"first": float(one[token]), "second": float(other[token])}
                contexts.append(self.window(token) | about)
            found[first, second] = contexts
        return found

    def coactivation(
        self, pairs: Iterable[tuple[int, int]], constant: int
    ) -> dict[tuple[int, int], float]:
        """Each pair's mean product over all tokens."""
        columns = _Columns(self.inputs, constant)
        return {
            (one, other): float((columns.of(one) * columns.of(other)).mean())
            for one, other in pairs
        }

    def strongest(self, output: int, n: int) -> list[int]:
        """The tokens that an output feature is strongest on, each of a row of its own."""
        return self._largest(_Columns(self.outputs, -1).of(output), n)

    def _largest(self, values: Float[np.ndarray, " token"], n: int) -> list[int]:
        """The first tokens by size, each of a row of its own; of equals the earlier."""
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
        """The tokens that an output feature is active on, and how strongly."""
        values = _Columns(self.outputs, -1).of(output)
        tokens = np.flatnonzero(values)
        return tokens, values[tokens]


class _Columns:
    """A sparse code's features, each as a value for every token."""

    def __init__(self, code: Code, constant: int) -> None:
        self._by_feature, self._n, self._constant = code.by_feature, code.n_row, constant
        self._values = code.values

    def of(self, feature: int) -> Float[np.ndarray, " token"]:
        whole = np.zeros(self._n)
        if feature == self._constant:
            return whole + 1
        start, stop = self._by_feature.starts[feature : feature + 2].tolist()
        entries = self._by_feature.entries[start:stop]
        rows = self._by_feature.rows[start:stop].cpu().numpy()
        whole[rows] = self._values[entries].double().cpu().numpy()
        return whole
