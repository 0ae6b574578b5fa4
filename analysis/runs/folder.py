"""Every path of a run, spelt once.

::

    RUN/
      manifest.json               what made what, with hashes
      model/                      a Hugging Face Llama folder; of a twin, with twin.json
      saes/<hook name>/           one dictionary each
      transcoders/<hook name>/    one transcoder each, named after what it reads
      interactions/layer-0.parquet
      circuits/<name>.json        beside it .graphml, .behaviour.jsonl and .validation.json
      layered/<name>.json         a circuit through several layers; beside it the same, no .graphml
      traces/<name>.json          one text through the network; beside it .graphml and .html
      rank/layer-0.parquet        beside it .json
      images/                     the image case study
      statistics/                 of the outputs of a layer, in shards, for its page
      report/index.html           or report.html, one file
      steps.json                  which steps of `circuits demo` or `circuits run` are done

A circuit's files are named after its behaviour; hyphens replace what is no letter, digit or
``_ . +``.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from analysis.attribution.traced import FORMAT
from circuits.corpus.stories.prompts import BEHAVIOURS
from circuits.errors import ModelError, RunError
from circuits.model.site import Site
from circuits.plotting.display import shown
from circuits.storage.files import PLAN, RESULT
from circuits.storage.manifest import NAME, made_in
from circuits.storage.replacing import within
from sae.formats.folders import IN_RUN

Read = TypeVar("Read")
# folders that hold nothing else; in traces, exports for other tools are known as such
_OWN = {"model", IN_RUN, "transcoders", "interactions", "circuits", "layered", "rank", "images",
        "statistics", "report"}  # fmt: skip
_VALIDATION = ".validation.json"
_ENDINGS = re.compile(r"\.(validation|behaviour)$", re.IGNORECASE)
_RESERVED = re.compile("con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_SHOWN = 40  # characters of a text in the name of its files
_LONGEST = 120  # of a circuit's files: endings and temporary names come on top


class _Place:
    """A path that an object has: a name in its folder, or an ending of the name that it has."""

    def __init__(self, name: str = "", ending: str = "") -> None:
        self.name, self.ending = name, ending

    def __get__(self, owner: Any, kind: type) -> Path:
        return owner.path / self.name if self.name else Path(f"{owner.path}{self.ending}")


@dataclass(frozen=True)
class CircuitFiles:
    """A circuit's files, whether they are there or not."""

    path: Path  # what their names begin with

    circuit = _Place(ending=".json")
    graph = _Place(ending=".graphml")
    behaviour = _Place(ending=".behaviour.jsonl")  # the cases that it was found and validated on
    validation = _Place(ending=_VALIDATION)

    @property
    def stem(self) -> str:
        """What the files are called."""
        return self.path.name

    @property
    def all(self) -> tuple[Path, ...]:
        """Each of them."""
        return self.circuit, self.graph, self.behaviour, self.validation


@dataclass(frozen=True)
class CircuitFolder:
    """The circuits in a folder of a run, by their files."""

    path: Path

    def files(self, name: str) -> CircuitFiles:
        """The files of the circuit of a name."""
        if not (stem := _slug(name)):
            raise RunError(f"circuit {name!r} has no letter or digit to name a file by. Rename it.")
        if len(stem.encode()) > _LONGEST:
            raise RunError(
                f"circuit {name!r:.60}: its name is longer than the {_LONGEST} bytes that files "
                f"can be named by. Shorten it."
            )
        if _RESERVED.fullmatch(stem.split(".")[0]):
            raise RunError(
                f"circuit {name!r}: Windows has no files of this name. Rename it, to copy the run."
            )
        return CircuitFiles(self.path / stem)

    def own_name(self, files: CircuitFiles, name: str) -> str:
        """What these files are known by: the name of their circuit, or of a copy, which has the
        same, what the files are called."""
        return name if _slug(name) == files.stem else files.stem

    def twin_of(self, files: CircuitFiles) -> CircuitFiles | None:
        """Those of another circuit that would be the same files on some disks."""
        known = {folded(other.stem): other for other in self.there()}
        other = known.get(folded(files.stem), files)
        return None if other.stem == files.stem else other

    def there(self) -> list[CircuitFiles]:
        """Those of every circuit that is there."""
        files = [f for f in self.path.glob("*.json") if not f.name.endswith(_VALIDATION)]
        return [CircuitFiles(file.with_suffix("")) for file in sorted(files)]

    def named(self, name: str) -> CircuitFiles | None:
        """Those of a circuit that is there, by its name or its file's."""
        known = {files.stem: files for files in self.there()}
        return known.get(name, known.get(_slug(name)))


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder, and what is there."""

    path: Path

    model = _Place("model")
    dictionaries = _Place(IN_RUN)
    transcoders = _Place("transcoders")
    circuits = _Place("circuits")
    layered = _Place("layered")
    images = _Place("images")
    image_study = _Place("images/study.json")
    report = _Place("report")
    report_page = _Place("report/index.html")
    report_file = _Place("report.html")
    steps = _Place("steps.json")
    steps_before = _Place("demo.json")  # what it was called

    def __str__(self) -> str:
        """As a shell reads it: messages name commands to paste."""
        return in_shell(self.path)

    @property
    def model_place(self) -> Path | None:
        """Where the model is: its folder, or the run itself where that is a model's own folder."""
        if self.model.is_dir():
            return self.model
        return self.path if (self.path / "config.json").is_file() else None

    def dictionary(self, site: Site) -> Path:
        """The folder of one dictionary."""
        return self.dictionaries / site.hook_name

    def interactions(self, layer: int) -> Path:
        """The table of a layer's strongest pairs."""
        return self.path / "interactions" / f"layer-{layer}.parquet"

    def interaction_shards(self, layer: int) -> Path:
        """The folder of a table that is not finished."""
        return within(self.path, self.path / "interactions" / f".layer-{layer}")

    def trace(self, name: str, *asked: str) -> Path:
        """The attribution graph of a text, by its name or by all that was asked, name first: no two
        share a file."""
        stem = _slug(name)
        if asked or stem not in ("", name):
            digest = sha256(json.dumps([name, *asked]).encode()).hexdigest()[:8]
            stem = "-".join(filter(None, (_slug(name[:_SHOWN]), digest)))
        if not stem or len(stem.encode()) > _LONGEST or _RESERVED.fullmatch(stem.split(".")[0]):
            raise RunError(
                f"trace {name!r:.60}: no file can have this name everywhere. Take letters or "
                f"digits, at most {_LONGEST} bytes of them."
            )
        return self.path / "traces" / f"{stem}.json"

    def traces(self) -> list[Path]:
        """The attribution graphs that are there: what a step made, or what begins as one; an
        export for another tool is none."""
        place = self.path / "traces"
        made = made_in(self.path, place)
        files = [file for file in place.glob("*.json") if file.is_file()]
        return sorted(file for file in files if file in made or _begins(file, FORMAT))

    def rank(self, layer: int) -> Path:
        """The table of a layer's rank curve."""
        return self.path / "rank" / f"layer-{layer}.parquet"

    def rank_summary(self, layer: int) -> Path:
        """What belongs to that table."""
        return self.rank(layer).with_suffix(".json")

    def rank_shards(self, layer: int) -> Path:
        """The folder of a measurement that is not finished."""
        return within(self.path, self.path / "rank" / f".layer-{layer}")

    def image(self, name: str) -> Path:
        """A table or picture of the image case study."""
        return self.images / name

    def statistics(self, layer: int, name: str, fingerprint: str) -> Path:
        """The shards of statistics of a layer's outputs."""
        own = f"layer-{layer}-{name}-{fingerprint[:12]}"
        return within(self.path, self.path / "statistics" / own)

    @property
    def one_layer(self) -> CircuitFolder:
        """The circuits of one layer."""
        return CircuitFolder(self.circuits)

    @property
    def across_layers(self) -> CircuitFolder:
        """The circuits through several layers."""
        return CircuitFolder(self.layered)

    def circuit(self, name: str) -> CircuitFiles:
        """The files of the circuit of a name."""
        return self.one_layer.files(name)

    def sites(self) -> list[Site]:
        """The sites that folders of dictionaries are named after, in the model's order."""
        found = []
        for folder in self.dictionaries.glob("*"):
            with suppress(ModelError):  # under a name of its own: only its files know the site
                found.append(Site.parse(folder.name))
        return sorted(found, key=lambda site: site.order)

    def layers(self, file: Callable[[int], Path]) -> list[int]:
        """Those that have a file named like that of layer 0."""
        first, layers = file(0), []
        for path in first.parent.glob(f"layer-*{first.suffix}"):
            number = path.stem.removeprefix("layer-")
            if not number.isdecimal():
                raise RunError(
                    f"{path}: its name has no layer number. Files of a run are called layer-0, "
                    f"layer-1 and so on."
                )
            layers.append(int(number))
        return sorted(layers)

    def results(self) -> list[Path]:
        """All files that a report is made of."""
        folders = (self.interactions(0).parent, self.rank(0).parent)
        layers = [file for folder in folders for file in folder.glob("[!.]*.*")]
        circuits = [*self.one_layer.there(), *self.across_layers.there()]
        files = [file for circuit in circuits for file in circuit.all if file.exists()]
        return sorted([*layers, *files, *self.traces()])


def in_shell(path: str | Path) -> str:
    """A path for a command to paste: whatever it is called, it is one argument, and no option or
    name on the hub."""
    words = str(path)
    return shlex.quote(f"./{words}" if words.startswith(("-", "hub:")) else words)


def run_above(place: Path) -> Path | None:
    """The run that a model's or a dictionary's folder lies in."""
    return next((run for run in [*place.parents][:2] if (run / NAME).is_file()), None)


def check_not_of_a_run(place: Path) -> None:
    """Refuse a folder in which a run keeps its own files, for files that another tool reads: the
    run would take them for its own, or its report would be refused."""
    place = place.expanduser().resolve()
    for run in place.parents:
        own, *within = place.relative_to(run).parts
        free = own in ("circuits", "layered") and within  # as `circuits export` does by itself
        is_run = any((run / file).is_file() for file in (NAME, "model/config.json"))
        if own in _OWN and not free and is_run:
            raise RunError(
                f"{place} is where the run {run} keeps its own files, and files of another kind "
                f"would get in their way. Name another folder, such as {run / 'attribution'}."
            )


def in_training(folder: Path) -> bool:
    """Whether a checkpoint is in a folder of something that is trained."""
    return any(folder.glob("checkpoint*.safetensors"))


def begun(folder: Path) -> bool:
    """Whether a training that has not ended is in a folder, or in one inside it; also one that was
    killed before its first file."""
    plans = [*folder.glob(PLAN), *folder.glob(f"*/{PLAN}")]
    whole = any(p.is_file() and p.parent.suffix != ".part" for p in folder.rglob("*"))
    return not whole or any(not plan.with_name(RESULT).exists() for plan in plans)


def _begins(file: Path, mark: str) -> bool:
    with file.open("rb") as opened:
        return mark.encode() in opened.read(100)


def _slug(name: str) -> str:
    stem = re.sub(r"[^\w.+]+", "-", unicodedata.normalize("NFC", name)).strip("-.")
    return _ENDINGS.sub(r"-\1", stem)  # or the circuit's file would be another one's


def folded(stem: str) -> str:
    """The same for names that one file has on some disks."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


_NAMED = {
    file: (("one layer", f"{file}s"), ("several layers", across))
    for file, across in (("circuit", "layered"), ("behaviour", "layered_behaviours"),
                         ("validation", "layered_validations"))
}  # fmt: skip


class NotInRunError(RunError, KeyError):
    """A name that a run does not have; a KeyError, too, as other mappings raise."""

    __str__ = Exception.__str__


@dataclass(frozen=True, eq=False, repr=False)
class ByName(Mapping, Generic[Read]):
    """What a run has of each circuit, by the circuit's name or its file's; read when asked for."""

    run: RunFolder
    folder: CircuitFolder
    file: str  # which of a circuit's
    kind: str
    command: str  # that makes it
    find: str  # the command that makes another circuit, of a behaviour
    read: Callable[[CircuitFiles], Read | None]

    def _has(self, files: CircuitFiles | None) -> bool:
        return files is not None and getattr(files, self.file).exists()

    def __iter__(self) -> Iterator[str]:
        return (files.stem for files in self.folder.there() if self._has(files))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._has(self.folder.named(name))

    def files(self, name: str) -> CircuitFiles:
        """The files of the circuit; refused where this one is not among them."""
        files = self.folder.named(name) if isinstance(name, str) else None
        if files is None or not self._has(files):
            raise self._missing(name, files)
        return files

    def _missing(self, name: object, files: CircuitFiles | None) -> NotInRunError:
        return NotInRunError(
            f"{self.run} has no {self.kind} '{shown(str(name))}' (it has {self._names()}). "
            f"{self._how_to_make(name, files)}"
        )

    def _how_to_make(self, name: object, files: CircuitFiles | None) -> str:
        """Where it is instead, or a command that works: one that makes what is missing, or one
        that makes another."""
        across = self.folder == self.run.across_layers
        other = self.run.one_layer if across else self.run.across_layers
        there = other.named(name) if isinstance(name, str) else None
        if there is not None and self._has(there):
            what, place = _NAMED[self.file][not across]
            return f"It has that of {what}: run.{place}[{there.stem!r}] in Python"
        if files is not None and files.behaviour.exists():
            name = shlex.quote(files.stem)
            return f"Make it: circuits {self.command.format(run=self.run, name=name)}"
        if name in BEHAVIOURS:
            return f"Make it: circuits {self.find.format(run=self.run, name=name)}"
        find = self.find.format(run=self.run, name=BEHAVIOURS[0])
        return (
            f"Name one that it has, or find one: circuits {find}, or a JSONL file of cases in "
            f"place of {BEHAVIOURS[0]}"
        )

    def __getitem__(self, name: str) -> Read:
        value = self.read(self.files(name))
        if value is None:  # its file was there: it has just been moved or removed
            raise self._missing(name, None)
        return value

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _names(self) -> str:
        return ", ".join(map(shown, self)) or "none"

    def __repr__(self) -> str:
        return f"{len(self)}: {self._names()}" if len(self) else "none"
