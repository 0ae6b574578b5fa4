"""Minimal pairs of a frame, drawn from one half of a model's words: each word as often as others.

The texts of a pair have as many tokens each. Where a word has more tokens than its opposite,
another word of the frame makes up for it, so those two texts differ in that word too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from analysis.behaviour.answers import pieces
from analysis.behaviour.cases import Case
from analysis.behaviour.kinds import FILLERS, Frame, Kind
from analysis.behaviour.own_words import BEFORE, Half, Pair, answers
from circuits.corpus.tokenizer import unknown_words

TRIED = 32
"""Pairs of each half that a frame is tried on, at most."""

FEWEST = 8
"""Pairs of each half without which a frame is not tried."""

_TRIES, _IN_VAIN = 24, 6  # draws for each pair that is wanted, and with the same contrast

Answers = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Trial:
    """A frame and its pairs of either half of the words; or why it was not tried."""

    frame: Frame
    pairs: tuple[list[tuple[Case, ...]], list[tuple[Case, ...]]] = ([], [])
    why: str = ""
    no_answers: str = ""  # why no answer of it can be compared

    @property
    def cases(self) -> list[Case]:
        """Those of both halves."""
        return [case for pairs in self.pairs for pair in pairs for case in pair]


@dataclass(eq=False)
class Drawing:
    """Draws pairs of which no text comes twice."""

    kind: Kind
    tokenizer: Any
    draw: np.random.Generator
    texts: set[str] = field(default_factory=set)  # drawn so far
    n_pairs: int = 0
    drawn: Counter[str] = field(default_factory=Counter)  # how often each word filled a slot
    sizes: dict[str, int] = field(default_factory=dict)  # tokens of words

    def trial(
        self, frame: Frame, lists: Mapping[str, Sequence[str]], parts: tuple[Half, Half]
    ) -> Trial:
        """Pairs of a frame, where its words are known and its answers can be compared."""
        sample = frame.before.format(**dict.fromkeys(frame.slots, BEFORE))
        one, other = self.kind.answers[frame.answer]
        used: Answers | None = None
        if self.kind.answering == "lists":
            used, why = answers(self.tokenizer, sample, (lists[one], lists[other]))
        else:
            enough = all(parts[1].contrasts[slot] for slot in self.kind.contrasts_of(frame))
            why = "" if enough else _none_of(one, other)
        if why:
            return Trial(frame, why=why, no_answers=why)
        some = self.tokenizer.unk_token_id is not None
        if some and (unknown := unknown_words(self.tokenizer, sample)):
            return Trial(frame, why=f"the model does not know {', '.join(unknown)}")
        first, second = (self.pairs(frame, half, used, TRIED) for half in parts)
        if (few := min(len(first), len(second))) < FEWEST:
            self.texts -= {case.text for pair in (*first, *second) for case in pair}
            return Trial(frame, why=f"its words make {few} different pairs of as many tokens")
        return Trial(frame, (first, second))

    def pairs(
        self, frame: Frame, half: Half, used: Answers | None, n: int
    ) -> list[tuple[Case, ...]]:
        """At most ``n`` pairs of a frame; of the answers given, or of the pair's own two words."""
        slots = self.kind.contrasts_of(frame)
        orders = {slot: _mixed(half.contrasts[slot], self.draw) for slot in slots}
        if not all(orders.values()):
            return []
        found: list[tuple[Case, ...]] = []
        turn = 0  # of the contrasts, each in order
        for number in range(_TRIES * n):
            if len(found) == n:
                break
            chosen, step = {}, turn
            for slot, order in orders.items():
                chosen[slot], step = order[step % len(order)], step // len(order)
            filled = self._filled(frame, half, chosen)
            texts = [frame.before.format(**words) for words in filled.values()]
            new = bool(texts) and not self.texts & {*texts}
            if new and len({*map(self._size, texts)}) == 1:
                self.texts |= {*texts}
                found.append(self._cases(frame, chosen, texts, used))
                self.n_pairs += 1
                turn += 1
            elif number % _IN_VAIN == 0:
                turn += 1
        return found

    def _filled(
        self, frame: Frame, half: Half, chosen: Mapping[str, Pair]
    ) -> dict[tuple[bool, ...], dict[str, str]]:
        """The words of every slot, by which contrasts have their first; empty if none are left."""
        used = {word for pair in chosen.values() for word in pair}
        same: dict[str, str] = {}
        for slot in self._fillers(frame):
            words = [word for word in half.fillers[FILLERS[slot]] if word not in used]
            if not words:
                return {}
            same[slot] = self._next(words)
            used.add(same[slot])
        filled = {}
        for sides in product((True, False), repeat=len(chosen)):
            each = zip(chosen.items(), sides, strict=True)
            words_of = {slot: pair[0 if side else 1] for (slot, pair), side in each}
            for slot, other in zip(self.kind.contrasts, self.kind.others, strict=False):
                if slot in chosen:
                    words_of[other] = chosen[slot][1 if sides[0] else 0]
            filled[sides] = {**same, **words_of}
        if self.kind.answering == "other word":
            filled[False,] |= self._made_up(frame, half, filled, used)
        return filled

    def _fillers(self, frame: Frame) -> list[str]:
        return [each for each in frame.slots if each in FILLERS and each not in self.kind.contrasts]

    def _next(self, words: Sequence[str]) -> str:
        """One of those that were drawn least often so far."""
        least = min(self.drawn[word] for word in words)
        among = [word for word in words if self.drawn[word] == least]
        word = among[int(self.draw.integers(len(among)))]
        self.drawn[word] += 1
        return word

    def _made_up(
        self, frame: Frame, half: Half, filled: Mapping[tuple[bool, ...], dict[str, str]],
        used: set[str],
    ) -> dict[str, str]:  # fmt: skip
        """Another word for one slot of the second text that gives it as many tokens as the first
        has; nothing where it has as many, or there is no such word."""
        one, other = (self._size(frame.before.format(**words)) for words in filled.values())
        for slot in self._fillers(frame) if one != other else ():
            times = frame.before.count("{" + slot + "}")
            wanted = self._size_of(filled[False,][slot]) + (one - other) / times
            among = [word for word in half.fillers[FILLERS[slot]]
                     if word not in used and self._size_of(word) == wanted]  # fmt: skip
            if among:
                return {slot: self._next(among)}
        return {}

    def _size(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _size_of(self, word: str) -> int:
        if word not in self.sizes:
            self.sizes[word] = len(pieces(self.tokenizer, BEFORE, word))
        return self.sizes[word]

    def _cases(
        self, frame: Frame, chosen: Mapping[str, Pair], texts: Sequence[str],
        used: Answers | None,
    ) -> tuple[Case, ...]:  # fmt: skip
        """A text of each class, the contrasts' first words first, with what is right and wrong."""
        own = next(iter(chosen.values()))
        one, other = used or ((own[0],), (own[1],))
        if self.kind.answering == "other word":
            one, other = other, one
        cases = []
        for sides, text in zip(product((True, False), repeat=len(chosen)), texts, strict=True):
            right, wrong = (one, other) if self.kind.truth(sides) else (other, one)
            words = {
                slot if self.kind.answering == "lists" else "word": pair[0 if side else 1]
                for (slot, pair), side in zip(chosen.items(), sides, strict=True)
            }
            factors = dict(zip(self.kind.factors, sides, strict=False))
            label = self.kind.labels[sides]
            cases.append(Case(text, label, right, wrong, factors, self.n_pairs,
                              strata={"frame": frame.text, **words}))  # fmt: skip
        return tuple(cases)


def _none_of(one: str, other: str) -> str:
    if one == other:
        return f"fewer than four words of {one} have as many tokens as another one"
    return f"no word of {one} begins with another token than its word of {other}"


def _mixed(items: Sequence[Any], draw: np.random.Generator) -> list[Any]:
    return [items[place] for place in draw.permutation(len(items))]
