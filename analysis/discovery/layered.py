"""A circuit through several layers: for each MLP that makes the contrast, its pairs; and the heads
that carry what they write to later MLPs and the answers.

A layer has a part where a tenth of the contrast or more flows through it, by all ways to the
answers (`Flow`). Its pairs are chosen as those of one layer are: few first, in every stratum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.attribution.flow.flow import Flow
from analysis.attribution.flow.looks import Looks
from analysis.attribution.flow.pairs import FlowPairs
from analysis.attribution.flow.score_pairs import score_pairs
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour import bounds
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases
from analysis.discovery.layered_circuit import ALL_OTHERS, BY_NO_HEAD, LOOKS, LayeredCircuit
from analysis.discovery.provenance import wanted_layers
from analysis.discovery.selection import add_features, factor_groups, fewest
from circuits.errors import ModelError, NotFoundError
from circuits.graph.circuit import Circuit
from circuits.graph.records import (
    BehaviourEvidence,
    Choice,
    Output,
    Shares,
    Source,
    Thresholds,
)
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_N_SOUGHT = 4096  # pairs that are looked at, those that add most
_N_OUTPUTS = 8  # of each layer
_N_LOOKS = 8  # pairs of each head
_LEAST_LOOK = 0.01  # of the strongest pair's score
_ENOUGH = 0.9  # of what flows through a layer, by its outputs


def layered_circuit(
    cases: ModelCases,
    held_out: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    thresholds: Thresholds,
) -> LayeredCircuit:
    """The circuit of all layers that have dictionaries and through which the contrast flows."""
    flow = Flow.of(cases)
    weights = cases.weights(cases.affected)
    whole = float((weights * flow.difference).sum())
    stages, refused = list[Circuit](), list[str]()
    for layer in progress(wanted_layers(cases.model, dictionaries, None), "pairs", "layer"):
        total = float((weights * cases.side * flow.totals[layer]).sum())
        if not total > bounds.DIRECT * whole > 0:
            refused.append(f"{total:.2f} of {whole:.2f} logits flow through layer {layer}")
            continue
        pairs = FlowPairs(flow, layer, dictionaries[mlp_sites(layer)[0]])
        found = _fewest(pairs, thresholds)
        carried = float(found["contrast"].sum()) / total
        if carried < bounds.CARRIED:
            refused.append(f"{len(found)} pairs carry {carried:.0%} of layer {layer}")
            continue
        out = dictionaries[mlp_sites(layer)[1]]
        stages.append(_stage(pairs, found, out, (total, whole), held_out, thresholds))
    if not stages:
        raise NotFoundError(
            f"not found: {'; '.join(refused)}. A layer has part in {cases.behaviour.name!r} where "
            f"{bounds.DIRECT:.0%} of its margin flows through, and few pairs carry half of that."
        )
    ways, looks = _ways(flow, stages, dictionaries), _looks(flow, dictionaries, whole)
    return LayeredCircuit(cases.behaviour.name, tuple(stages), ways, looks)


def _fewest(pairs: FlowPairs, thresholds: Thresholds) -> pd.DataFrame:
    cases = pairs.cases
    most = pairs.pairs[list(cases.behaviour.affected)].max(axis=1)
    sought = pairs.pairs[most > 0].head(_N_SOUGHT).sort_values("number", ignore_index=True)
    added = pairs.added(torch.tensor(sought["number"].to_numpy()))
    totals = pairs.flow.totals[pairs.layer_number]
    places = fewest(cases, added, totals, thresholds.coverage, thresholds.n_pairs)
    return sought.iloc[places].sort_values("contrast", ascending=False, ignore_index=True)


def _stage(
    pairs: FlowPairs,
    found: pd.DataFrame,
    out: Dictionary,
    flows: tuple[float, float],  # through this layer, and in all
    held_out: Behaviour,
    thresholds: Thresholds,
) -> Circuit:
    total, whole = flows
    cases, layer, origins = pairs.cases, pairs.layer_number, pairs.origins
    clusters, groups = factor_groups(pairs, found)
    outputs, through = _outputs(pairs, out, total)
    shares = Shares(
        carried=float(found["contrast"].sum()) / total,
        computed=origins.computed,
        inherited=origins.inherited,
        within=origins.within,
        error=1 - float(pairs.pairs["contrast"].sum()) / total,
        direct=total / whole,
        through_outputs=through,
    )
    behaviour = cases.behaviour
    return Circuit.of(
        _graph(pairs, found, {f: groups[g].name for f, g in clusters.items()}, thresholds),
        clusters,
        f"{behaviour.name}, layer {layer}",
        source=Source(
            cases.model.fingerprint, layer, pairs.dictionary.fingerprint, out.fingerprint
        ),
        outputs=outputs,
        groups=groups,
        evidence=BehaviourEvidence(
            behaviour.name, behaviour.metric, behaviour.factors, behaviour.affected, len(cases),
            shares, thresholds, (), cases.hashes, behaviour.other_words(held_out),
        ),
    )  # fmt: skip


def _graph(
    pairs: FlowPairs, found: pd.DataFrame, kinds: Mapping[Any, str], thresholds: Thresholds
) -> nx.Graph:
    every = pairs.pairs
    halved = np.where(every["first"] == every["second"], 1.0, 0.5)
    energy = pd.Series(every["weight"].to_numpy() ** 2 * halved, index=every["number"])
    held = float(energy.loc[found["number"]].sum())
    whole = float(energy.sum())
    graph = nx.Graph(chosen=Choice.CONTRAST, level=thresholds.coverage, total_energy=whole,
                     energy=held / whole if whole else 0.0)  # fmt: skip
    add_features(graph, pairs, found, kinds)
    split = pairs.computed(found).tolist()
    for row, (made, held_before) in zip(found.to_dict("records"), split, strict=True):
        known = {name: float(row[name]) for name in ("weight", "contrast", "elsewhere")}
        graph.add_edge(row["first"], row["second"], **known, computed=made, inherited=held_before)
    return graph


def _outputs(pairs: FlowPairs, out: Dictionary, total: float) -> tuple[tuple[Output, ...], float]:
    """The output features that most of the layer's flow goes through, and their share of it."""
    cases, (case, at) = pairs.cases, pairs.tokens.mT
    y = pairs.layer(pairs.flow.inputs[pairs.layer_number][case, at])
    reads = pairs.flow.reads[pairs.layer_number][case, at]
    code = out.to("cpu").active(y.to(out.dtype))
    effects = (reads[code.rows] * out.decoder.cpu().double()[code.features.long()]).sum(1)
    weights = cases.weights(cases.affected)[case][code.rows]
    through, active = (
        torch.zeros(out.n_feature, dtype=torch.float64).index_add_(0, code.features.long(), each)
        for each in (weights * effects * code.values.double(), weights.abs() * code.values.double())
    )
    shares = through / total
    order = shares.argsort(descending=True, stable=True)[:_N_OUTPUTS].tolist()
    enough = int((shares[order].cumsum(0) < _ENOUGH).sum()) + 1
    chosen = [feature for feature in order[:enough] if shares[feature] > 0] or order[:1]
    outputs = tuple(
        Output(
            feature,
            f"feature {feature}",
            float(through[feature] / active[feature]) if active[feature] else 0.0,
            float(shares[feature]),
        )
        for feature in chosen
    )
    return outputs, float(shares[chosen].sum())


def _ways(
    flow: Flow, stages: list[Circuit], dictionaries: Mapping[Site, Dictionary]
) -> pd.DataFrame:
    """What the pairs of each stage add to the contrast by each head."""
    cases, model = flow.cases, flow.model
    weights = cases.weights(cases.affected)
    wrote = {}
    for stage in stages:
        layer = int(stage.source.layer or 0)
        ends = [(pair.first, pair.second) for pair in stage.interactions]
        terms = PairTerms.of(model, layer, dictionaries[mlp_sites(layer)[0]].to("cpu"), ends)
        written = terms(flow.inputs[layer]).double()
        written[:, 0] = 0  # nothing of a text's first token is a circuit's
        wrote[layer] = written

    def added(reads: tuple[Tensor, ...]) -> dict[int, float]:
        return {
            layer: float((weights * (reads[layer] * written).sum((1, 2))).sum())
            for layer, written in wrote.items()
        }

    first = min(wrote)
    heads = [(at, head) for at in range(first + 1, model.n_layer) for head in range(model.n_head)]
    total, past = added(flow.reads), added(flow.reads_past_mlps)
    any_head, any_past = (added(flow.by_way_of(heads, past_mlps=p)) for p in (False, True))
    rows = [
        (layer, BY_NO_HEAD, total[layer] - any_head[layer], past[layer] - any_past[layer])
        for layer in wrote
    ]
    for at, head in progress(heads, "ways", "head"):
        way, way_past = (added(flow.by_way_of([(at, head)], past_mlps=p)) for p in (False, True))
        rows += [(n, f"{at}.{head}", way[n], way_past[n]) for n in wrote if n < at]
    ways = pd.DataFrame(rows, columns=["layer", "way", "contrast", "past_mlps"])
    whole = ways["layer"].map(total)
    ways["share"], ways["to_answers"] = ways["contrast"] / whole, ways.pop("past_mlps") / whole
    return ways.sort_values(
        ["layer", "share"], ascending=[True, False], kind="stable", ignore_index=True
    )


def _looks(flow: Flow, dictionaries: Mapping[Site, Dictionary], whole: float) -> pd.DataFrame:
    """What each head adds to the contrast because patterns differ between the texts of a pair, and
    of the heads for which that is much, which pairs make the score differ."""
    try:
        looks = Looks.of(flow)
    except ModelError:  # attention of another form has no heads whose parts are known
        return pd.DataFrame(columns=list(LOOKS))
    cases, rows = flow.cases, list[tuple[Any, ...]]()
    weights = cases.weights(cases.affected)
    for layer, heads in enumerate(looks.heads):
        for head in range(len(heads)):
            share = float((weights * looks.parts(layer, head)[1]).sum()) / whole
            share = share if looks.any_compared else float("nan")
            found = _strongest(looks, layer, head, dictionaries, share)
            rows += [(layer, head, *row, share) for row in found]
    table = pd.DataFrame(rows, columns=list(LOOKS))
    return table.sort_values("looks", key=lambda looks: -looks.abs(), kind="stable",
                             ignore_index=True)  # fmt: skip


def _strongest(
    looks: Looks, layer: int, head: int, dictionaries: Mapping[Site, Dictionary], share: float
) -> list[tuple[Any, ...]]:
    """query, key, distance, score, share of a head's pairs; one empty row where its part is
    small, or its scores are alike."""
    unknown = float("nan")
    nothing = [("", "", unknown, unknown, unknown)]
    if not abs(share) >= bounds.DIRECT:
        return nothing
    pairs = score_pairs(looks, layer, head, dictionaries)
    total = float(pairs["score"].sum())
    if not total:
        return nothing
    sizes = pairs["score"].abs()  # strongest first
    n = min(_N_LOOKS, int((sizes >= _LEAST_LOOK * sizes.max()).sum()))
    first, rest = pairs.head(n), pairs.iloc[n:]
    rows = list(first.assign(share=first["score"] / total).itertuples(index=False, name=None))
    if len(rest):
        left = float(rest["score"].sum())
        rows.append((ALL_OTHERS, ALL_OTHERS, unknown, left, left / total))
    return rows
