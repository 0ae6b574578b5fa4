"""What is told of a circuit in words and tables: facts, gates, pairs, and what edits showed.

What a reader would get wrong: names of circuits, groups and features come from files, and so may
hold anything; each is made visible before it is put in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from analysis.report.catalogue.catalogue import Catalogue
from analysis.report.page import Table
from analysis.runs.belonging import Found
from analysis.validation.record import Validation
from circuits.graph.circuit import Circuit
from circuits.model.site import Site
from circuits.plotting.display import seen, shown

_MOST_PAIRS = 4  # that are told in words


class Labels:
    """What features are called on a page."""

    def __init__(self, found: Found, books: dict[Site, Catalogue]) -> None:
        layer = self._layer = found.layer
        self._labels = {f.feature: shown(f.label) for f in found.circuit.features}
        self._into = None if layer is None else books.get(Site("mlp_in", layer))
        self._out = None if layer is None else books.get(Site("mlp_out", layer))

    def input(self, feature: int) -> str:
        """When an input feature is active."""
        return "" if self._into is None else self._into.caption(feature)

    def short(self, feature: int) -> str:
        """The same for a picture."""
        return "" if self._into is None else self._into.short(feature)

    def output(self, feature: int) -> str:
        """The tokens that an output feature promotes, or that it is strongest on."""
        if self._out is None or feature >= len(self._out.cards):
            return ""
        promoted = [token for token, _ in self._out.cards[feature]["up"][:2]]
        return " ".join(promoted) or self._out.caption(feature)

    def inputs(self, features: Iterable[int]) -> list[str]:
        """The cards of input features; none of a constant."""
        n = 0 if self._into is None else self._into.dictionary.n_feature
        return [f"mlp_in@{self._layer}:{f}" if f < n else "" for f in features]

    def outputs(self, features: Iterable[int]) -> list[str]:
        """The cards of output features."""
        return ["" if self._out is None else f"mlp_out@{self._layer}:{f}" for f in features]

    def name(self, feature: int) -> str:
        """What an input feature is called in the circuit."""
        return self._labels.get(feature, f"feature {feature}")

    def label(self, feature: int) -> str:
        """The same, and when it is active."""
        caption = self.input(feature)
        return self.name(feature) + (f" “{caption}”" if caption else "")


def facts(found: Found) -> list[tuple[str, str]]:
    """Sizes and counts."""
    circuit = found.circuit
    told = [
        ("layer", "unknown" if circuit.source.layer is None else str(circuit.source.layer)),
        ("pairs", str(len(circuit.interactions))),
        ("input features", str(len(circuit.features))),
        ("groups", str(len({f.group for f in circuit.features if f.group >= 0}))),
    ]
    if circuit.evidence is not None:
        told.append(("cases chosen on", str(circuit.evidence.n_cases)))
    if found.validation is not None:
        told.append(("cases validated on", str(found.validation.n)))
        told.append(("seed", str(found.validation.seed)))
    if circuit.explained is not None:
        told.append(("share of the form explained", f"{circuit.explained:.2f}"))
    return [(key, seen(value)) for key, value in told]


def steps(found: Found, labels: Labels) -> list[str]:
    """A circuit without a behaviour in words: its outputs, its strongest pairs, its gates."""
    circuit = found.circuit
    told = []
    for output in circuit.outputs:
        promotes = labels.output(output.feature)
        told.append(f"{output.label}" + (f" promotes “{promotes}”." if promotes else "."))
    pairs = sorted(circuit.interactions, key=lambda pair: -abs(pair.weight))
    for pair in pairs[:_MOST_PAIRS]:
        ends = " × ".join(labels.label(f) for f in dict.fromkeys((pair.first, pair.second)))
        told.append(
            f"{ends}{', squared' * (pair.first == pair.second)}: weight {pair.weight:+.3g}."
        )
    for gate in circuit.gates:
        sides = [_side(circuit, group) for group in (gate.first, gate.second)]
        within = gate.first == gate.second
        joined = (
            f"{sides[0]} among themselves" if within else f"{sides[0]} together with {sides[1]}"
        )
        told.append(
            f"{gate.gate}: {joined}: {gate.share:.0%} of these pairs' energy, weight "
            f"{gate.weight:+.3g}."
        )
    return [seen(sentence) for sentence in told]


def _side(circuit: Circuit, group: int) -> str:
    name = circuit.group_name(group)
    numbers = [f.feature for f in circuit.features if f.group == group]
    listed = ", ".join(str(n) for n in numbers[:4]) + (", …" if len(numbers) > 4 else "")
    return f"“{name}” (feature{'' if len(numbers) == 1 else 's'} {listed})"


def tables_of(circuit: Circuit, labels: Labels) -> list[Table]:
    """Gates, pairs, features, outputs and detectors."""
    tables = circuit.tables()
    pairs = _known(tables["interactions"])
    for end in ("first", "second"):
        pairs[end] = [labels.label(f) for f in pairs[end]]
    listed = _known(tables["features"])
    listed["label"] = [labels.label(f) for f in tables["features"]["feature"]]
    outputs = _known(tables["outputs"])
    outputs["label"] = [
        f"{label} “{labels.output(f)}”" if labels.output(f) else label
        for label, f in zip(outputs["label"], outputs["feature"], strict=True)
    ]
    factors = () if circuit.evidence is None else circuit.evidence.factors
    effects = dict(zip(("first_effect", "second_effect"), (f"effect of {f}" for f in factors),
                       strict=False))  # fmt: skip
    found = [
        Table.of("pairs", f"Pairs of input features.{_measured(circuit)} z, q: against rotated "
                 "features.", pairs),
        replace(Table.of("inputs", "Input features.", listed, effects | {
            "joint_effect": "effect of both", "mean": "mean over the classes",
        }), cards=labels.inputs(listed["feature"])),
        replace(Table.of("outputs", "Output features. Effect: on the answers' logit difference for "
                         "each unit; share: of the contrast.", outputs),
                cards=labels.outputs(outputs["feature"])),
    ]  # fmt: skip
    if circuit.gates:
        gates = _known(tables["gates"])
        for end in ("first", "second"):
            gates[end] = [circuit.group_name(g) for g in gates[end]]
        found.insert(0, Table.of("gates", "Gates between groups.", gates))
    if circuit.detectors:
        told = tables["detectors"].assign(
            features=[", ".join(map(str, d.features)) for d in circuit.detectors],
            cuts=[", ".join(f"{cut:.2f}" for cut in d.cuts) for d in circuit.detectors],
        )
        caption = "Output features that detect a class; F1 on held-out cases."
        found.append(Table.of("detectors", caption, told, {"label": "class", "f1": "F1"}))
    return found


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of which nothing is known."""
    return table.dropna(axis=1, how="all") if len(table) else table


def _measured(circuit: Circuit) -> str:
    """What columns of pairs mean that only a circuit of a behaviour has."""
    if circuit.evidence is None:
        return ""
    return (
        " Contrast, elsewhere: logits added to the affected classes and to the others; computed, "
        "inherited: what a pair adds over all classes, of the two factors or of a contrast that "
        f"was there before; n = {circuit.evidence.n_cases} cases that it was chosen on."
    )


def causal(found: Validation) -> list[Table]:
    """What the edits of the running model showed, controls beside them."""
    n = f"n = {found.n} cases, seed {found.seed}"
    random = found.random_table.drop(columns="mean").rename(
        columns={"median": "median |removed|", "most": "largest |removed|"}
    )
    tables = [
        Table.of("criteria", f"What was asked for, before it was measured; {n}.",
                 found.criteria_table),
        Table.of("edits", "Edits of the running model, controls last. contrast: mean margin of "
                 "the affected classes, in logits; removed: the share of it that the edit removes "
                 "(low to high: 95 % of bootstrap draws); side_effect: largest relative change of "
                 f"another class; {n}.", found.edit_table),
        Table.of("random", "Control: pairs that are active together, drawn at random in place "
                 "of the circuit's. size: how much they write, relative to the circuit; "
                 f"{n}.", random),
        Table.of("parts", "What keeping only the circuit loses without each pair.", found.parts),
        Table.of("checks", "Each pair by a real intervention: the change of each output feature "
                 "that its weight predicts, and a second difference of the running MLP.",
                 found.checks),
    ]  # fmt: skip
    if len(found.side_effects):
        caption = "On text where no answer is due: loss and KL, nats a token."
        tables.insert(3, Table.of("side-effects", caption, found.side_effect_table))
    return tables
