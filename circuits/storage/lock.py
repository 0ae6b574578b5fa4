"""One command at a time in a run folder.

The lock is the file ``.lock``, which says who holds it and since when. The system frees it when its
process ends, however it ends, so one that was left by a kill is simply taken. On a file system
without locks, Linux excludes other processes of the same machine by a socket's name, which is freed
likewise. Where a lock does not reach other machines, a holder there still keeps it: it touches the
file every few seconds, and a lock of another machine counts as left once it was not touched for a
minute.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from circuits.errors import RunError
from circuits.storage.files import remove_left, try_lock
from circuits.storage.replacing import finish

NAME = ".lock"
_BEGINS = (b"{", b"[", b"\0", b"")  # JSON, or what a power loss leaves; else it is no lock
_TOUCH = 15.0  # seconds between two touches
_LEFT = 60.0  # after which a lock of another machine that nobody touches was left
_TRIES = 100  # to make a folder that another process makes and removes
_AHEAD = 3600.0  # a clock may be; a lock that was touched later than that was not
_LOOK = 0.2  # seconds between two looks at a lock that is held, after a few quicker ones

_mine = threading.local()  # the folders that this thread has locked


@contextmanager
def locked(folder: str | Path, doing: str, *, wait: bool = True) -> Iterator[None]:
    """The folder is this thread's alone for the length of the block; a second lock of the same
    thread is its first. ``doing`` is shown to others. Waits for another holder, with a line on
    stderr, or without ``wait`` refuses.

    A folder that was made only for its lock is removed at the end, if it is still empty.
    """
    folder = Path(folder)
    key = (os.getpid(), folder.resolve())  # a forked process has the set, not the lock
    held: set[tuple[int, Path]] = vars(_mine).setdefault("folders", set())
    read_only = folder.is_dir() and not os.access(folder, os.W_OK)
    if key in held or read_only:  # where nobody can write, nobody is in the way
        yield
        return
    lock, made = _taken(folder, doing, wait)
    held.add(key)
    done = threading.Event()
    threading.Thread(target=_touch, args=(folder / NAME, done), daemon=True).start()
    try:
        finish(folder)  # what a killed holder had decided
        remove_left(folder)
        yield
    finally:
        done.set()
        held.discard(key)
        lock.close()  # which removes its file and frees it
        for path in made:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _made(folder: Path) -> list[Path]:
    """Make the folder; those that were not there before, innermost first."""
    new = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        new.append(path)
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return new
        if folder.exists() and not folder.is_dir():  # a file; what else was there, its holder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.mkdir(parents=True, exist_ok=True)  # a link to nowhere: it says what is wrong
    return new


def _taken(folder: Path, doing: str, wait: bool) -> tuple[ExitStack, list[Path]]:
    """What frees the lock, once it is ours, and the folders that were made for it."""
    said, pause, made = False, 0.005, list[Path]()
    while True:
        made += _made(folder)
        about = {"doing": doing, "process": os.getpid(), "host": socket.gethostname(),
                 "since": int(time.time())}  # fmt: skip
        lock, holder = _try(folder / NAME, about)
        if lock is not None:
            return lock, made
        words = _in_words(holder)
        if not wait:
            raise RunError(
                f"{folder}: {words} works there, and two at once would mix their files. Wait for "
                f"it, or leave out --no-wait to wait here."
            )
        if not said and pause > _LOOK / 4:
            sys.stderr.write(f"waiting for {words}, which works in {folder}\n")
            said = True
        time.sleep(pause)
        pause = min(2 * pause, _LOOK)


def _try(path: Path, about: dict[str, Any]) -> tuple[ExitStack | None, dict[str, Any]]:
    """The lock, with ``about`` us in its file, or None and who holds it."""
    try:
        plain = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no FIFO
        file = os.open(path, os.O_RDWR | os.O_CREAT | plain, 0o666)
    except FileNotFoundError:  # its holder had made the folder, and has removed it
        return None, {}
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_a_lock(path) from error
        raise
    with ExitStack() as lock:
        lock.callback(os.close, file)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise _not_a_lock(path)
        try:
            free, there = try_lock(file), _read(file)
            if free is None:  # there are no locks here
                free = _try_name(path, lock)
            if free and path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                age = time.time() - os.fstat(file).st_mtime
                if there.get("host") in (None, about["host"]) or not -_AHEAD < age < _LEFT:
                    if os.pread(file, 1, 0) not in _BEGINS:
                        raise _not_a_lock(path)
                    lock.callback(_remove, path, file)  # also if the disk is full now
                    os.ftruncate(file, 0)
                    os.pwrite(file, json.dumps(about).encode(), 0)
                    return lock.pop_all(), {}
        except FileNotFoundError:  # its holder has just ended
            there = {}
    return None, there


def _remove(path: Path, file: int) -> None:
    """Remove the lock's file, unless the folder was moved and another one has its place."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(file), path.stat()):
            path.unlink()


def _not_a_lock(path: Path) -> RunError:
    return RunError(
        f"{path}: a link, FIFO, device or another program's file, where the lock of this folder is "
        f"to be: what it holds or leads to would be lost. Move or remove it."
    )


def _try_name(path: Path, lock: ExitStack) -> bool:
    """Whether no other process of this machine has the name of the file's folder, which is ours
    until the lock is freed; also where a system has no such names."""
    if sys.platform != "linux":
        return True
    folder = path.parent.stat()
    name = lock.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        name.bind(f"\0circuits {folder.st_dev} {folder.st_ino}")  # no file: the system knows it
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _read(file: int) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(file, 10_000, 0))
    except (ValueError, RecursionError):  # not written yet, cut short, or nobody's
        return {}
    return about if isinstance(about, dict) else {}


def _in_words(holder: dict[str, Any]) -> str:
    try:
        minutes = (time.time() - float(holder["since"])) / 60
        return (
            f"{holder['doing']} (process {holder['process']} on {holder['host']}, begun "
            f"{minutes:.0f} minutes ago)"
        )
    except (KeyError, TypeError, ValueError):
        return "another command"


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCH):
        with suppress(OSError):
            os.utime(path)
