"""The numbers of a report are those that Python computes from the same run.

Each is read from the files of a written report and computed again with the names that a notebook
would use, none of them from `analysis.report`.
"""

import numpy as np
import pandas as pd
import pytest

from analysis import quality, rank_curve, validate
from analysis.behaviour.cases import Behaviour
from circuits import Interactions
from circuits.graph.circuit import Circuit
from circuits.model import Site, load_model
from sae import card, load_dictionaries
from sae.features.examples import examples
from tests.support.reports import page_data

DIGITS = 5e-5  # half of the last of five significant digits


HEADS = {
    "n_pairs": "pairs", "n_cases": "cases",
    "removed": "effect removed", "low": "removed, low", "high": "removed, high",
    "side_effect": "side effect", "faithfulness": "effect kept",
}  # fmt: skip
"""Columns of `Validation.edits` that a page calls by other names."""


@pytest.fixture(scope="module")
def notebook(hostile_run):
    """A model, its dictionaries, and where the run lies."""
    folder, text = hostile_run
    model = load_model(folder / "model", device="cpu")
    return folder, text, model, load_dictionaries(folder, device="cpu")


def table(folder, page: str, kind: str, key: str) -> pd.DataFrame:
    """A figure's data or a table, as its buttons save them."""
    data = page_data(folder / "report", page)[kind][key]["table"]
    return pd.DataFrame(data["rows"], columns=data["columns"])


def alike(reported, computed) -> None:
    """Equal to the digits of the report; what is missing in one is missing in the other."""
    reported, computed = (np.asarray(values, dtype=float) for values in (reported, computed))
    np.testing.assert_allclose(reported, computed, rtol=DIGITS, atol=1e-9)


@pytest.fixture(scope="module")
def proposed(notebook) -> tuple[Circuit, Interactions]:
    """The circuit of output 2, and the interactions that it is a part of."""
    folder, _, model, dictionaries = notebook
    circuit = Circuit.load(folder / "circuits" / "Ünsafe name!.json")
    into, out = (dictionaries[Site(point, 0)].to(model.layer(0).down.double().dtype)
                 for point in ("mlp_in", "mlp_out"))  # fmt: skip
    layer = model.layer(0).to(out.dtype)
    return circuit, Interactions(layer, inputs=into.basis(), outputs=out.basis("encoder"))


def test_the_weights_of_a_circuits_pairs(notebook, proposed):
    circuit, inter = proposed
    matrix = inter.matrix(circuit.outputs[0].feature)
    order = [f.feature for f in sorted(circuit.features, key=lambda f: (f.group, f.feature))]
    weights = 2 * matrix[order][:, order]
    weights.diagonal().div_(2)  # a feature with itself occurs once
    reported = table(notebook[0], "circuit-nsafe-name", "figures", "matrix")["weight"]
    alike(reported, weights.reshape(-1))


def test_the_spectrum_of_its_form(notebook, proposed):
    circuit, inter = proposed
    spectrum = inter.spectrum(circuit.outputs[0].feature, space="model")
    values = spectrum.values.sort(descending=True).values
    reported = table(notebook[0], "circuit-nsafe-name", "figures", "spectrum")
    alike(reported["eigenvalue"], values[reported["place"] - 1])


def test_the_causal_table(notebook):
    folder, text, model, dictionaries = notebook
    circuit = Circuit.load(folder / "circuits" / "hostile.json")
    cases = Behaviour.load(folder / "circuits" / "hostile.behaviour.jsonl")
    proof = validate(model, circuit, cases.halves()[1], dictionaries, text=text, n_draws=2, seed=0)
    reported = table(folder, "circuit-hostile", "tables", "edits")
    for column in proof.edit_table.columns.drop("edit"):
        alike(reported[HEADS.get(column, column)], proof.edit_table[column])
    reported = table(folder, "circuit-hostile", "tables", "criteria")
    alike(reported["value"], proof.criteria_table["value"])
    assert list(reported["met"]) == list(proof.criteria_table["met"])


def test_the_rank_curve(notebook):
    folder, text, model, dictionaries = notebook
    curve = rank_curve(model, dictionaries, 0, text, n_documents=20, min_active=10)
    reported = table(folder, "rank", "figures", "by-rank-layer-0").set_index("rank")
    assert list(reported.index) == list(curve.mean.index)
    for column in curve.mean:
        alike(reported[column], curve.mean[column])


def test_the_features_of_a_dictionary(notebook):
    folder, text, model, dictionaries = notebook
    dictionary = dictionaries[Site("mlp_out", 0)]
    index, cards = (
        page_data(folder / "report", f"features-mlp_out-0{part}") for part in ("", "-0")
    )
    alike(index["frequency"], dictionary.statistics.frequency)
    found = examples(dictionary, model, text, n=8, n_documents=500).table()
    for feature in (2, 7):
        shown = card(dictionary, feature, model)
        assert cards[feature]["histogram"] == shown.statistics.histogram
        alike([effect for _, effect in cards[feature]["up"]],
              shown.effects.query("side == 'top'")["effect"])  # fmt: skip
        values = found.loc[found["feature"] == feature, "value"]
        alike([value for value, *_ in cards[feature]["examples"]], values)


def test_the_quality_of_its_dictionaries(notebook):
    folder, text, model, dictionaries = notebook
    reported = table(folder, "index", "tables", "dictionaries").set_index("site")
    for site, dictionary in dictionaries.items():
        row = quality(dictionary, model, text, n_documents=100).iloc[0]
        alike(reported.loc[str(site), "unexplained"], row["fvu"])
        alike(reported.loc[str(site), "loss recovered"], row["recovered"])
