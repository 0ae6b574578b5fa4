"""Sparse autoencoders: training them, opening anyone's, and what their features are."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from sae.dictionary import Dictionary
    from sae.features.card import card
    from sae.features.effects import logit_effects
    from sae.features.examples import examples
    from sae.loading import load_dictionaries, load_dictionary
    from sae.reading import readings
    from sae.training.plan import TrainingPlan
    from sae.training.run import train_on, train_saes
    from sae.training.sources import CachedActivations, TensorActivations, cache_activations

__all__ = [
    "CachedActivations",
    "Dictionary",
    "TensorActivations",
    "TrainingPlan",
    "cache_activations",
    "card",
    "examples",
    "load_dictionaries",
    "load_dictionary",
    "logit_effects",
    "readings",
    "train_on",
    "train_saes",
]

__getattr__, __dir__ = lazy(__name__)
