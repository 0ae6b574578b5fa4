"""Circuits in the formats that other tools open: GraphML and GEXF, and attribution graphs.

XML cannot hold every character that a label can: such characters, and backslashes, are written as
``\\x{…}`` and read back by ``read_graph``.

``write_attribution`` writes what circuit-tracer's frontend and Neuronpedia read. That format is for
one prompt, and a circuit read from weights has none, so there are two pseudo-tokens (with one the
frontend drops every node): inputs at the first, pairs and output at the second. The frontend
ignores ``qParams.supernodes`` unless they are in its address: see ``attribution_query``.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import networkx as nx

from circuits.arguments import checked
from circuits.errors import GraphError, first_line, shorten
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Output
from circuits.storage.files import parsed_json, written_whole
from circuits.storage.limits import check_readable
from circuits.storage.lock import locked
from circuits.storage.replacing import check_file

_WRITERS = {".graphml": nx.write_graphml, ".gexf": nx.write_gexf}
_READERS = {".graphml": nx.read_graphml, ".gexf": nx.read_gexf}
# what XML 1.0 forbids, what parsers turn into something else, and the escape itself
_UNSAFE = re.compile("[^ -[\\]-~\u00a0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010fffd]")
_MARK = b"<!-- bilinear-circuits -->"  # in the second line: no other program keeps it there
_INDEX = "graph-metadata"
_LONGEST = 80  # characters of a circuit's name in that of its file
_MOST_PINNED = 200  # the frontend's subgraph shows no more: the most influential


def escape(text: str) -> str:
    """The same text in characters that XML keeps; reversible."""
    safe = _UNSAFE.sub(lambda found: f"\\x{{{ord(found[0]):x}}}", text)
    # parsers may strip the ends, and drop what is empty
    safe = re.sub("^ | $", "\\\\x{20}", safe)
    return safe or "\\x{}"


def unescape(text: str) -> str:
    """What ``escape`` was given."""
    return re.sub(
        r"\\x\{([0-9a-f]*)\}", lambda found: chr(int(found[1], 16)) if found[1] else "", text
    )


@checked
def write_graph(graph: nx.Graph | Circuit, path: str | Path, *, force: bool = False) -> Path:
    """Write GraphML or GEXF, by the ending of the path. Every node and edge attribute is kept.

    A graph that another program wrote or saved again is not overwritten without ``force``."""
    path = Path(path)
    graph = graph.graph() if isinstance(graph, Circuit) else graph
    write = _WRITERS[_format(path)]
    check_file(
        path,
        "a graph that the toolkit wrote",
        lambda head: head.split(b"\n")[1:2] == [_MARK],
        GraphError,
        force,
    )
    safe = _translated(graph, escape)
    with written_whole(path) as file:
        try:
            write(safe, file)
        except (nx.NetworkXError, TypeError, ValueError) as error:
            raise GraphError(
                f"{path}: the format cannot hold this graph ({first_line(error)}). Attributes must "
                f"be numbers or strings: change or delete those that are not."
            ) from error
        start, rest = file.read_bytes().split(b"\n", 1)
        file.write_bytes(b"\n".join((start, _MARK, rest)))
    return path


@checked
def read_graph(path: str | Path) -> nx.Graph:
    """Read what ``write_graph`` wrote; nodes are named by strings, as the formats do."""
    path = Path(path)
    check_readable(path, GraphError)
    try:
        return _read_back(_READERS[_format(path)](path))
    except (OSError, GraphError):
        raise
    except Exception as error:  # networkx raises what its conversions raise
        raise GraphError(
            f"{path}: no graph can be read from it ({first_line(error)}). It was cut short or is "
            f"another file: write it again with write_graph."
        ) from error


def _read_back(graph: nx.Graph) -> nx.Graph:
    """The graph as it was written, from what a reader makes of its file."""
    if not graph.is_directed() and graph.is_multigraph():
        graph = nx.Graph(graph)
    for *_, about in graph.edges(data=True):
        about.pop("id", None)  # GEXF's own count of edges
    return _translated(graph, unescape)


def _format(path: Path) -> str:
    if path.suffix not in _WRITERS:
        raise GraphError(
            f"{path}: no graph format ends in '{path.suffix}'. Name it .graphml or .gexf."
        )
    return path.suffix


def _translated(graph: nx.Graph, translate: Any) -> nx.Graph:
    """A copy whose strings went through ``translate``; nodes are named by strings."""

    def strings(about: dict[str, Any]) -> dict[str, Any]:
        return {k: translate(v) if isinstance(v, str) else v for k, v in about.items()}

    def name(node: object) -> str:
        return str(translate(node if isinstance(node, str) else str(node)))

    copy = graph.__class__()
    copy.graph.update(strings(graph.graph))
    copy.add_nodes_from((name(node), strings(about)) for node, about in graph.nodes(data=True))
    copy.add_edges_from((name(i), name(j), strings(k)) for i, j, k in graph.edges(data=True))
    return copy


@checked
def attribution(
    circuit: Circuit, layer: int | None = None, scan: str = "bilinear"
) -> dict[str, Any]:
    """The circuit as an attribution graph: metadata, qParams, nodes and links. A link has the
    pair's weight, or what it adds on data where that is known, half from either cause. The layer is
    the circuit's own, or 0."""
    if layer is None:
        layer = circuit.source.layer or 0
    if layer < 0:
        raise GraphError(f"attribution: there is no layer {layer}; they count from 0.")
    for pair in circuit.interactions:
        for name, number in (("weight", pair.weight), ("data_weight", pair.data_weight or 0.0)):
            if not math.isfinite(number):
                raise GraphError(
                    f"attribution: the {name} of pair {pair.first}, {pair.second} is {number}, "
                    f"which no viewer draws. Look at where it was computed."
                )
    nodes, links = _nodes_and_links(circuit, layer)
    tokens = ["input features", "output feature"]
    groups = _supernodes(circuit, str(layer))
    return attribution_document(circuit.name, tokens, nodes, links, groups, scan)


def attribution_document(
    name: str,
    tokens: list[str],
    nodes: list[dict[str, Any]],
    links: list[dict[str, Any]],
    groups: list[list[str]],
    scan: str,
) -> dict[str, Any]:
    """The file of nodes and links (`attribution_node`) on some tokens."""
    pinned = sorted(nodes, key=lambda node: node["influence"])[:_MOST_PINNED]
    return {
        "metadata": {
            "slug": _slug(name),
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": tokens,
            "prompt": " ".join(tokens),
            "node_threshold": None,
            "schema_version": 1,
        },
        "qParams": {
            "pinnedIds": [node["node_id"] for node in pinned],
            "supernodes": groups,
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": nodes,
        "links": links,
    }


def _nodes_and_links(
    circuit: Circuit, layer: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs at this layer, interactions at the next, the output at the one after."""
    below, between, above = str(layer), str(layer + 1), str(layer + 2)
    sizes = {
        (pair.first, pair.second): pair.weight if pair.data_weight is None else pair.data_weight
        for pair in circuit.interactions
    }
    of_feature = {feature.feature: 0.0 for feature in circuit.features}
    for ends, size in sizes.items():
        for end in set(ends):
            of_feature[end] += abs(size)
    pair_rank, feature_rank = _rank_shares(sizes), _rank_shares(of_feature)
    labels = {feature.feature: feature.label for feature in circuit.features}
    nodes = [
        attribution_node(f"{below}_{i}_0", _cantor(layer, i), below, 0, label, feature_rank[i], i)
        for i, label in labels.items()
    ]
    links = []
    output = circuit.outputs[0]
    if len(circuit.outputs) > 1:  # what they write together
        output = Output(output.feature, circuit.name)
    target = f"{above}_{output.feature}_1"
    for place, ((first, second), size) in enumerate(sizes.items()):
        name, number = f"{labels[first]} × {labels[second]}", _cantor(layer + 1, place)
        node = f"{between}_{place}_1"
        rank = pair_rank[first, second]
        nodes.append(attribution_node(node, number, between, 1, name, rank, place, activation=size))
        causes = sorted({first, second})
        links += [_link(f"{below}_{end}_0", node, size / len(causes)) for end in causes]
        links.append(_link(node, target, size))
    return [*nodes, _output_node(target, above, output)], links


def _output_node(node_id: str, layer: str, output: Output) -> dict[str, Any]:
    """The frontend wants a logit with a probability: a feature has none, so it is 1."""
    node = attribution_node(node_id, output.feature, layer, 1, "", 0.0, 0)
    return {**node, **logit_fields(output.label, 1.0), "jsNodeId": f"L_{output.feature}-1"}


@checked
def write_attribution(
    circuit: Circuit,
    folder: str | Path,
    layer: int | None = None,
    scan: str = "bilinear",
    *,
    force: bool = False,
) -> Path:
    """Write ``{slug}.json`` into the folder, and list it in its ``graph-metadata.json``. A file of
    that name that is no attribution graph is not overwritten without ``force``."""
    document = attribution(circuit, layer, scan)
    return write_attribution_document(document, folder, force=force)


def write_attribution_document(
    document: dict[str, Any], folder: str | Path, *, force: bool = False
) -> Path:
    """The same for a document that is made already."""
    folder, metadata = Path(folder), document["metadata"]
    index = folder / f"{_INDEX}.json"
    path = folder / f"{metadata['slug']}.json"
    kind = "an attribution graph of this circuit"
    with locked(folder, "an export"):  # another one at the same time would list its own alone
        listing = _listing(index, metadata, force)
        check_file(path, kind, partial(_is_graph_of, slug=metadata["slug"]), GraphError, force)
        for file, content in ((path, document), (index, listing)):
            with written_whole(file) as part:
                part.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return path


def _is_graph_of(head: bytes, slug: str) -> bool:
    """Whether a file begins as such a graph does: other programs' name their transcoders."""
    start = rb'\{"metadata": \{"slug": "%s", "scan": "(?:[^"\\]|\\.)*", "transcoder_list": \[\], '
    return re.match(start % re.escape(slug).encode(), head) is not None


def _listing(index: Path, metadata: dict[str, Any], force: bool) -> dict[str, Any]:
    """What the index is to hold: this graph in the place that it had, all else as it is. Another
    program's entry of the same name is replaced only with ``force``."""
    if not index.exists():
        return {"graphs": [metadata]}
    check_readable(index, GraphError)
    try:
        content = parsed_json(index.read_text(encoding="utf-8"))
        same = [one for one in content["graphs"] if one.get("slug") == metadata["slug"]]
        ours = all(one.keys() == metadata.keys() and not one["transcoder_list"] for one in same)
        others = [metadata if one.get("slug") == metadata["slug"] else one
                  for one in content["graphs"]]  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GraphError(
            f"{index} lists no graphs ({type(error).__name__}). Restore it, or delete it: it is "
            f"made again at the next export."
        ) from error
    if not (ours or force):
        raise GraphError(
            f"{index} lists a graph '{metadata['slug']}' that the toolkit did not write, so its "
            f"entry would be lost. Name another folder, or replace it: --force, in Python "
            f"force=True."
        )
    return {**content, "graphs": others if metadata in others else [*others, metadata]}


@checked
def attribution_query(document: dict[str, Any]) -> str:
    """The end of the frontend's address that opens this graph with its groups."""
    if not {"qParams", "metadata"} <= document.keys():
        raise GraphError(
            f"attribution_query: a mapping with {shorten(map(str, document)) or 'nothing'} was "
            f"given, not what attribution(circuit) makes. Pass that."
        )
    params = document["qParams"]
    return "?" + urlencode(
        {
            "slug": document["metadata"]["slug"],
            "pinnedIds": ",".join(params["pinnedIds"]),
            "supernodes": json.dumps(params["supernodes"]),
        }
    )


def logit_fields(label: str, probability: float) -> dict[str, Any]:
    """What makes a node a target. The frontend splits its name at quotes and at "(p=": in a label
    they are replaced."""
    spoken = re.sub(r'"|\(p=', "'", label)
    return {
        "feature_type": "logit",
        "is_target_logit": True,
        "token_prob": probability,
        "clerp": f'Output "{spoken}" (p={probability:.3f})',
    }


def attribution_node(
    node_id: str, feature: int, layer: str, position: int, label: str, influence: float,
    place: int, activation: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A node as the frontend reads it. ``influence``: the share of all that is held by nodes at
    least as large, so small is important."""
    return {
        "node_id": node_id,
        "feature": feature,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{place}-0",
        "clerp": label,
        "influence": influence,
        "activation": activation,
    }


def _link(source: str, target: str, weight: float) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": weight}


def _cantor(one: int, two: int) -> int:
    """One number for a layer and a feature of it."""
    return (one + two) * (one + two + 1) // 2 + two


def _rank_shares(sizes: dict[Any, float]) -> dict[Any, float]:
    """What share of all is held by those at least as large: small is important, as there."""
    total = sum(abs(size) for size in sizes.values()) or 1.0
    shares, held = {}, 0.0
    for key in sorted(sizes, key=lambda key: (-abs(sizes[key]), key)):
        held += abs(sizes[key])
        shares[key] = min(held / total, 1.0)
    return shares


def _supernodes(circuit: Circuit, layer: str) -> list[list[str]]:
    groups: dict[int, list[Feature]] = {}
    for feature in circuit.features:
        if feature.group >= 0:
            groups.setdefault(feature.group, []).append(feature)
    named = []
    for number, members in sorted(groups.items()):
        if len(members) > 1:
            strongest = sorted(members, key=lambda m: (-(m.loading or 0.0), m.feature))
            label = f"group {number}: " + ", ".join(member.label for member in strongest[:3])
            named.append([label, *(f"{layer}_{member.feature}_0" for member in members)])
    return named


def _slug(name: str) -> str:
    """A file name of harmless characters, with a hash of what they do not show: no two names share
    one, and none is that of the index."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain.replace("-", " ") == name and len(plain) <= _LONGEST and plain != _INDEX:
        return plain
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[:_LONGEST] or 'circuit'}-{digest}"
