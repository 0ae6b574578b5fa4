"""Figures as plain values: what plotly draws, and the table of the data.

Labels are text of a corpus, and plotly reads tags in them, and formulas between dollars where a
notebook has MathJax, so every name and label is escaped here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.errors import BasisError
from circuits.plotting.display import cut

BLUE, ORANGE, GREY, GREEN = "#4c8dff", "#f07f3c", "#8b93a1", "#2fa36b"
"""For positive values or the object itself, negative values, controls, interpreted features."""

# negative, zero, positive
_DIVERGING = [[0.0, ORANGE], [0.5, "rgba(128,128,128,0.06)"], [1.0, BLUE]]

_TEXTS = ("name", "text", "ticktext", "hovertext")  # where plotly would read tags
_LETTERS = 130  # in a line of a note
_FEW = 12  # places on an axis that all have a tick


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure; the page sets the background and the colour of text."""

    key: str  # names it on its page
    title: str
    note: str  # n, seed, and how not to read it
    traces: list[dict[str, Any]]
    table: pd.DataFrame  # the data, as the page offers it for download
    layout: dict[str, Any] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, Any]:
        """What plotly takes."""
        return {"data": _escaped(self.traces), "layout": _escaped({"height": 360, **self.layout})}

    def plot(self) -> Any:
        """The figure in Jupyter, with its title and note above it."""
        from plotly.graph_objects import Figure as Plotly

        return _titled(Plotly(self.drawn), self.title, self.note)


def side_by_side(figures: Sequence[Figure], title: str) -> Any:
    """Several figures as one plotly figure, with one legend and their notes above."""
    from plotly.subplots import make_subplots

    titles = [_plain(figure.title) for figure in figures]
    made = make_subplots(rows=1, cols=len(figures), subplot_titles=titles)
    named: set[str] = set()
    for place, figure in enumerate(figures):
        drawn = figure.drawn
        for trace in drawn["data"]:
            name = trace.get("name", "")
            again = {"legendgroup": name, "showlegend": name not in named}
            made.add_trace({**trace, **again}, row=1, col=place + 1)
            named.add(name)
        made.update_xaxes(drawn["layout"].get("xaxis", {}), row=1, col=place + 1)
        made.update_yaxes(drawn["layout"].get("yaxis", {}), row=1, col=place + 1)
    notes = dict.fromkeys(figure.note for figure in figures)
    made.update_layout(height=380)
    return _titled(made, title, " ".join(notes))


def _titled(figure: Any, title: str, note: str) -> Any:
    lines = [_plain(line) for line in textwrap.wrap(note, _LETTERS)]
    head = 64 + 16 * len(lines)
    figure.update_layout(
        title={
            "text": _plain(title),
            "subtitle": {"text": "<br>".join(lines), "font": {"size": 12}},
            "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 12, "t": 12},
            "y": 1, "yanchor": "top",
        },
        height=(figure.layout.height or 360) + head,
        margin={"l": 64, "r": figure.layout.margin.r or 16, "t": head + 24, "b": 50},
    )  # fmt: skip
    return figure


def _escaped(value: Any, here: bool = False) -> Any:
    """The same with every name and label escaped, at any depth."""
    if isinstance(value, Mapping):
        return {key: _escaped(part, key in _TEXTS) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(part, here) for part in value]
    return _plain(value) if here and isinstance(value, str) else value


def _plain(text: str) -> str:
    """Text that plotly shows as it is: no tag, no formula."""
    return escape(text, quote=False).replace("$", "&#36;")


def line(x: Any, y: Any, name: str, **style: Any) -> dict[str, Any]:
    """A line of a figure."""
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name, **style}


def points(x: Any, y: Any, name: str, text: Any = None, **style: Any) -> dict[str, Any]:
    """Points of a figure; ``text`` is shown when the pointer is over one."""
    trace = {"type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "name": name}
    if text is not None:
        hover = "%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>"
        trace |= {"text": list(text), "hovertemplate": hover}
    return trace | style


def axes(x: str, y: str, **layout: Any) -> dict[str, Any]:
    """A layout with titles for both axes."""
    titles = {"xaxis": x, "yaxis": y}
    named = {axis: {**layout.get(axis, {}), "title": {"text": t}} for axis, t in titles.items()}
    return layout | named


def counts(values: Any, edges: Any, name: str, **style: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """A histogram as steps of equal area, so that samples of unequal size can be compared."""
    found = np.asarray([v for v in values if v is not None and np.isfinite(v)], dtype=float)
    held, bins = np.histogram(found, edges)
    share = held / max(len(found), 1)
    middle = (bins[:-1] + bins[1:]) / 2
    table = pd.DataFrame({"of": name, "from": bins[:-1], "to": bins[1:], "n": held, "share": share})
    trace = line(middle, share, f"{name} (n = {len(found):,})", line={"shape": "hvh", **style})
    return trace, table


def heat_map(
    matrix: np.ndarray, labels: list[str], numbers: list[int], groups: list[int], note: str
) -> Figure:
    """The matrix among some features, ordered by group, with lines between groups."""
    most = float(np.abs(matrix).max(initial=0)) or 1.0
    places = list(range(len(labels)))
    trace = {
        "type": "heatmap", "z": matrix.tolist(), "x": places, "y": places, "zmin": -most,
        "zmax": most, "colorscale": _DIVERGING, "colorbar": {"title": {"text": "weight"}},
        "text": [[f"{a} × {b}" for b in labels] for a in labels],
        "hovertemplate": "%{text}<br>%{z:.4g}<extra></extra>",
    }  # fmt: skip
    ends = [i - 0.5 for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    low, high = -0.5, len(labels) - 0.5
    lines = [{"type": "line", "x0": e, "x1": e, "y0": low, "y1": high} for e in ends]
    lines += [{"type": "line", "y0": e, "y1": e, "x0": low, "x1": high} for e in ends]
    for each in lines:
        each["line"] = {"color": GREY, "width": 1}
    ticks = {"tickmode": "array", "tickvals": places, "showgrid": False, "zeroline": False}
    table = pd.DataFrame(
        [(a, b, matrix[i, j]) for i, a in enumerate(labels) for j, b in enumerate(labels)],
        columns=["first", "second", "weight"],
    )
    layout = {"height": 150 + 26 * max(len(labels), 8), "shapes": lines,
              "xaxis": {**ticks, "ticktext": [str(number) for number in numbers]},
              "yaxis": {**ticks, "ticktext": [cut(label) for label in labels],
                        "autorange": "reversed", "automargin": True}}  # fmt: skip
    return Figure("matrix", "Interaction matrix, ordered by group", note, [trace], table, layout)


def eigenvalues(table: pd.DataFrame, note: str) -> Figure:
    """Eigenvalues by ``place``, and at the same places those of controls: all other columns."""
    colours = [BLUE if value > 0 else ORANGE for value in table["eigenvalue"]]
    controls = [name for name in table if name not in ("place", "eigenvalue")]
    dashes = ("dot", "dash", "dashdot")
    traces = [
        line(table["place"], table[name], str(name), mode="lines+markers", marker={"size": 4},
             line={"color": GREY, "dash": dashes[n % 3]})
        for n, name in enumerate(controls)
    ]  # fmt: skip
    own = points(table["place"], table["eigenvalue"], "this form")
    traces.append({**own, "marker": {"size": 8, "color": colours}})
    ticks = {"dtick": 1} if len(table) <= _FEW else {}  # at whole places only
    layout = axes("place, from the largest", "eigenvalue", xaxis=ticks)
    return Figure("spectrum", "Eigenvalues of the form", note, traces, table, layout)


_Values = Float[np.ndarray, " place"]


def spectrum_figure(
    values: _Values,
    controls: Mapping[str, np.ndarray],
    energy_kept: float | None,
    effective_rank: float | None,
) -> Figure:
    """Eigenvalues from the largest to the smallest, beside controls. Where they are all
    (``energy_kept`` is None), it adds Wigner's semicircle: the eigenvalues of a symmetric matrix of
    independent entries with the same energy."""
    n = len(values)
    columns: dict[str, Any] = {"place": np.arange(1, n + 1), "eigenvalue": values}
    note = f"{n} eigenvalues"
    if energy_kept is not None:
        note += f", the largest by size: {energy_kept:.1%} of the energy"
        note += "; places are among these, and a random form is drawn only beside all eigenvalues"
    elif n > 1:
        radius = 2 * np.sqrt(np.square(values).sum() / n)
        columns["a random form"] = radius * _semicircle(n)
        note += f", effective rank {effective_rank:.3g}. A random form: independent "
        note += "entries, as much energy (Wigner's semicircle)"
        if not controls:
            note += ". An untrained layer differs from it too: see spectrum.plot(random=…)"
    for name, control in controls.items():
        if len(control) != n:
            raise BasisError(
                f"Spectrum.plot: {name!r} holds {len(control)} eigenvalues, the spectrum beside it "
                f"{n}. Compute both with the same rank."
            )
        columns[name] = control
    return eigenvalues(pd.DataFrame(columns), note + ".")


def _semicircle(n: int) -> _Values:
    """The n values that divide the semicircle of radius 1 into equal areas, the largest first."""
    grid = np.linspace(-1, 1, 4001)
    below = 0.5 + (grid * np.sqrt(1 - grid**2) + np.arcsin(grid)) / np.pi
    return np.interp(1 - (np.arange(n) + 0.5) / n, below, grid)
