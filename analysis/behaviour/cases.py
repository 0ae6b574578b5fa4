"""A behaviour: texts in classes, and the answers that fit each and those that do not.

Classes differ in one named factor or in two that cross (negated or not, good or bad). What a model
makes of a case is its *margin*: how much higher the logits of the fitting answers are than those
of the others. An accuracy of 1.00 stays while margins halve, so effects are measured in margins,
class by class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from analysis.behaviour.bounds import LEAST
from circuits.arguments import checked
from circuits.errors import BehaviourError
from circuits.graph.records import Metric
from circuits.plotting.display import html_of
from circuits.storage.files import parsed_json, written_whole
from circuits.storage.limits import check_readable
from circuits.storage.records import HALF
from circuits.storage.replacing import check_file

_TEXT = ("text", lambda value: isinstance(value, str))
_LIST = ("a list of words", lambda value: isinstance(value, list) and _all(value, str))
_NUMBER = ("a whole number", lambda value: type(value) is int)
_STRATA = (
    "a word for each name",
    lambda v: isinstance(v, dict) and _all(v.values(), str),
)
_FACTORS = ("true or false for each name", lambda v: isinstance(v, dict) and _all(v.values(), bool))
_REQUIRED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": _TEXT, "label": _TEXT, "right": _LIST, "wrong": _LIST,
}  # fmt: skip
_KEYS = {**_REQUIRED, "factors": _FACTORS, "pair": _NUMBER, "position": _NUMBER,
         "strata": _STRATA}  # fmt: skip
_TAKEN = {
    *("feature", "mean", "both"),
    *("first", "second", "weight", "contrast", "elsewhere", "together"),
    *("edit", "kind", "target", "n_pairs", "n_cases", "removed", "low", "high", "side_effect"),
    "faithfulness",
}

JSON_LINES = (
    "JSON lines (text, label, right, wrong; docs/guide.md describes them under 'Cases of your own')"
)
"""What a file of cases is, in the words of a message."""


@checked
@dataclass(frozen=True)
class Case:
    """A text, and how it should and should not go on after a position of it."""

    text: str
    label: str  # its class
    right: tuple[str, ...]  # answers that fit; of several tokens the first is compared
    wrong: tuple[str, ...]
    factors: Mapping[str, bool] = field(default_factory=dict)
    pair: int | None = None  # cases of one number differ in the factors alone
    position: int | None = None  # the token that is followed by an answer; None: the last
    strata: Mapping[str, str] = field(default_factory=dict)  # its frame, its words: "name": "word"


@checked
@dataclass(frozen=True)
class Behaviour:
    """Cases of every class, and what is measured of them.

    ``"logit difference"`` is the mean logit of the right answers less that of the wrong ones;
    ``"probability"`` the chance of any right answer less that of any wrong one.
    """

    name: str
    cases: tuple[Case, ...]
    metric: Metric = "logit difference"

    def __post_init__(self) -> None:
        faults = []
        if self.metric not in get_args(Metric):
            faults.append(f"metric {self.metric!r} is none of {get_args(Metric)}")
        counts = Counter(case.label for case in self.cases)
        if few := [label for label, n in counts.items() if n < 2]:
            faults.append(
                f"{_listed(few)} of one case: without a second one no spread is known, and no "
                f"interval"
            )
        if len(counts) not in (2, 4):
            faults.append(f"{len(counts)} classes ({_listed(counts)}), where 2 or 2 x 2 can be set "
                          f"against each other{_absent(self.cases)}")  # fmt: skip
        if not self.name.strip():
            faults.append("it has no name")
        if broken := [name for name in self._names if name.splitlines() not in ([], [name])]:
            faults.append(f"the name {broken[0]!r:.60} is of several lines")
        named = dict.fromkeys(name for case in self.cases for name in (case.label, *case.factors))
        if same := [name for name in named if name in _TAKEN]:
            faults.append(
                f"classes or factors are called {_listed(same)}, as columns of its tables are"
            )
        places = Counter((case.text, case.position) for case in self.cases)
        if twice := [text for (text, _), n in places.items() if n > 1]:
            faults.append(
                f"{len(twice)} texts are there twice with the same position, as {twice[0]!r:.60}: "
                f"each case is to count once, and in one class"
            )
        if both := [case.text for case in self.cases if set(case.right) & set(case.wrong)]:
            faults.append(
                f"{len(both)} cases have an answer both right and wrong, as {both[0]!r:.60}"
            )
        empty = [case.text for case in self.cases if not (case.right and case.wrong)]
        if empty:
            faults.append(f"{len(empty)} cases without right or wrong answers, as {empty[0]!r:.60}")
        strata = {tuple(sorted(case.strata)) for case in self.cases}
        if taken := sorted({n for names in strata for n in names} & {"all", "class", "last token"}):
            faults.append(f"strata are called {_listed(taken)}, which every behaviour has already")
        if len(strata) > 1:
            faults.append(
                f"some cases have the strata {_listed(max(strata))} and others "
                f"{_listed(min(strata)) or 'none'}, where all cases need the same names"
            )
        if not faults:
            faults += self._faulty_factors()
        if faults:
            raise BehaviourError(f"behaviour {self.name!r}: {'; '.join(faults)}. Fix its cases.")

    @property
    def _names(self) -> set[str]:
        """Of classes, factors and strata, and its own: the words of tables and sentences."""
        each = ((case.label, *case.factors, *case.strata, *case.strata.values())
                for case in self.cases)  # fmt: skip
        return {self.name, *chain.from_iterable(each)}

    def _faulty_factors(self) -> list[str]:
        names = {tuple(case.factors) for case in self.cases}
        if names == {()} and len(self.labels) == 2:
            return []
        if len(names) > 1 or 2 ** len(self.factors) != len(self.labels):
            return [
                f"its {len(self.labels)} classes name the factors "
                f"{' / '.join(sorted(str(list(each)) for each in names))}: two classes need one "
                f"factor (or none named), four need two, the same in every case"
            ]
        known = {(case.label, tuple(case.factors.values())) for case in self.cases}
        if len(known) != len(self.labels) or len({values for _, values in known}) != len(known):
            return ["a class has cases of different factors, or two classes the same factors"]
        return []

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order of appearance."""
        return tuple(dict.fromkeys(case.label for case in self.cases))

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """What classes differ in: one name, or two; of two plain classes, the second's label."""
        return tuple(self.cases[0].factors) or (self.labels[1],)

    def value_of(self, case: Case, factor: str) -> bool:
        """Whether a factor is present in a case."""
        if case.factors and factor not in case.factors:
            raise BehaviourError(
                f"Behaviour.value_of: no factor {factor!r:.40}. Name one of "
                f"{', '.join(case.factors)}."
            )
        return case.factors[factor] if case.factors else case.label == factor

    @property
    def affected(self) -> tuple[str, ...]:
        """The classes that a circuit must be seen in: of two factors, where the first is present
        (not good, not bad); of one, both."""
        if len(self.factors) == 1:
            return self.labels
        present = {c.label for c in self.cases if self.value_of(c, self.factors[0])}
        return tuple(label for label in self.labels if label in present)

    def halves(self) -> tuple[Behaviour, Behaviour]:
        """Every other pair, so that what is chosen on one half can be measured on the other; where
        every second pair has other words, the halves have none in common."""
        of_pair: dict[object, list[Case]] = {}
        for number, case in enumerate(self.cases):  # a case without a pair is one of its own
            of_pair.setdefault((case.pair, number if case.pair is None else None), []).append(case)
        seen: dict[tuple[str, ...], int] = {}  # pairs of some classes so far
        parts: tuple[list[Case], list[Case]] = [], []
        for cases in of_pair.values():
            kind = tuple(sorted(case.label for case in cases))
            seen[kind] = seen.get(kind, 0) + 1
            parts[(seen[kind] - 1) % 2].extend(cases)
        few = [x for x in self.labels if min(sum(c.label == x for c in p) for p in parts) < 2]
        if few:
            raise BehaviourError(
                f"behaviour {self.name!r} has too few cases of {_listed(few)}: a circuit is chosen "
                f"on one half of the cases and measured on the other, and each half needs two of "
                f"every class. Write at least {2 * LEAST} of every class: a claim needs {LEAST} of "
                f"them held out."
            )
        first, second = (Behaviour(self.name, tuple(part), self.metric) for part in parts)
        return first, second

    def other_words(self, other: Behaviour) -> tuple[str, ...]:
        """The strata of which this behaviour and another one have no word in common."""
        words = (
            {name: {case.strata[name] for case in each.cases} for name in each.cases[0].strata}
            for each in (self, other)
        )
        ours, theirs = words
        return tuple(name for name in ours if name in theirs and not ours[name] & theirs[name])

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the cases as JSONL, one a line; over a file that has none only with ``force``."""
        check_file(path, "cases", lambda _: _has_cases(Path(path)), BehaviourError, force)
        given = ({key: _plain(getattr(case, key)) for key in _KEYS} for case in self.cases)
        rows = [{k: value for k, value in row.items() if value not in (None, {})} for row in given]
        with written_whole(path) as file:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(
        cls, path: str | Path, metric: Metric = "logit difference", *, name: str | None = None
    ) -> Behaviour:
        """The cases of a JSONL file: text, label, right, wrong, and where they have them factors,
        pair, position and strata. The behaviour is named after the file, or as given."""
        path = Path(path)
        check_readable(path, BehaviourError)
        try:
            # not splitlines(): that also breaks at separators which JSON allows inside a string
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BehaviourError(f"{path} cannot be read ({error}). Name a JSONL file.") from error
        cases = {
            number: _case(f"{path}, line {number}", line)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        }
        if not cases:
            raise BehaviourError(f"{path} has no cases. Write one a line, as JSON.")
        if odd := _odd_names(cases):
            raise BehaviourError(f"{path}: {'; '.join(odd)}. Name the same in every case.")
        return cls(name or path.stem, tuple(cases.values()), metric)

    def _repr_html_(self) -> str:
        first = {case.label: case for case in reversed(self.cases)}
        rows = [
            {
                "class": label,
                "cases": sum(case.label == label for case in self.cases),
                "one of them": first[label].text,
                "should go on with": ", ".join(first[label].right),
                "not with": ", ".join(first[label].wrong),
            }
            for label in self.labels
        ]
        return html_of(repr(self), classes=pd.DataFrame(rows))

    def __repr__(self) -> str:
        return f"Behaviour({self.name}: {len(self.cases)} cases of {', '.join(self.labels)})"


def _absent(cases: Iterable[Case]) -> str:
    """Which combinations of two factors have no case, to go on with; nothing where no case names
    two, or the cases name different ones."""
    names = {tuple(sorted(case.factors)) for case in cases}
    if len(names) != 1 or len(two := next(iter(names))) != 2:
        return ""
    there = {tuple(case.factors[name] for name in two) for case in cases}
    lacking = [
        " and ".join(name if on else f"not {name}" for name, on in zip(two, values, strict=True))
        for values in product((False, True), repeat=2)
        if values not in there
    ]
    return f"; no case is {', or '.join(lacking)}" if lacking else ""


def _odd_names(cases: Mapping[int, Case]) -> list[str]:
    """Lines whose factors or strata have other names than those of most lines."""
    odd = []
    for kind in ("factors", "strata"):
        names = {number: tuple(sorted(getattr(case, kind))) for number, case in cases.items()}
        usual = Counter(names.values()).most_common(1)[0][0]
        if other := [number for number, own in names.items() if own != usual]:
            more = f" (and {len(other) - 1} more lines have others)" if len(other) > 1 else ""
            odd.append(
                f"line {other[0]} has the {kind} {_listed(names[other[0]]) or 'none'}, most lines "
                f"have {_listed(usual) or 'none'}{more}"
            )
    return odd


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _has_cases(path: Path) -> bool:
    """Whether the first line of a file is a case."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            _case(str(path), next((line for line in file if line.strip()), ""))
    except (BehaviourError, OSError, UnicodeDecodeError):
        return False
    return True


def _case(where: str, line: str) -> Case:
    try:
        row = parsed_json(line)
    except (ValueError, RecursionError) as error:
        raise BehaviourError(f"{where} is not JSON ({error}). Write one case a line.") from error
    if not isinstance(row, dict):
        raise BehaviourError(f"{where} is not a JSON object. Write one case a line.")
    faults = [f"no {key!r}" for key in _REQUIRED if key not in row]
    faults += [f"an unknown {key!r}" for key in row if key not in _KEYS]
    for key, (what, fits) in _KEYS.items():
        value = row.get(key)
        if key in row and not (fits(value) or (value is None and key not in _REQUIRED)):
            faults.append(f"{key} {value!r:.40}, which is not {what}")
    if half := HALF.search(json.dumps(row, ensure_ascii=False)):
        faults.append(f"{half[0]!a} in it, half of a character, which is not text")
    if faults:
        raise BehaviourError(f"{where} has {', '.join(faults)}. Its keys are {', '.join(_KEYS)}.")
    row["right"], row["wrong"] = tuple(row["right"]), tuple(row["wrong"])
    return Case(**{key: value for key, value in row.items() if value is not None})


def _all(values: Iterable[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _listed(words: Any) -> str:
    return ", ".join(repr(word) for word in words)
