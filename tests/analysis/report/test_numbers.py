"""Whoever opens the same run in Python finds the numbers that its report gives away.

Each is taken from the files of a written report, and computed anew with the public names that a
notebook would use: nothing of `analysis.report` is asked.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest

from analysis import quality, rank_curve, validate
from analysis.behaviour.cases import Behaviour
from circuits import Basis, Interactions
from circuits.algebra.spectrum import Spectrum
from circuits.graph.circuit import Circuit
from circuits.model import Site, load_model
from sae import card, load_dictionaries
from sae.features.examples import examples

DIGITS = 5e-5  # half of the last of five significant digits, which are given away


@pytest.fixture(scope="module")
def notebook(hostile_run):
    """A model, its dictionaries, and where the run lies."""
    folder, text = hostile_run
    model = load_model(folder / "model", device="cpu")
    return folder, text, model, load_dictionaries(folder, device="cpu")


def given(folder, key: str):
    """What a page gives its reader."""
    written = (folder / "report" / "data" / f"{key}.js").read_text(encoding="ascii")
    return json.loads(re.fullmatch(r"Report\.put\(\".*?\",(.*)\)\n", written, flags=re.S)[1])


def table(folder, page: str, kind: str, key: str) -> pd.DataFrame:
    """A figure's data or a table, as its buttons save them."""
    told = given(folder, page)[kind][key]["table"]
    return pd.DataFrame(told["rows"], columns=told["columns"])


def alike(told, computed) -> None:
    """Equal but for the digits that were left out; what is not known is not known in both."""
    told, computed = (np.asarray(values, dtype=float) for values in (told, computed))
    np.testing.assert_allclose(told, computed, rtol=DIGITS, atol=1e-9)


@pytest.fixture(scope="module")
def proposed(notebook) -> tuple[Circuit, Interactions]:
    """The circuit of output 2, and the interactions that it is a part of."""
    folder, _, model, dictionaries = notebook
    circuit = Circuit.load(folder / "circuits" / "Ünsafe name!.json")
    into, out = (dictionaries[Site(point, 0)].to(model.layer(0).down.double().dtype)
                 for point in ("mlp_in", "mlp_out"))  # fmt: skip
    layer = model.layer(0).to(out.dtype)
    features, outputs = into.basis(), out.basis("encoder")
    assert isinstance(features, Basis)
    return circuit, Interactions(layer, inputs=features, outputs=outputs)


def test_the_weights_of_a_circuits_pairs(notebook, proposed):
    circuit, inter = proposed
    matrix = inter.matrix(circuit.outputs[0].feature)
    order = [f.feature for f in sorted(circuit.features, key=lambda f: (f.group, f.feature))]
    weights = 2 * matrix[order][:, order]
    weights.diagonal().div_(2)  # a feature meets itself once
    told = table(notebook[0], "circuit-nsafe-name", "figures", "matrix")["weight"]
    alike(told, weights.reshape(-1))


def test_the_spectrum_of_its_form(notebook, proposed):
    circuit, inter = proposed
    spectrum = inter.spectrum(circuit.outputs[0].feature, space="model")
    assert isinstance(spectrum, Spectrum)
    values = spectrum.values.sort(descending=True).values
    told = table(notebook[0], "circuit-nsafe-name", "figures", "spectrum")
    alike(told["eigenvalue"], values[told["place"] - 1])


def test_the_causal_table(notebook):
    folder, text, model, dictionaries = notebook
    circuit = Circuit.load(folder / "circuits" / "hostile.json")
    cases = Behaviour.load(folder / "circuits" / "hostile.behaviour.jsonl")
    proof = validate(model, circuit, cases.halves()[1], dictionaries, text=text, n_draws=2, seed=0)
    told = table(folder, "circuit-hostile", "tables", "edits")
    for column in proof.edit_table.columns.drop("edit"):
        alike(told[column], proof.edit_table[column])
    told = table(folder, "circuit-hostile", "tables", "criteria")
    alike(told["value"], proof.criteria_table["value"])
    assert list(told["met"]) == list(proof.criteria_table["met"])


def test_the_rank_curve(notebook):
    folder, text, model, dictionaries = notebook
    curve = rank_curve(model, dictionaries, 0, text, n_documents=20, min_active=10)
    told = table(folder, "rank", "figures", "by-rank-layer-0").set_index("rank")
    assert list(told.index) == list(curve.mean.index)
    for column in curve.mean:
        alike(told[column], curve.mean[column])


def test_the_features_of_a_dictionary(notebook):
    folder, text, model, dictionaries = notebook
    dictionary = dictionaries[Site("mlp_out", 0)]
    index, cards = (given(folder, f"features-mlp_out-0{part}") for part in ("", "-0"))
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
    told = table(folder, "index", "tables", "dictionaries").set_index("site")
    for site, dictionary in dictionaries.items():
        row = quality(dictionary, model, text, n_documents=100).iloc[0]
        alike(told.loc[str(site), "unexplained"], row["fvu"])
        alike(told.loc[str(site), "loss recovered"], row["recovered"])
