"""Sparse autoencoders: a site of the model in features."""

from sae.dictionary import Dictionary
from sae.loading import load_dictionaries, load_dictionary
from sae.training.plan import TrainingPlan
from sae.training.run import train_on, train_saes
from sae.training.sources import (
    CachedActivations,
    ModelActivations,
    TensorActivations,
    cache_activations,
)

__all__ = [
    "CachedActivations",
    "Dictionary",
    "ModelActivations",
    "TensorActivations",
    "TrainingPlan",
    "cache_activations",
    "load_dictionaries",
    "load_dictionary",
    "train_on",
    "train_saes",
]
