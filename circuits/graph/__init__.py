"""Interaction graphs, which of their pairs are more than chance, and the circuits made of them."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.algebra.basis import rotated, shuffled
    from circuits.graph.build import interaction_graph
    from circuits.graph.circuit import Circuit
    from circuits.graph.coactivation import count_coactivation
    from circuits.graph.export import (
        attribution,
        attribution_query,
        read_graph,
        write_attribution,
        write_graph,
    )
    from circuits.graph.matching_pursuit import known_pairs
    from circuits.graph.significance import scored_strongest
    from circuits.groups.clusters import clusters

__all__ = [
    "Circuit",
    "attribution",
    "attribution_query",
    "clusters",
    "count_coactivation",
    "interaction_graph",
    "known_pairs",
    "read_graph",
    "rotated",
    "scored_strongest",
    "shuffled",
    "write_attribution",
    "write_graph",
]

__getattr__, __dir__ = lazy(__name__)
