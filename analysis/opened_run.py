"""`open_run`: everything in a run folder, from one line of Python."""

from __future__ import annotations

from pathlib import Path

from analysis.report import write_report
from analysis.runs.alone import alone
from analysis.runs.run import Run
from circuits.arguments import checked
from circuits.corpus.documents import Corpus


class OpenedRun(Run):
    """A `Run` that can write its report."""

    @alone
    def report(
        self,
        out: str | Path | None = None,
        single_file: bool = False,
        *,
        seed: int = 0,
        force: bool = False,
    ) -> Path:
        """Write the report from what is there now, and return its page: see `write_report`."""
        folder, model, dictionaries = self.folder.path, self.model, self.dictionaries
        now = Run(folder, self.text, self.device, model=model, dictionaries=dictionaries)
        return write_report(now, out, single_file, seed=seed, force=force)


@checked
def open_run(
    folder: str | Path, *, text: Corpus | None = None, device: str | None = None
) -> OpenedRun:
    """A run folder: its model, dictionaries, circuits and measurements, each read when asked for.

    >>> run = open_run("runs/demo")  # doctest: +SKIP
    >>> run.circuits["negation"], run.interactions(0), run.strongest(0)  # doctest: +SKIP

    ``text`` is what the report takes its examples from; ``device`` is where the model goes.
    """
    return OpenedRun(folder, text, device)
