"""The mistakes a caller can make, one class each, and checks that report all of them at once.

A message says three things: what came, what it breaks, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index as index_of

import torch
from torch import Tensor


class CircuitsError(Exception):
    """Something the caller can fix; the command prints it as one line."""


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


class DirectionWarning(UserWarning):
    """Dictionary rows that are zero or repeat another row."""


def check_tensors(owner: str, tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> None:
    """Refuse tensors of the wrong type, device, shape or content, naming every fault.

    ``axes`` spells each tensor's axes ("hidden model"); an axis name must have one size
    everywhere, and no axis may be empty.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TensorError(
                f"{owner}: {name} is a {type(tensor).__name__}, not a torch tensor. "
                f"Convert it with torch.as_tensor({name}, dtype=torch.float32)."
            )
    _check_dtypes(owner, tensors)
    _check_shapes(owner, tensors, axes)
    _check_devices(owner, tensors)
    _check_finite(owner, tensors)


def _check_dtypes(owner: str, tensors: Mapping[str, Tensor]) -> None:
    wrong = {name: t.dtype for name, t in tensors.items() if not t.is_floating_point()}
    if wrong:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in wrong.items())
        raise TensorError(
            f"{owner} computes with real floating-point numbers, but {listed}. "
            f"Convert with .float() or .double() first."
        )


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


def _check_devices(owner: str, tensors: Mapping[str, Tensor]) -> None:
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


def check_width(owner: str, x: Tensor, width: int, what: str) -> None:
    """Refuse inputs whose last axis is not the width that is computed with."""
    if not isinstance(x, Tensor):
        raise TensorError(f"{owner}: {what} are a {type(x).__name__}, not a torch tensor.")
    if x.ndim == 0 or x.shape[-1] != width:
        raise TensorError(
            f"{owner}: {what} have shape {tuple(x.shape)}, but their last axis must have size "
            f"{width}. Check which site they were read from."
        )


def check_count(owner: str, count: int, most: int | None, what: str) -> int:
    """The count as an int; refused unless it is an integer from 1 to ``most`` (None: no limit)."""
    try:
        if isinstance(count, bool):
            raise TypeError
        number = index_of(count)
    except TypeError:
        raise FeatureRangeError(f"{owner}: {what} = {count!r} is not a whole number.") from None
    if number < 1 or (most is not None and number > most):
        limit = "at least 1" if most is None else f"1 to {most}"
        raise FeatureRangeError(f"{owner}: {what} = {number}. Ask for {limit}.")
    return number


def check_index(owner: str, index: int, size: int, what: str) -> int:
    """The index as an int; refused unless it is an integer from 0 to ``size - 1``."""
    try:
        if isinstance(index, bool):
            raise TypeError
        index = index_of(index)
    except TypeError:
        raise FeatureRangeError(f"{owner}: {what} must be an integer, not {index!r}.") from None
    if not 0 <= index < size:
        raise FeatureRangeError(
            f"{owner}: there is no {what} {index}; they run from 0 to {size - 1}."
        )
    return index


def check_indices(owner: str, indices: Iterable[int], size: int, what: str) -> list[int]:
    """Like ``check_index`` for several."""
    return [check_index(owner, index, size, what) for index in indices]


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, to quote in ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an out-of-memory error; torch reports it in several ways."""
    said = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


def shorten(indices: Iterable[int], most: int = 8) -> str:
    """The first few indices, and how many there are, for a message."""
    listed = list(indices)
    head = ", ".join(map(str, listed[:most]))
    return head if len(listed) <= most else f"{head}, … ({len(listed)} in all)"
