"""Every file of a run beside what its step noted of it, and the command that makes it again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from analysis.runs.alone import manifest_of
from analysis.runs.belonging import other_controls
from analysis.runs.folder import RunFolder, in_training
from analysis.runs.missing import model_command, step_command
from analysis.runs.traces import trace_options
from analysis.runs.training import sae_options
from circuits.errors import RunError
from circuits.storage.lock import locked
from circuits.storage.manifest import NAME, State, read_manifest, states
from circuits.storage.replacing import PLACING
from circuits.storage.training_run import NOTES, edited_notes

_MAKES = {
    "interactions of layer ": "interactions {run} --layer {of}",
    "rank of layer ": "rank {run} --layer {of}",
    "images": "digits --run {run}",
    "circuit ": "find {run} --behaviour {of}",
    "proposals of layer ": "find {run} --layer {of}",
    "validation of ": "validate {run} --circuit {of}",
    "layered circuit ": "find {run} --behaviour {of} --across",
    "layered validation of ": "validate {run} --circuit {of} --across",
}
"""The command of a step, by what its name begins with; the rest is what it is of."""

_KEPT = ("statistics", "events", "wandb")  # folders of a report and of loggers

_LOOKS, _PAUSE = 100, 0.02  # seconds between two looks at a run that is being written


def verify(run: str | Path) -> pd.DataFrame:
    """A row for each file that a step made, or that lies among results and none made: its state
    and, where that is not as it was made, the command that makes it again."""
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise RunError(f"{folder}: there is no such run. Make one: circuits model train {folder}")
    for _ in range(_LOOKS):  # another command may put files in place just now
        before = manifest_of(folder.path)  # completes what a kill left
        table = _table(folder)
        if not (folder.path / PLACING).is_dir() and manifest_of(folder.path) == before:
            break
        time.sleep(_PAUSE)
    else:
        with locked(folder.path, "a look at the run", wait=False):
            pass  # which says why it is not complete
    return table


def not_made_here(run: str | Path, listed: Iterable[str]) -> list[str]:
    """The files in a run that are not listed and that no command keeps for itself: the user's own,
    exports among them."""
    folder, known = RunFolder(Path(run)), {*listed, NAME}
    kept = [folder.report, folder.report_file, folder.steps, folder.steps_before,
            *map(folder.path.joinpath, _KEPT)]  # fmt: skip
    return sorted(
        name
        for path in folder.path.rglob("*")
        if path.is_file()
        and (name := path.relative_to(folder.path).as_posix()) not in known
        and not any(part.startswith(".") for part in Path(name).parts)
        and not any(place == path or place in path.parents for place in kept)
        and path.name not in NOTES
        and not (in_training(path.parent) and path.name.startswith("checkpoint"))
    )


def _table(folder: RunFolder) -> pd.DataFrame:
    if not read_manifest(folder.path):
        raise RunError(
            f"{folder} has no manifest.json, which notes what made each file, so nothing can be "
            f"verified. Copy it from where the run was made, or make the run again in a new folder."
        )
    known = states(folder.path)
    made_of = {entry["step"]: entry["made_of"] for entry in read_manifest(folder.path)}
    for file in folder.results():
        known.setdefault(file.relative_to(folder.path).as_posix(), ("", State.UNKNOWN))
    rows = []
    for name, (step, state) in sorted(known.items()):
        said = "" if state is not State.SAME else other_controls(folder, made_of.get(step, {}))
        again = "" if state is State.SAME and not said else _command(folder, step, made_of)
        rows.append((name, step, said or str(state), again))
    trained = (folder.dictionaries.glob("*"), folder.transcoders.glob("*"))
    for place in (folder.model, *sorted(chain(*trained))):
        for path in edited_notes(place):
            rows.append((path.relative_to(folder.path).as_posix(), "", str(State.EDITED), ""))
    return pd.DataFrame(rows, columns=["file", "step", "state", "command"])


def _command(folder: RunFolder, step: str, made_of: Mapping[str, Any]) -> str:
    if again := step_command(folder, step, ""):
        return f"circuits {again} {folder}"
    kind, _, of = step.replace("/", " ", 1).partition(" ")
    if kind == "model":
        command, more = model_command(folder)
        return f"circuits {command} {folder}{more}"
    if kind in (folder.dictionaries.name, folder.transcoders.name):
        plan = made_of[step].get("plan")
        options = sae_options(plan, transcoders=kind == folder.transcoders.name)
        return " ".join([f"circuits sae train {folder}", *options])
    if kind == "trace":
        return f"circuits trace {folder} {trace_options(made_of[step], of)}"
    for begins, command in _MAKES.items():
        if step.startswith(begins):
            return f"circuits {command}".format(run=folder, of=quote(step.removeprefix(begins)))
    return ""
