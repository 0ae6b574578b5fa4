"""A run's circuits: found, proposed and validated, saved, and noted in the manifest.

A circuit is chosen on every other pair of its behaviour's cases and validated on the rest; all
cases are saved beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from analysis.behaviour.bounds import COVERAGE, N_PAIRS
from analysis.behaviour.built_in import built_in_behaviour, cases_from_stories
from analysis.behaviour.cases import Behaviour
from analysis.discovery.find import find_circuit
from analysis.discovery.propose import propose_circuits
from analysis.runs.folder import CircuitFiles
from analysis.runs.run import Run
from analysis.validation.record import Validation
from analysis.validation.validate import validate
from circuits.corpus.documents import Corpus, built_in
from circuits.corpus.stories.prompts import BEHAVIOURS
from circuits.errors import GraphError, NotFoundError, RunError
from circuits.graph.circuit import Circuit
from circuits.graph.export import write_graph
from circuits.model.model import Model
from circuits.storage.manifest import record, withdraw

N_CASES = 400
"""Minimal pairs of a built-in behaviour, half to choose on and half to validate on: every word is
in as many as a stratum needs."""

_ELSEWHERE = 1_000_000  # between the seeds of stories to train on and of those to detect classes in


def behaviour_of(
    name: str, model: Model, n: int | None = None, seed: int = 0, *, fresh_words: bool = False
) -> Behaviour:
    """A built-in behaviour by its name, as ``n`` pairs (by default `N_CASES`), or that of a JSONL
    file."""
    if name in BEHAVIOURS:
        n = N_CASES if n is None else n
        return built_in_behaviour(name, model, n, seed=seed, fresh_words=fresh_words)
    path = Path(name)
    if fresh_words:
        raise RunError(
            f"fresh words are for built-in behaviours, and '{name}' is a file. Give every second "
            f"pair of its cases other words than the pair before it."
        )
    if n is not None:
        raise RunError(
            f"a number of cases ({n}) is for built-in behaviours, and '{name}' is a file, all of "
            f"whose cases are used. Leave the number out, or name a file of fewer."
        )
    if path.suffix != ".jsonl" and not path.exists():
        raise RunError(
            f"behaviour '{name}' is neither built in ({', '.join(BEHAVIOURS)}) nor a file. Name "
            f"one of these, or a JSONL file of cases."
        )
    return Behaviour.load(path)


def story_cases(name: str, model: Model, seed: int = 0) -> Behaviour | None:
    """Stories in the classes of a built-in behaviour, to choose the output features that detect a
    class; None where there are none, or the model lacks their words."""
    elsewhere = seed + _ELSEWHERE
    words = model.words("negation in stories")
    if name != "negation" or built_in(elsewhere).word_numbers(words) is None:
        return None
    return cases_from_stories(seed=elsewhere)


def run_find(
    run: Run,
    behaviour: Behaviour,
    *,
    detection_cases: Behaviour | None = None,
    layer: int | None = None,
    n_pairs: int = N_PAIRS,
    coverage: float = COVERAGE,
) -> Circuit:
    """`find_circuit`, saved with its graph and cases; where none is found, an earlier one goes."""
    files = _own_files(run, behaviour.name)
    try:
        circuit = find_circuit(
            run.model,
            run.dictionaries,
            behaviour,
            layer,
            detection_cases=detection_cases,
            coverage=coverage,
            n_pairs=n_pairs,
        )
    except NotFoundError:
        _forget(run, files)
        raise
    made = [*_saved(run, circuit), behaviour.save(files.behaviour)]
    record(run.folder.path, f"circuit {circuit.name}", asdict(circuit.source), made)
    return circuit


def replaced(run: Run, name: str) -> str | None:
    """What `run_find` of a behaviour of this name removes, in a sentence; None: nothing."""
    files = run.folder.circuit(name)
    if not files.circuit.is_file():
        return None
    if not files.validation.is_file():
        return f"replaces {name}"
    return f"replaces {name}; its validation no longer fits and was removed"


def run_propose(run: Run, *, layer: int = 0, n: int = 10, seed: int = 0) -> list[Circuit]:
    """`propose_circuits`, each saved."""
    found = propose_circuits(run.model, run.dictionaries, layer, n, seed=seed)
    files = [file for circuit in found for file in _saved(run, circuit)]
    record(run.folder.path, f"proposals of layer {layer}", {"n": n, "seed": seed}, files)
    return found


def run_validate(
    run: Run, name: str, *, text: Corpus | None = None, n_draws: int = 10, seed: int = 0
) -> Validation:
    """`validate` of a circuit that `run_find` saved, on its held-out cases, saved beside it; the
    controls are the circuits of other behaviours in the same layer and input features."""
    files, (_, held_out) = run.behaviours.files(name), run.behaviours[name].halves()
    circuit = run.circuits[name]
    place = circuit.source.layer, circuit.source.inputs
    others = [run.behaviours.files(each) for each in run.behaviours if each != files.stem]
    controls = [Circuit.load(other.circuit) for other in others]
    found = validate(
        run.model,
        circuit,
        held_out,
        run.dictionaries,
        others=[c for c in controls if (c.source.layer, c.source.inputs) == place],
        text=text,
        n_draws=n_draws,
        seed=seed,
    )
    made_of, made = {"n_draws": n_draws, "seed": seed}, [found.save(files.validation)]
    record(run.folder.path, f"validation of {circuit.name}", made_of, made)
    return found


def _own_files(run: Run, name: str) -> CircuitFiles:
    """The files for a circuit, refused where another's lie there: "a b" and "a-b" would share."""
    files = run.folder.circuit(name)
    try:
        there = Circuit.load(files.circuit).name if files.circuit.is_file() else name
    except GraphError:  # of an older version, or cut short: it is written anew
        return files
    if there != name:
        raise RunError(
            f"{files.circuit} holds the circuit {there!r}, and {name!r} would have the same file. "
            f"Rename the behaviour, or remove the file."
        )
    return files


def _saved(run: Run, circuit: Circuit) -> list[Path]:
    files = _own_files(run, circuit.name)
    _forget(run, files)  # cases and a validation would be those of another circuit
    return [circuit.save(files.circuit), write_graph(circuit, files.graph)]


def _forget(run: Run, files: CircuitFiles) -> None:
    files.remove()
    withdraw(run.folder.path, run.folder.circuits)
