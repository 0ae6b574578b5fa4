"""A command in a process of its own that is killed at its n-th change of a file.

Python reports each change before it is made. Where the change before was a file opened to be
written, half of the file is cut off, as a kill during the writing would leave it.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.cli.commands import studies
from tests.support.commands import command
from tests.support.small_images import QUICK

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")
_LONGEST = 120  # seconds of a command


def run_command(arguments: Sequence[str]) -> tuple[int, str]:
    """A command as these tests run it; its exit status, and what it printed to stderr."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(studies, "plan_for", lambda _images: replace(QUICK, n_step=60))
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
            return bool(writes) and not isinstance(path, int) and self._is_below(path)
        if event not in _CHANGES:
            return False
        # a number is an open file; a bare name is one in an open folder, which is removed
        return isinstance(given[0], int) or not os.path.isabs(given[0]) or self._is_below(given[0])

    def _is_below(self, path: str | Path) -> bool:
        return os.path.abspath(path).startswith(self.root)


def started(
    arguments: Sequence[str], delay: float = 0.0, killer: Callable[[str, tuple], None] | None = None
) -> int:
    """A process, by its number, that is forked from this one and does a command after a delay. It
    has what was imported here, so it costs little; nothing else is done in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads here wait, and hold no lock
        process = os.fork()
    if process:
        return process
    status, said = 99, ""
    try:
        signal.alarm(_LONGEST)
        if killer is not None:
            sys.addaudithook(killer)
        time.sleep(delay)
        status, said = run_command(arguments)
    except BaseException as error:  # noqa: BLE001 - no test may go on here
        said = repr(error)
    finally:
        os.write(2, said.encode())
        os._exit(status)


def exit_status(process: int) -> int:
    """Of a started command; minus the signal, if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at(root: Path, nth: int, arguments: Sequence[str]) -> bool:
    """Whether a command was killed at its n-th change of a file below a folder, or ended well."""
    status = exit_status(started(arguments, killer=_Killer(root, nth)))
    assert status in (0, -signal.SIGKILL), (nth, arguments)
    return status != 0
