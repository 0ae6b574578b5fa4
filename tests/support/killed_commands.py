"""A command in a process of its own that is killed at its n-th change of a file.

Python reports each change before it is made. Where the change before was a file opened to be
written, half of the file is cut off, as a kill during the writing would leave it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from analysis.cli import commands
from analysis.cli.commands import studies
from tests.support.commands import command
from tests.support.small_images import QUICK

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")

assert commands.__all__  # imported by the server that all of these processes are forked from


def quick_digits(_images: object) -> object:
    """The plan of `circuits digits` here."""
    return QUICK


def run_command(arguments: Sequence[str], delay: float = 0.0) -> tuple[int, str]:
    """A command as these tests run it; its exit status, and what it printed to stderr."""
    studies.plan_for = quick_digits
    torch.set_num_threads(1)
    threading.Event().wait(delay)
    done = command(*arguments)
    return done.returncode, done.stderr


class _Killer:
    """Counts the changes of the main thread in a folder, and kills at one."""

    def __init__(self, root: Path, nth: int) -> None:
        self.root, self.nth, self.done = f"{root}{os.sep}", nth, 0
        self.opened: str | None = None  # by the change before, to be written anew

    def __call__(self, event: str, given: tuple) -> None:
        if not self._changes(event, given):
            return
        self.done += 1
        if self.done == self.nth:
            self.done = -sys.maxsize  # what follows is not counted
            if self.opened is not None and os.path.isfile(self.opened):
                os.truncate(self.opened, os.path.getsize(self.opened) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        anew = event == "open" and given[2] & os.O_TRUNC
        self.opened = os.path.abspath(given[0]) if anew else None

    def _changes(self, event: str, given: tuple) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False  # who only touches its lock
        if event == "ctypes.dlsym":
            return given[1] == "renameat2"
        if event == "open":
            path, _, flags = given
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return bool(writes) and isinstance(path, str | Path) and self._inside(path)
        return event in _CHANGES and (not os.path.isabs(given[0]) or self._inside(given[0]))

    def _inside(self, path: str | Path) -> bool:
        return os.path.abspath(path).startswith(self.root)


def _killed(root: Path, nth: int, arguments: Sequence[str]) -> None:
    sys.addaudithook(_Killer(root, nth))
    status, said = run_command(arguments)
    sys.stderr.write(said)
    sys.exit(status)


def killed_at(root: Path, nth: int, arguments: Sequence[str]) -> bool:
    """Whether a command was killed at its n-th change of a file below a folder, or ended well."""
    process = _processes().Process(target=_killed, args=(root, nth, arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), arguments
    return process.exitcode != 0


def _processes() -> multiprocessing.context.ForkServerContext:
    processes = multiprocessing.get_context("forkserver")  # imports once for all of them
    processes.set_forkserver_preload([__name__, "transformers.models.llama", "sklearn.cluster"])
    return processes


def tree(root: Path) -> Mapping[str, bytes]:
    """Every file below a folder, and every folder as b""."""
    return {
        path.relative_to(root).as_posix() + "/" * path.is_dir():
        b"" if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }  # fmt: skip
