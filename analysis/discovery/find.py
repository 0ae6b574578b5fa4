"""From a behaviour to a circuit: the layer, its output features, pairs, groups and gates.

1. The model must show the behaviour: most cases right in every class.
2. Of the layers with dictionaries, that whose MLP adds most to the contrast by what it computes.
3. Output features by their share of the contrast: direct effect on the answers times their own
   contrast; and for each class the few that tell it from the others.
4. Pairs of input features by what they add to each affected class, few first, leaving out those
   that do as much where the behaviour's first factor is absent.
5. Groups of input features by the factor that moves them most, and the gates between groups.

What a reader would get wrong: in step 4 a pair's weight is along the answers' own direction. The
pseudoinverse reads an output exactly, so that is the sum of *all* output features' forms, each
times its direct effect; the features of step 3 are those through which most of it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analysis.attribution.contrast import PairAccount, made_here
from analysis.attribution.output_features import OutputFeatures
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.errors import (
    BehaviourError,
    DictionaryError,
    NotFiniteError,
    NotFoundError,
    check_count,
)
from circuits.graph.circuit import Circuit, Detector, Feature, Gate, Interaction
from circuits.graph.significance import RotationNull, scored
from circuits.groups.gates import gate_table
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

SHOWN = 0.75
"""Share of right cases that a model must have in every class to show a behaviour."""

COVERAGE = 0.9
"""Share of the contrast that the pairs of a circuit should carry."""

N_PAIRS = 16
"""Pairs that a circuit has at most."""

_LEAST = 0.5  # of the contrast, in those pairs: below it there is no circuit to speak of
_MOVED = 0.25  # of a feature's mean that a factor must move it by, to name it; a heuristic
_ALIKE = 0.8  # of a feature's largest effect, that all must have where it is a class's own
_PART = 0.1  # of the model's own margins that an MLP must add directly
_MISSED = 0.5  # of the contrast, by the dictionary's error: beyond it pairs tell of another model
_GAIN = 0.003  # of a class's share that another pair must bring
_N_SOUGHT = 1024  # pairs that are looked at, those that add most
_ELSEWHERE = 0.25  # of its contrast that a pair may add where the first factor is absent


def find_circuit(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    behaviour: Behaviour,
    layer: int | None = None,
    *,
    detection_cases: Behaviour | None = None,
    coverage: float = COVERAGE,
    n_pairs: int = N_PAIRS,
) -> Circuit:
    """The circuit of a behaviour, chosen on every other pair of its cases.

    ``detection_cases`` are cases of the same classes on which output features that detect a class
    are chosen; by default the behaviour's own. Minimal pairs are much alike, running text is not.

    A behaviour that the model does not show, or a contrast that no few pairs carry, raises
    `NotFoundError` and says so. Whether the circuit computes the contrast or passes on what
    attention made is in ``shares``: see `verdict`.
    """
    check_count("find_circuit", n_pairs, None, "n_pairs")
    if not 0 < coverage <= 1:
        raise BehaviourError(
            f"find_circuit: coverage {coverage} is no share of a contrast. Give one above 0, to 1."
        )
    check_dictionaries(model, dictionaries)
    chosen, held_out = behaviour.halves()
    cases = in_model(chosen, model)
    _check_shown(cases)
    account = _best_account(cases, dictionaries, layer)
    at, (_, out_site) = account[0], mlp_sites(account[0])
    pairs = _fewest(account[1], coverage, n_pairs)
    outputs = OutputFeatures(cases, dictionaries[out_site])
    sides = (
        (chosen, held_out)
        if detection_cases is None
        else _comparable(behaviour, detection_cases).halves()
    )
    seen = [OutputFeatures(in_model(half, model), dictionaries[out_site]) for half in sides]
    detectors = tuple(
        Detector(name, tuple(some), tuple(cuts), seen[1].f1(name, some, cuts))
        for name, some, cuts in seen[0].detectors()
    )
    found = _circuit(model, behaviour, at, dictionaries, account[1], pairs, outputs, detectors)
    thresholds = {"coverage": coverage, "pairs at most": n_pairs, "right in every class": SHOWN}
    return replace(found, thresholds=thresholds)


def _comparable(behaviour: Behaviour, detection_cases: Behaviour) -> Behaviour:
    """The cases that classes are told on, if they have the behaviour's classes."""
    if (
        set(detection_cases.labels) != set(behaviour.labels)
        or detection_cases.factors != behaviour.factors
    ):
        raise BehaviourError(
            f"find_circuit: detection_cases has the classes {', '.join(detection_cases.labels)} of "
            f"{', '.join(detection_cases.factors)}, the behaviour {', '.join(behaviour.labels)} of "
            f"{', '.join(behaviour.factors)}. Pass cases of the same classes."
        )
    return detection_cases


def check_dictionaries(model: Model, dictionaries: Mapping[Site, Dictionary]) -> None:
    """Refuse dictionaries that were trained on another model or elsewhere in it."""
    faults = []
    for site, dictionary in dictionaries.items():
        made_of = dictionary.notes.get("activations")
        theirs = made_of.get("model") if isinstance(made_of, dict) else None
        if dictionary.site not in (None, site):
            faults.append(f"that of {site} was trained at {dictionary.site}")
        if dictionary.d_model != model.d_model:
            faults.append(f"{site} is for activations of {dictionary.d_model}, not {model.d_model}")
        elif theirs is not None and theirs != model.fingerprint:
            faults.append(
                f"{site} was trained on a model of hash {str(theirs)[:12]}…, and this one has "
                f"{model.fingerprint[:12]}…"
            )
    if faults:
        raise DictionaryError(
            f"dictionaries of another model or site: {'; '.join(faults)}. Load the model that they "
            f"were trained on, or train them anew: circuits sae train."
        )


def layers_with_dictionaries(model: Model, dictionaries: Mapping[Site, Dictionary]) -> list[int]:
    """Those whose MLP has dictionaries at its input and its output."""
    return [i for i in range(model.n_layer) if set(mlp_sites(i)) <= set(dictionaries)]


def verdict(circuit: Circuit) -> str:
    """Whether the circuit computes its contrast, in a sentence."""
    shares = circuit.shares
    if "computed" not in shares:
        return "found without a behaviour: nothing is known of a contrast"
    if circuit.features and all(f.joint_effect is None for f in circuit.features):
        return "passed on, not computed: it tells one factor, which the MLP's input has already"
    told = f"computed {shares['computed']:.2f}, inherited {shares['inherited']:.2f}"
    if made_here(shares["computed"], shares["inherited"]):
        return f"computed in this MLP ({told})"
    return f"inherited from attention or earlier layers, and only read here ({told})"


def _check_shown(cases: ModelCases) -> None:
    margins = cases.margins()
    if not bool(margins.isfinite().all()):
        raise NotFiniteError(
            f"find_circuit: what the model expects after {int((~margins.isfinite()).sum())} of "
            f"{len(cases)} cases is not finite. Look at where its weights were trained or loaded."
        )
    right = cases.shown(margins)
    if bool((right >= SHOWN).all()):
        return
    told = ", ".join(
        f"{label} {float(share):.2f}"
        for label, share in zip(cases.behaviour.labels, right, strict=True)
    )
    raise NotFoundError(
        f"not found: the model does not show this behaviour ({cases.behaviour.name!r}; right cases "
        f"by class: {told}; {SHOWN} wanted in each). Train it longer, or ask for another behaviour."
    )


def _best_account(
    cases: ModelCases, dictionaries: Mapping[Site, Dictionary], layer: int | None
) -> tuple[int, PairAccount]:
    there = layers_with_dictionaries(cases.model, dictionaries)
    wanted = there if layer is None else [layer]
    if not wanted or set(wanted) - set(there):
        asked_for = "any layer" if layer is None else f"layer {layer}"
        raise DictionaryError(
            f"find_circuit: there are no dictionaries of mlp_in and mlp_out for {asked_for} (there "
            f"are {', '.join(map(str, dictionaries)) or 'none'}). Train them: circuits sae train "
            f"RUN --sites mlp_in@0 mlp_out@0."
        )
    accounts = {
        i: PairAccount.of(cases, i, dictionaries[mlp_sites(i)[0]])
        for i in progress(wanted, "pairs", "layer")
    }

    def made(i: int) -> float:
        return accounts[i].totals["MLP"] * max(accounts[i].origins.computed, 1e-3)

    best = max(accounts, key=made)
    return best, accounts[best]


def _fewest(account: PairAccount, coverage: float, n_pairs: int) -> pd.DataFrame:
    """Pairs that together carry the share of what the MLP adds to each affected class, few first.

    Greedily: the next pair is that which brings the classes nearest to the share wanted, so a pair
    that helps one class and hurts another as much is never taken. Pairs of the affected classes
    alone are preferred; where those are not enough, as of signed features or of a contrast that was
    there before, all are looked at.
    """
    behaviour, total, whole = account.cases.behaviour, account.totals["MLP"], account.margin
    pairs = account.pairs
    own = pairs["elsewhere"].abs() <= _ELSEWHERE * pairs["contrast"].abs()
    found = _greedily(account, pairs[own], coverage, n_pairs)
    if found["contrast"].sum() < _LEAST * total:
        found = _greedily(account, pairs, coverage, n_pairs)
    share = float(found["contrast"].sum()) / total if total > 0 else 0.0
    if total <= _PART * whole or share < _LEAST:
        raise NotFoundError(
            f"not found: the MLP adds {total:.2f} of the {whole:.2f} logits of "
            f"{behaviour.name!r} directly, and {len(found)} pairs carry {share:.0%} of that. No "
            f"few pairs of features make this behaviour."
        )
    missed = account.totals["error"] / total
    if abs(missed) > _MISSED:
        raise NotFoundError(
            f"not found: the dictionary of {account.dictionary.site} misses too much. Terms "
            f"with its error are {missed:+.0%} of what the MLP adds to {behaviour.name!r}, so its "
            f"pairs say little. Train a better one, with more features or more of them active."
        )
    return found.sort_values("contrast", ascending=False, ignore_index=True)


def _greedily(
    account: PairAccount, pairs: pd.DataFrame, coverage: float, n_pairs: int
) -> pd.DataFrame:
    behaviour = account.cases.behaviour
    sought = pairs[pairs["contrast"] > 0].head(_N_SOUGHT).reset_index(drop=True)
    places = [behaviour.labels.index(label) for label in behaviour.affected]
    of_class = account.class_totals[places].clamp(min=1e-9).numpy()
    shares = sought[list(behaviour.affected)].to_numpy() / of_class
    carried = np.zeros(len(places))
    chosen: list[int] = []
    while len(chosen) < n_pairs and carried.min() < coverage:
        gains = np.minimum(carried + shares, coverage).sum(1) - np.minimum(carried, coverage).sum()
        gains[chosen] = -1
        best = int(gains.argmax()) if len(gains) else 0
        if not len(gains) or gains[best] < _GAIN:
            break
        chosen.append(best)
        carried = carried + shares[best]
    return sought.iloc[chosen]


def _circuit(
    model: Model,
    behaviour: Behaviour,
    layer: int,
    dictionaries: Mapping[Site, Dictionary],
    account: PairAccount,
    pairs: pd.DataFrame,
    outputs: OutputFeatures,
    detectors: tuple[Detector, ...],
) -> Circuit:
    into, out = (dictionaries[site] for site in mlp_sites(layer))
    features, groups = _features(account, pairs, into)
    origins, totals = account.origins, account.totals
    carried = float(pairs["contrast"].sum())
    named = outputs.named(detectors)
    diagonal = torch.eye(len(account.weight), dtype=account.weight.dtype)
    return Circuit(
        name=behaviour.name,
        outputs=named,
        features=features,
        interactions=_interactions(account, pairs),
        gates=_gates(features, pairs),
        groups={str(number): name for number, name in enumerate(groups)},
        detectors=detectors,
        source={
            "behaviour": behaviour.name,
            "metric": behaviour.metric,
            "factors": ", ".join(behaviour.factors),
            "affected": ", ".join(behaviour.affected),
            "layer": layer,
            "model": model.fingerprint,
            "inputs": into.fingerprint,
            "outputs": out.fingerprint,
            "cases": len(account.cases),
        },
        shares={
            "carried": carried / totals["MLP"],
            "computed": origins.computed,
            "inherited": origins.inherited,
            "within": origins.within,
            "error": totals["error"] / totals["MLP"],
            "direct": totals["MLP"] / account.margin,
            "through outputs": float(outputs.shares[[o.feature for o in named]].sum()),
        },
        energy=_squares(pairs) / float((account.weight.square() * (1 + diagonal) / 2).triu().sum()),
    )


def _features(
    account: PairAccount, pairs: pd.DataFrame, dictionary: Dictionary
) -> tuple[tuple[Feature, ...], list[str]]:
    """The pairs' features with their effects, and the groups' names."""
    used = sorted(set(pairs["first"]) | set(pairs["second"]))
    effects = account.effects.set_index("feature").loc[used]
    names = list(effects.columns[1:])
    kinds = [_kind(account.cases, row, names) for row in effects.to_numpy()]
    groups = list(dict.fromkeys(sorted(kinds, key=lambda k: (k == "constant", _order(k, names)))))
    counts = dictionary.statistics
    features = []
    for feature, kind in zip(used, kinds, strict=True):
        values = effects.loc[feature].tolist()
        known = counts is not None and feature < dictionary.n_feature
        features.append(
            Feature(
                int(feature),
                "constant" if feature == dictionary.n_feature else f"feature {feature} ({kind})",
                groups.index(kind),
                frequency=float(counts.frequency[feature]) if known and counts else None,
                mean=values[0],
                first_effect=values[1],
                second_effect=values[2] if len(values) > 2 else None,
                joint_effect=values[3] if len(values) > 3 else None,
            )
        )
    return tuple(features), groups


def _kind(cases: ModelCases, effects: Float[np.ndarray, " effect"], names: list[str]) -> str:
    """The effect that is largest, with its sign: "negated", "positive", "not positive".

    Of a feature that all effects move alike, being active in one class alone, it is that class, or
    "all but" it where it is silent in that alone. One that is on in every class and hardly moved
    is that, whatever moves it most; one that no factor moves at all is "constant".
    """
    row = effects[1:]
    largest = int(np.abs(row).argmax())
    if abs(row[largest]) <= 1e-9:
        return "constant"
    if abs(row[largest]) < _MOVED * abs(effects[0]):
        return "in every class"
    if len(row) > 1 and np.abs(row).min() > _ALIKE * np.abs(row).max():
        means = cases.signs.double().numpy() @ effects
        apart = means - np.median(means)
        one = int(np.abs(apart).argmax())
        return ("" if apart[one] > 0 else "all but ") + cases.behaviour.labels[one]
    return ("" if row[largest] > 0 else "not ") + names[largest]


def _order(kind: str, names: list[str]) -> tuple[int, bool]:
    plain = kind.removeprefix("not ")
    return (names.index(plain) if plain in names else len(names), plain != kind)


def _squares(pairs: pd.DataFrame) -> float:
    """A pair of two features holds two entries of the matrix, each half of its weight."""
    halved = np.where(pairs["first"] == pairs["second"], 1.0, 0.5)
    return float((pairs["weight"].to_numpy() ** 2 * halved).sum())


def _interactions(account: PairAccount, pairs: pd.DataFrame) -> tuple[Interaction, ...]:
    scores = _significance(account, pairs)
    split = account.computed(pairs).tolist()
    rows = []
    for row, (made, held) in zip(pairs.to_dict("records"), split, strict=True):
        z, q = scores.get((row["first"], row["second"]), (None, None))
        known = {name: float(row[name]) for name in ("weight", "together", "contrast", "elsewhere")}
        rows.append(
            Interaction(
                row["first"], row["second"], **known, z=z, q=q, computed=made, inherited=held
            )
        )
    return tuple(rows)


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


def _gates(features: tuple[Feature, ...], pairs: pd.DataFrame) -> tuple[Gate, ...]:
    place = {feature.feature: i for i, feature in enumerate(features)}
    group = np.array([feature.group for feature in features])
    matrix = np.zeros((len(features), len(features)))
    added: dict[tuple[int, int], float] = {}
    for row in pairs.to_dict("records"):
        i, j = place[row["first"]], place[row["second"]]
        matrix[i, j] = matrix[j, i] = row["weight"] / (1 if i == j else 2)
        ends = (int(min(group[i], group[j])), int(max(group[i], group[j])))
        added[ends] = added.get(ends, 0.0) + float(row["contrast"])
    table, _ = gate_table(matrix, group)
    rows = [
        Gate(**{str(k): v for k, v in row.items()}, contrast=added[row["first"], row["second"]])
        for row in table.to_dict("records")
        if (row["first"], row["second"]) in added
    ]
    return tuple(sorted(rows, key=lambda gate: -(gate.contrast or 0.0)))
