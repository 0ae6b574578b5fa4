"""What goes into a behaviour's circuit: few pairs that carry it, features grouped by effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.across.pairs import EffectPairs
from analysis.attribution.contrast import PairAccount
from analysis.behaviour import bounds
from analysis.behaviour.in_model import ModelCases
from analysis.behaviour.strata import means, strata
from circuits.errors import NotFoundError
from circuits.graph.records import Group
from circuits.groups.clusters import Clusters
from circuits.groups.gates import gate_table

_N_SOUGHT = 4096  # pairs that are looked at, those that add most
_N_FIRST = 64  # parts, each of which is tried with every other
_MOVED = 0.25  # of a feature's mean that a factor must move it by, to name it; a heuristic
_ALIKE = 0.8  # of a feature's largest effect, that all must have where it is a class's own


def fewest_pairs(account: PairAccount, coverage: float, n_pairs: int) -> pd.DataFrame:
    """Pairs that together carry the share of what the MLP does in each stratum of the affected
    classes (`strata`), few first."""
    _check_added(account)
    total, name = account.totals.mlp, account.cases.behaviour.name
    sought = sought_pairs(account)
    added = account.added_to_cases(sought)
    found = sought.iloc[fewest(account.cases, added, account.case_totals, coverage, n_pairs)]
    share = float(found["contrast"].sum()) / total
    if share < bounds.CARRIED:
        raise NotFoundError(
            f"not found: in layer {account.layer_number}, the best {len(found)} pairs of features "
            f"together carry {share:.0%} of the {total:.2f} logits that the MLP adds to {name!r}, "
            f"and a circuit needs {bounds.CARRIED:.0%}. Allow more pairs (--pairs), or train a "
            f"dictionary of {account.dictionary.site} with more features."
        )
    missed = account.totals.error / total
    if abs(missed) > bounds.MISSED:
        raise NotFoundError(
            f"not found: the dictionary of {account.dictionary.site} misses too much. Terms "
            f"with its error are {missed:+.0%} of what the MLP adds to {name!r}, so its "
            f"pairs say little. Train a better one, with more features or more of them active."
        )
    return found.sort_values("contrast", ascending=False, ignore_index=True)


def _check_added(account: PairAccount) -> None:
    """Refuse a layer that adds too little for any pairs of it to be a circuit of the behaviour."""
    total, whole = account.totals.mlp, account.margin
    if total <= bounds.DIRECT * whole or total <= 0:
        share = f" ({total / whole:.0%})" if whole > 0 else ""
        raise NotFoundError(
            f"not found: in layer {account.layer_number}, the MLP adds {total:.2f} of the "
            f"{whole:.2f} logits of {account.cases.behaviour.name!r} directly{share}, and a "
            f"circuit needs more than {bounds.DIRECT:.0%}: the rest comes from attention or other "
            f"layers, or goes through them. Ask for another layer (--layer), train dictionaries of "
            f"other layers, or follow it through all of them: find_circuit(…, across=True) in "
            f"Python, circuits trace for one text."
        )


def sought_pairs(account: PairAccount) -> pd.DataFrame:
    """The pairs that are looked at: those that add most to any affected class."""
    most = account.pairs[list(account.cases.behaviour.affected)].max(axis=1).to_numpy()
    order = np.argsort(-most, kind="stable")[:_N_SOUGHT]
    return account.pairs.iloc[order[most[order] > 0]].reset_index(drop=True)


def fewest(
    cases: ModelCases,
    added: Float[Tensor, "case part"],
    totals: Float[Tensor, " case"],
    coverage: float,
    n_parts: int,
    gain: float = bounds.GAIN,
) -> list[int]:
    """The parts, few first, that carry the share of every stratum's total; at most so many.

    Greedily: the next one is that which brings the strata nearest to the share wanted, so one that
    helps a stratum and hurts another as much is never taken. Parts of the affected classes alone
    are preferred; where those are not enough, as of signed features or of a contrast that was there
    before, all are looked at.
    """
    shares = shares_of_strata(cases, added, totals)
    by_class = cases.class_means(added).abs()
    inside, outside = (by_class[cases.affected == on] for on in (1, 0))
    few = inside.new_zeros(1, inside.shape[1])
    own = torch.cat([few, outside]).amax(0) <= bounds.ELSEWHERE * inside.amax(0)
    places = own.nonzero()[:, 0].numpy()
    chosen = [int(places[n]) for n in covering(shares[places], coverage, n_parts, gain)]
    if shares[chosen, 0].sum() < bounds.CARRIED:  # of all affected cases
        chosen = covering(shares, coverage, n_parts, gain)
    return chosen


def shares_of_strata(
    cases: ModelCases, added: Float[Tensor, "case part"], totals: Float[Tensor, " case"]
) -> Float[np.ndarray, "part stratum"]:
    """Of what a layer adds in each stratum of the affected classes, the share of each part: those
    of a complete basis sum to one. The first stratum is all of them; strata to which the layer adds
    almost nothing, so that there is nothing to carry, are left out."""
    judged = [each for each in strata(cases) if each.judged]
    whole = means(totals, judged)
    enough = whole > bounds.DIRECT * whole[0].clamp(min=0)
    enough[0] = True
    there = [each for each, is_there in zip(judged, enough.tolist(), strict=True) if is_there]
    whole = whole[enough].clamp(min=1e-9)
    shares: Float[np.ndarray, "part stratum"] = (means(added, there) / whole[:, None]).mT.numpy()
    return shares


def covering(
    shares: Float[np.ndarray, "part stratum"],
    coverage: float,
    n_parts: int,
    gain: float,
) -> list[int]:
    """Parts that together carry the share of every stratum, or as much as they can: each brings
    ``gain`` or more, its shares of all strata added up as far as they are wanted."""
    chosen: list[int] = []
    carried = np.zeros(shares.shape[1])
    while len(chosen) < min(n_parts, len(shares)) and carried.min() < coverage:
        gains = np.minimum(carried + shares, coverage).sum(1) - np.minimum(carried, coverage).sum()
        gains[chosen] = -1
        best = int(gains.argmax())
        if gains[best] < max(gain, 1e-9):
            break
        chosen.append(best)
        carried = carried + shares[best]
    return chosen


def enough_of_each(
    added: Float[np.ndarray, "part aim"],
    aims: Float[np.ndarray, " aim"],
    lacking: float,
    n_parts: int,
    gain: float = bounds.GAIN,
) -> list[int]:
    """Parts, few first, whose sums lack no more than so much of any aim, which may be below zero;
    or parts that bring near to it.

    Greedily: the next one is that which brings most, ``gain`` or more, over all aims that still
    lack something. Where none does, as where each helps one aim and harms another as much, two are
    taken together, each of which brings as much; where no two do either, that is the end. More than
    an aim asks for counts neither for a part nor against it, and other choices may need fewer.
    """
    chosen: list[int] = []
    left, least = aims - lacking, max(gain, 1e-9)
    while len(chosen) < min(n_parts, len(added)) and left.max() > 0:
        gains = _gains(left, added, chosen)
        best = [int(gains.argmax())]
        if gains[best[0]] < least:
            best, brought = _best_two(left, added, chosen)
            if brought < 2 * least or len(chosen) + 2 > n_parts:
                break
        chosen += best
        left = left - added[best].sum(0)
    return chosen


def _gains(
    left: Float[np.ndarray, " aim"], added: Float[np.ndarray, "part aim"], chosen: list[int]
) -> Float[np.ndarray, " part"]:
    """What each part brings, over all aims that lack something; those chosen bring nothing."""
    gains: Float[np.ndarray, " part"]
    gains = left.clip(min=0).sum() - (left - added).clip(min=0).sum(1)
    gains[chosen] = -np.inf
    return gains


def _best_two(
    left: Float[np.ndarray, " aim"], added: Float[np.ndarray, "part aim"], chosen: list[int]
) -> tuple[list[int], float]:
    """The two parts that bring most together, one of them of those that help most where something
    is lacking; and how much they bring."""
    helps = np.minimum(added, left).clip(min=0).sum(1)
    helps[chosen] = 0
    best, brought = [], -np.inf
    for one in np.argsort(-helps, kind="stable")[:_N_FIRST]:
        if helps[one] > 0:
            first = _gains(left, added[[one]], [])[0]
            gains = first + _gains(left - added[one], added, [*chosen, int(one)])
            if gains.max() > brought:
                best, brought = [int(one), int(gains.argmax())], float(gains.max())
    return best, brought


def factor_groups(
    account: PairAccount | EffectPairs, pairs: pd.DataFrame
) -> tuple[Clusters, tuple[Group, ...]]:
    """The pairs' features in groups of one effect, with the gates between them."""
    used = sorted(set(pairs["first"]) | set(pairs["second"]))
    effects = account.effects.set_index("feature").loc[used]
    names = list(effects.columns[1:])
    kinds = [kind_of(account.cases, row, names) for row in effects.to_numpy()]
    ordered = list(dict.fromkeys(sorted(kinds, key=lambda k: (k == "constant", _order(k, names)))))
    group = np.array([ordered.index(kind) for kind in kinds], dtype=np.int64)
    gates, loading = gate_table(_matrix(used, pairs), group)
    nodes = pd.DataFrame({"node": used, "group": group, "loading": loading, "stability": np.nan})
    found = Clusters(nodes, gates, "effects of factors", {}, 0)
    return found, tuple(Group(n, name, effect=name) for n, name in enumerate(ordered))


def add_features(
    graph: nx.Graph,
    account: PairAccount | EffectPairs,
    pairs: pd.DataFrame,
    kinds: Mapping[Any, str],
) -> None:
    """Add the pairs' features to a graph, with their effects and their kind in the label."""
    n_feature, counts = account.dictionary.n_feature, account.dictionary.statistics
    effects = account.effects.set_index("feature")
    columns = ("mean", "first_effect", "second_effect", "joint_effect")
    for feature in sorted(set(pairs["first"]) | set(pairs["second"])):
        values = dict(zip(columns, effects.loc[feature].tolist(), strict=False))
        if counts is not None and feature < n_feature:
            values["frequency"] = float(counts.frequency[feature])
        label = "constant" if feature == n_feature else f"feature {feature} ({kinds[feature]})"
        graph.add_node(feature, feature=feature, label=label, **values)


def _matrix(used: list[int], pairs: pd.DataFrame) -> Float[np.ndarray, "feature feature"]:
    place = {feature: i for i, feature in enumerate(used)}
    matrix = np.zeros((len(used), len(used)))
    for row in pairs.to_dict("records"):
        i, j = place[row["first"]], place[row["second"]]
        matrix[i, j] = matrix[j, i] = row["weight"] / (1 if i == j else 2)
    return matrix


def kind_of(cases: ModelCases, effects: Float[np.ndarray, " effect"], names: list[str]) -> str:
    """The effect that is largest, with its sign: "negated", "positive", "not positive".

    Of a feature that all effects move alike, being active in one class alone, it is that class, or
    "all but" it where it is silent in that alone. One that is on in every class and hardly moved
    is that, whatever moves it most; one that no factor moves at all is "constant".
    """
    row = effects[1:]
    largest = int(np.abs(row).argmax())
    if abs(row[largest]) <= 1e-9 * abs(effects[0]):  # a feature's scale is arbitrary
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
