"""The page of a layer: statistics over its output features, and a table of them.

Every pair of each output is looked at, which is billions for wide dictionaries; so of a wide layer
the first outputs are measured. Features have no order, so those are a fair sample; the page says
how many there were. The statistics are kept in the run, so they resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.html.page import Page, Table
from analysis.report.catalogue.catalogue import Catalogue
from analysis.runs.run import Run
from circuits.algebra.interactions import Interactions
from circuits.algebra.output_statistics import BINS, histogram_edges, output_statistics
from circuits.model.site import Site
from circuits.plotting.display import shown
from circuits.plotting.figure import BLUE, GREY, Figure, axes, counts, line, points

_MOST, _LEAST = 1024, 16  # outputs that are measured
_PAIRS = 5e9  # looked at in total: about a minute on two cores
_CONTROL = 4  # times fewer outputs of the control


@dataclass(frozen=True, eq=False)
class LayerTable:
    """A row for each output; the same for random directions in place of the input features."""

    layer: int
    rows: pd.DataFrame
    control: pd.DataFrame
    n_output: int
    seed: int

    @classmethod
    def of(cls, run: Run, layer: int, seed: int, most: int | None = None) -> LayerTable:
        """Of a layer with dictionaries, of at most ``most`` outputs; shards are in
        ``RUN/statistics``."""
        into, out = (run.dictionaries[Site(point, layer)] for point in ("mlp_in", "mlp_out"))
        inter = Interactions(run.model.layer(layer), into.basis(), out.basis("encoder"))
        n = inter.n_output
        random = Interactions(inter.layer, inter.inputs.control(seed), inter.outputs)
        most = most_outputs(inter.n_input) if most is None else most
        tables = []
        for name, some, at_most in (("own", inter, most), ("control", random, most // _CONTROL)):
            folder = run.folder.statistics(layer, name, some.fingerprint)
            tables.append(output_statistics(some, range(min(n, at_most)), folder))
        return cls(layer, tables[0], tables[1], n, seed)


def most_outputs(n_input: int) -> int:
    """How many outputs are measured, given the number of input features."""
    return int(min(max(_PAIRS / n_input**2, _LEAST), _MOST))


def layer_page(run: Run, table: LayerTable, books: Mapping[Site, Catalogue]) -> Page:
    """The page of one layer."""
    layer, rows, control = table.layer, table.rows, table.control
    out = books[Site("mlp_out", layer)]
    into = books[Site("mlp_in", layer)]
    note = (
        f"n = {len(rows)} of {table.n_output} output features, read by encoder; control: "
        f"n = {len(control)} of them with random directions in place of the input features, seed "
        f"{table.seed}."
    )
    beyond = "the outermost bins hold everything beyond."
    made = [
        _sums(rows, control, "cross", f"Weights of pairs of different features; {beyond} {note}"),
        _sums(rows, control, "self", f"Weights of features with themselves; {beyond} {note}"),
        _spread(rows, control, "effective_rank", "Effective rank of the forms", note),
        _spread(rows, control, "energy_2", "Share of the energy in two eigenvalues", note),
        _gates(rows, control, note),
    ]
    listed = _outputs(run, table, into, out)
    context = {
        "layer": layer,
        "note": note,
        "table": listed,
        "interactions": layer in run.tables,
        "command": "circuits interactions RUN",
    }
    return Page(f"layer-{layer}", f"Layer {layer}", "layer.html.j2", context, made, [listed])


def _outputs(run: Run, table: LayerTable, into: Catalogue, out: Catalogue) -> Table:
    rows = table.rows
    ends = [
        " × ".join(f"{f} {into.caption(f).text}".strip() for f in pair)
        for pair in zip(rows["strongest_first"], rows["strongest_second"], strict=True)
    ]
    listed = pd.DataFrame(
        {
            "output": rows["output"],
            "promotes": [
                " ".join(token for token, _ in out.cards[o]["up"][:3]) for o in rows["output"]
            ],
            "effective rank": rows["effective_rank"],
            "energy in 2 eigenvalues": rows["energy_2"],
            "first eigenvalue": rows["value_1"],
            "root mean square": rows["cross_rms"],
            "kurtosis": rows["cross_kurtosis"],
            "strongest pair": ends,
            "weight of that pair": rows["strongest_weight"],
            "AND score": rows["and_score"],
        }
    )
    known = run.tables.get(table.layer)
    if known is not None:
        count = known[known["q"] <= 0.05].groupby("output").size()
        listed["listed pairs at q 0.05"] = [int(count.get(o, 0)) for o in rows["output"]]
    caption = "Every output, read by encoder"
    reader = run.reader_of_interactions(table.layer)
    if known is not None and reader not in (None, "encoder"):
        caption += f"; listed pairs at q 0.05, by {shown(reader)}"
    if known is not None:
        caption += (
            ". q is of all pairs of an output, but only the strongest by weight are listed and "
            "counted: with more of them a q can be smaller, never larger. q tests a pair against "
            "the whole form, so this count includes shadows: a strong "
            "pair also gives weight to near twins of its features. interaction_graph(…, "
            "significant=0.05) tests each pair given the others"
        )
    made = Table.of("outputs", f"{caption}. Click a column's name to sort by it.", listed)
    return replace(made, cards=[f"mlp_out@{table.layer}:{o}" for o in rows["output"]])


def _sums(rows: pd.DataFrame, control: pd.DataFrame, kind: str, note: str) -> Figure:
    """The histograms of all outputs summed, each in units of its own root mean square."""
    edges = histogram_edges().numpy()
    width = edges[1] - edges[0]
    middles = np.concatenate([[edges[0] - width / 2], (edges[:-1] + edges[1:]) / 2,
                              [edges[-1] + width / 2]])  # fmt: skip
    table = pd.DataFrame({"weight": middles})
    traces = []
    samples = (("features", rows, {"color": BLUE, "width": 3}),
              ("random directions", control, {"color": GREY, "dash": "dot"}))  # fmt: skip
    for name, some, style in samples:
        held = np.sum([np.asarray(h) for h in some[f"{kind}_histogram"]], axis=0)
        assert len(held) == BINS
        table[name] = held / max(held.sum(), 1)
        shown_at = table[name].where(table[name] > 0)
        traces.append(line(middles, shown_at.tolist(), name, line={"shape": "hvh", **style}))
    log = {"type": "log", "exponentformat": "power"}
    layout = axes("weight, in root mean squares of its output", "share of pairs", yaxis=log)
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
    layout = axes(title.lower(), "share of outputs")
    return Figure(column, title, note, [trace for trace, _ in made], table, layout)


def _gates(rows: pd.DataFrame, control: pd.DataFrame, note: str) -> Figure:
    """Each output's best AND score, against its strongest weight."""
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
    layout = axes("strongest pair, in root mean squares", "AND score, in root mean squares")
    note = f"AND score: a pair's weight minus both features' weights with themselves. {note}"
    return Figure("gates", "Gate-like pairs", note, traces, table, layout)
