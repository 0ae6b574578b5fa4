"""The attribution graph of one text: nodes, gates and edges as tables, and as a networkx graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from analysis.attribution.page.trace_page import trace_page
from analysis.attribution.writers import KINDS
from analysis.html.writing import Report
from circuits.arguments import checked_methods
from circuits.errors import GraphError, shorten
from circuits.graph.export import (
    attribution_document,
    attribution_node,
    logit_fields,
    write_attribution_document,
    write_graph,
)
from circuits.plotting.display import html_of
from circuits.storage.files import read_json, write_json
from circuits.storage.records import RecordError
from circuits.storage.replacing import begins_as, check_file
from circuits.storage.tables import COUNT, NUMBER, TEXT, Kind, checked_table, table_of_columns

FORMAT = "bilinear-circuits attribution graph"
"""What a file of one begins with."""

_VERSION = 2
_TYPES = {"token": "embedding", "error": "mlp reconstruction error"}
_COLUMNS: dict[str, dict[str, Kind]] = {
    "nodes": {"node": TEXT, "kind": TEXT, "layer": COUNT, "position": NUMBER, "token": TEXT,
              "feature": NUMBER, "value": NUMBER, "influence": NUMBER, "effect": NUMBER,
              "net": NUMBER, "kept": NUMBER, "promotes": TEXT, "group": NUMBER, "off_by": NUMBER},
    "gates": {"node": TEXT, "kind": TEXT, "first": TEXT, "second": TEXT, "value": NUMBER},
    "edges": {"source": TEXT, "node": TEXT, "value": NUMBER, "way": TEXT, "way_value": NUMBER},
    "layers": {"layer": COUNT, "features": NUMBER, "error": NUMBER, "bias": NUMBER,
               "whole MLP": NUMBER, "not followed": NUMBER, "error share": NUMBER},
}  # fmt: skip
_MAY_LACK = ("effect", "kept", "off_by")  # numbers of some nodes
_GATES = ("pair", "square", "linear", "constant", "rest")
_ENDS = ("token", "error", "bias", "whole MLP", "not followed")
_KEPT = ("influence of nodes", "through nodes alone", "influence of gates")
_ABOUT = {"model": str, "dictionaries": dict, "targets": list, "probabilities": dict,
          "against": list, "n_nodes": int, "n_gates": int, "n_followed": int}  # fmt: skip


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
    """node, kind, layer, position, token, feature, value, influence, effect, net, kept, promotes,
    group, off_by. ``effect``: what the targets' mean loses without what the node writes, exact with
    this run's patterns and scales. ``net``: how much of the influence raises the targets, less how
    much lowers them; ``kept``: how much of what the node reads its gates here hold; ``promotes``:
    tokens that a feature raises most by its direct path; ``off_by``: the difference of the gates'
    sum to the value, relative to the largest gate."""
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
        tables = {name: getattr(self, name).to_dict("records") for name in _COLUMNS}
        return {
            "format": FORMAT,
            "version": _VERSION,
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
        check_file(path, kind, begins_as(FORMAT), GraphError, force)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_graph(self.graph(), path.with_suffix(".graphml"), force=force)
        write_json(path, self.as_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> AttributionGraph:
        """Read what `save` wrote."""
        content = read_json(Path(path), GraphError)
        if content.pop("format", None) != FORMAT or content.pop("version", None) != _VERSION:
            raise GraphError(
                f"{path} is not an attribution graph of this version. Make it: circuits trace RUN "
                f"TEXT."
            )
        try:
            return cls(**_read(content))
        except RecordError as error:
            raise GraphError(
                f"{path} is not whole: {error}. Make it again: circuits trace RUN TEXT."
            ) from error

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
                probability = self.about["probabilities"][name]
                node |= logit_fields(name.removeprefix("logit "), probability)
            nodes.append(node)
        links = [
            {"source": ids[one], "target": ids[other], "weight": weight}
            for one, other, weight in graph.edges(data="weight")
        ]
        members = self.nodes[self.nodes["group"] >= 0].groupby("group")["node"]
        groups = [[f"group {n}", *(ids[name] for name in names)] for n, names in members]
        asked = sorted(node for node in self.nodes["node"] if node.startswith("logit "))
        slug = " ".join([self.text, *asked])
        return attribution_document(slug, list(self.tokens), nodes, links, groups, scan)

    def write_attribution(
        self, folder: str | Path, scan: str = "bilinear", *, force: bool = False
    ) -> Path:
        """Write that into a folder, and list it in the folder's ``graph-metadata.json``."""
        return write_attribution_document(self.attribution(scan), folder, force=force)

    def write_report(self, path: str | Path, *, force: bool = False) -> Path:
        """Write one HTML page that opens anywhere, with no network: the picture of the graph, and
        the ledger of each node beside it."""
        report = Report("Bilinear circuits", [trace_page(self.as_dict())], {})
        return report.write_file(Path(path), force)

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
        n_gate = int((self.gates["kind"] != "rest").sum())
        return (
            f"AttributionGraph({len(self.nodes)} nodes, {n_gate} gates of "
            f"{len(self.tokens)} tokens: {self.kept['influence of nodes']:.0%} of the influence)"
        )


def _rank_shares(sizes: Mapping[str, float]) -> dict[str, float]:
    """What share of all is held by those at least as large: small is important."""
    total, held, shares = sum(sizes.values()) or 1.0, 0.0, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        held += sizes[name]
        shares[name] = min(held / total, 1.0)
    return shares


def _read(content: dict[str, Any]) -> dict[str, Any]:
    """The parts of a graph from its file; refused where one could not have been written."""
    wanted = ("text", "tokens", "shares", "kept", "notes", "about", *_COLUMNS)
    _check_names("the graph", content, wanted)
    if not isinstance(content["text"], str):
        raise RecordError("text is not text")
    shares, kept = (
        _numbers(what, content[what], names) for what, names in (("shares", _ENDS), ("kept", _KEPT))
    )
    tables = {name: _table(name, content[name]) for name in _COLUMNS}
    tokens = _words("tokens", content["tokens"])
    _check_places(tables["nodes"], len(tokens), len(tables["layers"]))
    _check_ends(tables)
    about, nodes = _checked_about(content["about"]), tables["nodes"]
    targets = [*nodes["node"][nodes["kind"] == "logit"]]
    chances = _numbers("probabilities", about["probabilities"], targets)
    if not all(0 <= chance <= 1 for chance in chances.values()):
        raise RecordError("probabilities are not from 0 to 1")
    return {
        "text": content["text"],
        "tokens": tokens,
        **tables,
        "shares": shares,
        "kept": kept,
        "notes": _words("notes", content["notes"]),
        "about": about,
    }


def _check_names(what: str, found: object, wanted: Sequence[str]) -> None:
    if not isinstance(found, dict):
        raise RecordError(f"{what} is not an object")
    lacking, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if lacking or unknown:
        raise RecordError(
            f"in {what}, missing {lacking or 'nothing'}, unknown {shorten(unknown) or 'nothing'}"
        )


def _numbers(what: str, found: Any, names: Sequence[str]) -> dict[str, float]:
    _check_names(what, found, names)
    table = checked_table(
        table_of_columns({name: [found[name]] for name in names}, what),
        dict.fromkeys(names, NUMBER),
        what,
    )
    if table.isna().any(axis=None):
        raise RecordError(f"{what} lacks a number")
    return {name: float(table[name].iloc[0]) for name in names}


def _words(what: str, found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise RecordError(f"{what} is not a list of text")
    return tuple(found)


def _checked_about(about: Any) -> dict[str, Any]:
    _check_names("about", about, list(_ABOUT))
    if wrong := [name for name, kind in _ABOUT.items() if type(about[name]) is not kind]:
        raise RecordError(f"in about, {', '.join(wrong)} cannot be {about[wrong[0]]!r:.40}")
    _words("dictionaries", [*about["dictionaries"].values()])
    return {**about, **{name: list(_words(name, about[name])) for name in ("targets", "against")}}


def _table(name: str, rows: Any) -> pd.DataFrame:
    """A table from its rows."""
    columns = _COLUMNS[name]
    if not isinstance(rows, list):
        raise RecordError(f"{name} is not a list of rows")
    for number, row in enumerate(rows):
        _check_names(f"row {number} of {name}", row, list(columns))
    by_column = {column: [row[column] for row in rows] for column in columns}
    table = checked_table(table_of_columns(by_column, name), columns, name)
    for column, kind in columns.items():
        if kind is NUMBER and column not in _MAY_LACK and table[column].isna().any():
            raise RecordError(f"{name} lacks a number of {column}")
    return table


def _check_places(nodes: pd.DataFrame, n_token: int, n_layer: int) -> None:
    """Refuse nodes that are nowhere in the text or the network, or of no kind."""
    if not (len(nodes) and n_token and n_layer):
        raise RecordError("it has no node, no token or no layer")
    if (nodes["influence"] < 0).any():
        raise RecordError("nodes: influence is below 0")
    if (nodes.loc[nodes["kind"] != "logit", "layer"] >= n_layer).any():
        raise RecordError(f"nodes: a layer is none of the {n_layer} that are listed")
    for column, end in (("position", n_token), ("feature", None), ("group", None)):
        values = nodes[column].to_numpy(float)
        if (
            (values < -1).any()
            or (values % 1 != 0).any()
            or (end is not None and (values >= end).any())
        ):
            raise RecordError(f"nodes: {column} does not hold whole numbers from -1 in range")
    names = nodes["node"]
    if names.duplicated().any() or names.str.startswith("gate ").any() or "" in set(names):
        raise RecordError("nodes: each needs a name of its own, which no gate could have")
    if not set(nodes["kind"]) <= {*KINDS, "logit"}:
        raise RecordError(f"nodes: a kind is none of {', '.join(KINDS)}, logit")


def _check_ends(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse gates and edges of nodes that there are not."""
    names, gates, edges = set(tables["nodes"]["node"]), tables["gates"], tables["edges"]
    if not (len(gates) and len(edges)):
        raise RecordError("it has no gate or no edge, where each node's have a row for the rest")
    ends = {*gates["node"], *edges["node"]} | {*gates["first"], *gates["second"]} - {""}
    if unknown := sorted((ends | {*edges["source"]} - {"", "rest"}) - names):
        raise RecordError(f"gates or edges name {shorten(unknown)}, which is no node")
    if not set(gates["kind"]) <= set(_GATES):
        raise RecordError(f"gates: a kind is none of {', '.join(_GATES)}")
