"""`circuits demo|report`: what ends in a page."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from analysis.behaviour.cases import Behaviour
from analysis.cli.answers import Answer, aligned
from analysis.cli.circuit_text import circuit_text, validation_text
from analysis.cli.commands.inputs import named_text, opened_run, planned
from analysis.cli.commands.layered import twin_rows, twin_text
from analysis.cli.demo import Proof, Proven, run_demo
from analysis.cli.layered_text import layered_text, layered_validation_text
from analysis.cli.steps import Say
from analysis.cli.whole import run_whole
from analysis.discovery.find import verdict
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.report import write_report
from analysis.runs.folder import RunFolder
from analysis.runs.verification import not_made_here
from analysis.runs.verification import verify as verified
from analysis.validation.layered_record import LayeredValidation
from circuits.errors import RunError, shorten
from circuits.plotting.display import shown
from circuits.storage.manifest import State
from circuits.twin.plan import TwinPlan
from sae.training.plan import TrainingPlan

_NOT_LISTED = (
    "manifest.json does not list it. If it was copied from another run, make it here or remove it; "
    "if a whole run was copied, copy its manifest.json."
)


def demo(options: Namespace) -> Answer:
    """Everything at once, into one run folder."""
    circuits, validations = run_demo(
        options.run_folder, options.seed, options.device, _timed(), two_layers=options.two_layers
    )
    folder = RunFolder(Path(options.run_folder))
    page = folder.report_page
    *controls, subject = circuits
    verdicts = {name: _said(circuit) for name, circuit in circuits.items()}
    proofs = {name: proof.verdict for name, proof in validations.items()}
    parts = [_text(circuits[subject])]
    if subject in validations:
        parts.append(_proof_text(validations[subject]))
    others = {name: f"{verdicts[name]}; {proofs.get(name, 'not validated')}" for name in controls}
    parts += [others_text(others, two_layers=options.two_layers), f"open {page}"]
    rows = {"run": str(folder.path), "circuits": verdicts, "proofs": proofs,
            "page": str(page), "seed": options.seed}  # fmt: skip
    return Answer("\n\n".join(parts), rows)


def _timed() -> Say:
    """Says each step with the seconds since the first."""
    start = time.perf_counter()
    return lambda step: print(f"[{time.perf_counter() - start:4.0f} s] {step}", file=sys.stderr)


def others_text(others: Mapping[str, str], *, two_layers: bool) -> str:
    """The circuits beside the one that is shown; those of one layer are its controls."""
    if not two_layers:
        lines = [f"  {name}: {said}" for name, said in others.items()]
        return "\n".join(["The controls' own circuits:", *lines])
    return "\n".join(
        f"Also found: {name}, {where}"
        if (where := said.removeprefix(f"{name}: found ")) != said
        else f"{name}: {said}"
        for name, said in others.items()
    )


def run(options: Namespace) -> Answer:
    """Every step for a model of one's own."""
    text = named_text(options)
    if text is None:
        raise RunError(
            "no text: name some like the model's own with --text PATH, to train on and to measure "
            "on."
        )
    plan = planned(TrainingPlan, options.plan, n_features=options.features, k=options.k,
                   n_tokens=options.tokens)  # fmt: skip
    whole = run_whole(
        options.run_folder,
        options.model,
        text,
        [Behaviour.load(name) for name in options.behaviour or ()],
        twin=planned(TwinPlan, options.twin_plan),
        dictionaries=plan,
        device=options.device,
        seed=options.seed,
        say=_timed(),
    )
    page = whole.run.folder.report_page
    label = whole.run.model.label
    doubts = [] if label is None else label.doubts
    lines = [*twin_text(whole.run), *(f"note: {doubt}." for doubt in doubts)]
    for name, said in whole.found.items():
        proof = whole.verdicts.get(name)
        lines.append(f"{name}: {said}" if proof is None else f"{name}: {said} {proof}.")
    lines += [f"layer {layer}: {n} circuit{'s' * (n != 1)} proposed from the weights"
              for layer, n in whole.proposed.items()]  # fmt: skip
    rows = {"run": str(whole.run.folder), **twin_rows(whole.run),
            "circuits": dict(whole.found), "proofs": dict(whole.verdicts),
            "proposed": {str(layer): n for layer, n in whole.proposed.items()},
            "page": str(page), "seed": options.seed}  # fmt: skip
    return Answer("\n".join([*lines, "", f"open {page}"]), rows)


def _said(circuit: Proven | str) -> str:
    if isinstance(circuit, LayeredCircuit):
        return layered_sentences(circuit)[0]
    return circuit if isinstance(circuit, str) else verdict(circuit)


def _text(circuit: Proven | str) -> str:
    if isinstance(circuit, LayeredCircuit):
        return layered_text(circuit)
    return circuit if isinstance(circuit, str) else circuit_text(circuit)


def _proof_text(proof: Proof) -> str:
    if isinstance(proof, LayeredValidation):
        return layered_validation_text(proof)
    return validation_text(proof)


def verify(options: Namespace) -> Answer:
    """Whether a run's files are as they were made."""
    table = verified(options.run_folder)
    other = table[table["state"] != str(State.SAME)]
    text = f"{len(table) - len(other)} of {len(table)} files are as they were made"
    if len(other):
        text += f"; the others:\n\n{aligned(other)}"
        if (other["state"] == str(State.UNKNOWN)).any():
            text += f"\n\n{State.UNKNOWN}: {_NOT_LISTED}"
    if own := not_made_here(options.run_folder, table["file"]):
        text += f"\n\nnot made here, and not checked: {shorten(map(shown, own))}"
    rows = {"files": table.to_dict("records"), "same": not len(other), "not_made_here": own}
    return Answer(text, rows, status=int(len(other) > 0))


def report(options: Namespace) -> Answer:
    """A run's pages."""
    run = opened_run(options, named_text(options)).checked()
    how = {"seed": options.seed, "force": options.force}
    page = write_report(run, options.out, options.single_file, **how)
    steps = run.missing.items()
    text = [f"not made yet: {s} ({c.replace('RUN', options.run_folder)})" for s, c in steps]
    rows = {"page": str(page), "missing": [{"step": s, "command": c} for s, c in steps]}
    return Answer("\n".join([*text, str(page)]), rows)
