"""A circuit with its cases and its validation, as a run's files have them: what does not belong
together, is damaged, or is of another run, is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar
from warnings import warn

from analysis.behaviour.cases import Behaviour
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.provenance import check_circuit
from analysis.runs.folder import CircuitFiles, RunFolder
from analysis.runs.missing import step_command
from analysis.validation.criteria import Claim
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.record import Validation
from circuits.errors import MarkWarning, RunError
from circuits.graph.circuit import Circuit
from circuits.graph.records import Metric
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.plotting.display import seen
from circuits.storage.files import content_hash
from circuits.storage.manifest import State, edited, read_manifest, state_of
from sae.dictionary import Dictionary

Read = TypeVar("Read")

CONTROLS = "controls"
"""What a validation's step notes of the circuits beside it: the hash of each one's file."""


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


@dataclass(frozen=True, eq=False)
class LayeredFound:
    """A circuit through several layers, with its cases and its validation where it has them."""

    stem: str  # of its file
    circuit: LayeredCircuit
    behaviour: Behaviour | None = None
    validation: LayeredValidation | None = None
    marks: tuple[str, ...] = ()  # of its files that are not as a step made them

    @property
    def claims(self) -> dict[Claim, bool]:
        """Which claims its validation bears out; none where there is none."""
        return {} if self.validation is None else self.validation.claims


class KnownFiles:
    """The files of a run beside what the manifest notes of each."""

    def __init__(self, folder: RunFolder, marks: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.marks = {} if marks is None else marks
        """What is said of each file that is read although it is not as its step made it."""

    def read(
        self, command: str, read: Callable[[Path], Read], *files: Path, more: str = ""
    ) -> Read:
        """What is read from the first of some files; refused if one is damaged, and marked if one
        was edited, or made by no step of this run. ``more`` ends the command that makes them."""
        states = {file: state_of(self.folder.path, file) for file in files}
        for file, (step, state) in states.items():
            if state is State.DAMAGED:
                raise RunError(
                    f"{file} is damaged or another file: its bytes are not those that the step "
                    f"'{step}' made. Make it again: circuits "
                    f"{step_command(self.folder, step, command)} {self.folder}{more}"
                )
        value = read(files[0])
        for file, (step, state) in states.items():
            name = file.relative_to(self.folder.path).as_posix()
            self.marks.pop(name, None)
            if state is not State.SAME:
                self.marks[name] = (
                    edited(step)
                    if state is State.EDITED
                    else "no step of this run made it: nothing records where its numbers are from. "
                    "Copy manifest.json from where the run was made, or make it again: "
                    f"circuits {command} RUN{more}"
                )
                warn(f"{file}: {self.marks[name]}", MarkWarning, stacklevel=4)
        return value

    def mark_controls(self, files: CircuitFiles) -> None:
        """Mark a validation whose controls are other circuits now."""
        step, _ = state_of(self.folder.path, files.validation)
        if said := other_controls(self.folder, self._made_of(step)):
            name = files.validation.relative_to(self.folder.path).as_posix()
            again = f"circuits validate RUN --circuit {quote(files.stem)}"
            said = f"{said}, so it shows what an earlier one did. Validate it again: {again}"
            self.marks[name] = "; ".join(filter(None, (self.marks.get(name), said)))
            warn(f"{files.validation}: {said}", MarkWarning, stacklevel=4)

    def _made_of(self, step: str) -> dict[str, Any]:
        entries = read_manifest(self.folder.path)
        made_of: dict[str, Any] = {each["step"]: each["made_of"] for each in entries}.get(step, {})
        return made_of


def other_controls(folder: RunFolder, made_of: dict[str, Any]) -> str:
    """Which circuits that a validation had beside it are others now; empty if none is."""
    beside, changed = made_of.get(CONTROLS), list[str]()
    for name, known in beside.items() if isinstance(beside, dict) else ():
        file = CircuitFiles(folder.circuits / name).circuit
        if not file.is_file():
            changed.append(f"{seen(name)} was removed")
        elif content_hash(file) != known:
            changed.append(f"{seen(name)} was changed or found again")
    return f"of its controls, {', '.join(changed)}" if changed else ""


class CircuitReader:
    """Reads a run's circuits with their cases and validations; refuses what is of another run."""

    def __init__(
        self, files: KnownFiles, loaded: Callable[[], tuple[Model, dict[Site, Dictionary]]]
    ) -> None:
        self._files, self._loaded = files, loaded  # the run's model, loaded when it is needed

    def circuit(self, files: CircuitFiles) -> Circuit:
        """A circuit, refused if it is of another run; one made by hand may name no layer."""
        circuit = self._files.read("find", Circuit.load, files.circuit)
        if circuit.source.layer is not None:
            again = f" --behaviour {quote(circuit.name)}" if files.behaviour.exists() else ""
            command = f"circuits find {self._files.folder}{again}"
            model, dictionaries = self._loaded()
            check_circuit(model, circuit, dictionaries, str(files.circuit), command)
        return circuit

    def layered(self, files: CircuitFiles) -> LayeredCircuit:
        """A circuit through several layers, refused if it is of another run."""
        circuit = self._files.read("find", LayeredCircuit.load, files.circuit)
        command = f"circuits find {self._files.folder} --behaviour {quote(circuit.name)} --across"
        model, dictionaries = self._loaded()
        for stage in circuit.stages:
            check_circuit(model, stage, dictionaries, str(files.circuit), command)
        return circuit

    def found(self, files: CircuitFiles, validated: bool = True) -> Found:
        """A circuit with its cases and, if ``validated``, its validation, where it has them."""
        circuit = self.circuit(files)
        read = partial(self._files.read, "validate", Validation.load)
        behaviour = self._cases(files, circuit)
        validation = read(files.validation) if validated and files.validation.exists() else None
        if validation is not None:
            self._files.mark_controls(files)
        found = Found(files.stem, circuit, behaviour, validation, self._marks(files))
        check_together(self._files.folder, files, found)
        return found

    def layered_found(self, files: CircuitFiles, validated: bool = True) -> LayeredFound:
        """The same of a circuit through several layers."""
        circuit = self.layered(files)
        read = partial(self._files.read, "validate", LayeredValidation.load)
        behaviour = self._cases(files, circuit)
        validation = read(files.validation) if validated and files.validation.exists() else None
        found = LayeredFound(files.stem, circuit, behaviour, validation, self._marks(files))
        check_together(self._files.folder, files, found)
        return found

    def _cases(self, files: CircuitFiles, circuit: Circuit | LayeredCircuit) -> Behaviour | None:
        """The cases beside a circuit."""
        if not files.behaviour.exists():
            return None
        evidence = circuit.evidence
        metric: Metric = "logit difference" if evidence is None else evidence.metric
        load = partial(Behaviour.load, metric=metric, name=circuit.name)
        return self._files.read("find", load, files.behaviour)

    def _marks(self, files: CircuitFiles) -> tuple[str, ...]:
        names = [file.relative_to(self._files.folder.path).as_posix() for file in files.all]
        return tuple(
            f"{name}: {self._files.marks[name]}" for name in names if name in self._files.marks
        )


def check_together(run: RunFolder, files: CircuitFiles, found: Found | LayeredFound) -> None:
    """Refuse cases or a validation of another circuit than the one beside them."""
    if faults := [*_faults_of_cases(found), *_faults_of_validation(found)]:
        across = " --across" if isinstance(found, LayeredFound) else ""
        raise RunError(
            f"{files.path}: the files of this name do not belong together: "
            f"{'; '.join(faults)}. Make them again: circuits find {run} --behaviour "
            f"{quote(found.circuit.name)}{across}, then circuits validate {run}{across}"
        )


def _faults_of_cases(found: Found | LayeredFound) -> list[str]:
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


def _faults_of_validation(found: Found | LayeredFound) -> list[str]:
    circuit, validation, faults = found.circuit, found.validation, []
    if validation is None:
        return []
    n = validation.n if found.behaviour is None else len(found.behaviour.halves()[1].cases)
    if validation.n != n:
        faults.append(f"its validation is of {validation.n} cases, held out are {n}")
    if validation.circuit != circuit.name:
        faults.append(f"its validation is of the circuit {seen(validation.circuit)!r}")
    own, removed = _pairs_of(circuit), _pairs_removed(validation)
    if own != removed:
        faults.append(f"its validation is of other pairs ({len(removed)}, it has {len(own)})")
    return faults


def _pairs_of(circuit: Circuit | LayeredCircuit) -> set[Any]:
    if isinstance(circuit, Circuit):
        return {(pair.first, pair.second) for pair in circuit.interactions}
    return set(circuit.pair_labels)


def _pairs_removed(validation: Validation | LayeredValidation) -> set[Any]:
    if isinstance(validation, LayeredValidation):
        return set(validation.pair_table["pair"])
    return set(zip(validation.parts["first"], validation.parts["second"], strict=True))
