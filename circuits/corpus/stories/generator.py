"""Little stories whose every token has a known cause, in any number and without a network.

What a character feels follows from the *effective* sentiment of the clause before (``not good`` is
bad), so a model can only predict the reaction by combining a negator with an adjective: the
behaviour whose circuits are studied. No exclamation mark or other cue goes with the sentiment:
small models learn such a cue and nothing more. Text is words between spaces (``the cake was n't
good so mia felt gloomy .``), one word one token.

Documents are drawn in blocks of fixed size, each from its own random generator, so ``generate(7,
8)`` draws a whole block; ask for many at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int8, Int16, Int64

from circuits.corpus.stories.grammar import DECIDED, N_BODY, NOISE, Grammar
from circuits.errors import CorpusError

BLOCK = 4096
"""Documents drawn from one random generator. Another size would be another corpus."""

_PAD = -1


@dataclass(frozen=True)
class Truth:
    """What each token of some stories means, given the text before it: a clause's state holds from
    the word that sets it to the token before the reaction or the end of the sentence."""

    polarity: Int8[np.ndarray, " token"]  # +1, -1: of the latest adjective; 0: none, or neutral
    negated: Bool[np.ndarray, " token"]  # a negator is in force
    lies: Int8[np.ndarray, " token"]  # how many are in force: none, one, or a lie about a lie
    sentiment: Int8[np.ndarray, " token"]  # effective: polarity, reversed by negator and each lie
    reaction: Int8[np.ndarray, " token"]  # +1, -1: of the word, where it is the reaction

    @property
    def reading(self) -> Int64[np.ndarray, " reaction"]:
        """The tokens just before a reaction word: where a model must know the sentiment."""
        return np.flatnonzero(self.reaction) - 1


@dataclass(frozen=True)
class Stories:
    """Documents as word numbers (positions in ``words``), one after the other."""

    words: tuple[str, ...]
    tokens: Int16[np.ndarray, " token"]
    offsets: Int64[np.ndarray, " document_and_end"]  # document i is tokens[offsets[i]:offsets[i+1]]
    surprisal: Float[np.ndarray, " document"]  # exact -log p of each document, in nats
    truth: Truth | None = None  # where requested

    def __len__(self) -> int:
        return len(self.surprisal)

    @property
    def texts(self) -> list[str]:
        """The documents as people read them."""
        spelt = np.array(self.words, dtype=object)[self.tokens].tolist()
        bounds = itertools.pairwise(self.offsets.tolist())
        return [" ".join(spelt[start:stop]) for start, stop in bounds]

    @property
    def reactions(self) -> pd.DataFrame:
        """One row per reaction: document, position of the word in it, and its truth."""
        if self.truth is None:
            raise CorpusError(
                "these stories were generated without their truth: use generate(..., truth=True)."
            )
        at = np.flatnonzero(self.truth.reaction)
        document = np.searchsorted(self.offsets, at, side="right") - 1
        return pd.DataFrame(
            {
                "document": document,
                "position": at - self.offsets[document],
                "polarity": self.truth.polarity[at - 1],
                "negated": self.truth.negated[at - 1],
                "lies": self.truth.lies[at - 1],
                "sentiment": self.truth.sentiment[at - 1],
                "reaction": self.truth.reaction[at],
            }
        )


@dataclass(frozen=True)
class StoryGenerator:
    """The stories of a seed.

    >>> stories = StoryGenerator(seed=0)
    >>> stories.generate(7, 8).texts == stories.generate(0, 9).texts[7:8]
    True
    """

    seed: int = 0
    grammar: Grammar = field(default_factory=Grammar)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise CorpusError(f"seed {self.seed}: a seed must not be negative.")

    def generate(self, start: int, stop: int, *, truth: bool = False) -> Stories:
        """Documents ``start`` to ``stop``, with the meaning of each token if ``truth``."""
        if not 0 <= start <= stop:
            raise CorpusError(f"documents {start} to {stop}: want 0 <= start <= stop.")
        if start == stop:
            return _slice(self._block(0, truth), 0, 0)
        parts = []
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            first, last = max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK)
            parts.append(_slice(self._block(block, truth), first, last))
        return _joined(parts)

    def _block(self, block: int, truth: bool) -> Stories:
        rng = np.random.default_rng([self.seed, block])
        n_sentences = np.array(N_BODY)[_pick(rng.random(BLOCK), len(N_BODY))] + 2
        firsts = np.cumsum(n_sentences) - n_sentences
        form = self._draw_forms(rng, firsts, firsts + n_sentences - 1)
        drawn = _Drawn(self, rng, np.repeat(np.arange(BLOCK), n_sentences), form)
        tokens = self._tables.literal[form]
        slot = self._tables.slot[form]
        words = np.take_along_axis(drawn.words, np.maximum(slot, 0), axis=1)
        np.copyto(tokens, words, where=slot != _PAD)
        present = tokens != _PAD
        lengths = np.add.reduceat(present.sum(axis=1), firsts)
        nats = self._tables.nats[form] + drawn.noise_nats
        return Stories(
            self.grammar.words,
            tokens[present],
            np.concatenate([[0], np.cumsum(lengths)]),
            np.add.reduceat(nats, firsts) + self.grammar.frame_nats,
            drawn.truth(present) if truth else None,
        )

    def _draw_forms(
        self,
        rng: np.random.Generator,
        firsts: Int64[np.ndarray, " document"],
        lasts: Int64[np.ndarray, " document"],
    ) -> Int16[np.ndarray, " sentence"]:
        """A form for every sentence: the first of a document opens, the last closes."""
        form = np.empty(lasts[-1] + 1, dtype=np.int16)
        places = {"body": np.arange(len(form)), "opening": firsts, "closing": lasts}
        for part, where in places.items():
            rows = [row for row, form_ in enumerate(self.grammar.forms) if form_.part == part]
            edges = np.cumsum([self.grammar.forms[row].share for row in rows])[:-1]
            form[where] = rows[0] + np.searchsorted(edges, rng.random(len(where)), "right")
        return form

    @cached_property
    def _tables(self) -> _Tables:
        return _Tables.of(self.grammar)


@dataclass(frozen=True)
class _Tables:
    """What each form fixes at each position before anything is drawn."""

    literal: Int16[np.ndarray, "form place"]  # a word's number, or _PAD
    slot: Int16[np.ndarray, "form place"]  # a slot's number, or _PAD
    sign: Int8[np.ndarray, "form place"]
    negated: Bool[np.ndarray, "form place"]
    lies: Int8[np.ndarray, "form place"]
    reaction: Bool[np.ndarray, "form place"]
    nats: Float[np.ndarray, " form"]
    turn: Int64[np.ndarray, " form"]
    polar: Bool[np.ndarray, " form"]

    @classmethod
    def of(cls, grammar: Grammar) -> _Tables:
        slots = {f"{{{name}}}": i for i, name in enumerate([*grammar.choices, *DECIDED])}
        shape = (len(grammar.forms), max(len(form.words) for form in grammar.forms))
        states = [form.states() for form in grammar.forms]

        def table(rows: Iterable[Sequence[int]], dtype: type, rest: int) -> np.ndarray:
            filled: np.ndarray = np.full(shape, rest, dtype=dtype)
            for row, values in enumerate(rows):
                filled[row, : len(values)] = values
            return filled

        said = [form.words for form in grammar.forms]
        return cls(
            table(([grammar.number.get(w, _PAD) for w in words] for words in said), np.int16, _PAD),
            table(([slots.get(w, _PAD) for w in words] for words in said), np.int16, _PAD),
            table((sign for sign, *_ in states), np.int8, 0),
            table((negated for _, negated, *_ in states), np.bool_, 0),
            table((lies for *_, lies, _ in states), np.int8, 0),
            table((reaction for *_, reaction in states), np.bool_, 0),
            np.array([grammar.nats(form) for form in grammar.forms]),
            np.array([form.turn for form in grammar.forms]),
            np.array([form.polar for form in grammar.forms]),
        )


class _Drawn:
    """The random choices for each sentence of a block."""

    def __init__(
        self,
        generator: StoryGenerator,
        rng: np.random.Generator,
        document: Int64[np.ndarray, " sentence"],
        form: Int16[np.ndarray, " sentence"],
    ) -> None:
        self._form, self._tables = form, generator._tables
        n_documents, polar = document[-1] + 1, self._tables.polar[form]
        self.sign = 1 - 2 * _pick(rng.random(len(form)), 2)
        effective = self.sign * self._tables.turn[form]
        noisy = rng.random(len(form)) < NOISE
        self.shown = np.where(noisy, -effective, effective)
        self.noise_nats = polar * -np.log(np.where(noisy, NOISE, 1 - NOISE))
        boy = (1 - 2 * _pick(rng.random(n_documents), 2))[document]
        name = rng.random(n_documents)[document]
        signs = dict.fromkeys(("name", *DECIDED), boy) | {"adjective": self.sign}
        signs |= {"second": effective, "emotion": self.shown, "deed": self.shown}
        columns, picked = [], {}
        for slot, choices in generator.grammar.choices.items():
            uniform = name if slot == "name" else rng.random(len(form))
            if slot == "other":  # any thing but the first one
                picked[slot] = _pick(uniform, choices.shape[1] - 1)
                picked[slot] += picked[slot] >= picked["thing"]
            else:
                picked[slot] = _pick(uniform, choices.shape[1])
            columns.append(choices[(1 - signs[slot]) // 2 if slot in signs else 0, picked[slot]])
        for slot, words in DECIDED.items():
            numbers = np.array([generator.grammar.number[word] for word in words], dtype=np.int16)
            columns.append(numbers[(1 - signs[slot]) // 2])
        self.words = np.stack(columns, axis=1)  # sentence x slot

    def truth(self, present: Bool[np.ndarray, "sentence place"]) -> Truth:
        """The meaning of each token, in the order of the text."""
        lengths = present.sum(axis=1)
        sign, shown = (np.repeat(s.astype(np.int8), lengths) for s in (self.sign, self.shown))
        polarity = self._tables.sign[self._form][present] * sign
        negated = self._tables.negated[self._form][present]
        lies = self._tables.lies[self._form][present]
        reaction = self._tables.reaction[self._form][present] * shown
        sentiment = np.where(negated ^ (lies % 2 == 1), -polarity, polarity)
        return Truth(polarity, negated, lies, sentiment, reaction)


def _pick(uniform: Float[np.ndarray, " n"], n: int) -> Int64[np.ndarray, " n"]:
    # by hand, because the streams of Generator.integers and .choice may change with numpy's version
    return (uniform * n).astype(np.int64)


def _slice(stories: Stories, start: int, stop: int) -> Stories:
    first, last = stories.offsets[start], stories.offsets[stop]
    truth = stories.truth and Truth(
        *(column[first:last] for column in vars(stories.truth).values())
    )
    offsets = stories.offsets[start : stop + 1] - first
    surprisal = stories.surprisal[start:stop]
    return Stories(stories.words, stories.tokens[first:last], offsets, surprisal, truth)


def _joined(parts: Sequence[Stories]) -> Stories:
    truths = [vars(part.truth).values() for part in parts if part.truth is not None]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Stories(
        parts[0].words,
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.surprisal for part in parts]),
        Truth(*map(np.concatenate, zip(*truths, strict=True))) if truths else None,
    )
