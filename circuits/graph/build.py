"""Interaction graphs: the pairs of features that build an output, as a ``networkx`` graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from circuits.algebra.interactions import Interactions
from circuits.arguments import checked
from circuits.errors import GraphError, check_count, check_index
from circuits.graph.coactivation import Coactivation
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import RotationNull, scored

Labels = Mapping[int, str] | Sequence[str] | None

_MOST = 100_000  # edges of a graph by coverage: a picture of more shows nothing


@checked
def interaction_graph(
    inter: Interactions,
    output: int | None = None,
    n_edges: int | None = None,
    *,
    coverage: float | None = None,
    significant: float | None = None,
    labels: Labels = None,
    output_labels: Labels = None,
    coactivation: Coactivation | None = None,
) -> nx.Graph:
    """The interactions of one output feature, or of the whole layer where none is named.

    Nodes are input features and an edge is a pair: its ``weight`` is the pair's, signed, and a
    self-loop is a feature with itself. Pass one of: ``n_edges``, the strongest so many;
    ``coverage``, the fewest that hold this share of the squared norm of ``matrix(output)``;
    ``significant``, the discoveries at this false-discovery rate (0.05, say), each tested given the
    others, among features only. An empty graph is an answer, and ``graph.graph["empty"]`` says why.

    Edges carry ``weight``, ``z`` and ``q`` (the constant is not tested). Unless ``significant``,
    these test a pair against the whole form: the shadow of a strong pair on near twins of its
    features may have a small ``q`` too. If significant also ``own``, the weight without the others'
    shadows, and ``q_form``, the rate against the form turned within its own space; with a
    ``coactivation`` that counted the pairs (``count_coactivation``) also ``coactivation``,
    ``together`` and ``data_weight``, the weight times the coactivation. Nodes carry ``feature``,
    ``label`` (``labels``: by number or in order) and, with a ``coactivation``, ``frequency``.

    The whole layer takes ``n_edges`` only, and is a ``DiGraph`` of nodes ``("in", i)``, ``("pair",
    o, i, j)`` and ``("out", o)`` whose ``kind`` is "input", "interaction" or "output". The edge
    from a pair to its output carries the pair's numbers.

    ``graph.graph["energy"]`` is the edges' share of the squared norm (``"total_energy"``); in
    superposition that is mostly shadows. ``"explained"``, if significant, is the share of the form
    in model space that the edges build together.
    """
    if output is not None:
        check_index("interaction_graph", output, inter.n_output, "output")
    way, level = _choice(output, n_edges, coverage, significant)
    pairs = _chosen_pairs(inter, output, way, level)
    energy = float(inter.energies.sum() if output is None else inter.energies[output])
    about: dict[str, Any] = {
        "chosen": way,
        "level": level,
        "n_input": inter.n_input,
        "n_pairs": _n_pairs(inter, output),
        "total_energy": energy,
        "energy": float(_squares(pairs).sum()) / energy if energy > 0 else 0.0,
        "interactions": inter.fingerprint,
        **{str(name): value for name, value in pairs.attrs.items()},
    }
    if not len(pairs) and energy <= 0:
        about["empty"] = "every weight is zero"
    nodes = _nodes(inter, pairs, labels, coactivation)
    edges = pairs if coactivation is None else coactivation.of(pairs)
    if output is None:
        return _layer_graph(nodes, edges, about, output_labels or inter.outputs.labels)
    graph = nx.Graph(output=output, **about)
    graph.add_nodes_from(nodes.items())
    graph.add_edges_from((row["first"], row["second"], known) for row, known in _rows(edges))
    return graph


def _choice(
    output: int | None, n_edges: int | None, coverage: float | None, significant: float | None
) -> tuple[str, Any]:
    """The one way in which edges are chosen."""
    ways = {"n_edges": n_edges, "coverage": coverage, "significant": significant}
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) != 1:
        raise GraphError(
            f"interaction_graph: edges are chosen in one way, but {', '.join(given) or 'none'} was "
            f"given. Pass one of n_edges=50, coverage=0.9, significant=0.05."
        )
    if output is None and n_edges is None:
        raise GraphError(
            f"interaction_graph: {next(iter(given))} chooses among the pairs of one output, and no "
            f"output was named. Name one, or pass n_edges=2000 for the whole layer."
        )
    return next(iter(given.items()))


def _n_pairs(inter: Interactions, output: int | None) -> int:
    return inter.n_input * (inter.n_input + 1) // 2 * (inter.n_output if output is None else 1)


def _chosen_pairs(inter: Interactions, output: int | None, way: str, level: Any) -> pd.DataFrame:
    """The pairs with their numbers; ``attrs`` are about the whole graph."""
    null = RotationNull.of(inter.inputs)
    if way == "significant":
        assert output is not None
        pairs = significant_pairs(inter, output, level, null)
        if not len(pairs):
            pairs.attrs["empty"] = (
                f"none of {null.n_pairs} pairs stands out from similar features rotated at "
                f"random, at a false-discovery rate of {level}"
            )
        return pairs
    if way == "coverage":
        assert output is not None
        pairs = _covering_pairs(inter, output, level)
    else:
        n_edges = check_count("interaction_graph", level, _n_pairs(inter, output), "n_edges")
        pairs = inter.strongest(n_edges, output)
        pairs = pairs[pairs["weight"] != 0]
    pairs = _tested(inter, pairs, null)
    pairs.attrs = {}
    return pairs


def _covering_pairs(inter: Interactions, output: int, coverage: float) -> pd.DataFrame:
    if not 0 < coverage <= 1:
        raise GraphError(
            f"interaction_graph: coverage = {coverage} is not a share of the energy. Pass "
            f"0 < coverage <= 1."
        )
    energy, n = float(inter.energies[output]), 64
    n_pairs = _n_pairs(inter, output)
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
                f"interaction_graph: the {_MOST} strongest pairs hold {held[-1] / energy:.1%} of "
                f"output {output}'s energy, not {coverage:.1%}; a graph of more shows nothing. "
                f"Pass a smaller coverage, or significant=0.05."
            )
        n *= 4


def _squares(pairs: pd.DataFrame) -> np.ndarray:
    """What each pair adds to the squared norm of the matrix: both of its entries."""
    weight = pairs["weight"].to_numpy()
    return np.where(pairs["first"] == pairs["second"], weight**2, weight**2 / 2)


def _tested(inter: Interactions, pairs: pd.DataFrame, null: RotationNull) -> pd.DataFrame:
    """With z and q of the pairs of features, each against the whole form of its output."""
    of_features = pairs[pairs["second"] < inter.inputs.n_feature]
    tables = [
        scored(inter.without_constant, null, some, int(output))
        for output, some in of_features.groupby("output")
    ]
    known = pd.concat(tables) if tables else of_features.assign(z=0.0, q=0.0)
    return pairs.join(known[["z", "q"]])


def _nodes(
    inter: Interactions, pairs: pd.DataFrame, labels: Labels, coactivation: Coactivation | None
) -> dict[int, dict[str, Any]]:
    features = sorted({*map(int, pairs["first"]), *map(int, pairs["second"])})
    named = inter.labels(features, labels)
    nodes: dict[int, dict[str, Any]] = {f: {"feature": f, "label": named[f]} for f in features}
    if coactivation is not None:
        for feature in features:
            if feature < len(coactivation.frequency):
                nodes[feature]["frequency"] = float(coactivation.frequency[feature])
    return nodes


def _rows(pairs: pd.DataFrame) -> Iterator[tuple[dict[str, int], dict[str, float]]]:
    """Each pair's indices, and the numbers that are known of it."""
    indices = [name for name in ("output", "first", "second") if name in pairs]
    for row in pairs.to_dict("records"):
        where = {name: int(row.pop(name)) for name in indices}
        yield where, {str(k): float(v) for k, v in row.items() if not np.isnan(v)}


def _layer_graph(
    nodes: Mapping[int, Mapping[str, Any]],
    pairs: pd.DataFrame,
    about: Mapping[str, Any],
    output_labels: Labels,
) -> nx.DiGraph:
    graph = nx.DiGraph(**about)
    graph.add_nodes_from((("in", f), {"kind": "input", **known}) for f, known in nodes.items())
    given = output_labels or ()
    named = dict(given if isinstance(given, Mapping) else enumerate(given))
    for row, known in _rows(pairs):
        output, first, second = row["output"], row["first"], row["second"]
        pair = ("pair", output, first, second)
        label = str(named.get(output, f"output {output}"))
        graph.add_node(("out", output), kind="output", output=output, label=label)
        name = f"{nodes[first]['label']} × {nodes[second]['label']}"
        graph.add_node(pair, kind="interaction", output=output, label=name)
        graph.add_edge(("in", first), pair)
        graph.add_edge(("in", second), pair)
        graph.add_edge(pair, ("out", output), **known)
    return graph
