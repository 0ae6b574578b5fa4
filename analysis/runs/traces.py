"""A run's attribution graphs of single texts: made, saved with their pages, and noted in the
manifest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from analysis.attribution.network import attribution_graph
from analysis.attribution.traced import AttributionGraph
from analysis.runs.alone import alone
from analysis.runs.run import Run
from circuits.storage.manifest import step_written

PAGE = ".html"  # what the name of a trace's page ends in
_LONGEST = 40  # characters of a text in the name of its files


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
    file = run.folder.trace(_name(text, targets, against) if name is None else name)
    found = attribution_graph(run.model, run.dictionaries, text, targets, against=against, **budget)
    noted = replace(found, notes=(*found.notes, *_marks(run)))
    made_of: dict[str, Any] = {"text": text, **found.about}
    with step_written(run.folder.path, f"trace {file.stem}", made_of) as making:
        found.save(making.place(file))
        noted.write_report(making.place(file.with_suffix(PAGE)))
    return found, file


def trace_options(made_of: Mapping[str, Any], name: str) -> str:
    """The rest of the command that makes a trace again, from what the manifest says of it."""
    words = [str(made_of.get("text", "TEXT")), "--targets", *map(str, made_of.get("targets", ()))]
    if against := made_of.get("against"):
        words += ["--against", *map(str, against)]
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


def _name(text: str, targets: Sequence[str] | None, against: Sequence[str]) -> str:
    """The beginning of the text, and a hash of all that it is asked about."""
    digest = sha256("\n".join([text, *(targets or ()), "", *against]).encode()).hexdigest()
    return f"{text[:_LONGEST]} {digest[:8]}"
