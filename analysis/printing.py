"""What a command tells, as text for people or as JSON for scripts.

JSON has no word for what is not a number: it is null there, and `nan` in the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


def print_json(told: object) -> None:
    """One line of JSON."""
    print(json.dumps(_with_null(told), allow_nan=False))


def _with_null(told: Any) -> Any:
    if isinstance(told, Mapping):
        return {str(name): _with_null(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_with_null(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def print_fields(told: Mapping[str, object], as_json: bool) -> None:
    """Names and values, a line each; a value with names of its own takes a line for each."""
    if as_json:
        print_json(told)
        return
    width = max(map(len, told))
    for name, value in told.items():
        if value is None or value == []:
            value = "none"
        lines = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        for first, line in zip([name, *[""] * len(lines)], lines, strict=False):
            shown = f"{line:.4f}" if isinstance(line, float) else line
            print(f"{first.replace('_', ' '):{width}}  {shown}")


def print_table(
    table: pd.DataFrame, as_json: bool, about: Mapping[str, object], note: str = ""
) -> None:
    """Rows in aligned columns with a note below; in JSON as "rows", beside what they are about."""
    if as_json:
        print_json({**about, "rows": table.to_dict("records")})
        return
    print(aligned(table))
    if note:
        print(f"\n{note}")


def aligned(table: pd.DataFrame) -> str:
    """Columns to the right, two spaces apart, numbers with three digits; no index."""
    rows = [list(map(str, table)), *(map(_brief, row) for row in table.itertuples(index=False))]
    columns = [list(column) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    )


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
