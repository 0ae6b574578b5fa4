"""A circuit's page: how it works, its picture, its causal tests, example ledgers, its form."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.discovery.find import verdict
from analysis.html.page import Page
from analysis.report.catalogue.catalogue import Catalogue
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.circuit.circuit_tables import (
    circuit_tables,
    facts,
    proposal_sentences,
    validation_tables,
)
from analysis.report.circuit.example_ledgers import example_ledgers
from analysis.report.circuit.form_figures import form_figures
from analysis.report.circuit.labels import Labels
from analysis.report.circuit.mechanism import Mechanism, removal_effect
from analysis.runs.belonging import Found
from analysis.runs.missing import command_for
from analysis.runs.run import Run
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_figure import picture
from circuits.model.site import Site
from circuits.plotting.display import shown, two

_SHARES = {
    "carried": "of what the MLP adds to the affected classes' margins: added by these pairs",
    "computed": "of what the MLP adds over all classes: computed in it from two factors",
    "inherited": "of the same: already present in the MLP's input",
    "within": "of the same: from variation within the classes",
    "later": "of the same: made later, as what it writes is read otherwise in each class",
    "direct": "of the model's own margins: added by the MLP directly",
    "error": "of the MLP's contrast: through the dictionary's reconstruction error",
    "through_outputs": "of the contrast: through the output features shown",
    "in_gates": "of the pairs' energy: between two groups",
    "energy_of_four": "of the form's energy: in four eigenvectors",
}

_MEASURES = ("weight", "data_weight", "contrast", "elsewhere", "computed", "inherited", "z", "q",
             "own", "together", "coactivation")  # fmt: skip


def circuit_page(
    run: Run,
    found: Found,
    name: str,
    text: TextActivations | None,
    mechanism: Mechanism | None,
    books: dict[Site, Catalogue],
    seed: int,
) -> Page:
    """The page of one circuit, found for a behaviour or proposed."""
    circuit = found.circuit
    labels = Labels(found, books)
    known = circuit.evidence.shares if circuit.evidence is not None else circuit.proposal
    values = asdict(known) if known else {}
    shares = [(k, v) for k, v in values.items() if k in _SHARES and v is not None]
    drawn = _picture(circuit, labels)
    form = None if found.layer is None else CircuitForm.of(run, found)
    layer = found.layer
    data = {
        "graph": drawn,
        "pairs": _pairs(circuit, text),
        "ledgers": [] if form is None else example_ledgers(form, text, labels),
        "sites": {"input": f"mlp_in@{layer}", "output": f"mlp_out@{layer}"} if form else None,
    }
    figures = [] if form is None else form_figures(form, text, labels, seed)
    tables = circuit_tables(circuit, labels)
    by_class = [] if mechanism is None else mechanism.tables(labels)
    metric = "logit difference" if found.behaviour is None else found.behaviour.metric
    proof = found.validation
    tests = [] if proof is None else validation_tables(proof, labels.name, metric)
    context = {
        "marks": [shown(mark) for mark in found.marks],
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "validation": None if found.validation is None else found.validation.verdict,
        "facts": facts(found, run.model.label),
        "sentences": [] if mechanism is not None else proposal_sentences(found, labels),
        "mechanism": None if mechanism is None else _described(mechanism, labels),
        "removal": removal_effect(found),
        "by_class": by_class,
        "shares": [(key.replace("_", " "), two(value), _SHARES[key]) for key, value in shares],
        "n_chosen": None if circuit.evidence is None else circuit.evidence.n_cases,
        "tables": tables,
        "tests": tests,
        "n_text": None if text is None else (text.n_documents, len(text)),
        "is_behaviour": found.behaviour is not None,
        "classes": _classes(found),
        "n_left_out": len(circuit.interactions) - len(drawn["edges"]),
        "command": command_for("validate", run.knows_stories),
        "find": command_for("find", run.knows_stories),
    }
    return Page(name, shown(circuit.name), "circuit.html.j2", context, figures,
                [*tables, *tests, *by_class], data)  # fmt: skip


def _classes(found: Found) -> tuple[str, str] | None:
    """The affected classes and the others, by name."""
    if found.behaviour is None:
        return None
    affected = found.behaviour.affected
    others = [label for label in found.behaviour.labels if label not in affected]
    return ", ".join(map(shown, affected)), ", ".join(map(shown, others))


def _described(mechanism: Mechanism, labels: Labels) -> dict[str, Any]:
    return {
        "classes": mechanism.classes(),
        "hub": mechanism.hub(labels),
        "bridge": mechanism.bridge(),
        "sides": mechanism.sides,
        "layer": mechanism.found.layer,
        "pairs": len(mechanism.found.circuit.interactions),
        "n": len(mechanism.cases),
        **mechanism.mlp_effect,
    }


def _picture(circuit: Circuit, labels: Labels) -> dict[str, Any]:
    """The picture with every name made visible."""
    drawn = picture(circuit.drawing())
    for node in drawn["nodes"]:
        node |= {"label": shown(node["label"]), "caption": labels.caption(node["feature"]).short}
    for output in drawn["outputs"]:
        caption = labels.output_caption(output["feature"])
        output |= {"label": shown(output["label"]), "caption": caption}
    for group in drawn["groups"]:
        group["name"] = shown(group["name"])
    return drawn


def _pairs(circuit: Circuit, text: TextActivations | None) -> list[dict[str, Any]]:
    """What is known of each pair, and where both features are active."""
    rows = []
    for pair in circuit.interactions:
        known = {name: getattr(pair, name) for name in _MEASURES}
        contexts: list[dict[str, Any]] = []
        if text is not None:
            product, contexts = text.pair(pair.first, pair.second)
            if known["data_weight"] is None:
                known["data_weight"] = pair.weight * product
        here = {"first": pair.first, "second": pair.second}
        rows.append({**here, "known": known, "contexts": contexts})
    return rows
