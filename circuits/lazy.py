"""Names that a package loads when they are first asked for, so that importing it costs little."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # with what it imports itself, it would be a third of our import time
    from importlib.abc import InspectLoader


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's ``__getattr__``, ``__dir__`` and ``__all__``, for what it imports ``if
    TYPE_CHECKING``: so a name is written down once, where type checkers and editors read it too."""
    source = cast("InspectLoader", sys.modules[package].__loader__).get_source(package)
    if source is None:
        raise ImportError(f"{package} has only compiled files; install it with its sources")
    blocks = [node.body for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for body in blocks for node in body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}
    rooms = {each.name for each in iter_modules(sys.modules[package].__path__) if each.ispkg}

    def find(name: str) -> Any:
        if name in rooms or homes.get(name) == package:  # a module of its own
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    return find, lambda: sorted(homes), sorted(homes)
