"""A deep model as a tree of squares: eigenvectors of one layer are outputs of the one before.

Truncating each node to its eigenpairs of largest |λ| gives a small program that predicts. |λ|
belongs to unit eigenvectors while a layer's input has no unit scale, so this is the paper's
heuristic, not the best truncation for a number of leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.studies.images.data import Images
from analysis.studies.images.model import ImageModel, accuracy
from circuits.algebra.spectrum import Spectrum
from circuits.arguments import checked
from circuits.errors import ImageError, check_count, check_index, check_some


@dataclass(frozen=True, eq=False)
class Branch:
    """One direction of a layer's output, as squares of directions of the layer's input."""

    spectrum: Spectrum  # the eigenpairs that are kept
    constant: float  # what the layer's bias adds to it
    children: tuple[Branch, ...]  # one for each eigenpair; none where the layer reads pixels

    def __call__(self, pixels: Float[Tensor, "image pixel"]) -> Float[Tensor, " image"]:
        """The value of the direction for each image."""
        spectrum = self.spectrum
        if not self.children:
            return spectrum.activation(pixels).sum(1) + self.constant
        along = torch.stack([child(pixels) for child in self.children], dim=1)
        if spectrum.has_constant:
            along = along + spectrum.vectors[:, -1]
        return along.square() @ spectrum.values + self.constant

    @property
    def n_leaf(self) -> int:
        """The number of pictures that it ends in."""
        return sum(child.n_leaf for child in self.children) or len(self.spectrum)

    def nodes(self, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], float, Tensor]]:
        """Path, eigenvalue and eigenvector of every eigenpair, each before those below it."""
        pairs = zip(self.spectrum.values.tolist(), self.spectrum.vectors, strict=True)
        for rank, (value, vector) in enumerate(pairs):
            yield (*path, rank), value, vector
            if self.children:
                yield from self.children[rank].nodes((*path, rank))

    def table(self) -> pd.DataFrame:
        """One row for each eigenpair: depth (0 next to the logit), path, value."""
        rows = [
            {"depth": len(path) - 1, "path": ".".join(map(str, path)), "value": value}
            for path, value, _ in self.nodes()
        ]
        return pd.DataFrame(rows)


@checked
def tree(model: ImageModel, label: int, kept: Sequence[int]) -> Branch:
    """One class's tree; ``kept`` is the number of eigenpairs at a node, for each layer, last first.
    Keeping all everywhere is the model itself."""
    check_index("tree", label, model.n_class, "class")
    if len(kept) != len(model.layers):
        raise ImageError(
            f"tree: {len(kept)} numbers of eigenpairs for {len(model.layers)} layers. Pass one for "
            f"each layer, the last layer's first."
        )
    for count in kept:
        check_count("tree", count, None, "kept")
    exact = model.to(torch.float64)
    bias = 0.0 if exact.head_bias is None else float(exact.head_bias[label])
    return _grown(exact, len(model.layers) - 1, exact.head[label], bias, kept)


def _grown(
    model: ImageModel, depth: int, direction: Tensor, constant: float, kept: Sequence[int]
) -> Branch:
    layer = model.layers[depth]
    form = layer.interaction(direction)
    spectrum = Spectrum.of(form, min(kept[0], len(form)), has_constant=layer.has_constant)
    if layer.down_bias is not None:
        constant = constant + float(direction @ layer.down_bias)
    below: tuple[Branch, ...] = ()
    if depth:
        below = tuple(
            _grown(model, depth - 1, vector[: layer.d_model], 0.0, kept[1:])
            for vector in spectrum.vectors
        )
    return Branch(spectrum, constant, below)


@checked
def tree_curve(model: ImageModel, images: Images, cuts: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Accuracy of all classes' trees at several truncations, beside the model's."""
    full = accuracy(model.logits(images), images)
    rows = []
    for kept in check_some("tree_curve", cuts, "cuts"):
        trees = [tree(model, label, kept) for label in range(model.n_class)]
        logits = torch.stack([one(images.pixels.double()) for one in trees], dim=1)
        found = accuracy(logits, images)
        leaves = sum(one.n_leaf for one in trees)
        row = {"kept": " x ".join(map(str, kept)), "leaves": leaves, "accuracy": found}
        rows.append({**row, "lost": full - found, "n": len(images)})
    return pd.DataFrame(rows)
