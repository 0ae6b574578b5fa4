"""The pages of what was measured over all features: low rank, features, layers.

What a reader would get wrong: every page is made even where its step is missing; it then names the
command that makes it, so that a report never looks complete when it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.lowrank.curve import THRESHOLD
from analysis.report.catalogue.catalogue import Catalogue
from analysis.report.page import Page, Table
from analysis.report.pages.layer_table import LayerTable
from analysis.runs.run import Run
from circuits.model.site import Site
from circuits.plotting.display import number, shown
from circuits.plotting.figure import BLUE, GREY, Figure, counts, line, points


def low_rank(run: Run) -> Page:
    """Figure 9 of the paper, for each layer that was measured."""
    made: list[Figure] = []
    layers = []
    for layer, curve in run.curves.items():
        rank = min(2, curve.ranks[-2])
        found = curve.figures(rank)
        keyed = [_keyed(figure, f"layer-{layer}") for figure in found]
        made += keyed
        summary = {key: number(value) for key, value in curve.summary(rank).items()}
        layers.append({"layer": layer, "figures": keyed, "told": summary, "rank": rank,
                       "threshold": THRESHOLD})  # fmt: skip
    told: dict[str, Any] = {"layers": layers, "command": "circuits rank RUN"}
    return Page("rank", "Low rank", "rank.html.j2", told, made)


def features(run: Run, books: Mapping[Site, Catalogue]) -> Page:
    """All features of all dictionaries, to be searched."""
    listed = [
        {"site": str(site), "key": book.key, "n_feature": book.dictionary.n_feature}
        for site, book in books.items()
    ]
    told: dict[str, Any] = {"dictionaries": listed, "has_text": run.text is not None,
            "command": "circuits report RUN --text PATH"}  # fmt: skip
    return Page("features", "Features", "features.html.j2", told, data={"dictionaries": listed})


def layer_page(run: Run, table: LayerTable, books: Mapping[Site, Catalogue]) -> Page:
    """Statistics over the outputs of one layer."""
    layer, rows, control = table.layer, table.rows, table.control
    out = books[Site("mlp_out", layer)]
    into = books[Site("mlp_in", layer)]
    note = (
        f"n = {len(rows)} of {table.n_output} output features, read by {table.reader}; control: "
        f"n = {len(control)} of them with random directions in place of the input features, seed "
        f"{table.seed}."
    )
    beyond = "the outermost steps hold all that lies beyond."
    made = [
        _sums(rows, control, "cross", f"Weights of pairs of different features; {beyond} {note}"),
        _sums(rows, control, "self", f"Weights of features with themselves; {beyond} {note}"),
        _spread(rows, control, "effective_rank", "Effective rank of the forms", note),
        _spread(rows, control, "energy_2", "Share of the energy in two eigenvalues", note),
        _gates(rows, control, note),
    ]
    listed = _outputs(run, table, into, out)
    told = {
        "layer": layer,
        "note": note,
        "table": listed,
        "interactions": layer in run.tables,
        "command": "circuits interactions RUN",
    }
    return Page(f"layer-{layer}", f"Layer {layer}", "layer.html.j2", told, made, [listed])


def _outputs(run: Run, table: LayerTable, into: Catalogue, out: Catalogue) -> Table:
    rows = table.rows
    ends = [
        " × ".join(f"{f} {into.caption(f)}".strip() for f in pair)
        for pair in zip(rows["strongest_first"], rows["strongest_second"], strict=True)
    ]
    told = pd.DataFrame(
        {
            "output": rows["output"],
            "promotes": [
                " ".join(token for token, _ in out.cards[o]["up"][:3]) for o in rows["output"]
            ],
            "effective rank": rows["effective_rank"],
            "energy of 2": rows["energy_2"],
            "first eigenvalue": rows["value_1"],
            "root mean square": rows["cross_rms"],
            "kurtosis": rows["cross_kurtosis"],
            "strongest pair": ends,
            "its weight": rows["strongest_weight"],
            "AND score": rows["and_score"],
        }
    )
    known = run.tables.get(table.layer)
    if known is not None:
        count = known[known["q"] <= 0.05].groupby("output").size()
        told["pairs at q 0.05"] = [int(count.get(o, 0)) for o in rows["output"]]
    caption = f"Every output, read by {table.reader}"
    if known is not None and (reader := run.reader_of_interactions) not in (None, table.reader):
        caption += f"; pairs at q 0.05, by {shown(reader)}"
    listed = Table.of("outputs", f"{caption}. A click on a column's name sorts by it.", told)
    return replace(listed, cards=[f"mlp_out@{table.layer}:{o}" for o in rows["output"]])


def _sums(rows: pd.DataFrame, control: pd.DataFrame, kind: str, note: str) -> Figure:
    """The outputs' histograms together, each in units of its own root mean square."""
    from circuits.algebra.output_statistics import BINS, histogram_edges

    edges = histogram_edges().numpy()
    width = edges[1] - edges[0]
    middles = np.concatenate([[edges[0] - width / 2], (edges[:-1] + edges[1:]) / 2,
                              [edges[-1] + width / 2]])  # fmt: skip
    table = pd.DataFrame({"weight": middles})
    traces = []
    styles = (("features", rows, {"color": BLUE, "width": 3}),
              ("random directions", control, {"color": GREY, "dash": "dot"}))  # fmt: skip
    for name, some, style in styles:
        held = np.sum([np.asarray(h) for h in some[f"{kind}_histogram"]], axis=0)
        assert len(held) == BINS
        table[name] = held / max(held.sum(), 1)
        shown_at = table[name].where(table[name] > 0)
        traces.append(line(middles, shown_at.tolist(), name, line={"shape": "hvh", **style}))
    layout = {"xaxis": {"title": {"text": "weight, in root mean squares of its output"}},
              "yaxis": {"type": "log", "title": {"text": "share of pairs"},
                        "exponentformat": "power"}}  # fmt: skip
    title = {"cross": "Pairs of different features", "self": "Features with themselves"}[kind]
    return Figure(kind, title, note, traces, table, layout)


def _spread(
    rows: pd.DataFrame, control: pd.DataFrame, column: str, title: str, note: str
) -> Figure:
    both = np.concatenate([rows[column], control[column]])
    edges = np.linspace(0, float(both.max()) * 1.02 or 1.0, 31)
    made = [
        counts(control[column], edges, "random directions", color=GREY, dash="dot"),
        counts(rows[column], edges, "features", color=BLUE, width=3),
    ]
    table = pd.concat([table for _, table in made], ignore_index=True)
    layout = {"xaxis": {"title": {"text": title.lower()}},
              "yaxis": {"title": {"text": "share of outputs"}}}  # fmt: skip
    return Figure(column, title, note, [trace for trace, _ in made], table, layout)


def _gates(rows: pd.DataFrame, control: pd.DataFrame, note: str) -> Figure:
    """How far each output's best AND stands out, beside its strongest weight."""
    table = rows[["output", "strongest_weight", "and_score", "cross_rms"]].reset_index(drop=True)
    chance = control["and_score"] / control["cross_rms"]
    ratio, strongest = (
        table[c].abs() / table["cross_rms"] for c in ("and_score", "strongest_weight")
    )
    names = [f"output {o}" for o in table["output"]]
    traces = [
        points(control["strongest_weight"].abs() / control["cross_rms"], chance,
                       "random directions", marker={"color": GREY, "size": 5, "symbol": "x"}),
        points(strongest, ratio, "features", names, marker={"color": BLUE, "size": 6}),
    ]  # fmt: skip
    layout = {"xaxis": {"title": {"text": "strongest pair, in root mean squares"}},
              "yaxis": {"title": {"text": "AND score, in root mean squares"}}}  # fmt: skip
    told = f"AND score: a pair's weight less both features' weights with themselves. {note}"
    return Figure("gates", "Gate-like pairs", told, traces, table, layout)


def _keyed(figure: Figure, end: str) -> Figure:
    return Figure(f"{figure.key}-{end}", figure.title, figure.note, figure.traces, figure.table,
                  figure.layout)  # fmt: skip
