"""A circuit through several layers: for each MLP that the contrast depends on, its pairs; and the
heads that carry what they write to later MLPs and the answers.

A layer has a part where a tenth of the contrast or more is gone with its MLP at its mean over the
classes (`LayerEffect`), by whatever way. Its pairs are chosen so that together they lack little of
what the MLP does in every stratum of every class, few first (`enough_of_each`): a circuit that
leaves out what is done in other classes could not be told from what is done in all. Where the limit
of pairs comes first, or no pair brings more, the circuit says how much is missing (`Chosen`); which
layers are left out, and why, it says as well (`LeftOut`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.across.effect import LayerEffect, beyond_mean, gone
from analysis.attribution.across.links import LaterPairs
from analysis.attribution.across.looks import Looks
from analysis.attribution.across.pairs import EffectPairs
from analysis.attribution.across.recorded import Recorded
from analysis.attribution.across.score_pairs import score_pairs
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour import bounds
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases
from analysis.behaviour.strata import means, strata
from analysis.discovery.layer_records import Chosen, LeftOut, pair_name
from analysis.discovery.layered_circuit import (
    ALL_OTHERS,
    LINKS,
    LOOKS,
    LayeredCircuit,
)
from analysis.discovery.provenance import wanted_layers
from analysis.discovery.selection import add_features, enough_of_each, factor_groups
from analysis.discovery.ways import BY_LOOKS, BY_NO_HEAD, BY_NORMS
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

_N_OUTPUTS = 8  # of each layer
_AT_A_TIME = 256  # output features
_N_LOOKS = 8  # pairs of each head
_N_LINKS = 32  # between two layers
_LEAST_LOOK = 0.01  # of the strongest pair's score
_ENOUGH = 0.9  # of what depends on a layer, by its outputs
_NEAR = 1e-6  # rounding


def layered_circuit(
    cases: ModelCases,
    held_out: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    thresholds: Thresholds,
) -> LayeredCircuit:
    """The circuit of all layers that have dictionaries and that the contrast depends on."""
    recorded = Recorded.of(cases)
    whole = _contrast(cases, cases.side * recorded.difference)
    there = wanted_layers(cases.model, dictionaries, None)
    left = [LeftOut(layer, None) for layer in range(cases.model.n_layer) if layer not in there]
    stages, refused, chosen = list[Circuit](), list[str](), list[Chosen]()
    for layer in progress(there, "pairs", "layer"):
        effect = LayerEffect.of(recorded, layer)
        total = _contrast(cases, effect.measured)
        if not total > bounds.DIRECT * whole > 0:
            refused.append(f"{total:.2f} of {whole:.2f} logits depend on layer {layer}")
            left.append(LeftOut(layer, total / whole if whole else 0.0))
            continue
        pairs = EffectPairs(effect, dictionaries[mlp_sites(layer)[0]])
        found, choice = _enough(pairs, thresholds)
        carried = float(found["contrast"].sum()) / total
        if carried < bounds.CARRIED - _NEAR:
            refused.append(f"{len(found)} pairs carry {carried:.0%} of layer {layer}")
            left.append(LeftOut(layer, total / whole, len(found), carried))
            continue
        out = dictionaries[mlp_sites(layer)[1]]
        stages.append(_stage(pairs, found, out, (total, whole), held_out, thresholds))
        chosen.append(choice)
    if not stages:
        raise NotFoundError(
            f"not found: {'; '.join(refused)}. A layer has part in {cases.behaviour.name!r} where "
            f"{bounds.DIRECT:.0%} of its margin depends on it, and few pairs carry half of that."
        )
    return LayeredCircuit(
        cases.behaviour.name,
        tuple(stages),
        _ways(recorded, stages, dictionaries),
        _looks(recorded, dictionaries, whole),
        _links(recorded, stages, dictionaries),
        tuple(chosen),
        tuple(sorted(left, key=lambda each: each.layer)),
    )


def _contrast(cases: ModelCases, margins: Float[Tensor, " case"]) -> float:
    """The mean over the affected classes."""
    return float((cases.weights(cases.affected) * cases.side * margins).sum())


def _enough(pairs: EffectPairs, thresholds: Thresholds) -> tuple[pd.DataFrame, Chosen]:
    """Pairs that do enough in every stratum of every class, with norms that divide by what they
    divided by and in the network as it runs, or as near to it as the limit of pairs allows; and how
    near that is. What may be missing is a share of the stratum's margin."""
    effect, cases = pairs.effect, pairs.cases
    judged = [each for on in (True, False) for each in strata(cases, on) if each.judged]
    margins = means(cases.side * effect.recorded.difference, judged).abs()
    scale = margins.clamp(min=bounds.DIRECT * float(margins.max()))

    def shares(
        added: Float[Tensor, "case part"], running: Float[Tensor, "case part"]
    ) -> Float[np.ndarray, "part aim"]:
        both = [means(each, judged).mT / scale for each in (added, running)]
        found: Float[np.ndarray, "part aim"] = torch.cat(both, dim=1).numpy()
        return found

    aims = shares(effect.total[:, None], effect.running_total[:, None])[0]
    added = shares(pairs.added, pairs.added_running)
    lacking, most = 1 - thresholds.coverage, thresholds.n_pairs
    chosen = enough_of_each(added, aims, lacking, most)
    missing = aims - added[np.array(chosen, dtype=np.int64)].sum(0)
    worst = judged[int(missing.argmax()) % len(judged)]
    far = float(missing.max())
    at_limit = far > lacking + _NEAR and len(chosen) == most
    name = "all" if worst.kind == "all" else f"{worst.kind}: {worst.value}"
    found = pairs.pairs.iloc[chosen].sort_values("contrast", ascending=False, ignore_index=True)
    return found, Chosen(pairs.layer_number, far, name, at_limit, effect.off_by)


def _stage(
    pairs: EffectPairs,
    found: pd.DataFrame,
    out: Dictionary,
    logits: tuple[float, float],  # that depend on this layer, and in all
    held_out: Behaviour,
    thresholds: Thresholds,
) -> Circuit:
    total, whole = logits
    cases, layer, origins = pairs.cases, pairs.layer_number, pairs.origins
    clusters, groups = factor_groups(pairs, found)
    outputs, through = _outputs(pairs, out, total)
    shares = Shares(
        carried=float(found["contrast"].sum()) / total,
        computed=origins.computed,
        inherited=origins.inherited,
        within=origins.within,
        error=1 - pairs.known / total,
        direct=total / whole,
        through_outputs=through,
        later=origins.later,
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
            cases.first_pieces,
        ),
    )  # fmt: skip


def _graph(
    pairs: EffectPairs, found: pd.DataFrame, kinds: Mapping[Any, str], thresholds: Thresholds
) -> nx.Graph:
    held = found["weight"] ** 2 * np.where(found["first"] == found["second"], 1.0, 0.5)
    graph = nx.Graph(chosen=Choice.CONTRAST, level=thresholds.coverage, total_energy=pairs.energy,
                     energy=held.sum() / pairs.energy if pairs.energy else 0.0)  # fmt: skip
    add_features(graph, pairs, found, kinds)
    split = pairs.computed(found).tolist()
    for row, (made, held_before) in zip(found.to_dict("records"), split, strict=True):
        known = {name: float(row[name]) for name in ("weight", "contrast", "elsewhere")}
        graph.add_edge(row["first"], row["second"], **known, computed=made, inherited=held_before)
    return graph


def _outputs(pairs: EffectPairs, out: Dictionary, total: float) -> tuple[tuple[Output, ...], float]:
    """The output features that most of the layer's effect goes through, and their share of it."""
    cases, effect, (case, at) = pairs.cases, pairs.effect, pairs.active.tokens.mT
    y = pairs.layer(effect.recorded.inputs[pairs.layer_number][case, at])
    code = out.to("cpu").active(y.to(out.dtype))
    used, place = torch.unique(code.features.long(), return_inverse=True)
    weights = cases.weights(cases.affected)
    through = torch.zeros(len(used), dtype=torch.float64)
    size = torch.zeros(len(used), dtype=torch.float64)
    size.index_add_(0, place, (weights.abs()[case][code.rows] * code.values.double()).abs())
    for start in range(0, len(used), _AT_A_TIME):
        some = used[start : start + _AT_A_TIME]
        values = torch.zeros(*cases.tokens.shape, len(some), dtype=torch.float64)
        here = (place >= start) & (place < start + _AT_A_TIME)
        rows = code.rows[here]
        values[case[rows], at[rows], place[here] - start] = code.values[here].double()
        read = effect.reads @ out.decoder[some].cpu().double().mT
        added = (read * beyond_mean(effect.recorded, values)).sum(1)
        through[start : start + _AT_A_TIME] = weights @ added
    order = through.argsort(descending=True, stable=True)[:_N_OUTPUTS].tolist()
    enough = int((through[order].cumsum(0) < _ENOUGH * total).sum()) + 1
    chosen = [n for n in order[:enough] if through[n] > 0] or order[:1]
    outputs = tuple(
        Output(
            int(used[n]),
            f"feature {int(used[n])}",
            float(through[n] / size[n]) if size[n] else 0.0,
            float(through[n] / total),
        )
        for n in chosen
    )
    return outputs, float(through[chosen].sum()) / total


def _ways(
    recorded: Recorded, stages: list[Circuit], dictionaries: Mapping[Site, Dictionary]
) -> pd.DataFrame:
    """What the pairs of each stage add to the contrast by each head, with attention patterns as
    they were, and by changing those and what norms divide by."""
    rows = list[tuple[Any, ...]]()
    for stage in stages:
        layer = int(stage.source.layer or 0)
        ends = [(pair.first, pair.second) for pair in stage.interactions]
        into = dictionaries[mlp_sites(layer)[0]].to("cpu")
        terms = PairTerms.of(recorded.model, layer, into, ends)
        written = beyond_mean(recorded, terms(recorded.inputs[layer]).double())
        rows += _ways_of(LayerEffect.of(recorded, layer), written)
    ways = pd.DataFrame(rows, columns=["layer", "way", "contrast", "share", "to_answers"])
    return ways.sort_values(
        ["layer", "share"], ascending=[True, False], kind="stable", ignore_index=True
    )


def _ways_of(
    effect: LayerEffect, written: Float[Tensor, "case pos model"]
) -> Iterator[tuple[int, str, float, float, float]]:
    cases, model, layer = effect.recorded.cases, effect.recorded.model, effect.layer
    weights = cases.weights(cases.affected)

    def added(reads: Float[Tensor, "case pos model"]) -> float:
        return float((weights * (reads * written).sum((1, 2))).sum())

    def without(heads: list[tuple[int, int]]) -> tuple[float, float]:
        return added(effect.frozen_reads(heads)), added(effect.frozen_reads(heads, past_mlps=True))

    later = range(layer + 1, model.n_layer)
    heads = [(at, head) for at in later for head in range(model.n_head)]
    total = added(effect.reads)
    (frozen, past), (rest, rest_past) = without([]), without(heads)
    yield layer, BY_NO_HEAD, rest, rest / total, rest_past / total
    for way, part in ((BY_LOOKS, total - frozen), (BY_NORMS, _by_norms(effect, written))):
        yield layer, way, part, part / total, float("nan")
    for at, head in progress(heads, f"ways from layer {layer}", "head"):
        less, less_past = without([(at, head)])
        part = frozen - less
        yield layer, f"{at}.{head}", part, part / total, (past - less_past) / total


def _by_norms(effect: LayerEffect, written: Float[Tensor, "case pos model"]) -> float:
    """What more is gone of the contrast without some of an MLP's output where norms divide by what
    is left. Measured: shares of the running network give a part what others of the MLP take back.
    """
    recorded, cases = effect.recorded, effect.recorded.cases
    running = gone(recorded, effect.layer, written)
    with recorded.run.held(looking=True):
        held = gone(recorded, effect.layer, written)
    return float((cases.weights(cases.affected) * (running - held)).sum())


def _links(
    recorded: Recorded, stages: list[Circuit], dictionaries: Mapping[Site, Dictionary]
) -> pd.DataFrame:
    """Between every two stages, the strongest of what earlier pairs feed later ones, and the sum of
    all others."""
    rows, earlier = list[tuple[Any, ...]](), list[tuple[int, Dictionary, list[tuple[int, int]]]]()
    for stage in stages:
        ends = [(pair.first, pair.second) for pair in stage.interactions]
        layer = int(stage.source.layer or 0)
        here = layer, dictionaries[mlp_sites(layer)[0]], ends
        total = sum(pair.contrast or 0.0 for pair in stage.interactions)
        later = LaterPairs.of(recorded, *here) if earlier else None
        for before in earlier:
            assert later is not None  # there is an earlier one
            added = later.fed_by(*before)
            sizes = (added.flatten().abs() / total).round(decimals=9)  # or rounding would order
            order = sizes.argsort(descending=True, stable=True)[:_N_LINKS].tolist()
            for one, other in (divmod(n, added.shape[1]) for n in order):
                pair, source = pair_name(layer, *ends[one]), pair_name(before[0], *before[2][other])
                part = float(added[one, other])
                rows.append((layer, pair, before[0], source, part, part / total))
            if added.numel() > len(order):
                part = float(added.sum() - added.flatten()[order].sum())
                rows.append((layer, ALL_OTHERS, before[0], ALL_OTHERS, part, part / total))
        earlier.append(here)
    return pd.DataFrame(rows, columns=list(LINKS))


def _looks(
    recorded: Recorded, dictionaries: Mapping[Site, Dictionary], whole: float
) -> pd.DataFrame:
    """What is gone of the contrast with each head's pattern at its mean over the texts of a pair,
    and of the heads for which that is much, which pairs make the score differ."""
    try:
        looks = Looks.of(recorded)
    except ModelError:  # attention of another form has no heads whose parts are known
        return pd.DataFrame(columns=list(LOOKS))
    cases, rows = recorded.cases, list[tuple[Any, ...]]()
    weights = cases.weights(cases.affected)
    for layer, heads in enumerate(looks.heads):
        for head in range(len(heads)):
            share = float((weights * looks.part(layer, head)).sum()) / whole
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
