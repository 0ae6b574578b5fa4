"""Bilinear transformers: trained, loaded, read and edited by name. Only this room knows
transformers and TransformerLens, and imports them when a model is trained or loaded."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.model.loading import load_model as load_model
    from circuits.model.model import Model as Model
    from circuits.model.plan import ModelPlan as ModelPlan
    from circuits.model.plan import ModelShape as ModelShape
    from circuits.model.site import POINTS as POINTS
    from circuits.model.site import Site as Site
    from circuits.model.training import Trained as Trained
    from circuits.model.training import train_model as train_model

__getattr__, __dir__, __all__ = lazy(__name__)
