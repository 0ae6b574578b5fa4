"""Which steps of several were done with which inputs, so that a command that is run again does only
what is missing or changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.report import write_report
from analysis.runs.folder import RunFolder
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run
from circuits.corpus.documents import Corpus
from circuits.errors import RunError
from circuits.storage.files import content_hash, read_json, write_json

Say = Callable[[str], None]
_HASH = re.compile("[0-9a-f]{64}")
_WEIGHED = 500  # documents that pairs are weighed on


def _memory(path: Path) -> dict[str, Any]:
    """What a memory of steps holds; a file of anything else is somebody's own, and refused."""
    known = read_json(path, RunError)
    for name, state in known.items():
        hashes = list(state.values()) if isinstance(state, dict) else []
        if set(state if hashes else ()) != {"inputs", "files"} or not all(map(_is_hash, hashes)):
            raise RunError(
                f"{path} is not what `circuits demo` and `circuits run` keep there of their steps "
                f"({name!r:.40} is no step), so it would be lost. Move or rename it, or name "
                f"another folder."
            )
    return known


def _take_over(before: Path, now: Path) -> None:
    """Give a memory of an earlier version the name that it has now; a file of anything else under
    that name is none, and stays."""
    if before.is_file() and not now.exists():
        with suppress(RunError):
            _memory(before)
            before.replace(now)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


class StepMemory:
    """Which steps were done with which inputs, and the hashes of what they made."""

    def __init__(self, folder: RunFolder, seed: int, say: Say) -> None:
        self.path, self.seed, self.say = folder.steps, seed, say
        self.inputs: dict[str, Any] = {"seed": seed}  # of every step: the seed, and hashes
        _take_over(folder.steps_before, self.path)
        self.known = _memory(self.path) if self.path.exists() else {}

    def step(self, name: str, files: list[Path], about: str, work: Callable[[], object]) -> None:
        """Do a step, unless it was done with these inputs and its files are as they were."""
        if not self.holds(name, files):
            self.say(about)
            work()
            self.keep(name, files)

    def holds(self, step: str, files: list[Path]) -> bool:
        """Whether a step's inputs and files are as they were when it was done."""
        there = any(file.exists() for file in files)
        return there and self.known.get(step) == self._state(files)

    def keep(self, step: str, files: list[Path]) -> None:
        """Note that a step is done."""
        self.known[step] = self._state(files)
        write_json(self.path, self.known)

    def _state(self, files: list[Path]) -> dict[str, str]:
        inputs = json.dumps(self.inputs, sort_keys=True) + version("bilinear-circuits")
        there = sorted(file for file in files if file.exists())
        return {"inputs": sha256(inputs.encode()).hexdigest(), "files": content_hash(*there)}


def listed(memory: StepMemory, run: Run, text: Corpus | None) -> None:
    """The strongest pairs of every layer, weighed on a text."""
    memory.step(
        "interactions",
        [run.folder.interactions(layer) for layer in range(run.model.n_layer)],
        "interactions: the strongest pairs of every output feature",
        lambda: run_interactions(run, corpus=text, n_documents=_WEIGHED),
    )


def ranked(memory: StepMemory, run: Run, text: Corpus | None, **how: Any) -> None:
    """The ranks of every layer; ``how`` is handed to `run_rank`."""
    layers, folder = range(run.model.n_layer), run.folder
    memory.step(
        "rank",
        [file for layer in layers for file in (folder.rank(layer), folder.rank_summary(layer))],
        "rank: how well two eigenvectors stand in for a feature",
        lambda: run_rank(run, corpus=text, seed=memory.seed, **how),
    )


def reported(memory: StepMemory, run: Run, text: Corpus | None, device: str | None) -> None:
    """The report of all that is there."""
    memory.step(
        "report",
        [run.folder.report_page, *run.folder.results()],
        "report: pages that open from disk",
        lambda: write_report(run.folder.path, text=text, device=device, seed=memory.seed),
    )
