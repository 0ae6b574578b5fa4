"""The page of the image case study: eigenvectors as pictures, and the study's results.

Blue and red are the two signs within an eigenvector, not for and against a class: that is the sign
of its eigenvalue, and the picture has a column for each.
"""

from __future__ import annotations

import base64
from typing import Any

import pandas as pd

from analysis.html.page import Page, Table
from analysis.runs.images import ImageStudy
from circuits.plotting.figure import BLUE, GREY, ORANGE, Figure, axes, line, points

_CONTROLS = {
    "accuracy": "accuracy_without_decay",
    "effective_rank": "effective_rank_without_decay",
    "hosvd_top20_drop": "random_top20_drop",
    "hosvd_top50_drop": "random_top50_drop",
    "pinv_loss_recovered": "random_loss_recovered",
    "mask_fooled": "mask_fooled_control",
}
_FIRST = 20  # eigenvalues of each class that are drawn


def images_page(study: ImageStudy) -> Page:
    """The page of the study."""
    about = study.about
    note = (
        f"{about['data']}: {about['n_train']:,} images to train on, n = {about['n_test']:,} to "
        f"test on, seed {about['seed']}."
    )
    made = [_explanation(study, note), _truncation(study, note), _spectra(study, note)]
    context = {
        "note": note,
        "label": about["label"],
        "classes": [str(label) for label in sorted(study.tables["spectra"]["class"].unique())],
        "pictures": {
            name: f"data:image/png;base64,{base64.b64encode(content).decode()}"
            for name, content in study.pictures.items()
        },
        "table": _figures(study, note),
    }
    return Page("images", "Images", "images.html.j2", context, made, [context["table"]])


def _figures(study: ImageStudy, note: str) -> Table:
    rows = [
        (name.replace("_", " "), value, study.measurements.get(_CONTROLS.get(name, "")),
         _CONTROLS.get(name, "").replace("_", " "))
        for name, value in study.measurements.items()
        if name not in _CONTROLS.values() and isinstance(value, int | float)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["measure", "value", "control", "control is"])
    return Table.of("figures", f"Shares: 0.01 is one in a hundred images. {note}", table)


def _truncation(study: ImageStudy, note: str) -> Figure:
    table = study.tables["truncation"]
    full = float(table["accuracy"].iloc[0] + table["lost"].iloc[0])
    traces = [
        line(table["rank"], [full] * len(table), "all eigenvectors", line={"color": GREY}),
        line(table["rank"], table["accuracy"], "first eigenvectors", line={"color": BLUE}),
    ]
    layout = axes("eigenvectors of each class", "accuracy", xaxis={"type": "log"})
    return Figure("truncation", "Accuracy by eigenvectors kept", note, traces, table, layout)


def _spectra(study: ImageStudy, note: str) -> Figure:
    table = study.tables["spectra"]
    first = table[table["rank"] < _FIRST]
    traces = [
        line(rows["rank"], rows["value"], f"class {label}")
        for label, rows in first.groupby("class")
    ]
    title = f"First {_FIRST} eigenvalues of each class"
    layout = axes("eigenvector, by |value|", "eigenvalue")
    return Figure("spectra", title, note, traces, first, layout)


def _explanation(study: ImageStudy, note: str) -> Figure:
    table = study.tables["explanation"]
    kinds: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
        "for": (table[table["adds"] > 0], {"type": "bar", "marker": {"color": BLUE}}),
        "against": (table[table["adds"] < 0], {"type": "bar", "marker": {"color": ORANGE}}),
        "logit": (table, {"marker": {"color": GREY, "size": 10}}),
    }
    traces = []
    for kind, (rows, style) in kinds.items():
        sums = rows.groupby("class")["adds"].sum()
        traces.append(points(sums.index, sums, kind, **style))
    layout = axes("class", "logit", barmode="relative", xaxis={"dtick": 1})
    title = f"The first test image, a {study.about['label']}: what its eigenvectors add"
    note = f"The sums are exactly the logits. {note}"
    return Figure("explanation", title, note, traces, table, layout)
