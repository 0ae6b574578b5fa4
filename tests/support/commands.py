"""The `circuits` command: in this process where only its answer counts, or in one of its own."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from analysis.cli.main import main
from tests.support import ROOT


class Done(NamedTuple):
    """What a command ended with: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: str) -> Done:
    """In this process; as a shell would see it."""
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
    return Done(status, stdout.getvalue(), stderr.getvalue())


def command_process(*arguments: str) -> Done:
    """In a process of its own, where what Python itself does at the start and end counts."""
    program = "import sys; from analysis.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    return Done(done.returncode, done.stdout, done.stderr)
