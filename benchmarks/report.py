"""What a large report costs: 4096 features at three sites, 50 circuits; to write, to keep, to open.

The model and dictionaries are trained as `circuits demo` trains its own, only wider. There is one
negation circuit, found and validated; the other 49 are the same under other names, so that each
page is as long as a real one. A page is *interactive* when its scripts have filled it: a circuit
when it can be clicked, the list of features when its rows are there. Each is opened in a fresh
context of headless Chromium, from disk; times are of the wall, from the address to that moment.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from analysis.behaviour.built_in import built_in_behaviour
from analysis.discovery.find import find_circuit
from analysis.report import write_report
from analysis.validation.validate import validate
from benchmarks.measure import machine, table
from circuits.corpus import built_in
from circuits.model import ModelPlan, load_model, train_model
from sae import TrainingPlan, load_dictionaries, train_saes

N_FEATURES, K, N_CIRCUITS = 4096, 32, 50
N_TIMES = 5
CHROMIUM = Path("/usr/bin/chromium")
SECONDS, MEGABYTES = 3.0, 40.0

_READY = {"features": "[data-open]"}  # what a page has when it is interactive, if not this:
_PAGE = "main[data-ready]"


def large_run(folder: Path, device: str) -> None:
    """Everything but ranks and interactions, which pages do not open slower for."""
    train_model(ModelPlan(), built_in(0), folder / "model", device=device)
    model = load_model(folder / "model", device=device)
    plan = TrainingPlan(n_features=N_FEATURES, k=K)
    train_saes(model, built_in(0), plan, folder / "saes", device=device)
    dictionaries = load_dictionaries(folder, device=device)
    behaviour = built_in_behaviour("negation", model)
    circuit = find_circuit(model, dictionaries, behaviour)
    proof = validate(model, circuit, behaviour.halves()[1], dictionaries)
    circuits = folder / "circuits"
    for number in range(N_CIRCUITS):
        name = f"negation-{number:02d}"
        replace(circuit, name=name).save(circuits / f"{name}.json")
        behaviour.save(circuits / f"{name}.behaviour.jsonl")
        replace(proof, circuit=name).save(circuits / f"{name}.validation.json")


def seconds_to_open(browser: Any, address: str, ready: str) -> list[float]:
    """Of several times, each in a context that has nothing kept."""
    found = []
    for _ in range(N_TIMES):
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        start = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(ready)
        found.append(time.perf_counter() - start)
        context.close()
    return found


def opened(report: Path, single: Path) -> list[tuple[str, ...]]:
    """A row a page, of the folder and of the one file."""
    from playwright.sync_api import sync_playwright

    names = ("index", "circuit-negation-00", "features", "layer-0")
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        for name in names:
            for where, address in (
                ("folder", (report / f"{name}.html").as_uri()),
                ("one file", f"{single.as_uri()}#/{name}"),
            ):
                ready = _READY.get(name, f"{_PAGE}[data-page={name}]")
                found = seconds_to_open(browser, address, ready)
                rows.append((f"{name} interactive, {where}", str(N_TIMES),
                             f"{median(found):.2f} s, at most {max(found):.2f} s",
                             f"< {SECONDS:.0f} s"))  # fmt: skip
        browser.close()
    return rows


def run(device: str) -> str:
    """The table; about three minutes on two cores."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        large_run(folder, device)
        taken = []
        for _ in range(2):  # the second finds the layer's statistics there
            start = time.perf_counter()
            page = write_report(folder, device=device)
            taken.append(time.perf_counter() - start)
        single = write_report(folder, single_file=True, device=device)
        sizes = [
            sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file()) / 1e6,
            single.stat().st_size / 1e6,
        ]
        rows = [
            ("written", "1", f"{taken[0]:.0f} s", ""),
            ("written again", "1", f"{taken[1]:.0f} s", ""),
            *(
                (f"size, {where}", "1", f"{size:.1f} MB", f"< {MEGABYTES:.0f} MB")
                for where, size in zip(("folder", "one file"), sizes, strict=True)
            ),
        ]
        rows += (
            opened(page.parent, single)
            if CHROMIUM.exists()
            else [("no Chromium to open it", "", "", "")]
        )
    head = (
        f"A report of {N_FEATURES} features at three sites (k = {K}) and {N_CIRCUITS} circuits, "
        f"seed 0. {machine()}."
    )
    return f"{head}\n\n{table(rows, ('what', 'n', 'figure', 'wanted'))}"
