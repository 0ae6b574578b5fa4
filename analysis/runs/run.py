"""A run folder as one object, read piece by piece as it is asked for.

What is not there raises the error that names the command which makes it; what is damaged, or was
made with another model than the one beside it, is refused. The report, the commands and `open_run`
all read a run through this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd

from analysis.behaviour.cases import Behaviour
from analysis.discovery.provenance import check_dictionaries, layers_with_dictionaries
from analysis.lowrank.curve import RankCurve
from analysis.runs.belonging import Found, check_circuit, check_made_with, check_together
from analysis.runs.by_name import ByName, NotInRunError
from analysis.runs.folder import CircuitFiles, RunFolder, in_training
from analysis.runs.images import ImageStudy
from analysis.validation.record import Validation
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.corpus.documents import Corpus, built_in, split_corpus
from circuits.errors import CircuitsError, RunError, first_line
from circuits.graph.circuit import Circuit
from circuits.graph.records import Metric
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import html_of, shown
from circuits.storage.manifest import read_manifest
from sae.dictionary import Dictionary
from sae.loading import load_dictionaries

Read = TypeVar("Read")


@dataclass(frozen=True)
class Missing:
    """A step that was not made yet."""

    step: str
    command: str  # with RUN for the folder


class Run:
    """Everything in a run folder.

    ``text`` is where a report's examples are taken from: without one, the built-in stories that
    training left out, where the model knows their words. A model and dictionaries that are loaded
    already can be passed.
    """

    def __init__(
        self,
        folder: str | Path,
        text: Corpus | None = None,
        device: str | None = None,
        *,
        model: Model | None = None,
        dictionaries: dict[Site, Dictionary] | None = None,
    ) -> None:
        self.folder = RunFolder(Path(folder).expanduser())
        self.device = device
        if not self.folder.path.is_dir():
            raise RunError(
                f"{self.folder}: there is no such run. Make one: circuits model train {self.folder}"
            )
        given = {"model": model, "dictionaries": dictionaries, "text": text}
        vars(self).update({name: value for name, value in given.items() if value is not None})

    @cached_property
    def model(self) -> Model:
        """The model."""
        return load_model(self._model_folder(), device=self.device)

    @cached_property
    def dictionaries(self) -> dict[Site, Dictionary]:
        """The dictionaries by site, in the model's order."""
        self._check_dictionaries_there()
        return load_dictionaries(self.folder.path, device=self.device)

    @cached_property
    def text(self) -> Corpus | None:
        """The text that examples are taken from."""
        stories, tokenizer = built_in(0), self.model.tokenizer
        if tokenizer is None or stories.word_numbers(tokenizer) is None:
            return None
        return split_corpus(stories)[1]

    @property
    def layers(self) -> list[int]:
        """Those with dictionaries before and after the MLP."""
        return layers_with_dictionaries(self.model, self.dictionaries)

    def layers_wanted(
        self, layers: Iterable[int] | None, points: tuple[str, ...] = ("mlp_in", "mlp_out")
    ) -> list[int]:
        """Those named, or all that have dictionaries at the points; refused where there are
        none."""
        sites = set(self.dictionaries)
        there = [layer for layer in range(self.model.n_layer)
                 if {Site(point, layer) for point in points} <= sites]  # fmt: skip
        wanted = sorted(there if layers is None else set(layers))
        absent = sorted(set(wanted) - set(there))
        if not wanted or absent:
            raise RunError(
                f"{self.folder} has dictionaries at {' and '.join(points)} of layers "
                f"{there or 'none'}, not of {absent or 'any'}. Train them: circuits sae train "
                f"{self.folder}"
            )
        return wanted

    def interactions(
        self,
        layer: int,
        outputs: Basis | None = None,
        reader: Literal["pinv", "encoder"] = "pinv",
    ) -> Interactions:
        """The interactions of a layer in its dictionaries' features; ``outputs`` takes the place
        of the output dictionary."""
        (layer,) = self.layers_wanted([layer])
        check_dictionaries(self.model, self.dictionaries)
        into, out = (self.dictionaries[site] for site in mlp_sites(layer))
        outputs = out.basis(reader) if outputs is None else outputs
        return Interactions(self.model.layer(layer), into.basis(), outputs)

    @property
    def circuits(self) -> ByName[Circuit]:
        """The circuits, found and proposed."""
        return ByName(self.folder, "circuit", "find {run} --behaviour {name}",
                      lambda files: files.circuit, self._circuit)  # fmt: skip

    @property
    def behaviours(self) -> ByName[Behaviour]:
        """The cases of the circuits that were found for a behaviour."""
        return ByName(self.folder, "circuit of a behaviour", "find {run} --behaviour {name}",
                      lambda files: files.behaviour, self._behaviour)  # fmt: skip

    @property
    def validations(self) -> ByName[Validation]:
        """What the validation of each circuit measured."""
        return ByName(self.folder, "validation of", "validate {run} --circuit {name}",
                      lambda files: files.validation, self._validation)  # fmt: skip

    def strongest(self, layer: int) -> pd.DataFrame:
        """The strongest pairs of each output of a layer, as `circuits interactions` wrote them."""
        self._check_layer(layer, self.folder.interaction_layers(), "interactions")
        for entry in self.manifest:
            if entry["step"] == "interactions":
                made_with = entry.get("made_of", {}).get("of", {})
                check_made_with(self.folder, "interactions", "interactions", self.hashes, made_with)
        return self._read(self.folder.interactions(layer), pd.read_parquet, "interactions")

    def rank(self, layer: int) -> RankCurve:
        """How well low-rank forms stand in for the features of a layer's output."""
        self._check_layer(layer, self.folder.rank_layers(), "rank")
        curve = self._read(self.folder.rank_summary(layer), RankCurve.load, "rank")
        made_with = {"model": curve.about.get("model"),
                     curve.about["site"]: curve.about.get("dictionary")}  # fmt: skip
        check_made_with(self.folder, f"rank/layer-{layer}", "rank", self.hashes, made_with)
        return curve

    @property
    def images(self) -> ImageStudy | None:
        """The image case study, where there is one."""
        return ImageStudy.load(self.folder.path)

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """The steps that made the run, in their order."""
        return read_manifest(self.folder.path)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of the model and of each dictionary, by its site."""
        own = {str(site): dictionary.fingerprint for site, dictionary in self.dictionaries.items()}
        return {"model": self.model.fingerprint, **own}

    # what a report reads at once

    @cached_property
    def found(self) -> list[Found]:
        """All circuits with what belongs to them: behaviours before proposals, the proven and
        computed first."""
        return sorted(map(self._found, self.folder.circuit_files()), key=_order)

    @cached_property
    def curves(self) -> dict[int, RankCurve]:
        """The rank curve of each layer that has one."""
        return {layer: self.rank(layer) for layer in self.folder.rank_layers()}

    @cached_property
    def tables(self) -> dict[int, pd.DataFrame]:
        """The strongest pairs of each layer that has such a table."""
        return {layer: self.strongest(layer) for layer in self.folder.interaction_layers()}

    @property
    def reader_of_interactions(self) -> str | None:
        """How `circuits interactions` read the outputs, where the manifest says."""
        steps = {entry["step"]: entry.get("made_of", {}) for entry in self.manifest}
        reader = steps.get("interactions", {}).get("reader")
        return reader if isinstance(reader, str) else None

    @property
    def missing(self) -> list[Missing]:
        """The steps that were not made yet, with their commands."""
        steps = _missing(self.folder, self.layers)
        if self.text is None:
            steps.append(Missing("examples in text", "circuits report RUN --text PATH"))
        return steps

    def checked(self) -> Run:
        """The same, read in full: whatever in it is damaged or of another run is refused."""
        self._check_dictionaries_there()
        _ = self.found, self.curves, self.tables, self.images
        return self

    def _circuit(self, files: CircuitFiles) -> Circuit:
        circuit = Circuit.load(files.circuit)
        check_circuit(self.folder, files, circuit, self.model, self.dictionaries)
        return circuit

    def _behaviour(self, files: CircuitFiles) -> Behaviour:
        circuit = self._circuit(files)
        behaviour = _cases(files, circuit)
        check_together(self.folder, files, Found(files.stem, circuit, behaviour))
        return behaviour

    def _validation(self, files: CircuitFiles) -> Validation:
        validation = self._found(files).validation
        assert validation is not None  # its file is there
        return validation

    def _found(self, files: CircuitFiles) -> Found:
        circuit = self._circuit(files)
        found = Found(
            files.stem,
            circuit,
            _cases(files, circuit) if files.behaviour.exists() else None,
            Validation.load(files.validation) if files.validation.exists() else None,
        )
        check_together(self.folder, files, found)
        return found

    def _model_folder(self) -> Path:
        place = self.folder.model_place
        if place is None:
            raise RunError(f"{self.folder} has no folder 'model'. Train one: circuits model train "
                           f"{self.folder}")  # fmt: skip
        self._check_trained(place, "model train")
        return place

    def _check_dictionaries_there(self) -> None:
        self._model_folder()  # is missed first
        place = self.folder.dictionaries
        if not place.exists():
            raise RunError(
                f"{self.folder} has no folder 'saes'. Train some: circuits sae train {self.folder}"
            )
        self._check_trained(place, "sae train")

    def _check_trained(self, folder: Path, command: str) -> None:
        if in_training(folder):
            raise RunError(
                f"{folder} holds a checkpoint: its training is not finished. Let it finish: "
                f"circuits {command} {self.folder}"
            )

    def _check_layer(self, layer: int, there: list[int], step: str) -> None:
        if layer not in there:
            raise NotInRunError(
                f"{self.folder} has no {step} of layer {layer} (it has {there or 'none'}). Make "
                f"it: circuits {step} {self.folder} --layer {layer}"
            )

    def _read(self, path: Path, read: Callable[[Path], Read], step: str) -> Read:
        try:
            return read(path)
        except CircuitsError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: cannot be read ({first_line(error)}). It was cut short or is another "
                f"file: make it again: circuits {step} {self.folder}"
            ) from error

    def _contents(self) -> pd.DataFrame:
        """What is there, by the names of files alone."""
        folder = self.folder
        listed = {
            "model": [] if folder.model_place is None else [folder.model_place.name],
            "dictionaries": [str(site) for site in folder.sites()],
            "interactions": [f"layer {layer}" for layer in folder.interaction_layers()],
            "circuits": list(self.circuits),
            "validations": list(self.validations),
            "rank": [f"layer {layer}" for layer in folder.rank_layers()],
            "images": [folder.images.name] * folder.image_study.exists(),
            "report": [p.name for p in (folder.report_page, folder.report_file) if p.exists()],
        }
        there = [", ".join(map(shown, names)) or "none" for names in listed.values()]
        return pd.DataFrame({"part": list(listed), "there": there})

    def _missing_here(self) -> list[Missing]:
        """`missing` as far as it can be seen without loading anything."""
        sites = set(self.folder.sites())
        layers = {site.layer for site in sites if set(mlp_sites(site.layer)) <= sites}
        return _missing(self.folder, sorted(layers))

    def _repr_html_(self) -> str:
        try:
            missing = pd.DataFrame([vars(each) for each in self._missing_here()])
            tables = {"contents": self._contents()} | ({"missing": missing} if len(missing) else {})
        except CircuitsError as error:  # a file under a name that no run gives
            return html_of(f"Run({self.folder}): {error}")
        return html_of(f"Run({self.folder})", **tables)

    def __repr__(self) -> str:
        try:
            lines = [f"  {row.part:13} {row.there}" for row in self._contents().itertuples()]
            steps = self._missing_here()
        except CircuitsError as error:
            return f"Run({self.folder}): {error}"
        place = str(self.folder)
        lines += [f"  not made yet: {s.step} ({s.command.replace('RUN', place)})" for s in steps]
        return "\n".join([f"Run({place})", *lines])


def _cases(files: CircuitFiles, circuit: Circuit) -> Behaviour:
    metric: Metric = "logit difference" if circuit.evidence is None else circuit.evidence.metric
    return Behaviour.load(files.behaviour, metric, name=circuit.name)


def _order(found: Found) -> tuple[bool, bool, float, str]:
    evidence = found.circuit.evidence
    computed = 0.0 if evidence is None else evidence.shares.computed
    return found.behaviour is None, not found.proven, -computed, found.stem


def _missing(folder: RunFolder, layers: list[int]) -> list[Missing]:
    steps = [] if folder.model_place else [("a model", "circuits model train RUN")]
    behaved = [files for files in folder.circuit_files() if files.behaviour.exists()]
    if not layers:
        steps.append(("dictionaries before and after an MLP", "circuits sae train RUN"))
    if set(layers) - set(folder.interaction_layers()):
        steps.append(("interactions of every output", "circuits interactions RUN"))
    if not behaved:
        steps.append(("circuits of a behaviour", "circuits find RUN --behaviour negation"))
    if unproven := [files.stem for files in behaved if not files.validation.exists()]:
        steps.append((f"validation of {', '.join(unproven)}", "circuits validate RUN"))
    if not folder.rank_layers():
        steps.append(("low rank", "circuits rank RUN"))
    return [Missing(step, command) for step, command in steps]
