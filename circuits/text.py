"""Text and numbers as a person may see them: nothing in a token can become markup or vanish.

Tokens are whatever a corpus held: tags, quotes, marks that turn the line round, null bytes, ten
thousand letters. What a reader would get wrong: escaping alone is not enough. A mark that turns the
line round is legal text in HTML, so characters without a shape are written out, and long tokens
say how long they are.
"""

from __future__ import annotations

import math
import unicodedata
from html import escape
from typing import Any

import numpy as np
import pandas as pd

MOST = 60
"""Characters of a token that are shown."""

_LONG = 500  # of a sentence or a text in a table
_SHAPELESS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", " ": "␣"}


def shown(token: str | None, most: int = MOST) -> str:
    """A token as a reader can see it, whatever it is made of; its first ``most`` characters."""
    if token is None:
        return "⟨none⟩"
    head = token if len(token) <= most else token[:most]
    seen = "".join(_written(c) for c in head) if head.strip(" ") else "␣" * len(head)
    if len(token) > most:
        seen += f"… ({len(token)} characters)"
    return seen or "⟨empty⟩"


def _written(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _SHAPELESS:
        return character
    return _NAMED.get(character, f"⟨U+{ord(character):04X}⟩")


def number(value: Any, digits: int = 3) -> str:
    """For a person; an empty string where nothing is known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}g}".replace("-", "−")
    return str(value)


def two(value: float | None) -> str:
    """With two digits after the point; a share of nothing is no number."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def html_of(said: str, **tables: pd.DataFrame) -> str:
    """What Jupyter shows of a result: a sentence, and tables under their names."""
    parts = [f"<p>{escape(shown(said, _LONG))}</p>"]
    for name, table in tables.items():
        parts.append(f"<p><b>{escape(name.replace('_', ' '))}</b></p>")
        parts.append(table.map(_cell).to_html(index=False, border=0))
    return "".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_cell, value))
    return shown(value, _LONG) if isinstance(value, str) else number(value)
