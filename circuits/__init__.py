"""Circuits between dictionary features, exactly and straight from a bilinear model's weights."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.algebra.basis import Basis as Basis
    from circuits.algebra.bilinear import BilinearLayer as BilinearLayer
    from circuits.algebra.interactions import Interactions as Interactions
    from circuits.algebra.spectrum import Spectrum as Spectrum
    from circuits.algebra.spectrum import hosvd as hosvd
    from circuits.corpus.documents import Corpus as Corpus
    from circuits.corpus.documents import built_in as built_in
    from circuits.corpus.documents import open_corpus as open_corpus
    from circuits.graph.build import interaction_graph as interaction_graph
    from circuits.graph.circuit import Circuit as Circuit
    from circuits.groups.clusters import clusters as clusters
    from circuits.model.loading import load_model as load_model
    from circuits.model.model import Model as Model
    from circuits.model.plan import ModelPlan as ModelPlan
    from circuits.model.site import Site as Site
    from circuits.model.training import train_model as train_model

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy(__name__)
