"""What is computed of tensors, once: and again if one of them was changed in place since.

Layers and dictionaries share their tensors with whoever made them, a running model among others:
copies would double its memory. torch counts most changes of a tensor, but none by way of
``tensor.data``, of numpy's memory, of a fused optimizer or in inference mode. So the numbers are
looked at as well: all of them up to 65,536 entries, of a larger tensor about as many, spread
evenly. An uncounted change of other entries of a larger tensor alone is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

Made = TypeVar("Made")
_KEPT = "_kept "  # what the names of kept values begin with
_LOOKED_AT = 65_536  # entries of a tensor
_INTEGERS = {1: torch.uint8, 2: torch.int16}  # by their size; of larger ones, parts


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


def versions(values: Iterable[Any]) -> list[tuple[int, int, int]]:
    """Where each tensor among some values, or in what these hold, lies, how often it was changed,
    and a hash of its entries."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            counted = 0 if value.is_inference() else value._version
            found.append((value.data_ptr(), counted, _looked_at(value)))
        elif _is_ours(type(value).__module__):
            found += versions(getattr(value, "__dict__", {}).values())
    return found


def _looked_at(tensor: Tensor) -> int:
    """A hash of a tensor's bits, which another value of any entry that is looked at changes."""
    n_entry = tensor.numel() and 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )  # from the first in memory to the last, however they are ordered
    step = -(-n_entry // _LOOKED_AT) or 1
    step += step % 2 == 0  # with an odd step every column of an even number has its turn
    seen = tensor.detach().as_strided((-(-n_entry // step),), (step,)).contiguous()
    bits = seen.view(_INTEGERS.get(seen.element_size(), torch.int32))
    bits = bits.int() if bits.element_size() < 4 else bits
    odd = _odd(bits.device)[: len(bits)]
    return int(torch.dot(bits, odd) if bits.device.type == "cpu" else (bits * odd).sum())


@cache
def _odd(device: torch.device) -> Tensor:
    """The first odd numbers: no multiple of one of them is 0 in the integers of a computer."""
    return torch.arange(1, 8 * _LOOKED_AT, 2, dtype=torch.int32, device=device)


@cache  # it is asked often
def _is_ours(module: str) -> bool:
    return module.startswith(("circuits.algebra.", "sae."))
