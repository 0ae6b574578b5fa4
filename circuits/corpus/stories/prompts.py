"""Minimal pairs for the behaviours that the little stories teach.

Each prompt is a story up to the word that the behaviour decides. The un-negated prompts of
``negation`` have an intensifier where the others have a negator (``very good`` / ``not good``), so
that all prompts of a pair are equally long and a position means the same in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuits.corpus.stories.grammar import REACTIONS, SLOTS
from circuits.corpus.stories.lexicon import Lexicon
from circuits.errors import CorpusError


@dataclass(frozen=True)
class MinimalPair:
    """Prompts that differ in named factors alone, and the words that should follow each."""

    texts: tuple[str, ...]  # equally many words each, so that positions can be compared
    factors: tuple[dict[str, bool], ...]  # for each text
    strata: tuple[dict[str, str], ...]  # for each text: its frame, and the words that matter
    right: tuple[tuple[str, ...], ...]  # for each text: the words that fit
    wrong: tuple[tuple[str, ...], ...]  # for each text: the words that fit its counterpart


def minimal_pairs(
    behaviour: str, n: int, *, seed: int = 0, lexicon: Lexicon | None = None
) -> list[MinimalPair]:
    """Prompts for one of `BEHAVIOURS`, up to the word that it decides. Each list's words come
    equally often: all of them in a random order, and again."""
    if behaviour not in BEHAVIOURS:
        raise CorpusError(
            f"the stories do not teach a behaviour '{behaviour}'. Choose one of: "
            f"{', '.join(BEHAVIOURS)}."
        )
    rng = np.random.default_rng([seed, BEHAVIOURS.index(behaviour)])
    draw = _Draw(lexicon or Lexicon(), rng)
    return [_BUILDERS[behaviour](draw) for _ in range(n)]


def _negation(draw: _Draw) -> MinimalPair:
    """Negator or intensifier, good or bad: which reaction."""
    before, child = draw.opening()
    frame, glad, sad = draw.reaction()
    tail = frame.replace("…", child)
    thing, good, bad = draw.one("things"), draw.one("positive"), draw.one("negative")
    negator, intensifier = draw.one("negators"), draw.one("intensifiers")
    said = [(word, adjective) for word in (intensifier, negator) for adjective in (good, bad)]
    return _crossed(
        "negated",
        [f"{before} the {thing} was {word} {adjective} {tail}" for word, adjective in said],
        [{"frame": frame, "modifier": word, "adjective": adjective} for word, adjective in said],
        [glad, sad, sad, glad],
    )


def _crossed(
    factor: str,
    texts: list[str],
    strata: list[dict[str, str]],
    right: list[tuple[str, ...]],
) -> MinimalPair:
    """Texts without the factor and then with it, good before bad; wrong is what fits the other."""
    factors = [
        {factor: there, "positive": good} for there in (False, True) for good in (True, False)
    ]
    return MinimalPair(
        tuple(texts),
        tuple(factors),
        tuple(strata),
        tuple(right),
        (right[1], right[0], right[3], right[2]),
    )


def _pronoun(draw: _Draw) -> MinimalPair:
    """A boy or a girl: he or she."""
    start, thing, adjective = draw.setting(), draw.one("things"), draw.one("positive", "negative")
    children = draw.one("boys"), draw.one("girls")
    texts = (f"{start.format(child)} the {thing} was {adjective} so" for child in children)
    factors = ({"girl": False}, {"girl": True})
    strata = tuple({"name": child, "adjective": adjective} for child in children)
    return MinimalPair(tuple(texts), factors, strata, (("he",), ("she",)), (("she",), ("he",)))


def _but(draw: _Draw) -> MinimalPair:
    """Good or bad before the "but": the other one after it."""
    (before, _), thing, other = draw.opening(), *draw.two("things")
    adjectives = draw.one("positive"), draw.one("negative")
    good, bad = draw.lexicon.positive, draw.lexicon.negative
    texts = (f"{before} the {thing} was {word} but the {other} seemed" for word in adjectives)
    factors = ({"positive": True}, {"positive": False})
    strata = tuple({"adjective": word} for word in adjectives)
    return MinimalPair(tuple(texts), factors, strata, (bad, good), (good, bad))


def _lies(draw: _Draw) -> MinimalPair:
    """Somebody lied that another said, or lied, that a thing was good or bad: which reaction."""
    before, child = draw.opening()
    frame, glad, sad = draw.reaction()
    animal, thing, intensifier = (draw.one(name) for name in ("animals", "things", "intensifiers"))
    good, bad = draw.one("positive"), draw.one("negative")
    first, honest, liar = draw.one("liars"), draw.one("honest"), draw.one("liars")
    tail = frame.replace("…", "he" if child in draw.lexicon.boys else "she")
    said = [(verb, adjective) for verb in (honest, liar) for adjective in (good, bad)]
    return _crossed(
        "lied again",
        [
            f"{before} {child} {first} that the {animal} {verb} that the {thing} was "
            f"{intensifier} {adjective} {tail}"
            for verb, adjective in said
        ],
        [{"frame": frame, "adjective": adjective} for _, adjective in said],
        [sad, glad, glad, sad],
    )


_BUILDERS: dict[str, Callable[[_Draw], MinimalPair]] = {
    "negation": _negation,
    "pronoun": _pronoun,
    "but": _but,
    "lies": _lies,
}

BEHAVIOURS = tuple(_BUILDERS)
"""The behaviours that the stories teach."""


class _Draw:
    """Random words for a prompt, each list dealt out like a pack of cards."""

    def __init__(self, lexicon: Lexicon, rng: np.random.Generator) -> None:
        self.lexicon, self.rng = lexicon, rng
        self.left: dict[tuple[str, ...], list[str]] = {}  # words not dealt yet

    def one(self, *lists: str) -> str:
        words = [word for name in lists for word in getattr(self.lexicon, name)]
        return self._dealt(lists, words)

    def two(self, name: str) -> tuple[str, str]:
        first = self.one(name)
        others = [word for word in getattr(self.lexicon, name) if word != first]
        return first, others[int(self.rng.random() * len(others))]

    def setting(self) -> str:
        """An opening sentence with a place for the name."""
        words = (self.one(name) for name in ("times", "moves", "paths", "places"))
        return "one {} {{}} {} {} the {} .".format(*words)

    def opening(self) -> tuple[str, str]:
        """An opening sentence and its child's name."""
        child = self.one("boys", "girls")
        return self.setting().format(child), child

    def reaction(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """A reaction up to the word that decides it, … for the child, and the words that may come
        there."""
        tail = self._dealt(("reaction",), list(REACTIONS)).format("…")
        slot = tail[tail.index("{") + 1 : -1]
        glad, sad = (getattr(self.lexicon, name) for name in SLOTS[slot])
        return tail[: tail.index(" {")], glad, sad

    def _dealt(self, pack: tuple[str, ...], words: list[str]) -> str:
        if not self.left.get(pack):
            self.left[pack] = [words[n] for n in self.rng.permutation(len(words))]
        return self.left[pack].pop()
