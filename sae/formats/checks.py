"""What is checked of every layout alike: counts, shapes, and what no `Dictionary` can hold.

Faults are collected and told together, each with the file that it is in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.errors import DictionaryError, first_line
from circuits.model.weights import check_state
from sae.formats.record import Stored


def check_shapes(
    where: Path, state: Mapping[str, Tensor], config: str, **shapes: tuple[int, ...]
) -> None:
    """Refuse weights that are not of the names and shapes that their configuration says."""
    wanted = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    check_state(where, state, wanted, config)


def checked_count(
    where: Path, config: Mapping[str, Any], name: str, most: int | None = None
) -> int:
    """A field that counts something, from 1 to ``most``."""
    number = config.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DictionaryError(f"{where}: {name} is {number!r}, not a positive whole number.")
    if most is not None and number > most:
        raise DictionaryError(
            f"{where}: {name} is {number}, but there are only {most} features. The configuration "
            f"is not that of these weights."
        )
    return number


def refuse(where: Path, faults: list[str]) -> None:
    """Do not read what has faults."""
    if faults:
        raise DictionaryError(
            f"{where}: " + "; ".join(faults) + ". It cannot be read without changing its features."
        )


def refuse_layout(stored: Stored, layout: str, faults: list[str], any_rule: bool = False) -> None:
    """Do not write in a layout that cannot say what the dictionary is."""
    if stored.k is None and not any_rule:
        faults = [*faults, "its features have thresholds, and this layout has top-k alone"]
    if faults:
        raise DictionaryError(
            f"{stored}: cannot be written in the {layout} layout: "
            + "; ".join(faults)
            + ". Save it in the sae-lens layout, which holds every dictionary."
        )


def write_config(path: Path, content: dict[str, Any]) -> None:
    """A configuration, with the dictionary's notes in it."""
    try:
        text = json.dumps(content, indent=2, sort_keys=True)
    except TypeError as error:
        raise DictionaryError(
            f"Dictionary.save: its notes cannot be written as JSON ({first_line(error)}). Keep "
            f"numbers, texts, lists and dictionaries with texts for keys in them."
        ) from error
    path.write_text(text + "\n", encoding="utf-8")
