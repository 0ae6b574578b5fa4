"""The provenance of a run folder, ``manifest.json``: for each step in order its configuration and
seed, versions, and a hash of every file that it made, but no times and no absolute paths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuits.errors import RunError
from circuits.storage.files import content_hash, written_whole

NAME = "manifest.json"
_VERSIONS = ("bilinear-circuits", "torch", "transformers", "numpy")


def record(run: str | Path, step: str, made_of: Mapping[str, Any], made: Iterable[Path]) -> None:
    """Add a finished step; an earlier entry of the same step is replaced in place."""
    run = Path(run)
    entry = {
        "step": step,
        "made_of": dict(made_of),
        "versions": {name: version(name) for name in _VERSIONS},
        "made": {str(path.relative_to(run)): content_hash(path) for path in sorted(made)},
    }
    by_step = {old["step"]: old for old in read_manifest(run)}
    before = by_step.get(step, {})
    if all(before.get(part) == entry[part] for part in ("made_of", "made")):
        return  # nothing changed, so the versions that made it stay
    by_step[step] = entry
    _write(run, list(by_step.values()))


def withdraw(run: str | Path, folder: Path) -> None:
    """Remove the steps that made a file of this folder which no longer exists."""
    run = Path(run)
    entries = read_manifest(run)
    inside = folder.relative_to(run)
    kept = [
        entry
        for entry in entries
        if all((run / m).exists() for m in entry.get("made", ()) if Path(m).parent == inside)
    ]
    if len(kept) < len(entries):
        _write(run, kept)


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
        if not all(isinstance(entry["step"], str) for entry in entries):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}: not a list of steps ({type(error).__name__}). It was changed or cut "
            f"short: make the run again, or restore the file."
        ) from error
    return list(entries)
