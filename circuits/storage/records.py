"""Frozen dataclasses read back from JSON: a field is a number, text, null, an enumeration, a tuple
or another dataclass; unknown or missing keys and numbers that are not finite are refused."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LATER = {"later": True}
"""Metadata of a field that files of the same schema, written before, may lack: its default is what
they are read with."""


_MOST = 2**63  # what tables and other formats hold of whole numbers
HALF = re.compile("[\ud800-\udfff]")
"""Half of a character: JSON can spell it, but it is no text, and no file or table holds it."""


class Word(str, Enum):
    """A base of enumerations that files and tables hold as text."""

    def __str__(self) -> str:
        return str(self.value)


class RecordError(ValueError):
    """What is wrong with a value, and where; the reader of the file says which file."""


def record_of(kind: type, value: Any, where: str) -> Any:
    """The dataclass whose ``asdict`` was written as JSON."""
    types = _types(kind)
    if not isinstance(value, dict):
        raise RecordError(f"{where} is {value!r:.80}, not an object")
    later = {each.name for each in fields(kind) if each.metadata.get("later")}
    missing, unknown = set(types) - set(value) - later, set(value) - set(types)
    if missing or unknown:
        raise RecordError(
            f"in {where}, missing {sorted(missing) or 'nothing'}, unknown "
            f"{sorted(unknown) or 'nothing'}"
        )
    return kind(**{name: _read(types[name], value[name], name, where) for name in value})


def _read(wanted: Any, value: Any, name: str, where: str) -> Any:
    """A value of a type, from JSON."""
    options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if value is None and NoneType in options:
        return None
    for option in options:
        if get_origin(option) is tuple:
            if isinstance(value, list):
                return tuple(_read(get_args(option)[0], one, name, where) for one in value)
        elif is_dataclass(option):
            inside = name if where == "the circuit" else f"{name} of {where}"
            return record_of(option, value, inside)  # type: ignore[arg-type]
        elif get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif issubclass(option, Word):
            if value in [each.value for each in option]:
                return option(value)
        elif option is float and _is_number(value):
            return float(value)
        elif option is str and isinstance(value, str) and HALF.search(value):
            continue
        elif option is int and type(value) is int and not -_MOST <= value < _MOST:
            raise RecordError(f"{name} = {value!r:.80} in {where} is not below 2 ** 63")
        elif option is not float and type(value) is option:
            return value
    words = " or ".join(_word(option) for option in options)
    raise RecordError(f"{name} = {value!r:.80} in {where} is not {words}")


@cache
def _types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # whole numbers may be larger


def _word(option: Any) -> str:
    if option is NoneType:
        return "null"
    if get_origin(option) is tuple:
        return f"a list of {_word(get_args(option)[0])}"
    if get_origin(option) is Literal:
        return f"one of {', '.join(get_args(option))}"
    if issubclass(option, Word):
        return f"one of {', '.join(map(str, option))}"
    names = {int: "a whole number", float: "a number", str: "text"}
    return names.get(option, option.__name__)
