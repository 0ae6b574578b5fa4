"""What is in a run folder and what is not made yet, by the names of its files alone: nothing is
loaded."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.runs.folder import CircuitFiles, RunFolder
from analysis.runs.missing import ACROSS, TRACE, missing_steps, not_found, seems_to_know_stories
from circuits.errors import CircuitsError
from circuits.model.site import mlp_sites
from circuits.plotting.display import html_of, shown

_WIDE = 13  # the name of a part


def run_text(folder: RunFolder, marks: Mapping[str, str]) -> str:
    """The parts of a run, the steps that are missing, and what is said of its files."""
    try:
        parts = [f"  {row.part:{_WIDE}} {row.there}" for row in _contents(folder).itertuples()]
        steps = _missing(folder)
    except CircuitsError as error:  # a file under a name that no run gives
        return f"Run({folder}): {error}"
    for step, command in steps.items():
        parts.append(f"  not made yet: {step} ({command.replace('RUN', str(folder))})")
    parts += [f"  {name}: {mark}" for name, mark in marks.items()]
    return "\n".join([f"Run({folder})", *parts])


def run_html(folder: RunFolder) -> str:
    """The same as tables."""
    try:
        tables = {"contents": _contents(folder)}
        if missing := _missing(folder):
            tables["missing"] = pd.DataFrame(missing.items(), columns=["step", "command"])
    except CircuitsError as error:
        return html_of(f"Run({folder}): {error}")
    return html_of(f"Run({folder})", **tables)


def _contents(folder: RunFolder) -> pd.DataFrame:
    circuits, layered = folder.one_layer.there(), folder.across_layers.there()
    listed = {
        "model": [] if folder.model_place is None else [folder.model_place.name],
        "dictionaries": [str(site) for site in folder.sites()],
        "interactions": [f"layer {layer}" for layer in folder.layers(folder.interactions)],
        "circuits": [files.stem for files in circuits],
        "validations": [files.stem for files in circuits if files.validation.exists()],
        "across layers": [_across(files) for files in layered] or [f"none ({ACROSS})"],
        "traces": [file.stem for file in folder.traces()] or [f"none ({TRACE})"],
        "rank": [f"layer {layer}" for layer in folder.layers(folder.rank_summary)],
        "images": [folder.images.name] * folder.image_study.exists(),
        "report": [p.name for p in (folder.report_page, folder.report_file) if p.exists()],
    }
    if not layered and len(_layers(folder)) < 2:
        del listed["across layers"]
    if in_vain := not_found(folder):
        listed["not found"] = [one.name + ", across layers" * one.across for one in in_vain]
    there = [", ".join(map(shown, names)) or "none" for names in listed.values()]
    return pd.DataFrame({"part": list(listed), "there": there})


def _across(files: CircuitFiles) -> str:
    return f"{files.stem} (validated)" if files.validation.exists() else files.stem


def _layers(folder: RunFolder) -> list[int]:
    """Those with dictionaries before and after the MLP."""
    sites = set(folder.sites())
    return [
        site.layer
        for site in sites
        if site.point == "mlp_in" and set(mlp_sites(site.layer)) <= sites
    ]


def _missing(folder: RunFolder) -> dict[str, str]:
    """`missing_steps` as far as they can be seen without loading anything."""
    return missing_steps(folder, _layers(folder), stories=seems_to_know_stories(folder))
