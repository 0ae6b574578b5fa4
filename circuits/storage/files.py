"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from circuits.errors import CircuitsError
from circuits.storage.limits import check_readable

PLAN, RESULT = "plan.json", "training.json"  # of a training run: written first, and at its end
_OWNER = ".owner"
_OLD = 86_400.0  # seconds after which what lies aside was left, where there are no locks


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to: renamed to ``path`` if the block succeeds, else removed.

    >>> with written_whole("numbers.txt") as file:  # doctest: +SKIP
    ...     file.write_text("1 2 3")
    """
    path = Path(path)
    with _staged(path) as file:
        yield file
        _as_any_file(file)
        os.replace(file, path)


@contextmanager
def folder_written_whole(
    path: str | Path, put: Callable[[Path, Path], object] | None = None
) -> Iterator[Path]:
    """A folder to fill: renamed to ``path``, which is new or empty, if the block succeeds; or
    ``put`` there, by a function of `replacing`."""
    path = Path(path)
    with _staged(path) as folder:
        folder.mkdir()
        yield folder
        _as_any_file(folder)
        (put or os.replace)(folder, path)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this block alone, of all threads and processes, has locked the file; also where a
    system has no locks."""
    with path.open("rb") as file:
        yield try_lock(file.fileno()) is not False


def try_lock(file: int) -> bool | None:
    """Whether an open file could be locked, until it is closed; None: there are no locks here."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some network file systems
        return None
    return True


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder of this block's own beside it, where a library may write
    files as well.

    The folder is removed at the end; after a kill, by the next block that writes to the path. Its
    owner holds a lock in it, because process numbers say nothing to another container or machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name[:40]}"  # a name may be as long as names can be
    for left in path.parent.glob(f"{glob.escape(start)}.*.part"):
        if left.is_dir():
            _remove_left(left)
    with ExitStack() as owned:
        while True:
            folder = path.with_name(f"{start}.{uuid4().hex[:16]}.part")
            folder.mkdir()
            try:
                (folder / _OWNER).touch()
                mine = owned.enter_context(held(folder / _OWNER))
            except FileNotFoundError:  # just removed, as if it had been left
                continue
            if mine and (folder / _OWNER).exists():
                break
        try:
            yield folder / path.name
        except SafetensorError as error:  # what it raises when the disk is full
            raise OSError(f"{path}: cannot be written ({error})") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left(folder: Path) -> None:
    """Remove what killed processes left in or below a folder, also beside files that are whole and
    that nobody writes again."""
    for left in list(folder.rglob(".*.part")):
        if left.is_dir():
            _remove_left(left)


def _remove_left(folder: Path) -> None:
    """Remove a folder whose owner was killed."""
    if (folder / _OWNER).exists() and not (folder / _OWNER).is_file():
        return  # a FIFO or a device, which would be waited for
    try:
        with (folder / _OWNER).open("rb") as file:
            old = time.time() - os.fstat(file.fileno()).st_mtime > _OLD
            left = try_lock(file.fileno())
            if left or (left is None and old):
                shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:  # killed before it was marked
        with suppress(OSError):  # marked after all, or gone
            folder.rmdir()


def _as_any_file(written: Path) -> None:
    """Give files the rights that new ones have here: safetensors lets only their owner read."""
    rights = written.with_name(_OWNER).stat().st_mode
    for path in written.rglob("*") if written.is_dir() else [written]:
        if path.is_file():
            path.chmod(rights)


def parsed_json(text: str) -> Any:
    """What JSON text holds; a ValueError where an object has a key twice, for which of the two is
    meant nobody knows."""
    return json.loads(text, object_pairs_hook=_with_each_key_once)


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r:.60} is there twice in one object")
    return made


def read_json(path: Path, error: type[CircuitsError]) -> dict[str, Any]:
    """The JSON object in a file; any fault is raised as the given error."""
    check_readable(path, error)
    try:
        content = parsed_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file.") from None
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror or fault}).") from fault
    except (ValueError, RecursionError) as fault:  # bad JSON or Unicode; nested too deeply
        raise error(f"{path}: not readable JSON ({fault}). Write the file again.") from fault
    if not isinstance(content, dict):
        raise error(f"{path}: holds a JSON {type(content).__name__}, not an object.")
    return content


SEAL = "sha256"
"""In JSON that no manifest lists: the hash of all else in it, by which an edit is noticed."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with its seal."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    text = json.dumps(without_nan(rest), sort_keys=True)
    return {**rest, SEAL: hashlib.sha256(text.encode()).hexdigest()}


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
