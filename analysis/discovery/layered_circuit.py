"""A circuit through several layers, as a value and as a file.

The file is JSON of schema version 4: a name, the ways, what heads look at, the links of its layers,
how pairs were chosen, which layers are left out, and for each stage what the file of that layer's
circuit would hold.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from typing import TypeVar

import pandas as pd

from analysis.discovery.layer_records import Chosen, LeftOut, pair_name
from analysis.discovery.layered_figure import layered_figure
from analysis.discovery.ways import BY_LOOKS, BY_NO_HEAD, BY_NORMS
from circuits.arguments import checked_methods
from circuits.errors import GraphError
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_file import circuit_content, circuit_of, write_finite
from circuits.graph.records import BehaviourEvidence
from circuits.plotting.display import html_of, shown
from circuits.plotting.figure import Figure
from circuits.storage.files import read_json, without_nan
from circuits.storage.records import RecordError, record_of
from circuits.storage.replacing import begins_as, check_file
from circuits.storage.tables import COUNT, NUMBER, TEXT, Kind, checked_table, table_of_columns

ALL_OTHERS = "all others"
"""The query and the key of the pairs of a head that are not listed."""

LOOKS: dict[str, Kind] = {"layer": COUNT, "head": COUNT, "query": TEXT, "key": TEXT,
                          "distance": NUMBER, "score": NUMBER, "share": NUMBER,
                          "looks": NUMBER}  # fmt: skip
"""The columns of `LayeredCircuit.looks`."""

LINKS: dict[str, Kind] = {"layer": COUNT, "pair": TEXT, "from_layer": COUNT, "from_pair": TEXT,
                          "contrast": NUMBER, "share": NUMBER}  # fmt: skip
"""The columns of `LayeredCircuit.links`."""

_SCHEMA, _VERSION = "bilinear-circuits/layered-circuit", 4
_WAYS: dict[str, Kind] = {"layer": COUNT, "way": TEXT, "contrast": NUMBER, "share": NUMBER,
                          "to_answers": NUMBER}  # fmt: skip
_NEAR = 1e-6  # of the largest share: rounding
_Row = TypeVar("_Row", Chosen, LeftOut)
_HEAD = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class LayeredCircuit:
    """The circuits of some layers that make one contrast together, first layer first."""

    name: str
    stages: tuple[Circuit, ...]
    ways: pd.DataFrame
    """layer, way, contrast, share, to_answers: what the pairs of a layer add to the contrast by way
    of each head, named as ``1.3`` (layer and head), and by ``no head`` at all, with attention
    patterns as they were; how much of it (``to_answers``, a share of the same) passes no later MLP;
    what they add by moving ``where heads look``; and beyond all that how much more of the contrast
    is gone without them in the network as it runs, by changing ``what norms divide by``. Of these
    ``to_answers`` is not known. Where a way leads through several heads it counts for each."""
    looks: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=list(LOOKS)))
    """layer, head, query, key, distance, score, share, looks. ``looks``: what share of the contrast
    is gone with a head's pattern at its mean over the texts of a minimal pair and all else frozen;
    NaN where no texts of two classes have one length. Of heads with a tenth or more the rest says
    why: how much higher its score is, before the softmax, in the texts where that adds to the
    contrast, as a sum of pairs of what is looked from (``query``) and at (``key``, ``distance``
    tokens before), each with its ``share``."""
    links: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=list(LINKS)))
    """layer, pair, from_layer, from_pair, contrast, share: how much of what a pair adds to the
    contrast a pair of an earlier layer wrote, into either of its two features (each counts half),
    along the stream and by heads, with attention patterns and norm scales as they were; and its
    ``share`` of what all pairs of the later layer add. The strongest of every two layers, then the
    sum of the others."""
    chosen: tuple[Chosen, ...] = ()
    """How the pairs of each stage were chosen: what is still ``missing`` of the margin of the
    ``stratum`` that lacks most, and whether the limit of pairs came first (``at_limit``)."""
    left_out: tuple[LeftOut, ...] = ()
    """The layers without a stage, each with what share of the contrast ``depends`` on it, and what
    its best ``n_pairs`` ``carried`` of that, too little."""

    def __post_init__(self) -> None:
        layers = [-1 if (n := stage.source.layer) is None else n for stage in self.stages]
        if not layers or -1 in layers or sorted(set(layers)) != layers:
            raise GraphError(
                f"circuit {self.name!r}: stages of layers {layers}. List one circuit of each "
                f"layer, in order."
            )
        known = [stage.evidence for stage in self.stages]
        behaviours = {"" if one is None else one.behaviour for one in known}
        if None in known or len(behaviours) > 1:
            raise GraphError(
                f"circuit {self.name!r}: its stages are of the behaviours {sorted(behaviours)}. "
                f"List circuits that were found for one behaviour."
            )
        of_stages, others = ([one.layer for one in some] for some in (self.chosen, self.left_out))
        again = len({*of_stages, *others}) < len(of_stages) + len(others)
        if again or not set(of_stages) <= set(layers) or set(others) & set(layers):
            raise GraphError(
                f"circuit {self.name!r}: stages of layers {layers}, chosen in {of_stages} and left "
                f"out {others}. Name each layer once, and as chosen only those of stages."
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """Of its stages."""
        return tuple(int(stage.source.layer or 0) for stage in self.stages)

    def stage(self, layer: int) -> Circuit:
        """The circuit of a layer."""
        if layer not in self.layers:
            raise GraphError(
                f"circuit {self.name!r} has no part in layer {layer!r}. Ask for one of "
                f"{', '.join(map(str, self.layers))}."
            )
        return self.stages[self.layers.index(layer)]

    @property
    def evidence(self) -> BehaviourEvidence:
        """What is known of its behaviour and the cases that it was chosen on; the shares are those
        of its first layer."""
        evidence = self.stages[0].evidence
        assert evidence is not None  # checked above
        return evidence

    @property
    def shares(self) -> pd.DataFrame:
        """Of each layer: what share of the contrast depends on it (is gone with its MLP's output at
        the mean over the classes), how much of that its pairs carry, what the MLP computes, what
        was in its input already, what is made later, as what it writes is read otherwise in each
        class, and what is of the spread within the classes; what its pairs lack in the worst
        stratum, and how far shares are from what was measured (NaN where it was not recorded)."""
        rows, choices = [], {one.layer: one for one in self.chosen}
        for layer, stage in zip(self.layers, self.stages, strict=True):
            assert stage.evidence is not None  # of a behaviour
            shares = stage.evidence.shares
            rows.append({
                "layer": layer, "pairs": len(stage.interactions), "depends": shares.direct,
                "carried": shares.carried, "computed": shares.computed,
                "inherited": shares.inherited, "later": shares.later, "within": shares.within,
                "error": shares.error, "missing": getattr(choices.get(layer), "missing", nan),
                "off_by": getattr(choices.get(layer), "off_by", nan),
            })  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def pair_labels(self) -> dict[str, str]:
        """Of each pair, by its name in `links` and in a validation, the names of its features, fit
        to be shown."""
        labels = dict[str, str]()
        for layer, stage in zip(self.layers, self.stages, strict=True):
            for pair in stage.interactions:
                ends = " × ".join(shown(stage.label(end)) for end in (pair.first, pair.second))
                name = pair_name(layer, pair.first, pair.second)
                labels[name] = f"{ends} in layer {layer}"
        return labels

    def figure(self) -> Figure:
        """The circuit from left to right: the first layer's input features, its pairs, the heads
        that carry what they write, the later layers' pairs, the answers."""
        return layered_figure(self.name, self.stages, self.ways)

    def plot(self) -> object:
        """The same as a plotly figure."""
        return self.figure().plot()

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write everything as one JSON file; over a file that is no such circuit only with
        ``force``."""
        path = Path(path)
        check_file(path, "a layered circuit", begins_as(_SCHEMA), GraphError, force)
        content = {
            "schema": _SCHEMA,
            "version": _VERSION,
            "name": self.name,
            "ways": without_nan(self.ways.to_dict("list")),
            "looks": without_nan(self.looks.to_dict("list")),
            "links": without_nan(self.links.to_dict("list")),
            "chosen": list(map(asdict, self.chosen)),
            "left_out": list(map(asdict, self.left_out)),
            "stages": [circuit_content(asdict(stage)) for stage in self.stages],
        }
        write_finite(path, self.name, content)
        return path

    @classmethod
    def load(cls, path: str | Path) -> LayeredCircuit:
        """Read what `save` wrote; refuse a file that is not whole, or newer than this version."""
        content = read_json(Path(path), GraphError)
        if content.pop("schema", None) != _SCHEMA:
            raise GraphError(
                f"{path} is not a layered circuit: its 'schema' is not '{_SCHEMA}'. Pass a file "
                f"that LayeredCircuit.save wrote."
            )
        if (version := content.pop("version", None)) != _VERSION:
            raise GraphError(
                f"{path} is of schema version {version!r:.40}; this version of the toolkit reads "
                f"{_VERSION}. Find it again, circuits find RUN --across, or update "
                f"bilinear-circuits."
            )
        try:
            return _read(content, str(path))
        except RecordError as error:
            raise GraphError(
                f"{path} is not whole: {error}. It was changed by hand or by another version: "
                f"find it again, circuits find RUN --across."
            ) from error

    def _repr_html_(self) -> str:
        return html_of(
            repr(self), layers=self.shares, ways=self.ways, looks=self.looks, links=self.links
        )

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{len(stage.interactions)} pairs in layer {layer}"
            for layer, stage in zip(self.layers, self.stages, strict=True)
        )
        return f"LayeredCircuit({self.name}: {parts})"


def _read(content: dict[str, object], path: str) -> LayeredCircuit:
    wanted = {"name", "ways", "stages", "chosen", "left_out", "looks", "links"}
    if content.keys() != wanted:
        missing, unknown = sorted(wanted - content.keys()), sorted(content.keys() - wanted)
        raise RecordError(f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    name, parts = content["name"], content["stages"]
    if not isinstance(name, str):
        raise RecordError(f"name = {name!r:.80} is not text")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RecordError("stages is not a list of circuits")
    ways, looks, links = (
        checked_table(table_of_columns(content[what], what), columns, what)[list(columns)]
        for what, columns in (("ways", _WAYS), ("looks", LOOKS), ("links", LINKS))
    )
    stages = tuple(circuit_of(part, Circuit, f"{path}, stage {n}") for n, part in enumerate(parts))
    chosen = _records(content["chosen"], Chosen, "chosen")
    left_out = _records(content["left_out"], LeftOut, "left out")
    try:
        found = LayeredCircuit(name, stages, ways, looks, links, chosen, left_out)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    _check_ways(found)
    _check_looks(found.looks)
    _check_links(found)
    return found


def _records(rows: object, kind: type[_Row], where: str) -> tuple[_Row, ...]:
    if not isinstance(rows, list):
        raise RecordError(f"{where} is not a list")
    return tuple(record_of(kind, row, f"{where} {n}") for n, row in enumerate(rows))


def _check_ways(circuit: LayeredCircuit) -> None:
    """Refuse ways from a layer that has no stage, or by what is no later head."""
    if circuit.ways.duplicated(["layer", "way"]).any():
        raise RecordError("ways lists one of them twice")
    for layer, way in zip(circuit.ways["layer"], circuit.ways["way"], strict=True):
        head = _HEAD.fullmatch(way)
        if layer not in circuit.layers:
            raise RecordError(f"ways begin in layer {layer}, of which there is no stage")
        if way not in (BY_NO_HEAD, BY_LOOKS, BY_NORMS) and (head is None or int(head[1]) <= layer):
            raise RecordError(f"the way {way!r:.40} from layer {layer} is no head of a later layer")


def _check_looks(looks: pd.DataFrame) -> None:
    """Refuse heads with two parts, or with pairs that are no sum."""
    for (layer, head), rows in looks.groupby(["layer", "head"]):
        of_head = f"looks of head {layer}.{head}"
        if rows["looks"].nunique(dropna=False) > 1:
            raise RecordError(f"{of_head} have several shares of the contrast")
        if rows.duplicated(["query", "key", "distance"]).any():
            raise RecordError(f"{of_head} list a pair twice")
        unknown = rows[["score", "share"]].isna().to_numpy()
        if unknown.any() and not (len(rows) == 1 and unknown.all()):
            raise RecordError(f"{of_head} have pairs without a score or a share")
        if not unknown.any() and abs(rows["share"].sum() - 1) > _NEAR * rows["share"].abs().max():
            raise RecordError(f"{of_head} have shares that do not add up to 1")


def _check_links(circuit: LayeredCircuit) -> None:
    """Refuse links of pairs that the circuit does not have, or not from an earlier layer."""
    known = {ALL_OTHERS, *circuit.pair_labels}
    if circuit.links.duplicated(["layer", "pair", "from_layer", "from_pair"]).any():
        raise RecordError("links lists one of them twice")
    between = {(a, b) for a in circuit.layers for b in circuit.layers if a < b}
    rows = circuit.links[circuit.links["pair"] != ALL_OTHERS]
    if {*zip(rows["from_layer"], rows["layer"], strict=True)} != between:
        raise RecordError("links are not between every two stages")
    for layer, pair, before, source, contrast, share in circuit.links.itertuples(index=False):
        listed = all(
            name.endswith(f" in layer {at}") for at, name in ((layer, pair), (before, source))
        )
        if not {pair, source} <= known or not (listed or pair == source == ALL_OTHERS):
            raise RecordError(f"a link from {source:.40} to {pair:.40}: no pairs of those layers")
        pairs = circuit.stage(layer).interactions if layer in circuit.layers else ()
        total = sum(each.contrast or 0.0 for each in pairs)
        if not abs(share * total - contrast) <= _NEAR * abs(total):
            raise RecordError(f"the link from {source} to {pair} has another share than contrast")
