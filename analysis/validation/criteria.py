"""What a circuit must reach to be called causal, computed here and specific, or, through several
layers, causal and beyond random pairs.

What holds on average can hide effects that oppose each other, so effects are asked of the worst
stratum: of the classes, and in each of them of every frame, last token and word with enough cases.
The bounds are in `bounds`, with the day that they were fixed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
    BEYOND_RANDOM = "beyond random pairs"  # through several layers: causal, and others do not do it


IN_ONE_LAYER = (Claim.CAUSAL, Claim.COMPUTED, Claim.SPECIFIC)
ACROSS_LAYERS = (Claim.CAUSAL, Claim.BEYOND_RANDOM)
AGAINST_RANDOM = "random pairs only"  # what specific is, where no other class is judged


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
    RANDOM_CHANGE = "random_change"
    EQUAL_CHANGE = "equal_change"
    EQUAL_CHANGE_WORST = "equal_change_worst"


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
    Measure.RANDOM_CHANGE: "as many random pairs change the margin by {} (median)",
    Measure.EQUAL_CHANGE: (
        "random pairs change it by {} of what the circuit does, for what they write (median)"
    ),
    Measure.EQUAL_CHANGE_WORST: (
        "random pairs change it by {} of what the circuit does, for what they write (worst draw)"
    ),
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
    Measure.RANDOM_CHANGE: Claim.BEYOND_RANDOM,
    Measure.EQUAL_CHANGE: Claim.BEYOND_RANDOM,
    Measure.EQUAL_CHANGE_WORST: Claim.BEYOND_RANDOM,
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
                f"write at least {2 * self.wanted:g} of each"
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

CRITERIA_ACROSS = (
    *(one for one in CRITERIA if one.claim in (Claim.CAUSAL, None)),
    Criterion(Measure.RANDOM_CHANGE, Direction.AT_MOST, bounds.AT_RANDOM),
    Criterion(Measure.EQUAL_CHANGE, Direction.AT_MOST, bounds.AS_LOUD),
    Criterion(Measure.EQUAL_CHANGE_WORST, Direction.AT_MOST, bounds.AS_LOUD_WORST),
)
"""The same through several layers. Random pairs are judged by the size of what they do: those that
raise the margin matter as much."""


@dataclass(frozen=True)
class Whole:
    """What is measured over all cases."""

    n_least: int  # cases of the rarest class
    shown: float  # share of right cases in the class with fewest
    removed: float  # of the affected classes' mean margin
    computed: float = math.nan  # of what the circuit's pairs add to the contrast


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
    many, loud = _drawn(random)
    each = _for_size(loud, whole.removed)
    known = origins.where(origins["contrast"] > 0)  # elsewhere it does not favour the answer
    values = _carried(whole, inside, inside) | {
        Measure.COMPUTED: whole.computed,
        Measure.INHERITED: float(known["inherited"].abs().max(skipna=False)),
        Measure.WITHIN: float(known["within"].abs().max(skipna=False)),
        Measure.SIDE_EFFECT: float((outside["left"] - 1).abs().max(skipna=False)),
        Measure.RANDOM: float(many["removed"].abs().median()),
        Measure.EQUAL: float(each.median(skipna=False)),
        Measure.EQUAL_WORST: float(each.max(skipna=False)),
    }
    asked = [one for one in CRITERIA if len(outside) or one.name is not Measure.SIDE_EFFECT]
    return _filled(asked, values)


def measured_across(
    whole: Whole, n_pairs: int, strata: pd.DataFrame, random: pd.DataFrame
) -> tuple[Criterion, ...]:
    """The same through several layers: alone the circuit must keep the effect in the strata of all
    classes, and of random pairs nothing is said where its layers have fewer than its own."""
    judged = strata[strata["judged"]]
    many, loud = _drawn(random)
    if too_few_draws(random, n_pairs):
        many, loud = many.iloc[:0], loud.iloc[:0]
    each = _for_size(loud, whole.removed).abs()
    values = _carried(whole, judged[judged["affected"]], judged) | {
        Measure.RANDOM_CHANGE: float(many["removed"].abs().median()),
        Measure.EQUAL_CHANGE: float(each.median(skipna=False)),
        Measure.EQUAL_CHANGE_WORST: float(each.max(skipna=False)),
    }
    return _filled(CRITERIA_ACROSS, values)


def too_few_draws(random: pd.DataFrame, n_pairs: int = 0) -> str:
    """Why random pairs that write as much are not judged; nothing where they are. They are drawn
    beside as many as ``n_pairs``, where that is given."""
    many, loud = _drawn(random)
    if len(many) and (there := int(many["n_pairs"].max())) < n_pairs:
        return (
            f"outside of the circuit of {n_pairs} pairs there are only {there} that could be drawn "
            f"in their place"
        )
    n, distinct = len(loud), loud["set"].nunique()
    if distinct >= bounds.DRAWS:
        return ""
    if n < bounds.DRAWS:
        return f"{n} draws were made, and {bounds.DRAWS} are needed"
    return (
        f"the dictionary has only {loud['there'].max():.0f} such pairs, {distinct} of {n} draws "
        f"differ, and {bounds.DRAWS} are needed"
    )


def _drawn(random: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws of as many pairs, and of as many as write as much."""
    of = random["kind"]
    return random[of == DrawKind.SAME_NUMBER.value], random[of == DrawKind.SAME_SIZE.value]


def _for_size(loud: pd.DataFrame, removed: float) -> pd.Series:
    """What each draw removes of what the circuit does, for what it writes; NaN where too few of
    them differ, or the circuit removes nothing."""
    enough = loud["set"].nunique() >= bounds.DRAWS and removed > 0
    return loud["removed"] / loud["size"] / (removed if enough else math.nan)


def _carried(whole: Whole, affected: pd.DataFrame, alone: pd.DataFrame) -> dict[Measure, float]:
    """What every claim needs, and what a causal circuit does in these strata."""
    return {
        Measure.CASES: float(whole.n_least),
        Measure.SHOWN: whole.shown,
        Measure.REMOVED: whole.removed,
        Measure.LEFT: float(affected["left"].max(skipna=False)),
        Measure.KEPT: float(alone["kept"].min(skipna=False)),
    }


def _filled(
    criteria: Iterable[Criterion], values: Mapping[Measure, float]
) -> tuple[Criterion, ...]:
    return tuple(
        replace(one, value=value if math.isfinite(value) else None)
        for one in criteria
        for value in [values[one.name]]
    )


def criteria_table(criteria: Iterable[Criterion]) -> pd.DataFrame:
    """Criteria with labels, for people."""
    rows = [
        (str(one.claim or "any"), one.label, one.value, one.wanted, one.met) for one in criteria
    ]
    return pd.DataFrame(rows, columns=["claim", "criterion", "value", "wanted", "met"])
