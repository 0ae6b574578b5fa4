"""What a circuit must reach to be called proven, set before anything is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd
import torch

from analysis.behaviour.in_model import ModelCases
from analysis.validation.edits import DrawKind, EditKind
from circuits.storage.records import Word


class Direction(Word):
    """Which side of the wanted value is good."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


class Measure(Word):
    """What a criterion is about; shares are of the margins before any edit."""

    REMOVED = "removed"
    LEFT = "left"
    SIDE_EFFECT = "side_effect"
    KEPT = "kept"
    RANDOM = "random"
    CASES = "cases"


_LABELS = {
    Measure.REMOVED: "removing the circuit removes {} of the margin",
    Measure.LEFT: "removing it leaves {} of the margin of any affected class",
    Measure.SIDE_EFFECT: "removing it changes the margin of another class by {}",
    Measure.KEPT: "keeping only the circuit keeps {} of the effect",
    Measure.RANDOM: "as many random pairs remove {} of the margin (median)",
    Measure.CASES: "cases of each affected class: {}",
}


@dataclass(frozen=True)
class Criterion:
    """A measured value, and what was wanted of it."""

    name: Measure
    direction: Direction
    wanted: float
    value: float | None = None  # None: it could not be measured

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
        """What is wanted and what was measured."""
        return f"{self.label}, measured {self._said(self.value)}"

    def _said(self, value: float | None) -> str:
        if value is None:
            return "nothing"
        return f"{value:g}" if self.name is Measure.CASES else f"{100 * value:.3g} %"


CRITERIA = (
    Criterion(Measure.REMOVED, Direction.AT_LEAST, 0.6),
    Criterion(Measure.LEFT, Direction.AT_MOST, 0.5),
    Criterion(Measure.SIDE_EFFECT, Direction.AT_MOST, 0.2),
    Criterion(Measure.KEPT, Direction.AT_LEAST, 0.8),
    Criterion(Measure.RANDOM, Direction.AT_MOST, 0.05),
    Criterion(Measure.CASES, Direction.AT_LEAST, 8.0),
)
"""What a circuit must reach to be called proven."""


def removed_at_random(random: pd.DataFrame) -> pd.Series:
    """How large the effect of each draw of as many random pairs is."""
    return random.loc[random["kind"] == DrawKind.SAME_NUMBER.value, "removed"].abs()


def measured(cases: ModelCases, edits: pd.DataFrame, random: pd.DataFrame) -> tuple[Criterion, ...]:
    """The criteria with their values; without other classes nothing is said of them."""
    table = edits.set_index("kind")
    plain, removed, kept = (
        table.loc[kind.value] for kind in (EditKind.NONE, EditKind.REMOVE, EditKind.KEEP)
    )
    values = {
        Measure.REMOVED: float(removed["removed"]),
        Measure.LEFT: max(float(removed[x] / plain[x]) for x in cases.behaviour.affected),
        Measure.SIDE_EFFECT: float(removed["side_effect"]),
        Measure.KEPT: float(kept["faithfulness"]),
        Measure.RANDOM: float(removed_at_random(random).median()),
        Measure.CASES: float(torch.bincount(cases.label)[cases.affected > 0].min()),
    }
    all_affected = not bool((cases.affected == 0).any())
    return tuple(
        replace(one, value=value if math.isfinite(value) else None)
        for one in CRITERIA
        for value in [values[one.name]]
        if not (all_affected and math.isnan(value))
    )
