"""The provenance of a run folder, ``manifest.json``: for each step in order its configuration and
seed, versions, and size and hash of every file that it made, but no times and no absolute paths.

A file is known by what is written there. Whoever reads one asks for its state: text may have been
edited by hand, and is then shown with a mark; anything else that differs is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuits.errors import RunError
from circuits.storage.files import content_hash, written_whole
from circuits.storage.lock import locked
from circuits.storage.records import Word

NAME = "manifest.json"
_VERSIONS = ("bilinear-circuits", "torch", "transformers", "numpy")
_TEXT = (".json", ".jsonl", ".graphml")


class State(Word):
    """What became of a file since a step made it."""

    SAME = "as it was made"
    EDITED = "edited since"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNKNOWN = "not of this run"


def record(run: str | Path, step: str, made_of: Mapping[str, Any], made: Iterable[Path]) -> None:
    """Add a finished step; an earlier entry of the same step is replaced in place."""
    run = Path(run)
    entry = {
        "step": step,
        "made_of": dict(made_of),
        "versions": {name: version(name) for name in _VERSIONS},
        "made": {path.relative_to(run).as_posix(): _known_by(path) for path in sorted(made)},
    }
    with locked(run, f"the manifest of {step}"):
        by_step = {old["step"]: old for old in read_manifest(run)}
        before = by_step.get(step, {})
        if all(before.get(part) == entry[part] for part in ("made_of", "made")):
            return  # nothing changed, so the versions that made it stay
        by_step[step] = entry
        _write(run, list(by_step.values()))


def withdraw(run: str | Path, folder: Path) -> None:
    """Remove the steps that made a file of this folder which no longer exists."""
    run = Path(run)
    inside = folder.relative_to(run)
    with locked(run, "the manifest"):
        entries = read_manifest(run)
        kept = [
            entry
            for entry in entries
            if all((run / m).exists() for m in entry["made"] if Path(m).parent == inside)
        ]
        if len(kept) < len(entries):
            _write(run, kept)


def states(run: str | Path) -> dict[str, tuple[str, State]]:
    """For each file that a step made, by its path in the run: the step, and its state now."""
    found = {}
    for entry in read_manifest(run):
        for name, known_by in entry["made"].items():
            found[name] = (entry["step"], _state(Path(run) / name, known_by))
    return found


def state_of(run: str | Path, path: Path) -> tuple[str, State]:
    """Of one file: the step that made it ("" where none did), and its state now."""
    name = path.relative_to(run).as_posix()
    for entry in read_manifest(run):
        if name in entry["made"]:
            return entry["step"], _state(path, entry["made"][name])
    return "", State.UNKNOWN


def made_in(run: str | Path, folder: Path) -> list[Path]:
    """The files in a folder of the run, or below it, that a step made."""
    names = [name for entry in read_manifest(run) for name in entry["made"]]
    return [path for path in (Path(run) / name for name in names) if folder in path.parents]


def _known_by(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": content_hash(path)}


def _state(path: Path, known_by: dict[str, Any]) -> State:
    if not path.is_file():
        return State.MISSING
    same_size = path.stat().st_size == known_by["bytes"]
    if same_size and content_hash(path) == known_by["sha256"]:
        return State.SAME
    return State.EDITED if path.suffix in _TEXT else State.DAMAGED


def _write(run: Path, entries: list[dict[str, Any]]) -> None:
    with written_whole(run / NAME) as file:
        file.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(run: str | Path) -> list[dict[str, Any]]:
    """The steps of a run in order; empty for a new run."""
    path = Path(run) / NAME
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(entries)
    except (ValueError, RecursionError) as error:
        fault = type(error).__name__
    if fault:
        raise RunError(
            f"{path}: not a list of steps ({fault}). It was changed or cut short: make the run "
            f"again, or restore the file."
        )
    return list(entries)


def _fault(entries: object) -> str | None:
    """What is wrong with the content of a manifest."""
    if not isinstance(entries, list):
        return f"it holds a JSON {type(entries).__name__}"
    for number, entry in enumerate(entries):
        types = {"step": str, "made_of": dict, "versions": dict, "made": dict}
        if not isinstance(entry, dict) or any(
            not isinstance(entry.get(name), kind) for name, kind in types.items()
        ):
            return f"entry {number} is not a step with {', '.join(types)}"
        for name, known_by in entry["made"].items():
            inside = not Path(name).is_absolute() and ".." not in Path(name).parts
            if not (
                inside
                and isinstance(known_by, dict)
                and type(known_by.get("bytes")) is int
                and isinstance(known_by.get("sha256"), str)
            ):
                return f"entry {number} does not know {name[:80]!r} by its bytes and sha256"
    steps = [entry["step"] for entry in entries]
    return "two entries of one step" if len(set(steps)) < len(steps) else None
