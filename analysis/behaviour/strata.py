"""Cases by frame, by last token and by word, so that no effect hides in a mean.

A mean over all cases can be made of effects that oppose each other: a circuit that turns the answer
in one frame and does little in another looks sound on average. So what is asked of a circuit is
asked of every stratum with enough cases, and the worst one decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.behaviour.bounds import LEAST
from analysis.behaviour.in_model import ModelCases

WHOLE = ("all", "class")
"""Kinds of strata that are judged however few cases they have."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Cases that have something in common."""

    kind: str  # "class", "last token", or a name that the cases give: "frame", "adjective"
    value: str
    rows: Int64[Tensor, " row"]

    @property
    def judged(self) -> bool:
        """Whether anything is judged by it."""
        return len(self.rows) >= LEAST or self.kind in WHOLE


def strata(cases: ModelCases, affected: bool = True) -> list[Stratum]:
    """All cases of the affected classes (or of the others), each class, and within each class the
    cases of each frame, last token and word; the same cases are named once."""
    inside = cases.affected[cases.label] > 0
    chosen = (inside if affected else ~inside).nonzero()[:, 0].tolist()
    found: dict[tuple[int, ...], Stratum] = {}
    for kind, value, rows in _groups(cases, chosen):
        found.setdefault(tuple(rows), Stratum(kind, value, torch.tensor(rows)))
    return list(found.values())


def means(values: Float[Tensor, "case ..."], some: Iterable[Stratum]) -> Float[Tensor, "s ..."]:
    """The mean over the cases of each stratum."""
    return torch.stack([values[stratum.rows.to(values.device)].mean(0) for stratum in some])


def frames(cases: ModelCases) -> Iterator[tuple[str, str, Bool[Tensor, " case"]]]:
    """All cases, and those of each frame, last token and word that has enough of every class."""
    everyone = list(range(len(cases)))
    yield "all", "all", torch.ones(len(cases), dtype=torch.bool)
    seen: set[tuple[bool, ...]] = set()
    for kind, words in _kinds(cases, everyone).items():
        for word in sorted(set(words)):
            among = [each == word for each in words]
            counts = torch.bincount(cases.label[torch.tensor(among)], minlength=len(cases.signs))
            if int(counts.min()) >= LEAST and not all(among) and tuple(among) not in seen:
                seen.add(tuple(among))
                yield kind, word, torch.tensor(among)


def _groups(cases: ModelCases, chosen: list[int]) -> Iterator[tuple[str, str, list[int]]]:
    if not chosen:
        return
    yield "all", "all", chosen
    labels = [(cases.behaviour.cases[row].label,) for row in chosen]
    yield from _apart("class", labels, chosen)
    for kind, words in _kinds(cases, chosen).items():
        yield from _apart(kind, [(word,) for word in words], chosen)
        named = [(word, *label) for word, label in zip(words, labels, strict=True)]
        yield from _apart(f"{kind}, class", named, chosen)


def _apart(
    kind: str, names: Sequence[tuple[str, ...]], rows: list[int]
) -> Iterator[tuple[str, str, list[int]]]:
    for name in sorted(set(names)):
        yield (
            kind,
            ", ".join(name),
            [row for row, of in zip(rows, names, strict=True) if of == name],
        )


def _kinds(cases: ModelCases, chosen: list[int]) -> dict[str, list[str]]:
    """What the cases name themselves, and the last token before the answer."""
    known = {
        kind: [cases.behaviour.cases[row].strata[kind] for row in chosen]
        for kind in cases.behaviour.cases[0].strata
    }
    tokens = cases.tokens[chosen, cases.position[chosen]].tolist()
    known["last token"] = _readable(cases, tokens)
    return known


def _readable(cases: ModelCases, tokens: list[int]) -> list[str]:
    """Each token as it reads in a text; as the tokenizer spells it where nothing is to be seen, or
    where another of them reads the same, as two halves of characters do."""
    tokenizer, unlike = cases.model.words("strata"), sorted(set(tokens))
    read = {token: tokenizer.decode([token]).strip() for token in unlike}
    shared = Counter(read.values())
    for token, spelt in zip(unlike, cases.model.token_texts(unlike), strict=True):
        if not read[token] or shared[read[token]] > 1:
            read[token] = spelt
    return [read[token] for token in tokens]
