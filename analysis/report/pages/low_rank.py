"""The page of low rank: figure 9 of the paper, for each layer that was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis.html.page import Page
from analysis.lowrank.curve import THRESHOLD
from analysis.lowrank.sums import Control
from analysis.runs.missing import command_for
from analysis.runs.run import Run
from circuits.plotting.display import number, percent
from circuits.plotting.figure import Figure

_READERS = {
    "encoder": "the encoder's row, as in the paper",
    "pinv": "the row of the decoder's pseudoinverse",
}


def low_rank_page(run: Run) -> Page:
    """How many eigenvectors it takes to reproduce a feature's activation."""
    figures: list[Figure] = []
    layers = []
    for layer, curve in run.curves.items():
        rank = min(2, curve.ranks[-2])
        keyed = [replace(figure, key=f"{figure.key}-layer-{layer}")
                 for figure in curve.figures(rank)]  # fmt: skip
        figures += keyed
        summary = {
            key: percent(value) if key.startswith("share") else number(value)
            for key, value in curve.summary(rank).items()
        }
        layers.append({"layer": layer, "figures": keyed, "summary": summary, "rank": rank,
                       "threshold": THRESHOLD, "needed": curve.needed_sentence,
                       "conclusion": curve.needed_conclusion, "compared": len(curve.compared(rank)),
                       "reader": _READERS.get(curve.about["reader"], curve.about["reader"]),
                       "controls": [(each.value, summary[f"share_above_{each}"])
                                    for each in Control]})  # fmt: skip
    context: dict[str, Any] = {"layers": layers, "command": command_for("rank", run.knows_stories)}
    return Page("rank", "Low rank", "low_rank.html.j2", context, figures)
