"""A run folder as one object, read piece by piece as it is asked for.

What is missing is refused with the command that makes it; so is what is damaged, or was made with
another model than the one beside it. The report, the commands and `open_run` read runs through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd

from analysis.attribution.traced import AttributionGraph
from analysis.behaviour.cases import Behaviour
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.provenance import (
    check_dictionaries,
    layers_with_dictionaries,
    wanted_layers,
)
from analysis.lowrank.curve import RankCurve
from analysis.runs.alone import manifest_of
from analysis.runs.belonging import CircuitReader, Found, KnownFiles, LayeredFound
from analysis.runs.contents import run_html, run_text
from analysis.runs.folder import ByName, CircuitFiles, NotInRunError, RunFolder, begun, in_training
from analysis.runs.images import ImageStudy
from analysis.runs.missing import missing_steps, model_command
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.record import Validation
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.arguments import checked_methods
from circuits.corpus.documents import BuiltInCorpus, Corpus, known_stories, split_corpus
from circuits.errors import CircuitsError, RunError, first_line
from circuits.graph.circuit import Circuit
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.model.site import POINTS, BySite, Site, mlp_sites
from circuits.storage.limits import is_there
from circuits.storage.manifest import NAME, State, edited, made_in, read_manifest, states
from circuits.storage.tables import COUNT, NUMBER, Kind, check_ends, read_table
from sae.dictionary import Dictionary
from sae.loading import load_dictionaries

Read = TypeVar("Read")
_Reader = Literal["pinv", "encoder"]

_PAIRS: dict[str, Kind] = {"output": COUNT, "first": COUNT, "second": COUNT, "weight": NUMBER,
                           "z": NUMBER, "q": NUMBER}  # fmt: skip
_SETTINGS = ("n", "reader", "n_documents")  # of a table of interactions
_WEIGHED: dict[str, Kind] = {"coactivation": NUMBER, "together": NUMBER, "data_weight": NUMBER}
_FIND = "find {run} --behaviour {name}"
_VALIDATE = "validate {run} --circuit {name}"
_ACROSS = "through several layers"


@checked_methods
class Run:
    """Everything in a run folder.

    ``text`` is where a report's examples are taken from: by default the built-in stories that
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
        if not (is_there(self.folder.path, RunError) and self.folder.path.is_dir()):
            raise RunError(
                f"{self.folder}: there is no such run. Make one: circuits model train {self.folder}"
            )
        self.manifest_read = manifest_of(
            self.folder.path
        )  # what is read later fits it, or is newer
        self.marks: dict[str, str] = {}
        """What is read although it is not as its step made it: what is said of each such file."""
        self._files = KnownFiles(self.folder, self.marks)
        self._circuits = CircuitReader(self._files, lambda: (self.model, self.dictionaries))
        by_site = None if dictionaries is None else BySite(dictionaries)
        given = {"model": model, "dictionaries": by_site, "text": text}
        vars(self).update({name: value for name, value in given.items() if value is not None})

    @cached_property
    def model(self) -> Model:
        """The model."""
        place = self._model_place()
        self.check_recorded(place, *model_command(self.folder))
        return load_model(place, device=self.device)

    @cached_property
    def dictionaries(self) -> BySite[Dictionary]:
        """The dictionaries by site, or by its text such as "mlp_in@0", in the model's order; those
        of another model are refused."""
        self._model_place()  # is missed first
        place = self._trained(self.folder.dictionaries, "saes", "sae train")
        self.check_recorded(place, "sae train")
        dictionaries = load_dictionaries(self.folder.path, device=self.device)
        check_dictionaries(self.model, dictionaries)
        return dictionaries

    @cached_property
    def transcoders(self) -> BySite[Dictionary]:
        """The transcoders by the site that they read; none where none were trained."""
        if not self.folder.transcoders.exists():
            return BySite()
        made = [e["made_of"].get("plan") for e in self.manifest if "transcoders/" in e["step"]]
        target = next((p.get("target") for p in made if isinstance(p, dict)), None)
        again = f"sae train --target {target if target in POINTS else 'mlp_out'}"
        place = self._trained(self.folder.transcoders, "transcoders", again)
        self.check_recorded(place, again)
        found = load_dictionaries(place, device=self.device)
        for transcoder in found.values():
            transcoder.site_in(self.model, "a run's transcoders")  # of this model
        return found

    @cached_property
    def text(self) -> Corpus | None:
        """The text that examples are taken from."""
        return split_corpus(self._stories)[1] if self._stories is not None else None

    @cached_property
    def _stories(self) -> BuiltInCorpus | None:
        tokenizer = self.model.tokenizer
        return None if tokenizer is None else known_stories(tokenizer)

    @property
    def knows_stories(self) -> bool:
        """Whether the model knows the words of the built-in stories, and so the behaviours that
        they teach."""
        return self._stories is not None

    @property
    def layers(self) -> list[int]:
        """Those with dictionaries before and after the MLP."""
        return layers_with_dictionaries(self.model, self.dictionaries)

    def interactions(
        self, layer: int, outputs: Basis | None = None, reader: _Reader = "pinv"
    ) -> Interactions:
        """The interactions of a layer in its dictionaries' features; ``outputs`` takes the place
        of the output dictionary."""
        (layer,) = wanted_layers(self.model, self.dictionaries, [layer])
        check_dictionaries(self.model, self.dictionaries)
        into, out = (self.dictionaries[site] for site in mlp_sites(layer))
        outputs = out.basis(reader) if outputs is None else outputs
        return Interactions(self.model.layer(layer), into.basis(), outputs)

    @property
    def circuits(self) -> ByName[Circuit]:
        """The circuits, found and proposed."""
        return self._by_name("circuit", "circuit", _FIND, self._circuits.circuit)

    @property
    def behaviours(self) -> ByName[Behaviour]:
        """The cases of the circuits that were found for a behaviour."""
        read = self._circuits.found
        return self._by_name("behaviour", "circuit of a behaviour", _FIND,
                             lambda files: read(files, validated=False).behaviour)  # fmt: skip

    @property
    def validations(self) -> ByName[Validation]:
        """What the validation of each circuit measured."""
        read = self._circuits.found
        return self._by_name("validation", "validation of", _VALIDATE,
                             lambda files: read(files).validation)  # fmt: skip

    @property
    def layered(self) -> ByName[LayeredCircuit]:
        """The circuits through several layers."""
        read = self._circuits.layered
        return self._by_name("circuit", f"circuit {_ACROSS}", _FIND, read, across=True)

    @property
    def layered_behaviours(self) -> ByName[Behaviour]:
        """The cases of the circuits through several layers."""
        read = self._circuits.layered_found
        return self._by_name("behaviour", f"circuit {_ACROSS}", _FIND,
                             lambda files: read(files, validated=False).behaviour,
                             across=True)  # fmt: skip

    @property
    def layered_validations(self) -> ByName[LayeredValidation]:
        """What the validation of each circuit through several layers measured."""
        read = self._circuits.layered_found
        return self._by_name("validation", f"validation {_ACROSS} of", _VALIDATE,
                             lambda files: read(files).validation, across=True)  # fmt: skip

    def _by_name(
        self,
        file: str,
        kind: str,
        command: str,
        read: Callable[[CircuitFiles], Read | None],
        *,
        across: bool = False,
    ) -> ByName[Read]:
        place = self.folder.across_layers if across else self.folder.one_layer
        make, find = (each + " --across" * across for each in (command, _FIND))
        return ByName(self.folder, place, file, kind, make, find, read)

    def strongest(self, layer: int) -> pd.DataFrame:
        """The strongest pairs of each output of a layer, as `circuits interactions` wrote them, and
        in ``attrs`` their number, ``reader`` and documents."""
        read = partial(read_table, columns=_PAIRS, error=RunError, optional=_WEIGHED)
        table = self._of_layer(layer, "interactions", self.folder.interactions, read)
        sizes = [self.dictionaries[site].n_feature for site in mlp_sites(layer)]
        ends = {"first": sizes[0] + 1, "second": sizes[0] + 1, "output": sizes[1]}  # a constant
        where, step = self.folder.interactions(layer), f"interactions {self.folder}"
        check_ends(where, table, ends, layer, step)
        made_of = self._made_of(f"interactions of layer {layer}")
        table.attrs |= {name: made_of[name] for name in _SETTINGS if name in made_of}
        made_with = made_of.get("of")
        known = made_with if isinstance(made_with, dict) else {}
        self._check_made_with(known, f"interactions/layer-{layer}", "interactions")
        return table

    def rank(self, layer: int) -> RankCurve:
        """How well low-rank forms stand in for the features of a layer's output."""
        curve = self._of_layer(layer, "rank", self.folder.rank_summary, RankCurve.load)
        if (of := self.dictionaries.get(curve.about["site"])) is not None:
            where, ends = self.folder.rank_summary(layer), {"feature": of.n_feature}
            check_ends(where, curve.table, ends, layer, f"rank {self.folder}")
        made_with = {"model": curve.about.get("model"),
                     curve.about["site"]: curve.about.get("dictionary")}  # fmt: skip
        self._check_made_with(made_with, f"rank/layer-{layer}", "rank")
        return curve

    @property
    def images(self) -> ImageStudy | None:
        """The image case study, where there is one."""
        self.check_recorded(self.folder.images, "digits --run")
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
        """All circuits: behaviours before proposals, those of most claims first."""
        return sorted(map(self._circuits.found, self.folder.one_layer.there()), key=_order)

    @cached_property
    def layered_found(self) -> list[LayeredFound]:
        """All circuits through several layers: those of most claims first."""
        found = map(self._circuits.layered_found, self.folder.across_layers.there())
        return sorted(found, key=lambda one: (-sum(one.claims.values()), one.stem))

    @cached_property
    def curves(self) -> dict[int, RankCurve]:
        """The rank curve of each layer that has one."""
        return {layer: self.rank(layer) for layer in self.folder.layers(self.folder.rank_summary)}

    @cached_property
    def tables(self) -> dict[int, pd.DataFrame]:
        """The strongest pairs of each layer that has such a table."""
        return {
            layer: self.strongest(layer) for layer in self.folder.layers(self.folder.interactions)
        }

    @cached_property
    def traces(self) -> dict[str, AttributionGraph]:
        """The attribution graphs of single texts, by the names of their files; a note says so where
        one was edited."""
        return {file.stem: self._trace(file) for file in self.folder.traces()}

    def _trace(self, file: Path) -> AttributionGraph:
        found = self._files.read("trace", AttributionGraph.load, file, more=" TEXT")
        name = f"traces/{file.name}"
        made_with = {"model": found.about["model"], **found.about["dictionaries"]}
        self._check_made_with(made_with, name, "trace", " TEXT")
        marks = [self.marks[name]] if name in self.marks else []
        return replace(found, notes=(*found.notes, *marks))

    def reader_of_interactions(self, layer: int | None) -> str | None:
        """How `circuits interactions` read the outputs of a layer, where the manifest says."""
        reader = self._made_of(f"interactions of layer {layer}").get("reader")
        return reader if isinstance(reader, str) else None

    @property
    def missing(self) -> dict[str, str]:
        """The command of each step that was not made yet, with RUN for the folder."""
        steps = missing_steps(self.folder, self.layers, stories=self.knows_stories)
        if self.text is None:
            steps["examples in text"] = "circuits report RUN --text PATH"
        return steps

    def checked(self) -> Run:
        """The same, read in full: whatever in it is damaged or of another run is refused."""
        _ = self.dictionaries, self.found, self.layered_found, self.curves, self.tables
        _ = self.traces, self.images
        for name, (step, state) in states(self.folder.path).items():
            if state is State.MISSING:
                self.marks[name] = f"removed since the step '{step}' made it"
            elif state is not State.SAME:  # also of files that are not read here
                self.marks.setdefault(name, edited(step))
        return self

    def _check_made_with(
        self, made_with: Mapping[str, Any], place: str, step: str, more: str = ""
    ) -> None:
        """Refuse what a step made with another model or dictionaries than the run has now."""
        known = self.hashes
        other = [name for name, hash_ in made_with.items() if hash_ not in (None, known.get(name))]
        if other:
            raise RunError(
                f"{self.folder.path / place} was made with another {', '.join(other)} than the run "
                f"has now, so its numbers are of something else. Remove it and make it again: "
                f"circuits {step} {self.folder}{more}"
            )

    def _model_place(self) -> Path:
        return self._trained(self.folder.model_place, "model", *model_command(self.folder))

    def _trained(self, place: Path | None, name: str, command: str, more: str = "") -> Path:
        """The folder, refused where it is not there or its training is not finished."""
        again = f"circuits {command} {self.folder}{more}"
        if place is None or not place.exists():
            raise RunError(f"{self.folder} has no folder '{name}'. Make it: {again}")
        if in_training(place) or begun(place):
            raise RunError(f"{place}: its training is not finished. Let it finish: {again}")
        return place

    def check_recorded(self, place: Path, command: str, more: str = "") -> None:
        """Of a folder, the files that a step made."""
        for file in made_in(self.folder.path, place):
            if file.is_file():
                self._files.read(command, lambda file: file, file, more=more)

    def _of_layer(
        self, layer: int, step: str, file: Callable[[int], Path], read: Callable[[Path], Read]
    ) -> Read:
        """What a step's file of a layer holds."""
        path, there = file(layer), self.folder.layers(file)
        if layer not in there:
            raise NotInRunError(
                f"{self.folder} has no {step} of layer {layer} (it has {there or 'none'}). Make "
                f"it: circuits {step} {self.folder} --layer {layer}"
            )
        table, summary = path.with_suffix(".parquet"), path.with_suffix(".json")
        beside = [other for other in (table, summary) if other != path and other.exists()]
        try:
            return self._files.read(step, read, path, *beside)
        except CircuitsError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: cannot be read ({first_line(error)}). It was cut short or is another "
                f"file: make it again: circuits {step} {self.folder}"
            ) from error

    def _made_of(self, step: str) -> dict[str, Any]:
        """The configuration of a step, where the manifest has one."""
        return {entry["step"]: entry for entry in self.manifest}.get(step, {}).get("made_of", {})

    def _repr_html_(self) -> str:
        return run_html(self.folder)

    def __repr__(self) -> str:
        return run_text(self.folder, self.marks)


def circuit_at(path: str | Path) -> Circuit:
    """The circuit in a file; where that lies in a run, refused or marked as the run's own."""
    path = Path(path).expanduser().absolute()
    run = path.parent.parent
    if path.parent != RunFolder(run).circuits or not (run / NAME).is_file():
        return Circuit.load(path)
    return KnownFiles(RunFolder(run)).read("find", Circuit.load, path)


def _order(found: Found) -> tuple[bool, int, float, str]:
    evidence = found.circuit.evidence
    computed = 0.0 if evidence is None else evidence.shares.computed
    return found.behaviour is None, -sum(found.claims.values()), -computed, found.stem
