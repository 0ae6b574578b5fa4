"""From a behaviour to a circuit: the layer, its output features, pairs, groups and gates.

1. The model must show the behaviour: most cases right in every class.
2. Of the layers with dictionaries, that whose MLP adds most to the contrast by what it computes.
3. Pairs of input features by what they add to each stratum of the affected classes (its frames,
   last tokens, words), few first, leaving out those that do as much where the behaviour's first
   factor is absent.
4. Output features by their share of the contrast: direct effect on the answers times their own
   contrast; and for each class the few that detect it.
5. The pairs become a graph, their features groups by the factor that moves them most, and both a
   circuit with the gates between groups, as every graph does (`Circuit.of`).

In step 3 a pair's weight is along the answers' own direction. The pseudoinverse reads an output
exactly, so that is the sum of *all* output features' forms, each times its direct effect; the
features of step 4 are those through which most of it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import networkx as nx
import numpy as np
import pandas as pd
import torch

from analysis.attribution.contrast import PairAccount, made_here
from analysis.attribution.output_features import OutputFeatures
from analysis.behaviour.bounds import (
    COMPUTED,
    COVERAGE,
    DIRECT,
    INHERITED,
    N_PAIRS,
    N_PAIRS_ACROSS,
    SHOWN,
    WITHIN,
)
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.discovery.layered import layered_circuit
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.provenance import check_dictionaries, wanted_layers
from analysis.discovery.selection import add_features, factor_groups, fewest_pairs
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.arguments import checked
from circuits.errors import BehaviourError, NotFoundError, check_count
from circuits.graph.circuit import Circuit
from circuits.graph.records import (
    BehaviourEvidence,
    Choice,
    Detector,
    Output,
    Shares,
    Source,
    Thresholds,
)
from circuits.graph.significance import RotationNull, scored
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import fixed
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_INHERITED = "inherited from attention or earlier layers"


@overload
def find_circuit(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    behaviour: Behaviour,
    layer: int | None = None,
    *,
    across: Literal[False] = False,
    detection_cases: Behaviour | None = None,
    coverage: float = COVERAGE,
    n_pairs: int | None = None,
    shown: float = SHOWN,
) -> Circuit: ...


@overload
def find_circuit(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    behaviour: Behaviour,
    *,
    across: Literal[True],
    coverage: float = COVERAGE,
    n_pairs: int | None = None,
    shown: float = SHOWN,
) -> LayeredCircuit: ...


@checked
def find_circuit(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    behaviour: Behaviour,
    layer: int | None = None,
    *,
    across: bool = False,
    detection_cases: Behaviour | None = None,
    coverage: float = COVERAGE,
    n_pairs: int | None = None,
    shown: float = SHOWN,
) -> Circuit | LayeredCircuit:
    """The circuit of a behaviour, chosen on every other pair of its cases: of one layer, or
    ``across`` all that have a part in it.

    A circuit has at most ``n_pairs`` (of each layer): 16, or across layers 48. ``detection_cases``
    are cases of the same classes on which output features that detect a class
    are chosen; by default the behaviour's own. Minimal pairs are much alike, running text is not.

    A behaviour that the model does not show (fewer right cases than ``shown`` in a class), or a
    contrast that no few pairs carry, raises `NotFoundError` with the reason. Whether the circuit
    computes the contrast or passes on what attention made is in ``evidence.shares``: see
    `verdict`.
    """
    if n_pairs is None:
        n_pairs = N_PAIRS_ACROSS if across else N_PAIRS
    check_count("find_circuit", n_pairs, None, "n_pairs")
    if not 0 < coverage <= 1:
        raise BehaviourError(
            f"find_circuit: coverage {coverage} must lie between 0 and 1: it is a share. Try 0.9."
        )
    check_dictionaries(model, dictionaries)
    if across and (layer is not None or detection_cases is not None):
        raise BehaviourError(
            "find_circuit: layer and detection_cases are for a circuit of one layer. Leave them "
            "out, or across."
        )
    if across and behaviour.metric == "probability":
        raise BehaviourError(
            f"find_circuit: across layers logit differences are followed, and "
            f"{behaviour.name!r} is measured in probabilities. Give it the metric "
            f"'logit difference', or leave across out."
        )
    thresholds = Thresholds(coverage, n_pairs, shown)
    chosen, held_out = _halves(behaviour, model)
    cases = in_model(chosen, model)
    _check_shown(cases, shown)
    if across:
        return layered_circuit(cases, held_out, dictionaries, thresholds)
    account = _best_account(cases, dictionaries, layer)
    return _one_layer(account, held_out, dictionaries, detection_cases or behaviour, thresholds)


def _halves(behaviour: Behaviour, model: Model) -> tuple[Behaviour, Behaviour]:
    """What to choose on and what to measure on; a message about cases that do not fit the model
    counts those of both."""
    halves = behaviour.halves()
    in_model(behaviour, model)
    return halves


def _one_layer(
    account: PairAccount,
    held_out: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    detection_cases: Behaviour,
    thresholds: Thresholds,
) -> Circuit:
    cases, at = account.cases, account.layer_number
    behaviour, model = cases.behaviour, cases.model
    out = dictionaries[mlp_sites(at)[1]]
    pairs = fewest_pairs(account, thresholds.coverage, thresholds.n_pairs)
    detectors = _detectors(model, out, behaviour, detection_cases)
    through = OutputFeatures(cases, out)
    outputs = through.named(detectors)
    found, groups = factor_groups(account, pairs)
    return Circuit.of(
        _graph(account, pairs, thresholds.coverage, {f: groups[g].name for f, g in found.items()}),
        found,
        behaviour.name,
        source=Source(model.fingerprint, at, account.dictionary.fingerprint, out.fingerprint),
        outputs=outputs,
        groups=groups,
        evidence=BehaviourEvidence(
            behaviour.name,
            behaviour.metric,
            behaviour.factors,
            behaviour.affected,
            len(cases),
            _shares(account, pairs, through, outputs),
            thresholds,
            detectors,
            cases.hashes,
            behaviour.other_words(held_out),
            cases.first_pieces,
        ),
    )


def verdict(circuit: Circuit) -> str:
    """Whether the circuit computes its contrast, in a sentence. An MLP may compute it by other
    pairs than the circuit's, so both are asked."""
    if circuit.evidence is None:
        return "found without a behaviour: nothing is known of a contrast"
    if circuit.features and all(f.joint_effect is None for f in circuit.features):
        return "passed on, not computed: one factor makes it, which the MLP's input has already"
    shares = circuit.evidence.shares
    later = shares.later or 0.0
    both = f"computed {fixed(shares.computed)}, inherited {fixed(shares.inherited)}"
    if made_here(shares.computed, shares.inherited, abs(shares.within) + abs(later)):
        own = _computed_by_pairs(circuit)
        if own is None:
            return f"the MLP computes the contrast ({both}), of these pairs it is not known"
        if not own >= COMPUTED:
            return (
                f"the MLP computes the contrast ({both}), but not by these pairs: they compute "
                f"{own:.0%} of what they add"
            )
        return f"computed in this MLP ({both})"
    every = both if shares.later is None else f"{both}, made later {fixed(later)}"
    every = f"{every}, within the classes {fixed(shares.within)}"
    if max(shares.inherited, later) > INHERITED:
        known = both if max(abs(later), abs(shares.within)) <= WITHIN else every
        return f"{_sources(shares)} ({known})"
    return f"neither computed nor inherited alone ({every})"


def _sources(shares: Shares) -> str:
    """Where a contrast comes from that its MLP does not compute alone, the largest part first."""
    parts = {
        _INHERITED: shares.inherited,
        "computed here": shares.computed,
        "made later from what it writes": shares.later or 0.0,
    }
    large = [part for part in sorted(parts, key=lambda part: -parts[part]) if parts[part] > DIRECT]
    if len(large) > 1:
        return ", ".join(f"partly {part}" for part in large)
    if shares.computed < -DIRECT:
        return f"{large[0]}, and what is computed here works against it"
    return f"{large[0]}, and only read here" if large[0] == _INHERITED else large[0]


def _computed_by_pairs(circuit: Circuit) -> float | None:
    """Of what the circuit's pairs add to the contrast the share that they compute; 0 where they
    add nothing to it, None where the circuit's file does not say (of older versions)."""
    pairs = circuit.interactions
    if any(pair.computed is None or pair.inherited is None for pair in pairs):
        return None
    computed, inherited = (
        sum(getattr(pair, name) or 0.0 for pair in pairs) for name in ("computed", "inherited")
    )
    added = computed + inherited
    return computed / added if added > 0 else 0.0


def _detectors(
    model: Model, out: Dictionary, behaviour: Behaviour, detection_cases: Behaviour
) -> tuple[Detector, ...]:
    """Output features that detect the classes, chosen on one half of some cases and measured on
    the other."""
    _check_classes(behaviour, detection_cases)
    halves = _halves(detection_cases, model)
    likely, tested = (OutputFeatures(in_model(half, model), out) for half in halves)
    return likely.detectors(tested)


def _check_classes(other: Behaviour, one: Behaviour) -> None:
    """Refuse cases to choose detectors on that have other classes than the behaviour's."""
    if set(one.labels) != set(other.labels) or one.factors != other.factors:
        raise BehaviourError(
            f"find_circuit: detection_cases has the classes {', '.join(one.labels)} of "
            f"{', '.join(one.factors)}, the behaviour {', '.join(other.labels)} of "
            f"{', '.join(other.factors)}. Pass cases of the same classes."
        )


def _check_shown(cases: ModelCases, wanted: float) -> None:
    margins = cases.margins()
    right = cases.shown(margins)
    if bool((right >= wanted).all()):
        return
    raise NotFoundError(
        f"not found: the model does not show this behaviour ({cases.behaviour.name!r}; right cases "
        f"by class: {cases.listed(right)}; {wanted} wanted in each). Train it longer, or "
        f"ask for another behaviour."
    )


def _best_account(
    cases: ModelCases, dictionaries: Mapping[Site, Dictionary], layer: int | None
) -> PairAccount:
    wanted = wanted_layers(cases.model, dictionaries, None if layer is None else [layer])
    accounts = [
        PairAccount.of(cases, i, dictionaries[mlp_sites(i)[0]])
        for i in progress(wanted, "pairs", "layer")
    ]
    return max(accounts, key=lambda one: one.totals.mlp * max(one.origins.computed, 1e-3))


def _graph(
    account: PairAccount, pairs: pd.DataFrame, coverage: float, kinds: Mapping[Any, str]
) -> nx.Graph:
    """The pairs as an interaction graph: features with their effects, pairs with what they add."""
    diagonal = torch.eye(len(account.weight), dtype=account.weight.dtype)
    total = float((account.weight.square() * (1 + diagonal) / 2).triu().sum())
    # a pair of two features holds two entries of the matrix, each half of its weight
    halved = np.where(pairs["first"] == pairs["second"], 1.0, 0.5)
    held = float((pairs["weight"].to_numpy() ** 2 * halved).sum())
    graph = nx.Graph(chosen=Choice.CONTRAST, level=coverage, total_energy=total,
                     energy=held / total)  # fmt: skip
    add_features(graph, account, pairs, kinds)
    scores = _significance(account, pairs)
    split = account.computed(pairs).tolist()
    for row, (made, held_before) in zip(pairs.to_dict("records"), split, strict=True):
        known = {name: float(row[name]) for name in ("weight", "together", "contrast", "elsewhere")}
        z, q = scores.get((row["first"], row["second"]), (None, None))
        graph.add_edge(row["first"], row["second"], **known, z=z, q=q, computed=made,
                       inherited=held_before)  # fmt: skip
    return graph


def _significance(account: PairAccount, pairs: pd.DataFrame) -> dict[tuple[int, int], Any]:
    """z and q of each pair of features along the answers' direction, over the whole dictionary."""
    dictionary, direction = account.dictionary, account.mean_read[None]
    reader = Basis(direction, direction, reader="answers")
    basis = dictionary.to(torch.float64).basis(least_squares=True)
    inter = Interactions(account.layer, basis, reader).without_constant
    some = pairs.loc[pairs["second"] < dictionary.n_feature, ["first", "second", "weight"]]
    if not len(some):
        return {}
    table = scored(inter, RotationNull.of(inter.inputs), some, 0)
    return {
        (row["first"], row["second"]): (float(row["z"]), float(row["q"]))
        for row in table.to_dict("records")
    }


def _shares(
    account: PairAccount, pairs: pd.DataFrame, through: OutputFeatures, outputs: tuple[Output, ...]
) -> Shares:
    origins, totals = account.origins, account.totals
    return Shares(
        carried=float(pairs["contrast"].sum()) / totals.mlp,
        computed=origins.computed,
        inherited=origins.inherited,
        within=origins.within,
        error=totals.error / totals.mlp,
        direct=totals.mlp / account.margin,
        through_outputs=float(through.shares[[o.feature for o in outputs]].sum()),
    )
