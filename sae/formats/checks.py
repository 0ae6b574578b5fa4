"""What the layouts share: where their weights are, checks, and refusals that list every fault."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits.errors import DictionaryError, ModelError, first_line
from circuits.model.formats.weights import check_state
from circuits.model.site import Site
from sae.formats.record import WEIGHTS, Stored

_MODULES = {"": "resid_post", ".mlp": "mlp_out", ".self_attn": "attn_out"}


@dataclass(frozen=True)
class Names:
    """A layout's names for the weights of a `Stored`, and which of them it transposes."""

    names: Mapping[str, str]
    transposed: str = ""

    def read(
        self,
        path: Path,
        state: Mapping[str, Tensor],
        config: str,
        sizes: tuple[int, ...],
        **further: tuple[int, ...],
    ) -> dict[str, Any]:
        """The weights in a file's tensors, which must have these ``sizes`` (feature, model, and of
        a transcoder target)."""
        size = dict(zip(("feature", "model", "target"), (*sizes, sizes[1]), strict=False))
        wanted = dict(further)
        for part, name in self.names.items():
            shape = tuple(size[axis] for axis in WEIGHTS[part].split())
            wanted[name] = shape[::-1] if part == self.transposed else shape
        check_state(path, state, wanted, config)
        return {part: self._turned(part, state[name]) for part, name in self.names.items()}

    def written(self, stored: Stored) -> dict[str, Tensor]:
        """A dictionary's weights under the layout's names."""
        return {
            name: self._turned(part, getattr(stored, part)).contiguous()
            for part, name in self.names.items()
        }

    def _turned(self, part: str, weight: Tensor) -> Tensor:
        return weight.mT if part == self.transposed else weight


def checked_count(
    where: Path, config: Mapping[str, Any], name: str, most: int | None = None
) -> int:
    """A field that is a count, from 1 to ``most``."""
    number = config.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DictionaryError(f"{where}: {name} is {number!r:.40}, not a positive whole number.")
    if most is not None and number > most:
        raise DictionaryError(
            f"{where}: {name} is {number!r:.40}, but there are only {most} features. The "
            f"configuration belongs to other weights."
        )
    return number


def refuse(where: Path, config: Mapping[str, Any], known: Collection[str], *faults: str) -> None:
    """Refuse to read a dictionary with faults, unknown fields among them."""
    found = [f"unknown field '{name}'" for name in config if name not in known] + [*faults]
    if found:
        raise DictionaryError(
            f"{where}: {'; '.join(found)}. It cannot be read without changing its features."
        )


def refuse_layout(
    stored: Stored,
    layout: str,
    faults: list[str],
    any_rule: bool = False,
    transcoders: bool = False,
) -> None:
    """Refuse to write in a layout that cannot represent the dictionary."""
    if stored.target is not None and not transcoders:
        faults = [*faults, f"it is a transcoder to {stored.target}, and this layout has none"]
    if stored.k is None and not any_rule:
        faults = [*faults, "its features have thresholds, and this layout has only top-k"]
    if faults:
        raise DictionaryError(
            f"{stored}: cannot be written in the {layout} layout: {'; '.join(faults)}. Save it in "
            f"the sae-lens layout, which holds every dictionary."
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
    """The site of a hook named as in TransformerLens, or of what transformers' module returns."""
    try:
        return Site.parse(str(name))
    except ModelError:
        pass
    module = re.fullmatch(r"(?:model\.)?layers\.([0-9]{1,18})(|\.mlp|\.self_attn)", str(name))
    return Site(_MODULES[module[2]], int(module[1])) if module else None
