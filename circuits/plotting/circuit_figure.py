"""A circuit as a picture for Jupyter: groups of features, the gates they form, what is written.

Positions come from `circuits.plotting.circuit_layout`, as in the report. Blue adds to the answers
(or, in a circuit without a behaviour, to the output), orange subtracts, and width is strength. A
gate's edges show which groups and outputs it joins; the numbers are on the edges between features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.plotting.circuit_layout import Drawing, picture
from circuits.plotting.display import cut, number, shown
from circuits.plotting.figure import BLUE, GREEN, GREY, ORANGE, Figure, points

_THIN, _THICK = 1.5, 9.0
_LETTER = 7  # pixels of one, in the margin where outputs are named


def circuit_figure(drawing: Drawing) -> Figure:
    """Groups from the left, then gates, then outputs; a pair's numbers stand at its edge."""
    drawn = picture(drawing)
    spots = {node["feature"]: node for node in drawn["nodes"]}
    traces = [*_edges(drawing, drawn["edges"], spots), _nodes(drawn["nodes"])]
    if drawn["gates"]:
        traces = [_wires(drawn), *traces, _gates(drawn)]
    traces.append(_outputs(drawn["outputs"]))
    named = max(len(cut(shown(output["label"]))) for output in drawn["outputs"])
    layout = {
        "height": max(drawn["height"], 320), "showlegend": False, "hovermode": "closest",
        "margin": {"r": _LETTER * named}, "plot_bgcolor": "rgba(0,0,0,0)",
        "shapes": [_circle(group) for group in drawn["groups"]],
        "annotations": [_name(group) for group in drawn["groups"]],
        "xaxis": {"visible": False, "range": [0, drawn["outputs"][0]["x"] + 20]},
        "yaxis": {"visible": False, "range": [drawn["height"], 0], "scaleanchor": "x"},
    }  # fmt: skip
    return Figure("circuit", f"Circuit {shown(drawing.name)}", _note(drawing, len(drawn["edges"])),
                  traces, drawing.table, layout)  # fmt: skip


def _note(drawing: Drawing, n_drawn: int) -> str:
    n = len(drawing.edges)
    counts = f"{n} pair{'s' * (n != 1)} of {len(drawing.nodes)} features"
    if n_drawn < n:
        counts += f", the {n_drawn} strongest drawn"
    first, last = drawing.notes
    colours = "Blue adds, orange subtracts, width is strength; positions mean nothing."
    return f"{counts}{first}. {colours}{last}"


def _edges(
    drawing: Drawing, edges: list[dict[str, Any]], spots: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    most = max((abs(edge["strength"]) for edge in edges), default=0.0) or 1.0
    made, middles = [], []
    for edge in edges:
        start, end = spots[edge["first"]], spots[edge["second"]]
        if start is end:  # a feature with itself: a loop above it
            turn = np.linspace(0, 2 * np.pi, 25)
            x = start["x"] + 13 * np.sin(turn)
            y = start["y"] - start["radius"] - 9 + 13 * np.cos(turn)
            middles.append((x[12], y[12]))
        else:
            x, y = np.array([start["x"], end["x"]]), np.array([start["y"], end["y"]])
            middles.append((x.mean(), y.mean()))
        width = _THIN + (_THICK - _THIN) * abs(edge["strength"]) / most
        colour = BLUE if edge["strength"] > 0 else ORANGE
        made.append(
            {"type": "scatter", "mode": "lines", "x": x.tolist(), "y": y.tolist(), "name": "",
             "line": {"width": width, "color": colour}, "opacity": 0.75, "hoverinfo": "skip"}
        )  # fmt: skip
    at = [x for x, _ in middles], [y for _, y in middles]
    held = points(*at, "pairs", [drawing.edges[edge["pair"]].text for edge in edges],
                  hovertemplate="%{text}<extra></extra>",
                  marker={"size": 16, "opacity": 0})  # fmt: skip
    return [*made, held]


def _nodes(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return points(
        [node["x"] for node in nodes], [node["y"] for node in nodes], "features",
        [str(node["feature"]) for node in nodes], mode="markers+text",
        marker={"size": 34, "color": "#ffffff", "line": {"width": 2, "color": GREY}},
        textfont={"size": 11, "color": "#222222"},
        hovertext=[shown(node["label"]) for node in nodes],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _gates(drawn: dict[str, Any]) -> dict[str, Any]:
    names = {group["group"]: shown(group["name"]) for group in drawn["groups"]}
    gates = drawn["gates"]
    return points(
        [gate["x"] for gate in gates], [gate["y"] for gate in gates], "gates",
        [f"{gate['gate']} {gate['value']:+.3g}".replace("-", "−") for gate in gates],
        mode="markers+text", textposition="bottom center",
        marker={"size": 26, "symbol": "diamond", "line": {"width": 1, "color": GREY},
                "color": [BLUE if gate["value"] > 0 else ORANGE for gate in gates]},
        hovertext=[f"{names[g['first']]} {g['gate']} {names[g['second']]}: {number(g['value'])}, "
                   f"{g['share']:.0%} of all" for g in gates],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _outputs(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return points(
        [output["x"] for output in outputs], [output["y"] for output in outputs], "outputs",
        [cut(shown(output["label"])) for output in outputs], mode="markers+text",
        textposition="middle right", cliponaxis=False,
        marker={"size": 24, "symbol": "square", "color": GREEN},
        hovertext=[f"{shown(o['label'])}: effect on the answers {number(o['effect'])}"
                   if o["effect"] is not None else shown(o["label"]) for o in outputs],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _wires(drawn: dict[str, Any]) -> dict[str, Any]:
    """From both groups to each gate; and as every gate writes to every output, by one rail."""
    groups = {group["group"]: group for group in drawn["groups"]}
    gates, outputs = drawn["gates"], drawn["outputs"]
    rail = (gates[0]["x"] + outputs[0]["x"]) / 2
    lines = [
        ((end["x"] + end["radius"], end["y"]), (gate["x"], gate["y"]))
        for gate in gates
        for end in (groups[number] for number in dict.fromkeys((gate["first"], gate["second"])))
    ]
    lines += [((part["x"], part["y"]), (rail, part["y"])) for part in [*gates, *outputs]]
    heights = [part["y"] for part in [*gates, *outputs]]
    lines.append(((rail, min(heights)), (rail, max(heights))))
    x = [at for start, end in lines for at in (start[0], end[0], None)]
    y = [at for start, end in lines for at in (start[1], end[1], None)]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "", "hoverinfo": "skip",
            "line": {"width": 1, "color": GREY, "dash": "dot"}}  # fmt: skip


def _circle(group: dict[str, Any]) -> dict[str, Any]:
    x, y, r = group["x"], group["y"], group["radius"]
    return {"type": "circle", "x0": x - r, "x1": x + r, "y0": y - r, "y1": y + r, "layer": "below",
            "line": {"color": GREY, "width": 1}, "fillcolor": "rgba(128,128,128,0.10)"}  # fmt: skip


def _name(group: dict[str, Any]) -> dict[str, Any]:
    return {"x": group["x"], "y": group["y"] - group["radius"] - 14, "showarrow": False,
            "bgcolor": "rgba(255,255,255,0.6)", "text": cut(shown(group["name"]))}  # fmt: skip
