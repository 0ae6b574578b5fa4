"""The provenance of a run folder, ``manifest.json``: for each step in order its configuration and
seed, versions, and size and hash of every file that it made, but no times and no absolute paths.

A file is known by what is written there. Whoever reads one asks for its state: text may have been
edited by hand, and is then shown with a mark; anything else that differs is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from warnings import warn

from circuits.errors import MarkWarning, RunError
from circuits.storage.files import (
    content_hash,
    folder_written_whole,
    parsed_json,
    written_whole,
)
from circuits.storage.limits import check_readable
from circuits.storage.lock import locked
from circuits.storage.records import HALF, Word
from circuits.storage.replacing import PLACING, put_files, same_kind

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


@dataclass(frozen=True)
class Making:
    """A step whose files are written aside."""

    run: Path
    folder: Path  # as the run is to be
    made_of: dict[str, Any]
    gone: list[Path] = field(default_factory=list)  # in the run, which this step removes
    outdated: set[str] = field(default_factory=set)  # steps whose entries it removes

    def place(self, path: Path) -> Path:
        """Where to write what is to have this path in the run."""
        new = self.folder / path.relative_to(self.run)
        new.parent.mkdir(parents=True, exist_ok=True)
        return new


@contextmanager
def step_written(
    run: str | Path, step: str, made_of: Mapping[str, Any] | None = None
) -> Iterator[Making]:
    """A step whose files are in the run, with their entry in the manifest, once the block succeeds:
    all or none, also if the process is killed. What the same step made before and makes no more is
    removed, unless it was edited."""
    run = Path(run)

    def put(folder: Path, _: Path) -> None:
        made = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        known = {name.as_posix(): _known_by(made[name]) for name in sorted(made)}
        gone = {path.relative_to(run).as_posix() for path in making.gone if path.exists()}
        entries = read_manifest(run)
        _check_not_lost(run, made, entries)
        before = {entry["step"]: entry["made"] for entry in entries}.get(step, {})
        gone |= {
            name
            for name in before.keys() - known.keys()
            if _state(run / name, before[name]) is State.SAME
        }
        entries_left = [e for e in entries if e["step"] not in making.outdated]
        kept = [e for e in entries_left if e["step"] == step or not gone & e["made"].keys()]
        if (noted := _noted(kept, step, making.made_of, known)) != entries:
            (folder / NAME).write_text(_text(noted), encoding="utf-8")
        put_files(folder, run, gone)

    with locked(run, step), folder_written_whole(run / PLACING, put) as folder:
        making = Making(run, folder, dict(made_of or {}))
        yield making


def _check_not_lost(
    run: Path, made: Mapping[Path, Path], entries: Iterable[Mapping[str, Any]]
) -> None:
    """Refuse to put files over those that no step made and that are of another kind."""
    ours = {name for entry in entries for name in entry["made"]}
    for name, new in made.items():
        old = run / name
        if name.as_posix() not in ours and old.is_file() and not same_kind(new, old):
            raise RunError(
                f"{old} is there already, no step of this run made it, and it is of another kind "
                f"than what is to be written there, so it would be lost. Move or rename it."
            )


def record(run: str | Path, step: str, made_of: Mapping[str, Any], made: Iterable[Path]) -> None:
    """Add a finished step; an earlier entry of the same step is replaced in place."""
    run = Path(run)
    known = {path.relative_to(run).as_posix(): _known_by(path) for path in sorted(made)}
    with locked(run, f"the manifest of {step}"):
        entries = read_manifest(run)
        if (noted := _noted(entries, step, made_of, known)) != entries:
            with written_whole(run / NAME) as file:
                file.write_text(_text(noted), encoding="utf-8")


def _noted(
    entries: list[dict[str, Any]], step: str, made_of: Mapping[str, Any], made: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The entries with that of a step; where it is the same, the versions that made it stay."""
    entry = {
        "step": step,
        "made_of": json.loads(json.dumps(dict(made_of))),  # as it is read again
        "versions": {name: version(name) for name in _VERSIONS},
        "made": dict(made),
    }
    by_step = {old["step"]: old for old in entries}
    before = by_step.get(step, {})
    if any(before.get(part) != entry[part] for part in ("made_of", "made")):
        by_step[step] = entry
    return list(by_step.values())


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


def check_made(folder: Path) -> None:
    """Of a folder in a run, or in a folder of one: refuse it if a file that a step made is damaged,
    and warn of those that were edited."""
    if (run := _run_above(folder)) is None:
        return
    for file in made_in(run, folder):
        step, state = state_of(run, file)
        if state is State.DAMAGED:
            raise RunError(
                f"{file} is damaged or another file: its bytes are not those that the step "
                f"'{step}' of {run} made. Make it again there; to load it as it is, copy its "
                f"folder to a place outside the run."
            )
        if state is State.EDITED:
            warn(f"{file}: {edited(step)}", MarkWarning, stacklevel=4)


def was_edited(file: Path) -> bool:
    """Whether a file in a folder of a run was changed after a step made it."""
    run = _run_above(file.parent)
    return run is not None and state_of(run, file)[1] is State.EDITED


def is_as_made(file: Path) -> bool:
    """Whether a file in a folder of a run is as a step made it."""
    run = _run_above(file.parent)
    return run is not None and state_of(run, file)[1] is State.SAME


def _run_above(folder: Path) -> Path | None:
    """The run in which a folder lies, or a folder of it."""
    runs = [above for above in list(folder.parents)[:2] if (above / NAME).is_file()]
    return runs[0] if runs else None


def edited(step: str) -> str:
    """What is said of a file that was edited."""
    return f"edited after the step '{step}' made it: its numbers may not be those measured"


def _known_by(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": content_hash(path)}


def _state(path: Path, known_by: dict[str, Any]) -> State:
    if not path.is_file():
        return State.MISSING
    same_size = path.stat().st_size == known_by["bytes"]
    if same_size and content_hash(path) == known_by["sha256"]:
        return State.SAME
    return State.EDITED if path.suffix in _TEXT else State.DAMAGED


def _text(entries: list[dict[str, Any]]) -> str:
    return json.dumps(entries, indent=2, sort_keys=True) + "\n"


def read_manifest(run: str | Path) -> list[dict[str, Any]]:
    """The steps of a run in order; empty for a new run."""
    path = Path(run) / NAME
    if not path.exists():
        return []
    check_readable(path, RunError)
    try:
        entries, fault = _parsed(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fault = type(error).__name__
    if fault:
        raise RunError(
            f"{path}: not a list of steps ({fault}). It was changed, cut short or written by "
            f"version 0.1: restore the file, or make the run again in a new folder."
        )
    return list(entries)


@lru_cache(maxsize=4)  # it is asked for each file of a run
def _parsed(content: bytes) -> tuple[Any, str | None]:
    """The entries, which nobody changes, and what is wrong with them."""
    entries = parsed_json(content.decode("utf-8"))
    return entries, _fault(entries)


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
        if HALF.search("".join([entry["step"], *entry["made"]])):
            return f"entry {number} holds half of a character"
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
