"""Every path of a run, spelt once.

::

    RUN/
      manifest.json               what made what, with hashes
      model/                      a Hugging Face Llama folder
      saes/<hook name>/           one dictionary each
      interactions/layer-0.parquet
      circuits/<name>.json        beside it .graphml, .behaviour.jsonl and .validation.json
      rank/layer-0.parquet        beside it .json
      images/                     the image case study
      statistics/                 of the outputs of a layer, in shards, for its page
      report/index.html           or report.html, one file
      demo.json                   which steps of `circuits demo` are done

A circuit's files are named after its behaviour, with a hyphen for every run of characters other
than letters, digits and ``_ . +``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from circuits.errors import RunError, SiteError
from circuits.model.site import Site
from circuits.storage.manifest import NAME

_VALIDATION = ".validation.json"


@dataclass(frozen=True)
class CircuitFiles:
    """A circuit's files, whether they are there or not."""

    folder: Path
    stem: str

    @property
    def circuit(self) -> Path:
        """The circuit."""
        return self.folder / f"{self.stem}.json"

    @property
    def graph(self) -> Path:
        """The same as a graph for other tools."""
        return self.folder / f"{self.stem}.graphml"

    @property
    def behaviour(self) -> Path:
        """The cases that it was found and validated on."""
        return self.folder / f"{self.stem}.behaviour.jsonl"

    @property
    def validation(self) -> Path:
        """What its validation measured."""
        return self.folder / f"{self.stem}{_VALIDATION}"

    def remove(self) -> None:
        """Remove those that are there."""
        for file in (self.circuit, self.graph, self.behaviour, self.validation):
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder, and what is there."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def manifest(self) -> Path:
        """Which step made which file."""
        return self.path / NAME

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.path / "model"

    @property
    def dictionaries(self) -> Path:
        """The folder of the dictionaries."""
        return self.path / "saes"

    def dictionary(self, site: Site) -> Path:
        """The folder of one dictionary."""
        return self.dictionaries / site.hook_name

    def sites(self) -> list[Site]:
        """The sites that folders of dictionaries are named after, in the model's order."""
        found = []
        for folder in _inside(self.dictionaries, "*"):
            try:
                found.append(Site.parse(folder.name))
            except SiteError:  # a dictionary under a name of its own: only its files know the site
                continue
        return sorted(found, key=lambda site: site.order)

    def interactions(self, layer: int) -> Path:
        """The table of a layer's strongest pairs."""
        return self.path / "interactions" / f"layer-{layer}.parquet"

    def interaction_layers(self) -> list[int]:
        """The layers that have such a table."""
        return _layers(self.interactions(0).parent, ".parquet")

    def circuit(self, name: str) -> CircuitFiles:
        """The files of the circuit of a name."""
        if not (stem := _slug(name)):
            raise RunError(f"circuit {name!r} has no letter or digit to name a file by. Rename it.")
        return CircuitFiles(self.circuits, stem)

    @property
    def circuits(self) -> Path:
        """The folder of the circuits."""
        return self.path / "circuits"

    def circuit_files(self) -> list[CircuitFiles]:
        """Those of every circuit that is there."""
        return [
            CircuitFiles(self.circuits, file.stem)
            for file in _inside(self.circuits, "*.json")
            if not file.name.endswith(_VALIDATION)
        ]

    def files_of(self, name: str) -> CircuitFiles | None:
        """Those of a circuit that is there, by its name or its file's."""
        known = {files.stem: files for files in self.circuit_files()}
        return known.get(name, known.get(_slug(name)))

    def rank(self, layer: int) -> Path:
        """The table of a layer's rank curve."""
        return self.path / "rank" / f"layer-{layer}.parquet"

    def rank_summary(self, layer: int) -> Path:
        """What belongs to that table."""
        return self.rank(layer).with_suffix(".json")

    def rank_shards(self, layer: int) -> Path:
        """The folder of a measurement that is not finished."""
        return self.path / "rank" / f".layer-{layer}"

    def rank_layers(self) -> list[int]:
        """The layers that have a rank curve."""
        return _layers(self.rank(0).parent, ".json")

    @property
    def images(self) -> Path:
        """The folder of the image case study."""
        return self.path / "images"

    @property
    def image_study(self) -> Path:
        """Its figures."""
        return self.images / "study.json"

    def image_table(self, name: str) -> Path:
        """One of its tables."""
        return self.images / f"{name}.parquet"

    def image_picture(self, name: str) -> Path:
        """One of its pictures."""
        return self.images / f"{name}.png"

    def statistics(self, layer: int, name: str, fingerprint: str) -> Path:
        """The shards of statistics of a layer's outputs."""
        return self.path / "statistics" / f"layer-{layer}-{name}-{fingerprint[:12]}"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.path / "report"

    @property
    def report_page(self) -> Path:
        """The page of it to open."""
        return self.report / "index.html"

    @property
    def report_file(self) -> Path:
        """The report as one file."""
        return self.path / "report.html"

    @property
    def demo(self) -> Path:
        """What `circuits demo` remembers."""
        return self.path / "demo.json"

    def results(self) -> list[Path]:
        """All files that a report is made of."""
        folders = (self.interactions(0).parent, self.circuits, self.rank(0).parent)
        return sorted(file for folder in folders for file in folder.glob("*.*"))


def in_training(folder: Path) -> bool:
    """Whether a checkpoint is in a folder of something that is trained."""
    return bool(_inside(folder, "checkpoint*.safetensors"))


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+]+", "-", name).strip("-.")


def _inside(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def _layers(folder: Path, ending: str) -> list[int]:
    layers = []
    for path in _inside(folder, f"layer-*{ending}"):
        number = path.stem.removeprefix("layer-")
        if not number.isdecimal():
            raise RunError(
                f"{path}: its name has no layer number. Files of a run are called layer-0, layer-1 "
                f"and so on."
            )
        layers.append(int(number))
    return sorted(layers)
