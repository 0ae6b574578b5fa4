"""Circuits between dictionary features, exactly and straight from a bilinear model's weights."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.algebra.basis import Basis
    from circuits.algebra.bilinear import BilinearLayer
    from circuits.algebra.interactions import Interactions
    from circuits.algebra.spectrum import Spectrum, hosvd
    from circuits.corpus.documents import Corpus, built_in, open_corpus
    from circuits.graph.build import interaction_graph
    from circuits.graph.circuit import Circuit
    from circuits.groups.clusters import clusters
    from circuits.model.loading import load_model
    from circuits.model.model import Model
    from circuits.model.plan import ModelPlan
    from circuits.model.site import Site
    from circuits.model.training import train_model

__version__ = "0.1.0"

__all__ = [
    "Basis",
    "BilinearLayer",
    "Circuit",
    "Corpus",
    "Interactions",
    "Model",
    "ModelPlan",
    "Site",
    "Spectrum",
    "built_in",
    "clusters",
    "hosvd",
    "interaction_graph",
    "load_model",
    "open_corpus",
    "train_model",
]

__getattr__, __dir__ = lazy(__name__)
