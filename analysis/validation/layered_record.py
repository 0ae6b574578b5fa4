"""What the edits of a circuit through several layers showed, as a value and as a file: JSON of
schema version 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.validation.criteria import (
    ACROSS_LAYERS,
    CRITERIA_ACROSS,
    Claim,
    Criterion,
    criteria_table,
    too_few_draws,
)
from analysis.validation.edits import DrawKind, EditKind, edit_label
from analysis.validation.record import edit_row, record_values, write_record
from circuits.arguments import checked_methods
from circuits.errors import GraphError
from circuits.plotting.display import html_of, percent
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

_ALWAYS = (EditKind.NONE, EditKind.REMOVE, EditKind.KEEP, EditKind.MEAN)
_SCHEMA, _VERSION = "bilinear-circuits/layered-validation", 3
_COLUMNS: dict[str, dict[str, Kind]] = {
    "edits": {"kind": EditKind, "target": TEXT, "n_pairs": COUNT, "n_cases": COUNT,
              "frozen": NUMBER, "free": NUMBER, "frozen_side_effect": NUMBER, "side_effect": NUMBER,
              "predicted": NUMBER, "measured": NUMBER, "off_by": NUMBER},
    "strata": {"kind": TEXT, "value": TEXT, "affected": TRUTH, "n": COUNT, "judged": TRUTH,
               "margin": NUMBER, "left": NUMBER, "kept": NUMBER},
    "random": {"kind": DrawKind, "draw": COUNT, "set": COUNT, "there": COUNT, "n_pairs": COUNT,
               "size": NUMBER, "free": NUMBER, "frozen": NUMBER},
}  # fmt: skip


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class LayeredValidation:
    """What the edits of a circuit through several layers did.

    Side effects are shown and not judged: the pairs do what their layers do in every class, so that
    removing them changes every class. That they do it in every class is judged: of the circuit
    alone, in the strata of all of them.
    """

    circuit: str
    behaviour: str
    edits: pd.DataFrame
    """kind, target, n_pairs, n_cases, frozen and free: the share of the affected classes' margin
    that the edit removes, of a single pair in 8 cases of each class, of a patch in those that have
    a counterpart; side_effect and frozen_side_effect: the largest relative change of another class;
    predicted and measured: of a single pair, the frozen share from the weights and from the run, of
    4 cases of each class; off_by: the largest difference of both in any of these cases, relative to
    the largest margin."""
    strata: pd.DataFrame  # a row a stratum: judged, margin, left, kept, of the free network
    random: pd.DataFrame  # a row a draw: kind, set, there, size, frozen, free
    criteria: tuple[Criterion, ...]
    n: int  # cases
    seed: int

    @property
    def claims(self) -> dict[Claim, bool]:
        """Causal, and beyond random pairs, of the free network."""
        met = {
            claim: all(one.met for one in self.criteria if one.claim in (claim, None))
            for claim in ACROSS_LAYERS
        }
        return {claim: on and met[Claim.CAUSAL] for claim, on in met.items()}

    @property
    def claims_in_words(self) -> dict[str, bool]:
        """The claims by name, as far as each says more than that before it: where a circuit is not
        causal, no other one holds."""
        return {
            str(claim): on
            for claim, on in self.claims.items()
            if on or claim is Claim.CAUSAL or self._shortfall(claim)
        }

    @property
    def verdict(self) -> str:
        """Each claim, with what falls short of it, once: of a circuit that is not causal no other
        claim can hold. Of a causal one what removing it does to other classes."""
        if lacking := self._shortfall(None):
            return f"nothing can be claimed: {lacking}"
        said = "; ".join(
            name if on else f"not {name}: {self._shortfall(Claim(name))}"
            for name, on in self.claims_in_words.items()
        )
        others = percent(float(self.edit(EditKind.REMOVE)["side_effect"]))
        if not self.claims[Claim.CAUSAL] or not others:
            return said
        return f"{said} (without its pairs other classes change by up to {others})"

    def _shortfall(self, claim: Claim | None) -> str:
        short = [one for one in self.criteria if one.claim is claim and not one.met]
        said = [one.shortfall for one in short]
        if claim is Claim.BEYOND_RANDOM and any(one.value is None for one in short):
            n_pairs = int(self.edit(EditKind.REMOVE)["n_pairs"])
            if why := too_few_draws(self.random, n_pairs):
                said = [one.shortfall for one in short if one.value is not None]
                said.append(f"random pairs are not judged, {why}")
        return ", ".join(said)

    @property
    def elsewhere(self) -> str:
        """In words of which behaviour the cases are, where it is not that of the circuit's name."""
        return "" if self.behaviour == self.circuit else f", on cases of {self.behaviour}"

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
        """Of each kind of random pairs what its draws remove, free and frozen: draws, how many of
        them are distinct, pairs, size; the median of what they remove, whatever its sign, the least
        (below 0: the margin grows) and the most."""
        shares = {
            f"{name}{what}": (name, how)
            for name in ("free", "frozen")
            for what, how in (("", _median_size), ("_least", "min"), ("_most", "max"))
        }
        made = self.random.groupby("kind", sort=False).agg(
            draws=("free", "size"), distinct=("set", "nunique"), pairs=("n_pairs", "median"),
            size=("size", "mean"), **shares,
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
        said = f"{self.circuit}{self.elsewhere}: {self.verdict}"
        return f"LayeredValidation({said}; n {self.n}, seed {self.seed})"


def _median_size(removed: pd.Series) -> float:
    return float(removed.abs().median())


def _check_whole(found: LayeredValidation) -> None:
    """Refuse a validation without an edit or a criterion that every one has."""
    whole = set(found.edits.loc[found.edits["target"] == "", "kind"])
    lost = [kind.value for kind in _ALWAYS if kind.value not in whole]
    names = {one.name for one in found.criteria}
    lost += [one.name.value for one in CRITERIA_ACROSS if one.name not in names]
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
