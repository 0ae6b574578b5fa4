"""A circuit with its cases and its validation: files that do not belong together are refused."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.behaviour.cases import Behaviour
from analysis.runs.folder import CircuitFiles, RunFolder
from analysis.validation.criteria import Claim
from analysis.validation.record import Validation
from circuits.errors import RunError
from circuits.graph.circuit import Circuit
from circuits.plotting.display import seen


@dataclass(frozen=True, eq=False)
class Found:
    """A circuit, and where it was found for a behaviour its cases and its validation."""

    stem: str  # of its file
    circuit: Circuit
    behaviour: Behaviour | None = None
    validation: Validation | None = None
    marks: tuple[str, ...] = ()  # of its files that are not as a step made them

    @property
    def layer(self) -> int | None:
        """The layer of its MLP, where its file says."""
        return self.circuit.source.layer

    @property
    def claims(self) -> dict[Claim, bool]:
        """Which claims its validation bears out; none where there is none."""
        return {} if self.validation is None else self.validation.claims


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
