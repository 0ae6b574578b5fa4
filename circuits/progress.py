"""The one progress bar: for work longer than two seconds, and silent where nobody watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], doing: str, unit: str = "it") -> Iterable[Item]:
    """The same items, with a bar on a terminal once two seconds have passed."""
    return tqdm(items, desc=doing, unit=unit, delay=2, disable=None, leave=False)


def counted(total: int, doing: str, unit: str, done: int = 0) -> Any:
    """The same bar for work that counts by itself: ``update(n)``, ``set_postfix(...)``."""
    return tqdm(
        total=total, desc=doing, unit=unit, initial=done, delay=2, disable=None, leave=False
    )
