"""Interaction graphs, which of their pairs are more than chance, and the circuits made of them."""

from circuits.graph.build import interaction_graph
from circuits.graph.circuit import Circuit
from circuits.groups.clusters import clusters

__all__ = ["Circuit", "clusters", "interaction_graph"]
