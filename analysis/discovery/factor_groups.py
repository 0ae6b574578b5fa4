"""Groups of input features by what moves them: a factor of the behaviour, or a class."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.in_model import ModelCases
from circuits.graph.records import Group
from circuits.groups.clusters import Clusters
from circuits.groups.gates import gate_table

_MOVED = 0.25  # of a feature's mean that a factor must move it by, to name it; a heuristic
_ALIKE = 0.8  # of a feature's largest effect, that all must have where it is a class's own


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
