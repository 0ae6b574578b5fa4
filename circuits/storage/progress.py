"""The one progress bar: for work longer than two seconds, and only on a terminal. Bars that follow
each other closely belong to the same work."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SHORT = 2.0  # seconds of work that need no bar
_PAUSE = 10.0  # seconds without a bar after which the next one is of other work


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar that appears after two seconds of work and is erased at the end."""

    work_began = last_seen = float("-inf")

    def __init__(self, *given: Any, **how: Any) -> None:
        now = time.monotonic()
        if now - Bar.last_seen > _PAUSE:
            Bar.work_began = now
        Bar.last_seen = now
        delay = max(0.0, Bar.work_began + SHORT - now)
        super().__init__(*given, **how, delay=delay, disable=None, leave=False)

    def close(self) -> None:
        """Note when work was last seen."""
        Bar.last_seen = time.monotonic()
        super().close()


def progress(items: Iterable[Item], doing: str, unit: str = "it") -> Iterable[Item]:
    """The same items, with a bar on a terminal once two seconds have passed."""
    return Bar(items, desc=doing, unit=unit)


def counted(total: int, doing: str, unit: str, done: int = 0) -> Any:
    """The same bar to update by hand: ``update(n)``, ``set_postfix(...)``."""
    return Bar(total=total, desc=doing, unit=unit, initial=done)
