"""A table as a command tells it: aligned for people, rows for scripts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.cli.answers import Told


def told_table(table: pd.DataFrame, about: Mapping[str, object], note: str = "") -> Told:
    """Rows in aligned columns with a note below; in JSON as "rows", beside what they are about."""
    text = f"{aligned(table)}\n\n{note}" if note else aligned(table)
    return Told(text, {**about, "rows": table.to_dict("records")})


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
