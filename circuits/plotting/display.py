"""Text and numbers for display: nothing in a token can become markup or be invisible.

Tokens are whatever a corpus holds: tags, marks that reverse the line, null bytes, ten thousand
letters. Escaping alone is not enough, because such marks are legal text in HTML.
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

_MOST_LETTERS = 28  # of a name in a picture
_MOST_WORDS = 40  # of a sentence
_SHAPELESS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", " ": "␣"}


def shown(token: str | None) -> str:
    """A token with every character visible."""
    if token is None:
        return "⟨none⟩"
    head = token if len(token) <= MOST else token[:MOST]
    seen = "".join(_written(c) for c in head) if head.strip(" ") else "␣" * len(head)
    if len(token) > MOST:
        seen += f"… ({len(token)} characters)"
    return seen or "⟨empty⟩"


def seen(sentence: str, most: int = _MOST_WORDS) -> str:
    """A sentence with every character of its words visible; one of more words is cut."""
    if not sentence.strip(" "):
        return shown(sentence)
    words = sentence.split(" ")
    visible = " ".join(shown(word) if word else "" for word in words[:most])
    return visible + (f" … ({len(words)} words)" if len(words) > most else "")


def cut(name: str) -> str:
    """A name that is safe to show, cut to what fits in a picture."""
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"


def _written(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _SHAPELESS:
        return character
    return _NAMED.get(character, f"⟨U+{ord(character):04X}⟩")


def number(value: Any, digits: int = 3) -> str:
    """A value for display; an empty string where it is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value + 0.0:.{digits}g}".replace("-", "−")  # never −0
    return str(value)


def fixed(value: float, digits: int = 2) -> str:
    """With so many digits after the point; what rounds to 0 has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def two(value: float | None) -> str:
    """With two digits after the point; an empty string where there is no number."""
    if value is None or not math.isfinite(value):
        return ""
    return fixed(value).replace("-", "−")


def percent(share: float | None) -> str:
    """A share in percent, with two significant digits at least; empty where there is none."""
    if share is None or not math.isfinite(share):
        return ""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return ("0" if float(text) == 0 else text).replace("-", "−") + " %"


def html_of(sentence: str, *more: str, **tables: pd.DataFrame) -> str:
    """What Jupyter shows of a result: a sentence, more HTML, and tables under their names. The
    class keeps notebooks from reading text between dollars as a formula."""
    parts = [f'<div class="tex2jax_ignore mathjax_ignore"><p>{escape(seen(sentence))}</p>', *more]
    for name, table in tables.items():
        parts.append(f"<p><b>{escape(name.replace('_', ' '))}</b></p>")
        parts.append(table.map(_cell).to_html(index=False, border=0))
    return "".join([*parts, "</div>"])


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_cell, value))
    return seen(value) if isinstance(value, str) and value else number(value)
