"""A `RankCurve` as text: what `circuits rank` prints, and the same numbers for scripts."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.lowrank.curve import THRESHOLD, RankCurve
from analysis.lowrank.loss import Replacement
from analysis.lowrank.measure import LOSS_RANKS
from analysis.lowrank.sums import Control

_WIDTH = 100  # of lines
_THRESHOLDS = [0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95]


def curve_text(curve: RankCurve) -> str:
    """For a person."""
    rank = min(2, curve.ranks[-2])
    summary, loss = curve.summary(rank), curve.loss.set_index("replaced_by")["loss"]
    shares = curve.thresholds(rank).loc[_THRESHOLDS].reset_index()
    return f"""\
{summary["site"]}, features read by {summary["reader"]}: {summary["n_feature"]}, of which \
{summary["n_live"]} are ever active on {summary["n_token"]} tokens,
{summary["n_often"]} on {summary["min_active"]} or more; {summary["n_compared"]} of these vary, \
and count below. Median effective rank {summary["effective_rank"]:.1f}.

{_main_figure(curve)}

{aligned(_by_rank(curve))}

median, mean: correlation of a feature with its approximation, on its active tokens.
random: share above {THRESHOLD:g} of random directions of the same model, in place of the features;
  tokens: of the layer's outputs on random tokens, used as directions; rotated, shuffled, untrained:
  with eigenvectors at random, with another feature's form, and in a model with random weights.
R2: median, nothing refitted, beside that of random directions. all tokens: mean correlation,
  inactive tokens included. by data, by sign: with eigenvectors ordered by their mean contribution,
  and of either sign in turn (two are then the largest positive and the largest negative).
costs: nats a token lost with all features truncated, beyond what the dictionary loses;
  chosen: with only the values of the active features truncated. On \
{summary["n_loss_documents"]} documents: loss {loss[Replacement.CLEAN]:.4f},
  with the dictionary {loss[Replacement.SAE]:.4f}, with zero ablation {loss[Replacement.ZERO]:.4f}.

Share of features above a correlation, rank {rank}; above {THRESHOLD:g} it is \
{summary["share_above"]:.3f} (95 %: {summary["share_low"]:.3f} to {summary["share_high"]:.3f}).

{aligned(shares)}

n = {summary["n_documents"]} documents, seed {summary["seed"]}."""


def _main_figure(curve: RankCurve) -> str:
    """The rank that is needed beside its controls, and what follows from it."""
    said = f"Main figure: {curve.needed_sentence} {curve.needed_conclusion}"
    return "\n".join(wrap(said, _WIDTH))


def curve_rows(curve: RankCurve) -> dict[str, Any]:
    """For a script: the summary, and the same tables with every rank and threshold."""
    rank = min(2, curve.ranks[-2])
    return {
        **curve.summary(rank),
        "by_rank": curve.mean.reset_index().to_dict("records"),
        "thresholds": curve.thresholds(rank).reset_index().to_dict("records"),
        "losses": curve.loss.to_dict("records"),
    }


def _by_rank(curve: RankCurve) -> pd.DataFrame:
    """Some ranks and the whole form: correlations, controls, and what truncation costs."""
    whole = curve.ranks[-1]
    ranks = [rank for rank in LOSS_RANKS if rank in curve.ranks[:-1]] + [whole]
    mean, loss = curve.mean.loc[ranks], curve.loss.set_index("replaced_by")
    names = [*map(Replacement.of_rank, ranks[:-1]), Replacement.FULL_RANK]
    costs = loss.loc[names, ["loss", "chosen", "rotated"]] - loss.loc[Replacement.SAE, "loss"]
    columns = {
        "rank": [*map(str, ranks[:-1]), f"all {whole}"],
        "median": mean["q50"],
        "mean": mean["mean"],
        f"above {THRESHOLD:g}": mean["above"],
        **{name.value: mean[f"above_{name}"] for name in Control},
        "R2": mean["r2_50"],
        "R2 random": [curve.compared(rank, "r2_random").median() for rank in ranks],
        "all tokens": mean["mean_all"],
        "by data": mean["mean_by_data"],
        "by sign": mean["mean_by_sign"],
        "costs": costs["loss"].to_numpy(),
        "chosen": costs["chosen"].to_numpy(),
        "costs rotated": costs["rotated"].to_numpy(),
    }
    return pd.DataFrame(columns).reset_index(drop=True)
