"""A run as pages that open from disk, with no network: circuits, features, ranks, layers.

Nothing here finds or proves anything: every number is read from the run's files or computed from
its model, and the same run gives the same bytes. Pages are values, which `writing` makes files of.
"""

from __future__ import annotations

from pathlib import Path

import torch

from analysis.html.page import names_of
from analysis.html.target import check_target
from analysis.html.writing import Report
from analysis.report.catalogue.catalogue import catalogues, features_page
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_page import circuit_page
from analysis.report.circuit.mechanism import Mechanism
from analysis.report.pages.images import images_page
from analysis.report.pages.layer import LayerTable, layer_page
from analysis.report.pages.layered import layered_page
from analysis.report.pages.low_rank import low_rank_page
from analysis.report.pages.overview import overview
from analysis.report.pages.traces import trace_pages
from analysis.runs.alone import alone
from analysis.runs.run import Run
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.storage.progress import progress

__all__ = ["report_of", "write_report"]


@checked
def write_report(
    run: str | Path | Run,
    out: str | Path | None = None,
    single_file: bool = False,
    *,
    text: Corpus | None = None,
    device: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Write a run's report and return the page to open: ``RUN/report/index.html``, or with
    ``single_file`` the one file ``RUN/report.html``.

    ``run`` is its folder, or a `Run`; ``text`` is where examples are taken from,
    by default the built-in stories that training left out; ``seed`` is of the controls.
    Only a report that is still as it was written is replaced, and other files beside its own are
    kept; ``force`` overwrites.
    """
    run = run if isinstance(run, Run) else Run(run, text, device)
    return _write_report(run, None if out is None else Path(out), single_file, seed, force)


@alone
@torch.no_grad()
def _write_report(run: Run, out: Path | None, single_file: bool, seed: int, force: bool) -> Path:
    target = run.folder.report_file if single_file else run.folder.report
    target = target if out is None else out
    check_target(target, single_file, force)
    report = report_of(run.checked(), seed)
    write = report.write_file if single_file else report.write_folder
    return write(target, force)


def report_of(run: Run, seed: int = 0) -> Report:
    """All pages of a run."""
    names = names_of(found.stem for found in run.found)
    layered = names_of((found.stem for found in run.layered_found), "layered")
    books = catalogues(run, names, layered)
    traces = trace_pages(run)
    read = {
        layer: TextActivations.read(run.model, layer, run.dictionaries, run.text)
        for layer in run.layers
        if run.text is not None
    }
    mechanisms = {
        found.stem: Mechanism.of(run, found)
        for found in run.found
        if found.behaviour is not None and found.layer is not None
    }
    made = [overview(run, names, layered, traces, mechanisms, seed)]
    for found in progress(run.found, "circuits", "page"):
        text = None if found.layer is None else read.get(found.layer)
        mechanism = mechanisms.get(found.stem)
        made.append(circuit_page(run, found, names[found.stem], text, mechanism, books, seed))
    made += [layered_page(one, layered[one.stem], books) for one in run.layered_found]
    made += [*traces, low_rank_page(run), features_page(run, books)]
    made += [layer_page(run, LayerTable.of(run, layer, seed), books) for layer in run.layers]
    made += [images_page(study) for study in [run.images] if study is not None]
    data = {key: part for book in books.values() for key, part in book.data().items()}
    return Report("Bilinear circuits", made, data)
