"""Interaction graphs: the pairs of features that build an output, as a ``networkx`` graph.

Nodes are input features; an edge is a pair, its signed ``weight`` the pair's in ``matrix(output)``
(a self-loop is a feature with itself). Which pairs become edges is one choice of three: the
strongest so many, the fewest that hold a share of the energy, or those that chance does not
explain. The last may be none: an empty graph is an answer, and ``graph.graph["empty"]`` says why.

Over several outputs an interaction has two causes and one effect, so it is a node of its own:
``joint_graph``, and ``projection`` back to features or to outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
import numpy as np
import pandas as pd
from torch import Tensor

from circuits.algebra.interactions import Interactions
from circuits.errors import GraphError, check_count, check_index, check_indices
from circuits.graph.circuit import Circuit
from circuits.graph.coactivation import Coactivation
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import RotationNull, features_alone, scored
from circuits.groups.clusters import Clusters, clusters

__all__ = [
    "Circuit",
    "Clusters",
    "clusters",
    "interaction_graph",
    "joint_graph",
    "projection",
]

_MOST = 100_000  # edges of a graph by coverage: beyond it, nothing is seen in it


def interaction_graph(
    inter: Interactions,
    output: int,
    n_edges: int | None = None,
    *,
    coverage: float | None = None,
    significant: float | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    frequency: Sequence[float] | np.ndarray | Tensor | None = None,
    coactivation: Coactivation | None = None,
) -> nx.Graph:
    """One output feature's interactions, by exactly one of three choices.

    ``n_edges``: the strongest so many. ``coverage``: the fewest that hold this share of the squared
    norm of ``matrix(output)``. ``significant``: the discoveries at this false-discovery rate (0.05,
    say), each tested given the others; features only, for the constant is not turned by the null.

    ``labels`` name features, by number or in their order. Edges carry ``weight``, ``z`` and ``q``
    (not those with the constant); if significant also ``own``, the weight without the shadows of
    the others; with a ``coactivation`` that has counted the pairs also ``coactivation``,
    ``together`` and ``data_weight``, their weight times the coactivation. Nodes carry
    ``feature``, ``label`` and, where given or in ``coactivation``, ``frequency``.

    ``graph.graph["energy"]`` is the edges' share of the squared norm of ``matrix(output)`` (which
    is ``"total_energy"``); in superposition that is mostly shadows. ``"explained"``, if
    significant, is the share of the form in the model's own space that the edges build together.
    """
    check_index("interaction_graph", output, inter.n_output, "output")
    chosen = {"n_edges": n_edges, "coverage": coverage, "significant": significant}
    given = {name: value for name, value in chosen.items() if value is not None}
    if len(given) != 1:
        raise GraphError(
            f"interaction_graph: edges are chosen one way, but {', '.join(given) or 'none'} was "
            f"given. Pass one of n_edges=50, coverage=0.9, significant=0.05."
        )
    ((way, value),) = given.items()
    null = RotationNull.of(inter.inputs)
    if significant is not None:
        pairs = significant_pairs(inter, output, significant, null)
    else:
        if n_edges is not None:
            pairs = _first_pairs(inter, output, n_edges)
        else:
            assert coverage is not None
            pairs = _covering_pairs(inter, output, coverage)
        pairs = _tested(inter, output, pairs, null)
    energy = float(inter.energies[output])
    graph = nx.Graph(
        output=output,
        chosen=way,
        level=value,
        n_input=inter.n_input,
        n_pairs=inter.n_input * (inter.n_input + 1) // 2,
        total_energy=energy,
        energy=float(_squares(pairs).sum()) / energy if energy > 0 else 0.0,
        interactions=inter.fingerprint,
    )
    if significant is not None:
        graph.graph["explained"] = pairs.attrs["explained"]
    if not len(pairs):
        graph.graph["empty"] = (
            "every weight of this output is zero"
            if energy <= 0
            else f"of {null.n_pairs} pairs none stands out from random rotations of the features "
            f"at a false-discovery rate of {significant}"
        )
    constant = inter.n_input - 1 if inter.has_constant else None
    if frequency is None and coactivation is not None:
        frequency = coactivation.frequency
    named = dict(labels if isinstance(labels, Mapping) else enumerate(labels or ()))
    if frequency is not None and not inter.inputs.n_feature <= len(frequency) <= inter.n_input:
        raise GraphError(
            f"interaction_graph: {len(frequency)} frequencies were given for "
            f"{inter.inputs.n_feature} features. Pass those of the input dictionary."
        )
    for feature in sorted(set(pairs["first"]) | set(pairs["second"])):
        name = "constant" if feature == constant else f"feature {feature}"
        label = str(named.get(feature, name))
        graph.add_node(int(feature), feature=int(feature), label=label)
        if frequency is not None and feature < len(frequency):
            graph.nodes[feature]["frequency"] = float(frequency[feature])
    _add_edges(graph, pairs if coactivation is None else coactivation.of(pairs))
    return graph


def _first_pairs(inter: Interactions, output: int, n_edges: int) -> pd.DataFrame:
    n_pairs = inter.n_input * (inter.n_input + 1) // 2
    check_count("interaction_graph", n_edges, n_pairs, "n_edges")
    pairs = inter.strongest(n_edges, output)
    return pairs[pairs["weight"] != 0]


def _covering_pairs(inter: Interactions, output: int, coverage: float) -> pd.DataFrame:
    if not 0 < coverage <= 1:
        raise GraphError(
            f"interaction_graph: coverage = {coverage} is no share of the energy. Ask for "
            f"0 < coverage <= 1."
        )
    energy, n = float(inter.energies[output]), 64
    n_pairs = inter.n_input * (inter.n_input + 1) // 2
    while True:
        pairs = inter.strongest(min(n, _MOST, n_pairs), output)
        pairs = pairs[pairs["weight"] != 0]
        held = np.cumsum(_squares(pairs))
        enough = np.flatnonzero(held >= coverage * energy * (1 - 1e-6))
        if len(enough):
            return pairs.iloc[: int(enough[0]) + 1]
        if n >= n_pairs:
            return pairs
        if n >= _MOST:
            raise GraphError(
                f"interaction_graph: the {_MOST} strongest pairs hold "
                f"{held[-1] / energy:.1%} of output {output}'s energy, not {coverage:.1%}. Such a "
                f"form is no graph: ask for less, or for significant=0.05."
            )
        n *= 4


def _squares(pairs: pd.DataFrame) -> np.ndarray:
    """What each pair adds to the squared norm of the matrix: both of its entries."""
    weight = pairs["weight"].to_numpy()
    return np.where(pairs["first"] == pairs["second"], weight**2, weight**2 / 2)


def _tested(
    inter: Interactions, output: int, pairs: pd.DataFrame, null: RotationNull
) -> pd.DataFrame:
    """z and q of pairs of features, each against the whole form."""
    of_features = pairs[pairs["second"] < inter.inputs.n_feature]
    return pairs.join(scored(features_alone(inter), null, of_features, output)[["z", "q"]])


def _add_edges(graph: nx.Graph, pairs: pd.DataFrame) -> None:
    names = [name for name in pairs if name not in ("output", "first", "second")]
    for pair in pairs.to_dict("records"):
        known = {str(name): float(pair[name]) for name in names if not np.isnan(pair[name])}
        graph.add_edge(int(pair["first"]), int(pair["second"]), **known)


def joint_graph(
    inter: Interactions,
    outputs: Iterable[int],
    n_edges: int | None = None,
    *,
    coverage: float | None = None,
    significant: float | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    output_labels: Mapping[int, str] | None = None,
    frequency: Sequence[float] | np.ndarray | Tensor | None = None,
    coactivation: Coactivation | None = None,
) -> nx.DiGraph:
    """Several outputs in one graph: input feature → interaction → output feature.

    Nodes are ``("in", i)``, ``("pair", o, i, j)`` and ``("out", o)``, with ``kind``, ``feature`` or
    ``output``, and ``label``. The edge to the output carries what an edge of ``interaction_graph``
    does; choices, labels, frequency and coactivation are as there.
    """
    listed = check_indices("joint_graph", outputs, inter.n_output, "output")
    joint = nx.DiGraph()
    for output in listed:
        one = interaction_graph(
            inter, output, n_edges, coverage=coverage, significant=significant, labels=labels,
            frequency=frequency, coactivation=coactivation,
        )  # fmt: skip
        label = (output_labels or {}).get(output, f"output {output}")
        joint.add_node(("out", output), kind="output", output=output, label=label)
        for feature, about in one.nodes(data=True):
            joint.add_node(("in", feature), kind="input", **about)
        for first, second, about in one.edges(data=True):
            first, second = sorted((first, second))
            pair = ("pair", output, first, second)
            name = f"{one.nodes[first]['label']} × {one.nodes[second]['label']}"
            joint.add_node(pair, kind="interaction", output=output, label=name)
            joint.add_edge(("in", first), pair)
            joint.add_edge(("in", second), pair)
            joint.add_edge(pair, ("out", output), **about)
    return joint


def projection(joint: nx.DiGraph, onto: str = "inputs") -> nx.Graph:
    """A joint graph without its interaction nodes.

    Onto "inputs": features, an edge's weight the sum over outputs, ``n_outputs`` how many share the
    pair. Onto "outputs": outputs that share pairs, an edge's weight the sum over shared pairs of
    the product of weights (positive where they agree), ``n_pairs`` how many.
    """
    kinds = {"inputs": "input", "outputs": "output"}
    if onto not in kinds:
        raise GraphError(f'projection: there is no side "{onto}". Ask for "inputs" or "outputs".')
    if any("kind" not in about for _, about in joint.nodes(data=True)):
        raise GraphError(
            "projection: the nodes of this graph do not say of which kind they are. Pass one made "
            "by joint_graph."
        )
    graph = nx.Graph()
    for node, about in joint.nodes(data=True):
        if about["kind"] == kinds[onto]:
            graph.add_node(node[1], **{k: v for k, v in about.items() if k != "kind"})
    by_pair: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for pair, effect, weight in joint.edges(data="weight"):
        if weight is not None:
            by_pair.setdefault(pair[2:], []).append((effect[1], weight))
    for (first, second), effects in by_pair.items():
        if onto == "inputs":
            total = sum(weight for _, weight in effects)
            graph.add_edge(first, second, weight=total, n_outputs=len(effects))
            continue
        for i, (one, weight) in enumerate(effects):
            for other, its_weight in effects[i + 1 :]:
                if not graph.has_edge(one, other):
                    graph.add_edge(one, other, weight=0.0, n_pairs=0)
                graph.edges[one, other]["weight"] += weight * its_weight
                graph.edges[one, other]["n_pairs"] += 1
    return graph
