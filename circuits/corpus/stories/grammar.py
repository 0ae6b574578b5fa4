"""The grammar of the little stories: its words, its sentence forms, and their exact probability.

A story is an opening, two to four body sentences and a closing, each one of a few dozen forms with
slots (``the {thing} was {negator} {adjective} so {name} felt {emotion} .``). Every choice can be
read back from the words (`Grammar.surprisal_of`), so the entropy is that of the *text*, and no
model can do better on average.

Negation is the rarer case on purpose: where half of the clauses are negated, an adjective alone
says nothing about the reaction and a small model finds no first step (measured: the loss leaves its
plateau after 450 training steps or much later, against 300).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log
from typing import Literal

import numpy as np
from jaxtyping import Int16

from circuits.corpus.stories.lexicon import Lexicon
from circuits.errors import CorpusError

N_BODY = (2, 3, 4)
"""Numbers of body sentences, equally likely."""

NOISE = 0.03
"""Share of reactions that contradict their story."""

_Part = Literal["opening", "body", "closing"]


# Slots, and the lists of the lexicon that fill them. Two lists: a sign decides which one.
SLOTS: dict[str, tuple[str, ...]] = {
    "name": ("boys", "girls"),
    "adjective": ("positive", "negative"),
    "second": ("positive", "negative"),
    "emotion": ("glad", "sad"),
    "deed": ("cheers", "tears"),
    "thing": ("things",),
    "other": ("things",),
    "neutral": ("neutral",),
    "negator": ("negators",),
    "intensifier": ("intensifiers",),
    "animal": ("animals",),
    "place": ("places",),
    "move": ("moves",),
    "path": ("paths",),
    "sighting": ("sightings",),
    "sight": ("sights",),
    "time": ("times",),
    "said": ("honest",),
    "agreed": ("honest",),
    "lied": ("liars",),
    "misled": ("liars",),
}
DECIDED = {"who": ("he", "she"), "child": ("boy", "girl")}  # follow from the name, cost nothing
_CHILD = ("name", *DECIDED)  # slots that differ between a boy and a girl
_SUBJECTS = ("{name}", "{who}")
_LIES = ("{lied}", "{misled}")
REACTIONS = ("so {} felt {{emotion}}", "so {} looked {{emotion}}", "and {} began to {{deed}}")


_TELLERS = {  # who said that the thing was good or bad, and how often
    "the {animal} {said}": 0.3,
    "the {animal} {lied}": 0.12,
    "{name} {said} that the {animal} {agreed}": 0.13,
    "{name} {said} that the {animal} {lied}": 0.08,
    "{name} {lied} that the {animal} {said}": 0.15,
    "{name} {lied} that the {animal} {misled}": 0.22,
}


def _sentences(lies: bool) -> dict[_Part, tuple[tuple[str, float], ...]]:
    """Every sentence form with its probability, which sums to one in each part."""
    tails = [r.format(subject) for r, subject in itertools.product(REACTIONS, _SUBJECTS)]
    rarer = {"": 0.5, "{intensifier} ": 0.3, "{negator} ": 0.15, "{negator} {intensifier} ": 0.05}
    usual = {"": 0.45, "{intensifier} ": 0.2, "{negator} ": 0.25, "{negator} {intensifier} ": 0.1}
    befores = rarer if lies else usual
    single = [
        (f"the {{thing}} was {before}{{adjective}} {tail} .", p / len(tails))
        for before, p in befores.items()
        for tail in tails
    ]
    told = [
        (f"{teller} that {form}", share * p)
        for teller, share in _TELLERS.items()
        for form, p in single
        if "{negator}" not in form and ("{name}" not in teller or "{who}" in form)
    ]
    double = [
        # "seemed", not "was": no other clause has it, so a small model can see that this one turns
        (f"the {{thing}} was {{adjective}} but the {{other}} seemed {{second}} {tail} .", 1.0)
        for tail in tails
    ]
    aside = [
        *((f"the {{thing}} was {negator}{{neutral}} .", 2.0) for negator in ("", "{negator} ")),
        *(
            (f"{subject} could {{negator}} {{sight}} the {{animal}} .", 1.0)
            for subject in _SUBJECTS
        ),
        *((f"{subject} {{move}} {{path}} the {{place}} .", 1.0) for subject in _SUBJECTS),
        *((f"{subject} {{sighting}} the {{animal}} .", 1.0) for subject in _SUBJECTS),
    ]
    opening = [
        ("there lived a {child} named {name} .", 1.0),
        ("one {time} {name} {move} {path} the {place} .", 1.0),
    ]
    closing = [("the end .", 1.0), ("then {who} went home .", 1.0), ("then {name} slept .", 1.0)]
    body = (single, 0.48), (double, 0.16), (aside, 0.36)
    of_lies = (single, 0.36), (told, 0.44), (double, 0.05), (aside, 0.15)
    return {
        "opening": _shares((opening, 1.0)),
        "body": _shares(*(of_lies if lies else body)),
        "closing": _shares((closing, 1.0)),
    }


def _shares(*groups: tuple[Sequence[tuple[str, float]], float]) -> tuple[tuple[str, float], ...]:
    totals = [sum(weight for _, weight in group) for group, _ in groups]
    return tuple(
        (form, share * weight / total)
        for (group, share), total in zip(groups, totals, strict=True)
        for form, weight in group
    )


@dataclass(frozen=True)
class _Form:
    """A sentence form, and what follows from its words alone."""

    part: _Part
    words: tuple[str, ...]  # literals, and slots as "{slot}"; no slot twice
    share: float  # its probability within its part

    @property
    def slots(self) -> list[str]:
        """The names of its slots, in order."""
        return [word[1:-1] for word in self.words if word[0] == "{"]

    @property
    def polar(self) -> bool:
        """Whether it has a sentiment and a reaction to it."""
        return "adjective" in self.slots

    @property
    def turn(self) -> int:
        """Factor on the sign of its first adjective: -1 reverses it."""
        reversing = ("{negator}", "but", *_LIES)
        return (-1) ** sum(word in reversing for word in self.words)

    def place(self, *words: str) -> int:
        """Position of the first of these words; the length where there is none."""
        return next((i for i, word in enumerate(self.words) if word in words), len(self.words))

    def states(self) -> tuple[list[int], list[bool], list[int], list[bool]]:
        """For each position: sign relative to the first adjective, negated, number of lies, is the
        reaction. A clause's state holds until the reaction or, where nobody reacts, the full
        stop."""
        end = self.place("{emotion}", "{deed}", ".")
        adjective, second = self.place("{adjective}"), self.place("{second}")
        negator = self.place("{negator}")
        places = range(len(self.words))
        signs = [(adjective <= i < end) * (1 if i < second else self.turn) for i in places]
        return (
            signs,
            [negator <= i < end for i in places],
            [sum(self.place(lie) <= i < end for lie in _LIES) for i in places],
            [self.polar and i == end for i in places],
        )

    def bind(self, said: Sequence[str]) -> dict[str, str] | None:
        """The words in its slots if these words have its shape, else None."""
        pairs = list(zip(self.words, said, strict=False))
        literal = all(word == heard for word, heard in pairs if word[0] != "{")
        if len(said) != len(self.words) or not literal:
            return None
        return {word[1:-1]: heard for word, heard in pairs if word[0] == "{"}


@dataclass(frozen=True)
class Grammar:
    """The sentence forms with a lexicon: what can be said, and how probable it is."""

    lexicon: Lexicon = field(default_factory=Lexicon)
    lies: bool = False  # whether someone may say, or pretend, that a thing was good

    def __post_init__(self) -> None:
        literals = {word for form in self.forms for word in form.words if word[0] != "{"}
        clash = {*literals, *itertools.chain(*DECIDED.values())} & {*self.lexicon.all_words}
        if clash:
            raise CorpusError(
                f"lexicon with the words {sorted(clash)}, which the grammar itself uses: a text "
                f"could arise in two ways, and its entropy would be wrong. Choose other words."
            )

    @cached_property
    def forms(self) -> tuple[_Form, ...]:
        """Every sentence form; their shares sum to one within each part of a story."""
        return tuple(
            _Form(part, tuple(text.split()), share)
            for part, forms in _sentences(self.lies).items()
            for text, share in forms
        )

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word that can occur; its position is its number."""
        words = {word for form in self.forms for word in form.words}
        lists = {name for slot, names in SLOTS.items() if f"{{{slot}}}" in words for name in names}
        drawn = (word for name in lists for word in getattr(self.lexicon, name))
        literals = (word for word in words if word[0] != "{")
        return tuple(sorted({*literals, *itertools.chain(*DECIDED.values()), *drawn}))

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def choices(self) -> dict[str, Int16[np.ndarray, "sign choice"]]:
        """For each slot the numbers of its words, for sign + and for sign -."""
        out = {}
        for slot, names in SLOTS.items():
            if not {*getattr(self.lexicon, names[0])} <= self.number.keys():
                continue  # no form has it
            numbers = [[self.number[word] for word in getattr(self.lexicon, n)] for n in names]
            out[slot] = np.array(numbers * (2 // len(numbers)), dtype=np.int16)
        return out

    @cached_property
    def frame_nats(self) -> float:
        """``-log p`` of what is chosen once per story: its length and its child."""
        return log(len(N_BODY)) + log(2 * len(self.lexicon.boys))

    def nats(self, form: _Form) -> float:
        """``-log p`` of a sentence of this form, without the label noise of its reaction."""
        free = [slot for slot in form.slots if slot not in (*DECIDED, "name")]
        words = (self.choices[slot].shape[1] - (slot == "other") for slot in free)
        return -log(form.share) + sum(map(log, words)) + form.polar * log(2)

    @cached_property
    def entropy(self) -> float:
        """Exact entropy in nats a predicted token, the end of the document counted as one."""
        noise = -NOISE * log(NOISE) - (1 - NOISE) * log(1 - NOISE)
        times = {"opening": 1.0, "body": sum(N_BODY) / len(N_BODY), "closing": 1.0}
        weighted = [(times[form.part] * form.share, form) for form in self.forms]
        nats = sum(weight * (self.nats(form) + form.polar * noise) for weight, form in weighted)
        tokens = sum(weight * len(form.words) for weight, form in weighted)
        return (self.frame_nats + nats) / (tokens + 1)

    def surprisal_of(self, text: str) -> float:
        """``-log p`` of a document, its choices read back from its words."""
        sentences = [(*said.split(), ".") for said in text.split(" .")[:-1]]
        if len(sentences) - 2 not in N_BODY or not text.endswith(" ."):
            raise CorpusError(
                f"a text of {len(sentences)} sentences: a story has an opening, {N_BODY} body "
                f"sentences and a closing, each ended by ' .'."
            )
        body = [self.read("body", said) for said in sentences[1:-1]]
        read = [self.read("opening", sentences[0]), *body, self.read("closing", sentences[-1])]
        names = {bound["name"] for _, bound in read if "name" in bound}
        signs = {self._sign(s, w) for _, bound in read for s, w in bound.items() if s in _CHILD}
        if len(names) != 1 or len(signs) != 1:
            raise CorpusError(f"a text about {sorted(names)}: a story is about one child.")
        return self.frame_nats + sum(nats for nats, _ in read)

    def read(self, part: _Part, said: Sequence[str]) -> tuple[float, dict[str, str]]:
        """``-log p`` of one sentence, and the words in its slots."""
        found = [
            (self.nats(form) + noise, bound)
            for form in self.forms
            if form.part == part and (bound := form.bind(said)) is not None
            if (noise := self._noise_nats(form, bound)) is not None
        ]
        if len(found) != 1:
            raise CorpusError(f"'{' '.join(said)}' can arise in {len(found)} ways, not in one.")
        return found[0]

    def _sign(self, slot: str, word: str) -> int:
        """1 where the word is of the slot's first list, -1 of its second, 0 of neither."""
        lists = [getattr(self.lexicon, n) for n in SLOTS.get(slot, ())] or [
            (word_,) for word_ in DECIDED[slot]
        ]
        return next((sign for sign, words in zip((1, -1), lists, strict=False) if word in words), 0)

    def _noise_nats(self, form: _Form, bound: dict[str, str]) -> float | None:
        """``-log p`` of the reaction's agreement, or None where the words do not fit the form."""
        signs = {slot: self._sign(slot, word) for slot, word in bound.items()}
        if 0 in signs.values() or ("other" in bound and bound["other"] == bound["thing"]):
            return None
        if not form.polar:
            return 0.0
        effective = signs["adjective"] * form.turn
        if signs.get("second", effective) != effective:
            return None
        agrees = signs.get("emotion", signs.get("deed")) == effective
        return -log(1 - NOISE if agrees else NOISE)
