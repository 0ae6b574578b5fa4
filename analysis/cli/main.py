"""The `circuits` command: what it prints where, and how it ends.

Stdout gets the answer and nothing else; notes, progress bars and what libraries print go to stderr.
Nothing heavy is imported before the command is known, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any

from analysis.cli.answers import Answer
from analysis.cli.options import parser

_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MAKE_A_RUN = ("demo", "model train", "model twin", "model ready", "digits")
"""Commands whose run need not be there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input, 1 for a bug or a run that is not as
    it was made, 130 after Ctrl-C."""
    _open_streams()
    options = parser().parse_args(arguments)
    try:
        os.getcwd()
    except OSError:  # libraries end the process there, with words of their own
        print(
            f"circuits {options.command}: the folder that this was started in is gone. Go to "
            f"another one: cd",
            file=sys.stderr,
        )
        return 2
    try:
        with _only_the_answer_on_stdout(options.quiet):
            work = getattr(import_module("analysis.cli.commands"), function_name(options))
            with _alone(options), _marks() as marks:
                answer: Answer = work(options)
        answer = answer.marked(marks)
        _print(answer, options)
    except KeyboardInterrupt:
        print(f"circuits {options.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the last place where one can be reported
        return _reported(options.command, error)
    return answer.status


def _open_streams() -> None:
    """Put the null device in the place of a stream that was closed (``>&-``): else the next file
    that is opened gets its number, and with it what a library prints there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # free, and the lowest that is
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _print(answer: Answer, options: argparse.Namespace) -> None:
    """The answer, to a reader who may have had enough: `circuits … | head`."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack a character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.json:
            print(answer.as_json())
        elif not options.quiet:
            print(_inert(answer.text))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _alone(options: argparse.Namespace) -> Iterator[None]:
    """While a command writes to a run, no other one does."""
    folder = getattr(options, "run_folder", None) or getattr(options, "run", None)
    name = function_name(options).replace("_", " ")
    there = folder is not None and (name in _MAKE_A_RUN or os.path.isdir(folder))
    if not there or not hasattr(options, "no_wait"):
        yield
        return
    from circuits.storage.lock import locked

    with locked(str(folder), f"circuits {name}", wait=not options.no_wait):
        yield


@contextmanager
def _marks() -> Iterator[list[str]]:
    """What is said, while a command works, of files that are not as they were made; each once."""
    said: list[str] = []
    if "circuits.errors" not in sys.modules:  # of a command that reads nothing
        yield said
        return
    from circuits.errors import MarkWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", MarkWarning)
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, MarkWarning):
                shown(message, category, *where)
            elif str(message) not in said:
                said.append(str(message))

        warnings.showwarning = show  # type: ignore[assignment]
        yield said


def function_name(options: argparse.Namespace) -> str:
    """The name in `analysis.cli.commands` of what was asked for: ``demo``, ``sae_train``."""
    verb = getattr(options, "verb", None)
    return options.command if verb is None else f"{options.command}_{verb}"


@contextmanager
def _only_the_answer_on_stdout(quiet: bool) -> Iterator[None]:
    """While a command works, what is printed goes to stderr; with ``quiet``, nowhere."""
    where = _Nowhere() if quiet else sys.stderr
    with redirect_stdout(where), redirect_stderr(where):
        yield


class _Nowhere(io.TextIOBase):
    """Discards what is written, is not a terminal, and stays open: a library may log to it."""

    def write(self, text: str) -> int:
        """As if it had been written."""
        return len(text)


def _inert(text: str) -> str:
    """Text in which nothing commands the terminal, turns a line or is half a character."""
    return _ACTIVE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """The package that an installation left out, by the name that pip knows; None for others."""
    from importlib.metadata import requires

    module = (error.name or "").split(".")[0].replace("_", "-")
    package = {"sklearn": "scikit-learn", "yaml": "pyyaml"}.get(module, module)
    wanted = (re.split("[^A-Za-z0-9_.-]", line)[0] for line in requires("bilinear-circuits") or [])
    return package if package in wanted else None


def _reported(command: str, error: Exception) -> int:
    """Print what went wrong: one line if the caller can put it right, or where the bug is."""
    from circuits.errors import CircuitsError, is_out_of_memory

    status = 2
    if isinstance(error, CircuitsError):
        message = str(error)
    elif is_out_of_memory(error):
        message = f"not enough memory ({error}). Ask for less, or use a larger machine."
    elif isinstance(error, ModuleNotFoundError) and (missing := _missing_package(error)):
        message = f"this needs the package {missing}, which is not installed: pip install {missing}"
    elif isinstance(error, OSError):  # a place that cannot be read or written, a full disk
        message = f"{error}. Check the path and the disk."
    else:
        traceback.print_exception(error)
        message = (
            "this is a bug of the toolkit, not your mistake. Please report it, with the lines "
            "above and the command that you gave."
        )
        status = 1
    print(f"circuits {command}: {_inert(' '.join(message.splitlines()))}", file=sys.stderr)
    return status
