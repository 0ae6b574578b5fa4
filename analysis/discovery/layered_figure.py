"""A circuit through several layers as a picture, from left to right: the first layer's input
features, its pairs, the heads that carry what they write, the later layers' pairs, the answers.

Every number is a percentage of the whole contrast, so what arrives at the answers can be compared
with what each layer adds. A pair counts half for either of its features. What a later layer passes
on depends on both layers, so that their parts overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.discovery.ways import BY_NO_HEAD, BY_NORMS
from circuits.graph.circuit import Circuit
from circuits.graph.records import Interaction
from circuits.plotting.display import cut, number, percent, shown
from circuits.plotting.figure import BLUE, GREY, ORANGE, Figure, line

_MOST_PAIRS = 6  # of a layer that are drawn
_MOST_WAYS = 6
_LEAST = 0.01  # of what a layer's pairs write: weaker ways are only counted
_SIZE = 13  # of text, in pixels
_SMALL = 12
_TALL = 8.0  # half the height of a line of it, and a little
_ROW = 58.0  # between two rows of a column
_HEAD = 66.0  # above the rows: the column's name
_FEATURES, _PAIRS, _WAYS, _ANSWERS = 190.0, 234.0, 92.0, 96.0  # widths of columns: names fit
_GAP = 72.0  # between them, where the numbers are
_BEND = 52.0  # before a node, where its line becomes level
_EDGE = 10.0  # around everything
_RISE = 14.0  # before a node, where a line comes up from below
_PORT = 11.0  # above and below the middle of a pair: where its two features arrive
_LANE = 24.0  # below everything: between the lines that pass later layers by
_THIN, _THICK = 1.2, 7.0


@dataclass
class _Picture:
    """What has been drawn so far."""

    whole: float  # the contrast, in logits
    traces: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, str, float, float]] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, at: str = "center", **font: Any) -> None:
        """Words at a place: left, right or center of it."""
        self.texts.append({"x": x, "y": y, "text": words, "showarrow": False, "xanchor": at,
                           "yanchor": "middle", "font": {"size": _SIZE, **font}})  # fmt: skip

    def box(self, x: float, y: float, width: float, height: float, fill: float = 0.1) -> None:
        """A rectangle by its left and top."""
        self.shapes.append({
            "type": "rect", "x0": x, "x1": x + width, "y0": y, "y1": y + height, "layer": "below",
            "line": {"color": GREY, "width": 1}, "fillcolor": f"rgba(128,128,128,{fill})",
        })  # fmt: skip

    def edge(
        self, points: Sequence[tuple[float, float]], logits: float, source: str, target: str
    ) -> float:
        """A line through some points, as wide as what it carries; half of that width."""
        share = logits / self.whole
        width = min(_THIN + (_THICK - _THIN) * abs(share), _THICK)
        colour = {"color": BLUE if logits >= 0 else ORANGE, "width": width}
        x, y = zip(*points, strict=True)
        self.traces.append(
            line(x, y, f"{source} to {target}", line=colour, opacity=0.75, hoverinfo="name")
        )
        self.rows.append((source, target, share, logits))
        return width / 2

    def share(self, logits: float) -> str:
        """A number of an edge."""
        return percent(round(logits / self.whole, 5))


@dataclass(frozen=True)
class _Spot:
    """A node of a column."""

    name: str
    left: float
    right: float
    y: float


def layered_figure(name: str, stages: Sequence[Circuit], ways: pd.DataFrame) -> Figure:
    """The picture of some layers' circuits and of the heads between them."""
    whole = _whole(stages)
    drawn = _Picture(whole or 1.0)
    height = _height(stages, ways)
    boxes = _boxes(drawn, stages, ways, height)
    x = boxes[-1].right + _GAP + _ways_width(stages[-1], ways)
    answers = _Spot("answers", x, x + _ANSWERS, _EDGE + _HEAD + _ROW)
    drawn.box(answers.left, answers.y - 34, _ANSWERS, 68.0, 0.2)
    drawn.text((answers.left + answers.right) / 2, answers.y - 12, "the answers")
    drawn.text((answers.left + answers.right) / 2, answers.y + 12, f"{number(whole)} logits")
    for place, (stage, box) in enumerate(zip(stages, boxes, strict=True)):
        _draw_ways(drawn, stage, ways, [box, *boxes[place + 1 :]], answers, height)
    layout = {
        "width": answers.right + _EDGE, "height": height, "autosize": False, "showlegend": False,
        "margin": {side: 0 for side in "lrtb"}, "plot_bgcolor": "rgba(0,0,0,0)",
        "shapes": drawn.shapes, "annotations": drawn.texts, "hovermode": "closest",
        "xaxis": {"visible": False, "range": [0, answers.right + _EDGE], "fixedrange": True},
        "yaxis": {"visible": False, "range": [height, 0], "fixedrange": True},
    }  # fmt: skip
    table = pd.DataFrame(drawn.rows, columns=["from", "to", "share", "logits"])
    note = (
        "Numbers are percentages of the contrast"
        f"{f' of {number(whole)} logits' if whole else ''}; a pair counts half for either of its "
        "features. What a later layer passes on depends on both layers, so their parts overlap. "
        "Blue adds, orange subtracts, width is strength. Heads carry what they do with attention "
        "patterns as they were; moving those is a way of its own. Norms divide as they did."
    )
    title = f"Circuit {shown(name)} through layers {', '.join(str(_layer(s)) for s in stages)}"
    return Figure("layers", title, note, drawn.traces, table, layout)


def _layer(stage: Circuit) -> int:
    return int(stage.source.layer or 0)


def _adds(pair: Interaction) -> float:
    return pair.contrast or 0.0


def _total(stage: Circuit) -> float:
    return sum(map(_adds, stage.interactions))


def _whole(stages: Sequence[Circuit]) -> float | None:
    """The contrast in logits, from a layer's pairs and the shares that they carry."""
    for stage in stages:
        assert stage.evidence is not None  # of a behaviour
        shares = stage.evidence.shares
        if abs(part := shares.carried * shares.direct) > 1e-9 and abs(_total(stage)) > 0:
            return _total(stage) / part
    return None


def _pairs(stage: Circuit) -> tuple[list[Interaction], list[Interaction]]:
    """Those that are drawn, most first, and the others."""
    order = sorted(stage.interactions, key=lambda pair: -abs(_adds(pair)))
    return order[:_MOST_PAIRS], order[_MOST_PAIRS:]


def _drawn_ways(ways: pd.DataFrame, layer: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ways from a layer that are drawn, most first, and the others."""
    here = ways[(ways["layer"] == layer) & (ways["way"] != BY_NORMS)]
    here = here.dropna(subset="share")
    here = here.sort_values("share", key=lambda share: -share.abs(), kind="stable")
    some = here[here["share"].abs() >= _LEAST].head(_MOST_WAYS)
    return some, here.drop(some.index)


def _straight(stage: Circuit, ways: pd.DataFrame) -> bool:
    """Whether what a layer's pairs write is carried on by nothing that is drawn."""
    return all(way == BY_NO_HEAD for way in _drawn_ways(ways, _layer(stage))[0]["way"])


def _ways_width(stage: Circuit, ways: pd.DataFrame) -> float:
    return 0.0 if _straight(stage, ways) else _WAYS + _GAP


def _features(stage: Circuit) -> list[int]:
    """Of the drawn pairs, in the order that lets few lines cross."""
    pairs, _ = _pairs(stage)
    return list(dict.fromkeys(end for pair in pairs for end in (pair.first, pair.second)))


def _height(stages: Sequence[Circuit], ways: pd.DataFrame) -> float:
    n_rows = [len(_features(stages[0]))]
    for stage in stages:
        pairs, rest = _pairs(stage)
        some, others = _drawn_ways(ways, _layer(stage))
        n_rows += [len(pairs) + bool(rest), len(some) + bool(len(others))]
    passing = [
        ways[(ways["layer"] == _layer(stage)) & (ways["to_answers"].abs() >= _LEAST / 10)]
        for stage in stages[:-1]
    ]
    lanes = len(stages) if len(stages) > 2 or any(len(some) for some in passing) else 0
    return 2 * _EDGE + _HEAD + _ROW * max(*n_rows, 2) + _LANE * lanes


def _boxes(
    drawn: _Picture, stages: Sequence[Circuit], ways: pd.DataFrame, height: float
) -> list[_Spot]:
    """The first layer's input features, and a box for each layer's pairs."""
    x, boxes = _EDGE + _FEATURES + _GAP, list[_Spot]()
    for stage in stages:
        boxes.append(_draw_pairs(drawn, stage, x))
        x += _PAIRS + _GAP + _ways_width(stage, ways)
    _draw_features(drawn, stages[0], boxes[0])
    return boxes


def _row(n: int) -> float:
    """The middle of a row."""
    return _EDGE + _HEAD + _ROW * (n + 0.5)


def _title(drawn: _Picture, x: float, first: str, second: str) -> None:
    drawn.text(x, _EDGE + 14, first)
    drawn.text(x, _EDGE + 34, second, size=_SMALL)


def _draw_pairs(drawn: _Picture, stage: Circuit, x: float) -> _Spot:
    pairs, rest = _pairs(stage)
    assert stage.evidence is not None  # of a behaviour
    depends = percent(stage.evidence.shares.direct)
    middle, n = x + _PAIRS / 2, len(stage.interactions)
    _title(drawn, middle, f"Layer {_layer(stage)}: {n} pair{'s' * (n != 1)}",
           f"{depends} of the contrast")  # fmt: skip
    drawn.text(middle, _EDGE + 52, "depends on it", size=_SMALL)
    n_rows = len(pairs) + bool(rest)
    drawn.box(x, _EDGE + _HEAD, _PAIRS, _ROW * n_rows)
    for place, pair in enumerate(pairs):
        y = _row(place)
        names = [_name(stage, end) for end in (pair.first, pair.second)]
        both = [names[0], f"× {names[1]}"] if pair.first != pair.second else [names[0], "squared"]
        for words, up in zip(both, (-9, 9), strict=True):
            drawn.text(x + 8, y + up, words, "left", size=_SMALL)
        drawn.text(x + _PAIRS - 8, y, drawn.share(_adds(pair)), "right")
        drawn.rows.append((" × ".join(names), f"layer {_layer(stage)}",
                           _adds(pair) / drawn.whole, _adds(pair)))  # fmt: skip
    if rest:
        added = drawn.share(sum(map(_adds, rest)))
        drawn.text(x + 8, _row(len(pairs)), f"{len(rest)} other{'s' * (len(rest) != 1)}", "left")
        drawn.text(x + _PAIRS - 8, _row(len(pairs)), added, "right")
    return _Spot(f"layer {_layer(stage)}", x, x + _PAIRS, _EDGE + _HEAD + _ROW * n_rows / 2)


def _name(stage: Circuit, feature: int) -> str:
    """What a feature is called in a picture, whose columns say that it is one."""
    return cut(shown(stage.label(feature)).removeprefix("feature "))


def _draw_features(drawn: _Picture, stage: Circuit, box: _Spot) -> None:
    pairs, _ = _pairs(stage)
    features = _features(stage)
    right = _EDGE + _FEATURES
    _title(drawn, _EDGE + _FEATURES / 2, "Input features", f"of layer {_layer(stage)}")
    spots = {feature: _row(place) for place, feature in enumerate(features)}
    for feature, y in spots.items():
        drawn.box(_EDGE, y - 14, _FEATURES, 28.0)
        drawn.text(_EDGE + 7, y, _name(stage, feature), "left", size=_SMALL)
    for place, pair in enumerate(pairs):
        ends = sorted({pair.first, pair.second}, key=lambda feature: spots[feature])
        ports = [0.0] if len(ends) == 1 else [-_PORT, _PORT]
        for feature, port in zip(ends, ports, strict=True):
            half, y = _adds(pair) / len(ends), _row(place) + port
            line_ = [(right, spots[feature]), (box.left - _BEND, y), (box.left, y)]
            names = shown(stage.label(feature)), f"pair {pair.first} × {pair.second}"
            up = _TALL + drawn.edge(line_, half, *names)
            above = -up if port <= 0 else up
            drawn.text(box.left - 6, y + above, drawn.share(half), "right", size=_SMALL)


def _draw_ways(
    drawn: _Picture,
    stage: Circuit,
    ways: pd.DataFrame,
    boxes: Sequence[_Spot],
    answers: _Spot,
    height: float,
) -> None:
    """The heads after a layer; ``boxes`` are its own and the later ones."""
    box, later = boxes[0], boxes[1:]
    some, others = _drawn_ways(ways, _layer(stage))
    straight = _straight(stage, ways)
    left, right = box.right + _GAP, box.right + _GAP + _WAYS
    lane = height - _EDGE - _LANE * (len(later) - 0.5)
    if not straight:
        _title(drawn, (left + right) / 2, "Carried on by", f"from layer {_layer(stage)}")
    for place, way in enumerate(some.to_dict("records")):
        spot = box if straight else _draw_head(drawn, way, box, _row(place))
        into, adds = _next(later, way["way"]), way["contrast"]
        part = way["to_answers"] / way["share"] if way["to_answers"] == way["to_answers"] else 0.0
        past = adds * (1.0 if into is None else part)
        side, bend = -1, spot.right + _BEND
        for logits, end in [(adds - past, into or answers), (past, answers)]:
            if abs(logits) >= _LEAST * abs(adds):
                path = [(spot.right, spot.y), (bend, spot.y)]
                if later and end is not later[0]:  # below the boxes between
                    path += [(bend, lane), (end.left - _RISE, lane), (end.left - _RISE, end.y)]
                path.append((end.left, end.y))
                up = _TALL + drawn.edge(path, logits, spot.name, end.name)
                y = spot.y + side * up
                drawn.text(spot.right + 6, y, drawn.share(logits), "left", size=_SMALL)
                side = 1
    if len(others) and not straight:
        most = percent(others["contrast"].abs().max() / abs(drawn.whole))
        n, y = len(others), _row(len(some))
        drawn.text((left + right) / 2, y - 8, f"{n} other{'s' * (n != 1)},", size=_SMALL)
        drawn.text((left + right) / 2, y + 8, f"at most {most}", size=_SMALL)


def _draw_head(drawn: _Picture, way: dict[Any, Any], box: _Spot, y: float) -> _Spot:
    """A head that carries on what a layer's pairs write, what stays in the stream, or where heads
    look."""
    left, right, name = box.right + _GAP, box.right + _GAP + _WAYS, str(way["way"])
    name = f"head {name}" if name[0].isdigit() else name
    lines = name.replace(" heads", "\nheads").split("\n")
    drawn.box(left, y - 7 - 7 * len(lines), _WAYS, 14.0 + 14 * len(lines))
    for place, words in enumerate(lines):
        size = _SIZE if len(lines) == 1 else _SMALL
        drawn.text((left + right) / 2, y + 15 * (place - (len(lines) - 1) / 2), words, size=size)
    path = [(box.right, box.y), (left - _BEND, y), (left, y)]
    up = _TALL + drawn.edge(path, way["contrast"], box.name, name)
    drawn.text(left - 6, y - up, drawn.share(way["contrast"]), "right", size=_SMALL)
    return _Spot(name, left, right, y)


def _next(later: Sequence[_Spot], way: str) -> _Spot | None:
    """The layer that a way leads into first, that of its head or a later one; None: the answers."""
    at = int(way.partition(".")[0]) if way[0].isdigit() else 0
    return next((box for box in later if int(box.name.removeprefix("layer ")) >= at), None)
