"""What stands where something is to be written: replaced only if it is ours, and all at once.

A file is ours if it is of the kind that is written there, a folder if it holds what its own list
names. Anything else is refused unless the caller insists with ``force``. What is replaced is there
until the new is in its place, also if the process is killed or the disk is full.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from circuits.errors import CircuitsError, RunError
from circuits.storage.files import content_hash, parsed_json
from circuits.storage.limits import check_readable, check_replaceable
from circuits.storage.records import HALF

PLACING = ".placing"
"""The folder of files that are decided and not all in their places."""

_DECIDED = ".decided"  # in that folder: which files are to be put in place, and which to go
_SCHEMA_FIRST = re.compile(rb'\s*\{\s*"(?:schema|format)":\s*("(?:[^"\\]|\\.)*")')
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = 4096  # bytes in which a file says of what kind it is
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def check_file(
    path: str | Path,
    kind: str,
    is_ours: Callable[[bytes], bool],
    error: type[CircuitsError],
    force: bool = False,
) -> None:
    """Refuse to write over a file whose first bytes are not those of the kind that we write."""
    path = Path(path)
    if path.is_dir():
        raise error(f"{path} is a folder. Name a file, to which {kind} can be written.")
    check_replaceable(path, error)
    if force or not path.exists():
        return
    check_readable(path, error)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head and not is_ours(head):
        raise error(
            f"{path} is there already and is not {kind}, so it would be lost. Name another file, "
            f"or overwrite it: --force, in Python force=True."
        )


def begins_as(schema: str) -> Callable[[bytes], bool]:
    """For `check_file`: whether a JSON object begins with this schema, and not merely names it."""
    wanted = json.dumps(schema).encode()

    def is_ours(head: bytes) -> bool:
        found = _SCHEMA_FIRST.match(head)
        return found is not None and found[1] == wanted

    return is_ours


def check_table(
    path: str | Path, columns: Iterable[Hashable], error: type[CircuitsError], force: bool = False
) -> None:
    """Refuse to write over anything but a Parquet table that begins with these columns."""
    wanted = [str(column) for column in columns]

    def is_ours(_: bytes) -> bool:
        from pyarrow import ArrowException, parquet

        try:
            return parquet.read_schema(path).names[: len(wanted)] == wanted
        except (OSError, ArrowException):
            return False

    check_file(path, f"a table of {', '.join(wanted[:3])} …", is_ours, error, force)


def same_kind(new: Path, old: Path) -> bool:
    """Whether a file, unless it is empty, is of the kind of a new one: a table with the same
    columns, JSON of the same schema or, where it has none, of the same keys, text that begins with
    the same two lines, or a PNG that names the same program; no other binary file is."""
    if old.stat().st_size == 0:
        return True
    if new.suffix != ".parquet":
        return _beginning(new) == _beginning(old)
    from pyarrow import ArrowException, parquet

    try:
        return bool(parquet.read_schema(new).names == parquet.read_schema(old).names)
    except (OSError, ArrowException):
        return False


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if schema := _SCHEMA_FIRST.match(head):
        return schema[1]
    if head.lstrip().startswith(b"{"):
        content = path.read_bytes()
        for text in (content, content.lstrip().partition(b"\n")[0]):  # an object, or one a line
            with suppress(ValueError, RecursionError):
                made = json.loads(text)
                return json.dumps([made.get("schema"), *sorted(made)]).encode()
    if head.startswith(_PNG):  # between its size and its pixels it may name who wrote it
        return head[33:].partition(b"IDAT")[0][:-4]
    return path.read_bytes() if b"\0" in head else b"\n".join(head.splitlines()[:2])


def put_files(new: Path, root: Path, gone: Iterable[str] = ()) -> None:
    """Move every file in and below a folder to the same place below ``root``, and remove those
    called ``gone`` there: all or none, since one rename decides, and `finish` completes what a kill
    interrupts."""
    names = [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(root / name))
        if not os.access((root / name).parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root / name))
    finish(root)
    decided = {name: [_hash(root / name), _hash(new / name)] for name in names}
    decided |= {name: [_hash(root / name), None] for name in gone}
    _check_inside(root, decided)
    (new / _DECIDED).write_text(json.dumps(decided, sort_keys=True), encoding="utf-8")
    os.replace(new, root / PLACING)
    try:
        finish(root)
    except OSError:  # of an old and a new set mixed nothing is right, so once more
        finish(root)


def finish(root: Path) -> None:
    """Complete a `put_files` that was killed after it was decided. Refused, before any file is
    touched, if a file there or in its place is not as it was then: no command of ours left that."""
    placing = root / PLACING
    if not placing.is_dir() or placing.is_symlink():
        return
    decided = _decided(placing)
    here = [path for path in placing.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(placing).as_posix() for path in here} - {_DECIDED}
    _check_inside(root, {*names, *decided})
    for name in {*names, *(name for name, (_, new) in decided.items() if new is None)}:
        old, new = decided.get(name, (None, None))
        as_decided = _hash(placing / name) == new and _hash(root / name) in (None, old)
        if name not in decided or not as_decided or (placing / name).is_symlink():
            raise _not_ours(placing, f"{name} is not as a command would have left it")
    for name, (_, new) in decided.items():
        if new is None:
            (root / name).unlink(missing_ok=True)
    for name in sorted(names):
        os.replace(placing / name, root / name)
    shutil.rmtree(placing)


def _decided(placing: Path) -> dict[str, list[str | None]]:
    """By name, the hashes of a file that is replaced and of the one that replaces it; None: there
    is none. As `put_files` wrote them; none once all is done, and the folder's removal was
    killed."""
    path = placing / _DECIDED
    check_readable(path, RunError)
    try:
        decided = parsed_json(path.read_text(encoding="utf-8")) if path.exists() else {}
        if all(
            len(hashes) == 2 and not HALF.search(name) and "\0" not in name
            for name, hashes in decided.items()
        ):
            return dict(decided)
    except (ValueError, RecursionError, TypeError, AttributeError):
        pass
    raise _not_ours(placing, f"its {_DECIDED} does not list files")


def _not_ours(placing: Path, why: str) -> RunError:
    return RunError(
        f"{placing}: not what a killed command left to put in place here ({why}), so nothing was "
        f"changed. Move or remove that folder."
    )


def _hash(path: Path) -> str | None:
    """Of a file's content; None where there is none."""
    check_readable(path, RunError)
    return content_hash(path) if path.exists() else None


def _check_inside(root: Path, names: Iterable[str]) -> None:
    """Refuse names that lead out of a folder, by ``..`` or by a link in it."""
    inside = root.resolve()
    for name in names:
        parent = (root / name).parent.resolve()
        if Path(name).is_absolute() or not (parent == inside or inside in parent.parents):
            raise RunError(
                f"{root / name}: leads out of {root}, where no file is written or removed. Remove "
                f"{root / PLACING}, or put a folder in place of the link."
            )


def within(root: Path, place: Path) -> Path:
    """A folder below another one, to write into; refused where a link leads out."""
    if root.resolve() not in place.resolve().parents:
        raise RunError(
            f"{place}: leads out of {root}, where no file is written. Put a folder in place of the "
            f"link."
        )
    return place


def keep_aside(path: Path, written: str | None) -> None:
    """Rename a file that is to be written anew, and has another hash than was ``written``: it may
    be the user's work. What is damaged is not kept."""
    if written is None or not _is_readable(path) or content_hash(path) == written:
        return
    aside = next(a for n in count(1) if not (a := Path(f"{path}.changed-{n}")).exists())
    path.rename(aside)
    sys.stderr.write(
        f"{path} was changed since it was written, and is made anew: kept as {aside}\n"
    )


def _is_readable(path: Path) -> bool:
    """Whether a file is there, and is what its name says."""
    from pyarrow import ArrowException, parquet
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        if path.suffix == ".json":
            parsed_json(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            parquet.read_schema(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
    except (OSError, ValueError, RecursionError, ArrowException, SafetensorError):
        return False
    return True


def put_folder(new: Path, old: Path, keep: Iterable[Path]) -> None:
    """Put a folder in the place of another one, of which it takes over what is in ``keep``.

    ``new`` is the old folder afterwards, where the system can exchange two: then there is a whole
    folder in place at every moment. Elsewhere `restore` puts back what a kill left aside.
    """
    if not old.exists():
        os.replace(new, old)
        return
    for path in keep:
        _take_over(old / path, new / path)
    shutil.copymode(old, new)
    if not exchanged(new, old):
        aside = _aside(old)
        os.replace(old, aside)
        try:
            os.replace(new, old)
        except BaseException:
            os.replace(aside, old)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def restore(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Undo a `put_folder` that was killed, or remove what it had still to remove."""
    aside = _aside(folder)
    if not aside.is_dir() or not is_ours(aside):
        return
    if folder.is_dir():
        with suppress(OSError):  # not empty: the new one is in place
            folder.rmdir()
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(aside, folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _take_over(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_dir() and not old.is_symlink():
        new.mkdir(exist_ok=True)
        shutil.copymode(old, new)
    else:
        _same(old, new)


def _same(path: Path, other: Path) -> None:
    """The same file under another name, or a copy where a disk has no hard links."""
    try:
        os.link(path, other, follow_symlinks=False)
    except FileExistsError:  # two names that are one on this disk
        raise
    except (OSError, NotImplementedError):
        shutil.copy2(path, other, follow_symlinks=False)


def exchanged(one: Path, two: Path) -> bool:
    """Exchange two folders in one step; False where the system or the disk cannot."""
    swap = 2  # RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
    paths = os.fsencode(one.absolute()), os.fsencode(two.absolute())
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = system.renamex_np(*paths, ctypes.c_uint(swap))
        else:
            failed = system.renameat2(-100, paths[0], -100, paths[1], ctypes.c_uint(swap))
    except (OSError, AttributeError, TypeError):  # another system, or an old one
        return False
    if failed and (number := ctypes.get_errno()) not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number), str(two))
    return not failed
