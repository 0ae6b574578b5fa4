"""The pages of a run's traces: each is the page that `circuits trace` wrote beside its file."""

from __future__ import annotations

from dataclasses import replace

from analysis.attribution.page.trace_page import trace_page
from analysis.html.page import Page, names_of
from analysis.runs.run import Run
from circuits.plotting.display import shown


def trace_pages(run: Run) -> list[Page]:
    """One for each text; its title in the list of pages is the name of its file."""
    names = names_of(run.traces, "trace")
    return [
        replace(trace_page(found.as_dict()), name=names[stem], title=shown(stem))
        for stem, found in run.traces.items()
    ]
