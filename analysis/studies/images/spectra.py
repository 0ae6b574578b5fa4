"""What each class responds to: eigenvectors of its form, which are pictures, and what they add.

The logit of a class of a one-layer model is ``Σ_r λ_r (v_r · x)²`` and a constant, with every
``v_r`` of unit length *in pixels*. A deeper model has the same in the input of its last layer, and
`analysis.studies.images.tree` continues from there. The sign of an eigenvector is arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from analysis.studies.images.components import pair_products
from analysis.studies.images.data import Images
from analysis.studies.images.model import ImageModel, accuracy
from analysis.studies.images.pictures import figure, sheet
from analysis.studies.images.png import encoded
from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.spectrum import Spectrum
from circuits.arguments import checked
from circuits.errors import ImageError, check_count, check_index, check_some

_MOST_EXCITED = 32  # images that decide an eigenvector's sign
_AT_A_TIME = 2048  # images whose activations are held


@checked
@dataclass(frozen=True, eq=False)
class ClassSpectra:
    """For each class the full spectrum of its form in the model's last layer."""

    model: ImageModel
    spectra: tuple[Spectrum, ...]

    @classmethod
    def of(cls, model: ImageModel) -> ClassSpectra:
        """By a full decomposition of each class's form, in float64."""
        constant = model.last.has_constant
        forms = model.class_forms().double()
        return cls(model, tuple(Spectrum.of(form, has_constant=constant) for form in forms))

    def __getitem__(self, label: int) -> Spectrum:
        return self.spectra[check_index("ClassSpectra", label, len(self.spectra), "class")]

    @cached_property
    def effective_rank(self) -> float:
        """The mean over classes of ``(Σ|λ|)² / Σλ²``."""
        return sum(spectrum.effective_rank for spectrum in self.spectra) / len(self.spectra)

    def pictures(self, label: int) -> Float[Tensor, "rank height width"]:
        """A class's eigenvectors as images, without their component along the constant."""
        model = self.model
        if len(model.layers) > 1:
            raise ImageError(
                f"ClassSpectra.pictures: the last of {len(model.layers)} layers does not read "
                f"pixels. Use analysis.studies.images.tree.tree(model, …) for a deep model."
            )
        n_pixel = model.height * model.width
        return self[label].vectors[:, :n_pixel].reshape(-1, model.height, model.width)

    def sheet(self, n: int = 5) -> UInt8[np.ndarray, "tall wide 3"]:
        """A row for each class: its first eigenvectors for it, then its first against it."""
        rows = []
        for label, spectrum in enumerate(self.spectra):
            pictures = self.pictures(label)
            blank = torch.zeros(2 * n, *pictures.shape[1:], dtype=pictures.dtype)
            for start, chosen in ((0, spectrum.values > 0), (n, spectrum.values < 0)):
                found = pictures[chosen][:n]
                blank[start : start + len(found)] = found
            rows.append(blank)
        return sheet(rows)

    def _repr_png_(self) -> bytes | None:
        """In Jupyter, the sheet."""
        return encoded(self.sheet()) if len(self.model.layers) == 1 else None

    def inputs(self, pixels: Float[Tensor, "image pixel"]) -> Float[Tensor, "image model"]:
        """The input of the last layer, in float64."""
        return self.model.before(pixels, len(self.model.layers) - 1).double()

    def with_sign(self, images: Images) -> ClassSpectra:
        """The same pairs, each turned so that the images that excite it most do so positively."""
        self.model.check_labels(images)
        x = self.inputs(images.pixels)
        turned = []
        for spectrum in self.spectra:
            along = _along(spectrum, x)
            top = along.abs().topk(min(_MOST_EXCITED, len(along)), dim=0).indices
            sign = along.gather(0, top).sum(0)
            vectors = torch.where(sign[:, None] < 0, -spectrum.vectors, spectrum.vectors)
            turned.append(replace(spectrum, vectors=vectors))
        return ClassSpectra(self.model, tuple(turned))

    def table(self) -> pd.DataFrame:
        """One row for each eigenpair: class, rank, value, share of the class's energy."""
        rows = []
        for label, spectrum in enumerate(self.spectra):
            squares = spectrum.values.square()
            row = {"class": label, "rank": range(len(spectrum)), "value": spectrum.values}
            rows.append(pd.DataFrame({**row, "share": squares / squares.sum()}))
        return pd.concat(rows, ignore_index=True)


def _along(spectrum: Spectrum, x: Float[Tensor, "image model"]) -> Float[Tensor, "image rank"]:
    """Each image's product with each eigenvector, the constant included."""
    width = x.shape[1]
    along = x @ spectrum.vectors[:, :width].mT
    return along + spectrum.vectors[:, -1] if spectrum.has_constant else along


@checked
def explanation(spectra: ClassSpectra, pixels: Float[Tensor, " pixel"]) -> pd.DataFrame:
    """What every eigenpair adds to one image's logits; the rows of a class sum to its logit. Rank
    −1 is the constant, which no pixel changes; it has no value and no ``along`` (NaN)."""
    x = spectra.inputs(pixels[None])
    constants = spectra.model.class_constants
    rows = []
    for label, spectrum in enumerate(spectra.spectra):
        added, along = spectrum.activation(x)[0], _along(spectrum, x)[0]
        pairs = {"rank": range(len(added)), "value": spectrum.values, "along": along, "adds": added}
        constant = {"rank": [-1], "adds": [float(constants[label])]}
        rows += [pd.DataFrame({"class": label, **part}) for part in (pairs, constant)]
    return pd.concat(rows, ignore_index=True)


@checked
def explanation_figure(
    spectra: ClassSpectra, pixels: Float[Tensor, " pixel"], n_class: int = 2, n: int = 4
) -> Any:
    """An image beside the eigenvectors of the largest contributions to its largest logits."""
    table = explanation(spectra, pixels)
    check_count("explanation_figure", n_class, None, "n_class")
    check_count("explanation_figure", n, None, "n")
    logits = table.groupby("class")["adds"].sum().sort_values(ascending=False)
    image = pixels.reshape(1, spectra.model.height, spectra.model.width).double()
    pictures, titles = [], []
    for label in map(int, logits.index[:n_class]):
        own = table[(table["class"] == label) & (table["rank"] >= 0)]
        largest = own.reindex(own["adds"].abs().sort_values(ascending=False).index)[:n]
        pictures += [image, spectra.pictures(label)[largest["rank"].to_list()]]
        titles += [f"{label}: {logits[label]:.1f}", *(f"{adds:+.1f}" for adds in largest["adds"])]
    return figure(torch.cat(pictures), titles, wrap=n + 1)


@checked
def truncation(spectra: ClassSpectra, images: Images, ranks: Iterable[int]) -> pd.DataFrame:
    """Accuracy with the first eigenpairs of each class, by their number."""
    spectra.model.check_labels(images)
    most = len(spectra.spectra[0])  # every class has all of its eigenpairs
    kept = [min(check_count("truncation", rank, None, "rank"), most)
            for rank in check_some("truncation", ranks, "ranks")]  # fmt: skip
    correct = torch.zeros(len(kept), dtype=torch.int64)
    constants = spectra.model.class_constants.double()
    for pixels, labels in zip(
        images.pixels.split(_AT_A_TIME), images.labels.split(_AT_A_TIME), strict=True
    ):
        x = spectra.inputs(pixels)
        sums = [s.activation(x).cumsum(1)[:, [rank - 1 for rank in kept]] for s in spectra.spectra]
        logits = torch.stack(sums, dim=2) + constants  # image rank class
        correct += (logits.argmax(2) == labels[:, None]).sum(0)
    full = accuracy(spectra.model.logits(images), images)
    table = pd.DataFrame({"rank": kept, "accuracy": correct.double() / len(images)})
    return table.assign(lost=full - table["accuracy"], n=len(images)).drop_duplicates("rank")


@checked
def rank_needed(curve: pd.DataFrame, most_lost: float = 0.01) -> int | None:
    """The fewest eigenpairs from which on a truncation curve loses no more than ``most_lost``."""
    if missing := {"rank", "lost"} - {*curve.columns}:
        raise ImageError(
            f"rank_needed: the curve has no column {' or '.join(sorted(missing))}. Pass a table of "
            f"truncation(spectra, images, ranks)."
        )
    needed = None
    for rank, lost in zip(curve["rank"][::-1], curve["lost"][::-1], strict=True):
        if lost > most_lost:
            break
        needed = int(rank)
    return needed


def best_matches(first: ClassSpectra, second: ClassSpectra, n: int = 10) -> pd.DataFrame:
    """For each class's first eigenvectors the best |cosine| among the other model's, in pixels.

    Among its first ``2 n`` of the same class with an eigenvalue of the same sign, since among more
    some are similar by chance; ``control`` is the best among those of the *next* class.
    """
    sizes = [(s.model.height, s.model.width, s.model.n_class) for s in (first, second)]
    if sizes[0] != sizes[1]:
        listed = " and ".join(f"{c} classes of {h} x {w} pixels" for h, w, c in sizes)
        raise ImageError(f"best_matches: models of {listed}. Compare models of one data set.")
    rows = []
    n_class = len(first.spectra)
    for label in range(n_class):
        pictures = first.pictures(label)[:n].flatten(1)
        values = first[label].values[:n]
        found = {}
        for name, other in (("cosine", label), ("control", (label + 1) % n_class)):
            others = second.pictures(other)[: 2 * n].flatten(1)
            same = values.sign()[:, None] == second[other].values[: 2 * n].sign()
            cosines = torch.nn.functional.cosine_similarity(pictures[:, None], others[None], dim=2)
            found[name] = torch.where(same, cosines.abs(), torch.zeros_like(cosines)).amax(1)
        rows.append(pd.DataFrame({"class": label, "rank": range(len(values)), **found}))
    return pd.concat(rows, ignore_index=True)


@checked
def form_similarity(first: ImageModel, second: ImageModel) -> pd.DataFrame:
    """Cosines of the classes' quadratic forms, ``⟨Q, Q'⟩ / |Q||Q'|``, rows the first model's; from
    inner products of the layers' hidden units, without building the forms."""
    layers = [model.class_layer for model in (first, second)]
    one, other = (layer.factors[0].shape[1] for layer in layers)
    if one != other:
        raise ImageError(
            f"form_similarity: one model's last layer takes {one} numbers, the other's {other}. "
            f"Compare models of equal size."
        )
    products = _inner_products(*layers)
    norms = [_inner_products(layer, layer).diagonal().sqrt() for layer in layers]
    return pd.DataFrame((products / norms[0][:, None] / norms[1]).numpy())


def _inner_products(first: BilinearLayer, second: BilinearLayer) -> Float[Tensor, "out other_out"]:
    """Frobenius inner products of two layers' interaction matrices, output by output."""
    first, second = first.to(torch.float64), second.to(torch.float64)
    return first.down @ pair_products(first.factors, second.factors) @ second.down.mT


def roughness(spectra: ClassSpectra, n: int = 10) -> float:
    """How much neighbouring pixels of the first eigenvectors differ, weighted by |λ|: the mean
    squared step over the mean square of a pixel, 2 for noise, near 0 for broad strokes."""
    steps, squares = 0.0, 0.0
    for label, spectrum in enumerate(spectra.spectra):
        pictures = spectra.pictures(label)[:n]
        weight = spectrum.values[:n].abs()
        across = pictures.diff(dim=2).square().mean((1, 2))
        down = pictures.diff(dim=1).square().mean((1, 2))
        steps += float((weight * (across + down) / 2).sum())
        squares += float((weight * pictures.square().mean((1, 2))).sum())
    return steps / squares if squares else 0.0


@checked
def first_sheet(models: Sequence[ClassSpectra]) -> UInt8[np.ndarray, "tall wide 3"]:
    """A row for each model: each class's strongest eigenvector for it, blank where none is."""
    rows = []
    for spectra in check_some("first_sheet", models, "models"):
        found = []
        for label, spectrum in enumerate(spectra.spectra):
            pictures = spectra.pictures(label)
            found += [*pictures[spectrum.values > 0][:1], torch.zeros_like(pictures[0])][:1]
        rows.append(torch.stack(found))
    return sheet(rows)
