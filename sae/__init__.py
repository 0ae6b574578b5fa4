"""Sparse autoencoders: a site of the model in features."""

from sae.activations import (
    CachedActivations,
    ModelActivations,
    TensorActivations,
    cache_activations,
)
from sae.dictionary import Dictionary
from sae.formats import load_dictionaries, load_dictionary
from sae.plan import TrainingPlan
from sae.training import train_on, train_saes

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
