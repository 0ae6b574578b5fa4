"""`circuits demo|report`: what ends in a page."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from analysis.cli.answers import Answer
from analysis.cli.circuit_text import circuit_text, validation_text
from analysis.cli.commands.inputs import named_text
from analysis.cli.demo import Demo, run_demo
from analysis.discovery.find import verdict
from analysis.report import write_report
from analysis.runs.run import Run


def demo(options: Namespace) -> Answer:
    """Everything at once, into one run folder."""
    start = time.perf_counter()

    def say(step: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {step}", file=sys.stderr)

    found = run_demo(options.run_folder, options.seed, options.device, say)
    verdicts = {
        name: circuit if isinstance(circuit, str) else verdict(circuit)
        for name, circuit in found.circuits.items()
    }
    proofs = {name: proof.verdict for name, proof in found.validations.items()}
    rows = {"run": str(found.run), "circuits": verdicts, "proofs": proofs,
            "page": str(found.page), "seed": options.seed}  # fmt: skip
    return Answer(_demo_text(found, verdicts, proofs), rows)


def _demo_text(found: Demo, verdicts: dict[str, str], proofs: dict[str, str]) -> str:
    negation = found.circuits["negation"]
    parts = [negation if isinstance(negation, str) else circuit_text(negation)]
    if "negation" in found.validations:
        parts.append(validation_text(found.validations["negation"]))
    controls = [
        f"  {name}: {answer}; {proofs.get(name, 'nothing to prove')}"
        for name, answer in verdicts.items()
        if name != "negation"
    ]
    parts.append("\n".join(["The controls' own circuits:", *controls]))
    return "\n\n".join([*parts, f"open {found.page}"])


def report(options: Namespace) -> Answer:
    """A run's pages."""
    run = Run(options.run_folder, named_text(options), options.device).checked()
    page = write_report(run, options.out, options.single_file, seed=options.seed)
    missing = [
        f"not made yet: {each.step} ({each.command.replace('RUN', options.run_folder)})"
        for each in run.missing
    ]
    rows = {"page": str(page), "missing": [vars(each) for each in run.missing]}
    return Answer("\n".join([*missing, str(page)]), rows)
