"""All steps in one go: model, dictionaries, interactions, circuits, validations, ranks, report.

Each does what its own command does, and is skipped where its inputs, settings and files have the
same hashes as when it was done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from analysis.cli.steps import Say, StepMemory, listed, ranked, reported
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.runs.alone import alone
from analysis.runs.circuits import (
    behaviour_of,
    run_find,
    run_find_layered,
    run_validate,
    run_validate_layered,
    story_cases,
)
from analysis.runs.folder import CircuitFiles, RunFolder
from analysis.runs.run import Run
from analysis.runs.training import run_model, run_saes
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.record import Validation
from circuits.corpus.documents import Corpus, built_in, split_corpus
from circuits.errors import NotFoundError
from circuits.graph.circuit import Circuit
from circuits.model.loading import chosen_device
from circuits.model.plan import ModelPlan, ModelShape
from sae.training.plan import TrainingPlan

BEHAVIOURS = ("pronoun", "but", "negation")
"""The behaviours whose circuits are looked for; each is a control of the last one."""

TWO_LAYER_BEHAVIOURS = ("negation", "lies")
"""The same of two layers."""

TWO_LAYER_PLAN = ModelPlan(ModelShape(n_layer=2, n_head=2), n_steps=700)
TWO_LAYER_DICTIONARIES = TrainingPlan(
    sites=("mlp_in@0", "mlp_out@0", "mlp_in@1", "mlp_out@1"),
    n_features=256,
    k=8,
    n_tokens=600_000,
)

TWO_LAYER_PAIRS = 200
"""Minimal ones of each of those behaviours: each edit is made frozen and free."""

Proven = Circuit | LayeredCircuit
Proof = Validation | LayeredValidation


@dataclass(frozen=True)
class _Search:
    """How circuits are found and validated: those of one layer, or across layers."""

    word: str  # before a behaviour's name, in what is remembered
    files: Callable[[str], CircuitFiles]
    find: Callable[[str], object]
    load: Callable[[Path], Proven]
    validate: Callable[[str], object]
    load_validation: Callable[[Path], Proof]


@alone
def run_demo(
    run: str | Path,
    seed: int = 0,
    device: str | None = None,
    say: Say = print,
    *,
    two_layers: bool = False,
) -> tuple[dict[str, Proven | str], dict[str, Proof]]:
    """All steps into a run folder, on the built-in stories; of each behaviour the circuit, or why
    there is none, and the validations. With two layers the stories have lies about lies, and the
    circuits are those across layers."""
    folder, stories = RunFolder(Path(run)), built_in(seed, lies=two_layers)
    plan = TWO_LAYER_PLAN if two_layers else ModelPlan()
    dictionaries = TWO_LAYER_DICTIONARIES if two_layers else TrainingPlan()
    chosen_device(device)  # refused before anything is printed
    folder.path.mkdir(parents=True, exist_ok=True)
    memory = StepMemory(folder, seed, say)
    say("model: a bilinear transformer that reads little stories")
    run_model(folder.path, replace(plan, seed=seed), stories, device)
    known = Run(folder.path, device=device)
    say("dictionaries: sparse autoencoders of its streams")
    run_saes(folder.path, known.model, replace(dictionaries, seed=seed), stories, device)
    memory.inputs.update(known.hashes)
    text = split_corpus(stories)[1]
    listed(memory, known, text)
    search = _across_layers(known, seed) if two_layers else _in_one_layer(known, text, seed)
    behaviours = TWO_LAYER_BEHAVIOURS if two_layers else BEHAVIOURS
    found = {name: _found(search, name, memory) for name in behaviours}
    validations = {}
    for name, circuit in found.items():
        if not isinstance(circuit, str):
            files = search.files(name)
            memory.step(
                f"validate {search.word}{name}",
                [files.circuit, files.validation],
                f"validate: is the circuit of {name} the cause?",
                partial(search.validate, name),
            )
            validations[name] = search.load_validation(files.validation)
    if not two_layers:  # it is about one MLP
        ranked(memory, known, text)
    reported(memory, known, text, device)
    return found, validations


def _in_one_layer(run: Run, text: Corpus | None, seed: int) -> _Search:
    def find(name: str) -> None:
        behaviour = behaviour_of(name, run.model, seed=seed)
        run_find(run, behaviour, detection_cases=story_cases(name, run.model, seed))

    return _Search(
        "",
        run.folder.one_layer.files,
        find,
        Circuit.load,
        partial(run_validate, run, text=text, seed=seed),
        Validation.load,
    )


def _across_layers(run: Run, seed: int) -> _Search:
    return _Search(
        "across layers, ",
        run.folder.across_layers.files,
        lambda name: run_find_layered(run, behaviour_of(name, run.model, TWO_LAYER_PAIRS, seed)),
        LayeredCircuit.load,
        partial(run_validate_layered, run, seed=seed),
        LayeredValidation.load,
    )


def _found(search: _Search, name: str, memory: StepMemory) -> Proven | str:
    """The circuit of a behaviour, or why there is none."""
    file = search.files(name).circuit
    step, about = f"find {search.word}{name}", f"find: the circuit of {name}"
    try:
        memory.step(step, [file], about, partial(search.find, name))
    except NotFoundError as answer:
        return str(answer)
    return search.load(file)
