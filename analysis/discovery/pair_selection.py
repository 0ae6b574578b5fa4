"""Which pairs of features make up a behaviour's circuit: few, and enough of them in each class."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.attribution.contrast import PairAccount
from circuits.errors import NotFoundError

_LEAST = 0.5  # of the contrast, in those pairs: below it there is no circuit to speak of
_PART = 0.1  # of the model's own margins that an MLP must add directly
_MISSED = 0.5  # of the contrast, by the dictionary's error: beyond it pairs describe another model
_GAIN = 0.003  # of a class's share that another pair must bring
_N_SOUGHT = 1024  # pairs that are looked at, those that add most
_ELSEWHERE = 0.25  # of its contrast that a pair may add where the first factor is absent


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
