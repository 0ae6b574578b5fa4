"""The features of a run's dictionaries: a list to search, a card for each, and their page.

A page holds the list only; the cards are in files of 64, loaded when one is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.html.page import Page
from analysis.report.catalogue.captions import Caption, Captions
from analysis.runs.run import Run
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import shown
from sae.dictionary import Dictionary
from sae.features.card import CardTables, card_tables
from sae.features.examples import Examples

_PIECE = 64  # cards in a file
_N_EXAMPLES = 8
_CONTEXT = 9  # tokens on each side of an example
_N_DOCUMENTS = 500  # searched for examples
_N_LISTED = 6  # neighbours, tokens and pairs on a card
_SHADES = 9

_Uses = dict[tuple[Site, int], list[tuple[str, str, str]]]  # circuits: page, name, role


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What the report shows of one dictionary's features."""

    site: Site
    dictionary: Dictionary
    captions: Captions
    cards: list[dict[str, Any]]
    words: list[str]  # by their numbers in the examples
    n_documents: int
    pairs_read_by: str | None  # how outputs are read in the listed pairs

    @property
    def key(self) -> str:
        """The prefix of its files."""
        return f"features-{self.site.point}-{self.site.layer}"

    def caption(self, feature: int) -> Caption:
        """When a feature is active; empty for the constant."""
        return self.captions.of[feature] if feature < len(self.captions.of) else Caption()

    @property
    def index(self) -> dict[str, Any]:
        """The list, column by column."""
        counts = self.dictionary.statistics
        columns: dict[str, Any] = {
            "site": str(self.site),
            "n_feature": self.dictionary.n_feature,
            "piece": _PIECE,
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
            columns |= {
                "n_token": int(counts.n_token),
                "frequency": counts.frequency.numpy(),
                "mean": counts.mean.numpy(),
                "maximum": counts.maximum.numpy(),
            }
        return columns

    def data(self) -> dict[str, Any]:
        """What its scripts load, by file: the list, and the cards."""
        starts = range(0, len(self.cards), _PIECE)
        pieces = {f"{self.key}-{start // _PIECE}": self.cards[start : start + _PIECE]
                  for start in starts}  # fmt: skip
        return {self.key: self.index, **pieces}


def catalogues(
    run: Run, pages: Mapping[str, str], layered: Mapping[str, str]
) -> dict[Site, Catalogue]:
    """One for each dictionary of a run; ``pages`` names the page of each circuit's file, and
    ``layered`` those of circuits through several layers."""
    uses = _uses(run, pages, layered)
    return {site: _catalogue(run, site, dictionary, uses)
            for site, dictionary in run.dictionaries.items()}  # fmt: skip


def features_page(run: Run, books: Mapping[Site, Catalogue]) -> Page:
    """Their page; its scripts load the list and the cards when they are needed."""
    dictionaries = [
        {"site": str(site), "key": book.key, "n_feature": book.dictionary.n_feature}
        for site, book in books.items()
    ]
    data = {"dictionaries": dictionaries}
    context = {**data, "has_text": run.text is not None,
               "command": "circuits report RUN --text PATH"}  # fmt: skip
    return Page("features", "Features", "features.html.j2", context, data=data)


def _uses(run: Run, pages: Mapping[str, str], layered: Mapping[str, str]) -> _Uses:
    """The circuits of one layer first; of a circuit through several, each stage."""
    parts = [(pages[each.stem], shown(each.circuit.name), each.circuit) for each in run.found]
    for through in run.layered_found:
        name = f"{shown(through.circuit.name)}, across layers"
        parts += [(layered[through.stem], name, stage) for stage in through.circuit.stages]
    found: _Uses = {}
    for page, name, circuit in parts:
        if (layer := circuit.source.layer) is None:
            continue
        used = [("mlp_in", f.feature, "input") for f in circuit.features]
        used += [("mlp_out", o.feature, "output") for o in circuit.outputs]
        for point, feature, role in used:
            found.setdefault((Site(point, layer), feature), []).append((page, name, role))
    return found


def _catalogue(run: Run, site: Site, dictionary: Dictionary, uses: _Uses) -> Catalogue:
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
    up, down = (_effects(tables, side, n_feature) for side in ("top", "bottom"))
    near = tables.neighbours
    around = _by_feature(n_feature, near["feature"], near["neighbour"], near["decoder_cosine"])
    pairs, rank2 = _pairs(run, site, n_feature), _rank2(run, site, n_feature)
    counts = dictionary.statistics
    cards = []
    for feature in range(n_feature):
        card: dict[str, Any] = {
            "examples": seen[feature],
            "up": up[feature],
            "down": down[feature],
            "near": around[feature],
            "pairs": pairs[feature],
            "circuits": [list(use) for use in uses.get((site, feature), [])],
            "rank2": rank2[feature],
        }
        if counts is not None:
            one = counts.of(feature)
            low, high = one.span
            card |= {"n_active": one.n_active, "histogram": one.histogram, "from": low, "to": high}
        cards.append(card)
    reader = run.reader_of_interactions(site.layer)
    return Catalogue(site, dictionary, captions, cards, words, tables.n_documents, reader)


def _seen(found: Examples | None, n_feature: int) -> tuple[list[str], list[list[Any]]]:
    """The words that occur, and each feature's examples in the words' numbers."""
    if found is None:
        return [], [[] for _ in range(n_feature)]
    number = {token: place for place, token in enumerate(sorted(found.words))}
    words = [shown(found.words[token]) for token in sorted(found.words)]
    return words, [_examples(found, i, number) for i in range(n_feature)]


def _captions(run: Run, dictionary: Dictionary) -> Captions:
    if run.text is None:
        return Captions([Caption()] * dictionary.n_feature, 0)
    return Captions.fitted(
        dictionary, run.model, run.text, lambda token: shown(run.model.token_texts([token])[0])
    )


def _examples(found: Examples, i: int, number: Mapping[int, int]) -> list[Any]:
    """Value, words by number, place of the strongest, and each word's shade from 0 to 9."""
    rows = []
    for rank in range(found.document.shape[1]):
        if found.document[i, rank] < 0:
            break
        there = found.tokens[i, rank] >= 0
        value = float(found.values[i, rank])
        shades = np.abs(found.activations[i, rank][there]) / max(abs(value), 1e-30) * _SHADES
        shades = np.clip(np.ceil(shades), 0, _SHADES).astype(int)
        words = [number[token] for token in found.tokens[i, rank][there].tolist()]
        place = int(there[: len(there) // 2].sum())
        rows.append([value, words, place, "".join(map(str, shades))])
    return rows


def _effects(tables: CardTables, side: str, n_feature: int) -> list[list[Any]]:
    """Tokens that each feature promotes or demotes, where it writes to the stream."""
    if tables.effects is None:
        return _by_feature(n_feature, [])
    table = tables.effects[tables.effects["side"] == side]
    return _by_feature(n_feature, table["feature"], map(shown, table["token"]), table["effect"])


def _by_feature(n: int, features: Iterable[int], *columns: Iterable[Any]) -> list[list[Any]]:
    """The rows of a table by the feature that each is of."""
    found: list[list[Any]] = [[] for _ in range(n)]
    for feature, *row in zip(features, *columns, strict=True):
        found[feature].append(row)
    return found


def _pairs(run: Run, site: Site, n_feature: int) -> list[list[Any]]:
    """The strongest pairs of each output feature, or those with each input feature: output, first,
    second, weight, z; the constant, which has no card, by that name."""
    found: list[list[Any]] = [[] for _ in range(n_feature)]
    table = run.tables.get(site.layer)
    if table is None or site.point not in ("mlp_in", "mlp_out"):
        return found
    order = table["weight"].abs().argsort(kind="stable")[::-1]
    constant = {run.dictionaries[mlp_sites(site.layer)[0]].n_feature: "constant"}
    for row in table.iloc[order].itertuples():
        both = (constant.get(f, f) for f in (row.first, row.second))
        pair = [row.output, *both, row.weight, row.z]
        ends = [row.output] if site.point == "mlp_out" else list({row.first, row.second})
        for feature in ends:
            if feature < n_feature and len(found[feature]) < _N_LISTED:
                found[feature].append(pair)
    return found


def _rank2(run: Run, site: Site, n_feature: int) -> list[float | None]:
    """Each output feature's correlation at rank 2, where it was measured."""
    known: list[float | None] = [None] * n_feature
    curve = run.curves.get(site.layer)
    if site.point == "mlp_out" and curve is not None and 2 in curve.ranks:
        for feature, value in curve.compared(2).items():
            known[int(str(feature))] = float(value)
    return known
