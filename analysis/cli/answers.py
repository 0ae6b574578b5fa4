"""What a command tells, as text for people and as JSON for scripts.

A command answers with both at once, and `analysis.cli` prints the one that was asked for: no
command can print half of each. JSON has no word for what is not a number: it is null there, and
`nan` in the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from circuits.storage.files import without_nan


@dataclass(frozen=True)
class Told:
    """What a command found out."""

    text: str  # for people
    rows: object  # for scripts: what JSON can hold, in which an infinite float is null

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(without_nan(self.rows), allow_nan=False)


def told_fields(fields: Mapping[str, object]) -> Told:
    """Names and values, a line each; a value with names of its own takes a line for each."""
    return Told(lined(fields), fields)


def lined(fields: Mapping[str, object]) -> str:
    """The lines of `told_fields`."""
    width = max(map(len, fields))
    lines = []
    for name, value in fields.items():
        if value is None or value == []:
            value = "none"
        parts = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        for first, part in zip([name, *[""] * len(parts)], parts, strict=False):
            shown = f"{part:.4f}" if isinstance(part, float) else part
            lines.append(f"{first.replace('_', ' '):{width}}  {shown}")
    return "\n".join(lines)
