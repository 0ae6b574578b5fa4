"""The `circuits` command in a process of its own."""

import subprocess
import sys

from tests.support import ROOT


def command(*arguments: str) -> subprocess.CompletedProcess:
    program = "import sys; from analysis.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT
    )
