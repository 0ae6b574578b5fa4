"""What a command answers, as text for people and as JSON for scripts.

Imported before a command is known, so tables are not typed: pandas would have to be imported too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command found out."""

    text: str  # for people
    # for scripts, by names, so that marks can be among them; what is not finite becomes null
    rows: Mapping[str, Any]
    status: int = 0  # that the command ends with

    def marked(self, marks: list[str]) -> Answer:
        """The same, with what is said of files that it was read from."""
        if not marks:
            return self
        text = "\n".join([self.text, "", *(f"note: {mark}" for mark in marks)])
        return Answer(text, {**self.rows, "marks": marks}, self.status)

    def as_json(self) -> str:
        """One line of JSON."""
        from circuits.storage.files import without_nan  # loads torch, which --help does without

        return json.dumps(without_nan(self.rows), allow_nan=False)


def fields_answer(fields: Mapping[str, object]) -> Answer:
    """Names and values, a line each; a mapping among the values takes a line for each entry."""
    return Answer(lined(fields), fields)


def table_answer(table: Any, about: Mapping[str, object], note: str = "") -> Answer:
    """Rows in aligned columns with a note below; in JSON as "rows", beside what they are about."""
    text = f"{aligned(table)}\n\n{note}" if note else aligned(table)
    return Answer(text, {**about, "rows": table.to_dict("records")})


def lined(fields: Mapping[str, object]) -> str:
    """The lines of `fields_answer`."""
    width = max(map(len, fields))
    lines = []
    for name, value in fields.items():
        parts = [value]
        if isinstance(value, dict):
            parts = [f"{k}: {v if isinstance(v, float) else _one(v)}" for k, v in value.items()]
        for first, part in zip([name, *[""] * len(parts)], parts, strict=False):
            lines.append(f"{first.replace('_', ' '):{width}}  {_one(part)}")
    return "\n".join(lines)


def _one(value: object) -> str:
    """A value in a line: a float with four digits, several values with commas between them."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_one, value)) or "none"
    if value is None:
        return "none"
    return f"{round(value, 4) + 0.0:.4f}" if isinstance(value, float) else str(value)


def aligned(table: Any) -> str:
    """Columns to the right, two spaces apart, numbers with three digits; no index."""
    rows = [list(map(str, table)), *(map(_brief, row) for row in table.itertuples(index=False))]
    columns = [list(column) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    )


def _brief(value: object) -> str:
    return f"{value + 0.0:.3g}" if isinstance(value, float) else str(value)  # never -0
