"""The whole study of a model with known rules: found from the weights, and proven by removal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.studies.rules.effects import (
    Effects,
    explaining_paths,
    pair_effects,
    single_effects,
)
from analysis.studies.rules.induction import Induction, find_induction, induction_removal
from analysis.studies.rules.known import BY_RULE, KnownRules
from analysis.studies.rules.removal import MOST_DRAWS, skip_removal
from circuits.arguments import checked
from circuits.errors import CorpusError, NotFoundError, check_count
from circuits.model.model import Model

FARTHEST = 11
"""A rule's first token stands 2 to this many tokens before the second."""


@checked
@dataclass(frozen=True, eq=False)
class RuleStudy:
    """What was found, beside what is true."""

    pairs: Effects  # of each place and adjective on the connectives
    table: pd.DataFrame  # the strongest pairs, and whether each is a rule
    verbs: pd.DataFrame  # subject, found, true
    paths: pd.DataFrame  # that make the found rules, and the share left without them
    skip: pd.DataFrame  # what their removal does, by rule
    induction: Induction | None  # None: no head was found that looks for a match
    induction_removed: pd.DataFrame  # no rows without one
    scores: dict[str, float]  # of the order of all candidates

    def measurements(self) -> dict[str, Any]:
        """The main numbers. Each fall is of the share of first answers that are right, at its
        worst: ``random_drop`` on skip positions when the same paths of random tokens are removed,
        ``random_paths_drop`` when it is random other paths of the same tokens."""
        by = _right(self.skip)
        intact, without = by["intact"][0], by["paths"][-1]
        others = [name for name in BY_RULE if name != "skip"]
        return {
            "skip_average_precision": self.scores["average_precision"],
            f"skip_recall_at_{int(self.scores['n_true'])}": self.scores["recall"],
            "bigram_top1": float((self.verbs["found"] == self.verbs["true"]).mean()),
            "intact_top1": intact["skip"],
            "ablated_skip_top1": without["skip"],
            "ablated_other_drop": max(intact[name] - without[name] for name in others),
            "random_drop": _fall("skip", intact, by["random tokens"]),
            "random_paths_drop": _fall("skip", intact, by["random paths"]),
            "removed": [str(path) for path in self.paths["path"]],
            "intact": intact,
            **self._of_induction(intact),
        }

    def _of_induction(self, intact: _Right) -> dict[str, Any]:
        if self.induction is None:
            return {"looks_back_head": None, "match_head": None}
        cut = _right(self.induction_removed)
        controls = [*cut["other distance"], *cut["another row's matches"]]
        return {
            "looks_back_head": self.induction.looks_back,
            "match_head": self.induction.matches,
            "ablated_induction_top1": cut["looks for a match"][0]["induction"],
            "ablated_look_back_top1": cut["looks back by one"][0]["induction"],
            "random_induction_drop": _fall("induction", intact, controls),
        }


_Right = dict[str, float]  # of each rule, the share of first answers that are right


def _right(table: pd.DataFrame) -> dict[str, list[_Right]]:
    """The rows of a table of removals, by what is removed."""
    found: dict[str, list[_Right]] = {}
    for row in table.to_dict("records"):
        right = {name: float(row[name]) for name in BY_RULE}
        found.setdefault(str(row["removed"]), []).append(right)
    return found


def _fall(of: str, intact: _Right, rows: Sequence[_Right]) -> float:
    return max((intact[of] - row[of] for row in rows), default=0.0)


@checked
def study_rules(model: Model, known: KnownRules, n_draws: int = 5, seed: int = 0) -> RuleStudy:
    """Skip rules, bigrams and induction, where a head looks for a match, from the weights alone;
    then the removal of skip rules and induction, with ``n_draws`` random controls of every kind."""
    kinds = known.kinds
    check_count("study_rules", n_draws, MOST_DRAWS, "n_draws")
    if not model.n_context > FARTHEST:
        raise CorpusError(
            f"study_rules: a context of {model.n_context} tokens holds no pair {FARTHEST} apart, "
            f"the farthest of a rule. Use pair_effects with distances of your own."
        )
    answers, n_true = kinds["connective"], len(known.skip)
    distances = range(2, FARTHEST + 1)
    pairs = pair_effects(model, kinds["place"], kinds["adjective"], distances, answers)
    order = pairs.strongest(pairs.total.numel())
    table = order.head(n_true).copy()
    paths = explaining_paths(model, table, answers)
    table["true"] = known.is_skip_rule(table)
    single = single_effects(model, [*known.bigram])
    found = dict(zip(known.bigram, single.total.argmax(1).tolist(), strict=True))
    verbs = pd.DataFrame(
        [(subject, found[subject], verb) for subject, verb in known.top_verbs().items()],
        columns=["subject", "found", "true"],
    )
    special = kinds.get("special", ())
    usual = [token for token in range(model.n_token) if token not in special]
    induction, removed = None, pd.DataFrame(columns=["removed", *BY_RULE])
    with suppress(NotFoundError):
        induction = find_induction(model, usual, seed=seed)
        removed = induction_removal(model, known, induction, n_draws, seed)
    return RuleStudy(
        pairs, table, verbs, paths,
        skip_removal(model, known, paths["path"].tolist(), n_draws, seed), induction, removed,
        {**known.skip_scores(order), "n_true": n_true},
    )  # fmt: skip
