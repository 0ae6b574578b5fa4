"""The image case study in a run folder, for its report: ``RUN/images``.

``study.json`` holds the measurements, ``spectra.parquet`` every eigenvalue, ``truncation.parquet``
accuracy by the number of eigenpairs kept, ``explanation.parquet`` what each eigenpair adds to one
test image's logits, and two pictures show eigenvectors and that image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.alone import alone
from analysis.runs.folder import RunFolder
from analysis.studies.images.data import ImageData
from analysis.studies.images.measurements import RANKS, measure
from analysis.studies.images.pictures import sheet, write_png
from analysis.studies.images.spectra import ClassSpectra, explanation, truncation
from analysis.studies.images.training import ImagePlan
from circuits.errors import ImageError, first_line
from circuits.storage.files import read_json, write_json
from circuits.storage.limits import check_readable
from circuits.storage.manifest import step_written
from circuits.storage.tables import COUNT, NUMBER, Kind, read_table

_ABOUT = {"data": str, "n_train": int, "n_test": int, "label": int, "seed": int}
_TABLES: dict[str, dict[str, Kind]] = {
    "spectra": {"class": COUNT, "rank": COUNT, "value": NUMBER, "share": NUMBER},
    "truncation": {"rank": COUNT, "accuracy": NUMBER, "lost": NUMBER, "n": COUNT},
    "explanation": {"class": COUNT, "rank": NUMBER, "value": NUMBER, "along": NUMBER,
                    "adds": NUMBER},  # of rank -1: all the others
}  # fmt: skip
_PICTURES = ("eigenvectors", "image")


@dataclass(frozen=True, eq=False)
class ImageStudy:
    """The saved measurements of a run."""

    about: Mapping[str, Any]  # the data, the seed, and the explained image's label
    measurements: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    pictures: Mapping[str, bytes]  # PNG

    @classmethod
    def load(cls, run: str | Path) -> ImageStudy | None:
        """Of a run; None if it has none."""
        folder = RunFolder(Path(run))
        if not folder.image_study.exists():
            return None
        content = read_json(folder.image_study, ImageError)
        try:
            tables = {
                name: read_table(folder.image(f"{name}.parquet"), columns, ImageError)
                for name, columns in _TABLES.items()
            }
            pictures = {name: _picture(folder.image(f"{name}.png")) for name in _PICTURES}
            about = {name: content["about"][name] for name in _ABOUT}
            wrong = [n for n, kind in _ABOUT.items() if type(about[n]) is not kind]
            if wrong := wrong + [name for name, table in tables.items() if table.empty]:
                raise ValueError(f"{', '.join(wrong)} cannot be what it holds")
            return cls(about, dict(content["figures"]), tables, pictures)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageError(
                f"{folder.images}: incomplete or damaged ({first_line(error)}). Make it again: "
                f"circuits digits --run {folder}"
            ) from error


def _picture(path: Path) -> bytes:
    check_readable(path, ImageError)
    return path.read_bytes()


@alone
def run_images(run: str | Path, data: ImageData, plan: ImagePlan) -> dict[str, Any]:
    """Measure one seed, save it in ``RUN/images``, and return the measurements."""
    folder = RunFolder(Path(run))
    folder.images.mkdir(parents=True, exist_ok=True)  # refused before the training
    row, model = measure(data, plan)
    spectra = ClassSpectra.of(model).with_sign(data.train)
    image, label = data.test.pixels[0], int(data.test.labels[0])
    tables = {
        "spectra": spectra.table(),
        "truncation": truncation(spectra, data.test, RANKS),
        "explanation": explanation(spectra, image),
    }
    shape = spectra.pictures(0).shape[1:]
    shown = {"eigenvectors": spectra.sheet(), "image": sheet([image.reshape(1, *shape)])}
    about = {"data": data.name, "n_train": len(data.train), "n_test": len(data.test)}
    about |= {"label": label, "seed": plan.seed}
    made_of = about | {"n_step": plan.n_step, "d_hidden": plan.d_hidden}
    with step_written(folder.path, "images", made_of) as making:
        for name, table in tables.items():
            table.to_parquet(making.place(folder.image(f"{name}.parquet")), index=False)
        for name, page in shown.items():
            write_png(page, making.place(folder.image(f"{name}.png")))
        # not how long it took: an equal run has equal files
        figures = {name: value for name, value in row.items() if name != "training_seconds"}
        write_json(making.place(folder.image_study), {"about": about, "figures": figures})
    return row
