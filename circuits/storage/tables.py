"""Tables read back from files: their columns by name, and what each holds, checked once.

A file may be of another version, cut short, or edited by hand. What passes here can be computed
with; what does not is said by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from circuits.errors import CircuitsError, RunError, first_line
from circuits.storage.limits import check_parquet, check_readable
from circuits.storage.records import RecordError, Word

COUNT = "whole numbers from 0"
NUMBER = "numbers"
TEXT = "text"
TRUTH = "true or false"
Kind = str | type[Word]
"""What a column holds: one of the above, or the words of an enumeration. A number may be missing,
but not infinite."""

_LARGEST = 2**53


def read_table(
    path: Path,
    columns: Mapping[str, Kind],
    error: type[CircuitsError],
    *,
    optional: Mapping[str, Kind] | None = None,
) -> pd.DataFrame:
    """The table in a Parquet file, without what pandas noted beside it: an index, or types that
    numbers are to be turned into. Any fault is raised as the given error."""
    check_readable(path, error)
    try:
        check_parquet(path, error)
        table = pq.read_table(path).replace_schema_metadata(None)  # else it is parsed all the same
        return checked_table(table.to_pandas(), columns, optional=optional)
    except FileNotFoundError:
        raise error(f"{path}: no such file.") from None
    except CircuitsError:
        raise
    except Exception as fault:  # a reader raises what its conversions raise
        raise error(
            f"{path}: not the table that was written ({first_line(fault)}). It was cut short, "
            f"changed, or is another file: make it again."
        ) from fault


def check_ends(
    where: Path, table: pd.DataFrame, ends: Mapping[str, int], layer: int, step: str
) -> None:
    """Refuse a run's table of a layer whose columns name features that there are not: ``ends``
    says how many there are."""
    if beyond := [name for name, end in ends.items() if (table[name] >= end).any()]:
        raise RunError(
            f"{where} names features that the dictionaries of layer {layer} lack "
            f"({', '.join(beyond)}), so it is another run's. Make it again: circuits {step}"
        )


def table_of_columns(columns: object, where: str) -> pd.DataFrame:
    """A table from JSON's names and lists, null as NaN."""
    if not isinstance(columns, dict) or not all(isinstance(c, list) for c in columns.values()):
        raise RecordError(f"{where} is not a table: names with a list each")
    if len({len(column) for column in columns.values()}) > 1:
        raise RecordError(f"{where} has columns of unequal length")
    known = {n: [np.nan if x is None else x for x in column] for n, column in columns.items()}
    try:
        return pd.DataFrame(known)
    except UnicodeEncodeError as error:  # JSON can spell what no text holds
        raise RecordError(f"{where} holds {error.object!a:.40}, half of a character") from error


def checked_table(
    table: pd.DataFrame,
    columns: Mapping[str, Kind],
    where: str = "the table",
    *,
    optional: Mapping[str, Kind] | None = None,
    others: Kind | None = None,
) -> pd.DataFrame:
    """The table, refused where it lacks a column, has one that is unknown (unless ``others`` says
    what any other holds), or one holds something else."""
    names = list(map(str, table.columns))
    known = {**columns, **(optional or {})}
    lacking = [name for name in columns if name not in names]
    unknown = [name for name in names if name not in known] if others is None else []
    faults = [f"it lacks {', '.join(lacking)}"] if lacking else []
    faults += [f"it has an unknown column {name[:40]!r}" for name in unknown[:3]]
    if len(set(names)) < len(names):
        faults.append("two columns have one name")
    faults += [
        f"{name[:40]!r} does not hold {_in_words(kind)}"
        for name in dict.fromkeys(names)
        if (kind := known.get(name, others)) is not None
        and names.count(name) == 1
        and not _holds(table[name], kind)
    ]
    if faults:
        raise RecordError(f"{where}: {'; '.join(faults)}")
    return table


def _holds(column: pd.Series, kind: Kind) -> bool:
    if not len(column):
        return True
    if kind is TRUTH:
        return column.dtype == bool
    if kind is COUNT:
        return _is_plain(column, "iu") and bool(column.between(0, _LARGEST).all())
    if kind is NUMBER:
        return _is_plain(column, "iuf") and not bool(np.isinf(column.to_numpy(float)).any())
    words: list[Any] = column.tolist()
    if kind is TEXT:
        return all(isinstance(word, str) for word in words)
    assert isinstance(kind, type)
    return set(words) <= {each.value for each in kind}


def _is_plain(column: pd.Series, kinds: str) -> bool:
    """Whether these are NumPy's own numbers: in types of pandas' own, one can be missing."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in kinds


def _in_words(kind: Kind) -> str:
    if isinstance(kind, type):
        return f"only {', '.join(str(each.value) for each in kind)}"
    return kind
