"""The difference of a head's score between classes, as a sum of pairs of what it looks from and at.

What the head reads of a token is written in features of a dictionary of the stream before its
attention, or, where there is none, in all that was written before: the token's embedding, each
earlier head and MLP, this in features where its output has a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.across.looks import Looks
from analysis.attribution.writers import pieces_of
from circuits.model.site import Site
from sae.dictionary import Dictionary

_AT_A_TIME = 32  # cases whose tokens are held in pieces
_MOST = 2**22  # terms that are held before they are added up
_NAMES = 2**21  # more than there are names, or positions


def score_pairs(
    looks: Looks, layer: int, head: int, dictionaries: Mapping[Site, Dictionary]
) -> pd.DataFrame:
    """query, key, distance, score: the pairs of pieces, strongest first, whose scores add up to how
    much higher the head's score is where that adds to the contrast (`Looks.places`). Where a
    pattern is a product of two scores, each gets half of it."""
    pieces, sums = _Pieces(looks, layer, dictionaries), _Sums()
    made = looks.heads[layer][head]
    for place in looks.places(layer, head):
        distance = place.query - place.key
        for rows, weights in zip(
            place.cases.split(_AT_A_TIME), place.weights.split(_AT_A_TIME), strict=True
        ):
            queries, keys = (pieces.at(rows, at) for at in (place.query, place.key))
            for weight, query, key in zip(weights.tolist(), queries, keys, strict=True):
                if not weight:
                    continue
                forms = [
                    made.terms(query.vectors, key.vectors, distance, at=place.key, form=form)
                    for form in range(made.n_form)
                ]
                terms = forms[0]
                if made.n_form == 2:
                    terms = (forms[0] * forms[1].sum() + forms[1] * forms[0].sum()) / 2
                ends = _with_biases(query, key, terms, pieces)
                sums.add(*ends, distance, weight * terms)
    table = sums.table(pieces.names)
    return table.sort_values("score", key=abs, ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Token:
    """A token's stream over its scale as a sum."""

    numbers: Int64[Tensor, " piece"]  # of their names
    vectors: Float[Tensor, "piece model"]


@dataclass(eq=False)
class _Pieces:
    """What tokens before a layer's attention are made of."""

    looks: Looks
    layer: int
    dictionaries: Mapping[Site, Dictionary]
    known: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all pieces so far, by number."""
        return list(self.known)

    def number(self, name: str) -> int:
        """Of a name, which is new or known."""
        return self.known.setdefault(name, len(self.known))

    def at(self, rows: Int64[Tensor, " row"], position: int) -> list[_Token]:
        """The tokens of some cases at a position."""
        made = [(names, x.double()) for names, x in self._written(rows, position)]
        numbers = torch.cat([names for names, _ in made], 1)
        vectors = torch.cat([x for _, x in made], 1)
        vectors = vectors / self.looks.scales[self.layer][rows, position][:, None, None]
        there = (vectors != 0).any(2)
        return [
            _Token(names[some], x[some])
            for names, x, some in zip(numbers, vectors, there, strict=True)
        ]

    def _written(self, rows: Tensor, position: int) -> list[tuple[Tensor, Tensor]]:
        """Names and vectors, ``row slot`` and ``row slot model``."""
        looks, here = self.looks, Site("resid_pre", self.layer)
        for site in (here, Site("resid_post", self.layer - 1)) if self.layer else (here,):
            if site in self.dictionaries:
                return [self._split(site, looks.streams[self.layer][rows, position])]
        model = looks.recorded.model
        words = model.token_texts(looks.recorded.cases.tokens[rows, position].tolist())
        names = torch.tensor([[self.number(f"token {word}")] for word in words])
        made = [(names, looks.streams[0][rows, position][:, None])]
        for layer in range(self.layer):
            made.append(self._heads(layer, rows, position))
            bias = model.network.model.layers[layer].self_attn.o_proj.bias
            if bias is not None:
                vector = bias.detach().cpu().double().expand(len(rows), 1, -1)
                made.append(self._one(f"bias of attention {layer}", vector))
            y = looks.recorded.layer(layer)(looks.recorded.inputs[layer][rows, position])
            made.append(self._split(Site("mlp_out", layer), y))
        return made

    def _one(self, name: str, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(vectors), 1), self.number(name)), vectors

    def _heads(self, layer: int, rows: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """What each head of an earlier layer wrote."""
        looks = self.looks
        x = looks.streams[layer][rows] / looks.scales[layer][rows][..., None]
        pattern = looks.patterns[layer][rows, :, position]
        made = [
            (pattern[:, number, :, None] * head.moved(x)).sum(1)
            for number, head in enumerate(looks.heads[layer])
        ]
        numbers = [self.number(f"head {layer}.{number}") for number in range(len(made))]
        return torch.tensor(numbers).expand(len(rows), -1), torch.stack(made, 1)

    def _split(self, site: Site, written: Tensor) -> tuple[Tensor, Tensor]:
        """In features, where there is a dictionary."""
        dictionary = self.dictionaries.get(site)
        dictionary = None if dictionary is None else dictionary.to("cpu")
        if dictionary is None:
            return self._one(f"MLP {site.layer}", written[:, None])
        vectors, table = pieces_of(site, written, dictionary)
        named = {"bias": f"offset of {site}", "error": f"error of {site}"}
        numbers = [
            self.number(named.get(kind, f"feature {feature} of {site}"))
            for kind, feature in zip(table["kind"], table["feature"], strict=True)
        ]
        return torch.tensor(numbers).view(len(written), -1), vectors


def _with_biases(
    query: _Token, key: _Token, terms: Tensor, pieces: _Pieces
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows and columns of some terms: a head's bias comes last."""
    found = []
    for token, n, name in ((query, len(terms), "query"), (key, terms.shape[1], "key")):
        numbers = token.numbers.numpy()
        if n > len(numbers):
            numbers = np.append(numbers, pieces.number(f"bias of the {name}"))
        found.append(numbers)
    return found[0], found[1]


class _Sums:
    """Terms by query, key and distance, added up as they come."""

    def __init__(self) -> None:
        self._ends: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._values: list[np.ndarray] = [np.zeros(0)]
        self._n = 0

    def add(self, queries: np.ndarray, keys: np.ndarray, distance: int, terms: Tensor) -> None:
        """Of one case."""
        ends = (queries[:, None] * _NAMES + keys) * _NAMES + distance
        self._ends.append(ends.ravel())
        self._values.append(terms.flatten().numpy())
        self._n += ends.size
        if self._n > _MOST:
            self._join()

    def _join(self) -> None:
        ends, place = np.unique(np.concatenate(self._ends), return_inverse=True)
        values = np.bincount(place, np.concatenate(self._values), len(ends))
        self._ends, self._values, self._n = [ends], [values], 0

    def table(self, names: list[str]) -> pd.DataFrame:
        """All of them."""
        self._join()
        (ends,), (values,) = self._ends, self._values
        both, distance = np.divmod(ends, _NAMES)
        query, key = ([names[n] for n in side] for side in np.divmod(both, _NAMES))
        return pd.DataFrame({"query": query, "key": key, "distance": distance, "score": values})
