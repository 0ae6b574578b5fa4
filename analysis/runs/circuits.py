"""A run's circuits: ``RUN/circuits/<name>.json`` and what belongs to each, noted in its manifest.

Beside a behaviour's circuit lie its cases, ``<name>.behaviour.jsonl``, and what the edits showed,
``<name>.validation.json``. What a reader would get wrong: a circuit is chosen on every other pair
of the cases and validated on the others, so neither file alone tells both.

A file is named after its behaviour, with a hyphen for whatever is no letter, digit or one of
``_ . +``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from analysis.behaviour.built_in import built_in_behaviour, cases_from_stories
from analysis.behaviour.cases import Behaviour
from analysis.discovery.find import find_circuit
from analysis.discovery.propose import propose_circuits
from analysis.validation.validate import Validation, validate
from circuits.graph.circuit import Circuit
from circuits.graph.records import Metric
from circuits.corpus.documents import Corpus, built_in
from circuits.errors import CircuitFileError, NotFoundError, RunError
from circuits.graph.export import write_graph
from circuits.storage.manifest import record, withdraw
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.corpus.stories.prompts import BEHAVIOURS
from sae.dictionary import Dictionary

N_PAIRS = 128
"""Minimal pairs of a built-in behaviour, half to choose on and half to validate on."""

_ELSEWHERE = 1_000_000  # between the seeds of stories to train on and of those to tell classes on


def behaviour_of(name: str, model: Model, n: int = N_PAIRS, seed: int = 0) -> Behaviour:
    """A built-in behaviour by its name, or that of a JSONL file."""
    if name in BEHAVIOURS:
        return built_in_behaviour(name, model, n, seed=seed)
    path = Path(name)
    if path.suffix != ".jsonl" and not path.exists():
        raise RunError(
            f"behaviour '{name}' is neither built in ({', '.join(BEHAVIOURS)}) nor a file. Name "
            f"one of these, or a JSONL file of cases."
        )
    return Behaviour.load(path)


def story_cases(name: str, model: Model, seed: int = 0) -> Behaviour | None:
    """Running text in the classes of a built-in behaviour, where its truth is known and the model
    has its words: what output features are to tell classes on."""
    elsewhere = seed + _ELSEWHERE
    words = model.words("negation in stories")
    if name != "negation" or built_in(elsewhere).word_numbers(words) is None:
        return None
    return cases_from_stories(seed=elsewhere)


def run_find(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    behaviour: Behaviour,
    *,
    layer: int | None = None,
    detection_cases: Behaviour | None = None,
    coverage: float,
    n_pairs: int,
) -> Circuit:
    """`find_circuit`, saved with its graph and its cases; what was found before and is not found
    any more is removed."""
    path = _own_file(run, behaviour.name)
    try:
        circuit = find_circuit(
            model,
            dictionaries,
            behaviour,
            layer,
            detection_cases=detection_cases,
            coverage=coverage,
            n_pairs=n_pairs,
        )
    except NotFoundError:
        _forget(run, path)
        raise
    files = _saved(run, circuit)
    files.append(behaviour.save(_beside(files[0], ".behaviour.jsonl")))
    record(run, f"circuit {circuit.name}", asdict(circuit.source), files)
    return circuit


def run_propose(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    *,
    layer: int = 0,
    n: int = 10,
    seed: int = 0,
) -> list[Circuit]:
    """`propose_circuits`, each saved."""
    found = propose_circuits(model, dictionaries, layer, n, seed=seed)
    files = [file for circuit in found for file in _saved(run, circuit)]
    record(run, f"proposals of layer {layer}", {"n": n, "seed": seed}, files)
    return found


def run_validate(
    run: str | Path,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    name: str,
    *,
    text: Corpus | None = None,
    n_draws: int = 10,
    seed: int = 0,
) -> Validation:
    """`validate` of a circuit that `run_find` saved, on the cases that it was not chosen on, with
    the run's other circuits as controls; saved beside it."""
    path = circuit_file(run, name)
    cases = _beside(path, ".behaviour.jsonl")
    known = behaviour_circuits(run)
    if path.stem not in known:
        raise RunError(
            f"{run} has no circuit of a behaviour '{name}' (it has "
            f"{', '.join(known) or 'none'}). Find it: circuits find {run} --behaviour {name}"
        )
    circuit = Circuit.load(path)
    others = [
        Circuit.load(path.with_name(f"{other}.json")) for other in known if other != path.stem
    ]
    here = [c for c in others if c.source.layer == circuit.source.layer]
    alike = [c for c in here if c.source.inputs == circuit.source.inputs]
    metric: Metric = "logit difference" if circuit.evidence is None else circuit.evidence.metric
    _, held_out = Behaviour.load(cases, metric, name=circuit.name).halves()
    found = validate(
        model, circuit, held_out, dictionaries, others=alike, text=text, n_draws=n_draws, seed=seed
    )
    saved = found.save(_beside(path, ".validation.json"))
    record(run, f"validation of {circuit.name}", {"n_draws": n_draws, "seed": seed}, [saved])
    return found


def saved_circuit(run: str | Path, name: str) -> Circuit:
    """A circuit that `run_find` or `run_propose` saved."""
    path = circuit_file(run, name)
    if not path.is_file():
        ends = (".behaviour", ".validation")
        there = sorted(f.stem for f in path.parent.glob("*.json") if not f.stem.endswith(ends))
        raise RunError(
            f"{run} has no circuit '{name}' (it has {', '.join(there) or 'none'}). Find it: "
            f"circuits find {run} --behaviour {name}"
        )
    return Circuit.load(path)


def behaviour_circuits(run: str | Path) -> list[str]:
    """The names of a run's circuits that were found for a behaviour."""
    folder = Path(run) / "circuits"
    ends = ".behaviour.jsonl"
    names = sorted(file.name.removesuffix(ends) for file in folder.glob(f"*{ends}"))
    return [name for name in names if (folder / f"{name}.json").exists()]


def circuit_file(run: str | Path, name: str) -> Path:
    """Where the circuit of a name lies, or would lie."""
    slug = re.sub(r"[^\w.+]+", "-", name).strip("-.")
    if not slug:
        raise RunError(f"circuit {name!r} has no letter or digit to name a file by. Rename it.")
    return Path(run) / "circuits" / f"{slug}.json"


def _forget(run: str | Path, path: Path) -> None:
    """Remove a circuit and what belongs to it, if it is there."""
    for end in (".json", ".graphml", ".behaviour.jsonl", ".validation.json"):
        _beside(path, end).unlink(missing_ok=True)
    withdraw(run, path.parent)


def _own_file(run: str | Path, name: str) -> Path:
    """`circuit_file`, refused where another name's circuit has it: "a b" and "a-b" would share."""
    path = circuit_file(run, name)
    try:
        there = Circuit.load(path).name if path.is_file() else name
    except CircuitFileError:  # of an older version, or cut short: made anew
        return path
    if there != name:
        raise RunError(
            f"{path} holds the circuit {there!r}, and {name!r} would have the same file. Rename "
            f"the behaviour, or remove the file."
        )
    return path


def _saved(run: str | Path, circuit: Circuit) -> list[Path]:
    path = _own_file(run, circuit.name)
    _forget(run, path)  # a validation, or cases, would be another circuit's
    return [circuit.save(path), write_graph(circuit, path.with_suffix(".graphml"))]


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f"{path.stem}{end}")
