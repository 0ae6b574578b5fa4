"""The features of a run's dictionaries: a list to search, and a card for each, in pieces.

A page holds the list alone; cards lie in pieces of 64 that are loaded when one is opened. What a
reader would get wrong: a feature's *caption* (see `captions`) is fitted to text, and tells how well
it fits; it is no name that the model knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.catalogue.captions import Caption, Captions
from analysis.runs.run import Run
from circuits.model.site import Site
from circuits.plotting.display import shown
from sae.dictionary import Dictionary
from sae.features.card import CardTables, card_tables
from sae.features.examples import Examples

PIECE = 64
"""Cards in a file."""

_N_EXAMPLES = 8
_CONTEXT = 9  # tokens on each side of an example
_N_DOCUMENTS = 500  # that examples are sought in
_N_LISTED = 6  # neighbours, tokens and pairs of a card
_SHADES = 9


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is told of one dictionary's features."""

    site: Site
    dictionary: Dictionary
    captions: Captions
    cards: list[dict[str, Any]]
    words: list[str]  # that examples' numbers stand for
    n_documents: int
    pairs_read_by: str | None  # of outputs, in the pairs that are listed

    @property
    def key(self) -> str:
        """Of its files."""
        return f"features-{self.site.point}-{self.site.layer}"

    def caption(self, feature: int) -> str:
        """When it is active; nothing of the constant."""
        return self.captions.of[feature].text if feature < len(self.captions.of) else ""

    def short(self, feature: int) -> str:
        """The same for a picture."""
        return self.captions.of[feature].short if feature < len(self.captions.of) else ""

    @property
    def index(self) -> dict[str, Any]:
        """The list, column by column."""
        counts = self.dictionary.statistics
        told: dict[str, Any] = {
            "site": str(self.site),
            "n_feature": self.dictionary.n_feature,
            "piece": PIECE,
            "words": self.words,
            "caption": [caption.text for caption in self.captions.of],
            "fit": [caption.correlation for caption in self.captions.of],
            "n_fitted": self.captions.n_token,
            "promotes": [" ".join(t for t, _ in c["up"][:3]) for c in self.cards],
            "circuits": [len(c["circuits"]) for c in self.cards],
            "rank2": [c["rank2"] for c in self.cards],
            "n_documents": self.n_documents,
            "pairs_read_by": self.pairs_read_by,
        }
        if counts is not None:
            told |= {
                "n_token": int(counts.n_token),
                "frequency": counts.frequency.numpy(),
                "mean": counts.mean.numpy(),
                "maximum": counts.maximum.numpy(),
            }
        return told

    def pieces(self) -> dict[str, list[dict[str, Any]]]:
        """The cards by file."""
        return {
            f"{self.key}-{start // PIECE}": self.cards[start : start + PIECE]
            for start in range(0, len(self.cards), PIECE)
        }


@dataclass(frozen=True, eq=False)
class Uses:
    """Which circuits a feature is in, and which pairs it is in or is made of."""

    circuits: dict[Site, dict[int, list[tuple[str, str, str]]]]  # page, name, as what
    interactions: dict[int, pd.DataFrame] = field(default_factory=dict)

    def of(self, site: Site, feature: int) -> list[tuple[str, str, str]]:
        """Of one feature."""
        return self.circuits.get(site, {}).get(feature, [])


def uses(run: Run, pages: Mapping[str, str]) -> Uses:
    """Of every feature that a circuit names."""
    found: dict[Site, dict[int, list[tuple[str, str, str]]]] = {}
    for each in run.found:
        if each.layer is None:
            continue
        page, name = pages[each.stem], shown(each.circuit.name)
        told = [("mlp_in", f.feature, "input") for f in each.circuit.features]
        told += [("mlp_out", o.feature, "output") for o in each.circuit.outputs]
        for point, feature, role in told:
            of_site = found.setdefault(Site(point, each.layer), {})
            of_site.setdefault(feature, []).append((page, name, role))
    return Uses(found, run.tables)


def catalogues(run: Run, used: Uses) -> dict[Site, Catalogue]:
    """Of every dictionary of a run."""
    return {site: _catalogue(run, site, dictionary, used)
            for site, dictionary in run.dictionaries.items()}  # fmt: skip


def _catalogue(run: Run, site: Site, dictionary: Dictionary, used: Uses) -> Catalogue:
    n_feature = dictionary.n_feature
    tables = card_tables(
        dictionary,
        run.model,
        run.text,
        n=_N_LISTED,
        n_examples=_N_EXAMPLES,
        context=_CONTEXT,
        n_documents=_N_DOCUMENTS,
    )
    words, seen = _seen(tables.examples, n_feature)
    captions = _captions(run, dictionary)
    up, down = _effects(tables, n_feature)
    around: list[list[Any]] = [[] for _ in range(n_feature)]
    columns = (tables.neighbours[name] for name in ("feature", "neighbour", "decoder_cosine"))
    for feature, other, cosine in zip(*columns, strict=True):
        around[feature].append([other, cosine])
    pairs, rank2 = _pairs(used, site, n_feature), _rank2(run, site, n_feature)
    counts = dictionary.statistics
    cards = []
    for feature in range(n_feature):
        card: dict[str, Any] = {
            "examples": seen[feature],
            "up": up[feature],
            "down": down[feature],
            "near": around[feature],
            "pairs": pairs[feature],
            "circuits": [list(use) for use in used.of(site, feature)],
            "rank2": rank2[feature],
        }
        if counts is not None:
            one = counts.of(feature)
            low, high = one.span
            card |= {"n_active": one.n_active, "histogram": one.histogram, "from": low, "to": high}
        cards.append(card)
    return Catalogue(
        site, dictionary, captions, cards, words, tables.n_documents, run.reader_of_interactions
    )


def _seen(found: Examples | None, n_feature: int) -> tuple[list[str], list[list[Any]]]:
    """The words that occur, and each feature's examples in their numbers."""
    if found is None:
        return [], [[] for _ in range(n_feature)]
    number = {token: place for place, token in enumerate(sorted(found.words))}
    words = [shown(found.words[token]) for token in sorted(found.words)]
    return words, [_examples(found, i, number) for i in range(n_feature)]


def _captions(run: Run, dictionary: Dictionary) -> Captions:
    if run.text is None:
        return Captions([Caption()] * dictionary.n_feature, 0)
    tokenizer = run.model.words("captions")
    return Captions.fitted(
        dictionary, run.model, run.text,
        lambda token: shown(tokenizer.convert_ids_to_tokens(token)),
    )  # fmt: skip


def _examples(found: Examples, i: int, number: Mapping[int, int]) -> list[Any]:
    """Value, words by number, place of the strongest, and each word's shade from 0 to 9."""
    told = []
    for rank in range(found.document.shape[1]):
        if found.document[i, rank] < 0:
            break
        there = found.tokens[i, rank] >= 0
        value = float(found.values[i, rank])
        shades = np.abs(found.activations[i, rank][there]) / max(abs(value), 1e-30) * _SHADES
        shades = np.clip(np.ceil(shades), 0, _SHADES).astype(int)
        words = [number[token] for token in found.tokens[i, rank][there].tolist()]
        place = int(there[: len(there) // 2].sum())
        told.append([value, words, place, "".join(map(str, shades))])
    return told


def _effects(tables: CardTables, n_feature: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """Tokens that each feature promotes and demotes, where it writes to the stream."""
    up: list[list[Any]] = [[] for _ in range(n_feature)]
    down: list[list[Any]] = [[] for _ in range(n_feature)]
    if tables.effects is not None:
        sides = {"top": up, "bottom": down}
        columns = (tables.effects[name] for name in ("feature", "side", "token", "effect"))
        for feature, side, token, effect in zip(*columns, strict=True):
            sides[side][feature].append([shown(token), effect])
    return up, down


def _pairs(used: Uses, site: Site, n_feature: int) -> list[list[Any]]:
    """Of an output its strongest pairs, of an input the pairs it is strongest in: output, first,
    second, weight, z."""
    found: list[list[Any]] = [[] for _ in range(n_feature)]
    table = used.interactions.get(site.layer)
    if table is None or site.point not in ("mlp_in", "mlp_out"):
        return found
    order = table["weight"].abs().argsort(kind="stable")[::-1]
    for row in table.iloc[order].itertuples():
        told = [row.output, row.first, row.second, row.weight, row.z]
        ends = [row.output] if site.point == "mlp_out" else list({row.first, row.second})
        for feature in ends:
            if feature < n_feature and len(found[feature]) < _N_LISTED:
                found[feature].append(told)
    return found


def _rank2(run: Run, site: Site, n_feature: int) -> list[float | None]:
    """Each output feature's correlation with two eigenvectors, where it was measured."""
    known: list[float | None] = [None] * n_feature
    curve = run.curves.get(site.layer)
    if site.point == "mlp_out" and curve is not None and 2 in curve.ranks:
        for feature, value in curve.compared(2).items():
            known[int(str(feature))] = float(value)
    return known
