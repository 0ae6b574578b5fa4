"""All measurements of the image case study: one row for each seed, or one table.

Drops and losses are shares: 0.01 is one in a hundred *test* images; a negative drop is a rise in
accuracy.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.studies.images.components import component_truncation
from analysis.studies.images.data import ImageData, Images
from analysis.studies.images.dictionaries import DICTIONARY, read_through, train_dictionary
from analysis.studies.images.masks import mask_curve
from analysis.studies.images.model import ImageModel, accuracy
from analysis.studies.images.spectra import (
    ClassSpectra,
    best_matches,
    explanation,
    rank_needed,
    roughness,
    truncation,
)
from analysis.studies.images.training import ImagePlan, train_classifier
from circuits.algebra.spectrum import hosvd
from circuits.arguments import checked
from circuits.errors import ImageError, check_some
from circuits.storage.progress import progress
from sae.training.plan import TrainingPlan

RANKS = (*range(1, 31), 40, 50, 100)
"""Numbers of eigenpairs of each class at which accuracy is measured."""

_MASKED = 1000  # test images that masks are tried on
_FEW = 10_000  # training images below which a small model is trained
_EXPLAINED = 50  # images whose explanations are compared with the logits


@checked
def plan_for(images: Images) -> ImagePlan:
    """The plan for a data set: the default one, or a small one for few images."""
    if len(images) >= _FEW:
        return ImagePlan()
    return ImagePlan(d_hidden=100, n_step=1000, n_batch=64, weight_decay=0.3)


@checked
def dictionary_plan_for(images: Images) -> TrainingPlan:
    """A hundred features for many images, fewer for few."""
    if len(images) >= _FEW:
        return DICTIONARY
    return replace(DICTIONARY, n_features=40, n_tokens=100_000)


def measure(data: ImageData, plan: ImagePlan) -> tuple[dict[str, Any], ImageModel]:
    """One row for the plan's seed, and its model."""
    began = time.perf_counter()
    model = train_classifier(data.train, plan)
    seconds = time.perf_counter() - began
    twin = train_classifier(data.train, replace(plan, weight_decay=0.0))
    spectra, plain = ClassSpectra.of(model), ClassSpectra.of(twin)
    dictionary_plan = replace(dictionary_plan_for(data.train), seed=plan.seed)
    dictionary = train_dictionary(model, data.train, dictionary_plan)
    row = {
        "accuracy": accuracy(model.logits(data.test), data.test),
        "accuracy_without_decay": accuracy(twin.logits(data.test), data.test),
        "effective_rank": spectra.effective_rank,
        "effective_rank_without_decay": plain.effective_rank,
        "entropy_rank": _entropy_rank(spectra),
        "entropy_rank_without_decay": _entropy_rank(plain),
        "roughness": roughness(spectra),
        "roughness_without_decay": roughness(plain),
        **_components("", model, data.test),
        **_components("_without_decay", twin, data.test),
        "rank_needed": rank_needed(truncation(spectra, data.test, RANKS)),
        **_dictionary(read_through(model, dictionary, data.test)),
        **_masks(spectra, data.test),
        "explanation_error": _explanation_error(spectra, data.test),
        "decay_leaves": plan.shrinking,
        "training_seconds": round(seconds, 1),
    }
    return row, model


def _components(which: str, model: ImageModel, images: Images) -> dict[str, float]:
    components = hosvd(model.last)
    row = {}
    for n in (20, 50):
        found = component_truncation(model, images, [n], components).iloc[0]
        full = found["accuracy"] + found["lost"]
        row[f"hosvd_top{n}_drop{which}"] = float(found["lost"])
        row[f"random_top{n}_drop{which}"] = float(full - found["control"])
    return row


def _dictionary(table: pd.DataFrame) -> dict[str, float]:
    readers = {"pinv": "pinv_live", "sae": "encoder", "random": "random", "outputs": "outputs"}
    recovered = table["recovered"]
    row = {f"{name}_loss_recovered": float(recovered[of]) for name, of in readers.items()}
    return row | {"live_features": int(table["n_live"].iloc[0])}


def _masks(spectra: ClassSpectra, images: Images) -> dict[str, float]:
    some = images.take(min(_MASKED, len(images)))
    strength = float(some.pixels.norm(dim=1).mean()) / 2
    curve = mask_curve(spectra, some, [strength])
    means = curve[["accuracy", "fooled", "accuracy_control", "fooled_control"]].mean()
    return {"mask_strength": strength} | {f"mask_{name}": float(x) for name, x in means.items()}


def _entropy_rank(spectra: ClassSpectra) -> float:
    """The mean over classes of the entropy rank, less sensitive to a tail than effective rank."""
    return sum(spectrum.entropy_rank for spectrum in spectra.spectra) / len(spectra.spectra)


def _explanation_error(spectra: ClassSpectra, images: Images) -> float:
    """The largest difference between a logit and its explanation's sum, over the largest logit."""
    largest, scale = 0.0, 0.0
    for pixels in images.pixels[:_EXPLAINED]:
        sums = explanation(spectra, pixels).groupby("class")["adds"].sum().to_numpy()
        logits = spectra.model(pixels).double().numpy()
        largest, scale = max(largest, abs(sums - logits).max()), max(scale, abs(logits).max())
    return float(largest / scale)


@checked
def matches(models: Sequence[ImageModel], n: int = 10) -> pd.DataFrame:
    """Similarity of each model's eigenvectors to the next one's, by rank: mean, standard deviation
    and the share above 0.8, beside the mean with another class's."""
    if len(models) < 2:
        raise ImageError(
            "matches: one model cannot be compared. Pass at least two, of different seeds."
        )
    spectra = [ClassSpectra.of(model) for model in models]
    found = pd.concat([best_matches(first, second, n) for first, second in pairwise(spectra)])
    by_rank = found.assign(above=found["cosine"] > 0.8).groupby("rank")
    columns = {
        "cosine": ("cosine", "mean"), "spread": ("cosine", "std"), "above_0.8": ("above", "mean"),
        "control": ("control", "mean"), "n": ("cosine", "size"),
    }  # fmt: skip
    return by_rank.agg(**columns).reset_index()


@checked
def regularisation(
    data: ImageData, plan: ImagePlan, decays: Iterable[float], noises: Iterable[float]
) -> pd.DataFrame:
    """Models of every weight decay with every input noise: accuracy, effective rank, roughness. Of
    ``replace(data, train=data.train.take(1000))`` it shows what memorising looks like."""
    decays = check_some("regularisation", decays, "decays")
    noises = check_some("regularisation", noises, "noises")
    grid = [(decay, noise) for decay in decays for noise in noises]
    rows = []
    for decay, noise in progress(grid, "regularisation", "model"):
        model = train_classifier(data.train, replace(plan, weight_decay=decay, input_noise=noise))
        spectra = ClassSpectra.of(model)
        row = {"weight_decay": decay, "input_noise": noise}
        row["train"] = accuracy(model.logits(data.train), data.train)
        row["test"] = accuracy(model.logits(data.test), data.test)
        row |= {"effective_rank": spectra.effective_rank, "roughness": roughness(spectra)}
        rows.append(row)
    return pd.DataFrame(rows).assign(n=len(data.train), seed=plan.seed)
