"""Sparse autoencoders: training them, opening anyone's, and what their features are."""

from typing import TYPE_CHECKING

from bilinear_circuits import check_packages

check_packages("circuits")

from circuits.lazy import lazy  # noqa: E402

if TYPE_CHECKING:
    from sae.dictionary import Dictionary as Dictionary
    from sae.features.card import card as card
    from sae.features.effects import logit_effects as logit_effects
    from sae.features.examples import examples as examples
    from sae.loading import load_dictionaries as load_dictionaries
    from sae.loading import load_dictionary as load_dictionary
    from sae.reading import readings as readings
    from sae.training.plan import TrainingPlan as TrainingPlan
    from sae.training.run import train_on as train_on
    from sae.training.run import train_saes as train_saes
    from sae.training.sources import CachedActivations as CachedActivations
    from sae.training.sources import TensorActivations as TensorActivations
    from sae.training.sources import cache_activations as cache_activations

__getattr__, __dir__, __all__ = lazy(__name__)
