"""A command in a process of its own that is killed at its n-th change of a file, or whose files
are copied at some of them, as a kill at each would have left them.

Python reports each change before it is made. Where the change before was a file opened to be
written, half of the file is cut off, as a kill during the writing would leave it.
"""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from analysis.cli.commands import studies
from analysis.studies.images import measurements
from analysis.studies.images.data import ImageData, open_images
from analysis.studies.images.dictionaries import DICTIONARY
from circuits.model import loading
from tests.support.commands import Done, command
from tests.support.planted_negation import planted_run, planted_text
from tests.support.small_images import QUICK

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")
_LONGEST = 120  # seconds of a command
_DICTIONARY = replace(DICTIONARY, n_features=40, n_tokens=4000)  # of images
_RESULT = re.compile(r"[\w-]+(?=\.(parquet|js|png|html|css)\b)")


def run_command(arguments: Sequence[str]) -> Done:
    """A command as these tests run it."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        for module, name, small in (
            (studies, "open_images", _few_images),
            (studies, "plan_for", lambda _images: replace(QUICK, n_step=60)),
            (measurements, "dictionary_plan_for", lambda _images: _DICTIONARY),
            (loading, "READY", small_ready()),
        ):
            patched.setattr(module, name, small)
        return command(*arguments)


@cache
def _few_images(_: str | None) -> ImageData:
    digits = open_images()
    return replace(digits, train=digits.train.take(200), test=digits.test.take(12))


@cache
def small_ready() -> Path:
    """A folder with one ready model, which is small; the processes forked from here have it too."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    run = planted_run(place / "stories260K-bilinear")
    (run / "text").mkdir()
    planted_text(run / "text")
    return place


class _Changes:
    """Counts the changes of the main thread in a folder; a subclass does something at each."""

    def __init__(self, root: Path) -> None:
        self.root, self.done, self.busy = f"{root}{os.sep}", 0, False
        self.opened: str | None = None  # by the change before, to be written anew

    def __call__(self, event: str, given: tuple) -> None:
        if self.busy or not self._changes(event, given):
            return
        self.done += 1
        self.busy = True  # what follows is no change of the command
        self.at(event, given)
        self.busy = False
        anew = event == "open" and given[2] & os.O_TRUNC
        self.opened = os.path.abspath(given[0]) if anew else None

    def at(self, event: str, given: tuple) -> None:
        """Before a change."""

    def cut(self, place: str | Path) -> None:
        """Cut off half of what is just written, in the folder or in a copy of it."""
        if self.opened is not None:
            half = os.path.join(place, os.path.relpath(self.opened, self.root))
            if os.path.isfile(half):
                os.truncate(half, os.path.getsize(half) // 2)

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


class _Killer(_Changes):
    """Kills at one change."""

    def __init__(self, root: Path, nth: int) -> None:
        super().__init__(root)
        self.nth = nth

    def at(self, event: str, given: tuple) -> None:
        if self.done == self.nth:
            self.cut(self.root)
            os.kill(os.getpid(), signal.SIGKILL)


class _Lister(_Changes):
    """Writes the kind of each change to a file outside."""

    def __init__(self, root: Path, file: Path) -> None:
        super().__init__(root)
        self.file = file

    def at(self, event: str, given: tuple) -> None:
        name = "" if isinstance(given[0], int) or event.startswith("ctypes") else str(given[0])
        how = f"{given[2]:o}" if event == "open" else ""
        with self.file.open("a") as file:
            file.write(f"{event} {how} {_pattern(name.removeprefix(self.root))}\n")


class _Copier(_Changes):
    """Copies the folder at some changes."""

    def __init__(self, root: Path, numbers: Collection[int], to: Path) -> None:
        super().__init__(root)
        self.numbers, self.to = numbers, to

    def at(self, event: str, given: tuple) -> None:
        if self.done in self.numbers:
            shutil.copytree(self.root, self.to / str(self.done), symlinks=True)
            self.cut(self.to / str(self.done))


def _pattern(name: str) -> str:
    """A file's name without what differs between runs, layers and names of one kind of result."""
    return re.sub("[0-9a-f]{12,}|[0-9]+", "#", _RESULT.sub("*", name))


def changes(root: Path, arguments: Sequence[str], file: Path) -> list[str]:
    """The kind of each change that a command makes below a folder, in order: the operation and the
    pattern of the file's name. They are noted in a file outside."""
    file.touch()
    assert exit_status(started(arguments, killer=_Lister(root, file))) == 0, arguments
    return file.read_text().splitlines()


def chosen(kinds: Sequence[str]) -> list[int]:
    """The numbers, from 1, of the first and last change of each kind."""
    last = {kind: number for number, kind in enumerate(kinds, 1)}
    return sorted({*last.values(), *(kinds.index(kind) + 1 for kind in last)})


def copied_at(root: Path, numbers: Collection[int], to: Path, arguments: Sequence[str]) -> None:
    """Run a command to its end; at each of these changes the folder is copied to ``to``/<number>,
    as a kill would leave it."""
    killer = _Copier(root, numbers, to)
    assert exit_status(started(arguments, killer=killer)) == 0, arguments


def started(
    arguments: Sequence[str],
    delay: float = 0.0,
    killer: Callable[[str, tuple], None] | None = None,
    answer: Path | None = None,
) -> int:
    """A process, by its number, that is forked from this one and does a command after a delay;
    what it prints to stdout is written to ``answer``. It has what was imported here, so it costs
    little; nothing else is done in it."""
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
        done = run_command(arguments)
        status, said = done.returncode, done.stderr
        if answer is not None:
            answer.write_text(done.stdout)
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
