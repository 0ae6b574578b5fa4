"""A page of a report before it is written: its text, figures, tables, and its scripts' data.

A page holds no HTML: templates make it and escape everything; scripts insert text as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from circuits.plotting.display import number, seen
from circuits.plotting.figure import Figure


@dataclass(frozen=True, eq=False)
class Page:
    """One page."""

    name: str  # of its file, without the suffix
    title: str
    template: str
    context: Mapping[str, Any]  # for the template
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    data: Mapping[str, Any] = field(default_factory=dict)  # for its scripts

    @property
    def content(self) -> dict[str, Any]:
        """What its scripts need."""
        figures = {
            figure.key: {"title": figure.title, "drawn": figure.drawn, "table": figure.table}
            for figure in self.figures
        }
        tables = {table.key: {"title": table.caption, "table": table.raw} for table in self.tables}
        return {"figures": figures, "tables": tables, **self.data}


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a page: as it is shown, and as it is downloaded."""

    key: str
    caption: str
    columns: list[str]
    rows: list[list[str]]
    raw: pd.DataFrame
    words: list[bool]  # whether each column holds words, not numbers
    cards: list[str] | None = None  # the card that each row's first cell opens

    @classmethod
    def of(
        cls, key: str, caption: str, table: pd.DataFrame, heads: Mapping[str, str] | None = None
    ) -> Table:
        """The table, with other heads for the columns in ``heads``."""
        columns = [str((heads or {}).get(str(column), column)) for column in table]
        rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
        raw = table.set_axis(columns, axis=1).map(lambda v: seen(v) if isinstance(v, str) else v)
        words = [any(isinstance(value, str) for value in table[column]) for column in table]
        return cls(key, caption, [seen(column) for column in columns], rows, raw, words)


def _cell(value: Any) -> str:
    return seen(value) if isinstance(value, str) and value else number(value)


def names_of(stems: Iterable[str], kind: str = "circuit") -> dict[str, str]:
    """A unique page name for each circuit's file, of plain letters."""
    found: dict[str, str] = {}
    for stem in stems:
        plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:60] or "unnamed"
        name, n = f"{kind}-{plain}", 2
        while name in found.values():
            name, n = f"{kind}-{plain}-{n}", n + 1
        found[stem] = name
    return found
