"""A behaviour built from a model's own words, of the frames in which the model shows it.

Frames are tried on one half of the words and kept if the model is right in every class; what is
reported, and the held-out half of the behaviour (`Behaviour.halves`), are of the other half of the
words. So the choice of frames does not flatter what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from analysis.behaviour.bounds import LEAST, SHOWN
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.drawing import Drawing, Trial
from analysis.behaviour.in_model import in_model
from analysis.behaviour.kinds import KINDS
from analysis.behaviour.own_words import Half, halves, word_lists
from circuits.arguments import checked
from circuits.corpus.tokenizer import check_whole
from circuits.errors import BehaviourError, check_count, shorten
from circuits.model.model import Model
from circuits.plotting.display import html_of

_MOST = 100_000
_COLUMNS = ("cases", "right", "held-out cases", "held-out right")


@dataclass(frozen=True, eq=False)
class LexiconBehaviour:
    """What was tried of a kind of behaviour, and the cases of the frames that were kept."""

    kind: str
    behaviour: Behaviour | None  # None where no frame was kept
    trials: pd.DataFrame  # a row for each frame: how often right in both halves, kept, and why not
    classes: pd.DataFrame  # of the behaviour, all and by class: how often right in both halves
    words: pd.DataFrame  # of each list: words given, usable, and which
    first_pieces: tuple[str, ...]  # answers that are compared by their first token alone
    shown: float  # the share right that a frame needs in every class
    seed: int

    @property
    def n_tried(self) -> int:
        """Frames that were tried."""
        return len(self.trials)

    @property
    def n_kept(self) -> int:
        """Frames in which the model shows the behaviour."""
        return int(self.trials["kept"].sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the cases: answers that are only begun, words that are in
        both halves."""
        found = []
        if self.first_pieces:
            found.append(f"answers are compared by their first token: {shorten(self.first_pieces)}")
        if self.behaviour is not None:
            first, second = self.behaviour.halves()
            apart = {"frame", *first.other_words(second)}
            if same := [name for name in first.cases[0].strata if name not in apart]:
                found.append(f"some words of {' and '.join(same)} are in both halves")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the cases, for JSON."""
        tables = {name: getattr(self, name) for name in ("trials", "classes", "words")}
        return {
            "kind": self.kind,
            "tried": self.n_tried,
            "kept": self.n_kept,
            **{name: table.to_dict("records") for name, table in tables.items()},
            "first_pieces": list(self.first_pieces),
            "notes": list(self.notes),
            "shown": self.shown,
            "seed": self.seed,
        }

    def _repr_html_(self) -> str:
        return html_of(repr(self), trials=self.trials, classes=self.classes, words=self.words)

    def __repr__(self) -> str:
        n = 0 if self.behaviour is None else len(self.behaviour.cases)
        return (f"LexiconBehaviour({self.kind}: {self.n_kept} of {self.n_tried} frames kept, "
                f"{n} cases)")  # fmt: skip


@checked
def behaviour_from_lexicon(
    model: Model,
    kind: str,
    *,
    frames: Sequence[str] | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    n: int = 400,
    shown: float = SHOWN,
    seed: int = 0,
) -> LexiconBehaviour:
    """A behaviour of at most ``n`` minimal pairs, of words that the model's tokenizer has and of
    the frames in which the model is right in a share of at least ``shown`` of every class.

    ``kind`` is negation (of sentiment), pronoun (she or he), number (was or were), opposites or
    induction. ``frames`` take the place of the ready ones (``"{name} had a {thing}. {She}"``), and
    ``words`` of the lists of those names (``girls=["Lily", …]``). Every other pair is of one half
    of the words, on which the frames were chosen; the rest, which `find_circuit` holds out, of the
    other half. A model that shows nothing gets no behaviour, and the table of what was tried.
    """
    if kind not in KINDS:
        raise BehaviourError(
            f"behaviour_from_lexicon: no kind {kind!r}; there are {', '.join(KINDS)}. Write cases "
            f"of another as JSONL."
        )
    if check_count("behaviour_from_lexicon", n, _MOST, "n") < 2 * LEAST:
        raise BehaviourError(
            f"behaviour_from_lexicon: {n} pairs, where a claim needs {2 * LEAST}: half of them are "
            f"held out. Ask for more."
        )
    if not 0 < shown <= 1:
        raise BehaviourError(
            f"behaviour_from_lexicon: shown {shown} must lie between 0 and 1: it is a share. Try "
            f"{SHOWN}."
        )
    check_whole("behaviour_from_lexicon", chain(frames or (), *(words or {}).values()))
    made_of, tokenizer = KINDS[kind], model.words(f"behaviour {kind!r}")
    some = [made_of.frame(text) for text in dict.fromkeys(frames or made_of.frames)]
    draw = np.random.default_rng(seed)
    lists = word_lists(made_of, words or {}, some, tokenizer, draw)
    parts = halves(made_of, lists, tokenizer, draw)
    drawing = Drawing(made_of, tokenizer, draw)
    trials = [drawing.trial(frame, lists, parts) for frame in some]
    if all(trial.no_answers for trial in trials):
        reasons = "; ".join(dict.fromkeys(trial.no_answers for trial in trials))
        raise BehaviourError(
            f"behaviour {kind!r} has no usable answers in this model's tokens: {reasons}. Give "
            f"words of those lists that it has."
        )
    table = _word_table(lists, parts, trials)
    return _measured(kind, trials, model, n, shown, seed, table)


def _measured(
    kind: str, trials: list[Trial], model: Model, n: int, shown: float, seed: int,
    words: pd.DataFrame,
) -> LexiconBehaviour:  # fmt: skip
    """All frames as the model answers in them, and the behaviour of those that are kept."""
    cases = [case for trial in trials for case in trial.cases]
    right, first_pieces = _right(kind, cases, model)
    rows = [_row(trial, right, shown) for trial in trials]
    kept = [trial for trial, row in zip(trials, rows, strict=True) if row["kept"]]
    behaviour = Behaviour(kind, _balanced(kept, n)) if kept else None
    classes = pd.DataFrame(columns=["class", *_COLUMNS])
    if behaviour is not None:
        both = behaviour.halves()
        classes = pd.DataFrame(
            [_class_row(label, both, right) for label in ("all", *behaviour.labels)]
        )
    return LexiconBehaviour(
        kind, behaviour, pd.DataFrame(rows), classes, words, first_pieces, shown, seed
    )


def _class_row(
    label: str, halves: tuple[Behaviour, Behaviour], right: Mapping[str, bool]
) -> dict[str, Any]:
    """How often the model is right in one class, or in all, in both halves."""
    row: dict[str, Any] = {"class": label}
    for name, half in zip(("", "held-out "), halves, strict=True):
        cases = [case for case in half.cases if label in ("all", case.label)]
        row |= {f"{name}cases": len(cases), f"{name}right": _share(cases, right)}
    return row


def _right(
    kind: str, cases: list[Case], model: Model
) -> tuple[Mapping[str, bool], tuple[str, ...]]:
    """Whether the model is right after each text, and which answers are compared by a piece."""
    if not cases:
        return {}, ()
    asked = in_model(Behaviour(kind, tuple(cases)), model)
    margins = (asked.margins() > 0).tolist()
    return dict(zip((case.text for case in cases), margins, strict=True)), asked.first_pieces


def _share(cases: Sequence[Case], right: Mapping[str, bool]) -> float:
    return sum(right[case.text] for case in cases) / len(cases) if cases else float("nan")


def _row(trial: Trial, right: Mapping[str, bool], shown: float) -> dict[str, Any]:
    """A frame of the table: its share of right answers in both halves, and in the worst class."""
    row: dict[str, Any] = {"frame": trial.frame.text}
    worst_class = ""
    for name, pairs in zip(("", "held-out "), trial.pairs, strict=True):
        cases = [case for pair in pairs for case in pair]
        by_class = {label: _share([c for c in cases if c.label == label], right)
                    for label in dict.fromkeys(case.label for case in cases)}  # fmt: skip
        worst = min(by_class, key=lambda label: by_class[label], default="")
        row |= {f"{name}cases": len(cases), f"{name}right": _share(cases, right),
                f"{name}worst": by_class.get(worst, float("nan"))}  # fmt: skip
        worst_class = worst_class or worst
    kept = bool(row["worst"] >= shown)  # also false where nothing was tried
    missed = f"right in {row['worst']:.0%} of {worst_class!r}" if worst_class and not kept else ""
    return {**row, "kept": kept, "why not": trial.why or missed}


def _balanced(kept: list[Trial], n: int) -> tuple[Case, ...]:
    """As many pairs of either half and, where there are, of each frame; in turn of the halves."""
    most = -(-n // (2 * len(kept)))
    both = [list(zip(*trial.pairs, strict=False))[:most] for trial in kept]
    order = [two for row in zip_longest(*both) for two in row if two is not None]
    return tuple(case for two in order[: n // 2] for pair in two for case in pair)


def _word_table(
    lists: Mapping[str, Sequence[str]], parts: tuple[Half, Half], trials: list[Trial]
) -> pd.DataFrame:
    """How many words of each list were tried, and those that are kept."""
    cases = [case for trial in trials for case in trial.cases]
    answers = {word for case in cases for word in (*case.right, *case.wrong)}
    rows = []
    for name, words in lists.items():
        used = answers.union(*(half.words_of(name) for half in parts))
        kept = [word for word in dict.fromkeys(words) if word in used]
        rows.append({"list": name, "tried": len({*words}), "kept": len(kept),
                     "words": " ".join(kept)})  # fmt: skip
    return pd.DataFrame(rows)
