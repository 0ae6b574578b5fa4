"""`circuits demo|report`: what ends in a page."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from analysis.cli.answers import Told
from analysis.cli.circuit_text import told_circuit, told_validation
from analysis.cli.commands.inputs import named_text
from analysis.cli.demo import Demo, run_demo
from analysis.discovery.find import verdict
from analysis.report import write_report
from analysis.report.collect import collect


def demo(options: Namespace) -> Told:
    """Everything at once, into one run folder."""
    start = time.perf_counter()

    def tell(step: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {step}", file=sys.stderr)

    found = run_demo(options.run_folder, options.seed, options.device, tell)
    told = {
        name: circuit if isinstance(circuit, str) else verdict(circuit)
        for name, circuit in found.circuits.items()
    }
    proofs = {name: proof.verdict for name, proof in found.validations.items()}
    rows = {"run": str(found.run), "circuits": told, "proofs": proofs,
            "page": str(found.page), "seed": options.seed}  # fmt: skip
    return Told(_demo_text(found, told, proofs), rows)


def _demo_text(found: Demo, told: dict[str, str], proofs: dict[str, str]) -> str:
    negation = found.circuits["negation"]
    parts = [negation if isinstance(negation, str) else told_circuit(negation)]
    if "negation" in found.validations:
        parts.append(told_validation(found.validations["negation"]))
    controls = [
        f"  {name}: {answer}; {proofs.get(name, 'nothing to prove')}"
        for name, answer in told.items()
        if name != "negation"
    ]
    parts.append("\n".join(["The controls' own circuits:", *controls]))
    return "\n\n".join([*parts, f"open {found.page}"])


def report(options: Namespace) -> Told:
    """A run's pages."""
    run = collect(options.run_folder, named_text(options), options.device)
    page = write_report(run, options.out, options.single_file, seed=options.seed)
    missing = [
        f"not made yet: {each.step} ({each.command.replace('RUN', options.run_folder)})"
        for each in run.missing
    ]
    rows = {"page": str(page), "missing": [vars(each) for each in run.missing]}
    return Told("\n".join([*missing, str(page)]), rows)
