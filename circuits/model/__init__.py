"""Bilinear transformers: trained, loaded, read and replaced by name.

The only place that knows transformers and TransformerLens, and it imports neither until a model is
trained or loaded.
"""

from circuits.model.model import Model, load_model
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
