"""`circuits demo|report`: what ends in a page."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path

from analysis.cli.answers import Answer
from analysis.cli.circuit_text import circuit_text, validation_text
from analysis.cli.commands.inputs import named_text, opened_run
from analysis.cli.demo import run_demo
from analysis.discovery.find import verdict
from analysis.report import write_report
from analysis.runs.folder import RunFolder


def demo(options: Namespace) -> Answer:
    """Everything at once, into one run folder."""
    start = time.perf_counter()

    def say(step: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {step}", file=sys.stderr)

    circuits, validations = run_demo(options.run_folder, options.seed, options.device, say)
    folder = RunFolder(Path(options.run_folder))
    page = folder.report_page
    verdicts = {
        name: circuit if isinstance(circuit, str) else verdict(circuit)
        for name, circuit in circuits.items()
    }
    proofs = {name: proof.verdict for name, proof in validations.items()}
    negation = circuits["negation"]
    parts = [negation if isinstance(negation, str) else circuit_text(negation)]
    if "negation" in validations:
        parts.append(validation_text(validations["negation"]))
    controls = [
        f"  {name}: {answer}; {proofs.get(name, 'not validated')}"
        for name, answer in verdicts.items()
        if name != "negation"
    ]
    parts += ["\n".join(["The controls' own circuits:", *controls]), f"open {page}"]
    rows = {"run": str(folder), "circuits": verdicts, "proofs": proofs,
            "page": str(page), "seed": options.seed}  # fmt: skip
    return Answer("\n\n".join(parts), rows)


def report(options: Namespace) -> Answer:
    """A run's pages."""
    run = opened_run(options, named_text(options)).checked()
    page = write_report(run, options.out, options.single_file, seed=options.seed)
    steps = run.missing.items()
    text = [f"not made yet: {s} ({c.replace('RUN', options.run_folder)})" for s, c in steps]
    rows = {"page": str(page), "missing": [{"step": s, "command": c} for s, c in steps]}
    return Answer("\n".join([*text, str(page)]), rows)
