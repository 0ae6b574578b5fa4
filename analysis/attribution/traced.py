"""The attribution graph of one text: nodes, gates and edges as tables, and as a networkx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from circuits.arguments import checked_methods
from circuits.graph.export import write_graph
from circuits.plotting.display import html_of
from circuits.storage.files import write_json

_FORMAT = "bilinear-circuits attribution graph"
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

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, with the networkx graph beside it as ``.graphml``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_graph(self.graph(), path.with_suffix(".graphml"))
        write_json(path, self.as_dict())
        return path

    def _repr_html_(self) -> str:
        return html_of(repr(self), nodes=self.nodes.head(20), gates=self.gates.head(20))

    def __repr__(self) -> str:
        return (
            f"AttributionGraph({len(self.nodes)} nodes, {len(self.gates)} gates of "
            f"{len(self.tokens)} tokens: {self.kept['influence of nodes']:.0%} of the influence)"
        )
