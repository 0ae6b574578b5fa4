"""Names that a package loads when they are first asked for, so that importing it costs little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``.

    ``homes`` gives for each name the module that defines it; ``modules`` gives names that are
    modules themselves.
    """
    whole = modules or {}

    def find(name: str) -> Any:
        if name in whole:
            return import_module(whole[name])
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find, lambda: sorted({*homes, *whole})
