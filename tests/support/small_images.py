"""Images and classifiers small enough to be exact, and one that is trained once for all tests."""

from functools import cache

import torch

from analysis.studies.images.data import ImageData, Images, open_images
from analysis.studies.images.model import ImageModel
from analysis.studies.images.training import ImagePlan, train_classifier
from tests.support.small import generator, normal, small_layer

QUICK = ImagePlan(d_hidden=32, n_step=330, n_batch=64)


@cache
def trained() -> tuple[ImageData, ImageModel]:
    """scikit-learn's digits, and a model of them."""
    digits = open_images()
    return digits, train_classifier(digits.train, QUICK)


def random_model(biases: str = "", n_layer: int = 1, seed: int = 0) -> ImageModel:
    layers = [small_layer(6, 9, biases=biases, seed=seed + i) for i in range(n_layer)]
    bias = normal(4, seed=seed + 50) if biases else None
    return ImageModel(tuple(layers), normal(4, 6, seed=seed + 40), 2, 3, bias)


def few(n: int = 20, n_class: int = 4, height: int = 2, width: int = 3, seed: int = 0) -> Images:
    pixels = torch.rand(n, height * width, dtype=torch.float64, generator=generator(seed))
    return Images(pixels, torch.arange(n) % n_class, height, width, n_class)
