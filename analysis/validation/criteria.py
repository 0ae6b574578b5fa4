"""What a circuit must reach to be called causal, computed here, and specific.

What holds on average can hide effects that oppose each other, so effects are asked of the worst
stratum: of the classes, and in each of them of every frame, last token and word with enough cases.
The bounds are in `bounds`, with the day that they were fixed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from analysis.behaviour import bounds
from analysis.validation.edits import DrawKind
from circuits.storage.records import Word


class Direction(Word):
    """Which side of the wanted value is good."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


class Claim(Word):
    """What criteria are evidence of."""

    CAUSAL = "causal"  # the pairs carry the behaviour, in every stratum
    COMPUTED = "computed here"  # the contrast is made in this MLP, and was not in its input
    SPECIFIC = "specific"  # it is causal, other classes stay, other pairs as loud do not do it


class Measure(Word):
    """What a criterion is about; shares are of the margins before any edit."""

    CASES = "cases"
    SHOWN = "shown"
    REMOVED = "removed"
    LEFT = "left"
    KEPT = "kept"
    COMPUTED = "computed"
    INHERITED = "inherited"
    WITHIN = "within"
    SIDE_EFFECT = "side_effect"
    RANDOM = "random"
    EQUAL = "equal"
    EQUAL_WORST = "equal_worst"


_LABELS = {
    Measure.CASES: "cases of each class: {}",
    Measure.SHOWN: "right cases of the model in each class: {}",
    Measure.REMOVED: "removing the circuit removes {} of the margin",
    Measure.LEFT: "removing it leaves {} of the margin in any stratum",
    Measure.KEPT: "keeping only the circuit keeps {} of the effect in any stratum",
    Measure.COMPUTED: "of what its pairs add to the contrast they compute {}",
    Measure.INHERITED: "of the contrast {} was in the MLP's input, in any frame",
    Measure.WITHIN: "of the contrast {} comes from the spread within classes, in any frame",
    Measure.SIDE_EFFECT: "removing it changes the margin of other classes by {} in any stratum",
    Measure.RANDOM: "as many random pairs remove {} of the margin (median)",
    Measure.EQUAL: "random pairs remove {} of what it does, for what they write (median)",
    Measure.EQUAL_WORST: "random pairs remove {} of what it does, for what they write (worst draw)",
}
_BEFORE = (Measure.CASES, Measure.SHOWN)  # without them nothing is claimed
_CLAIMS = {
    Measure.COMPUTED: Claim.COMPUTED,
    Measure.INHERITED: Claim.COMPUTED,
    Measure.WITHIN: Claim.COMPUTED,
    Measure.SIDE_EFFECT: Claim.SPECIFIC,
    Measure.RANDOM: Claim.SPECIFIC,
    Measure.EQUAL: Claim.SPECIFIC,
    Measure.EQUAL_WORST: Claim.SPECIFIC,
}


@dataclass(frozen=True)
class Criterion:
    """A measured value, and what was wanted of it."""

    name: Measure
    direction: Direction
    wanted: float
    value: float | None = None  # None: it could not be measured

    @property
    def claim(self) -> Claim | None:
        """What it is evidence of; None: it is needed for every claim."""
        return None if self.name in _BEFORE else _CLAIMS.get(self.name, Claim.CAUSAL)

    @property
    def met(self) -> bool:
        """Whether the value is on the good side."""
        if self.value is None:
            return False
        at_least = self.direction is Direction.AT_LEAST
        return self.value >= self.wanted if at_least else self.value <= self.wanted

    @property
    def label(self) -> str:
        """What is wanted, in words."""
        bound = str(self.direction).replace("_", " ")
        return _LABELS[self.name].format(f"{bound} {self._said(self.wanted)}")

    @property
    def shortfall(self) -> str:
        """What was measured, and what was wanted."""
        if self.value is None:
            return f"{self.label}: not measured"
        if self.name is Measure.CASES:
            return (
                f"{self.value:g} held-out cases of each class, and {self.wanted:g} are needed: "
                f"write at least {2 * self.wanted:g} pairs"
            )
        said = _LABELS[self.name].format(self._said(self.value)).replace(" any ", " the worst ")
        wanted = f"wanted: {str(self.direction).replace('_', ' ')} {self._said(self.wanted)}"
        return f"{said[:-1]}; {wanted})" if said.endswith(")") else f"{said} ({wanted})"

    def _said(self, value: float) -> str:
        return f"{value:g}" if self.name is Measure.CASES else f"{100 * value:.3g} %"


CRITERIA = (
    Criterion(Measure.CASES, Direction.AT_LEAST, float(bounds.LEAST)),
    Criterion(Measure.SHOWN, Direction.AT_LEAST, bounds.SHOWN),
    Criterion(Measure.REMOVED, Direction.AT_LEAST, bounds.REMOVED),
    Criterion(Measure.LEFT, Direction.AT_MOST, bounds.LEFT),
    Criterion(Measure.KEPT, Direction.AT_LEAST, bounds.KEPT),
    Criterion(Measure.COMPUTED, Direction.AT_LEAST, bounds.COMPUTED),
    Criterion(Measure.INHERITED, Direction.AT_MOST, bounds.INHERITED),
    Criterion(Measure.WITHIN, Direction.AT_MOST, bounds.WITHIN),
    Criterion(Measure.SIDE_EFFECT, Direction.AT_MOST, bounds.SIDE_EFFECT),
    Criterion(Measure.RANDOM, Direction.AT_MOST, bounds.AT_RANDOM),
    Criterion(Measure.EQUAL, Direction.AT_MOST, bounds.AS_LOUD),
    Criterion(Measure.EQUAL_WORST, Direction.AT_MOST, bounds.AS_LOUD_WORST),
)
"""What a circuit must reach, claim by claim."""


@dataclass(frozen=True)
class Whole:
    """What is measured over all cases."""

    n_least: int  # cases of the rarest class
    shown: float  # share of right cases in the class with fewest
    removed: float  # of the affected classes' mean margin
    computed: float  # of what the circuit's pairs add to the contrast


def measured(
    whole: Whole,
    strata: pd.DataFrame,
    origins: pd.DataFrame,
    random: pd.DataFrame,
) -> tuple[Criterion, ...]:
    """The criteria with their values; without other classes nothing is said of them, and without
    five different draws of pairs that write as much nothing of those."""
    judged = strata[strata["judged"]]
    inside, outside = judged[judged["affected"]], judged[~judged["affected"]]
    many = random[random["kind"] == DrawKind.SAME_NUMBER.value]
    loud = random[random["kind"] == DrawKind.SAME_SIZE.value]
    enough = loud["set"].nunique() >= bounds.DRAWS and whole.removed > 0
    each = loud["removed"] / loud["size"] / (whole.removed if enough else math.nan)
    known = origins.where(origins["contrast"] > 0)  # elsewhere it does not favour the answer
    values = {
        Measure.CASES: float(whole.n_least),
        Measure.SHOWN: whole.shown,
        Measure.REMOVED: whole.removed,
        Measure.LEFT: float(inside["left"].max(skipna=False)),
        Measure.KEPT: float(inside["kept"].min(skipna=False)),
        Measure.COMPUTED: whole.computed,
        Measure.INHERITED: float(known["inherited"].abs().max(skipna=False)),
        Measure.WITHIN: float(known["within"].abs().max(skipna=False)),
        Measure.SIDE_EFFECT: float((outside["left"] - 1).abs().max(skipna=False)),
        Measure.RANDOM: float(many["removed"].abs().median()),
        Measure.EQUAL: float(each.median(skipna=False)),
        Measure.EQUAL_WORST: float(each.max(skipna=False)),
    }
    return tuple(
        replace(one, value=value if math.isfinite(value) else None)
        for one in CRITERIA
        for value in [values[one.name]]
        if len(outside) or one.name is not Measure.SIDE_EFFECT
    )


def criteria_table(criteria: Iterable[Criterion]) -> pd.DataFrame:
    """Criteria with labels, for people."""
    rows = [
        (str(one.claim or "any"), one.label, one.value, one.wanted, one.met) for one in criteria
    ]
    return pd.DataFrame(rows, columns=["claim", "criterion", "value", "wanted", "met"])
