"""A `RankCurve` in words: what `circuits rank` prints, and the same for a script.

Every number of the features has its controls to its right.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.lowrank.curve import CONTROLS, THRESHOLD, RankCurve
from analysis.lowrank.measure import LOSS_RANKS

_THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)


def by_rank(curve: RankCurve) -> pd.DataFrame:
    """A few ranks and the whole form: correlations, their controls, and what truncation costs."""
    whole = curve.ranks[-1]
    ranks = [rank for rank in LOSS_RANKS if rank in curve.ranks[:-1]] + [whole]
    mean, loss = curve.mean.loc[ranks], curve.loss.set_index("replaced_by")
    names = [f"rank {rank}" for rank in ranks[:-1]] + ["full rank"]
    costs = loss.loc[names, ["loss", "chosen", "rotated"]] - loss.loc["sae", "loss"]
    columns = {
        "rank": [*map(str, ranks[:-1]), f"all {whole}"],
        "median": mean["q50"],
        "mean": mean["mean"],
        f"above {THRESHOLD:g}": mean["above"],
        **{name: mean[f"above_{name}"] for name in CONTROLS},
        "R2": mean["r2_50"],
        "all tokens": mean["mean_all"],
        "by data": mean["mean_by_data"],
        "costs": costs["loss"].to_numpy(),
        "chosen": costs["chosen"].to_numpy(),
        "costs rotated": costs["rotated"].to_numpy(),
    }
    return pd.DataFrame(columns).reset_index(drop=True)


def by_threshold(curve: RankCurve, rank: int) -> pd.DataFrame:
    """The share of features above some correlations at one rank."""
    return curve.thresholds(rank).loc[list(_THRESHOLDS)].reset_index()


def told(curve: RankCurve) -> str:
    """For a person."""
    rank = min(2, curve.ranks[-2])
    summary, loss = curve.summary(rank), curve.loss.set_index("replaced_by")["loss"]
    return "\n".join(
        [
            f"{summary['site']}, features read by {summary['reader']}: {summary['n_feature']}, of "
            f"which {summary['n_live']} are ever active on {summary['n_token']} tokens,",
            f"{summary['n_often']} on {summary['min_active']} or more; {summary['n_compared']} of "
            f"these vary, and count below. Median effective rank {summary['effective_rank']:.1f}.",
            "",
            aligned(by_rank(curve)),
            "",
            "median, mean: of features' correlations with their approximation, where active.",
            f"rotated, shuffled, untrained: share above {THRESHOLD:g} with random directions, with "
            "another",
            "  feature's form, and in a model that learnt nothing, along the same directions.",
            "R2: median, nothing refitted. all tokens: mean correlation, zeros included.",
            "by data: mean where eigenvectors are ordered by what they add on average.",
            "costs: nats a token that are lost with all features truncated, beyond what the "
            "dictionary loses;",
            "  chosen: only the values of the active ones are. Of "
            f"{summary['n_loss_documents']} documents: loss {loss['clean']:.4f}, with the",
            f"  dictionary {loss['sae']:.4f}, with a zero in its place {loss['zero']:.4f}.",
            "",
            f"Share of features above a correlation, rank {rank}; above {THRESHOLD:g} it is "
            f"{summary['share_above']:.3f} (95 %: {summary['share_low']:.3f} to "
            f"{summary['share_high']:.3f}).",
            "",
            aligned(by_threshold(curve, rank)),
            "",
            f"n = {summary['n_documents']} documents, seed {summary['seed']}.",
        ]
    )


def told_in_full(curve: RankCurve) -> dict[str, Any]:
    """For a script: the summary, and the same tables with every rank and threshold."""
    rank = min(2, curve.ranks[-2])
    return {
        **curve.summary(rank),
        "by_rank": curve.mean.reset_index().to_dict("records"),
        "thresholds": curve.thresholds(rank).reset_index().to_dict("records"),
        "losses": curve.loss.to_dict("records"),
    }
