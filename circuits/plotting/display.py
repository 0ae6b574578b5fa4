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

_MOST_LETTERS = 28  # of a name in a picture
_MOST_WORDS = 40  # of a sentence
_SHAPELESS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", " ": "␣"}


def shown(token: str | None) -> str:
    """A token as a reader can see it, whatever it is made of."""
    if token is None:
        return "⟨none⟩"
    head = token if len(token) <= MOST else token[:MOST]
    seen = "".join(_written(c) for c in head) if head.strip(" ") else "␣" * len(head)
    if len(token) > MOST:
        seen += f"… ({len(token)} characters)"
    return seen or "⟨empty⟩"


def seen(sentence: str) -> str:
    """Words with blanks between them, each as a reader can see it; a long sentence is cut."""
    if not sentence.strip(" "):
        return shown(sentence)
    words = sentence.split(" ")
    told = " ".join(shown(word) if word else "" for word in words[:_MOST_WORDS])
    return told + (f" … ({len(words)} words)" if len(words) > _MOST_WORDS else "")


def cut(name: str) -> str:
    """A name that is seen already, as short as a picture needs it."""
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"


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


def percent(share: float | None) -> str:
    """A share in percent, with two significant digits at least; empty where there is none."""
    if share is None or not math.isfinite(share):
        return ""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return ("0" if float(text) == 0 else text).replace("-", "−") + " %"


def html_of(said: str, *more: str, **tables: pd.DataFrame) -> str:
    """What Jupyter shows of a result: a sentence, more HTML, and tables under their names.

    Notebooks set what stands between dollars as a formula, unless the element around it says no.
    """
    parts = [f'<div class="tex2jax_ignore mathjax_ignore"><p>{escape(seen(said))}</p>', *more]
    for name, table in tables.items():
        parts.append(f"<p><b>{escape(name.replace('_', ' '))}</b></p>")
        parts.append(table.map(_cell).to_html(index=False, border=0))
    return "".join([*parts, "</div>"])


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_cell, value))
    return seen(value) if isinstance(value, str) and value else number(value)
