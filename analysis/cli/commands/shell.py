"""`circuits completion`: the options, for a shell to complete.

shtab writes the scripts, but cannot know which arguments are paths. That is read from the names
that the help shows for them, so a new option with one of these names completes paths at once.
"""

from __future__ import annotations

from argparse import Namespace

import shtab

from analysis.cli.answers import Answer
from analysis.cli.options import parser, with_all_below

_PATHS = {
    **dict.fromkeys(("RUN", "FOLDER", "MODEL"), shtab.DIRECTORY),
    **dict.fromkeys(("PATH", "FILE", "CIRCUIT"), shtab.FILE),
}


def completion(options: Namespace) -> Answer:
    """A script that completes the command in a shell."""
    whole = parser()
    for each in with_all_below(whole):
        for action in each._actions:
            if action.metavar in _PATHS:
                action.complete = _PATHS[action.metavar]  # type: ignore[attr-defined]  # shtab's own
    script = shtab.complete(whole, options.shell)
    return Answer(script, {"shell": options.shell, "script": script})
