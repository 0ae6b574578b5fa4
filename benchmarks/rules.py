"""Rules that a polynomial transformer learned, read from its weights and removed one by one.

A folder holds the model (config.json, model.safetensors), the rules it was trained on (rules.json)
and text that follows them (sequences.npz). Found from the weights alone: how well the order of all
(place, adjective, connective) candidates separates the true skip rules, each subject's most
probable verb, the heads of induction. Proven on the text: how often the first answer is right
without the few paths found, beside controls of the same size.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pandas as pd

from analysis.studies import rules
from benchmarks.measure import cell, machine, table
from circuits.model import load_model


def run(folder: str | None = None, as_json: bool = False) -> str:
    """The tables, or the main numbers as one JSON object; takes about ten seconds."""
    with tempfile.TemporaryDirectory() as made:
        where = Path(folder) if folder else rules.write_example(Path(made) / "example")
        model = load_model(where, device="cpu")
        known = rules.load_known_rules(where, model.n_token)
        start = time.perf_counter()
        study = rules.study_rules(model, known)
        seconds = time.perf_counter() - start
    if as_json:
        return json.dumps(study.measurements() | {"seconds": round(seconds, 1)})
    head = f"{machine()}. {model.n_layer} layers, {len(known.tokens)} rows, {seconds:.1f} s."
    numbers = [(name, cell(value)) for name, value in study.measurements().items()
               if isinstance(value, int | float)]  # fmt: skip
    shown = [study.paths, study.skip]
    if (found := study.induction) is not None:
        shown += [found.back, found.match, found.copied, study.induction_removed]
    return "\n\n".join([head, table(numbers, ("measured", "value")), *map(_table, shown)])


def _table(of: pd.DataFrame) -> str:
    cells = [
        tuple(cell(x) if isinstance(x, float | int) else str(x) for x in row)
        for row in of.itertuples(index=False)
    ]
    return table(cells, tuple(map(str, of.columns)))
