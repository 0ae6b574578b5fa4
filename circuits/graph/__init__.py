"""Interaction graphs, which of their pairs are more than chance, and the circuits made of them."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.algebra.basis import rotated as rotated
    from circuits.algebra.basis import shuffled as shuffled
    from circuits.graph.build import interaction_graph as interaction_graph
    from circuits.graph.circuit import Circuit as Circuit
    from circuits.graph.coactivation import count_coactivation as count_coactivation
    from circuits.graph.export import attribution as attribution
    from circuits.graph.export import attribution_query as attribution_query
    from circuits.graph.export import read_graph as read_graph
    from circuits.graph.export import write_attribution as write_attribution
    from circuits.graph.export import write_graph as write_graph
    from circuits.graph.matching_pursuit import known_pairs as known_pairs
    from circuits.graph.significance import scored_strongest as scored_strongest
    from circuits.groups.clusters import clusters as clusters

__getattr__, __dir__, __all__ = lazy(__name__)
