"""Whether files belong to a run and to each other; what was made of something else is refused.

A file carries the hashes of the model and the dictionaries that it was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.behaviour.cases import Behaviour
from analysis.discovery.provenance import layer_of_circuit
from analysis.runs.folder import CircuitFiles, RunFolder
from analysis.validation.record import Validation
from circuits.errors import RunError, shorten
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import seen
from sae.dictionary import Dictionary


@dataclass(frozen=True, eq=False)
class Found:
    """A circuit, and where it was found for a behaviour its cases and its validation."""

    stem: str  # of its file
    circuit: Circuit
    behaviour: Behaviour | None = None
    validation: Validation | None = None

    @property
    def layer(self) -> int | None:
        """The layer of its MLP, where its file says."""
        return self.circuit.source.layer

    @property
    def proven(self) -> bool:
        """Whether its validation met every criterion."""
        return self.validation is not None and self.validation.proven


def check_made_with(
    run: RunFolder, place: str, step: str, known: Mapping[str, str], made_with: Mapping[str, Any]
) -> None:
    """Refuse what a step made with another model or dictionaries than the run's ``known`` ones."""
    other = [name for name, hash_ in made_with.items() if hash_ not in (None, known.get(name))]
    if other:
        raise RunError(
            f"{run.path / place} was made with another {', '.join(other)} than the run has now, so "
            f"its numbers are of something else. Remove it and make it again: circuits {step} {run}"
        )


def check_circuit(
    run: RunFolder,
    files: CircuitFiles,
    circuit: Circuit,
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
) -> None:
    """Refuse a circuit of another model or other dictionaries, or of features that they lack. One
    made by hand, without a layer or without hashes, is not compared."""
    layer = circuit.source.layer
    if layer is None:
        return
    if circuit.source.model is not None:
        layer_of_circuit(model, circuit, dictionaries)
    faults = []
    inputs, outputs = [f.feature for f in circuit.features], [o.feature for o in circuit.outputs]
    for site, named, n_constant in zip(mlp_sites(layer), (inputs, outputs), (1, 0), strict=True):
        if site not in dictionaries:
            faults.append(f"the run has no dictionary of {site}")
            continue
        n = dictionaries[site].n_feature
        if lost := sorted({feature for feature in named if not 0 <= feature < n + n_constant}):
            faults.append(f"{site} has {n} features, and no {shorten(lost)}")
    if faults:
        again = f" --behaviour {circuit.name}" if files.behaviour.exists() else ""
        raise RunError(
            f"{files.circuit} is of another run: {'; '.join(faults)}. Find it again: circuits find "
            f"{run}{again}"
        )


def check_together(run: RunFolder, files: CircuitFiles, found: Found) -> None:
    """Refuse cases or a validation of another circuit than the one beside them."""
    if faults := [*_faults_of_cases(found), *_faults_of_validation(found)]:
        raise RunError(
            f"{files.path}: the files of this name do not belong together: "
            f"{'; '.join(faults)}. Make them again: circuits find {run} --behaviour "
            f"{found.circuit.name}, then circuits validate {run}"
        )


def _faults_of_cases(found: Found) -> list[str]:
    evidence, behaviour = found.circuit.evidence, found.behaviour
    if evidence is None or behaviour is None:
        return []
    n_cases = len(behaviour.halves()[0].cases)
    compared = [
        ("factors", evidence.factors, behaviour.factors),
        ("affected classes", evidence.affected, behaviour.affected),
        ("number of cases", (str(evidence.n_cases),), (str(n_cases),)),
    ]
    return [
        f"it was found with the {name} {seen(', '.join(then))}, its cases have "
        f"{seen(', '.join(now))}"
        for name, then, now in compared
        if set(then) != set(now)
    ]


def _faults_of_validation(found: Found) -> list[str]:
    circuit, validation, faults = found.circuit, found.validation, []
    if validation is None:
        return []
    n = validation.n if found.behaviour is None else len(found.behaviour.halves()[1].cases)
    if validation.n != n:
        faults.append(f"its validation is of {validation.n} cases, held out are {n}")
    if validation.circuit != circuit.name:
        faults.append(f"its validation is of the circuit {seen(validation.circuit)!r}")
    own = {(pair.first, pair.second) for pair in circuit.interactions}
    removed = set(zip(validation.parts["first"], validation.parts["second"], strict=True))
    if own != removed:
        faults.append(f"its validation is of other pairs ({len(removed)}, it has {len(own)})")
    return faults
