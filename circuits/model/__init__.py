"""Bilinear transformers: trained, loaded, read and edited by name. Only this room knows
transformers and TransformerLens, and imports them when a model is trained or loaded."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.model.loading import load_model
    from circuits.model.model import Model
    from circuits.model.plan import ModelPlan, ModelShape
    from circuits.model.site import POINTS, Site
    from circuits.model.training import Trained, train_model

__all__ = [
    "POINTS",
    "Model",
    "ModelPlan",
    "ModelShape",
    "Site",
    "Trained",
    "load_model",
    "train_model",
]

__getattr__, __dir__ = lazy(__name__)
