"""A circuit in facts, sentences and tables: gates, pairs, features, and its causal tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from analysis.behaviour.bounds import DRAWS, FIXED
from analysis.html.page import Table
from analysis.report.circuit.labels import Labels
from analysis.runs.belonging import Found
from analysis.validation.bases import ENOUGH
from analysis.validation.record import Validation
from circuits.graph.circuit import Circuit
from circuits.graph.records import UNIT, Metric
from circuits.model.identity import TwinLabel
from circuits.plotting.display import percent, seen, shown

_MOST_PAIRS = 4  # that sentences describe
_RATE = 0.05  # of false discoveries, at which a pair stands out

_FOR_WHAT_THEY_WRITE = (
    "Random pairs, for what they write: the share of the margin that a draw of the same size "
    "removes, divided by its size (how much it writes, relative to the circuit) and by the share "
    "that the circuit removes. Only removal counts, because random pairs that write as much mostly "
    "raise the margin."
)
_OF_BASES = (
    f"There: how many pairs the basis has (of a dictionary, those of features that are ever active "
    f"in the cases; of hidden units, one product each). Needed: how many of them carry "
    f"{percent(ENOUGH)} of the contrast in every stratum; empty: not reached within those tried. "
    f"The other columns are of pairs chosen as a circuit's are, at most as many as it has "
    f"(n_pairs): carried, their share in the worst stratum; removed and side effect, by removing "
    f"them."
)
_OF_FEATURES = (
    " Features are removed from the MLP's input, at every token but the first, and with them all "
    "pairs that they are in: a gated model has no pairs to remove."
)
_EDIT_HEADS = {
    "n_pairs": "pairs", "n_cases": "cases", "removed": "effect removed", "low": "removed, low",
    "high": "removed, high", "side_effect": "side effect", "faithfulness": "effect kept",
    "n_features": "features",
}  # fmt: skip


def facts(found: Found, twin: TwinLabel | None) -> list[tuple[str, str]]:
    """Sizes and counts, and whose twin the model is."""
    circuit = found.circuit
    rows = [
        ("layer", "unknown" if circuit.source.layer is None else str(circuit.source.layer)),
        ("pairs", str(len(circuit.interactions))),
        ("input features", str(len(circuit.features))),
        ("groups", str(len({f.group for f in circuit.features if f.group >= 0}))),
    ]
    if circuit.evidence is not None:
        rows.append(("cases used to find it", str(circuit.evidence.n_cases)))
        if pieces := circuit.evidence.first_pieces:
            rows.append(("answers compared by their first token", ", ".join(pieces)))
    if found.validation is not None:
        rows.append(("held-out cases", str(found.validation.n)))
        rows.append(("seed", str(found.validation.seed)))
    if circuit.explained is not None:
        rows.append(("share of the form explained", f"{circuit.explained:.2f}"))
    if twin is not None:
        rows.append(("model", twin.in_words))
    return [(key, seen(value)) for key, value in rows]


def proposal_sentences(found: Found, labels: Labels) -> list[str]:
    """A circuit without a behaviour: its outputs, its strongest pairs, its gates."""
    circuit = found.circuit
    sentences = []
    for output in circuit.outputs:
        promotes = labels.output_caption(output.feature)
        sentences.append(f"{output.label}" + (f" promotes “{promotes}”." if promotes else "."))
    pairs = sorted(circuit.interactions, key=lambda pair: -abs(pair.weight))
    for pair in pairs[:_MOST_PAIRS]:
        ends = " × ".join(map(labels.name_and_caption, dict.fromkeys((pair.first, pair.second))))
        squared = ", squared" * (pair.first == pair.second)
        sentences.append(f"{ends}{squared}: weight {pair.weight:+.3g}.")
    for gate in circuit.gates:
        first, second = (_group(circuit, group) for group in (gate.first, gate.second))
        groups = f"{first} with itself" if gate.first == gate.second else f"{first} with {second}"
        sentences.append(
            f"{gate.gate}: {groups}: {gate.share:.0%} of these pairs' energy, weight "
            f"{gate.weight:+.3g}."
        )
    return [seen(sentence) for sentence in sentences]


def _group(circuit: Circuit, group: int) -> str:
    name = circuit.group_name(group)
    of_group = [f for f in circuit.features if f.group == group]
    numbers = [str(f.feature) for f in of_group if f.label != "constant"]
    listed = ", ".join(numbers[:4]) + (", …" if len(numbers) > 4 else "")
    parts = [f"feature{'' if len(numbers) == 1 else 's'} {listed}"] if numbers else []
    parts += ["the constant"] * (len(of_group) > len(numbers))
    return f"“{name}” ({' and '.join(parts)})"


def circuit_tables(circuit: Circuit, labels: Labels) -> list[Table]:
    """Gates, pairs, features, outputs and detectors."""
    tables = circuit.tables()
    pairs = _known(tables["interactions"])
    for end in ("first", "second"):
        pairs[end] = [labels.name_and_caption(f) for f in pairs[end]]
    if "q" in pairs:
        pairs["stands out"] = ["yes" if q <= _RATE else "no" for q in pairs["q"]]
    features = _known(tables["features"])
    features["label"] = [labels.name_and_caption(f) for f in features["feature"]]
    outputs = _known(tables["outputs"])
    captions = map(labels.output_caption, outputs["feature"])
    outputs["label"] = [
        f"{label} “{caption}”" if caption else label
        for label, caption in zip(outputs["label"], captions, strict=True)
    ]
    factors = () if circuit.evidence is None else circuit.evidence.factors
    effects = dict(zip(("first_effect", "second_effect"), (f"effect of {f}" for f in factors),
                       strict=False))  # fmt: skip
    heads = effects | {"joint_effect": "effect of both", "mean": "mean over the classes"}
    made = [
        Table.of("pairs", f"Pairs of input features.{_measures(circuit)}{_standing(circuit)}",
                 pairs),
        replace(Table.of("inputs", "Input features.", features, heads),
                cards=labels.input_cards(features["feature"])),
        replace(Table.of("outputs", "Output features. Effect: change of the answers' logit "
                         "difference per unit of activation; share: of the contrast.", outputs),
                cards=labels.output_cards(outputs["feature"])),
    ]  # fmt: skip
    if circuit.gates:
        gates = _known(tables["gates"])
        for end in ("first", "second"):
            gates[end] = [circuit.group_name(g) for g in gates[end]]
        made.insert(0, Table.of("gates", "Gates between groups.", gates))
    if circuit.detectors:
        detectors = tables["detectors"].assign(
            features=[", ".join(map(str, d.features)) for d in circuit.detectors],
            cuts=[", ".join(f"{cut:.2f}" for cut in d.cuts) for d in circuit.detectors],
        )
        caption = (
            "Output features that detect a class, measured on held-out cases, beside a feature "
            "that is always active."
        )
        heads = {"label": "class", "f1": "F1", "baseline": "F1 if always active"}
        made.append(Table.of("detectors", caption, detectors, heads))
    return made


def _standing(circuit: Circuit) -> str:
    """How many pairs the weights alone would point out, and what that says."""
    tested = [pair.q for pair in circuit.interactions if pair.q is not None]
    if not tested:
        return ""
    n_out = sum(q <= _RATE for q in tested)
    return (
        f" z, q: the weight beside those of features rotated at random in the space that they "
        f"share. {n_out} of {len(tested)} pairs stand out from that (q of {_RATE} or less). "
        f"Whether a pair is causal is another question: the edits answer it."
    )


def _named(table: pd.DataFrame, name: Callable[[int], str]) -> pd.DataFrame:
    """With the names of a pair's two features, not their numbers: the constant has none."""
    ends = {end: table[end].map(lambda f: name(int(f))) for end in ("first", "second")}
    return table.assign(**ends)


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that are empty."""
    return table.dropna(axis=1, how="all") if len(table) else table


def _measures(circuit: Circuit) -> str:
    """What the columns mean that only a circuit of a behaviour has."""
    if circuit.evidence is None:
        return ""
    affected = ", ".join(map(shown, circuit.evidence.affected))
    return (
        f" Contrast, elsewhere: logits added, mean over the affected classes ({affected}) and over "
        f"the others; class by class a pair may add very different amounts. Computed, inherited: "
        f"what a pair adds over all classes, from the two factors or from a contrast that was "
        f"there before. n = {circuit.evidence.n_cases} cases, those that the circuit was chosen on."
    )


def validation_tables(
    found: Validation, name: Callable[[int], str], metric: Metric = "logit difference"
) -> list[Table]:
    """The causal tests, with their controls."""
    n = f"n = {found.n} held-out cases, seed {found.seed}"
    random = found.random_table.rename(columns={
        "median": "effect removed, median", "median_size": "median, whichever the sign",
        "side_effect": "largest side effect",
    })  # fmt: skip
    tables = [
        Table.of("criteria", f"Criteria (bounds of {FIXED}, set on seeds 0 to 6): causal, the "
                 "pairs carry the behaviour; computed here, they make the contrast; specific, "
                 f"other classes stay and other pairs do not do it; {n}. {_FOR_WHAT_THEY_WRITE}",
                 found.criteria_table),
        Table.of("strata", "The worst stratum of each kind: that with the most margin left, and in "
                 "other classes that which changes most. Left: of its mean margin without the "
                 "circuit (below 0: the answer turns). Kept: of the MLP's effect by the circuit "
                 "alone, in that same stratum; the least kept may be in another one, see every "
                 f"stratum below. {found.judged}", found.worst_strata),
        Table.of("edits", "Edits of the running model, controls last. Contrast: mean margin of "
                 f"the affected classes, in {UNIT[metric]}. Effect removed: share of the contrast "
                 "that the "
                 "edit removes (low to high: 95 % bootstrap interval). Side effect: largest "
                 "relative change in another class. Control, circuit of …: other circuits of this "
                 "run removed, for comparison; no criterion uses them. Cases: the patch is over "
                 f"those that have a counterpart in their minimal pair; {n}."
                 f"{_OF_FEATURES * bool(found.in_original)}",
                 found.edit_table, _EDIT_HEADS),
        Table.of("random", "Control: random pairs of features that are active together, instead "
                 "of the circuit's. Size: how much they write, relative to the circuit. Most, "
                 "least: of the effect removed; below 0 the margin grows. Distinct: "
                 f"different draws; of fewer than {DRAWS} nothing is judged; {n}.", random),
        Table.of("bases", "Control: other bases in place of the dictionary's features, searched in "
                 f"the same way on these cases. {_OF_BASES}", found.bases),
        Table.of("all-strata", "Every stratum.", found.strata),
        Table.of("origins", "Computed or inherited, over all cases and in each frame "
                 "with cases enough.", found.origins),
        Table.of("parts", "Faithfulness lost without each pair, when only the circuit is kept.",
                 _named(found.parts, name)),
        Table.of("checks", "Each pair checked by an intervention: the change of each output "
                 "feature that its weight predicts, and the change measured in the running MLP (a "
                 "second difference).", _named(found.checks, name), {"off_by": "difference"}),
    ]  # fmt: skip
    if len(found.side_effects):
        caption = "Side effects on ordinary text: loss and KL divergence, in nats per token."
        heads = {"added": "loss added", "n_token": "tokens"}
        tables.insert(5, Table.of("side-effects", caption, found.side_effect_table, heads))
    return tables
