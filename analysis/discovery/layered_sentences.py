"""A circuit through several layers in a few sentences, for a command and a page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.behaviour.bounds import DIRECT
from analysis.discovery.find import verdict
from analysis.discovery.layered_circuit import ALL_OTHERS, LayeredCircuit
from circuits.plotting.display import percent, shown

_MOST_WAYS = 4  # that are named
_MOST_HEADS = 4
_LEAST = 0.01  # of what a layer's pairs add


def layered_sentences(circuit: LayeredCircuit) -> list[str]:
    """A line a layer, what carries on what it writes, and on what it was found."""
    evidence = circuit.evidence
    layers = " and ".join(filter(None, [", ".join(map(str, circuit.layers[:-1])),
                                        str(circuit.layers[-1])]))  # fmt: skip
    lines = [f"{circuit.name}: found in layer{'s' * (len(circuit.layers) > 1)} {layers}"]
    for layer, stage in zip(circuit.layers, circuit.stages, strict=True):
        assert stage.evidence is not None  # of a behaviour
        shares, n = stage.evidence.shares, len(stage.interactions)
        lines.append(
            f"Layer {layer}: {percent(shares.direct)} of the contrast flows through its MLP, and "
            f"{n} pair{'s' * (n != 1)} carr{'y' if n != 1 else 'ies'} {percent(shares.carried)} of "
            f"that; {verdict(stage)}."
        )
    lines += [_carried_on(circuit, layer) for layer in circuit.layers]
    lines += _looking(circuit)
    lines.append(
        f"The parts of two layers overlap: a later one holds what it passes on. Chosen on n = "
        f"{evidence.n_cases} cases; held-out half: {evidence.held_out_half}."
    )
    return lines


def _carried_on(circuit: LayeredCircuit, layer: int) -> str:
    ways = circuit.ways[circuit.ways["layer"] == layer].dropna()
    ways = ways.sort_values("share", key=lambda share: -share.abs(), kind="stable")
    strong = ways[ways["share"].abs() >= _LEAST].head(_MOST_WAYS)
    named = [
        f"{'head ' if way[0].isdigit() else ''}{way} ({percent(share)})"
        for way, share in zip(strong["way"], strong["share"], strict=True)
    ]
    said = f"What layer {layer} writes reaches the answers by {', '.join(named) or 'no known way'}"
    rest = ways.drop(strong.index)
    if len(rest):
        most = percent(float(rest["share"].abs().max()))
        said += f"; {len(rest)} other{'s' * (len(rest) != 1)}, at most {most}"
    return f"{said}."


def _looking(circuit: LayeredCircuit) -> list[str]:
    """Which heads add to the contrast by looking elsewhere; nothing where it is not known."""
    table = circuit.looks
    if not len(table):
        return []
    heads = table.drop_duplicates(["layer", "head"]).dropna(subset="looks")
    heads = heads.sort_values("looks", key=lambda share: -share.abs(), kind="stable")
    if not len(heads):
        return ["Where heads look was not compared: no texts of two classes have one length."]
    strong = heads[heads["looks"].abs() >= DIRECT]
    if not len(strong):
        first = heads.iloc[0]
        return [
            f"No head makes {percent(DIRECT)} of the contrast by looking elsewhere in one class; "
            f"head {first['layer']}.{first['head']} makes most, {percent(first['looks'])}."
        ]
    said = [_elsewhere(table, head) for head in strong.head(_MOST_HEADS).to_dict("records")]
    if n := len(strong) - len(said):
        most = percent(float(strong["looks"].iloc[_MOST_HEADS:].abs().max()))
        said.append(f"{n} other head{'s do' if n != 1 else ' does'} the same, at most {most}.")
    return said


def _elsewhere(table: pd.DataFrame, head: dict[str, Any]) -> str:
    said = (
        f"Head {head['layer']}.{head['head']} looks elsewhere in one class than in another: that "
        f"alone makes {percent(head['looks'])} of the contrast"
    )
    pairs = table[(table["layer"] == head["layer"]) & (table["head"] == head["head"])]
    pairs = pairs[pairs["query"] != ALL_OTHERS].dropna(subset=["distance", "share"])
    if not len(pairs):
        return f"{said}."
    pair = pairs.iloc[0]
    n = int(pair["distance"])
    where = f"{n} token{'s' * (n != 1)} before" if n else "the same token"
    return (
        f"{said}; its strongest pair is {shown(pair['query'])} looking at {shown(pair['key'])}, "
        f"{where} ({percent(pair['share'])} of the score's difference)."
    )
