"""A circuit through several layers in a few sentences, for a command and a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.behaviour.bounds import CARRIED, DIRECT, GAIN
from analysis.discovery.find import verdict
from analysis.discovery.layer_records import LeftOut
from analysis.discovery.layered_circuit import (
    ALL_OTHERS,
    LayeredCircuit,
)
from analysis.discovery.ways import BY_LOOKS, BY_NO_HEAD, BY_NORMS
from circuits.plotting.display import percent, shown

_MOST_WAYS = 4  # that are named
_MOST_HEADS = 4
_LEAST = 0.01  # of what a layer's pairs add
_NAMES = {BY_NO_HEAD: "passes through no head", BY_LOOKS: "works by moving where later heads look"}


def layered_sentences(circuit: LayeredCircuit) -> list[str]:
    """A line a layer, which layers are left out, what carries on what it writes, and on what it was
    found."""
    evidence = circuit.evidence
    lines = [f"{circuit.name}: found in {_named(circuit.layers)}"]
    for layer, stage in zip(circuit.layers, circuit.stages, strict=True):
        assert stage.evidence is not None  # of a behaviour
        shares, n = stage.evidence.shares, len(stage.interactions)
        lines.append(
            f"Layer {layer}: {percent(shares.direct)} of the contrast depends on its MLP, and "
            f"{n} pair{'s' * (n != 1)} carr{'y' if n != 1 else 'ies'} {percent(shares.carried)} of "
            f"that; {verdict(stage)}."
        )
        lines += _missing(circuit, layer)
    lines += _left_out(circuit.left_out)
    lines += [_carried_on(circuit, layer) for layer in circuit.layers]
    lines += _fed(circuit)
    lines += _looking(circuit)
    lines += [evidence.compared] if evidence.compared else []
    lines.append(
        f"A layer's share is what is gone with its MLP's output at its mean over the classes, "
        f"norms dividing as they did. A later layer passes on what an earlier one wrote, so shares "
        f"overlap. Chosen on n = {evidence.n_cases} cases; held-out half: {evidence.held_out_half}."
    )
    return lines


def _named(layers: Sequence[int]) -> str:
    *most, last = map(str, layers)
    return f"layers {', '.join(most)} and {last}" if most else f"layer {last}"


def _missing(circuit: LayeredCircuit, layer: int) -> list[str]:
    """How much the pairs of a layer lack in the worst stratum, where that is more than allowed."""
    allowed, n = 1 - circuit.evidence.thresholds.coverage, len(circuit.stage(layer).interactions)
    limit = f"stopped at the limit of {n} pair{'s' * (n != 1)}"
    return [
        f"Layer {layer}: {limit if one.at_limit else 'no other pair brings more'}; in the worst "
        f"stratum ({shown(one.stratum)}) {percent(one.missing)} of the margin is still missing, "
        f"and {percent(allowed)} may be."
        for one in circuit.chosen
        if one.layer == layer and one.missing > allowed + GAIN
    ]


def _left_out(layers: Sequence[LeftOut]) -> list[str]:
    """Why each layer that is not in the circuit is not."""
    lines, unseen, small = list[str](), list[int](), list[LeftOut]()
    for one in layers:
        why = ""
        if one.depends is None:
            unseen.append(one.layer)
        elif one.carried is not None:
            n, depends = one.n_pairs, percent(one.depends)
            pairs = f"the best {n} pairs carry" if n > 1 else "the best pair carries"
            carried = f"{pairs} {percent(one.carried)} of that" if n else "no pair does enough"
            why = f"{depends} of the contrast depends on its MLP, but {carried}"
            why += f", and {percent(CARRIED)} are needed" * bool(n)
        elif one.depends < -DIRECT:
            why = f"its MLP works against the contrast, with {percent(one.depends)} of it"
        else:
            small.append(one)
        lines += [f"Layer {one.layer} is not in the circuit: {why}."] if why else []
    if small:
        most = percent(round(max(one.depends or 0.0 for one in small), 4))
        many, which = len(small) > 1, _named([one.layer for one in small])
        lines.append(
            f"{which.capitalize()} {'are' if many else 'is'} not in the circuit: "
            f"{'at most ' * many}{most} of the contrast depends on {'each' if many else 'its MLP'}"
            f", and {percent(DIRECT)} are needed."
        )
    if unseen:
        lines.append(f"Without dictionaries, and not looked at: {_named(unseen)}.")
    return lines


def _carried_on(circuit: LayeredCircuit, layer: int) -> str:
    ways = circuit.ways[circuit.ways["layer"] == layer].dropna(subset="share")
    norms = ways.loc[ways["way"] == BY_NORMS, "share"]
    ways = ways.drop(norms.index)
    ways = ways.sort_values("share", key=lambda share: -share.abs(), kind="stable")
    strong = ways[ways["share"].abs() >= _LEAST].head(_MOST_WAYS)
    named = [
        f"{percent(share)} {_NAMES.get(way, f'passes through head {way}')}"
        for way, share in zip(strong["way"], strong["share"], strict=True)
    ]
    said = f"Of what layer {layer}'s pairs add to the contrast, "
    said += ", ".join(named) or "no way is known"
    rest = ways.drop(strong.index)
    if len(rest):
        most = percent(round(float(rest["share"].abs().max()), 4))
        said += f"; {len(rest)} other way{'s' * (len(rest) != 1)}, at most {most}"
    if len(norms) and abs(more := float(norms.iloc[0])) >= DIRECT:
        said += (
            f"; in the network as it runs {percent(abs(more))} {'more' if more > 0 else 'less'} is "
            f"gone without them, because norms then divide by something else"
        )
    return f"{said}."


def _fed(circuit: LayeredCircuit) -> list[str]:
    """How much of what later pairs add was written by earlier ones, and the strongest link."""
    lines, labels = list[str](), circuit.pair_labels
    for layer, rows in circuit.links.groupby("layer"):
        share = rows.groupby("from_layer")["share"].sum()
        parts = [f"layer {at}'s pairs wrote {percent(n)}" for at, n in share.items()]
        named = rows[rows["pair"] != ALL_OTHERS]
        first = named.loc[named["share"].abs().round(9).idxmax()]
        lines.append(
            f"Of what layer {layer}'s pairs add, {', '.join(parts)} (each product counts half for "
            f"either feature). The strongest link, {percent(first['share'])}, runs from "
            f"{labels[first['from_pair']]} to {labels[first['pair']]}."
        )
    return lines


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
            f"No head makes {percent(DIRECT)} of the contrast by looking elsewhere in one class "
            f"than in another; head {first['layer']}.{first['head']} makes most, "
            f"{percent(first['looks'])}."
        ]
    named = strong.head(_MOST_HEADS).to_dict("records")
    said = [sentence for head in named for sentence in _elsewhere(table, head)]
    if n := len(strong) - len(named):
        most = percent(float(strong["looks"].iloc[_MOST_HEADS:].abs().max()))
        said.append(f"{n} other head{'s do' if n != 1 else ' does'} the same, at most {most}.")
    return said


def _elsewhere(table: pd.DataFrame, head: dict[str, Any]) -> list[str]:
    name, share = f"{head['layer']}.{head['head']}", head["looks"]
    done = "is gone" if share > 0 else "is added"
    said = [
        f"Head {name} looks elsewhere in one class than in another: with its pattern at their mean "
        f"{percent(abs(share))} of the contrast {done}."
    ]
    pairs = table[(table["layer"] == head["layer"]) & (table["head"] == head["head"])]
    pairs = pairs[pairs["query"] != ALL_OTHERS].dropna(subset=["distance", "share"])
    if not len(pairs):
        return said
    pair = pairs.iloc[0]
    n = int(pair["distance"])
    where = f"{n} token{'s' * (n != 1)} before" if n else "the same token"
    looking = f"{shown(pair['query'])} looking at {shown(pair['key'])}, {where}"
    part = f"{percent(pair['share'])} of the difference of its scores"
    explained = abs(pair["share"]) >= DIRECT
    said.append(
        f"Its strongest pair is {looking}: {part}."
        if explained
        else f"No single pair explains that; the strongest is {looking}: {part}."
    )
    return said
