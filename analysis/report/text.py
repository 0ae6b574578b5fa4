"""Text and numbers of a run as a page may hold them: nothing in them can become markup or code.

Tokens are whatever a corpus held: tags, quotes, marks that turn the line round, null bytes, ten
thousand letters. What a reader would get wrong: escaping alone is not enough. A mark that turns the
line round is legal text in HTML, and a cell that begins with ``=`` is a formula to a spreadsheet;
so characters without a shape are written out, and long tokens say how long they are.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

MOST = 60
"""Characters of a token that are shown."""

_MOST_WORDS = 40  # of a sentence
_SHAPELESS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", " ": "␣"}
_DIGITS = 5


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


def _written(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _SHAPELESS:
        return character
    return _NAMED.get(character, f"⟨U+{ord(character):04X}⟩")


def script_json(told: Any) -> str:
    """JSON that may stand inside a script or any other element: plain ASCII without markup."""
    text = json.dumps(plain(told), allow_nan=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plain(told: Any) -> Any:
    """What JSON knows: numbers to five digits, what is not a number as null."""
    if isinstance(told, Mapping):
        return {str(name): plain(value) for name, value in told.items()}
    if isinstance(told, pd.DataFrame):
        return {"columns": list(told), "rows": plain(told.to_numpy(dtype=object).tolist())}
    if isinstance(told, list | tuple):
        return [plain(value) for value in told]
    if isinstance(told, np.ndarray | pd.Series):
        return plain(told.tolist())
    if isinstance(told, np.generic):
        return plain(told.item())
    return brief(told) if isinstance(told, float) else told


def brief(number: float) -> float | int | None:
    """Five significant digits; None for what is not finite."""
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


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
