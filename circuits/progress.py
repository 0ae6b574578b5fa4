"""The one progress bar: for work longer than two seconds, and silent where nobody watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], doing: str, unit: str = "it") -> Iterable[Item]:
    """The same items, with a bar on a terminal once two seconds have passed."""
    return tqdm(items, desc=doing, unit=unit, delay=2, disable=None, leave=False)
