"""How one text's answer is made, as a page: a picture of the nodes, and the ledger of each.

Everything is read from what the graph's file holds. Sums are computed here, from all digits, and
stand beside the value that the model has: a reader sees each node add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.attribution.page.picture import picture
from analysis.html.page import Page, Table
from circuits.plotting.display import percent, seen, shown

_COLUMNS = ("node", "kind", "layer", "position", "token", "feature", "value", "influence", "net",
            "kept", "promotes", "group", "off_by")  # fmt: skip
_HEADS = {"kept": "held by its gates", "off_by": "off by", "first": "of", "second": "and"}
_ENDS = {"token": "ends at tokens", "error": "at dictionary errors", "bias": "at biases",
         "whole MLP": "at whole MLPs", "not followed": "at features not followed"}  # fmt: skip


def trace_page(content: Mapping[str, Any]) -> Page:
    """The page of what the file of an `AttributionGraph` holds."""
    nodes, gates, edges, layers = (
        pd.DataFrame(content[name]) for name in ("nodes", "gates", "edges", "layers")
    )
    tokens = [shown(token) for token in content["tokens"]]
    nodes["label"] = [_label(about, tokens) for about in nodes.to_dict("records")]
    number = {name: place for place, name in enumerate(nodes["node"])}
    gates, edges = (
        table.assign(node=table["node"].map(number).astype(int)) for table in (gates, edges)
    )
    edges["source"] = edges["source"].map(number).fillna(-1).astype(int)
    for end in ("first", "second"):
        gates[end] = gates[end].map(number).fillna(-1).astype(int)
    tables = _tables(content)
    title = _title(content["about"])
    context = {
        "title": title,
        "text": seen(content["text"]),
        "notes": [seen(note) for note in content["notes"]],
        "facts": _facts(content),
        "tables": tables,
    }
    drawn = picture(nodes, edges, layers, tokens)
    errors = layers["error share"].tolist()
    data = {"trace": {
        "picture": drawn,
        "errors": errors,
        "nodes": _nodes(nodes),
        "gates": _rows(gates, len(nodes), ("kind", "first", "second", "value"), nodes["value"]),
        "edges": _rows(edges, len(nodes), ("source", "way", "way_value", "value"), nodes["value"]),
    }}  # fmt: skip
    return Page("trace", title, "trace.html.j2", context, tables=tables, data=data)


def _label(about: Mapping[str, Any], tokens: Sequence[str]) -> str:
    """What a node is called on the page, its token by name."""
    kind, at = about["kind"], int(about["position"])
    if kind == "logit":
        return seen(about["node"].removeprefix("logit "))
    if kind == "token":
        return f"“{tokens[at]}”"
    name = about["node"].split(" @")[0]
    return name if at < 0 else f"{name} “{tokens[at]}”"


def _title(about: Mapping[str, Any]) -> str:
    """The question that the graph answers."""
    wanted, against = (
        ", ".join(f"“{shown(word)}”" for word in about[name]) for name in ("targets", "against")
    )
    return f"How the model gets to {wanted}" + (f" rather than {against}" if against else "")


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How much of the influence is kept, and where all of it ends."""
    kept, shares = content["kept"], content["shares"]
    n_named = sum(gate["kind"] != "rest" for gate in content["gates"])
    return [
        (f"influence in {len(content['nodes'])} nodes", percent(kept["influence of nodes"])),
        ("through them alone", percent(kept["through nodes alone"])),
        (f"held by {n_named} gates", percent(kept["influence of gates"])),
        *((_ENDS[kind], percent(share)) for kind, share in shares.items() if share),
    ]


def _nodes(nodes: pd.DataFrame) -> list[dict[str, Any]]:
    names = ["label", "kind", "layer", "position", "feature", "value", "influence", "net", "kept",
             "group"]  # fmt: skip
    promotes = [seen(words) if words else "" for words in nodes["promotes"]]
    return nodes[names].assign(promotes=promotes).to_dict("records")


def _rows(
    table: pd.DataFrame, n_node: int, columns: Sequence[str], values: pd.Series
) -> list[dict[str, Any] | None]:
    """Of each node its gates, or its edges, largest first and the rest last; what they sum to, and
    the difference to its value."""
    found: list[dict[str, Any] | None] = [None] * n_node
    for node, rows in table.groupby("node"):
        rest = (rows["kind"] == "rest") if "kind" in rows else (rows["source"] < 0)
        order = rows.assign(rest=rest, size=-rows["value"].abs()).sort_values(
            ["rest", "size"], kind="stable"
        )
        total, largest = float(rows["value"].sum()), float(rows["value"].abs().max())
        off_by = abs(total - values[node])
        found[int(rows["node"].iloc[0])] = {
            "rows": order[list(columns)].to_numpy(dtype=object).tolist(),
            "total": total,
            "difference": off_by,
            "relative": off_by / max(largest, 1e-300),
        }
    return found


def _tables(content: Mapping[str, Any]) -> list[Table]:
    """By layer, by node, by gate."""
    layers, nodes, gates = (pd.DataFrame(content[name]) for name in ("layers", "nodes", "gates"))
    said = "Of the influence that reaches each layer: "
    return [
        Table.of("layers", f"{said}what its features pass on, and what ends there. Error share: of "
                 "what reaches the MLP, what ends at its dictionary's error.", layers),
        Table.of("nodes", "Nodes, those of most influence first. Net: how much of the influence "
                 "raises the answer, less how much lowers it. Held by its gates: how much of "
                 "what the node reads its gates in this graph hold. Off by: the difference of "
                 "its gates' sum to its value, relative to the largest gate.",
                 nodes[list(_COLUMNS)], _HEADS),
        Table.of("gates", "Gates, those of most influence first; rest: the sum of all others of "
                 "a node.", gates, _HEADS),
    ]  # fmt: skip
