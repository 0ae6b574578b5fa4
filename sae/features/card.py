"""A feature's card: how often and where it is active, what it promotes, what is similar to it.

Examples are a feature's strongest tokens, its best case: most of its activity can look different.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import DictionaryError, check_count, check_index
from circuits.model.model import Model
from circuits.plotting.display import html_of, number, shown
from sae.dictionary import Dictionary
from sae.features.effects import logit_effects, neighbours
from sae.features.examples import Examples, examples
from sae.statistics import FeatureStatistics

_BLUE, _ORANGE = "76,141,255", "240,127,60"  # active: positive, negative
_BAR, _TALL = 11, 44  # of a histogram, in pixels


@dataclass(frozen=True, eq=False)
class Card:
    """One feature of a dictionary."""

    feature: int
    dictionary: str
    statistics: FeatureStatistics | None
    neighbours: pd.DataFrame  # neighbour, decoder_cosine, encoder_cosine
    effects: pd.DataFrame | None  # side, token, effect; None without a model, or without a path
    examples: pd.DataFrame | None  # value, tokens, activations, place; None without a corpus
    n_documents: int = 0  # searched for examples

    def _repr_html_(self) -> str:
        parts = [self._bars(), self._contexts()]
        if self.effects is not None:
            for side, verb in (("top", "promotes"), ("bottom", "demotes")):
                rows = self.effects[self.effects["side"] == side]
                tokens = (f"{shown(r.token)} {number(r.effect)}" for r in rows.itertuples())
                parts.append(f"<p><b>{verb}</b>: {escape(', '.join(tokens))}</p>")
        rows = self.neighbours.itertuples()
        if near := ", ".join(f"{r.neighbour} ({number(r.decoder_cosine)})" for r in rows):
            parts.append(f"<p><b>neighbours</b> (decoder cosine): {near}</p>")
        return html_of(repr(self), *parts)

    def _bars(self) -> str:
        """The histogram as SVG, which needs no script."""
        if self.statistics is None or not sum(self.statistics.histogram):
            return ""
        histogram = self.statistics.histogram
        most, wide = max(histogram), _BAR * len(histogram)
        bars = "".join(
            f'<rect x="{_BAR * i}" y="{_TALL * (1 - n / most):.1f}" width="{_BAR - 1}" '
            f'height="{_TALL * n / most:.1f}" fill="rgb({_BLUE})"><title>{n}</title></rect>'
            for i, n in enumerate(histogram)
        )
        low, high = self.statistics.span
        return (
            f'<svg width="{wide}" height="{_TALL}" role="img" aria-label="histogram">{bars}</svg>'
            f"<p>active values from {number(low)} to {number(high)}</p>"
        )

    def _contexts(self) -> str:
        """Each example in its window, shaded by the feature's activation."""
        if self.examples is None:
            return ""
        lines = []
        for row in self.examples.to_dict("records"):
            values = np.asarray(row["activations"], dtype=float)
            shades = 0.75 * values / max(np.abs(values).max(), 1e-30)
            words = [escape(shown(token)) for token in row["tokens"]]
            words[row["place"]] = f"<b>{words[row['place']]}</b>"
            colours = (f"{_BLUE if shade > 0 else _ORANGE},{abs(shade):.2f}" for shade in shades)
            spans = (
                f'<span style="background:rgba({colour})">{word}</span> '
                for word, colour in zip(words, colours, strict=True)
            )
            lines.append(f"<p>{escape(number(float(row['value'])))} &nbsp; {''.join(spans)}</p>")
        found = "".join(lines) or "<p>active on no token</p>"
        return f"<p><b>strongest of {self.n_documents} documents</b></p>{found}"

    def __repr__(self) -> str:
        name, found = f"feature {self.feature} of {self.dictionary}", self.statistics
        if found is None:
            return f"Card({name})"
        active = f"active on {found.frequency:.2%} of {found.n_token:,} tokens"
        return f"Card({name}: {active}, mean {found.mean:.3g})"


@dataclass(frozen=True, eq=False)
class CardTables:
    """What the cards of some features show, as tables over all of them."""

    neighbours: pd.DataFrame  # feature, rank, neighbour, decoder_cosine, encoder_cosine
    effects: pd.DataFrame | None  # feature, side, rank, token, …; None without a direct path
    examples: Examples | None
    n_documents: int  # searched for examples


def card_tables(
    dictionary: Dictionary,
    model: Model | None = None,
    corpus: Corpus | None = None,
    features: Iterable[int] | None = None,
    *,
    n: int = 6,
    n_examples: int = 6,
    context: int = 10,
    n_documents: int = 500,
) -> CardTables:
    """What the cards of some features show; of all of them unless named."""
    chosen = range(dictionary.n_feature) if features is None else [*features]
    near = pd.DataFrame(columns=["feature", "neighbour", "decoder_cosine", "encoder_cosine"])
    if dictionary.n_feature > 1:
        near = neighbours(dictionary, chosen, n=min(n, dictionary.n_feature - 1))
    effects = None
    if model is not None:
        written = dictionary.target or dictionary.site_in(model, "card")
    if model is not None and written.point != "mlp_in":
        effects = logit_effects(dictionary, model, chosen, n=min(n, len(model.known_tokens)))
    if model is None or corpus is None:
        return CardTables(near, effects, None, 0)
    strongest = examples(
        dictionary, model, corpus, chosen, n=n_examples, context=context, n_documents=n_documents
    )
    return CardTables(near, effects, strongest, min(n_documents, corpus.n_documents or n_documents))


@checked
def card(
    dictionary: Dictionary,
    feature: int,
    model: Model | None = None,
    corpus: Corpus | None = None,
    *,
    n: int = 6,
    n_documents: int = 500,
) -> Card:
    """What is known of a feature: ``n`` neighbours, and with a model and a corpus examples and the
    tokens that it promotes and demotes most by its direct path."""
    feature = check_index("card", feature, dictionary.n_feature, "feature")
    n = check_count("card", n, None, "n")
    if corpus is not None and model is None:
        raise DictionaryError(
            "card: a corpus was given without a model that could read it. Pass both: "
            "card(dictionary, 7, model, corpus)."
        )
    known = dictionary.statistics
    found = card_tables(
        dictionary, model, corpus, [feature], n=n, n_examples=n, n_documents=n_documents
    )
    return Card(
        feature,
        repr(dictionary),
        None if known is None else known.of(feature),
        found.neighbours[["neighbour", "decoder_cosine", "encoder_cosine"]],
        found.effects,
        None if found.examples is None else found.examples.table(),
        found.n_documents,
    )
