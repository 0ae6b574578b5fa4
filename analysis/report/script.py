"""What a page's scripts are given, as JSON that cannot become markup or code.

Escaping alone is not enough: `circuits.plotting.display.shown` writes out invisible characters
before anything comes here; here nothing may end the script that holds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

_DIGITS = 5


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
