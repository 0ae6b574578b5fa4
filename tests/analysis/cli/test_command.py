"""The `circuits` command itself: what reaches which stream, when a bar shows, and how it ends."""

import contextlib
import errno
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from importlib.metadata import version

import pytest

from analysis.cli import commands
from analysis.cli.answers import Answer
from analysis.cli.main import main
from analysis.cli.options import parser, with_all_below
from circuits.errors import PlanError
from circuits.storage.progress import Bar, counted, progress
from tests.support import ROOT
from tests.support.small_models import small_folder

STAND_IN = Answer("the text", {"the": "rows"})


@pytest.fixture
def gates(monkeypatch):
    """Put a function in the place of `circuits gates`."""

    def put(function):
        monkeypatch.setattr(commands, "gates", function, raising=False)

    return put


def noisy(options) -> Answer:
    sys.stdout.write("a library's remark\n")
    sys.stderr.write("note: something\n")
    return STAND_IN


def failing(error: BaseException):
    def fails(options) -> Answer:
        raise error

    return fails


# what reaches which stream


def test_only_the_answer_reaches_stdout(gates, capsys):
    gates(noisy)
    assert main(["gates"]) == 0
    assert capsys.readouterr() == ("the text\n", "a library's remark\nnote: something\n")
    assert main(["gates", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"the": "rows"}
    assert said.err == "a library's remark\nnote: something\n"


@pytest.mark.parametrize("words", [["--quiet", "gates"], ["gates", "--quiet"]], ids=" ".join)
def test_quiet_says_nothing_before_the_name_or_behind_it(gates, capsys, words):
    gates(noisy)
    assert main(words) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ({"the": "rows"}, "")


def test_quiet_still_tells_what_went_wrong(gates, capsys):
    gates(failing(PlanError("two\nlines of it")))
    assert main(["gates", "--quiet"]) == 2
    assert capsys.readouterr() == ("", "circuits gates: two lines of it\n")


def test_every_command_and_verb_can_be_quiet_and_says_so():
    for each in with_all_below(parser()):
        assert "--quiet" in each.format_help()
    for words in ("model --quiet info x", "--quiet model info x", "model info x --quiet"):
        assert parser().parse_args(words.split()).quiet
    assert not parser().parse_args(["model", "info", "x"]).quiet


# how it ends


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PlanError("no plan."), 2, "circuits gates: no plan.\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "circuits gates: [Errno 28] No space left on device. Check the path and the disk.\n",
        ),
        (
            MemoryError("8 EiB"),
            2,
            "circuits gates: not enough memory (8 EiB). Ask for less, or use a larger machine.\n",
        ),
        (KeyboardInterrupt(), 130, "circuits gates: interrupted\n"),
    ],
    ids=["mistake", "disk", "memory", "interrupt"],
)
def test_each_end_has_its_status_and_its_line(gates, capsys, error, status, said):
    gates(failing(error))
    assert main(["gates", "--json"]) == status
    assert capsys.readouterr() == ("", said)


def test_a_bug_is_called_one_and_shows_where_it_is(gates, capsys):
    gates(failing(ZeroDivisionError("a mistake of ours")))
    assert main(["gates", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError: a mistake of ours\n" in said.err
    assert said.err.splitlines()[-1].startswith("circuits gates: this is a bug of the toolkit")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gates", "--seeds", "3"], "unrecognized arguments: --seeds 3"),
        (["sae", "train"], "the following arguments are required: RUN"),
        (["sae", "trian", "run"], "invalid choice: 'trian'"),
        (["gates", "--seed", "nan"], "'nan' is not a whole number from 0"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_words_that_are_no_command_are_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("circuits")
    assert said in answer.err
    assert "--help" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("find x --behavior negation", "circuits find: unrecognized arguments: --behavior "
         "negation. Did you mean --behaviour? All options: circuits find --help\n"),
        ("sae train x --feature-count=3", "circuits sae train: unrecognized arguments: "
         "--feature-count=3. All options: circuits sae train --help\n"),
        ("--jsn gates", "circuits: unrecognized arguments: --jsn. All options: circuits --help\n"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_with_one_of_its_command(capsys, words, said):
    with pytest.raises(SystemExit):
        main(words.split())
    assert capsys.readouterr().err == said


def test_a_function_answers_and_main_prints():
    """Every command that the parser knows has a function, and there is no function without one."""
    asked = set()
    for each in with_all_below(parser()):
        _, *names = each.prog.split()
        if each.epilog and names and "VERB" not in each.format_usage():
            asked.add("_".join(names))
    assert asked == set(commands.__all__)
    assert all(callable(getattr(commands, name)) for name in asked)


# bars

WORK = """
import time
from analysis.cli import commands, main
from analysis.cli.answers import Answer
from circuits.storage.progress import progress
import circuits.storage.progress

circuits.storage.progress.SHORT = 0.1

def work(options):
    for _ in range(3):
        for _ in progress(range(3), "sawing", "log"):
            time.sleep(0.03)
    return Answer("done", {})

commands.gates = work
raise SystemExit(main(ARGUMENTS))
"""


def run_on_a_terminal(*arguments: str) -> tuple[str, str]:
    """Stdout, and what a person sees on a terminal that is stderr."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    working = subprocess.Popen(
        [sys.executable, "-c", WORK.replace("ARGUMENTS", repr(["gates", *arguments]))],
        stdout=subprocess.PIPE, stderr=there, text=True, cwd=ROOT,
    )  # fmt: skip
    os.close(there)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(here, 1 << 16):
            seen += part
    os.close(here)
    out, _ = working.communicate()
    assert working.returncode == 0
    return out, seen.decode()


def test_long_work_of_short_parts_shows_a_bar_on_a_terminal():
    out, seen = run_on_a_terminal()
    assert out == "done\n"
    assert "sawing:" in seen
    assert "log/s" in seen


def test_long_work_shows_no_bar_where_nobody_watches():
    done = subprocess.run(
        [sys.executable, "-c", WORK.replace("ARGUMENTS", "['gates']")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_quiet_shows_no_bar_on_a_terminal_either():
    assert run_on_a_terminal("--quiet", "--json") == ("{}\n", "")


def test_a_bar_waits_for_the_rest_of_two_seconds(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now = [100.0]
    monkeypatch.setattr(sys, "stderr", Terminal())
    for what in ("work_began", "last_seen"):  # no work has been seen yet, and none is afterwards
        monkeypatch.setattr(Bar, what, float("-inf"))
    monkeypatch.setattr("circuits.storage.progress.time.monotonic", lambda: now[0])
    first = counted(9, "first", "step")
    now[0] += 1.5
    first.close()
    second = progress([1], "second")
    assert (first.delay, second.delay) == (2.0, 0.5)
    now[0] += 5
    assert progress([1], "third").delay == 0  # the work has long taken two seconds
    now[0] += 60
    assert progress([1], "of other work").delay == 2.0


def test_ctrl_c_while_everything_is_imported_is_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["analysis.cli.main"], "import_module", interrupted)
    assert main(["gates"]) == 130
    assert capsys.readouterr().err == "circuits gates: interrupted\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_one_that_nobody_reads(closed):
    """Not a traceback, and no file gets its number: a library's output would be in that file."""
    program = (
        "import sys; from analysis.cli.main import main; status = main(['completion', 'bash']); "
        "sys.exit(status or 10 * (open(sys.executable).fileno() < 3))"
    )
    line = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, program], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_work_that_ends_early_is_no_success(gates, capsys):
    """A progress bar may go to a pipe that is closed: `circuits … 2>&1 >file | head`."""
    gates(failing(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))))
    assert main(["gates"]) == 2
    assert capsys.readouterr().err.startswith("circuits gates: [Errno 32] Broken pipe")


def test_as_a_module_it_runs_no_file_of_the_folder_that_it_is_started_in(tmp_path):
    small_folder(tmp_path)
    for name in ("safetensors", "argparse", "numpy"):
        (tmp_path / f"{name}.py").write_text("print('mine')\nraise SystemExit(77)\n")
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "model", "info", ".", "--json"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["layers"] > 0


def test_the_command_runs_as_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "--version"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == version("bilinear-circuits")
