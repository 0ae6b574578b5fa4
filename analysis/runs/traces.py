"""A run's attribution graphs of single texts: made, saved with their pages, and noted in the
manifest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.attribution.network import attribution_graph
from analysis.attribution.traced import AttributionGraph
from analysis.runs.alone import alone
from analysis.runs.folder import folded
from analysis.runs.run import Run
from circuits.errors import RunError
from circuits.storage.manifest import step_written

PAGE = ".html"  # what the name of a trace's page ends in


@alone
def run_trace(
    run: Run,
    text: str,
    targets: Sequence[str] | None = None,
    *,
    against: Sequence[str] = (),
    name: str | None = None,
    **budget: int,
) -> tuple[AttributionGraph, Path]:
    """`attribution_graph` of a text, and its file in the run, beside its page: of the same name, a
    new one. The page also says which files of the model and its dictionaries were edited."""
    asked = () if name is not None else (*(targets or ()), "", *against)
    file = run.folder.trace(text if name is None else name, *asked)
    _check_alone(file)
    found = attribution_graph(run.model, run.dictionaries, text, targets, against=against, **budget)
    noted = replace(found, notes=(*found.notes, *_marks(run)))
    made_of: dict[str, Any] = {"text": text, **found.about}
    with step_written(run.folder.path, f"trace {file.stem}", made_of) as making:
        found.save(making.place(file))
        noted.write_report(making.place(file.with_suffix(PAGE)))
    return found, file


def trace_options(made_of: Mapping[str, Any], name: str) -> str:
    """The rest of the command that makes a trace again, from what the manifest says of it."""
    words = [str(made_of.get("text", "TEXT"))]
    for option in ("targets", "against"):
        if isinstance(given := made_of.get(option), list) and given:
            words += [f"--{option}", *map(str, given)]
    for option in ("nodes", "gates", "followed"):
        words += [f"--{option}", str(made_of.get(f"n_{option}"))]
    return shlex.join([*words, "--name", name])


def _marks(run: Run) -> list[str]:
    """What is said of files that a trace is made of and that are not as their steps made them."""
    made_of = {run.folder.dictionaries, run.folder.model_place}
    return [
        f"{name}: {mark}"
        for name, mark in sorted(run.marks.items())
        if not made_of.isdisjoint((run.folder.path / name).parents)
    ]


def _check_alone(file: Path) -> None:
    """Refuse a name that would be another's file on some disks."""
    for other in file.parent.glob("*.json"):
        if other.stem != file.stem and folded(other.stem) == folded(file.stem):
            raise RunError(
                f"{other} is there, and {file.stem!r} would have the same file on a disk that does "
                f"not distinguish case. Give another name."
            )
