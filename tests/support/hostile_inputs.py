"""Inputs made by a stranger, opened one after the other in a process that notes what it did.

The process has a limit of memory, no standard input, and ends where an input keeps it too long;
the next process goes on with the input after that one.
"""

import builtins
import faulthandler
import gc
import json
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import ROOT

SECONDS = 60  # for one input, on a busy machine
_MEMORY = 3 * 2**30  # that one input may ask for, above what the libraries hold
_EVENTS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "os.system",
    "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class",
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """How to make one in a folder that holds a good input or nothing, and how to open it."""

    make: Callable[[Path], object]  # the path to open, or None: the folder
    opens: Callable[[Any], object]
    said: str | None  # a pattern of the message that refuses it; None: it is opened
    good: Callable[[Path], object] | None = None  # fills the folder first


class Opened(NamedTuple):
    """What became of one."""

    refused: str | None  # by the toolkit's own error
    fault: str | None  # any other error, or why the process ended
    did: list[str]  # of what no input may cause
    grown: int  # bytes of memory at most


def code(folder: Path) -> str:
    """Python that leaves a file beside the folder."""
    return f"import pathlib\npathlib.Path({str(_ran(folder))!r}).touch()\n"


class Runs:
    """A pickle of this leaves a file beside a folder as it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.code = code(folder)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (self.code,)


def inputs_of(tables: Sequence[str]) -> dict[tuple[str, str], Hostile]:
    """Those in the tables of some modules, by table and name."""
    return {(t, name): each for t in tables for name, each in import_module(t).INPUTS.items()}


def opened(tables: Sequence[str], folder: Path) -> dict[tuple[str, str], Opened]:
    """Each of the tables in some modules."""
    names = list(inputs_of(tables))
    found: dict[tuple[str, str], Opened] = {}
    while left := names[len(found) :]:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(folder), str(len(found)), *tables],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"refused"')]
        found |= {n: Opened(**json.loads(line)) for n, line in zip(left, lines, strict=False)}
        if len(lines) < len(left):
            ended = f"the process ended ({done.returncode}): {done.stderr[-3000:]}"
            found[left[len(lines)]] = Opened(None, ended, [], 0)
    return found


def _ran(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.ran"


def _open_all(root: Path, first: int, tables: Sequence[str]) -> None:
    """Open those of some tables from one on, and print a line of each."""
    import torch

    inputs = inputs_of(tables)
    tempfile.tempdir = str(root)
    for table in tables:  # all that is loaded late is there, and counts for no input
        import_module(table).warm_up(root / f"{table} {first}")
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what the libraries hold is not looked through again for each input
    did: list[str] = []
    watching = [False]

    def hook(event: str, given: tuple[object, ...]) -> None:
        if watching[0] and event in _EVENTS:
            did.append(f"{event} {given!r:.200}")

    def asked(*_: object) -> None:
        did.append("asked")
        raise EOFError

    sys.addaudithook(hook)
    builtins.input = asked
    sys.stdin = None  # type: ignore[assignment]
    most = _now("VmSize") + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    for number, ((_, name), each) in enumerate(inputs.items()):
        if number >= first:
            folder = root / str(number) / re.sub(r"\W+", "-", name)
            folder.mkdir(parents=True)
            if each.good is not None:
                each.good(folder)
            path = each.make(folder)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            before = _now("VmRSS")
            watching[0] = True
            refused, fault = _outcome(each, path if isinstance(path, Path) else folder)
            watching[0] = False
            grown = _now("VmHWM") - before
            faulthandler.cancel_dump_traceback_later()
            did += ["code was run"] * _ran(folder).exists()
            sys.stdout.write(json.dumps(Opened(refused, fault, did, grown)._asdict()) + "\n")
            sys.stdout.flush()
            did.clear()


def _outcome(each: Hostile, path: Path) -> tuple[str | None, str | None]:
    from circuits.errors import CircuitsError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each.opens(path)
    except CircuitsError as error:
        return f"{error}", None
    except BaseException as error:  # noqa: BLE001 - a panic of a library is one of them
        return None, f"{type(error).__name__}: {error!s:.300}"
    return None, None


def _now(field: str) -> int:
    """A number of bytes of this process."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    _open_all(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
