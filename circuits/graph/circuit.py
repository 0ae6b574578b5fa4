"""A circuit: the pairs of features that build an output, their groups, and where it comes from.

The output is one feature, or what several write together to a behaviour's answers; weights are then
those of all output features' forms, each times its direct effect on the answers. A circuit does not
change. Its file is JSON of schema version 3 whose keys are its fields and those of the records in
``circuits.graph.records``; files of version 2 are read as well. ``feature`` counts in the
dictionary; a feature in no group has group −1. What is not known is null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from circuits.arguments import checked
from circuits.errors import GraphError, check_index, shorten
from circuits.graph.circuit_figure import Drawing, circuit_figure
from circuits.graph.circuit_file import read_circuit, write_circuit
from circuits.graph.records import (
    BehaviourEvidence,
    Choice,
    Detector,
    Feature,
    Gate,
    Group,
    Interaction,
    Output,
    Proposal,
    Selection,
    Source,
)
from circuits.groups.clusters import Clusters
from circuits.plotting.display import fixed, html_of

_LARGEST = 1e150  # of a circuit's numbers: the squares of a few are finite


@checked
@dataclass(frozen=True, repr=False)
class Circuit:
    """An immutable subgraph of an output's interactions, and what is known of it: ``evidence`` of a
    behaviour, or a ``proposal`` where it was found without one."""

    name: str
    outputs: tuple[Output, ...]
    features: tuple[Feature, ...]
    interactions: tuple[Interaction, ...]
    gates: tuple[Gate, ...] = ()
    groups: tuple[Group, ...] = ()
    source: Source = field(default_factory=Source)
    selection: Selection = field(default_factory=Selection)
    evidence: BehaviourEvidence | None = None
    proposal: Proposal | None = None
    energy: float | None = None  # share of the squared norm of the output's matrix
    explained: float | None = None  # share of the output's form that its pairs build together

    def __post_init__(self) -> None:
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
        if len({group.number for group in self.groups}) < len(self.groups):
            faults.append("a group is listed twice")
        if lost := sorted({g for gate in self.gates for g in (gate.first, gate.second)} - groups):
            faults.append(f"gates name groups {shorten(lost)}, which no feature is in")
        if faults:
            raise GraphError(
                f"circuit {self.name!r}: {'; '.join(faults)}. List every feature once, with its "
                f"group, and every pair once."
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        rows = {"a feature": self.features, "a pair": self.interactions, "a gate": self.gates,
                "an output": self.outputs}  # fmt: skip
        for kind, some in rows.items():
            for name, value in ((n, v) for row in some for n, v in vars(row).items()):
                # of NaN and infinity it is said where they are used
                if isinstance(value, float) and _LARGEST < abs(value) < math.inf:
                    raise GraphError(
                        f"circuit {self.name!r}: the {name} of {kind} is {value:.3g}: numbers "
                        f"above {_LARGEST:.0e} cannot be squared or added up. Look at where it was "
                        f"computed, or make the circuit again."
                    )

    @classmethod
    def of(
        cls,
        graph: nx.Graph,
        found: Clusters | None = None,
        name: str | None = None,
        output_label: str | None = None,
        source: Source | None = None,
        *,
        outputs: Sequence[Output] = (),
        groups: Sequence[Group] = (),
        evidence: BehaviourEvidence | None = None,
    ) -> Circuit:
        """The circuit of an ``interaction_graph``, or a ``subgraph`` of one, with the groups that
        ``clusters`` found in it. A graph of several outputs does not name one: pass ``outputs``.
        ``groups`` name those of ``found``."""
        about = graph.graph
        if lost := {"total_energy", "energy", "chosen", "level"} - about.keys():
            raise GraphError(
                f"Circuit.of: this graph does not say its {', '.join(sorted(lost))}. Pass one made "
                f"by interaction_graph."
            )
        if not outputs:
            if "output" not in about:
                raise GraphError(
                    "Circuit.of: this graph does not say which output it is of. Pass one made by "
                    "interaction_graph, or outputs."
                )
            label = output_label or f"output {about['output']}"
            outputs = (Output(int(about["output"]), label),)
        features, pairs = _features(graph, found), _pairs(graph)
        # each pair's entries of the matrix, squared
        squares = sum(p.weight * p.weight / (1 if p.first == p.second else 2) for p in pairs)
        energy = squares / about["total_energy"] if about["total_energy"] > 0 else 0.0
        whole = math.isclose(energy, about["energy"], rel_tol=1e-9, abs_tol=1e-300)
        method, seed = (None, None) if found is None else (found.method, found.seed)
        source = source or Source()
        return cls(
            name=name or outputs[0].label,
            outputs=tuple(outputs),
            features=features,
            interactions=pairs,
            gates=() if found is None else _gates(found, features, pairs),
            groups=tuple(groups) or _groups(found),
            source=replace(source, interactions=about.get("interactions", source.interactions)),
            selection=Selection(Choice(about["chosen"]), float(about["level"]), method, seed),
            evidence=evidence,
            energy=float(about["energy"]) if whole else energy,
            explained=about.get("explained") if whole else None,
        )

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """Output features that detect the classes of its behaviour."""
        return () if self.evidence is None else self.evidence.detectors

    def label(self, feature: int) -> str:
        """What an input feature is called."""
        feature = check_index("Circuit.label", feature, 2**63, "feature")
        labels = {known.feature: known.label for known in self.features}
        return labels.get(feature, f"feature {feature}")

    def group_name(self, group: int) -> str:
        """What a group is called."""
        names = {known.number: known.name for known in self.groups}
        return "in no group" if group < 0 else names.get(group, f"group {group}")

    def graph(self) -> nx.Graph:
        """Features as nodes, interactions as edges; what is not known is not an attribute."""
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
        """What is drawn: a pair by its contrast where there is a behaviour, else by its weight."""
        return Drawing(
            self.name,
            self.features,
            self.interactions,
            self.gates,
            self.outputs,
            {f.group: self.group_name(f.group) for f in self.features},
            self._notes(),
            self.tables()["interactions"],
        )

    def _notes(self) -> tuple[str, str]:
        """What the pairs carry together, and what the numbers at gates are."""
        first, last = "", ""
        if self.evidence is not None:
            first = (
                f"; they carry {self.evidence.shares.carried:.0%} of the contrast "
                f"(n = {self.evidence.n_cases} cases that they were chosen on)"
            )
        elif self.explained is not None:
            first = f"; together they build {self.explained:.0%} of the output's form"
        if self.gates:
            weights = any(gate.contrast is None for gate in self.gates)
            last = f" Numbers at gates are {'weights' if weights else 'what they add, in logits'}."
        if self.evidence is not None:
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
        shares = {} if self.evidence is None else self.evidence.shares.as_dict()
        of_contrast = ", ".join(f"{key.replace('_', ' ')} {fixed(v)}" for key, v in shares.items())
        return (
            f"Circuit({self.name}: {len(self.interactions)} pairs of {len(self.features)} features "
            f"to {len(self.outputs)} output features, {len(self.gates)} gates"
            f"{'; of the contrast: ' + of_contrast if of_contrast else ''})"
        )

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the circuit as JSON; over a file that is no circuit only with ``force``."""
        write_circuit(Path(path), self.name, asdict(self), force)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a circuit's file; refuse one that is not whole, or newer than this version."""
        circuit: Circuit = read_circuit(Path(path), cls)
        return circuit


_ROWS = {
    "features": Feature,
    "interactions": Interaction,
    "gates": Gate,
    "outputs": Output,
    "detectors": Detector,
}


def _features(graph: nx.Graph, found: Clusters | None) -> tuple[Feature, ...]:
    if faults := [node for node, known in graph.nodes(data=True) if "feature" not in known]:
        raise GraphError(
            f"Circuit.of: {faults[0]!r} is a node without 'feature' (of {len(faults)} such). Give "
            f"it one, or leave it out."
        )
    rows = [] if found is None else found.nodes.to_dict("records")
    grouped = {
        row["node"]: {str(k): v for k, v in row.items() if k != "node" and v == v}  # no NaN
        for row in rows
    }
    measures = set(_names(Feature)) - {"feature", "label"}
    return tuple(
        Feature(
            int(known["feature"]),
            str(known.get("label", f"feature {known['feature']}")),
            **{k: known[k] for k in measures & set(known)} | grouped.get(node, {}),
        )
        for node, known in graph.nodes(data=True)
    )


def _pairs(graph: nx.Graph) -> tuple[Interaction, ...]:
    faults = [(i, j) for i, j, weight in graph.edges(data="weight") if weight is None]
    if faults:
        raise GraphError(
            f"Circuit.of: {faults[0]!r} is an edge without 'weight' (of {len(faults)} such). Give "
            f"it one, or leave it out."
        )
    measures = set(_names(Interaction)) - {"first", "second"}
    pairs = [
        Interaction(min(i, j), max(i, j), **{k: known[k] for k in measures & set(known)})
        for i, j, known in graph.edges(data=True)
    ]
    if all(pair.contrast is not None for pair in pairs):
        pairs.sort(key=lambda pair: -(pair.contrast or 0.0))
    return tuple(pairs)


def _gates(
    found: Clusters, features: Sequence[Feature], pairs: Sequence[Interaction]
) -> tuple[Gate, ...]:
    """Strongest first; of a behaviour with what their pairs add to its contrast, most first."""
    gates = [Gate(**{str(k): v for k, v in row.items()}) for row in found.gates.to_dict("records")]
    if not pairs or pairs[0].contrast is None:
        return tuple(gates)
    group = {feature.feature: feature.group for feature in features}
    added: dict[tuple[int, int], float] = {}
    for pair in pairs:
        one, other = sorted((group[pair.first], group[pair.second]))
        added[one, other] = added.get((one, other), 0.0) + (pair.contrast or 0.0)
    gates = [replace(gate, contrast=added[gate.first, gate.second]) for gate in gates]
    return tuple(sorted(gates, key=lambda gate: -(gate.contrast or 0.0)))


def _groups(found: Clusters | None) -> tuple[Group, ...]:
    if found is None:
        return ()
    inside = found.nodes[found.nodes["group"] >= 0]
    return tuple(
        Group(int(number), f"group {number}", stability=float(members["stability"].mean()))
        for number, members in inside.groupby("group")
    )


def _names(kind: type) -> list[str]:
    return [each.name for each in fields(kind)]


def _known(row: Feature | Interaction) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if value is not None}
