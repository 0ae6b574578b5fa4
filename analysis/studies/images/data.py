"""Labelled images of one size, as rows of pixels from 0 to 1, split into training and test.

scikit-learn's digits are sorted by writer and the last fifth is the test set, so accuracy is lower
than with shuffled digits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.studies.images.png import decoded
from circuits.arguments import checked
from circuits.errors import ImageError, check_count, check_indices, check_some, first_line, shorten
from circuits.storage.hub import dataset_table, how_to_ask, hub_name
from circuits.storage.limits import check_readable, check_unpacked, gunzipped

_UNREADABLE = (
    ValueError, EOFError, BadZipFile, zlib.error, AttributeError, TypeError, MemoryError, OSError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
"""What a file of junk raises when it is read as an archive of arrays."""

_KEYS = ("x_train", "y_train", "x_test", "y_test")  # of an .npz


@checked
@dataclass(frozen=True, eq=False)
class Images:
    """Images as rows of pixels, and the class of each."""

    pixels: Float[Tensor, "image pixel"]  # from 0 to 1
    labels: Int64[Tensor, " label"]  # one for each image
    height: int
    width: int
    n_class: int

    def __post_init__(self) -> None:
        if self.pixels.shape[1] != self.height * self.width:
            raise ImageError(
                f"Images: rows of {self.pixels.shape[1]} pixels do not fit images of {self.height} "
                f"x {self.width}. Flatten each image to a row."
            )
        if len(self.pixels) != len(self.labels):
            raise ImageError(
                f"Images: {len(self.pixels)} images with {len(self.labels)} labels. Pass one label "
                f"for each image."
            )
        wrong = ((self.labels < 0) | (self.labels >= self.n_class)).nonzero()[:, 0].tolist()
        if wrong:
            raise ImageError(
                f"Images: labels must run from 0 to {self.n_class - 1}, but image {wrong[0]} has "
                f"{int(self.labels[wrong[0]])} ({len(wrong)} wrong labels in all). Number the "
                f"classes from 0, the same in training and test."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int, seed: int = 0) -> Images:
        """A random subset, with equally many images of each class as far as they go."""
        check_count("Images.take", n, len(self), "n")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        turn = torch.zeros(len(self))  # how many of its class come earlier
        for label in range(self.n_class):
            here = self.labels[order] == label
            turn[here] = torch.arange(int(here.sum())).float()
        return self._at(order[turn.argsort(stable=True)[:n]])

    def of_classes(self, classes: Sequence[int]) -> Images:
        """The images of some classes; labels stay as they are."""
        listed = check_some("Images.of_classes", classes, "classes")
        check_indices("Images.of_classes", listed, self.n_class, "class")
        return self._at(torch.isin(self.labels, torch.tensor(listed)).nonzero()[:, 0])

    def _at(self, kept: Int64[Tensor, " kept"]) -> Images:
        return replace(self, pixels=self.pixels[kept], labels=self.labels[kept])


@checked
@dataclass(frozen=True, eq=False)
class ImageData:
    """Training images and test images."""

    name: str
    train: Images
    test: Images


@checked
def open_images(where: str | Path | None = None) -> ImageData:
    """scikit-learn's digits, or the images of an ``.npz``, a folder of IDX files, or of a data set
    of the hub: ``hub:owner/name``."""
    if where is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = (digits.images / 16).astype(np.float32), digits.target
        cut = len(x) * 4 // 5
        parts = {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}
        return _checked("digits", parts)
    if (name := hub_name(where)) is not None:
        return _checked(name, _from_hub(name))
    path = Path(where).expanduser()
    if path.is_dir():
        return _checked(path.name, _from_idx(path))
    if path.is_file():
        return _checked(path.stem, _from_npz(path))
    raise ImageError(
        f"'{where}': no such file or folder, so there is no .npz and no IDX file to read. "
        f"{how_to_ask(where)}"
    )


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    check_readable(path, ImageError)
    try:
        with ZipFile(path) as packed:
            check_unpacked(path, sum(part.file_size for part in packed.infolist()), ImageError)
        # opened here: numpy leaves a file that is no archive open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive of them")
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                raise ImageError(
                    f"{path}: no {', '.join(missing)} in it; it holds "
                    f"{', '.join(archive.files) or 'nothing'}. Save it with numpy.savez(path, "
                    f"{', '.join(f'{key}=…' for key in _KEYS)})."
                )
            arrays = {key: archive[key] for key in _KEYS}
            if other := [key for key in _KEYS if not isinstance(arrays[key], np.ndarray)]:
                raise ValueError(f"its {other[0]} is no array")
            return arrays
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"{path}: not a readable .npz ({first_line(error)}). Save plain arrays with "
            f"numpy.savez; pickled ones are never opened."
        ) from error


def _from_idx(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for key in _KEYS:
        kind, split = key.split("_")
        name = ("train" if split == "train" else "t10k", "images" if kind == "x" else "labels")
        files = sorted(folder.glob("{}*{}*ubyte*".format(*name)))
        if not files:
            raise ImageError(
                f"{folder}: no {'-'.join(name)}-…-ubyte in this folder, with or without .gz. Pass "
                f"a folder with the four IDX files of MNIST under their own names."
            )
        found[key] = _read_idx(files[0])
    return found


def _read_idx(path: Path) -> np.ndarray:
    check_readable(path, ImageError)
    try:
        packed = path.suffix == ".gz"
        content = gunzipped(path, ImageError) if packed else path.read_bytes()
        zero, kind, n_axis = struct.unpack(">HBB", content[:4])
        if (zero, kind) != (0, 8):
            raise ValueError("its header is not that of a file of bytes")
        shape = struct.unpack(f">{n_axis}I", content[4 : 4 + 4 * n_axis])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axis).reshape(shape).copy()
    except ImageError:
        raise
    except (ValueError, struct.error, EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{path}: not a readable IDX file ({first_line(error)}). Download it again."
        ) from error


def _from_hub(name: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        table = dataset_table(name, split)
        missing = {"image", "label"} - set(table.column_names)
        if missing:
            raise ImageError(
                f"data set '{name}': no column {' and '.join(sorted(missing))}; it has "
                f"{', '.join(table.column_names)}. Save it as an .npz."
            )
        pictures = [decoded(row["bytes"] or b"") for row in table.column("image").to_pylist()]
        sizes = {picture.shape for picture in pictures}
        if len(sizes) != 1:
            raise ImageError(f"data set '{name}': images of sizes {sorted(sizes)}. Resize to one.")
        found[f"x_{split}"] = np.stack(pictures)
        found[f"y_{split}"] = table.column("label").to_numpy()
    return found


def _checked(name: str, parts: dict[str, np.ndarray]) -> ImageData:
    pixels = [_pixels(name, key, parts[key]) for key in ("x_train", "x_test")]
    sizes = [parts[key].shape[1:3] for key in ("x_train", "x_test")]
    if sizes[0] != sizes[1]:
        raise ImageError(
            f"{name}: training images of size {sizes[0]}, test images of size {sizes[1]}. Resize "
            f"them to one size."
        )
    labels = [_labels(name, key, parts[key]) for key in ("y_train", "y_test")]
    low, high = int(labels[0].min()), int(labels[0].max())
    if high < 1:
        raise ImageError(
            f"{name}: y_train runs from {low} to {high}, so there is at most one class and nothing "
            f"to learn. Pass images of two or more classes, numbered from 0."
        )
    held = set(labels[0].unique().tolist())
    # the first gap is at most len(held), however large the largest label is
    empty = [label for label in range(min(high, len(held)) + 1) if label not in held]
    if empty:
        raise ImageError(
            f"{name}: labels run to {high}, but no training image has class "
            f"{shorten(empty)}. Number the classes without gaps, or add images."
        )
    height, width = sizes[0]
    made = [Images(x, y, height, width, high + 1) for x, y in zip(pixels, labels, strict=True)]
    return ImageData(name, *made)


def _labels(name: str, key: str, labels: np.ndarray) -> Int64[Tensor, " image"]:
    whole = np.issubdtype(labels.dtype, np.integer)
    if labels.ndim != 1 or not whole or not len(labels):
        raise ImageError(
            f"{name}: {key} of shape {labels.shape} and type {labels.dtype} is not a list "
            f"of class numbers. Pass one whole number for each image."
        )
    return torch.from_numpy(labels.astype(np.int64))


def _pixels(name: str, key: str, images: np.ndarray) -> Float[Tensor, "image pixel"]:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or 0 in images.shape:
        channels = f", {images.shape[-1]} channels" if images.ndim == 4 else ""
        raise ImageError(
            f"{name}: {key} has shape {images.shape}{channels}, not (images, height, width) of one "
            f"channel. Convert to grey with .mean(-1), or pass one channel."
        )
    if images.dtype == np.uint8:
        return torch.from_numpy(images.reshape(len(images), -1)).float() / 255
    span = ""
    if np.issubdtype(images.dtype, np.number):
        span = f" and runs from {images.min()} to {images.max()}"
    if not np.issubdtype(images.dtype, np.floating) or not 0 <= images.min() <= images.max() <= 1:
        raise ImageError(
            f"{name}: {key} is of type {images.dtype}{span}, not bytes or floats from 0 to 1. "
            f"Convert it, for example by dividing by the largest value."
        )
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
