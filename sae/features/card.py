"""A feature's card: how often and where it is active, what it promotes, what is similar to it.

``card(dictionary, 7)`` needs the dictionary alone; a model adds the tokens that the feature
promotes by its direct path, and a corpus its strongest examples. Those are its best case: how much
of its activity looks like them is seen in the histogram only.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from circuits.corpus.documents import Corpus
from circuits.errors import DictionaryError, check_count, check_index
from circuits.model.model import Model
from circuits.plotting.display import html_of, number, shown
from sae.dictionary import Dictionary
from sae.features.effects import logit_effects, neighbours
from sae.features.examples import examples

_BLUE, _ORANGE = "76,141,255", "240,127,60"  # active: positive, negative
_BAR, _TALL = 11, 44  # of a histogram, in pixels


@dataclass(frozen=True, eq=False)
class Card:
    """One feature of a dictionary."""

    feature: int
    dictionary: str
    known: dict[str, int | float]  # of its statistics, if there are any: n_token, frequency, …
    histogram: list[int]  # of its active values, in equal bins from its smallest to its largest
    neighbours: pd.DataFrame  # neighbour, decoder_cosine, encoder_cosine
    effects: pd.DataFrame | None  # side, token, effect; None without a model, or without a path
    examples: pd.DataFrame | None  # value, tokens, activations, place; None without a corpus
    n_documents: int = 0  # that examples were sought in

    def _repr_html_(self) -> str:
        parts = [self._bars(), self._contexts()]
        if self.effects is not None:
            for side, said in (("top", "promotes"), ("bottom", "demotes")):
                rows = self.effects[self.effects["side"] == side]
                told = (f"{shown(r.token)} {number(r.effect)}" for r in rows.itertuples())
                parts.append(f"<p><b>{said}</b>: {escape(', '.join(told))}</p>")
        if len(self.neighbours):
            told = (f"{r.neighbour} ({number(r.decoder_cosine)})"
                    for r in self.neighbours.itertuples())  # fmt: skip
            parts.append(f"<p><b>neighbours</b> (decoder cosine): {', '.join(told)}</p>")
        return html_of(repr(self), *parts)

    def _bars(self) -> str:
        """The histogram, as a drawing that needs no script."""
        if not sum(self.histogram):
            return ""
        most, wide = max(self.histogram), _BAR * len(self.histogram)
        bars = "".join(
            f'<rect x="{_BAR * i}" y="{_TALL * (1 - n / most):.1f}" width="{_BAR - 1}" '
            f'height="{_TALL * n / most:.1f}" fill="rgb({_BLUE})"><title>{n}</title></rect>'
            for i, n in enumerate(self.histogram)
        )
        low, high = min(0.0, self.known["minimum"]), max(0.0, self.known["maximum"])
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
            words = "".join(
                _word(token, float(shade), place == row["place"])
                for place, (token, shade) in enumerate(zip(row["tokens"], shades, strict=True))
            )
            lines.append(f"<p>{escape(number(float(row['value'])))} &nbsp; {words}</p>")
        if not lines:
            lines = ["<p>active on no token</p>"]
        said = f"strongest of {self.n_documents} documents"
        return f"<p><b>{said}</b></p>{''.join(lines)}"

    def __repr__(self) -> str:
        told = f"Card(feature {self.feature} of {self.dictionary}"
        if self.known:
            share, mean = self.known["frequency"], self.known["mean"]
            told += f": active on {share:.2%} of {self.known['n_token']:,} tokens, mean {mean:.3g}"
        return told + ")"


def _word(token: str, shade: float, strongest: bool) -> str:
    """A token of an example on its shade, from −1 to 1."""
    colour = _BLUE if shade > 0 else _ORANGE
    seen = escape(shown(token))
    seen = f"<b>{seen}</b>" if strongest else seen
    return f'<span style="background:rgba({colour},{abs(shade):.2f})">{seen}</span> '


def card(
    dictionary: Dictionary,
    feature: int,
    model: Model | None = None,
    corpus: Corpus | None = None,
    *,
    n: int = 6,
    n_documents: int = 500,
) -> Card:
    """What is known of a feature: ``n`` neighbours, and with a model and a corpus ``n`` tokens that
    it promotes and ``n`` examples."""
    feature = check_index("card", feature, dictionary.n_feature, "feature")
    n = check_count("card", n, None, "n")
    if corpus is not None and model is None:
        raise DictionaryError(
            "card: a corpus was given without a model that could read it. Pass both: "
            "card(dictionary, 7, model, corpus)."
        )
    known: dict[str, int | float] = {}
    histogram: list[int] = []
    if (counts := dictionary.statistics) is not None:
        known = {"n_token": int(counts.n_token), "n_active": int(counts.n_active[feature])}
        for name in ("frequency", "mean", "minimum", "maximum"):
            known[name] = float(getattr(counts, name)[feature])
        histogram = counts.histogram[feature].tolist()
    near = pd.DataFrame(columns=["neighbour", "decoder_cosine", "encoder_cosine"])
    if dictionary.n_feature > 1:
        found = neighbours(dictionary, feature, n=min(n, dictionary.n_feature - 1))
        near = found[list(near)]
    effects = strongest = None
    if model is not None:
        if dictionary.known_site("card").point != "mlp_in":  # what an MLP reads has no direct path
            effects = logit_effects(dictionary, model, [feature], n=min(n, model.n_token))
        if corpus is not None:
            strongest = examples(
                dictionary, model, corpus, [feature], n=n, n_documents=n_documents
            ).table()
            n_documents = min(n_documents, corpus.n_documents or n_documents)
    return Card(feature, repr(dictionary), known, histogram, near, effects, strongest, n_documents)
