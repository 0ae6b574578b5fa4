"""Is a circuit the cause? Exact edits of the running model, with their controls in the same table.

1. Remove the circuit's pairs at every token; keep only them (everything else of the MLP's output at
   the position replaced by its mean over the cases); remove one gate; patch the pairs' contribution
   from the case of the same minimal pair that asks for the other answer; replace the whole output
   by its mean. Means are from data, never zeros.
2. Controls: random pairs that are active together, as many, and as many as write as much together;
   circuits of other behaviours; the same pairs in an untrained model; other bases than the
   dictionary's features, searched in the same way.
3. Side effects: loss and KL on text, where no answer of the behaviour is due.
4. Each pair alone: what it should change of each output feature, against a second difference of
   the model's MLP with the two features removed from its *input*.
5. Of a twin, where its original is given: the circuit's features, removed from both models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.pair_terms import PairTerms, terms_of
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.provenance import layer_of_circuit
from analysis.validation.bases import bases_table
from analysis.validation.controls import random_pairs, text_effects, untrained_rows
from analysis.validation.criteria import measured
from analysis.validation.edits import EditKind
from analysis.validation.harness import Harness, Swap, counterparts, have_counterparts
from analysis.validation.layered import validate_layered
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.original import checked_original, with_features
from analysis.validation.pair_checks import checked_pairs
from analysis.validation.record import Validation
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import BehaviourError, GraphError, check_count
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

MOST_DRAWS = 100_000
"""Of random pairs: each is a pass of the model over all cases."""


@overload
def validate(
    model: Model,
    circuit: Circuit,
    behaviour: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    *,
    others: Sequence[Circuit] = (),
    text: Corpus | None = None,
    n_documents: int = 100,
    n_draws: int = 10,
    seed: int = 0,
    original: Model | str | Path | None = None,
) -> Validation: ...


@overload
def validate(
    model: Model,
    circuit: LayeredCircuit,
    behaviour: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    *,
    n_draws: int = 10,
    seed: int = 0,
) -> LayeredValidation: ...


@checked
@torch.no_grad()
def validate(
    model: Model,
    circuit: Circuit | LayeredCircuit,
    behaviour: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    *,
    others: Sequence[Circuit] = (),
    text: Corpus | None = None,
    n_documents: int = 100,
    n_draws: int = 10,
    seed: int = 0,
    original: Model | str | Path | None = None,
) -> Validation | LayeredValidation:
    """Edit the running model by a circuit, and measure what a behaviour makes of it.

    Pass cases that the circuit was not found on: others are refused. ``others`` are circuits of
    other behaviours, as controls; ``text`` is where side effects are measured, by default nowhere.
    ``original``, of a twin, is the gated model that it was made of, or its path: the circuit's
    features are removed there too. A circuit through several layers is edited with attention as
    it was and free; ``others``, ``text`` and ``original`` are for circuits of one layer.
    """
    check_count("validate", n_draws, MOST_DRAWS, "n_draws")
    check_count("validate", n_documents, None, "n_documents")
    if isinstance(circuit, LayeredCircuit):
        lone = bool(others) or text is not None or original is not None
        return _of_layers(model, circuit, behaviour, dictionaries, n_draws, seed, lone=lone)
    layer = _layer_with_pairs(model, circuit, dictionaries)
    for other in others:
        _check_layer(other, circuit, layer_of_circuit(model, other, dictionaries))
    into = dictionaries[mlp_sites(layer)[0]].to(model.device)
    cases = in_model(behaviour, model)
    _check_held_out(circuit, cases)
    gated = None if original is None else checked_original(original, cases)
    harness = Harness(cases, layer, into, seed)
    terms = terms_of(model, layer, into, circuit.interactions)
    without = harness.without(terms)
    kept = harness.swapped(_keeping(harness, terms))
    edits = _edit_table(harness, circuit, terms, others, without, kept)
    if gated is not None:
        edits = with_features(edits, harness, circuit, gated, n_draws)
    strata, origins = harness.strata_table(without, kept), harness.origins_table()
    random = random_pairs(harness, circuit, terms, n_draws, seed)
    return Validation(
        circuit.name,
        behaviour.name,
        edits,
        strata,
        harness.case_table(without, kept),
        origins,
        random,
        bases_table(harness, len(terms)),
        _parts(harness, terms, circuit, kept),
        checked_pairs(harness, circuit, dictionaries[mlp_sites(layer)[1]]),
        text_effects(model, layer, terms, cases, text, n_documents),
        measured(harness.whole(circuit, without), strata, origins, random),
        len(cases),
        seed,
    )


def _layer_with_pairs(
    model: Model, circuit: Circuit, dictionaries: Mapping[Site, Dictionary]
) -> int:
    layer = layer_of_circuit(model, circuit, dictionaries)
    if not circuit.interactions:
        raise GraphError(
            f"validate: circuit {circuit.name!r} has no pairs, so there is nothing to remove. Pass "
            f"one with pairs, as find_circuit makes it."
        )
    return layer


def _of_layers(
    model: Model,
    circuit: LayeredCircuit,
    behaviour: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    n_draws: int,
    seed: int,
    *,
    lone: bool,
) -> LayeredValidation:
    if lone:
        raise GraphError(
            f"validate: {circuit.name!r} goes through several layers, so others, text and original "
            f"are not for it. Leave them out, or pass one of its stages."
        )
    for stage in circuit.stages:
        layer_of_circuit(model, stage, dictionaries)
    cases = in_model(behaviour, model)
    _check_held_out(circuit.stages[0], cases)
    return validate_layered(cases, circuit, dictionaries, n_draws, seed)


def _check_layer(other: Circuit, circuit: Circuit, at: int) -> None:
    if at != circuit.source.layer:
        raise GraphError(
            f"validate: circuit {other.name!r} is of layer {at}, {circuit.name!r} of layer "
            f"{circuit.source.layer}. As controls pass circuits of the same layer."
        )


def _check_held_out(circuit: Circuit, cases: ModelCases) -> None:
    """Refuse cases that the circuit was chosen on: it was chosen for what it does there."""
    chosen_on = () if circuit.evidence is None else circuit.evidence.chosen_on
    if n := len(set(chosen_on) & set(cases.hashes)):
        raise BehaviourError(
            f"validate: circuit {circuit.name!r} was chosen on {n} of these {len(cases)} cases, so "
            f"they are no test of it. Pass the half that was held out, behaviour.halves()[1], or "
            f"other cases."
        )


def _edit_table(
    harness: Harness,
    circuit: Circuit,
    terms: PairTerms,
    others: Sequence[Circuit],
    without: Float[Tensor, " case"],
    kept: Float[Tensor, " case"],
) -> pd.DataFrame:
    rows = [harness.row(EditKind.NONE, harness.plain, 0)]
    rows.append(harness.row(EditKind.REMOVE, without, len(terms)))
    rows.append(harness.row(EditKind.KEEP, kept, len(terms)))
    for name, some in _gates(circuit, terms):
        rows.append(harness.row(EditKind.REMOVE_GATE, harness.without(some), len(some), name))
    rows += _patch_row(harness, terms)
    rows.append(harness.row(EditKind.MEAN, harness.at_mean, 0))
    for other in others:
        control = terms_of(harness.model, harness.layer, harness.into, other.interactions)
        rows.append(
            harness.row(EditKind.OTHER_CIRCUIT, harness.without(control), len(control), other.name)
        )
    rows += untrained_rows(harness, terms)
    return pd.DataFrame(rows)


def _keeping(harness: Harness, terms: PairTerms) -> Swap:
    rest = harness.mean(harness.y - terms(harness.x))
    return lambda x, y, cases: rest + terms(x)


def _gates(circuit: Circuit, terms: PairTerms) -> list[tuple[str, PairTerms]]:
    """The pairs of each gate, by the names of its two groups."""
    group = {feature.feature: feature.group for feature in circuit.features}
    found = []
    for gate in circuit.gates:
        ends = {gate.first, gate.second}
        chosen = [
            place
            for place, pair in enumerate(circuit.interactions)
            if {group[pair.first], group[pair.second]} == ends
        ]
        names = [circuit.group_name(end) for end in (gate.first, gate.second)]
        found.append((" & ".join(names), terms.subset(torch.tensor(chosen, dtype=torch.int64))))
    return found


def _patch_row(harness: Harness, terms: PairTerms) -> list[dict[str, Any]]:
    """Each case's contribution from that of its pair which asks for the other answer, and differs
    in nothing but the last factor where there are two: over the cases that have one, and nothing
    where those are too few."""
    if harness.cases.pair is None:
        return []
    chosen = have_counterparts(harness.cases)
    if (some := harness.among(chosen)) is None:
        return []
    source, given = counterparts(harness.cases), terms(harness.x)
    swapped = given[source.to(given.device)]
    margins = harness.swapped(lambda x, y, rows: y - given[rows] + swapped[rows])
    return [some.row(EditKind.PATCH, margins[chosen], len(terms))]


def _parts(
    harness: Harness, terms: PairTerms, circuit: Circuit, alone: Float[Tensor, " case"]
) -> pd.DataFrame:
    """Minimality: what keeping only the circuit loses without each of its pairs."""
    spread = harness.base - harness.floor
    whole = harness.affected(alone)
    rows = []
    for place, pair in enumerate(progress(circuit.interactions, "each pair", "pair")):
        rest = [n for n in range(len(terms)) if n != place]
        kept = harness.affected(
            harness.swapped(_keeping(harness, terms.subset(torch.tensor(rest).long())))
        )
        lost = (whole - kept) / spread if spread else float("nan")
        rows.append((pair.first, pair.second, lost))
    return pd.DataFrame(rows, columns=["first", "second", "faithfulness_lost"])
