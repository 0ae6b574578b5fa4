"""Where a report may be written: nowhere yet, or over a report that is as it was written.

A folder's ``report.json`` lists its files with their hashes, and the head of a single file has the
hash of the rest, so that what is somebody else's, or was edited, is not lost.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from circuits.errors import RunError
from circuits.storage.files import content_hash, read_json
from circuits.storage.limits import check_replaceable
from circuits.storage.replacing import restore

MARK = "report.json"
SCHEMA = {"schema": "bilinear-circuits/report", "version": 2}
_PLACE = re.compile(r"(assets/|data/)?[^./\\:][^/\\:]*")  # of a file in a report
_SIGNED = re.compile(rb"<!DOCTYPE html>\n<!-- bilinear-circuits/report sha256:([0-9a-f]{64}) -->\n")
_FORCE = "Name another place, or overwrite it: --force, in Python force=True."


def check_target(out: Path, single_file: bool, force: bool = False) -> None:
    """Refuse a place that holds something other than a report, or that is not writable, before
    anything is computed."""
    if not out.resolve().name:
        raise RunError(f"{out} is the root of a disk, where no report can be put. Name a folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise RunError(
            f"{out.parent} is not writable, so no report can be saved there. Name another place "
            f"with out (--out), or change the permissions."
        )
    if single_file:
        if out.is_dir():
            raise RunError(f"{out} is a folder. Name the file to write: {out / 'report.html'}")
        check_replaceable(out, RunError)
        if not force and out.exists() and out.stat().st_size and not _is_as_signed(out):
            raise RunError(
                f"{out} is not a report as it was written, so its contents would be lost. {_FORCE}"
            )
        return
    restore(out.resolve(), lambda folder: _listed(folder) is not None)
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out} is a file, but a report is a folder. Name a new folder.")
    if not force and any(out.iterdir()):
        _check_folder(out)


def _check_folder(out: Path) -> None:
    listed = _listed(out)
    if listed is None:
        raise RunError(
            f"{out} is not empty and not a report (it has no {MARK} that lists one), so its "
            f"contents would be lost. {_FORCE}"
        )
    edited = [
        name
        for name, known in sorted(listed.items())
        if (out / name).exists() and not _has_hash(out / name, known)
    ]
    if edited:
        raise RunError(
            f"{out / edited[0]} was changed after the report was written, and the change would be "
            f"lost. {_FORCE}"
        )


def others(folder: Path) -> list[Path]:
    """What is in a folder beside the files of the report there, by its path in it."""
    ours = {*(_listed(folder) or {}), MARK}
    ours |= {Path(name).parent.as_posix() for name in ours}
    found = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    return [path for path in found if path.as_posix() not in ours]


def signed(page: str) -> str:
    """A page whose head has the hash of what follows it."""
    head, rest = page.lstrip().split("\n", 1)
    assert head == "<!DOCTYPE html>"
    digest = hashlib.sha256(rest.encode("utf-8")).hexdigest()
    return f"{head}\n<!-- bilinear-circuits/report sha256:{digest} -->\n{rest}"


def _is_as_signed(file: Path) -> bool:
    content = file.read_bytes()
    head = _SIGNED.match(content)
    if head is None:
        return False
    return hashlib.sha256(content[head.end() :]).hexdigest().encode() == head[1]


def _has_hash(path: Path, known: str) -> bool:
    return path.is_file() and content_hash(path) == known


def _listed(folder: Path) -> dict[str, str] | None:
    """The hash of each file of the report in a folder; None where no report is."""
    try:
        content = read_json(folder / MARK, RunError)
    except (RunError, OSError):
        return None
    files = content.get("files")
    if {name: content.get(name) for name in SCHEMA} != SCHEMA or not isinstance(files, dict):
        return None
    whole = all(_PLACE.fullmatch(name) and isinstance(files[name], str) for name in files)
    return files if whole else None
