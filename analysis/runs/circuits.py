"""A run's circuits: found, proposed and validated, saved, and noted in the manifest.

A circuit is chosen on every other pair of its behaviour's cases and validated on the rest; all
cases are saved beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from analysis.behaviour.bounds import COVERAGE
from analysis.behaviour.built_in import built_in_behaviour, cases_from_stories
from analysis.behaviour.cases import JSON_LINES, Behaviour
from analysis.discovery.find import find_circuit
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.propose import propose_circuits
from analysis.runs.alone import alone
from analysis.runs.belonging import CONTROLS
from analysis.runs.folder import CircuitFiles, CircuitFolder
from analysis.runs.missing import search_step
from analysis.runs.run import Run
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.record import Validation
from analysis.validation.validate import validate
from circuits.corpus.documents import Corpus, built_in
from circuits.corpus.stories.prompts import BEHAVIOURS
from circuits.errors import GraphError, NotFoundError, RunError
from circuits.graph.circuit import Circuit
from circuits.graph.export import write_graph
from circuits.model.model import Model
from circuits.storage.files import content_hash
from circuits.storage.manifest import Making, record, state_of, step_written

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
            f"one of these, or a file of {JSON_LINES}."
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


@alone
def run_find(
    run: Run,
    behaviour: Behaviour,
    *,
    detection_cases: Behaviour | None = None,
    layer: int | None = None,
    n_pairs: int | None = None,
    coverage: float = COVERAGE,
) -> Circuit:
    """`find_circuit`, saved with its graph and cases. Where none is found, what was there stays;
    where the same is found again, so does its validation."""
    place = _one_layer(run)
    place.own_files(behaviour.name)  # refused before the search
    with _noted_if_in_vain(run, behaviour.name, across=False) as search:
        circuit = find_circuit(
            run.model,
            run.dictionaries,
            behaviour,
            layer,
            detection_cases=detection_cases,
            coverage=coverage,
            n_pairs=n_pairs,
        )
    step = f"circuit {circuit.name}"
    with step_written(run.folder.path, step, asdict(circuit.source)) as making:
        making.outdated.add(search)
        place.save(making, circuit, behaviour)
    return circuit


@alone
def run_find_layered(
    run: Run, behaviour: Behaviour, *, n_pairs: int | None = None, coverage: float = COVERAGE
) -> LayeredCircuit:
    """`find_circuit` across layers, saved with its cases; what was there is kept or removed as by
    `run_find`."""
    place = _across_layers(run)
    place.own_files(behaviour.name)  # refused before the search
    with _noted_if_in_vain(run, behaviour.name, across=True) as search:
        circuit = find_circuit(
            run.model,
            run.dictionaries,
            behaviour,
            across=True,
            coverage=coverage,
            n_pairs=n_pairs,
        )
    made_of = {"stages": [asdict(stage.source) for stage in circuit.stages]}
    with step_written(run.folder.path, f"layered circuit {circuit.name}", made_of) as making:
        making.outdated.add(search)
        place.save(making, circuit, behaviour)
    return circuit


@contextmanager
def _noted_if_in_vain(run: Run, name: str, *, across: bool) -> Iterator[str]:
    """A search that finds nothing, where nothing was found before, is noted in the manifest with
    the reason, under this step's name, so that the report has it."""
    step = search_step(name, across=across)
    try:
        yield step
    except NotFoundError as answer:
        made_of = {"behaviour": name, "across": across, "not_found": str(answer), "of": run.hashes}
        place = run.folder.across_layers if across else run.folder.one_layer
        if place.named(name) is None:  # or what was found before is kept
            record(run.folder.path, step, made_of, [])
        raise


@dataclass(frozen=True)
class Earlier:
    """What a run had of a behaviour before it was searched for again."""

    files: CircuitFiles
    content: bytes | None  # of the circuit's file
    validated: bool

    @classmethod
    def of(cls, run: Run, name: str, *, across: bool = False) -> Earlier:
        """What is there now, of one layer or across layers."""
        place = _across_layers(run) if across else _one_layer(run)
        files = place.folder.files(name)
        content = files.circuit.read_bytes() if files.circuit.is_file() else None
        return cls(files, content, files.validation.is_file())

    def replaced_by(self, circuit: Circuit | LayeredCircuit) -> str | None:
        """What became of it when the circuit was saved, in a sentence; None: nothing."""
        if self.content is None:
            return None
        same = self.content == self.files.circuit.read_bytes()
        what = f"{circuit.name} was found before, and is the same" if same else None
        what = what or f"replaces {circuit.name}"
        if not self.validated:
            return what
        if self.files.validation.is_file():
            return f"{what}; its validation is kept"
        return f"{what}; its validation no longer fits and was removed"

    @property
    def kept(self) -> str | None:
        """That it is still there, in a sentence; None: nothing was."""
        if self.content is None:
            return None
        return f"The circuit of this name that was found before is kept: {self.files.circuit}"


@alone
def run_propose(run: Run, *, layer: int = 0, n: int = 10, seed: int = 0) -> list[Circuit]:
    """`propose_circuits`, each saved."""
    found = propose_circuits(run.model, run.dictionaries, layer, n, seed=seed)
    made_of = {"n": n, "seed": seed}
    with step_written(run.folder.path, f"proposals of layer {layer}", made_of) as making:
        for circuit in found:
            _one_layer(run).save(making, circuit)
    return found


@alone
def run_validate(
    run: Run,
    name: str,
    *,
    text: Corpus | None = None,
    n_draws: int = 10,
    seed: int = 0,
    original: Model | None = None,
) -> Validation:
    """`validate` of a circuit that `run_find` saved, on its held-out cases, saved beside it; the
    controls are the circuits of other behaviours in the same layer and input features."""
    files, (_, held_out) = run.behaviours.files(name), run.behaviours[name].halves()
    circuit = run.circuits[name]
    place = circuit.source.layer, circuit.source.inputs
    others = {each: run.circuits[each] for each in run.behaviours if each != files.stem}
    controls = {n: c for n, c in others.items() if (c.source.layer, c.source.inputs) == place}
    beside = {f.stem: content_hash(f.circuit) for f in map(run.behaviours.files, controls)}
    found = validate(
        run.model,
        circuit,
        held_out,
        run.dictionaries,
        others=[*controls.values()],
        text=text,
        n_draws=n_draws,
        seed=seed,
        original=original,
    )
    made_of: dict[str, object] = {"n_draws": n_draws, "seed": seed, CONTROLS: beside}
    if text is not None:
        made_of["text"] = text.fingerprint
    if original is not None:
        made_of["original"] = original.fingerprint
    step = f"validation of {run.folder.one_layer.own_name(files, circuit.name)}"
    with step_written(run.folder.path, step, made_of) as making:
        found.save(making.place(files.validation))
    return found


@alone
def run_validate_layered(
    run: Run, name: str, *, n_draws: int = 10, seed: int = 0
) -> LayeredValidation:
    """`validate` of a circuit that `run_find_layered` saved, on its held-out cases, saved beside
    it."""
    files = run.layered_behaviours.files(name)
    _, held_out = run.layered_behaviours[name].halves()
    circuit = run.layered[name]
    found = validate(run.model, circuit, held_out, run.dictionaries, n_draws=n_draws, seed=seed)
    made_of = {"n_draws": n_draws, "seed": seed}
    step = f"layered validation of {run.folder.across_layers.own_name(files, circuit.name)}"
    with step_written(run.folder.path, step, made_of) as making:
        found.save(making.place(files.validation))
    return found


@dataclass(frozen=True)
class _Place:
    """The circuits of a kind in a run."""

    run: Path
    folder: CircuitFolder
    load: Callable[[Path], Circuit | LayeredCircuit]

    def own_files(self, name: str) -> CircuitFiles:
        """The files for a circuit, refused where another's lie there: "a b" and "a-b" would share,
        and on some disks "A" and "a"."""
        files = self.folder.files(name)
        if twin := self.folder.twin_of(files):
            raise RunError(
                f"{twin.circuit} is there, and {name!r} would have the same file on a disk that "
                f"does not distinguish case. Rename the behaviour, or remove the file."
            )
        try:
            there = self.load(files.circuit).name if files.circuit.is_file() else name
        except GraphError:  # of an older version, or cut short: it is written anew
            return files
        if there != name:
            raise RunError(
                f"{files.circuit} holds the circuit {there!r}, and {name!r} would have the same "
                f"file. Rename the behaviour, or remove the file."
            )
        return files

    def save(
        self,
        making: Making,
        circuit: Circuit | LayeredCircuit,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Write the files of a circuit. Those of another circuit of this name are removed, unless
        all is the same."""
        files = self.own_files(circuit.name)
        new = CircuitFiles(making.place(files.path))
        made = [circuit.save(new.circuit)]
        measured = {files.circuit: new.circuit}
        if isinstance(circuit, Circuit):
            made.append(write_graph(circuit, new.graph))  # a picture
        if behaviour is not None:
            made.append(behaviour.save(new.behaviour))
            measured[files.behaviour] = new.behaviour
        if not all(_is_the_same(file, there) for there, file in measured.items()):
            names = {file.name for file in made}
            gone = [file for file in files.all if file.name not in names and file.is_file()]
            if others := [file for file in gone if not state_of(self.run, file)[0]]:
                raise RunError(
                    f"{others[0]} is of the circuit that is to be replaced, and no step of this "
                    f"run made it, so it would be lost. Move it elsewhere, and repeat this."
                )
            making.gone.extend(gone)


def _one_layer(run: Run) -> _Place:
    return _Place(run.folder.path, run.folder.one_layer, Circuit.load)


def _across_layers(run: Run) -> _Place:
    return _Place(run.folder.path, run.folder.across_layers, LayeredCircuit.load)


def _is_the_same(file: Path, there: Path) -> bool:
    return there.is_file() and content_hash(file) == content_hash(there)
