"""What is computed of tensors, once: and again if one of them was changed in place since.

Layers and dictionaries share their tensors with whoever made them, a running model among others:
copies would double its memory. torch counts the changes of each tensor, which this looks at. (A
change by way of ``tensor.data`` is not counted.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Generic, TypeVar, overload

from torch import Tensor

Made = TypeVar("Made")
_KEPT = "_kept "  # what the names of kept values begin with


class while_unchanged(Generic[Made]):
    """A ``cached_property`` that is computed again where a tensor of its object, or of what that
    holds, was changed."""

    def __init__(self, compute: Callable[[Any], Made]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = _KEPT + name

    @overload
    def __get__(self, thing: None, owner: type) -> while_unchanged[Made]: ...

    @overload
    def __get__(self, thing: object, owner: type) -> Made: ...

    def __get__(self, thing: object | None, owner: type) -> while_unchanged[Made] | Made:
        if thing is None:
            return self
        now, kept = versions(vars(thing).values()), vars(thing).get(self.name)
        if kept is None or kept[0] != now:
            kept = vars(thing)[self.name] = (now, self.compute(thing))
        made: Made = kept[1]
        return made


def versions(values: Iterable[Any]) -> list[tuple[int, int]]:
    """Where each tensor among some values, or in what these hold, lies, and how often it was
    changed."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            counted = 0 if value.is_inference() else value._version
            found.append((value.data_ptr(), counted))
        elif _is_ours(type(value).__module__):
            found += versions(getattr(value, "__dict__", {}).values())
    return found


@cache  # it is asked often
def _is_ours(module: str) -> bool:
    return module.startswith(("circuits.algebra.", "sae."))
