"""The data of a page's scripts, as JSON that cannot become markup or code.

`circuits.plotting.display.shown` has made invisible characters visible before; here nothing may
end the script that contains it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

_DIGITS = 5


def script_json(value: Any) -> str:
    """JSON that is safe inside a script or any other element: plain ASCII without markup."""
    text = json.dumps(_plain(value), allow_nan=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """Values that JSON has: numbers with five digits, null for NaN."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, pd.DataFrame):
        return {"columns": list(value), "rows": _plain(value.to_numpy(dtype=object).tolist())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | pd.Series):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return brief(value) if isinstance(value, float) else value


def brief(number: float) -> float | int | None:
    """Five significant digits; None for what is not finite."""
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
