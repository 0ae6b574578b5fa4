"""The mistakes a caller can make, a class for each kind, and checks that report all of them at
once. A message says what came, what it breaks, and what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import accumulate
from operator import index as index_of
from operator import mul
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class CircuitsError(Exception):
    """Something the caller can fix; the command prints it as one line."""


class ArgumentError(CircuitsError, TypeError):
    """An argument that is not the kind of thing a call takes."""


class TensorError(CircuitsError, ValueError):
    """Tensors of the wrong type, size or device, or with NaN or infinity in them."""


class BasisError(CircuitsError, ValueError):
    """Feature directions without the reader, or a spectrum without the values, that are needed."""


class FeatureRangeError(CircuitsError, IndexError):
    """A feature, output or rank that does not exist."""


class CorpusError(CircuitsError, ValueError):
    """Text that cannot be read, or a use of it that cannot work."""


class ModelError(CircuitsError, ValueError):
    """A model that cannot be loaded, is not bilinear, or lacks the site or ability asked for."""


class DictionaryError(CircuitsError, ValueError):
    """A dictionary, its folder, or its activations, that cannot be used as asked."""


class PlanError(CircuitsError, ValueError):
    """A plan that contradicts itself or the folder it is to write to."""


class RunError(CircuitsError, ValueError):
    """A folder of a run that is incomplete, belongs to another run, or must not be written to."""


class GraphError(CircuitsError, ValueError):
    """A graph, a circuit or a file of one that contradicts itself or holds no groups."""


class BehaviourError(CircuitsError, ValueError):
    """A behaviour that a model cannot be asked about."""


class NotFoundError(CircuitsError, LookupError):
    """Nothing was found: a result, not a mistake of the caller."""


class ImageError(CircuitsError, ValueError):
    """Images that cannot be read, or that do not fit the model or the question."""


class HubError(CircuitsError, OSError):
    """A name that is not a local path and that the hub does not answer for."""


class MarkWarning(UserWarning):
    """A file that was read although it is not as its step made it."""


class DirectionWarning(UserWarning):
    """Dictionary rows that are zero or repeat another row."""


def check_tensors(owner: str, tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> None:
    """Refuse tensors of the wrong type, device, shape or content, naming every fault. ``axes``
    spells each one's axes ("hidden model"): a name has one size everywhere, and none may be empty.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TensorError(
                f"{owner}: {name} is a {type(tensor).__name__}, not a torch tensor. "
                f"Convert it with torch.as_tensor({name}, dtype=torch.float32)."
            )
    wrong = {name: t.dtype for name, t in tensors.items() if not t.is_floating_point()}
    if wrong:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in wrong.items())
        raise TensorError(
            f"{owner} computes with real floating-point numbers, but {listed}. "
            f"Convert with .float() or .double() first."
        )
    _check_shapes(owner, tensors, axes)
    check_devices(owner, tensors)
    _check_finite(owner, tensors)


def _check_shapes(owner: str, tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> None:
    sizes: dict[str, dict[int, list[str]]] = {}
    faults = []
    for name, tensor in tensors.items():
        words = axes[name].split()
        if tensor.ndim != len(words):
            faults.append(
                f"{name} has {tensor.ndim} axes {tuple(tensor.shape)}, not ({axes[name]})"
            )
            continue
        for word, size in zip(words, tensor.shape, strict=True):
            sizes.setdefault(word, {}).setdefault(size, []).append(name)
            if size == 0:
                faults.append(f"{name} is empty: axis {word} has size 0")
    for word, by_size in sizes.items():
        if len(by_size) > 1:
            listed = ", ".join(f"{size} in {' and '.join(who)}" for size, who in by_size.items())
            faults.append(f"axis {word} must have one size, but is {listed}")
    if faults:
        wanted = ", ".join(f"{name} ({axes[name]})" for name in tensors)
        raise TensorError(f"{owner}: " + "; ".join(faults) + f". Wanted: {wanted}.")


def check_devices(owner: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that lie on different devices."""
    devices = {str(t.device) for t in tensors.values()}
    if len(devices) > 1:
        listed = ", ".join(f"{name} on {t.device}" for name, t in tensors.items())
        raise TensorError(f"{owner}: {listed}. Move all to one device with .to(device).")


def _check_finite(owner: str, tensors: Mapping[str, Tensor]) -> None:
    faults = []
    for name, tensor in tensors.items():
        if tensor.is_meta:  # a shape without content
            continue
        # one pass in the usual case: a sum is finite unless an entry is not, or it overflows
        if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            n_nan = int(torch.isnan(tensor).sum())
            n_inf = int(torch.isinf(tensor).sum())
            if n_nan or n_inf:
                faults.append(f"{name} holds {n_nan} NaN and {n_inf} infinite of {tensor.numel()}")
    if faults:
        raise TensorError(
            f"{owner}: " + "; ".join(faults) + ". Every result would be NaN: "
            "check where these weights were trained or loaded."
        )


def check_device(device: torch.device | str) -> torch.device:
    """The device, refused if it cannot be used here."""
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()  # the "meta" device has shapes but no values
    except (RuntimeError, AssertionError, ImportError) as error:
        raise TensorError(
            f"device '{device}' cannot be used here ({first_line(error)}). Name cpu, or a GPU that "
            f"torch.cuda.is_available() knows."
        ) from error
    return chosen


def moved(
    owner: str, parts: Mapping[str, Tensor | None], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Tensors by name as ``Tensor.to`` moves or converts them; refused where it does not take
    these arguments."""
    try:
        torch.empty(0).to(*args, **kwargs)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        OverflowError,
        AssertionError,
        ImportError,
    ) as error:
        raise ArgumentError(
            f"{owner}: {first_line(error):.200}. Pass a device that can be used here, or a "
            f"floating-point dtype."
        ) from error
    return {name: None if t is None else t.to(*args, **kwargs) for name, t in parts.items()}


def check_range(
    owner: str,
    dtype: torch.dtype,
    sizes: Mapping[str, float],
    n_terms: int = 1,
    beside: float = 0.0,
) -> None:
    """Refuse factors, given by their largest entry in the order they are multiplied in, that leave
    the range of a dtype with any product, or with a sum of ``n_terms`` of them; or that lose digits
    by being small, unless something larger is added to them: of size ``beside``."""
    known = torch.finfo(dtype)
    products = list(accumulate(sizes.values(), mul))
    large = any(not product <= known.max for product in (*products, products[-1] * n_terms))
    # numbers down to eps times the largest keep all of their digits
    small = all(sizes.values()) and min(products[1:] or products) < known.tiny / known.eps
    negligible = beside > 0 and products[-1] <= beside * known.eps
    if not large and (not small or negligible):
        return
    beyond = "too large" if large else "too small"
    listed = ", ".join(f"{name} up to {size:.2g}" for name, size in sizes.items())
    listed = f"the product of {listed}" if len(sizes) > 1 else listed
    remedy = "Scale them, for example by dividing each by its largest entry."
    if dtype != torch.float64:
        remedy = "Compute in float64: .to(torch.float64)."
    raise TensorError(
        f"{owner}: {listed} is {beyond} for {dtype}, so that results could be infinite or zero. "
        f"{remedy}"
    )


def largest(tensor: Tensor | None) -> float:
    """The largest |entry|; 0 of none."""
    if tensor is None or tensor.numel() == 0:
        return 0.0
    low, high = tensor.detach().aminmax()  # no copy of it
    return max(-float(low), float(high))


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not known on every system
        return 2**42


def check_memory(owner: str, n_bytes: int, remedy: str) -> None:
    """Refuse what needs more memory than this machine has."""
    if n_bytes > (there := machine_memory()):
        raise PlanError(
            f"{owner}: this needs at least {n_bytes / 2**30:,.0f} GiB of memory, and this machine "
            f"has {there / 2**30:,.0f}. {remedy}"
        )


def check_width(owner: str, x: Tensor, width: int, what: str) -> None:
    """Refuse inputs whose last axis is not the width that is computed with."""
    if not isinstance(x, Tensor):
        raise TensorError(f"{owner}: {what} are a {type(x).__name__}, not a torch tensor.")
    if x.ndim == 0 or x.shape[-1] != width:
        raise TensorError(
            f"{owner}: {what} have shape {tuple(x.shape)}, but their last axis must have size "
            f"{width}. Check which site they were read from."
        )


def check_rows(owner: str, given: Tensor, size: int, what: str) -> None:
    """Refuse a tensor whose first axis does not have this size: one row for each of ``what``."""
    if given.ndim == 0 or len(given) != size:
        raise TensorError(
            f"{owner}: a tensor of shape {tuple(given.shape)} was given where there are {size} "
            f"{what}. Pass one row for each."
        )


def check_some(owner: str, several: Iterable[Item], what: str) -> list[Item]:
    """These as a list; refused if there are none."""
    listed = list(several)
    if not listed:
        raise ArgumentError(f"{owner}: no {what} were given. Pass at least one.")
    return listed


def check_count(owner: str, count: int, most: int | None, what: str) -> int:
    """The count as an int; refused unless it is an integer from 1 to ``most`` (None: no limit)."""
    number = _whole(count)
    if number is None:
        raise FeatureRangeError(f"{owner}: {what} = {count!r} is not a whole number.")
    if number < 1 or (most is not None and number > most):
        limit = "at least 1" if most is None else f"1 to {most}"
        raise FeatureRangeError(f"{owner}: {what} = {number}. Ask for {limit}.")
    return number


def check_index(owner: str, index: int, size: int, what: str) -> int:
    """The index as an int; refused unless it is an integer from 0 to ``size - 1``."""
    number = _whole(index)
    if number is None:
        raise FeatureRangeError(f"{owner}: {what} must be an integer, not {index!r}.")
    if not 0 <= number < size:
        raise FeatureRangeError(
            f"{owner}: there is no {what} {number}; they run from 0 to {size - 1}."
        )
    return number


def _whole(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else index_of(value)
    except TypeError:
        return None


def check_indices(owner: str, indices: Iterable[int], size: int, what: str) -> list[int]:
    """Like ``check_index`` for several."""
    return [check_index(owner, index, size, what) for index in indices]


def number_faults(
    given: Mapping[str, Any],
    whole: Mapping[str, int],
    least: Mapping[str, int] | None = None,
    *,
    above_zero: Iterable[str] = (),
    flags: Iterable[str] = (),
) -> list[str]:
    """What is wrong with a plan's whole numbers and numbers, by their least value, and flags."""
    faults = []
    value: Any
    for name, low in whole.items():
        value = given.get(name)
        if type(value) is not int or value < low:
            faults.append(f"{name} is {value!r:.40}, not a whole number of at least {low}")
        elif value >= 2**63:
            faults.append(f"{name} is {value!r:.40}, not below 2 ** 63")
    bounds = {**dict.fromkeys(above_zero, 0), **(least or {})}
    for name, bound in bounds.items():
        value = given.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # a number up to the largest float is neither NaN nor infinity
        if (
            not number
            or not bound <= value <= sys.float_info.max
            or (name in above_zero and value == 0)
        ):
            wanted = "above 0" if name in above_zero else f"of at least {bound}"
            faults.append(f"{name} is {value!r:.40}, not a number {wanted}")
    for name in flags:
        if not isinstance(given.get(name), bool):
            faults.append(f"{name} is {given.get(name)!r:.40}, not true or false")
    return faults


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, to quote in ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an out-of-memory error; torch reports it in several ways."""
    said = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


def shorten(several: Iterable[object], most: int = 8) -> str:
    """The first few, and how many there are, for a message."""
    listed = list(several)
    head = ", ".join(map(str, listed[:most]))
    return head if len(listed) <= most else f"{head}, … ({len(listed)} in all)"
