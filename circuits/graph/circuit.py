"""A circuit: the pairs of features that build an output, their groups, and whence.

The output is one feature, or what several write together to a behaviour's answers; weights are then
those of all output features' forms, each times its direct effect on the answers. A circuit does not
change, and it says what it is a part of: its share of the output's energy and, where it was seen on
data, of its mean activation or of a behaviour's contrast. Its file is JSON, of schema version 2:

```
schema        "bilinear-circuits/circuit"       version       2
name          str
outputs       [{feature, label, effect, share}, …]
features      [{feature, label, group, loading, stability, frequency, mean, first_effect,
                second_effect, joint_effect}, …]
interactions  [{first, second, weight, own, z, q, coactivation, together, data_weight,
                contrast, elsewhere, computed, inherited}, …]
gates         [{first, second, gate, weight, share, coherence, contrast}, …]   groups
groups        {str: str}       names, by number
detectors     [{label, features, cuts, f1}, …]   output features that tell a class of a behaviour
thresholds    {str: number | str}               source        {str: number | str | null}
shares        {str: number}    of a behaviour's contrast
energy        number        explained     number | null        activation    number | null
```

``feature`` counts in the dictionary; a feature in no group has group −1. Numbers that are not known
are null; NaN and infinity are in no file. A file of another version, with unknown or missing keys,
or whose interactions name features that it does not have, is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import networkx as nx
import pandas as pd

from circuits.errors import CircuitFileError, shorten
from circuits.groups.clusters import Clusters
from circuits.plotting.circuit_figure import circuit_figure
from circuits.plotting.circuit_layout import Drawing, Edge, Junction, Node, Target
from circuits.plotting.display import html_of, number, seen
from circuits.storage.files import written_whole

SCHEMA, VERSION = "bilinear-circuits/circuit", 2


@dataclass(frozen=True)
class Feature:
    """An input feature of a circuit."""

    feature: int
    label: str
    group: int = -1
    loading: float | None = None
    stability: float | None = None
    frequency: float | None = None
    mean: float | None = None  # over a behaviour's classes, and what its factors add to it
    first_effect: float | None = None
    second_effect: float | None = None
    joint_effect: float | None = None


@dataclass(frozen=True)
class Interaction:
    """A pair of input features."""

    first: int
    second: int
    weight: float
    own: float | None = None
    z: float | None = None
    q: float | None = None
    coactivation: float | None = None
    together: float | None = None
    data_weight: float | None = None
    contrast: float | None = None  # added to a behaviour's affected classes, in logits
    elsewhere: float | None = None  # to its other classes
    computed: float | None = None  # of its part in the whole behaviour: made of the two factors
    inherited: float | None = None  # made of the mean and a contrast that was there before


@dataclass(frozen=True)
class Gate:
    """What two groups compute together."""

    first: int
    second: int
    gate: str
    weight: float
    share: float
    coherence: float
    contrast: float | None = None


@dataclass(frozen=True)
class Output:
    """A feature that a circuit builds."""

    feature: int
    label: str
    effect: float | None = None  # on the answers' logit difference, for each unit of activation
    share: float | None = None  # of the layer's contrast that goes through it


@dataclass(frozen=True)
class Detector:
    """Output features that tell a class of a behaviour: any of them above its cut."""

    label: str
    features: tuple[int, ...]
    cuts: tuple[float, ...]
    f1: float  # on cases that they were not chosen on


@dataclass(frozen=True, repr=False)
class Circuit:
    """An immutable subgraph of an output's interactions.

    ``thresholds`` say how its edges were chosen, ``source`` which model, layer and dictionaries
    they are from; both hold numbers and strings. ``shares`` are of a behaviour's contrast.
    """

    name: str
    outputs: tuple[Output, ...]
    features: tuple[Feature, ...]
    interactions: tuple[Interaction, ...]
    gates: tuple[Gate, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    detectors: tuple[Detector, ...] = ()
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    energy: float = math.nan  # share of the squared norm of the output's matrix
    explained: float | None = None  # share of the output's form that its pairs build together
    activation: float | None = None  # share of the output's mean activation on data

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        have = [feature.feature for feature in self.features]
        named = {end for pair in self.interactions for end in (pair.first, pair.second)}
        groups = {feature.group for feature in self.features}
        faults = []
        if missing := sorted(named - set(have)):
            faults.append(f"interactions name features {shorten(missing)}, which it does not have")
        if not self.outputs:
            faults.append("it has no output")
        if len(set(have)) < len(have):
            faults.append("a feature is listed twice")
        pairs = {frozenset((pair.first, pair.second)) for pair in self.interactions}
        if len(pairs) < len(self.interactions):
            faults.append("a pair is listed twice")
        if lost := sorted({g for gate in self.gates for g in (gate.first, gate.second)} - groups):
            faults.append(f"gates name groups {shorten(lost)}, which no feature is in")
        if faults:
            raise CircuitFileError(
                f"circuit {self.name!r}: {'; '.join(faults)}. List every feature once, with its "
                f"group, and every pair once."
            )

    @classmethod
    def of(
        cls,
        graph: nx.Graph,
        found: Clusters | None = None,
        name: str | None = None,
        output_label: str | None = None,
        source: Mapping[str, Any] | None = None,
        mean_activation: float | None = None,
    ) -> Circuit:
        """The circuit of an ``interaction_graph``, with the groups that ``clusters`` found in it.

        Pass a part of the graph, ``graph.subgraph(nodes)``, for a part of the circuit: what its
        pairs explain together is then not known. ``mean_activation`` is what all pairs of the
        output add on data, ``coactivation.mean_of(form)``; a graph with data weights then knows its
        share of it.
        """
        about = graph.graph
        if "output" not in about:
            raise CircuitFileError(
                "Circuit.of: this graph does not say which output it is of. Pass one made by "
                "interaction_graph."
            )
        output = int(about["output"])
        rows = [] if found is None else found.nodes.to_dict("records")
        grouped = {row["node"]: {str(k): v for k, v in row.items() if k != "node"} for row in rows}
        faults = [node for node, known in graph.nodes(data=True) if "feature" not in known]
        faults += [(i, j) for i, j, weight in graph.edges(data="weight") if weight is None]
        if faults:
            raise CircuitFileError(
                f"Circuit.of: {faults[0]!r} is a node without 'feature' or an edge without 'weight'"
                f" (of {len(faults)} such). Give them one, or leave them out."
            )
        features = tuple(
            Feature(
                feature=int(known["feature"]),
                label=str(known.get("label", f"feature {known['feature']}")),
                frequency=known.get("frequency"),
                **grouped.get(node, {}),
            )
            for node, known in graph.nodes(data=True)
        )
        measures = set(_names(Interaction)) - {"first", "second"}
        pairs = tuple(
            Interaction(min(i, j), max(i, j), **{k: known[k] for k in measures & set(known)})
            for i, j, known in graph.edges(data=True)
        )
        # each pair's entries of the matrix, squared
        squares = sum(p.weight**2 / (1 if p.first == p.second else 2) for p in pairs)
        energy = squares / about["total_energy"] if about["total_energy"] > 0 else 0.0
        whole = math.isclose(energy, about["energy"], rel_tol=1e-9, abs_tol=1e-300)
        activation = None
        if mean_activation and pairs and pairs[0].data_weight is not None:
            activation = sum(pair.data_weight or 0.0 for pair in pairs) / mean_activation
        rows = [] if found is None else found.gates.to_dict("records")
        gates = tuple(Gate(**{str(k): v for k, v in row.items()}) for row in rows)
        thresholds = {"chosen": about["chosen"]}
        if found is not None:
            thresholds |= {"groups": found.method, "seed": found.seed}
        return cls(
            name=name or f"output {output}",
            outputs=(Output(output, output_label or f"output {output}"),),
            features=features,
            interactions=pairs,
            gates=gates,
            thresholds=thresholds,
            source={"interactions": about["interactions"], **(source or {})},
            energy=float(about["energy"]) if whole else energy,
            explained=about.get("explained") if whole else None,
            activation=activation,
        )

    def group_name(self, group: int) -> str:
        """What a group is called."""
        return "in no group" if group < 0 else self.groups.get(str(group), f"group {group}")

    def graph(self) -> nx.Graph:
        """Features as nodes, interactions as edges; what is not known is no attribute."""
        graph = nx.Graph(name=self.name, output=", ".join(str(o.feature) for o in self.outputs))
        for feature in self.features:
            graph.add_node(feature.feature, **_known(feature))
        for pair in self.interactions:
            known = _known(pair)
            graph.add_edge(known.pop("first"), known.pop("second"), **known)
        return graph

    def tables(self) -> dict[str, pd.DataFrame]:
        """Features, interactions, gates, outputs and detectors as tables."""
        return {
            name: pd.DataFrame(
                [asdict(row) for row in getattr(self, name)], columns=_names(kind)
            )
            for name, kind in _ROWS.items()
        }  # fmt: skip

    def plot(self) -> Any:
        """The circuit as a plotly figure: groups of features, gates, what is written."""
        return circuit_figure(self.drawing()).plot()

    def drawing(self) -> Drawing:
        """Its parts as they are drawn: a pair by its contrast where there is a behaviour, else by
        its weight."""
        edges = [
            Edge(
                pair.first,
                pair.second,
                pair.weight if pair.contrast is None else pair.contrast,
                _numbers_of(pair),
            )
            for pair in self.interactions
        ]
        gates = [
            Junction(
                gate.gate,
                gate.first,
                gate.second,
                gate.weight if gate.contrast is None else gate.contrast,
                gate.share,
            )
            for gate in self.gates
        ]
        return Drawing(
            self.name,
            [Node(f.feature, f.label, f.group) for f in self.features],
            edges,
            gates,
            [Target(o.feature, o.label, o.effect, o.share) for o in self.outputs],
            {f.group: self.group_name(f.group) for f in self.features},
            self._notes(),
            self.tables()["interactions"],
        )

    def _notes(self) -> tuple[str, str]:
        """What the pairs carry together, and what the numbers at gates are."""
        first, last = "", ""
        if "carried" in self.shares:
            first = f"; they carry {self.shares['carried']:.0%} of the contrast"
            if "cases" in self.source:
                first += f" (n = {seen(str(self.source['cases']))} cases that they were chosen on)"
        elif self.explained is not None:
            first = f"; together they build {self.explained:.0%} of the output's form"
        if self.gates:
            weights = any(gate.contrast is None for gate in self.gates)
            last = f" Numbers at gates are {'weights' if weights else 'what they add, in logits'}."
        if "carried" in self.shares:
            last += " validate() shows what edits of the model do, beside their controls."
        return first, last

    def _repr_html_(self) -> str:
        known = {name: table for name, table in self.tables().items() if len(table)}
        if "interactions" in known:
            pairs = known["interactions"]
            strength = pairs["contrast"].fillna(pairs["weight"]).astype(float).abs()
            order = strength.sort_values(ascending=False, kind="stable").index
            known["interactions"] = pairs.loc[order].head(12)
        if "gates" in known:
            ends = {end: known["gates"][end].map(self.group_name) for end in ("first", "second")}
            known["gates"] = known["gates"].assign(**ends)
        shown = {name: table.dropna(axis=1, how="all") for name, table in known.items()}
        return html_of(repr(self), **shown)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {value:.2f}" for name, value in self.shares.items())
        return (
            f"Circuit({self.name}: {len(self.interactions)} pairs of {len(self.features)} features "
            f"to {len(self.outputs)} output features, {len(self.gates)} gates"
            f"{'; of the contrast: ' + shares if shares else ''})"
        )

    def save(self, path: str | Path) -> Path:
        """Write the circuit as JSON."""
        told = {"schema": SCHEMA, "version": VERSION} | {
            name: dict(value) if isinstance(value, Mapping) else _plain(value)
            for name, value in ((name, getattr(self, name)) for name in _names(Circuit))
        }
        try:
            text = json.dumps(told, indent=1, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise CircuitFileError(
                f"circuit {self.name!r} cannot be written as JSON ({error}). Its numbers must be "
                f"finite, its thresholds and source numbers or strings."
            ) from error
        with written_whole(path) as file:
            file.write_text(text + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a circuit's file; refuse one that is not whole, or newer than this version."""
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CircuitFileError(
                f"{path} is no JSON ({error}). It was cut short or is another file: write it again "
                f"with Circuit.save."
            ) from error
        if not isinstance(told, dict) or told.pop("schema", None) != SCHEMA:
            raise CircuitFileError(
                f"{path} is no circuit: its 'schema' is not '{SCHEMA}'. Pass a file that "
                f"Circuit.save wrote."
            )
        version = told.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise CircuitFileError(
                f"{path} is of schema version {version!r}; this version of the toolkit reads "
                f"{VERSION}. Update bilinear-circuits, or save the circuit again."
            )
        _check_keys(path, "the circuit", told, Circuit)
        try:
            for name, kind in _ROWS.items():
                told[name] = tuple(_read(path, name, row, kind) for row in told[name])
            for name in _MAPPINGS:
                if not isinstance(told[name], dict):
                    raise TypeError(f"'{name}' is a {type(told[name]).__name__}, not an object")
                _check_values(
                    path, name, told[name], dict.fromkeys(told[name], "float | str | None")
                )
            _check_values(path, "the circuit", told, _types(Circuit))
            return cls(**told)
        except TypeError as error:
            raise CircuitFileError(f"{path} is not whole: {error}. Save it again.") from error


_MAPPINGS = ("groups", "thresholds", "source", "shares")
_ROWS = {
    "features": Feature,
    "interactions": Interaction,
    "gates": Gate,
    "outputs": Output,
    "detectors": Detector,
}


def _names(kind: type) -> list[str]:
    return [each.name for each in fields(kind)]


def _known(row: Feature | Interaction) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if value is not None}


def _numbers_of(pair: Interaction) -> str:
    """A pair's numbers, those that are known and not zero."""
    named = {
        "weight": pair.weight, "z": pair.z, "q": pair.q, "contrast": pair.contrast,
        "elsewhere": pair.elsewhere, "data weight": pair.data_weight,
    }  # fmt: skip
    numbers = ", ".join(f"{name} {number(value)}" for name, value in named.items() if value)
    return f"feature {pair.first} × feature {pair.second}: {numbers}"


def _plain(value: Any) -> Any:
    return [asdict(row) for row in value] if isinstance(value, tuple) else value


def _read(path: str | Path, where: str, row: Any, kind: type) -> Any:
    _check_keys(path, where, row, kind)
    _check_values(path, where, row, _types(kind))
    if kind is Detector:
        for name, wanted in (("features", int), ("cuts", float)):
            listed = row[name]
            if not isinstance(listed, list) or not all(type(n) in (int, wanted) for n in listed):
                raise CircuitFileError(f"{path}: {name} = {listed!r} in {where} is no list of "
                                       f"numbers. Save it again.")  # fmt: skip
            row[name] = tuple(listed)
    return kind(**row)


_KINDS = {"int": (int,), "float": (int, float), "str": (str,), "None": (type(None),)}


def _types(kind: type) -> dict[str, str]:
    return {each.name: str(each.type) for each in fields(kind)}


def _check_values(path: str | Path, where: str, row: Any, types: Mapping[str, str]) -> None:
    """Refuse a number, text or null where it should not be; fields of other types are let be."""
    for name, wanted in types.items():
        words = wanted.split(" | ")
        if not set(words) <= set(_KINDS):
            continue
        value = row[name]
        known = isinstance(value, tuple(kind for word in words for kind in _KINDS[word]))
        infinite = isinstance(value, float) and not math.isfinite(value)
        if not known or infinite or isinstance(value, bool):
            raise CircuitFileError(
                f"{path}: {name} = {value!r} in {where} is no {wanted}. Save it again."
            )


def _check_keys(path: str | Path, where: str, row: Any, kind: type) -> None:
    names = set(_names(kind))
    if not isinstance(row, dict) or set(row) != names:
        given = set(row) if isinstance(row, dict) else set()
        raise CircuitFileError(
            f"{path}: in {where}, missing {sorted(names - given) or 'nothing'}, unknown "
            f"{sorted(given - names) or 'nothing'}. It was changed by hand or by another "
            f"version: save it again."
        )
