"""The whole way in one go: model, dictionaries, interactions, circuits, proofs, ranks, report.

Each step is what its own command does. A step whose inputs, settings and files are as they were is
not done again, so a second run only reads. What a reader would get wrong: what is remembered is
never the answer, but hashes; a file that was changed is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.discovery.find import COVERAGE, N_PAIRS
from analysis.report import write_report
from analysis.runs.circuits import behaviour_of, circuit_file, run_find, run_validate, story_cases
from analysis.runs.interactions import run_interactions
from analysis.runs.rank import run_rank
from analysis.runs.training import run_model, run_saes
from analysis.validation.validate import Validation
from circuits.corpus.documents import built_in
from circuits.errors import NotFoundError, RunError
from circuits.graph.circuit import Circuit
from circuits.model.evaluation import split_corpus
from circuits.model.loading import chosen_device, load_model
from circuits.model.model import Model
from circuits.model.plan import ModelPlan
from circuits.model.site import Site
from circuits.storage.files import content_hash, read_json, write_json
from sae.dictionary import Dictionary
from sae.loading import load_dictionaries
from sae.training.plan import TrainingPlan

BEHAVIOURS = ("pronoun", "but", "negation")
"""Of which a circuit is sought; each is a control of the others."""

_MEMORY = "demo.json"
_STEPS = ("interactions", "circuits", "rank")  # folders that the report is made of
_DOCUMENTS = 500  # that pairs are weighed by

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Demo:
    """What was found: of each behaviour a circuit, or why there is none."""

    run: Path
    circuits: Mapping[str, Circuit | str]
    validations: Mapping[str, Validation]
    page: Path  # the report


def run_demo(run: str | Path, seed: int = 0, device: str | None = None, tell: Tell = print) -> Demo:
    """All steps into a run folder, on the built-in stories."""
    run = Path(run)
    chosen_device(device)  # refused before anything is told
    run.mkdir(parents=True, exist_ok=True)
    memory = _Memory(run, seed, tell)
    model, dictionaries = _trained(run, seed, device, tell)
    inputs: dict[str, Any] = {"model": model.fingerprint, "seed": seed}
    inputs |= {str(site): each.fingerprint for site, each in dictionaries.items()}
    text = split_corpus(built_in(seed))[1]

    def step(name: str, files: list[Path], about: str, work: Callable[[], object]) -> None:
        if not memory.holds(name, inputs, files):
            tell(about)
            work()
            memory.keep(name, inputs, files)

    step(
        "interactions",
        [run / "interactions" / f"layer-{layer}.parquet" for layer in range(model.n_layer)],
        "interactions: the strongest pairs of every output feature",
        lambda: run_interactions(run, model, dictionaries, corpus=text, n_documents=_DOCUMENTS),
    )
    found = {name: _found(run, model, dictionaries, name, memory, inputs) for name in BEHAVIOURS}
    proofs = {}
    for name, circuit in found.items():
        if isinstance(circuit, Circuit):
            file = circuit_file(run, name).with_suffix(".validation.json")
            step(
                f"validate {name}",
                [circuit_file(run, name), file],
                f"validate: is the circuit of {name} the cause?",
                partial(run_validate, run, model, dictionaries, name, text=text, seed=seed),
            )
            proofs[name] = Validation.load(file)
    step(
        "rank",
        [run / "rank" / f"layer-{layer}.{end}" for layer in range(model.n_layer)
         for end in ("parquet", "json")],
        "rank: how well two eigenvectors stand in for a feature",
        lambda: run_rank(run, model, dictionaries, corpus=text, seed=seed),
    )  # fmt: skip
    page = run / "report" / "index.html"
    made = sorted(file for name in _STEPS for file in (run / name).glob("*.*"))
    step(
        "report",
        [page, *made],
        "report: pages that open from disk",
        lambda: write_report(run, text=text, device=device, seed=seed),
    )
    return Demo(run, found, proofs, page)


def _trained(
    run: Path, seed: int, device: str | None, tell: Tell
) -> tuple[Model, dict[Site, Dictionary]]:
    """The model and its dictionaries: training goes on where it stopped, or is there."""
    corpus = built_in(seed)
    tell("model: a bilinear transformer that reads little stories")
    run_model(run, ModelPlan(seed=seed), corpus, device)
    model = load_model(run / "model", device=device)
    tell("dictionaries: sparse autoencoders of its streams")
    run_saes(run, model, TrainingPlan(seed=seed), corpus, device)
    return model, load_dictionaries(run, device=device)


def _found(
    run: Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    name: str,
    memory: _Memory,
    inputs: Mapping[str, Any],
) -> Circuit | str:
    """The circuit of a behaviour, or why there is none."""
    file = circuit_file(run, name)
    if memory.holds(f"find {name}", inputs, [file]):
        return Circuit.load(file)
    memory.tell(f"find: the circuit of {name}")
    behaviour = behaviour_of(name, model, seed=memory.seed)
    detection_cases = story_cases(name, model, memory.seed)
    try:
        circuit = run_find(
            run,
            model,
            dictionaries,
            behaviour,
            detection_cases=detection_cases,
            coverage=COVERAGE,
            n_pairs=N_PAIRS,
        )
    except NotFoundError as answer:
        return str(answer)
    memory.keep(f"find {name}", inputs, [file])
    return circuit


class _Memory:
    """Which steps were done of which inputs, and the hashes of what they made."""

    def __init__(self, run: Path, seed: int, tell: Tell) -> None:
        self.path, self.seed, self.tell = run / _MEMORY, seed, tell
        self.known = read_json(self.path, RunError) if self.path.exists() else {}

    def holds(self, step: str, inputs: Mapping[str, Any], files: Iterable[Path]) -> bool:
        """Whether a step's inputs and files are as they were when it was done."""
        there = [file for file in files if file.exists()]
        return bool(there) and self.known.get(step) == self._state(inputs, there)

    def keep(self, step: str, inputs: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Note that a step is done."""
        self.known[step] = self._state(inputs, [file for file in files if file.exists()])
        write_json(self.path, self.known)

    @staticmethod
    def _state(inputs: Mapping[str, Any], files: list[Path]) -> dict[str, str]:
        told = json.dumps(inputs, sort_keys=True) + version("bilinear-circuits")
        return {"inputs": sha256(told.encode()).hexdigest(), "files": content_hash(*sorted(files))}
