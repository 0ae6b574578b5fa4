"""Arguments of public calls, checked by what their annotations say, before any work is done.

``@checked`` on a function, or on a class for its constructor and all public methods, refuses an
argument of another class, a number that is none, a tensor of another dtype or number of axes, or
with NaN in it. What the annotation does not say (bounds, names, widths) each call checks itself.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import math
import types
from collections.abc import Callable, Mapping
from functools import cache, partial, wraps
from numbers import Real
from operator import index as index_of
from pathlib import Path
from typing import (
    Any,
    Literal,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from torch import Tensor

from circuits.errors import (
    ArgumentError,
    CircuitsError,
    FeatureRangeError,
    TensorError,
    check_device,
)

Thing = TypeVar("Thing", bound=Callable[..., Any])

_MOST = 2**63 - 1
_MADE_BY = {
    "Model": "load_model(folder)",
    "Corpus": "open_corpus(path) or built_in()",
    "Dictionary": "load_dictionary(folder)",
    "Behaviour": "Behaviour.load(path) or built_in_behaviour(name)",
    "ModelCases": "in_model(behaviour, model)",
    "Circuit": "find_circuit(…) or Circuit.load(path)",
    "Interactions": "Interactions(layer, inputs, outputs)",
    "Basis": "Basis.from_decoder(decoder)",
    "BilinearLayer": "model.layer(0)",
    "Head": "model.head(0, 0)",
    "Vocabulary": "load_model(folder)",
    "Spectrum": "Interactions.spectrum(output)",
    "Site": 'Site.parse("mlp_in@0")',
    "Clusters": "clusters(graph)",
    "Graph": "interaction_graph(inter, output, n_edges=50)",
    "ModelPlan": "ModelPlan()",
    "TrainingPlan": "TrainingPlan()",
    "Activations": "TensorActivations(tensors)",
    "Reader": "Reader.of(dictionary, feature)",
    "Code": "Dictionary.active(x)",
}


def checked(thing: Thing) -> Thing:
    """The same function, or class, whose arguments are checked."""
    if isinstance(thing, type):
        return _class(thing, ("__init__", "__call__"))
    made: Thing = _wrapped(thing, thing.__qualname__, partial(_hints, thing))
    return made


def checked_kinds(thing: Thing) -> Thing:
    """The same as ``checked`` for a class of inner loops: what is in its tensors is not read."""
    return _class(thing, ("__init__", "__call__"), read=False)


def checked_methods(thing: Thing) -> Thing:
    """The same for a class whose constructor checks its parts itself, and names all faults."""
    return _class(thing, ("__call__",))


def _class(thing: Any, dunder: tuple[str, ...], read: bool = True) -> Any:
    for name, member in list(vars(thing).items()):
        inner = getattr(member, "__func__", member)  # of a class method
        if not inspect.isfunction(inner) or (name.startswith("_") and name not in dunder):
            continue
        own = name == "__init__" and hasattr(thing, "__dataclass_fields__")
        owner = thing.__name__ + ("" if name in dunder else f".{name}")
        made = _wrapped(inner, owner, partial(_hints, thing if own else inner), read)
        kept = made if inner is member else type(member)(made)
        setattr(thing, name, kept)
    return thing


@cache
def _hints(thing: Any) -> dict[str, Any]:
    return get_type_hints(thing)


def _wrapped(
    function: Any, owner: str, hints: Callable[[], dict[str, Any]], read: bool = True
) -> Any:
    signature = inspect.signature(function)
    every = {p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # a missing or unknown argument: Python says which
            return function(*args, **kwargs)
        known = hints()
        axes: dict[str, tuple[str, int]] = {}
        for name, value in given.items():
            if name not in known:
                continue
            for label, each in value.items() if name in every else [(name, value)]:
                check_argument(owner, label, each, known[name], axes, read)
        return function(*args, **kwargs)

    return call


def check_argument(
    owner: str,
    name: str,
    value: Any,
    hint: Any,
    axes: dict[str, tuple[str, int]] | None = None,
    read: bool = True,
) -> None:
    """Refuse a value that an annotation does not allow. ``axes`` are sizes known in this call;
    ``read`` says whether NaN and infinity in a tensor are looked for."""
    if not _fits(value, hint) or (name == "seed" and isinstance(value, Tensor)):  # none seeds
        raise _refusal(owner, name, value, hint)
    if isinstance(value, Tensor):
        wanted = [one for one in _members(hint) if hasattr(one, "array_type")]
        if wanted and len(wanted) == len([one for one in _members(hint) if one is not type(None)]):
            _check_tensor(owner, name, value, wanted[0], {} if axes is None else axes)
            if read:
                _check_finite(owner, name, value)
    elif name == "seed" and value is not None and not 0 <= index_of(value) <= _MOST:
        raise FeatureRangeError(
            f"{owner}: seed = {value}. Pass a whole number from 0 to 2**63 - 1."
        )
    elif _is_whole(value) and index_of(value) > _MOST and int in _members(hint):
        raise FeatureRangeError(f"{owner}: {name} = {value!r:.40} is not below 2**63.")
    elif name == "device" and value is not None:
        check_device(value)
    elif isinstance(value, str | Path) and Path in _members(hint) and "\0" in str(value):
        raise ArgumentError(f"{owner}: {name} holds a null byte, as no file's name can. Remove it.")


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation names; what it cannot judge fits."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if hint is int or hint is SupportsIndex:
        return _is_whole(value)
    if hint is float:
        return _is_finite(value)
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if origin is Literal:
        return isinstance(value, str)  # which words there are each call says itself
    if hasattr(hint, "array_type"):
        return isinstance(value, hint.array_type)
    if origin is abc.Callable:
        return callable(value)
    if isinstance(origin, type):
        return _fits_collection(value, origin, inside)
    if getattr(hint, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(hint) if not name.startswith("_"))
    return not isinstance(hint, type) or isinstance(value, hint)


def _is_finite(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _fits_collection(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    if not isinstance(value, origin) or isinstance(value, str | bytes):
        return False
    if origin is tuple and Ellipsis not in inside and 0 < len(inside) != len(value):
        return False
    if hasattr(value, "columns"):  # a table is no collection of its columns' names
        return False
    if isinstance(value, Tensor) and not _fits_tensor(value, inside[0] if inside else Any):
        return False
    if issubclass(origin, abc.Mapping):
        return all(_fits(key, inside[0]) and _fits(one, inside[1]) for key, one in value.items())
    if isinstance(value, abc.Mapping):  # of pairs its keys, as of what is known of each pair
        of_pairs = origin is abc.Iterable and inside and get_origin(inside[0]) is tuple
        return bool(of_pairs) and all(_fits(key, inside[0]) for key in value)
    whole = isinstance(value, list | tuple | set | frozenset)  # an iterator gives its items once
    if not whole or not inside or inside[0] is int:  # indices are checked where they are used
        return True
    several = origin is not tuple or (len(inside) == 2 and inside[1] is Ellipsis)
    return not several or all(_fits(one, inside[0]) for one in value)


def _fits_tensor(value: Tensor, item: Any) -> bool:
    """Whether a tensor stands for several of these."""
    if value.ndim == 0 or (item is int and value.is_floating_point()):
        return False
    return item in (int, float, Any, Tensor) or hasattr(item, "array_type")


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool | np.bool_) or (
        isinstance(value, Tensor) and value.dtype == torch.bool
    ):
        return False
    try:
        index_of(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _check_tensor(
    owner: str, name: str, value: Tensor, hint: Any, axes: dict[str, tuple[str, int]]
) -> None:
    """Refuse a tensor of another dtype or shape than annotated, or with NaN or infinity."""
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in hint.dtypes:
        kind = {"float32": "floating-point numbers", "int64": "int64", "bool": "booleans"}
        wanted = next((kind[one] for one in kind if one in hint.dtypes), hint.dtypes[0])
        how = {"int64": "long()", "booleans": "bool()", "float64": "double()"}.get(
            wanted, "float()"
        )
        raise TensorError(
            f"{owner}: {name} must be a tensor of {wanted}, but {name} is {value.dtype}. Convert "
            f"it with .{how} first."
        )
    words = hint.dim_str.split()
    fixed = not any("*" in word or "..." in word for word in words)
    if fixed and value.ndim != len(words):
        raise TensorError(
            f"{owner}: {name} has {value.ndim} axes {tuple(value.shape)}, not ({' '.join(words)})."
            f" Reshape it."
        )
    for word, size in zip(reversed(words), reversed(value.shape), strict=False):
        if "*" in word or "." in word:
            break
        who, known = axes.setdefault(word, (name, size))
        if word.isidentifier() and word != "_" and known != size:
            raise TensorError(
                f"{owner}: axis {word} must have one size, but is {known} in {who} and {size} in "
                f"{name}. Pass tensors that belong together."
            )


def _check_finite(owner: str, name: str, value: Tensor) -> None:
    finite = value.is_meta or not value.is_floating_point()
    if not finite and not bool(torch.isfinite(value.sum(dtype=torch.float64))):
        n = int((~torch.isfinite(value)).sum())
        if n:
            raise TensorError(
                f"{owner}: {n} of {value.numel()} numbers of {name} are NaN or infinite, and so "
                f"would be the result. Look at where they come from."
            )


def _refusal(owner: str, name: str, value: Any, hint: Any) -> CircuitsError:
    plain = isinstance(value, str | int | float | None)
    came = f"{value!r:.60}" if plain else f"a {type(value).__name__}"
    members = [one for one in _members(hint) if one is not type(None)]
    if all(one in (int, SupportsIndex) for one in members):
        return FeatureRangeError(
            f"{owner}: {name} = {came} is not a whole number: {name} must be an integer. Pass one."
        )
    if all(hasattr(one, "array_type") for one in members):
        return TensorError(
            f"{owner}: {name} is {came}, not a torch tensor. Convert it with "
            f"torch.as_tensor({name}, dtype=torch.float32)."
        )
    made = [_MADE_BY[one.__name__] for one in members if getattr(one, "__name__", "") in _MADE_BY]
    remedy = f"Make one, for example with {made[0]}." if made else "Pass that instead."
    return ArgumentError(
        f"{owner}: {name} is {came}, not {' or '.join(map(_named, members))}. {remedy}"
    )


def _named(hint: Any) -> str:
    """An annotation in words."""
    origin, inside = get_origin(hint), get_args(hint)
    words = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}
    if hint in words:
        return words[hint]
    if hint is Path:
        return "a path"
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is abc.Callable:
        return "a function"
    if isinstance(origin, type) and inside:
        items = [one for one in inside if one is not Ellipsis]
        if issubclass(origin, Mapping):
            return f"a mapping from {_named(items[0])} to {_named(items[1])}"
        return f"several of: {' or '.join(map(_named, _members(items[0])))}"
    return f"a {getattr(hint, '__name__', str(hint))}"
