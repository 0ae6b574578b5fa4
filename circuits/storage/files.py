"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from circuits.errors import CircuitsError

PLAN, RESULT = "plan.json", "training.json"  # of a training run: written first, and at its end


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to: renamed to ``path`` if the block succeeds, else removed.

    >>> with written_whole("numbers.txt") as file:  # doctest: +SKIP
    ...     file.write_text("1 2 3")
    """
    path = Path(path)
    with _staged(path) as folder:
        yield folder / path.name
        _as_any_file(folder)
        os.replace(folder / path.name, path)


@contextmanager
def folder_written_whole(
    path: str | Path, put: Callable[[Path, Path], object] | None = None
) -> Iterator[Path]:
    """A folder to fill: renamed to ``path``, which is new or empty, if the block succeeds; or
    ``put`` there, by a function of `replacing`."""
    path = Path(path)
    with _staged(path) as folder:
        yield folder
        _as_any_file(folder)
        (put or os.replace)(folder, path)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this process alone has locked the file, for the length of the block."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield True
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """This process's own folder beside the path, where a library may write files beside its own.

    It is removed at the end; after a kill, by the next process that writes to the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.part"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    except SafetensorError as error:  # what it raises when the disk is full
        raise OSError(f"{path}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_any_file(folder: Path) -> None:
    """Give every file the rights that a new one has here: safetensors lets only its owner read."""
    new = folder / ".new"
    new.touch()
    rights = new.stat().st_mode
    new.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(rights)


def read_json(path: Path, error: type[CircuitsError]) -> dict[str, Any]:
    """The JSON object in a file; any fault is raised as the given error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file.") from None
    except (ValueError, RecursionError) as fault:  # bad JSON or Unicode; nested too deeply
        raise error(f"{path}: not readable JSON ({fault}). Write the file again.") from fault
    if not isinstance(content, dict):
        raise error(f"{path}: holds a JSON {type(content).__name__}, not an object.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; NaN and infinity become null."""
    text = json.dumps(without_nan(content), indent=2, allow_nan=False)
    with written_whole(path) as file:
        file.write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """The value as JSON can hold it: null for NaN and infinity, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def content_hash(*paths: Path) -> str:
    """SHA-256 of the bytes of some files, in order; their names do not matter."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
