"""A circuit's own pairs against its outputs: what a plain loop over tokens measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import circuit_rank
from analysis.lowrank.circuit_rank import random_pairs
from circuits import Interactions
from circuits.errors import GraphError
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Interaction, Output, Source
from circuits.model import Site, load_model
from sae.reading import readings
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_corpus, small_folder

INTO, OUT = Site("mlp_in", 1), Site("mlp_out", 1)
PAIRS = ((0, 3), (2, 2), (4, 7), (1, 5))


@pytest.fixture(scope="module", params=["plain", "biases"])
def small(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    model = load_model(small_folder(folder, mlp_bias=request.param == "biases"), device="cpu")
    dictionaries = {
        site: small_dictionary(seed=10 * seed, k=24, site=site)
        for seed, site in enumerate((INTO, OUT))
    }
    pairs = (*PAIRS, (6, dictionaries[INTO].n_feature))  # and one with the constant
    used = sorted({feature for pair in pairs for feature in pair})
    hashes = (dictionaries[site].fingerprint for site in (INTO, OUT))
    source = Source(model.fingerprint, 1, *hashes)
    circuit = Circuit(
        "by hand",
        tuple(Output(feature, str(feature)) for feature in (0, 2, 5)),
        tuple(Feature(feature, str(feature)) for feature in used),
        tuple(Interaction(first, second, 1.0) for first, second in pairs),
        source=source,
        energy=0.5,
    )
    return model, dictionaries, circuit


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("texts"), longest=20, ragged=False)


@pytest.mark.parametrize("reader", ["pinv", "encoder"])
def test_the_pairs_correlate_as_in_a_plain_loop(small, corpus, reader):
    model, dictionaries, circuit = small
    into, out = dictionaries[INTO], dictionaries[OUT]
    table = circuit_rank(model, circuit, dictionaries, corpus, reader=reader, min_active=1)
    outputs = out.basis(reader, least_squares=reader == "pinv")
    inter = Interactions(model.layer(1), into.basis(), outputs)
    a, sums = [], []
    for reading in readings(model, corpus, [INTO, OUT]):
        z = into.encode(reading.activations[INTO])
        z = torch.cat([z, torch.ones(len(z), 1)], dim=1)
        a.append(out.encode(reading.activations[OUT]))
        sums.append(torch.stack([_sum(inter.matrix(o), z, circuit) for o in range(6)], dim=1))
    a, sums = torch.cat(a).numpy(), torch.cat(sums).numpy()
    whole = table[(table["form"] == "circuit") & (table["rank"] == 0)]
    assert list(whole["output"]) == [0, 2, 5]
    for row in whole.itertuples():
        on = a[:, row.output] != 0
        assert row.n_active == on.sum()
        wanted = np.corrcoef(a[on, row.output], sums[on, row.output])[0, 1]
        assert row.correlation == pytest.approx(wanted, abs=1e-5)
        assert row.low <= row.correlation <= row.high


def _sum(matrix, z, circuit):
    total = torch.zeros(len(z))
    for pair in circuit.interactions:
        i, j = pair.first, pair.second
        total += (1 if i == j else 2) * matrix[i, j] * z[:, i] * z[:, j]
    return total


def test_random_pairs_and_the_whole_layer_are_controls(small, corpus):
    model, dictionaries, circuit = small
    table = circuit_rank(model, circuit, dictionaries, corpus, reader="encoder", min_active=1)
    assert set(table["form"]) == {"circuit", "random pairs", "whole layer"}
    whole = table[table["form"] == "whole layer"]["correlation"].dropna()
    assert len(whole) == 3
    assert np.allclose(whole, 1, atol=1e-5)


def test_random_pairs_fire_together_and_are_not_the_circuits(small, corpus):
    model, dictionaries, circuit = small
    own = [(pair.first, pair.second) for pair in circuit.interactions]
    drawn = random_pairs(model, dictionaries[INTO], own, corpus, seed=0)
    assert len(drawn) == len(own)
    assert not set(drawn) & set(own)
    read = readings(model, corpus, [INTO])
    active = torch.cat([dictionaries[INTO].encode(r.activations[INTO]) for r in read]) != 0
    assert all((active[:, i] & active[:, j]).any() for i, j in drawn)
    assert drawn == random_pairs(model, dictionaries[INTO], own, corpus, seed=0)
    assert drawn != random_pairs(model, dictionaries[INTO], own, corpus, seed=1)


def test_a_circuit_of_another_run_is_refused(small, corpus):
    model, dictionaries, circuit = small
    other = replace(circuit, source=replace(circuit.source, inputs="0" * 64))
    with pytest.raises(GraphError, match="another run: the hash of its inputs is 0000"):
        circuit_rank(model, other, dictionaries, corpus)
