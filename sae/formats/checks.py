"""Checks shared by all layouts: counts, shapes, and what a `Stored` cannot represent.

All faults of a file are reported together, with its path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.errors import DictionaryError, SiteError, first_line
from circuits.model.site import Site
from circuits.model.weights import check_state
from sae.formats.record import Stored

_MODULES = {"": "resid_post", ".mlp": "mlp_out", ".self_attn": "attn_out"}


def check_shapes(
    where: Path, state: Mapping[str, Tensor], config: str, **shapes: tuple[int, ...]
) -> None:
    """Refuse weights whose names or shapes differ from their configuration."""
    wanted = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    check_state(where, state, wanted, config)


def checked_count(
    where: Path, config: Mapping[str, Any], name: str, most: int | None = None
) -> int:
    """A field that is a count, from 1 to ``most``."""
    number = config.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DictionaryError(f"{where}: {name} is {number!r}, not a positive whole number.")
    if most is not None and number > most:
        raise DictionaryError(
            f"{where}: {name} is {number}, but there are only {most} features. The configuration "
            f"belongs to other weights."
        )
    return number


def refuse(where: Path, faults: list[str]) -> None:
    """Refuse to read a dictionary with faults."""
    if faults:
        raise DictionaryError(
            f"{where}: " + "; ".join(faults) + ". It cannot be read without changing its features."
        )


def refuse_layout(stored: Stored, layout: str, faults: list[str], any_rule: bool = False) -> None:
    """Refuse to write in a layout that cannot represent the dictionary."""
    if stored.k is None and not any_rule:
        faults = [*faults, "its features have thresholds, and this layout has only top-k"]
    if faults:
        raise DictionaryError(
            f"{stored}: cannot be written in the {layout} layout: "
            + "; ".join(faults)
            + ". Save it in the sae-lens layout, which holds every dictionary."
        )


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write a configuration that includes the dictionary's notes."""
    try:
        text = json.dumps(content, indent=2, sort_keys=True)
    except TypeError as error:
        raise DictionaryError(
            f"Dictionary.save: its notes cannot be written as JSON ({first_line(error)}). Keep "
            f"only numbers, strings, lists, and dicts with string keys in them."
        ) from error
    path.write_text(text + "\n", encoding="utf-8")


def site_of(name: object) -> Site | None:
    """The site of a hook, named as in TransformerLens or by transformers' module.

    A module's hook sees what the module returns.
    """
    try:
        return Site.parse(str(name))
    except SiteError:
        pass
    module = re.fullmatch(r"(?:model\.)?layers\.(\d+)(|\.mlp|\.self_attn)", str(name))
    return Site(_MODULES[module[2]], int(module[1])) if module else None
