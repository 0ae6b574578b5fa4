"""What edits of a model showed, as a value and as a file.

The file is JSON of schema version 2; version 1 (toolkit 0.1), which held labels in place of kinds,
is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.behaviour.bounds import LEAST
from analysis.behaviour.strata import WHOLE
from analysis.validation.criteria import (
    AGAINST_RANDOM,
    IN_ONE_LAYER,
    Claim,
    Criterion,
    Measure,
    criteria_table,
    too_few_draws,
)
from analysis.validation.edits import DrawKind, EditKind, edit_label
from analysis.validation.version_1 import of_version_1
from circuits.arguments import checked
from circuits.errors import GraphError
from circuits.plotting.display import html_of, percent
from circuits.storage.files import read_json, write_json
from circuits.storage.records import RecordError, record_of
from circuits.storage.replacing import begins_as, check_file
from circuits.storage.tables import (
    COUNT,
    NUMBER,
    TEXT,
    TRUTH,
    Kind,
    checked_table,
    table_of_columns,
)

_SCHEMA, _VERSION = "bilinear-circuits/validation", 2
_MOST = 4  # strata of a kind that are named
_LOUD = (Measure.EQUAL, Measure.EQUAL_WORST)


@checked
@dataclass(frozen=True, eq=False)
class Validation:
    """What the edits did, each beside its controls.

    Effects are margins, class by class; ``removed`` is the share of the affected classes' mean
    margin that an edit removes, ``low`` to ``high`` 95 % of its bootstrap draws.
    """

    circuit: str
    behaviour: str
    edits: pd.DataFrame  # a row an edit: kind, target, margins by class, removed, side_effect, …
    strata: pd.DataFrame  # a row a stratum: n, judged, margin, left, kept
    cases: pd.DataFrame  # a row a case: its margin, without the circuit, and with it alone
    origins: pd.DataFrame  # a row a frame: what of the contrast is computed, inherited, within
    random: pd.DataFrame  # a row a draw of random pairs: kind, set, size, removed, side_effect
    bases: pd.DataFrame  # a row a basis: pairs needed for four fifths, effect of as many
    parts: pd.DataFrame  # a row a pair: faithfulness lost without it
    checks: pd.DataFrame  # a row a pair and output feature: predicted, measured, off_by
    side_effects: pd.DataFrame  # a row an edit: loss, added, kl on text
    criteria: tuple[Criterion, ...]
    n: int  # cases
    seed: int

    @property
    def claims(self) -> dict[Claim, bool]:
        """Of each claim whether all its criteria are met, and of specific also those of causal: a
        circuit that does nothing leaves everything else alone. None where strata were not measured,
        as by 0.1."""
        if not len(self.strata):
            return {}
        met = {
            claim: all(one.met for one in self.criteria if one.claim in (claim, None))
            for claim in IN_ONE_LAYER
        }
        return met | {Claim.SPECIFIC: met[Claim.SPECIFIC] and met[Claim.CAUSAL]}

    @property
    def claims_in_words(self) -> dict[str, bool]:
        """The claims, and in their name what was not tested: without other classes there are only
        random pairs to be specific against."""
        partly = self.claims.get(Claim.SPECIFIC, False) and bool(self.strata["affected"].all())
        return {
            f"{claim} ({AGAINST_RANDOM})" if partly and claim is Claim.SPECIFIC else str(claim): on
            for claim, on in self.claims.items()
        }

    @property
    def verdict(self) -> str:
        """Causal, computed here, specific: each as it is, with what falls short. Of specific
        nothing is said where it lacks causal alone."""
        if not self.claims:
            return "nothing is claimed: it was validated by 0.1, so validate it again"
        if lacking := self._shortfall(None):
            return f"nothing can be claimed: {lacking}"
        words = zip(self.claims, self.claims_in_words.items(), strict=True)
        said = [
            name if holds else f"not {claim}: {why}"
            for claim, (name, holds) in words
            if (why := self._shortfall(claim)) or holds
        ]
        return "; ".join(said)

    def _shortfall(self, claim: Claim | None) -> str:
        why = self._too_few_draws
        return ", ".join(
            f"{one.label}: not judged, {why}" if why and one.name in _LOUD else one.shortfall
            for one in self.criteria
            if one.claim is claim and not one.met
        )

    @property
    def _too_few_draws(self) -> str:
        """Why random pairs that write as much are not judged; nothing where they are."""
        judged = any(o.name in _LOUD and o.value is not None for o in self.criteria)
        return "" if judged else too_few_draws(self._numbered)

    def edit(self, kind: EditKind | str, target: str = "") -> pd.Series:
        """The row of an edit, such as "remove"; ``target`` names the gate or the other circuit."""
        return edit_row(self.edits, kind, target)

    @property
    def edit_table(self) -> pd.DataFrame:
        """The edits with labels, for people; NaN where the behaviour is not shown."""
        return _labelled(self.edits).drop(columns="target")

    @property
    def side_effect_table(self) -> pd.DataFrame:
        """The side effects with labels, for people."""
        return _labelled(self.side_effects)

    @property
    def worst_strata(self) -> pd.DataFrame:
        """Of each kind of stratum that is judged the one that loses least by removing the circuit,
        and of other classes the one that changes most; NaN where the behaviour is not shown."""
        judged = self.strata[self.strata["judged"].astype(bool)]
        affected = judged["affected"].astype(bool)
        inside, outside = judged[affected], judged[~affected]
        rows = [
            some.loc[size(some["left"]).fillna(np.inf).idxmax()]  # NaN: it is not shown there
            for part, size in (
                (inside, lambda left: left),
                (outside, lambda left: (left - 1).abs()),
            )
            for _, some in part.groupby("kind", sort=False)
        ]
        return (
            pd.DataFrame(rows, columns=judged.columns).drop(columns="judged").reset_index(drop=True)
        )

    @property
    def judged(self) -> str:
        """How many strata of each kind have cases enough to be judged; and in which of them the
        contrast was judged to be computed, which takes as many of every class."""
        some = self.strata.groupby("kind", sort=False)["judged"].agg(["sum", "size"])
        counts = [f"{kind} {row['sum']} of {row['size']}" for kind, row in some.iterrows()]
        said = f"Judged, of {LEAST} cases or more: {', '.join(counts) or 'none'}."
        return f"{said} {self._judged_computed}" if len(self.origins) else said

    @property
    def _judged_computed(self) -> str:
        judged = set(zip(self.origins["kind"], self.origins["value"], strict=True))
        inside, outside, nowhere = ["all cases"], [], []
        for kind, rows in self.strata.groupby("kind", sort=False):
            if kind in WHOLE or str(kind).endswith(", class"):
                continue
            values = dict.fromkeys(rows["value"])
            there = [value for value in values if (kind, value) in judged]
            few = [(v, n) for v in values if v not in there and (n := self._least(str(kind), v))]
            if there:
                inside.append(f"{kind} {_listed(list(map(repr, there)))}")
            if few:
                each = _listed([f"{v!r} has {n} cases of a class" for v, n in few])
                outside.append(f"{kind} ({each})")
            elif not there:
                nowhere.append(str(kind))
        if nowhere:
            outside.append(f"{', '.join(nowhere)} (none is in every class)")
        return (
            f"Computed here was judged, with {LEAST} or more of every class, for "
            f"{'; '.join(inside)}{'; not for ' * bool(outside)}{', '.join(outside)}."
        )

    def _least(self, kind: str, value: str) -> int:
        """Cases of the rarest class in a stratum; 0 where it is not in every class."""
        labels = self.strata.loc[self.strata["kind"] == "class", "value"]
        here = self.strata[self.strata["kind"] == f"{kind}, class"].set_index("value")["n"]
        return int(here.reindex([f"{value}, {label}" for label in labels]).fillna(0).min())

    @property
    def explained(self) -> pd.Series:
        """Over the cases of the affected classes, quantiles of the share of its margin that a case
        loses without the circuit."""
        affected = set(self.strata.loc[self.strata["affected"] & (self.strata["kind"] == "class"),
                                       "value"])  # fmt: skip
        some = self.cases[self.cases["class"].isin(affected)]
        return (1 - some["without"] / some["margin"]).quantile([0.05, 0.25, 0.5, 0.75, 0.95])

    @property
    def case_by_case(self) -> str:
        """How unlike each other the cases are."""
        if not len(self.cases):
            return "Case by case: not measured."
        low, first, middle, third, high = map(percent, self.explained)
        return (
            f"Case by case the circuit explains {middle} of a margin in the median, {first} to "
            f"{third} in the middle half of the affected cases, {low} to {high} in nine of ten."
        )

    @property
    def in_original(self) -> str:
        """What the circuit's features carry in a twin's original; empty where none was given."""
        if EditKind.ORIGINAL.value not in set(self.edits["kind"]):
            return ""
        plain, twin = self.edit(EditKind.ORIGINAL), self.edit(EditKind.FEATURES)
        where, n = plain["target"], int(twin["n_features"])
        if np.isnan(plain["removed"]):
            return f"The original ({where}) does not show the behaviour, so nothing is lost there."
        kinds = (EditKind.ORIGINAL_FEATURES, EditKind.FEATURES,
                 EditKind.ORIGINAL_OTHER_FEATURES, EditKind.OTHER_FEATURES)  # fmt: skip
        own, in_twin, other, other_in_twin = (percent(self.edit(k)["removed"]) for k in kinds)
        return (
            f"In the original ({where}) the same {n} feature{'s' * (n != 1)} carr"
            f"{'y' if n != 1 else 'ies'} {own} of the margin (twin {in_twin}); as many other "
            f"features at most {other} (twin {other_in_twin})."
        )

    @property
    def random_table(self) -> pd.DataFrame:
        """Of each kind of random pairs what its draws remove: draws, how many of them are distinct,
        pairs, size; the median share removed, the median of its size, the most and the least (where
        the margin grows)."""
        table = self._draws.reset_index().drop(columns="there")
        return table.assign(kind=table["kind"].str.replace("_", " "))

    def drawn(self, kind: DrawKind) -> pd.Series:
        """The row of `random_table` of one kind of draws."""
        return self._draws.loc[kind.value]

    @property
    def _draws(self) -> pd.DataFrame:
        return self._numbered.groupby("kind", sort=False).agg(
            draws=("removed", "size"), distinct=("set", "nunique"), there=("there", "max"),
            pairs=("n_pairs", "median"), size=("size", "mean"),
            median=("removed", "median"),
            median_size=("removed", lambda removed: removed.abs().median()),
            most=("removed", "max"), least=("removed", "min"),
            side_effect=("side_effect", "max"),
        )  # fmt: skip

    @property
    def _numbered(self) -> pd.DataFrame:
        """The draws with the first of the same pairs: in older files each is one of its own."""
        if "set" in self.random:
            return self.random
        return self.random.assign(set=self.random["draw"], there=0)

    @property
    def criteria_table(self) -> pd.DataFrame:
        """The criteria with labels, for people; NaN where the behaviour is not shown."""
        return criteria_table(self.criteria)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write everything as one JSON file; over a file that is no validation only with
        ``force``."""
        return write_record(self, Path(path), _SCHEMA, _VERSION, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Validation:
        """Read what `save` wrote."""
        content = read_json(Path(path), GraphError)
        version = content.pop("version", 0)
        if content.pop("schema", None) != _SCHEMA or version not in (1, _VERSION):
            raise GraphError(
                f"{path} is not a validation of this version. Make it: circuits validate RUN."
            )
        try:
            content = of_version_1(content) if version == 1 else content
            tables = {name: partial(_table, name) for name in _COLUMNS}
            return cls(**record_values(cls, content, tables))
        except (RecordError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GraphError(
                f"{path} is not whole: {error}. Make it again: circuits validate RUN."
            ) from error

    def _repr_html_(self) -> str:
        return html_of(repr(self), criteria=self.criteria_table, worst_strata=self.worst_strata,
                       edits=self.edit_table)  # fmt: skip

    def __repr__(self) -> str:
        return f"Validation({self.circuit}: {self.verdict}; n {self.n}, seed {self.seed})"


def _listed(words: list[str]) -> str:
    """Some words, and of many how many more there are."""
    more = len(words) - _MOST
    return ", ".join(words[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    targets = table["target"] if "target" in table else [""] * len(table)
    labels = [edit_label(*each) for each in zip(table["kind"], targets, strict=True)]
    labelled = table.drop(columns="kind")
    labelled.insert(0, "edit", labels)
    return labelled


def edit_row(edits: pd.DataFrame, kind: EditKind | str, target: str) -> pd.Series:
    """The row of an edit in a table of them; refused where there is none."""
    rows = edits[edits["kind"] == str(kind)]
    if target or kind != EditKind.ORIGINAL:  # there is but one, under its name
        rows = rows[rows["target"] == target]
    if not len(rows):
        there = ", ".join(dict.fromkeys(edits["kind"]))
        raise GraphError(
            f"this validation has no edit '{kind}' {target}: it has {there}. Ask for one of "
            f"these, a gate or another circuit by its name."
        )
    return rows.iloc[0]


def write_record(record: Any, path: Path, schema: str, version: int, *, force: bool) -> Path:
    """Write a validation's fields as JSON; over a file of another schema only with ``force``."""
    check_file(path, "a validation", begins_as(schema), GraphError, force)
    content = {  # a table as its columns, so that one without rows keeps its names
        name: value.to_dict("list") if isinstance(value, pd.DataFrame) else value
        for name, value in vars(record).items()
    }
    content["criteria"] = [asdict(criterion) for criterion in record.criteria]
    write_json(path, {"schema": schema, "version": version} | content)
    return path


_KINDS = {"circuit": str, "behaviour": str, "n": int, "seed": int, "criteria": list}


def record_values(
    kind: type, content: Mapping[str, Any], tables: Mapping[str, Callable[[object], pd.DataFrame]]
) -> dict[str, Any]:
    """The fields of a validation from what its file holds; ``tables`` reads each table."""
    wanted = {each.name for each in fields(kind)}
    missing, unknown = sorted(wanted - set(content)), sorted(set(content) - wanted)
    if missing or unknown:
        raise RecordError(f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    wrong = [name for name, v in content.items() if type(v) is not _KINDS.get(name, dict)]
    if wrong:
        raise RecordError(", ".join(wrong))
    values = {
        name: tables[name](value) if name in tables else value for name, value in content.items()
    }
    criteria = (record_of(Criterion, one, "criteria") for one in content["criteria"])
    return values | {"criteria": tuple(criteria)}


_MARGIN = {"contrast": NUMBER, "removed": NUMBER, "side_effect": NUMBER}
_COLUMNS: dict[str, dict[str, Kind]] = {
    "edits": {"kind": EditKind, "target": TEXT, **_MARGIN, "faithfulness": NUMBER},
    "strata": {"kind": TEXT, "value": TEXT, "affected": TRUTH, "n": COUNT, "judged": TRUTH,
               "margin": NUMBER, "left": NUMBER, "kept": NUMBER},
    "cases": {"class": TEXT, "margin": NUMBER, "without": NUMBER, "alone": NUMBER},
    "origins": {"kind": TEXT, "value": TEXT, "n": COUNT, "contrast": NUMBER, "computed": NUMBER,
                "inherited": NUMBER, "within": NUMBER},
    "random": {"kind": DrawKind, "draw": COUNT, "n_pairs": COUNT, "size": NUMBER,
               "removed": NUMBER, "side_effect": NUMBER},
    "bases": {"basis": TEXT, "there": COUNT, "needed": NUMBER, "n_pairs": COUNT,
              "carried": NUMBER, "removed": NUMBER, "side_effect": NUMBER},
    "parts": {"first": COUNT, "second": COUNT, "faithfulness_lost": NUMBER},
    "checks": {"first": COUNT, "second": COUNT, "output": COUNT, "predicted": NUMBER,
               "measured": NUMBER, "off_by": NUMBER},
    "side_effects": {"kind": EditKind, "loss": NUMBER, "added": NUMBER, "kl": NUMBER,
                     "n_token": COUNT},
}  # fmt: skip
_SINCE = {"random": {"set": COUNT, "there": COUNT}}  # not in older files
_CLASSES = ("edits",)  # tables that have a column of numbers for each class as well


def _table(name: str, columns: object) -> pd.DataFrame:
    since = _SINCE.get(name, {})
    if isinstance(columns, dict) and 0 < len(since.keys() & columns.keys()) < len(since):
        raise RecordError(f"{name} has only some of the columns {', '.join(since)}")
    return checked_table(
        table_of_columns(columns, name),
        _COLUMNS[name],
        name,
        optional=since or None,
        others=NUMBER if name in _CLASSES else None,
    )
