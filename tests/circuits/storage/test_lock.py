"""One command at a time in a run, whoever holds the lock and however its holder ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from circuits.errors import RunError
from circuits.storage.lock import NAME, locked
from tests.support import ROOT

HOLD = """
import sys, time
from circuits.storage.lock import locked
with locked(sys.argv[1], "circuits find"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(folder: Path, seconds: float) -> subprocess.Popen:
    """A process that holds the lock from now on."""
    program = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_told_who_works_there(tmp_path):
    process = holder(tmp_path, 60)
    try:
        said = (
            rf"circuits find \(process {process.pid} on {socket.gethostname()}, begun 0 minutes ago"
        )
        with pytest.raises(RunError, match=said), locked(tmp_path, "circuits rank", wait=False):
            pass
    finally:
        process.kill()
        process.communicate()


def test_a_second_command_waits_with_a_line(tmp_path, capsys):
    process = holder(tmp_path, 1)
    with locked(tmp_path, "circuits rank"):
        assert process.wait() == 0
    assert capsys.readouterr().err.startswith("waiting for circuits find (process ")
    process.communicate()


def test_the_lock_of_a_killed_process_is_taken_at_once(tmp_path):
    process = holder(tmp_path, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path, "circuits rank", wait=False):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_holds_until_nobody_touches_it(tmp_path):
    about = {"doing": "circuits find", "process": 1, "host": "elsewhere", "since": time.time()}
    (tmp_path / NAME).write_text(json.dumps(about))
    with pytest.raises(RunError, match="on elsewhere"), locked(tmp_path, "x", wait=False):
        pass
    os.utime(tmp_path / NAME, (0, time.time() - 100))
    with locked(tmp_path, "circuits rank", wait=False):
        pass


def test_a_lock_within_a_lock_of_the_same_thread_is_the_same(tmp_path):
    with locked(tmp_path, "circuits demo"), locked(tmp_path / ".", "circuits find", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_share_the_lock(tmp_path):
    with locked(tmp_path, "circuits demo"):
        process = forked(lambda: count_up(tmp_path, tmp_path / "none", 1, wait=False))
        assert ended(process) == 3


def test_threads_take_turns(tmp_path):
    inside, most = [], []

    def work() -> None:
        for _ in range(5):
            with locked(tmp_path / "run", "x"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_a_folder_that_its_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    real, folder, gone = os.mkdir, tmp_path / "run", []

    def removed_between(path: str, *how: int) -> None:
        """``mkdir`` finds the folder; before anybody looks again, its holder has removed it."""
        if Path(path) == folder and not gone:
            gone.append(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        real(path, *how)

    monkeypatch.setattr(os, "mkdir", removed_between)
    with locked(folder, "x"):
        assert gone
        assert (folder / NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(NotADirectoryError, match="run"), locked(tmp_path / "run", "x"):
        pass


def test_a_folder_that_can_never_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(FileExistsError, match="link"), locked(tmp_path / "link", "x"):
        raise AssertionError
    with pytest.raises(OSError, match="nowhere"), locked("/proc/nowhere", "x"):
        raise AssertionError


def test_a_folder_that_was_made_for_the_lock_alone_does_not_stay(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "run", "x"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "run", "x"):
        (tmp_path / "a" / "run" / "kept").touch()
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["kept"]


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need locks of the file system")
@pytest.mark.usefixtures("without_locks")
class TestWithoutLocks:
    """A file system whose locks do not work."""

    def test_processes_of_one_machine_take_turns(self, tmp_path):
        counted = tmp_path / "counted"
        counted.write_text("0")
        processes = [forked(lambda: count_up(tmp_path, counted, 20)) for _ in range(4)]
        assert [ended(process) for process in processes] == [0] * 4
        assert counted.read_text() == "80"

    def test_a_second_process_is_refused_at_once(self, tmp_path):
        with locked(tmp_path, "circuits demo"):
            process = forked(lambda: count_up(tmp_path, tmp_path / "none", 1, wait=False))
            assert ended(process) == 3
        assert list(tmp_path.iterdir()) == []

    def test_the_lock_of_a_killed_process_is_taken_at_once(self, tmp_path):
        def die() -> None:
            with locked(tmp_path, "circuits find"):
                os.kill(os.getpid(), signal.SIGKILL)

        assert ended(forked(die)) == -signal.SIGKILL
        assert (tmp_path / NAME).exists()
        with locked(tmp_path, "circuits rank", wait=False):
            assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()

    def test_threads_take_turns(self, tmp_path):
        test_threads_take_turns(tmp_path)


def count_up(folder: Path, counted: Path, n: int, wait: bool = True) -> None:
    """Count in a file, which loses some where two do so at once."""
    for _ in range(n):
        with locked(folder, "x", wait=wait):
            number = int(counted.read_text())
            time.sleep(0.001)
            counted.write_text(str(number + 1))


def forked(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which only wait here
        process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        except RunError:
            os._exit(3)
        finally:
            os._exit(4)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"since": "x"}', "\x00" * 50])
def test_a_lock_that_says_nothing_is_taken(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with locked(tmp_path, "x", wait=False):
        pass


def test_what_a_killed_command_left_anywhere_in_the_run_is_removed(tmp_path):
    left = tmp_path / "statistics" / ".outputs.parquet.0123456789abcdef.part"
    left.mkdir(parents=True)
    (left / ".owner").touch()
    (left.parent / ".mine.part").mkdir()
    (left.parent / ".mine.part" / "notes").touch()
    with locked(tmp_path, "circuits report"):
        assert [path.name for path in left.parent.iterdir()] == [".mine.part"]


def test_a_folder_that_nobody_can_write_to_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with locked(tmp_path, "circuits report", wait=False):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_or_a_fifo_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for name, make in (
        ("linked", lambda path: path.symlink_to(tmp_path / "notes.txt")),
        ("fifo", os.mkfifo),
    ):
        (tmp_path / name).mkdir()
        make(tmp_path / name / ".lock")
        with pytest.raises(RunError, match="a link, FIFO, device"), locked(tmp_path / name, "x"):
            pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_of_ones_own_is_not_taken_for_a_lock(tmp_path):
    """Nor is another name of one: an archive can hold such a link to a file beside the run."""
    for name, make in (
        ("own", lambda path: path.write_text("years of work")),
        ("linked", lambda path: path.hardlink_to(tmp_path / "thesis.tex")),
        ("empty", lambda path: path.hardlink_to(tmp_path / "empty.py")),
    ):
        (tmp_path / "thesis.tex").write_text("years of work")
        (tmp_path / "empty.py").write_text("")
        (tmp_path / name).mkdir()
        make(tmp_path / name / NAME)
        was = (tmp_path / name / NAME).read_text()
        with pytest.raises(RunError, match="would be lost"), locked(tmp_path / name, "x"):
            pass
        assert (tmp_path / name / NAME).read_text() == was
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_took_the_place_of_a_run_keeps_its_lock(tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    with locked(run, "x"):
        run.rename(moved)
        run.mkdir()
        (run / NAME).write_text("{}")  # of whoever works there
    assert (run / NAME).exists()


def test_no_lock_stays_where_it_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("circuits.storage.lock.os.pwrite", full)
    with pytest.raises(OSError, match="No space"), locked(tmp_path, "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_sense_is_taken(tmp_path):
    (tmp_path / ".lock").write_text("[" * 9999)
    with locked(tmp_path, "x", wait=False):
        pass
    (tmp_path / ".lock").write_text('{"host": "elsewhere"}')
    os.utime(tmp_path / ".lock", (2e9, 2e9))  # in the future
    with locked(tmp_path, "x", wait=False):
        pass
