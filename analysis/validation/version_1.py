"""Validation files of version 1, which the toolkit 0.1 wrote, in the terms of today's."""

from __future__ import annotations

from typing import Any

from analysis.validation.criteria import Direction, Measure
from analysis.validation.edits import DrawKind, EditKind
from circuits.storage.records import RecordError

_EDITS = {
    "none": EditKind.NONE,
    "remove the circuit": EditKind.REMOVE,
    "keep only the circuit": EditKind.KEEP,
    "patch from the other answer": EditKind.PATCH,
    "replace the MLP by its mean": EditKind.MEAN,
    "control: untrained model": EditKind.UNTRAINED,
    "control: untrained model, remove": EditKind.UNTRAINED_REMOVE,
}
_TARGETED = {"remove gate ": EditKind.REMOVE_GATE, "control: circuit of ": EditKind.OTHER_CIRCUIT}
_DRAWS = {"as many": DrawKind.SAME_NUMBER, "as large": DrawKind.SAME_SIZE}
_CRITERIA = {
    "removal takes at least": (Measure.REMOVED, Direction.AT_LEAST),
    "removal leaves of any affected class at most": (Measure.LEFT, Direction.AT_MOST),
    "removal moves other classes at most": (Measure.SIDE_EFFECT, Direction.AT_MOST),
    "keeping only the circuit keeps at least": (Measure.KEPT, Direction.AT_LEAST),
    "as many random pairs take at most (median)": (Measure.RANDOM, Direction.AT_MOST),
    "cases of each affected class at least": (Measure.CASES, Direction.AT_LEAST),
}
_LACKING = {
    "strata": ("kind", "value", "affected", "n", "judged", "margin", "left", "kept"),
    "cases": ("class", "margin", "without", "alone"),
    "origins": ("kind", "value", "n", "contrast", "computed", "inherited", "within"),
    "bases": ("basis", "there", "needed", "n_pairs", "carried", "removed", "side_effect"),
}
_COLUMNS = {"taken": "removed", "moved": "side_effect", "faithfulness lost": "faithfulness_lost"}


def of_version_1(old: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of version 1 as version 2 has it."""
    new = dict(old)
    for name in ("edits", "random", "parts"):
        new[name] = {_COLUMNS.get(key, key): column for key, column in old[name].items()}
    kinds = [_edit(label) for label in new["edits"].pop("edit")]
    named = {"kind": [kind for kind, _ in kinds], "target": [target for _, target in kinds]}
    new["edits"] = named | new["edits"]
    new["random"]["kind"] = [_DRAWS[kind].value for kind in new["random"]["kind"]]
    effects = dict(old["side_effects"])
    new["side_effects"] = {"kind": [_edit(label)[0] for label in effects.pop("edit")]} | effects
    new |= {name: {column: [] for column in columns} for name, columns in _LACKING.items()}
    table = old["criteria"]
    new["criteria"] = [
        {"name": str(name), "direction": str(direction), "wanted": wanted, "value": value}
        for label, wanted, value in zip(
            table["criterion"], table["wanted"], table["value"], strict=True
        )
        for name, direction in [_CRITERIA[label]]
    ]
    return new


def _edit(label: str) -> tuple[str, str]:
    if label in _EDITS:
        return _EDITS[label].value, ""
    for start, kind in _TARGETED.items():
        if label.startswith(start):
            return kind.value, label.removeprefix(start)
    raise RecordError(f"the unknown edit {label!r}")
