"""A circuit's page: its picture, its form, an account of examples, and what edits showed.

What a reader would get wrong: the picture shows pairs that were *chosen*; how much of the contrast
they carry, and what removing them does, stands beside it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from analysis.contrast import PairAccount
from analysis.discovery import verdict
from analysis.ledgers import Reader, ledger
from analysis.report import figures
from analysis.report.collect import Found, Run
from analysis.report.contexts import Text
from analysis.report.features import Catalogue
from analysis.report.figures import Figure
from analysis.report.forms import CircuitForm
from analysis.report.layout import picture
from analysis.report.page import Page, Table
from analysis.report.text import shown
from analysis.validation import Validation
from circuits.circuit import Circuit
from circuits.model import Site

_MOST_IN_MATRIX = 60  # features of a heat map
_N_ROWS = 14  # of a ledger that are shown; the others stand as one

_SHARES = {
    "carried": "of what the MLP adds to the affected classes' margins, by these pairs",
    "computed": "of that contrast, made in this MLP from the two factors",
    "inherited": "already there in what the MLP is given",
    "within": "from spread within the classes",
    "direct": "of the model's own margins that the MLP adds",
    "error": "of the MLP's contrast, through what the dictionary misses",
    "through outputs": "of the contrast that goes through the output features shown",
    "gate": "of the pairs' energy that lies between two groups",
    "energy of 4 eigenvectors": "of the form's energy that four eigenvectors hold",
}


def circuit_page(
    run: Run, found: Found, name: str, text: Text | None, books: dict[Site, Catalogue], seed: int
) -> Page:
    """Of one circuit, of a behaviour or proposed."""
    circuit = found.circuit
    captions = _Captions(found, books)
    drawn = picture(circuit)
    for node in drawn["nodes"]:
        node |= {"label": shown(node["label"]), "caption": captions.input(node["feature"])}
    for output in drawn["outputs"]:
        output |= {"label": shown(output["label"]), "caption": captions.output(output["feature"])}
    for group in drawn["groups"]:
        group["name"] = shown(group["name"])
    form = None if found.layer is None else CircuitForm.of(run, found)
    made = [] if form is None else _figures(form, text, captions, seed)
    pairs = _pairs(found, text, books)
    layer = found.layer
    data = {
        "graph": drawn,
        "pairs": pairs,
        "ledgers": [] if form is None else _ledgers(run, form, text),
        "sites": None if layer is None else {"input": f"mlp_in@{layer}", "output": f"mlp_out@{layer}"},
    }
    tables = _tables(circuit, captions)
    causal = [] if found.validation is None else _causal(found.validation)
    told = {
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "validation": None if found.validation is None else found.validation.verdict,
        "facts": _facts(found),
        "steps": _steps(found, captions),
        "shares": [(key, value, _SHARES.get(key, "")) for key, value in circuit.shares.items()],
        "tables": tables,
        "causal": causal,
        "n_text": None if text is None else (text.n_documents, len(text)),
        "is_behaviour": found.behaviour is not None,
        "n_left_out": len(circuit.interactions) - len(drawn["edges"]),
        "command": "circuits validate RUN",
    }
    return Page(name, shown(circuit.name), "circuit.html.j2", told, made, [*tables, *causal], data)


class _Captions:
    """What features are called on a page."""

    def __init__(self, found: Found, books: dict[Site, Catalogue]) -> None:
        layer = found.layer
        self._labels = {f.feature: shown(f.label) for f in found.circuit.features}
        self._into = None if layer is None else books.get(Site("mlp_in", layer))
        self._out = None if layer is None else books.get(Site("mlp_out", layer))

    def input(self, feature: int) -> str:
        """The tokens that an input feature is strongest on."""
        return "" if self._into is None else self._into.caption(feature)

    def output(self, feature: int) -> str:
        """The tokens that an output feature promotes, or that it is strongest on."""
        if self._out is None or feature >= len(self._out.cards):
            return ""
        promoted = [token for token, _ in self._out.cards[feature]["up"][:2]]
        return " ".join(promoted) or self._out.caption(feature)

    def label(self, feature: int) -> str:
        """Label and caption of an input feature."""
        caption = self.input(feature)
        return self._labels.get(feature, f"feature {feature}") + (f" “{caption}”" if caption else "")


def _figures(form: CircuitForm, text: Text | None, captions: _Captions, seed: int) -> list[Figure]:
    features = form.features[:_MOST_IN_MATRIX]
    n = len(features)
    group = {f.feature: f.group for f in form.found.circuit.features}
    layer = f"layer {form.layer}"
    chosen = "" if n == len(form.features) else f" (the first {n} of {len(form.features)})"
    made = [
        figures.heat_map(
            form.matrix[:n, :n], [captions.label(f) for f in features],
            [group[f] for f in features],
            f"Weights among the circuit's {n} features{chosen}, {layer}. They were chosen for large "
            f"entries, so that the matrix looks low-rank says nothing.",
        ),
        figures.eigenvalues(
            form.eigenvalues(seed),
            f"The whole form on the MLP's input, {len(form.spectrum)} eigenvalues. Dotted: mean of "
            f"20 forms of random directions of equal length, seed {seed}.",
        ),
        figures.projections(
            form.projections(),
            f"Cosines in the space of the MLP's input: n = {n} features of the circuit, up to 40 "
            f"that interact most beside them. An eigenvector's sign means nothing; it is turned to "
            f"where the circuit's features point.",
        ),
    ]  # fmt: skip
    for output in form.outputs_shown() if text is not None else []:
        assert text is not None
        found = form.approximations(text, output, seed)
        if found is not None:
            note = (
                f"n = {found['n']:,} tokens of {text.n_documents} documents on which it is active, "
                f"{len(found['points'])} drawn; nothing is refitted. Control: the same eigenvalues "
                f"along random directions, seed {seed}."
            )
            name = f"output feature {output}"
            if caption := captions.output(output):
                name += f" “{caption}”"
            made.append(figures.approximation(f"approximation-{output}", name, found, note))
    return made


def _pairs(found: Found, text: Text | None, books: dict[Site, Catalogue]) -> list[dict[str, Any]]:
    """What is known of each pair, and where both fire."""
    circuit = found.circuit
    ends = [(pair.first, pair.second) for pair in circuit.interactions]
    contexts, added = {}, {}
    if text is not None and found.layer is not None:
        constant = books[Site("mlp_in", found.layer)].dictionary.n_feature
        contexts = text.pairs(ends, constant)
        added = text.coactivation(ends, constant)
    rows = []
    for pair in circuit.interactions:
        here = (pair.first, pair.second)
        known = {name: getattr(pair, name) for name in _MEASURES}
        if known["data_weight"] is None and here in added:
            known["data_weight"] = pair.weight * added[here]
        rows.append({"first": here[0], "second": here[1], "known": known,
                     "contexts": contexts.get(here, [])})  # fmt: skip
    return rows


_MEASURES = ("weight", "data_weight", "contrast", "elsewhere", "computed", "inherited", "z", "q",
             "own", "together", "coactivation")  # fmt: skip


def _ledgers(run: Run, form: CircuitForm, text: Text | None) -> list[dict[str, Any]]:
    """Accounts of example tokens, each adding up to what the model computed."""
    model, layer, into = run.model, form.layer, form.into
    examples: list[tuple[str, Reader, torch.Tensor, int]] = []
    if form.asked is not None:
        asked, behaviour = form.asked, form.asked.behaviour
        reads = PairAccount.of(asked, layer, into).reads * asked.side[:, None]
        for place, label in enumerate(behaviour.labels):
            case = int((asked.label == place).nonzero()[0, 0])
            right, wrong = behaviour.cases[case].right[0], behaviour.cases[case].wrong[0]
            what = f"logit of “{right}” and its like over “{wrong}” and its like"
            reader = Reader(reads[case].to(model.device), name=what)
            tokens = asked.tokens[case]
            examples.append((label, reader, tokens, int(asked.position[case])))
    elif text is not None:
        output = form.found.circuit.outputs[0].feature
        tokens, values = text.active(output)
        if len(tokens):
            row, place = text.row(int(tokens[values.argmax()]))
            reader = Reader.of(form.out.to(model.device), output)
            examples.append((f"strongest token of output {output}", reader, row, place))
    return [_ledger(run, form, *example) for example in examples]


def _ledger(
    run: Run, form: CircuitForm, label: str, reader: Reader, tokens: torch.Tensor, place: int
) -> dict[str, Any]:
    model = run.model
    kept = tokens[: place + 1]  # nothing that comes later matters to a token
    account = ledger(model, form.layer, form.into.to(model.device), reader, kept, place)
    own = {frozenset((p.first, p.second)) for p in form.found.circuit.interactions}
    constant = form.into.n_feature
    rows = account.rows.copy()

    def ends(row: Any) -> frozenset[int]:
        one, other = int(row.first), int(row.second)
        return frozenset((one, constant if other < 0 and row.kind == "linear" else other))

    rows["in circuit"] = [
        row.kind in ("pair", "square", "linear") and ends(row) in own for row in rows.itertuples()
    ]
    words = model.words("a ledger").convert_ids_to_tokens(kept[1:].tolist())
    return {
        "label": shown(label),
        "reads": shown(reader.name),
        "tokens": [shown(word) for word in words],
        "place": len(words) - 1,
        "computed": account.computed,
        "total": account.total,
        "off_by": account.off_by,
        "by_circuit": float(rows.loc[rows["in circuit"], "value"].sum()),
        "shown": _N_ROWS,
        "rows": rows,
    }


def _facts(found: Found) -> list[tuple[str, str]]:
    circuit = found.circuit
    told = [
        ("layer", str(circuit.source.get("layer", "not said"))),
        ("pairs", str(len(circuit.interactions))),
        ("input features", str(len(circuit.features))),
        ("groups", str(len({f.group for f in circuit.features if f.group >= 0}))),
        ("gates", ", ".join(g.gate for g in circuit.gates) or "none"),
    ]
    if found.behaviour is not None:
        told.append(("cases chosen on", str(circuit.source.get("cases", "not said"))))
        told.append(("classes", ", ".join(found.behaviour.labels)))
    if found.validation is not None:
        told.append(("cases validated on", str(found.validation.n)))
        told.append(("seed", str(found.validation.seed)))
    if circuit.explained is not None:
        told.append(("share of the form explained", f"{circuit.explained:.2f}"))
    return [(key, shown(value)) for key, value in told]


def _steps(found: Found, captions: _Captions) -> list[str]:
    """The circuit in words: what each gate joins, and what it adds."""
    circuit = found.circuit
    told = []
    for gate in circuit.gates:
        sides = [_side(circuit, captions, group) for group in (gate.first, gate.second)]
        within = gate.first == gate.second
        joined = f"{sides[0]} among themselves" if within else f"{sides[0]} together with {sides[1]}"
        if gate.contrast is not None:
            what = f"{gate.contrast:+.2f} logits to the margins of {circuit.source.get('affected')}"
        else:
            what = f"{gate.share:.0%} of these pairs' energy, weight {gate.weight:+.3g}"
        told.append(shown_whole(f"{gate.gate}: {joined}: {what}."))
    return told


def shown_whole(sentence: str) -> str:
    """A sentence whose parts may be long: every word of it as it may be seen."""
    return " ".join(shown(word) for word in sentence.split(" "))


def _side(circuit: Circuit, captions: _Captions, group: int) -> str:
    name = circuit.groups.get(str(group), f"group {group}")
    numbers = [f.feature for f in circuit.features if f.group == group]
    listed = ", ".join(str(n) for n in numbers[:4]) + (", …" if len(numbers) > 4 else "")
    return f"“{name}” ({len(numbers)} features: {listed})"


def _tables(circuit: Circuit, captions: _Captions) -> list[Table]:
    tables = circuit.tables()
    pairs = tables["interactions"].dropna(axis=1, how="all")
    for end in ("first", "second"):
        pairs[end] = [captions.label(f) for f in pairs[end]]
    listed = tables["features"].dropna(axis=1, how="all")
    listed["label"] = [captions.label(f) for f in tables["features"]["feature"]]
    outputs = tables["outputs"].dropna(axis=1, how="all")
    outputs["label"] = [
        f"{label} “{captions.output(f)}”" if captions.output(f) else label
        for label, f in zip(outputs["label"], outputs["feature"], strict=True)
    ]
    n = circuit.source.get("cases")
    measured = "" if n is None else f" Contrast, elsewhere: logits, n = {n} cases."
    factors = str(circuit.source.get("factors", "")).split(", ")
    effects = dict(zip(("first_effect", "second_effect"), (f"effect of {f}" for f in factors),
                       strict=False))  # fmt: skip
    found = [
        Table.of("pairs", f"Pairs of input features.{measured} z, q: against rotated features.", pairs),
        Table.of("inputs", "Input features.", listed,
                 effects | {"joint_effect": "effect of both", "mean": "mean over the classes"}),
        Table.of("outputs", "Output features. Effect: on the answers' logit difference for each "
                 "unit; share: of the contrast.", outputs),
    ]  # fmt: skip
    if circuit.gates:
        gates = tables["gates"].dropna(axis=1, how="all")
        for end in ("first", "second"):
            gates[end] = [circuit.groups.get(str(g), f"group {g}") for g in gates[end]]
        found.insert(0, Table.of("gates", "Gates between groups.", gates))
    if circuit.detectors:
        told = tables["detectors"].assign(
            features=[", ".join(map(str, d.features)) for d in circuit.detectors],
            cuts=[", ".join(f"{cut:.2f}" for cut in d.cuts) for d in circuit.detectors],
        )
        caption = "Output features that tell a class, on cases that nothing was chosen on."
        found.append(Table.of("detectors", caption, told, {"label": "class", "f1": "F1"}))
    return found


def _causal(found: Validation) -> list[Table]:
    n = f"n = {found.n} cases, seed {found.seed}"
    random = found.random.groupby("kind", sort=False).agg(
        draws=("taken", "size"), size=("size", "mean"),
        **{"median |taken|": ("taken", lambda t: t.abs().median())},
        **{"largest |taken|": ("taken", lambda t: t.abs().max())},
        moved=("moved", "max"),
    ).reset_index()  # fmt: skip
    tables = [
        Table.of("criteria", f"What was asked for, before it was measured; {n}.", found.criteria),
        Table.of("edits", "Edits of the running model, controls last. contrast: mean margin of the "
                 "affected classes, in logits; taken: the share of it that the edit removes (low to "
                 "high: 95 % of bootstrap draws); moved: largest relative change of another class; "
                 f"{n}.", found.edits),
        Table.of("random", "Control: pairs that are active together, drawn at random in place of "
                 f"the circuit's. size: how much they write, relative to the circuit; {n}.", random),
        Table.of("parts", "What keeping only the circuit loses without each pair.", found.parts),
        Table.of("checks", "Each pair by a real intervention: the change of each output feature "
                 "that its weight predicts, and a second difference of the running MLP.",
                 found.checks),
    ]  # fmt: skip
    if len(found.side_effects):
        caption = "On text where no answer is due: loss and KL, nats a token."
        tables.insert(3, Table.of("side-effects", caption, found.side_effects))
    return tables
