"""What goes into a behaviour's circuit: few pairs that carry it, features grouped by effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.in_model import ModelCases
from circuits.errors import NotFoundError
from circuits.graph.records import Group
from circuits.groups.clusters import Clusters
from circuits.groups.gates import gate_table

_LEAST = 0.5  # of the contrast, in those pairs: below it there is no circuit to speak of
_PART = 0.1  # of the model's own margins that an MLP must add directly
_MISSED = 0.5  # of the contrast, by the dictionary's error: beyond it pairs describe another model
_GAIN = 0.003  # of a class's share that another pair must bring
_N_SOUGHT = 1024  # pairs that are looked at, those that add most
_ELSEWHERE = 0.25  # of its contrast that a pair may add where the first factor is absent
_MOVED = 0.25  # of a feature's mean that a factor must move it by, to name it; a heuristic
_ALIKE = 0.8  # of a feature's largest effect, that all must have where it is a class's own


def fewest_pairs(account: PairAccount, coverage: float, n_pairs: int) -> pd.DataFrame:
    """Pairs that together carry the share of what the MLP adds to each affected class, few first.

    Greedily: the next pair is that which brings the classes nearest to the share wanted, so a pair
    that helps one class and hurts another as much is never taken. Pairs of the affected classes
    alone are preferred; where those are not enough, as of signed features or of a contrast that was
    there before, all are looked at.
    """
    behaviour, total, whole = account.cases.behaviour, account.totals.mlp, account.margin
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
    missed = account.totals.error / total
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


def factor_groups(account: PairAccount, pairs: pd.DataFrame) -> tuple[Clusters, tuple[Group, ...]]:
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
