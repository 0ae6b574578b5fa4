"""What edits of a model showed, as a value and as a file.

The file is JSON of schema version 2; version 1 (toolkit 0.1), which held labels in place of kinds,
is converted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.validation.criteria import Criterion
from analysis.validation.edits import EditKind, edit_label
from analysis.validation.version_1 import of_version_1
from circuits.errors import GraphError
from circuits.plotting.display import html_of
from circuits.storage.files import read_json, write_json
from circuits.storage.records import RecordError, record_of

_SCHEMA, _VERSION = "bilinear-circuits/validation", 2


@dataclass(frozen=True, eq=False)
class Validation:
    """What the edits did, each beside its controls.

    Effects are margins, class by class; ``removed`` is the share of the affected classes' mean
    margin that an edit removes, ``low`` to ``high`` 95 % of its bootstrap draws.
    """

    circuit: str
    behaviour: str
    edits: pd.DataFrame  # a row an edit: kind, target, margins by class, removed, side_effect, …
    random: pd.DataFrame  # a row a draw of random pairs: kind, size, removed, side_effect
    parts: pd.DataFrame  # a row a pair: faithfulness lost without it
    checks: pd.DataFrame  # a row a pair and output feature: predicted, measured, off_by
    side_effects: pd.DataFrame  # a row an edit: loss, added, kl on text
    criteria: tuple[Criterion, ...]
    n: int  # cases
    seed: int

    @property
    def proven(self) -> bool:
        """Whether every criterion is met."""
        return all(criterion.met for criterion in self.criteria)

    @property
    def verdict(self) -> str:
        """Proven, or what falls short."""
        if self.proven:
            return "proven: every criterion is met"
        short = [criterion.shortfall for criterion in self.criteria if not criterion.met]
        return "not proven: " + "; ".join(short)

    def edit(self, kind: EditKind | str, target: str = "") -> pd.Series:
        """The row of an edit, such as "remove"; ``target`` names the gate or the other circuit."""
        rows = self.edits[(self.edits["kind"] == str(kind)) & (self.edits["target"] == target)]
        if not len(rows):
            there = ", ".join(dict.fromkeys(self.edits["kind"]))
            raise GraphError(
                f"this validation has no edit '{kind}' {target}: it has {there}. Ask for one of "
                f"these, a gate or another circuit by its name."
            )
        return rows.iloc[0]

    @property
    def edit_table(self) -> pd.DataFrame:
        """The edits with labels, for people."""
        return _labelled(self.edits).drop(columns="target")

    @property
    def side_effect_table(self) -> pd.DataFrame:
        """The side effects with labels, for people."""
        return _labelled(self.side_effects)

    @property
    def random_table(self) -> pd.DataFrame:
        """Of each kind of random pairs what its draws remove: draws, size; median and mean of the
        size of the effect; most, with its sign."""
        table = self.random.groupby("kind", sort=False).agg(
            draws=("removed", "size"), size=("size", "mean"),
            median=("removed", lambda removed: removed.abs().median()),
            mean=("removed", lambda removed: removed.abs().mean()),
            most=("removed", lambda removed: removed.loc[removed.abs().idxmax()]),
            side_effect=("side_effect", "max"),
        ).reset_index()  # fmt: skip
        return table.assign(kind=table["kind"].str.replace("_", " "))

    @property
    def criteria_table(self) -> pd.DataFrame:
        """The criteria with labels, for people."""
        rows = [(one.label, one.value, one.wanted, one.met) for one in self.criteria]
        return pd.DataFrame(rows, columns=["criterion", "value", "wanted", "met"])

    def save(self, path: str | Path) -> Path:
        """Write everything as one JSON file."""
        content = {  # a table as its columns, so that one without rows keeps its names
            name: value.to_dict("list") if isinstance(value, pd.DataFrame) else value
            for name, value in vars(self).items()
        }
        content["criteria"] = [asdict(criterion) for criterion in self.criteria]
        write_json(Path(path), {"schema": _SCHEMA, "version": _VERSION} | content)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Validation:
        """Read what `save` wrote."""
        content = read_json(Path(path), GraphError)
        version = content.pop("version", 0)
        if content.pop("schema", None) != _SCHEMA or version not in (1, _VERSION):
            raise GraphError(
                f"{path} is not a validation of this version. Make it: circuits validate RUN."
            )
        wanted = {each.name for each in fields(cls)}
        try:
            missing, unknown = sorted(wanted - set(content)), sorted(set(content) - wanted)
            if missing or unknown:
                raise RecordError(f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
            return cls(**_values(of_version_1(content) if version == 1 else content))
        except (RecordError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GraphError(
                f"{path} is not whole: {error}. Make it again: circuits validate RUN."
            ) from error

    def _repr_html_(self) -> str:
        return html_of(repr(self), criteria=self.criteria_table, edits=self.edit_table)

    def __repr__(self) -> str:
        return f"Validation({self.circuit}: {self.verdict}; n {self.n}, seed {self.seed})"


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    targets = table["target"] if "target" in table else [""] * len(table)
    labels = [edit_label(*each) for each in zip(table["kind"], targets, strict=True)]
    labelled = table.drop(columns="kind")
    labelled.insert(0, "edit", labels)
    return labelled


_KINDS = {"circuit": str, "behaviour": str, "n": int, "seed": int, "criteria": list}


def _values(content: dict[str, Any]) -> dict[str, Any]:
    wrong = [name for name, v in content.items() if type(v) is not _KINDS.get(name, dict)]
    if wrong:
        raise RecordError(", ".join(wrong))
    values = {
        name: value if name in _KINDS else _table(name, value) for name, value in content.items()
    }
    criteria = (record_of(Criterion, one, "criteria") for one in content["criteria"])
    return values | {"criteria": tuple(criteria)}


def _table(name: str, columns: dict[str, list[Any]]) -> pd.DataFrame:
    known = {name: [np.nan if x is None else x for x in column] for name, column in columns.items()}
    if len({len(column) for column in known.values()}) > 1:
        raise RecordError(f"{name} has columns of unequal length")
    return pd.DataFrame(known)
