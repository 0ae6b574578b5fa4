"""Dictionaries between a classifier's last layer and its head, and how their features are read.

With as many *live* features as the layer has outputs the pseudoinverse reads everything, whatever
the features are. With fewer, its share shows that they lie where the layer writes, not that they
are good features: the control ``outputs``, the layer's outputs for as many random images, does
nearly as well, where as many ``random`` directions do not.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from analysis.studies.images.data import Images
from analysis.studies.images.model import ImageModel, accuracy
from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import BilinearLayer
from circuits.arguments import checked
from circuits.errors import DictionaryError, ImageError
from sae.dictionary import Dictionary
from sae.training.plan import TrainingPlan
from sae.training.run import train_on
from sae.training.sources import TensorActivations

DICTIONARY = TrainingPlan(sites=("mlp_out@0",), n_features=100, k=5, n_tokens=600_000)
"""Few features for a layer of a thousand outputs, so that they cannot read everything."""

_CHUNK = 4096  # pairs at a time
_CHUNKS = 16  # before the same pairs are drawn again


@checked
def train_dictionary(
    model: ImageModel, images: Images, plan: TrainingPlan = DICTIONARY
) -> Dictionary:
    """Features of the last layer's output on images, all shuffled together if the buffer allows."""
    fitting = replace(
        plan,
        n_buffer=min(plan.n_buffer, len(images)),
        n_batch=min(plan.n_batch, max(2, len(images) // 4)),
    )
    return _trained([model.before(images.pixels, len(model.layers))], fitting)


@checked
def train_on_pairs(layer: BilinearLayer, plan: TrainingPlan = DICTIONARY) -> Dictionary:
    """Features of the layer's output for single pairs of inputs, without any image; every output is
    a sum of these, ``Σ_ij x_i x_j B[:, i, j]``."""

    def drawn() -> Iterator[Tensor]:
        for chunk in range(_CHUNKS):
            generator = torch.Generator().manual_seed(plan.seed * _CHUNKS + chunk)
            yield pair_outputs(layer, _CHUNK, generator)

    return _trained(drawn, plan)


def pair_outputs(
    layer: BilinearLayer, n: int, generator: torch.Generator
) -> Float[Tensor, "pair out"]:
    """``B[:, i, j]`` for random pairs of inputs; i and j may be equal."""
    left, right = layer.factors
    i, j = torch.randint(left.shape[1], (2, n), generator=generator)
    products = left[:, i] * right[:, j] + left[:, j] * right[:, i]
    return (products / 2).mT @ layer.down.mT


def _trained(
    tensors: list[Tensor] | Callable[[], Iterator[Tensor]], plan: TrainingPlan
) -> Dictionary:
    (site,) = plan.sites
    with tempfile.TemporaryDirectory() as folder:
        found = train_on(TensorActivations(tensors, site), plan, Path(folder), device="cpu")
    return next(iter(found.values()))


@checked
@torch.no_grad()
def read_through(
    model: ImageModel, dictionary: Dictionary, images: Images, seed: int = 0
) -> pd.DataFrame:
    """Loss and accuracy with the layer's output as each reader reconstructs it.

    ``encoder`` is the dictionary's own reconstruction; ``pinv`` uses the decoder's pseudoinverse
    with every feature, ``pinv_live`` with those active on any image, ``pinv_on_active`` only with
    those active on the same one; ``random`` as many random directions as there are live features
    and ``outputs`` as many of the images' own outputs, both with their pseudoinverse. ``recovered``
    is where the loss lies from guessing among equally likely classes (0) to the layer itself (1).
    """
    _check(model, dictionary)
    model.check_labels(images)
    x = model.before(images.pixels, len(model.layers)).to(dictionary.dtype)
    live = dictionary.active(x).counts > 0
    if not bool(live.any()):
        raise DictionaryError(
            "read_through: no feature is active on any of these images, so there is nothing to "
            "read. Train the dictionary on images like these."
        )
    variance = float((x - x.mean(0)).square().sum())
    rounding = (100 * torch.finfo(x.dtype).eps) ** 2 * float(x.square().sum())
    if variance <= rounding:
        raise ImageError(
            f"read_through: the layer's output is the same for all {len(x)} images, so no share of "
            f"its variance can be missed. Pass images that differ."
        )
    whole = dictionary.basis(least_squares=True)
    part = Basis.from_decoder(dictionary.decoder[live], dictionary.offset, least_squares=True)
    active = dictionary.encode(x)[:, live] != 0
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: int(live.sum())]
    outputs = Basis.from_decoder(
        x[drawn] - dictionary.offset, dictionary.offset, least_squares=True
    )

    def through(basis: Basis) -> Tensor:
        return basis.compose(basis.coordinates(x))

    given = {
        "clean": x,
        "encoder": dictionary.reconstruct(x),
        "pinv": through(whole),
        "pinv_live": through(part),
        "pinv_on_active": part.compose(part.coordinates(x) * active),
        "random": through(part.control(seed)),
        "outputs": through(outputs),
    }
    guess = math.log(model.n_class)
    rows = []
    for name, hidden in given.items():
        logits = model.read_out(hidden.to(model.head.dtype))
        loss = float(functional.cross_entropy(logits.double(), images.labels))
        fvu = float((hidden - x).square().sum()) / variance
        rows.append((name, loss, accuracy(logits, images), fvu))
    names = ["reader", "loss", "accuracy", "fvu"]
    table = pd.DataFrame(rows, columns=names).set_index("reader")
    recovered = (guess - table["loss"]) / (guess - table.loc["clean", "loss"])
    return table.assign(recovered=recovered, n_live=int(live.sum()), n=len(images))


@checked
@torch.no_grad()
def agreement(model: ImageModel, dictionary: Dictionary, images: Images) -> pd.DataFrame:
    """For each live feature the correlation of the pseudoinverse's value with the encoder's score.

    Over the images where the feature is ``active``, and over those where it is ``inactive`` (with
    the score that was not selected). ``size_inactive`` is the root mean square of the
    pseudoinverse's values on the latter, over that on active images. NaN where a correlation has
    fewer than two images.
    """
    _check(model, dictionary)
    x = model.before(images.pixels, len(model.layers)).to(dictionary.dtype)
    live = dictionary.active(x).counts.nonzero()[:, 0]
    part = Basis.from_decoder(dictionary.decoder[live], dictionary.offset, least_squares=True)
    read, active = part.coordinates(x), dictionary.encode(x)[:, live] != 0
    scores = dictionary.preactivations(x)[:, live]
    rows = []
    for i, feature in enumerate(live.tolist()):
        on, z, s = active[:, i], read[:, i], scores[:, i]
        row = {"feature": feature, "n_active": int(on.sum())}
        row |= {"active": _correlation(z[on], s[on]), "inactive": _correlation(z[~on], s[~on])}
        sizes = [float(held.square().mean().sqrt()) if len(held) else math.nan
                 for held in (z[~on], z[on])]  # fmt: skip
        rows.append({**row, "size_inactive": sizes[0] / sizes[1] if sizes[1] else math.nan})
    return pd.DataFrame(rows)


def _correlation(first: Tensor, second: Tensor) -> float:
    if len(first) < 3 or not float(first.std()) or not float(second.std()):
        return math.nan
    return float(np.corrcoef(first.numpy(), second.numpy())[0, 1])


def _check(model: ImageModel, dictionary: Dictionary) -> None:
    dictionary.check_autoencoder("the image study")
    if dictionary.d_model != model.last.d_out:
        raise DictionaryError(
            f"{dictionary} is for activations of {dictionary.d_model}, but the model's last layer "
            f"writes {model.last.d_out}. Train it with train_dictionary(model, images)."
        )
