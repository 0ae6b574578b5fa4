"""A circuit's page: how it works, its picture, what edits showed, accounts of examples, its form.

What a reader would get wrong: the picture shows pairs that were *chosen*; how much of the contrast
they carry, and what removing them does, stands beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.discovery.find import verdict
from analysis.report.catalogue.catalogue import Catalogue
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.circuit.circuit_tables import Labels, causal, facts, steps, tables_of
from analysis.report.circuit.example_ledgers import accounts
from analysis.report.circuit.form_figures import approximation, projections
from analysis.report.circuit.mechanism import Mechanism, without
from analysis.report.page import Page
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from circuits.graph.circuit import Circuit
from circuits.model.site import Site
from circuits.plotting.circuit_figure import picture
from circuits.plotting.display import shown, two
from circuits.plotting.figure import Figure, eigenvalues, heat_map

_MOST_IN_MATRIX = 60  # features of a heat map

_SHARES = {
    "carried": "of what the MLP adds to the affected classes' margins, by these pairs",
    "computed": "of what the MLP adds over all classes, made in it from two factors",
    "inherited": "the same, already there in what the MLP is given",
    "within": "the same, from spread within the classes",
    "direct": "of the model's own margins that the MLP adds",
    "error": "of the MLP's contrast, through what the dictionary misses",
    "through_outputs": "of the contrast that goes through the output features shown",
    "in_gates": "of the pairs' energy that lies between two groups",
    "energy_of_four": "of the form's energy that four eigenvectors hold",
}


def circuit_page(
    run: Run,
    found: Found,
    name: str,
    text: TextActivations | None,
    story: Mechanism | None,
    books: dict[Site, Catalogue],
    seed: int,
) -> Page:
    """Of one circuit, of a behaviour or proposed."""
    circuit = found.circuit
    labels = Labels(found, books)
    known = circuit.evidence.shares if circuit.evidence is not None else circuit.proposal
    shares = [(k, v) for k, v in (asdict(known) if known else {}).items() if k in _SHARES]
    drawn = _picture(circuit, labels)
    form = None if found.layer is None else CircuitForm.of(run, found)
    made = [] if form is None else _figures(form, text, labels, seed)
    layer = found.layer
    data = {
        "graph": drawn,
        "pairs": _pairs(found, text, books),
        "ledgers": [] if form is None else accounts(form, text, labels),
        "sites": {"input": f"mlp_in@{layer}", "output": f"mlp_out@{layer}"} if form else None,
    }
    tables = tables_of(circuit, labels)
    classes = [] if story is None else [*story.tables(labels), story.asked_table()]
    edits = [] if found.validation is None else causal(found.validation)
    told = {
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "validation": None if found.validation is None else found.validation.verdict,
        "facts": facts(found),
        "steps": [] if story is not None else steps(found, labels),
        "story": None if story is None else _told(story, labels),
        "without": without(found),
        "by_class": classes,
        "shares": [(name.replace("_", " "), two(value), _SHARES[name]) for name, value in shares],
        "n_chosen": None if circuit.evidence is None else circuit.evidence.n_cases,
        "tables": tables,
        "causal": edits,
        "n_text": None if text is None else (text.n_documents, len(text)),
        "is_behaviour": found.behaviour is not None,
        "n_left_out": len(circuit.interactions) - len(drawn["edges"]),
        "command": "circuits validate RUN",
    }
    return Page(name, shown(circuit.name), "circuit.html.j2", told, made,
                [*tables, *edits, *classes], data)  # fmt: skip


def _told(story: Mechanism, labels: Labels) -> dict[str, Any]:
    return {
        "classes": story.classes(),
        "hub": story.hub(labels),
        "towards": story.towards,
        "layer": story.found.layer,
        "pairs": len(story.found.circuit.interactions),
        "n": story.n,
        **story.of_mlp,
    }


def _picture(circuit: Circuit, labels: Labels) -> dict[str, Any]:
    """The picture with every name as it may be seen."""
    drawn = picture(circuit.drawing())
    for node in drawn["nodes"]:
        node |= {"label": shown(node["label"]), "caption": labels.short(node["feature"])}
    for output in drawn["outputs"]:
        output |= {"label": shown(output["label"]), "caption": labels.output(output["feature"])}
    for group in drawn["groups"]:
        group["name"] = shown(group["name"])
    return drawn


def _figures(
    form: CircuitForm, text: TextActivations | None, labels: Labels, seed: int
) -> list[Figure]:
    features = form.features[:_MOST_IN_MATRIX]
    n = len(features)
    group = {f.feature: f.group for f in form.found.circuit.features}
    layer = f"layer {form.layer}"
    chosen = "" if n == len(form.features) else f" (the first {n} of {len(form.features)})"
    made = [
        heat_map(
            form.matrix[:n, :n], [labels.name(f) for f in features],
            features,
            [group[f] for f in features],
            f"Weights among the circuit's {n} features{chosen}, {layer}. They were chosen for "
            f"large entries, so that the matrix looks low-rank says nothing.",
        ),
        eigenvalues(
            form.eigenvalues(seed),
            f"The whole form on the MLP's input, {len(form.spectrum)} eigenvalues. Dotted: mean of "
            f"20 forms of random directions of equal length, seed {seed}.",
        ),
        projections(
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
            name = f"Output feature {output}"
            if caption := labels.output(output):
                name += f", which promotes “{caption}”"
            made.append(approximation(f"approximation-{output}", name, found, note))
    return made


def _pairs(
    found: Found, text: TextActivations | None, books: dict[Site, Catalogue]
) -> list[dict[str, Any]]:
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
