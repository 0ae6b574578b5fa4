"""The page of features: the searchable list of every dictionary's features, and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.report.catalogue.catalogue import Catalogue
from analysis.report.page import Page
from analysis.runs.run import Run
from circuits.model.site import Site


def features_page(run: Run, books: Mapping[Site, Catalogue]) -> Page:
    """The page; its scripts load the list and the cards when they are needed."""
    dictionaries = [
        {"site": str(site), "key": book.key, "n_feature": book.dictionary.n_feature}
        for site, book in books.items()
    ]
    context: dict[str, Any] = {
        "dictionaries": dictionaries,
        "has_text": run.text is not None,
        "command": "circuits report RUN --text PATH",
    }
    data = {"dictionaries": dictionaries}
    return Page("features", "Features", "features.html.j2", context, data=data)
