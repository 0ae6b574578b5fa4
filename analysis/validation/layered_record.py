"""What the edits of a circuit through several layers showed, as a value and as a file: JSON of
schema version 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.validation.criteria import Claim, Criterion, Measure, criteria_table
from analysis.validation.edits import DrawKind, EditKind, edit_label
from analysis.validation.record import edit_row, record_values, write_record
from circuits.arguments import checked_methods
from circuits.errors import GraphError
from circuits.plotting.display import html_of
from circuits.storage.files import read_json
from circuits.storage.records import RecordError
from circuits.storage.tables import (
    COUNT,
    NUMBER,
    TEXT,
    TRUTH,
    Kind,
    checked_table,
    table_of_columns,
)

MEASURES = (Measure.CASES, Measure.SHOWN, Measure.REMOVED, Measure.LEFT, Measure.KEPT,
            Measure.SIDE_EFFECT, Measure.RANDOM, Measure.EQUAL, Measure.EQUAL_WORST)  # fmt: skip
"""What is measured; a side effect only where there are other classes."""

_ALWAYS = (EditKind.NONE, EditKind.REMOVE, EditKind.KEEP, EditKind.MEAN)
_SCHEMA, _VERSION = "bilinear-circuits/layered-validation", 1
_COLUMNS: dict[str, dict[str, Kind]] = {
    "edits": {"kind": EditKind, "target": TEXT, "n_pairs": COUNT, "frozen": NUMBER,
              "free": NUMBER, "frozen_side_effect": NUMBER, "side_effect": NUMBER,
              "predicted": NUMBER, "measured": NUMBER, "off_by": NUMBER},
    "strata": {"kind": TEXT, "value": TEXT, "affected": TRUTH, "n": COUNT, "judged": TRUTH,
               "margin": NUMBER, "left": NUMBER, "kept": NUMBER},
    "random": {"kind": DrawKind, "draw": COUNT, "n_pairs": COUNT, "size": NUMBER, "free": NUMBER,
               "frozen": NUMBER},
}  # fmt: skip


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class LayeredValidation:
    """What the edits of a circuit through several layers did."""

    circuit: str
    edits: pd.DataFrame
    """kind, target, n_pairs, frozen and free: the share of the affected classes' margin that the
    edit removes; side_effect and frozen_side_effect: the largest relative change of another class;
    predicted and measured: of a single pair, the frozen share from the weights and from the run, of
    a few cases of each class; off_by: the largest difference of both in any of these cases,
    relative to the largest margin."""
    strata: pd.DataFrame  # a row a stratum: margin, left, kept, of the free network
    random: pd.DataFrame  # a row a draw: kind, draw, size, frozen, free
    criteria: tuple[Criterion, ...]
    n: int  # cases
    seed: int

    @property
    def claims(self) -> dict[Claim, bool]:
        """Causal and specific, of the free network."""
        causal, specific = (
            all(one.met for one in self.criteria if one.claim in (claim, None))
            for claim in (Claim.CAUSAL, Claim.SPECIFIC)
        )
        return {Claim.CAUSAL: causal, Claim.SPECIFIC: causal and specific}

    @property
    def verdict(self) -> str:
        """Each claim, with what falls short of it."""
        lacking = {
            claim: ", ".join(
                one.shortfall for one in self.criteria if one.claim in (claim, None) and not one.met
            )
            for claim in self.claims
        }
        return "; ".join(
            str(claim) if holds else f"not {claim}: {lacking[claim] or 'it is not causal'}"
            for claim, holds in self.claims.items()
        )

    def edit(self, kind: EditKind | str, target: str = "") -> pd.Series:
        """The row of an edit, such as "remove"; ``target`` names a layer or a pair."""
        return edit_row(self.edits, kind, target)

    @property
    def edit_table(self) -> pd.DataFrame:
        """The edits of the whole circuit and of each layer with labels, for people."""
        return self._labelled(self.edits["kind"] != EditKind.REMOVE_GATE.value).drop(
            columns=["predicted", "measured", "off_by"]
        )

    @property
    def pair_table(self) -> pd.DataFrame:
        """Each pair alone, for people: what removing it removes, predicted and measured."""
        table = self._labelled(self.edits["kind"] == EditKind.REMOVE_GATE.value)
        return table.drop(columns=["n_pairs"]).rename(columns={"edit": "pair"})

    def _labelled(self, chosen: pd.Series) -> pd.DataFrame:
        rows = self.edits[chosen]
        labels = [_label(*each) for each in zip(rows["kind"], rows["target"], strict=True)]
        table = rows.drop(columns=["kind", "target"]).reset_index(drop=True)
        table.insert(0, "edit", labels)
        return table

    @property
    def random_table(self) -> pd.DataFrame:
        """Of each kind of random pairs what its draws remove, free and frozen: the median of its
        size, and the most."""
        made = self.random.groupby("kind", sort=False).agg(
            draws=("free", "size"), pairs=("n_pairs", "median"), size=("size", "mean"),
            free=("free", lambda removed: removed.abs().median()), free_most=("free", "max"),
            frozen=("frozen", lambda removed: removed.abs().median()),
            frozen_most=("frozen", "max"),
        )  # fmt: skip
        return made.reset_index().assign(kind=[kind.replace("_", " ") for kind in made.index])

    @property
    def criteria_table(self) -> pd.DataFrame:
        """The criteria with labels, for people, of the free network."""
        return criteria_table(self.criteria)

    @property
    def off_by(self) -> float:
        """The largest difference of a pair's predicted effect to the frozen network's."""
        return float(self.edits["off_by"].max())

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write everything as one JSON file; over a file that is no such validation only with
        ``force``."""
        return write_record(self, Path(path), _SCHEMA, _VERSION, force=force)

    @classmethod
    def load(cls, path: str | Path) -> LayeredValidation:
        """Read what `save` wrote."""
        content = read_json(Path(path), GraphError)
        if (content.pop("schema", None), content.pop("version", 0)) != (_SCHEMA, _VERSION):
            raise GraphError(
                f"{path} is not a validation through several layers of this version. Make it: "
                f"circuits validate RUN --across."
            )
        try:
            found = cls(**record_values(cls, content, _TABLES))
            _check_whole(found)
            return found
        except (RecordError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GraphError(
                f"{path} is not whole: {error}. Make it again: circuits validate RUN --across."
            ) from error

    def _repr_html_(self) -> str:
        return html_of(repr(self), edits=self.edits, strata=self.strata)

    def __repr__(self) -> str:
        return f"LayeredValidation({self.circuit}: {self.verdict}; n {self.n}, seed {self.seed})"


def pair_name(layer: int, first: int, second: int) -> str:
    """The target of the edit that removes a single pair."""
    return f"{first} & {second} in layer {layer}"


def _check_whole(found: LayeredValidation) -> None:
    """Refuse a validation without an edit or a criterion that every one has."""
    whole = set(found.edits.loc[found.edits["target"] == "", "kind"])
    lost = [kind.value for kind in _ALWAYS if kind.value not in whole]
    names = {one.name for one in found.criteria}
    lost += [measure.value for measure in MEASURES if measure not in names | {Measure.SIDE_EFFECT}]
    if lost:
        raise RecordError(f"there is no row of {', '.join(lost)}")


def _label(kind: str, target: str) -> str:
    """An edit in words, of several layers."""
    if kind == EditKind.REMOVE_GATE.value:
        return target
    if kind == EditKind.MEAN.value:
        return "replace these layers' MLPs by their means"
    label = edit_label(kind)
    return f"{label} in {target}" if target else label


def _table(name: str, columns: object) -> pd.DataFrame:
    table = checked_table(table_of_columns(columns, name), _COLUMNS[name], name)
    return table.reindex(columns=list(_COLUMNS[name]))


_TABLES: Mapping[str, Callable[[object], pd.DataFrame]] = {
    name: partial(_table, name) for name in _COLUMNS
}
