"""Planted gates are found, nothing else is, and the commands report it."""

import json

import pandas as pd
import pytest
import torch

from analysis.cli.main import main
from analysis.studies.geometries import GEOMETRIES
from analysis.studies.planted import Planted, calibrate, edge_scores, plant, score
from circuits.errors import CircuitsError
from circuits.graph import Circuit, clusters, interaction_graph
from circuits.graph.matching_pursuit import known_pairs, significant_pairs
from tests.support.commands import command
from tests.support.planted_negation import planted_run


def test_the_layer_computes_the_gates_that_are_planted():
    """Each pair's weight is the one planted, where features do not shadow each other."""
    sizes = Planted(d_model=64, n_feature=64, n_gates=3, largest=3, snr=1e9)
    inter, (truth,) = plant(sizes)
    form = torch.zeros(64, 64)
    for (i, j), weight in truth.weights.items():
        one, two = inter.inputs.write[i], inter.inputs.write[j]
        form += weight / 2 * (torch.outer(one, two) + torch.outer(two, one))
    torch.testing.assert_close(inter.form(0), form, rtol=1e-3, atol=1e-4)


def test_noise_has_the_norm_that_the_ratio_says():
    loud, (truth,) = plant(Planted(snr=2.0))
    clear, _ = plant(Planted(snr=1e9))
    noise = (loud.form(0) - clear.form(0)).norm()
    assert float(clear.form(0).norm() / noise) == pytest.approx(2, rel=1e-3)
    assert len(truth.gates) == 3


@pytest.mark.parametrize("kind", ["AND", "XOR", "OR", "inhibition", "three-way"])
def test_each_kind_of_gate_is_found_grouped_and_named(kind):
    inter, (truth,) = plant(Planted(n_feature=256, n_gates=2, kinds=(kind,), snr=5.0, seed=4))
    scores = score(inter, 0, truth)
    assert scores["f1"] >= 0.95
    assert scores["ari"] >= 0.95
    assert scores["gates"] == 1


def test_given_pairs_are_tested_given_each_other():
    inter, (truth,) = plant(Planted(n_gates=2, n_feature=256))
    found = significant_pairs(inter, 0)
    known = known_pairs(inter, 0, zip(found["second"], found["first"], strict=True))
    pd.testing.assert_frame_equal(known, found)
    assert known.attrs["explained"] == pytest.approx(found.attrs["explained"])
    absent = next(pair for pair in [(0, 1), (0, 2), (1, 2)] if pair not in truth.weights)
    more = known_pairs(inter, 0, [*truth.weights, absent]).set_index(["first", "second"])
    assert more.loc[absent, "q"] > 0.05
    assert (more.drop(index=[absent])["q"] <= 0.05).all()
    assert len(known_pairs(inter, 0, [])) == 0
    with pytest.raises(CircuitsError, match="there is no feature 256"):
        known_pairs(inter, 0, [(0, 256)])


def test_false_discoveries_are_at_most_what_was_asked_for():
    shares = []
    for seed in range(12):
        inter, (truth,) = plant(Planted(32, 128, 1, 2.0, seed=seed))
        found = significant_pairs(inter, 0, 0.05)
        pairs = zip(found["first"], found["second"], strict=True)
        shares.append(1 - edge_scores(pairs, truth.weights)["precision"])
    assert sum(shares) / len(shares) <= 0.05


AND = {"kinds": ("AND",), "largest": 2}


@pytest.mark.parametrize("made_of", ["written", "readers"])
@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_gates_are_found_in_features_of_every_shape(geometry, made_of):
    """The search of 0.1 found none of these gates where features share a direction or are crowded
    into a quarter of the dimensions; pairs added many at a time are led astray in small spaces."""
    sizes = Planted(**AND, n_gates=3, snr=10.0, geometry=geometry, made_of=made_of)
    inter, (truth,) = plant(sizes)
    scores = score(inter, 0, truth)
    assert (scores["recall"], scores["false"]) == (1, 0)


@pytest.mark.parametrize("geometry", ["even", "falling", "clusters", "crowd"])
@pytest.mark.parametrize("n_gates", [0, 1])
def test_a_form_in_a_space_that_features_share_has_no_pairs(geometry, n_gates):
    """Half of such outputs had edges in 0.1, and with a gate beside it a third were false."""
    false = []
    for seed in range(4):
        sizes = Planted(64, 512, n_gates, 3.0, geometry=geometry, noise="shared", seed=seed, **AND)
        inter, (truth,) = plant(sizes)
        false.append(score(inter, 0, truth)["false"])
    assert sum(false) / len(false) <= 0.05


def test_gates_are_planted_in_a_dictionary_of_ones_own():
    own, _ = plant(Planted(32, 128, geometry="falling", largest=2, seed=7))
    inter, (truth,) = plant(Planted(n_gates=1, snr=8.0, **AND), own.inputs)
    assert inter.inputs.write.equal(own.inputs.write)
    assert score(inter, 0, truth)["f1"] == 1
    table = calibrate(Planted(n_gates=1, **AND), [8.0], 1, features=own.inputs)
    assert table.loc[0, "named"] == 1


def test_scores_are_those_of_sets():
    scores = edge_scores([(1, 2), (4, 3), (5, 5)], [(2, 1), (3, 4), (0, 9), (8, 8)])
    assert scores == {"precision": 2 / 3, "recall": 0.5, "f1": 4 / 7}
    assert edge_scores([], [])["f1"] == 1
    assert edge_scores([], [(1, 2)]) == {"precision": 1, "recall": 0, "f1": 0}


def test_calibration_has_a_row_for_each_ratio_and_its_controls():
    table = calibrate(Planted(32, 128, 1, largest=2), [1.0, 8.0], n_seeds=2)
    rows = ["snr 1", "snr 8", "noise alone", "noise in a shared space", "rotated", "shuffled"]
    assert table["layer"].tolist() == rows
    assert table.loc[1, "f1"] > 0.9
    with pytest.raises(CircuitsError, match="snrs is empty"):
        calibrate(Planted(32, 128, 1, largest=2), [])
    assert (table.loc[2:, "any"] == 0).all()
    pd.testing.assert_frame_equal(
        table, calibrate(Planted(32, 128, 1, largest=2), [1.0, 8.0], n_seeds=2)
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"snr": 0.0}, "snr is 0.0, not a number above 0"),
        ({"kinds": ("NAND",)}, "unknown gate NAND"),
        ({"n_gates": 99}, "99 gates of up to 12 features need more than the 512"),
        ({"n_gates": -1}, "n_gates is -1, not a whole number of at least 0"),
        ({"kinds": ()}, "kinds is empty"),
        ({"geometry": "flat"}, "unknown geometry 'flat'; choose from even, falling"),
        ({"made_of": "encoders"}, "unknown made_of 'encoders'"),
        ({"noise": "loud"}, "unknown noise 'loud'"),
        ({"d_model": 1}, "d_model is 1, not a whole number of at least 2"),
        ({"largest": 1}, "largest is 1, not a whole number of at least 2"),
        ({"d_model": 0}, "d_model is 0"),
    ],
)
def test_sizes_that_cannot_be_planted_are_refused(sizes, message):
    with pytest.raises(CircuitsError, match=message):
        Planted(**sizes)


# --- the commands ---


def test_calibrate_prints_its_table():
    sizes = ["--d-model", "32", "--features", "128", "--gates", "1", "--snr", "8", "--seeds", "1"]
    done = command("calibrate", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [row["layer"] for row in printed["rows"]] == [
        "snr 8",
        "noise alone",
        "noise in a shared space",
        "rotated",
        "shuffled",
    ]
    both = command("calibrate", "runs/any", "--features", "64")
    assert both.returncode == 2
    assert "--features and --geometry cannot be given. Leave them out" in both.stderr
    wrong = command("calibrate", "--gates", "999")
    assert wrong.returncode == 2
    assert "999 gates" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.filterwarnings("ignore")  # shuffled halves of axes repeat each other
def test_calibrate_plants_gates_in_the_dictionary_of_a_run(tmp_path, capsys):
    folder = planted_run(tmp_path / "run")
    words = ["calibrate", str(folder), "--gates", "0", "--snr", "8", "--seeds", "1", "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["any"] for row in printed["rows"]] == [0] * 5
    assert main(words[:-1]) == 0
    shown = capsys.readouterr().out
    assert f"d = 16, 18 features ({folder}, layer 0), 0 gates (written)" in shown


def test_export_writes_each_format(tmp_path, capsys):
    inter, _ = plant(Planted(n_gates=1, n_feature=256))
    graph = interaction_graph(inter, 0, significant=0.05)
    Circuit.of(graph, clusters(graph)).save(tmp_path / "gate.json")

    def export(form: str, *out: str) -> dict:
        words = ["export", str(tmp_path / "gate.json"), "--format", form, *out]
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    for form in ("graphml", "gexf"):
        assert export(form)["file"] == str(tmp_path / f"gate.{form}")
    tables = export("tables", "--out", str(tmp_path / "t"))
    assert set(tables) == {"features", "interactions", "gates", "outputs", "detectors"}
    words = ["export", str(tmp_path / "gate.json"), "--format", "attribution"]
    assert main(words) == 2  # the frontend draws layers, and a gate made by hand names none
    assert "pass --layer" in capsys.readouterr().err
    written = export("attribution", "--layer", "0")
    assert written["file"] == str(tmp_path / "attribution" / "output-0.json")
    assert "supernodes=" in written["address"]  # the only place where the frontend reads them
    assert main(["export", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
