"""All steps in one go: model, dictionaries, interactions, circuits, validations, ranks, report.

Each does what its own command does, and is skipped where its inputs, settings and files have the
same hashes as when it was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.report import write_report
from analysis.runs.alone import alone
from analysis.runs.circuits import behaviour_of, run_find, run_validate, story_cases
from analysis.runs.folder import RunFolder
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run
from analysis.runs.training import run_model, run_saes
from analysis.validation.record import Validation
from circuits.corpus.documents import built_in, split_corpus
from circuits.errors import NotFoundError, RunError
from circuits.graph.circuit import Circuit
from circuits.model.loading import chosen_device
from circuits.model.plan import ModelPlan
from circuits.storage.files import content_hash, read_json, write_json
from sae.training.plan import TrainingPlan

_BEHAVIOURS = ("pronoun", "but", "negation")
"""The behaviours whose circuits are looked for; each is a control of the others."""

_DOCUMENTS = 500  # that pairs are weighed by

_Say = Callable[[str], None]


@alone
def run_demo(
    run: str | Path, seed: int = 0, device: str | None = None, say: _Say = print
) -> tuple[dict[str, Circuit | str], dict[str, Validation]]:
    """All steps into a run folder, on the built-in stories; of each behaviour the circuit, or why
    there is none, and the validations."""
    folder, stories = RunFolder(Path(run)), built_in(seed)
    chosen_device(device)  # refused before anything is printed
    folder.path.mkdir(parents=True, exist_ok=True)
    memory = StepMemory(folder, seed, say)
    say("model: a bilinear transformer that reads little stories")
    run_model(folder.path, ModelPlan(seed=seed), stories, device)
    known = Run(folder.path, device=device)
    say("dictionaries: sparse autoencoders of its streams")
    run_saes(folder.path, known.model, TrainingPlan(seed=seed), stories, device)
    memory.inputs.update(known.hashes)
    text = split_corpus(stories)[1]
    layers = range(known.model.n_layer)

    memory.step(
        "interactions",
        [folder.interactions(layer) for layer in layers],
        "interactions: the strongest pairs of every output feature",
        lambda: run_interactions(known, corpus=text, n_documents=_DOCUMENTS),
    )
    found = {name: _found(known, name, memory) for name in _BEHAVIOURS}
    validations = {}
    for name, circuit in found.items():
        if isinstance(circuit, Circuit):
            files = folder.circuit(name)
            memory.step(
                f"validate {name}",
                [files.circuit, files.validation],
                f"validate: is the circuit of {name} the cause?",
                partial(run_validate, known, name, text=text, seed=seed),
            )
            validations[name] = Validation.load(files.validation)
    memory.step(
        "rank",
        [file for layer in layers for file in (folder.rank(layer), folder.rank_summary(layer))],
        "rank: how well two eigenvectors stand in for a feature",
        lambda: run_rank(known, corpus=text, seed=seed),
    )
    memory.step(
        "report",
        [folder.report_page, *folder.results()],
        "report: pages that open from disk",
        lambda: write_report(folder.path, text=text, device=device, seed=seed),
    )
    return found, validations


def _found(run: Run, name: str, memory: StepMemory) -> Circuit | str:
    """The circuit of a behaviour, or why there is none."""

    def find() -> None:
        run_find(
            run,
            behaviour_of(name, run.model, seed=memory.seed),
            detection_cases=story_cases(name, run.model, memory.seed),
        )

    file = run.folder.circuit(name).circuit
    try:
        memory.step(f"find {name}", [file], f"find: the circuit of {name}", find)
    except NotFoundError as answer:
        return str(answer)
    return Circuit.load(file)


class StepMemory:
    """Which steps were done with which inputs, and the hashes of what they made."""

    def __init__(self, folder: RunFolder, seed: int, say: _Say) -> None:
        self.path, self.seed, self.say = folder.demo, seed, say
        self.inputs: dict[str, Any] = {"seed": seed}  # of every step: the seed, and hashes
        self.known = read_json(self.path, RunError) if self.path.exists() else {}

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
