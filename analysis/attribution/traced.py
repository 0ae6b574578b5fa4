"""The attribution graph of one text: nodes, gates and edges as tables, and as a networkx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from circuits.arguments import checked_methods
from circuits.errors import GraphError
from circuits.graph.export import (
    attribution_document,
    attribution_node,
    write_attribution_document,
    write_graph,
)
from circuits.plotting.display import html_of
from circuits.storage.files import write_json
from circuits.storage.replacing import check_file

_FORMAT = "bilinear-circuits attribution graph"
_TYPES = {"token": "embedding", "error": "mlp reconstruction error", "logit": "logit"}
_TABLES = ("nodes", "gates", "edges", "layers")


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph:
    """From the answers' logits to the tokens of one text, made by `attribution_graph`.

    The gates of a node sum to its value, and so do its edges: each has a row ``rest``, the sum of
    those that the graph leaves out.
    """

    text: str
    tokens: tuple[str, ...]
    nodes: pd.DataFrame
    """node, kind, layer, position, token, feature, value, influence, group, off_by. ``off_by``: the
    difference of the gates' sum to the value, relative to the largest gate."""
    gates: pd.DataFrame
    """node, kind, first, second, value: a ``pair`` of nodes, a ``square``, ``linear`` (a node with
    the layer's constant, or in a logit), ``constant``, or ``rest``."""
    edges: pd.DataFrame
    """source, node, value, way, way_value. ``value``: the source's square, its linear terms and
    half of each of its pairs; ``way``: the head that moved most of it last, or ``stream``."""
    layers: pd.DataFrame
    """Of the influence that reaches each layer: how much its features pass on, how much ends at
    dictionary errors, biases, a whole MLP, or features that were not followed."""
    shares: Mapping[str, float]
    """Where all influence ends, which sums to 1."""
    kept: Mapping[str, float]
    """How much of it the graph's nodes have, by way of its nodes alone, and its gates."""
    notes: tuple[str, ...]
    about: Mapping[str, Any]  # model, dictionaries and budgets

    def graph(self) -> nx.DiGraph:
        """The graph with gates as nodes: a pair's two nodes lead to it, and it to what it makes."""
        made = nx.DiGraph(text=self.text, **self.kept, **self.shares)
        for about in self.nodes.to_dict("records"):
            made.add_node(about["node"], **{str(k): v for k, v in about.items() if k != "node"})
        ways = {(e["source"], e["node"]): e["way"] for e in self.edges.to_dict("records")}
        for number, gate in enumerate(self.gates.to_dict("records")):
            causes = [end for end in dict.fromkeys((gate["first"], gate["second"])) if end]
            name, value = f"gate {number}", gate["value"]
            made.add_node(name, kind=f"gate: {gate['kind']}", value=value)
            made.add_edge(name, gate["node"], weight=value)
            for cause in causes:
                way = ways.get((cause, gate["node"]), "")
                made.add_edge(cause, name, weight=value / len(causes), way=way)
        return made

    def as_dict(self) -> dict[str, Any]:
        """What its file holds."""
        tables = {name: getattr(self, name).to_dict("records") for name in _TABLES}
        return {
            "format": _FORMAT,
            "version": 1,
            "text": self.text,
            "tokens": list(self.tokens),
            "shares": dict(self.shares),
            "kept": dict(self.kept),
            "notes": list(self.notes),
            "about": dict(self.about),
            **tables,
        }

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write it as JSON, with the networkx graph beside it as ``.graphml``; over files of other
        kinds only with ``force``."""
        path = Path(path)
        kind = "an attribution graph of the toolkit"
        check_file(path, kind, lambda head: _FORMAT.encode() in head[:100], GraphError, force)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_graph(self.graph(), path.with_suffix(".graphml"), force=force)
        write_json(path, self.as_dict())
        return path

    def attribution(self, scan: str = "bilinear") -> dict[str, Any]:
        """What circuit-tracer's frontend and Neuronpedia read, with gates as nodes between those
        that they join."""
        graph, ids, nodes, places = self.graph(), {}, [], {}
        for name, about in graph.nodes(data=True):
            effect = next(iter(graph.successors(name)), name)
            places[name] = about if "layer" in about else graph.nodes[effect]
        ranks = _rank_shares({name: self._size(graph, name) for name in graph})
        for number, (name, about) in enumerate(graph.nodes(data=True)):
            is_gate, place = about["kind"].startswith("gate"), places[name]
            before_mlp = place["kind"] == "token" or name.startswith("attention bias")
            height = 2 * place["layer"] + (0 if before_mlp else 2 - is_gate)
            layer, at = str(height), max(int(place["position"]), 0)
            ids[name] = f"{layer}_{number}_{at}"
            label = about["kind"] if is_gate else f"{name} {about['token']}".strip()
            node = attribution_node(
                ids[name], number, layer, at, label, ranks[name], number, about["value"]
            )
            node["feature_type"] = _TYPES.get(about["kind"], node["feature_type"])
            if about["kind"] == "logit":
                spoken = name.removeprefix("logit ").replace('"', "'")
                node |= {"is_target_logit": True, "token_prob": 1.0,
                         "clerp": f'Output "{spoken}" (p=1.000)'}  # fmt: skip
            nodes.append(node)
        links = [
            {"source": ids[one], "target": ids[other], "weight": weight}
            for one, other, weight in graph.edges(data="weight")
        ]
        members = self.nodes[self.nodes["group"] >= 0].groupby("group")["node"]
        groups = [[f"group {n}", *(ids[name] for name in names)] for n, names in members]
        words, asked = list(self.tokens), [n for n in self.nodes["node"] if n.startswith("logit ")]
        return attribution_document(
            " ".join([self.text, *sorted(asked)]), words, nodes, links, groups, scan
        )

    def write_attribution(
        self, folder: str | Path, scan: str = "bilinear", *, force: bool = False
    ) -> Path:
        """Write that into a folder, and list it in the folder's ``graph-metadata.json``."""
        return write_attribution_document(self.attribution(scan), folder, force=force)

    def _size(self, graph: nx.DiGraph, name: str) -> float:
        """The influence of a node, or a gate's part of that of its node."""
        about = graph.nodes[name]
        if "influence" in about:
            return float(about["influence"])
        (effect,) = graph.successors(name)
        gates = [abs(weight) for *_, weight in graph.in_edges(effect, data="weight")]
        return graph.nodes[effect]["influence"] * abs(about["value"]) / max(sum(gates), 1e-300)

    def _repr_html_(self) -> str:
        return html_of(repr(self), nodes=self.nodes.head(20), gates=self.gates.head(20))

    def __repr__(self) -> str:
        return (
            f"AttributionGraph({len(self.nodes)} nodes, {len(self.gates)} gates of "
            f"{len(self.tokens)} tokens: {self.kept['influence of nodes']:.0%} of the influence)"
        )


def _rank_shares(sizes: Mapping[str, float]) -> dict[str, float]:
    """What share of all is held by those at least as large: small is important."""
    total, held, shares = sum(sizes.values()) or 1.0, 0.0, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        held += sizes[name]
        shares[name] = min(held / total, 1.0)
    return shares
