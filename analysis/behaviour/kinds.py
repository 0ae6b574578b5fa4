"""The kinds of behaviour that are built from a model's own words, and their frames.

A frame is text as in stories for small children, with slots: those of the words in which its
classes differ, those that any word of a list may fill, and at its end that of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.errors import BehaviourError

Answering = Literal["lists", "same word", "other word"]

FILLERS = {
    "name": "names", "friend": "names", "thing": "things", "place": "places",
    "quality": "qualities", "look": "qualities",
    "a": "words", "d": "words", "w": "words", "x": "words", "y": "words", "z": "words",
}  # fmt: skip
"""Slots that a word of a list fills, the same in every class; two slots never have one word."""


_NEGATION = (
    "The {thing} was {degree} {quality}, so {name} felt {glad}",
    "The {thing} was {degree} {quality}. {name} was {glad}",
    "{name} had a {thing}. It was {degree} {quality}. {name} felt {glad}",
    "{name} saw that the {thing} was {degree} {quality}, and {name} was {glad}",
    "Mom gave {name} a {thing}. The {thing} was {degree} {quality}, so {name} was {glad}",
    "One day, {name} got a {thing}. It was {degree} {quality}. This made {name} {glad}",
    "The {thing} that {name} found was {degree} {quality}. {name} felt {glad}",
    '"This {thing} is {degree} {quality}," said {name}. {name} was {glad}',
    "{name} looked at the {thing}. It was {degree} {quality}, and that made {name} feel {glad}",
    "Because the {thing} was {degree} {quality}, {name} was {glad}",
    "{name} took the {thing} home. It was {degree} {quality}. {name} looked {glad}",
    "The {thing} at the {place} was {degree} {quality}. {name} was {glad}",
    "Today the {thing} was {degree} {quality} and {name} was {glad}",
    "The {thing} was {degree} {quality}, so {name} was very {glad}",
    "The {thing} is {degree} {quality}. Now {name} is {glad}",
)
_PRONOUN = (
    "{name} had a {thing}. {She}",
    "{name} went to the {place}. {She}",
    "One day, {name} saw a {thing}. {She}",
    "{name} liked to play with the {thing}. One day, {she}",
    "{name} found a {thing} and {she}",
    "{name} was at the {place} and {she}",
    "Once upon a time, there was a child named {name}. {name} had a {thing}. {She}",
    "{name} lost a {thing} and looked for it. Then {she}",
    "In the {place}, {name} played with {her}",
    "{name} showed the {thing} to {her}",
    '"I like the {thing}," said {name}. {She}',
    "When {name} came to the {place}, {she}",
    "{name} ran to the {place} with {her}",
    "The {thing} made {name} smile. {She}",
    "{name} put the {thing} in {her}",
)
_NUMBER = (
    "{name} saw that the {noun} {was}",
    "In the {place}, the {noun} {was}",
    "{name} looked at the {noun}. The {noun} {was}",
    "{name} went to the {place}. The {noun} {was}",
    "{name} liked the {noun} because the {noun} {was}",
    "The {noun} near the {place} {was}",
    "{name} said that the {noun} {was}",
    "{name} found the {noun}. The {noun} {was}",
    "Mom told {name} that the {noun} {was}",
    "When {name} came home, the {noun} {was}",
    "The {noun} at the {place} {was}",
    '"Look, {name}! The {noun} {is}',
    "{name} knows that the {noun} {is}",
    "{name} says that the {noun} {has}",
    "The {noun} from the {place} {has}",
)
_OPPOSITES = (
    "The {thing} was not {quality}. It was {opposite}",
    "The {thing} was not {quality}, it was {opposite}",
    "{name} said that the {thing} was not {quality} but {opposite}",
    "The {thing} is not {quality}. It is {opposite}",
    "One {thing} was {quality} and the other {thing} was {opposite}",
    "First the {thing} was {quality}. Then it was {opposite}",
    "The {thing} was too {quality}. {name} wanted one that was {opposite}",
    "The {thing} used to be {quality}. Now it is {opposite}",
    "{name} had a {quality} {thing}. {friend} had one that was {opposite}",
    "Some days the {thing} is {quality}, and some days it is {opposite}",
    "The {thing} of {name} is {quality}, but the {thing} of {friend} is {opposite}",
    "The {thing} looked {quality}, but it was {opposite}",
    '"Is the {thing} {quality}?" asked {name}. "No, it is {opposite}',
    "The {thing} at the {place} was not {quality}. It was very {opposite}",
)
_INDUCTION = (
    "{a} {b} {x} {a} {b}",
    "{a} {b} {x} {y} {z} {w} {a} {b}",
    "{a} {b} {d} {c} {x} {a} {b}",
    "{x} {a} {b} {y} {z} {a} {b}",
    "{a} {b}. {x} {y}. {a} {b}",
    "{d} {c}. {a} {b}. {a} {b}",
    "{a} {b} {a} {b} {a} {b}",
    "{a} and {b}, {d} and {c}, {a} and {b}",
    "The {quality} {noun} was at the {place}. The {quality} {noun}",
    "Once there was a {quality} {noun}. One day, the {quality} {noun}",
    "{name} had a {quality} {noun}. {name} liked the {quality} {noun}",
    "{name} saw a {quality} {noun} at the {place}. The {quality} {noun}",
    "One day, {name} got a {quality} {noun}. {name} took the {quality} {noun}",
    '"I want the {quality} {noun}," said {name}. Mom got the {quality} {noun}',
    "{name} had a {quality} {noun} and a {look} {other}. {name} liked the {quality} {noun}",
    "The {look} {other} saw the {quality} {noun}. Then the {quality} {noun}",
    "{name} saw a {noun} and {friend} saw a {other}. Then {name} saw a {noun}",
    "The {quality} {noun} of {name} was lost. {name} looked for the {quality} {noun}",
)


_SLOT = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Frame:
    """A sentence with slots, of which the last is the answer's."""

    text: str

    @property
    def before(self) -> str:
        """The text that the answer follows."""
        return self.text[: self.text.rindex("{")].rstrip()

    @property
    def answer(self) -> str:
        """The name of the answer's slot."""
        return self.text[self.text.rindex("{") + 1 : self.text.rindex("}")]

    @property
    def slots(self) -> tuple[str, ...]:
        """Those before the answer, each once."""
        return tuple(dict.fromkeys(_SLOT.findall(self.before)))


@dataclass(frozen=True)
class Kind:
    """What a kind of behaviour is made of."""

    name: str
    frames: tuple[str, ...]
    labels: Mapping[tuple[bool, ...], str]  # its classes, by whether each contrast has its first
    contrasts: Mapping[str, tuple[str, str]]  # a slot, and the two lists whose words set it apart
    answers: Mapping[str, tuple[str, str]]  # an answer's slot, and two lists
    factors: tuple[str, ...] = ()  # names of the contrasts, where there are two
    answering: Answering = "lists"  # what is right: words of two lists, or a contrast's own
    others: tuple[str, ...] = ()  # slots, one for each contrast, of its other word

    def frame(self, text: str) -> Frame:
        """A frame of this kind; refused with all that does not fit."""
        if odd := re.search("[{}]", _SLOT.sub("", text)):
            raise BehaviourError(
                f"frame {text!r:.80}: a '{odd[0]}' outside of a plain slot, which alone is filled. "
                f"Write a slot as {{name}}."
            )
        parts, frame = _SLOT.findall(text), Frame(text)
        ends = bool(parts) and text.rstrip().endswith("{" + parts[-1] + "}")
        slots = frame.slots if ends else ()
        faults = [] if ends else ["it does not end with the slot of its answer"]
        if ends and parts[-1] not in self.answers:
            faults.append(f"{{{parts[-1]}}} is no answer")
        known = {*self.contrasts, *FILLERS, *self.others}
        faults += [f"{{{slot}}} is no slot of it" for slot in slots if slot not in known]
        needed = parts[-1:] if self.answering == "same word" else [*self.contrasts]
        faults += [
            f"it lacks {{{each}}} before that" for each in needed if ends and each not in slots
        ]
        if faults:
            join = " or " if self.answering == "same word" else " and "
            fillers = ", ".join(f"{{{slot}}}" for slot in FILLERS)
            raise BehaviourError(
                f"frame {text!r:.80} of {self.name!r}: {'; '.join(faults)}. It needs "
                f"{join.join(f'{{{slot}}}' for slot in self.contrasts)}, may have {fillers}, "
                f"and ends with {' or '.join(f'{{{slot}}}' for slot in self.answers)}."
            )
        return frame

    def contrasts_of(self, frame: Frame) -> tuple[str, ...]:
        """The slots in which the classes of a frame differ."""
        if self.answering == "same word":
            return (frame.answer,)
        return tuple(self.contrasts)

    @property
    def lists(self) -> tuple[str, ...]:
        """The names of the lists that it takes words from."""
        pairs = (*self.contrasts.values(), *self.answers.values())
        return tuple(dict.fromkeys(name for pair in pairs for name in pair))

    def truth(self, sides: tuple[bool, ...]) -> bool:
        """Whether the first answer is right: of two contrasts, where one alone has its first."""
        return sides[0] != sides[1] if len(sides) == 2 else sides[0]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "negation",
            _NEGATION,
            {
                (False, True): "good",
                (False, False): "bad",
                (True, True): "not good",
                (True, False): "not bad",
            },
            {"degree": ("negators", "intensifiers"), "quality": ("positive", "negative")},
            {"glad": ("glad", "sad")},
            factors=("negated", "positive"),
        ),
        Kind(
            "pronoun",
            _PRONOUN,
            {(True,): "girl", (False,): "boy"},
            {"name": ("girls", "boys")},
            {"She": ("She", "He"), "she": ("she", "he"), "her": ("her", "his")},
        ),
        Kind(
            "number",
            _NUMBER,
            {(True,): "one", (False,): "many"},
            {"noun": ("singular", "plural")},
            {"was": ("was", "were"), "is": ("is", "are"), "has": ("has", "have")},
        ),
        Kind(
            "opposites",
            _OPPOSITES,
            {(True,): "more", (False,): "less"},
            {"quality": ("more", "less")},
            {"opposite": ("less", "more")},
            answering="other word",
        ),
        Kind(
            "induction",
            _INDUCTION,
            {(True,): "as drawn", (False,): "swapped"},
            {"b": ("words", "words"), "noun": ("things", "things")},
            {"b": ("words", "words"), "noun": ("things", "things")},
            answering="same word",
            others=("c", "other"),
        ),
    )
}
"""The kinds by name."""
