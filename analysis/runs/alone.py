"""One writer at a time in a run: functions that write hold its lock, as the commands do.

What a `Run` has read before is read again where another writer has changed it since, so two
notebooks get what they would get one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from circuits.errors import RunError
from circuits.storage.lock import locked
from circuits.storage.manifest import NAME
from circuits.storage.replacing import PLACING

Work = TypeVar("Work", bound=Callable[..., Any])
_RESULTS = (
    "found",
    "layered_found",
    "curves",
    "tables",
    "traces",
)  # what a `Run` keeps of what its steps made


def alone(work: Work) -> Work:
    """A function that writes to the run which is its first argument, while no other one does."""

    @wraps(work)
    def locking(run: Any, *given: Any, **named: Any) -> Any:
        folder = run if isinstance(run, str | Path) else run.folder.path
        with locked(folder, work.__name__.strip("_").replace("_", " ")):
            if folder is not run:
                _forget_what_changed(run)
            return work(run, *given, **named)

    return locking  # type: ignore[return-value]


def manifest_of(run: Path) -> bytes:
    """What the manifest holds now; first, what a killed command had decided is put in place."""
    if (run / PLACING).is_dir():
        with suppress(RunError, OSError), locked(run, "a look at the run", wait=False):
            pass  # taking the lock completes it
    return (run / NAME).read_bytes() if (run / NAME).is_file() else b""


def _forget_what_changed(run: Any) -> None:
    """Of a `Run`, what it has read and another writer has made anew since."""
    then, now = run.manifest_read, manifest_of(run.folder.path)
    if then == now:
        return
    run.manifest_read = now
    gone = {"hashes", *_RESULTS}
    if _trained(then, "model") != _trained(now, "model"):
        gone |= {"model", "dictionaries", "transcoders"}
    for step, name in (("saes", "dictionaries"), ("transcoders", "transcoders")):
        if _trained(then, step) != _trained(now, step):
            gone.add(name)
    for name in gone:
        vars(run).pop(name, None)


def _trained(manifest: bytes, name: str) -> list[Any]:
    """The entries of what was trained."""
    with suppress(Exception):  # whoever reads the manifest refuses it
        return [e for e in json.loads(manifest) if e["step"].partition("/")[0] == name]
    return []
