"""An image classifier whose only nonlinearity is a product: bilinear layers, then a linear head.

The embedding is folded into the first layer. A residual path is folded in too, because ``x = x ·
1`` is a product: as many more hidden units, whose left factor reads one coordinate each and whose
right one is the constant. ``d_hidden`` counts those as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from analysis.studies.images.data import Images
from circuits.algebra.bilinear import BilinearLayer
from circuits.arguments import checked
from circuits.errors import ImageError, ModelError, check_index, check_rows, check_width, first_line
from circuits.storage.files import written_whole
from circuits.storage.limits import check_readable
from circuits.storage.replacing import check_file

_AT_A_TIME = 4096  # images in one pass


@checked
@dataclass(frozen=True, eq=False, repr=False)
class ImageModel:
    """Pixels through bilinear layers to one logit for each class."""

    layers: tuple[BilinearLayer, ...]
    head: Float[Tensor, "class hidden"]
    height: int
    width: int
    head_bias: Float[Tensor, " class"] | None = None

    def __post_init__(self) -> None:
        sizes = [self.height * self.width, *(layer.d_out for layer in self.layers)]
        takes = [*(layer.d_model for layer in self.layers), self.head.shape[1]]
        names = [*(f"layer {i}" for i in range(len(self.layers))), "the head"]
        faults = [
            f"{name} takes {wanted} numbers, but the one before it gives {given}"
            for name, given, wanted in zip(names, sizes, takes, strict=True)
            if given != wanted
        ]
        if faults or not self.layers:
            raise ModelError(f"ImageModel: {'; '.join(faults) or 'no layers'}. Change the shapes.")

    @property
    def n_class(self) -> int:
        """The number of classes."""
        return self.head.shape[0]

    @property
    def last(self) -> BilinearLayer:
        """The layer that the head reads."""
        return self.layers[-1]

    def before(
        self, pixels: Float[Tensor, "*batch pixel"], layer: int
    ) -> Float[Tensor, "*batch model"]:
        """The input of a layer, or of the head for ``layer = n_layer``."""
        check_index("ImageModel.before", layer, len(self.layers) + 1, "layer")
        n_pixel = pixels.shape[-1] if pixels.ndim else 0
        if n_pixel != self.height * self.width:
            raise ImageError(
                f"images of {n_pixel} pixels were given to a model of {self.height} x "
                f"{self.width}. Resize them, and flatten each to a row."
            )
        x = pixels
        for one in self.layers[:layer]:
            x = one(x)
        return x

    def read_out(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch class"]:
        """The logits for an input of the head."""
        check_width("ImageModel.read_out", hidden, self.head.shape[1], "inputs of the head")
        return functional.linear(hidden, self.head, self.head_bias)

    def __call__(self, pixels: Float[Tensor, "*batch pixel"]) -> Float[Tensor, "*batch class"]:
        """The logits."""
        return self.class_layer(self.before(pixels, len(self.layers) - 1))

    @cached_property
    def class_layer(self) -> BilinearLayer:
        """The last layer and the head as one layer, whose outputs are the logits."""
        bias = self.class_constants if bool(self.class_constants.any()) else None
        return replace(self.last, down=self.head @ self.last.down, down_bias=bias)

    @property
    def class_constants(self) -> Float[Tensor, " class"]:
        """The part of each logit that no input changes."""
        constant = self.head.new_zeros(self.n_class)
        if self.last.down_bias is not None:
            constant = self.head @ self.last.down_bias
        return constant if self.head_bias is None else constant + self.head_bias

    def class_forms(self) -> Float[Tensor, "class input input"]:
        """Each logit's symmetric form in the last layer's input: pixels if it is the only one."""
        return self.last.interaction(self.head)

    def check_labels(self, images: Images) -> None:
        """Refuse images of more classes than the model has."""
        if images.n_class > self.n_class:
            raise ImageError(
                f"images of {images.n_class} classes were given to a model of {self.n_class}. "
                f"Leave out the classes that it was not trained on."
            )

    def logits(self, images: Images) -> Float[Tensor, "image class"]:
        """The logits of all images."""
        self.check_labels(images)
        return torch.cat([self(pixels) for pixels in images.pixels.split(_AT_A_TIME)])

    def to(self, dtype: torch.dtype) -> ImageModel:
        """The same model in another dtype."""
        bias = None if self.head_bias is None else self.head_bias.to(dtype)
        layers = tuple(layer.to(dtype) for layer in self.layers)
        return replace(self, layers=layers, head=self.head.to(dtype), head_bias=bias)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a safetensors file, whole or not at all; over a file that is no such model only
        with ``force``."""
        kind = "a classifier of images"
        check_file(path, kind, lambda _: _is_one(Path(path)), ImageError, force)
        tensors = {"head": self.head}
        if self.head_bias is not None:
            tensors["head_bias"] = self.head_bias
        for i, layer in enumerate(self.layers):
            for name in ("left", "right", "down", "left_bias", "right_bias", "down_bias"):
                if getattr(layer, name) is not None:
                    tensors[f"layers.{i}.{name}"] = getattr(layer, name)
        with written_whole(path) as file:
            held = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(held, file, {"height": str(self.height), "width": str(self.width)})

    def __repr__(self) -> str:
        sizes = " -> ".join(str(layer.d_hidden) for layer in self.layers)
        pixels = f"{self.height} x {self.width} pixels"
        return f"ImageModel({pixels} -> {sizes} products -> {self.n_class} classes)"


def _is_one(path: Path) -> bool:
    """Whether a file has the tensors and the notes of an image model."""
    try:
        with safe_open(path, "pt") as file:
            notes, names = set(file.metadata() or {}), set(file.keys())
    except (SafetensorError, OSError):
        return False
    return notes == {"height", "width"} and {"head", "layers.0.left"} <= names


@checked
def load_image_model(path: str | Path) -> ImageModel:
    """A model that `ImageModel.save` wrote."""
    check_readable(Path(path), ModelError)
    try:
        with safe_open(path, "pt") as file:
            sizes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        layers: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith("layers.")]:
            _, i, part = name.split(".")
            layers.setdefault(int(i), {})[part] = tensors.pop(name)
        made = tuple(BilinearLayer(**layers[i]) for i in sorted(layers))
        return ImageModel(made, height=int(sizes["height"]), width=int(sizes["width"]), **tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, FileNotFoundError) as error:
        raise ModelError(
            f"{path}: not a readable image model ({first_line(error)}). Train it again with "
            f"train_classifier and save it."
        ) from error


@checked
def accuracy(logits: Float[Tensor, "image class"], images: Images) -> float:
    """The share of images whose class has the largest logit."""
    check_rows("accuracy", logits, len(images), "images")
    check_width("accuracy", logits, images.n_class, "logits")
    return float((logits.argmax(1) == images.labels).double().mean())
