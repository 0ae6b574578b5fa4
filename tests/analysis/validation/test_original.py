"""What a circuit's features carry in a twin is removed from the gated original in the same way."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.behaviour.built_in import built_in_behaviour
from analysis.behaviour.in_model import in_model
from analysis.cli.circuit_text import validation_rows, validation_text
from analysis.cli.main import main
from analysis.discovery.find import find_circuit
from analysis.validation.edits import EditKind
from analysis.validation.harness import Harness
from analysis.validation.original import checked_original, features_of
from analysis.validation.record import Validation
from analysis.validation.validate import validate
from circuits.corpus import built_in
from circuits.errors import GraphError, ModelError
from circuits.graph.records import Feature, Interaction
from circuits.model import Model
from circuits.model.identity import TwinLabel
from circuits.model.loading import load_model
from circuits.storage.manifest import read_manifest
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin
from tests.support.planted_negation import (
    BAD,
    GOOD,
    MIA,
    NEGATOR,
    WORDS,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    planted_network,
    planted_run,
    planted_text,
    planted_tokenizer,
    unseen_behaviour,
)
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_network, small_original, small_tokenizer

CASES = unseen_behaviour()
SMALL = 1e-3  # of a gate's input: there SiLU is nearly straight


def gated(kind: str = "computed") -> Model:
    """The planted network with gates that do nearly what their twin does."""
    network = planted_network(kind)
    network.config.hidden_act = "silu"
    for block in network.model.layers:
        block.mlp.gate_proj.weight.mul_(SMALL)
        block.mlp.down_proj.weight.mul_(2 / SMALL)
        block.mlp.act_fn = torch.nn.SiLU()
    return Model(network, planted_tokenizer(), Path("gated"))


def label_of(original: Model) -> TwinLabel:
    return TwinLabel(
        "planted", original.fingerprint, "silu", original_loss=1.0, loss=1.25, removed_loss=3.0,
        gap_error=0.01, kl=0.1, agreement=0.9, mlp_fvu=(0.1,), n_held_out=100, tokens=100, seed=0,
        versions="",
    )  # fmt: skip


def twin_of(original: Model) -> Model:
    return replace(planted_model(), label=label_of(original))


@pytest.fixture(scope="module")
def circuit():
    return find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())


def validated(circuit, original: Model, **fields) -> Validation:
    return validate(twin_of(original), circuit, CASES, planted_dictionaries(), n_draws=3,
                    original=original, **fields)  # fmt: skip


@pytest.fixture(scope="module")
def proof(circuit) -> Validation:
    return validated(circuit, gated())


@pytest.mark.parametrize("layer", [0, 1], ids=["attention follows", "last"])
def test_removing_features_is_editing_the_input_by_hand(layer):
    network = small_network(hidden_act="silu", vocab_size=len(WORDS)).double().requires_grad_(False)
    original = Model(network, planted_tokenizer(), Path("small"))
    into = small_dictionary(dtype=torch.float64, k=20)
    harness = Harness(in_model(CASES, original), layer, into, 0)
    often = into.active(harness.x).counts
    features = ((often > 0) & (often < len(harness.x))).nonzero()[:3, 0].tolist()

    def by_hand(x: Tensor) -> Tensor:
        new = x.clone()
        for row in range(x.shape[0]):
            for pos in range(1, x.shape[1]):
                z = into.encode(x[row, pos])
                for feature in features:
                    new[row, pos] -= z[feature] * into.decoder[feature]
        return new

    with original.replaced({f"mlp_in@{layer}": by_hand}):
        wanted = harness.cases.margins()
    assert (wanted - harness.plain).abs().max() > 0.01
    torch.testing.assert_close(harness.without_features(features), wanted)


def test_a_planted_behaviour_is_lost_in_twin_and_original_alike(proof, circuit):
    assert features_of(circuit, 10**6) == [NEGATOR, GOOD, BAD]
    rows = [EditKind.FEATURES, EditKind.ORIGINAL_FEATURES]
    controls = [EditKind.OTHER_FEATURES, EditKind.ORIGINAL_OTHER_FEATURES]
    for kind in rows:
        assert proof.edit(kind)["removed"] == pytest.approx(1, abs=1e-5)
    other, other_there = (proof.edit(kind)["removed"] for kind in controls)
    assert other <= 0  # they only add to the last norm's scale
    assert other_there == pytest.approx(other, abs=1e-3)
    assert [proof.edit(kind)["n_features"] for kind in rows + controls] == [3] * 4
    plain, there = proof.edit(EditKind.NONE), proof.edit(EditKind.ORIGINAL)
    assert there["removed"] == plain["n_features"] == there["n_features"] == 0
    assert there["contrast"] == pytest.approx(plain["contrast"], rel=0.01)
    sentence = (
        "In the original (planted, silu gates) the same 3 features carry 100 % of the margin (twin "
        "100 %); as many other features at most −18 % (twin −18 %)."
    )
    assert proof.in_original == sentence
    assert sentence in validation_text(proof)
    assert validation_rows(proof)["in_original"] == sentence


def test_the_control_is_the_draw_that_removes_most(circuit, monkeypatch):
    drawn = []
    own = Harness.without_features

    def noted(harness: Harness, features: list[int]) -> Tensor:
        margins = own(harness, features)
        drawn.append((harness.model.path.name, features, harness.affected(margins)))
        return margins

    monkeypatch.setattr(Harness, "without_features", noted)
    original = gated()
    alone = replace(circuit, interactions=circuit.interactions[:1])
    found = validate(twin_of(original), alone, CASES, planted_dictionaries(), n_draws=8,
                     original=original)  # fmt: skip
    for name, kind in (("computed", EditKind.OTHER_FEATURES),
                       ("gated", EditKind.ORIGINAL_OTHER_FEATURES)):  # fmt: skip
        controls = [left for path, some, left in drawn if path == name and NEGATOR not in some]
        assert len(controls) == 8
        assert min(controls) < max(controls)
        assert found.edit(kind)["contrast"] == pytest.approx(min(controls))


def test_in_an_original_without_the_behaviour_nothing_is_lost(circuit):
    found = validated(circuit, gated("read"))
    assert np.isnan(found.edit(EditKind.ORIGINAL_FEATURES)["removed"])
    assert found.in_original == (
        "The original (planted, silu gates) does not show the behaviour, so nothing is lost there."
    )


def test_it_is_kept_in_a_file_and_older_files_load(proof, circuit, tmp_path):
    again = Validation.load(proof.save(tmp_path / "new.json"))
    assert again.in_original == proof.in_original
    pd.testing.assert_frame_equal(again.edits, proof.edits)
    old = validate(planted_model(), circuit, CASES, planted_dictionaries(), n_draws=1)
    assert "n_features" not in old.edits
    assert Validation.load(old.save(tmp_path / "old.json")).in_original == ""


def refused(circuit, model: Model, original: Model) -> str:
    with pytest.raises(ModelError) as caught:
        validate(model, circuit, CASES, planted_dictionaries(), original=original)
    return str(caught.value)


def test_originals_of_no_twin_or_of_another_are_refused(circuit):
    original, other = gated(), gated("read")
    assert refused(circuit, planted_model(), original) == (
        "computed: an original was given, and this model is no twin: it was not made of a gated "
        "model. Leave the original out, or make its twin: circuits model twin."
    )
    assert refused(circuit, twin_of(original), other) == (
        f"gated has the hash {other.fingerprint[:12]}…, and computed is the twin of planted with "
        f"{original.fingerprint[:12]}…, so this says nothing of that. Pass the original that the "
        f"twin was made of."
    )
    strange = replace(original, tokenizer=small_tokenizer(len(WORDS)))
    assert refused(circuit, twin_of(strange), strange) == (
        "gated: its tokenizer makes other tokens than the twin's of 64 of 64 cases, so both would "
        "not read the same. Pass it with the twin's: load_original(…, tokenizer=…)."
    )


def test_too_few_other_features_are_no_control(circuit):
    many = range(NEGATOR, MIA)
    wide = replace(
        circuit,
        features=tuple(Feature(n, f"feature {n}", 0) for n in many),
        interactions=tuple(Interaction(n, n, 1.0) for n in many),
        gates=(),
    )
    with pytest.raises(GraphError, match=r"only 2 features are active .* leave the original out"):
        validated(wide, gated())


@pytest.mark.slow
def test_a_trained_twin_knows_its_original_by_its_path(tmp_path):
    corpus = built_in(seed=1, n_documents=400)
    path, plan = (
        small_original(corpus, tmp_path / "llama"),
        TwinPlan(n_steps=2, fit=2, n_rows=4, window=16),
    )
    twin = bilinear_twin(path, corpus, plan, tmp_path / "out", device="cpu")
    original = checked_original(path, in_model(built_in_behaviour("negation", twin, 4), twin))
    assert original.fingerprint == twin.label.original_fingerprint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a planted twin, with its original beside it."""
    folder = tmp_path_factory.mktemp("runs")
    planted_behaviour().save(planted_run(folder / "run") / "cases.jsonl")
    original = load_original(gated().save(folder / "gated"), device="cpu")
    place = folder / "run" / "model"
    label_of(original).write_first(place, load_model(place, device="cpu").fingerprint)
    return folder / "run"


def called(capsys, *arguments: object) -> str:
    assert main([*map(str, arguments), "--device", "cpu"]) == 0
    return capsys.readouterr().out


WHOSE = (
    "bilinear twin of planted (silu gates): loss 1.250 nats a token, the original's 1.000, KL 0.100"
)


def test_finding_says_whose_twin_the_circuit_is_of(run, capsys):
    said = called(capsys, "find", run, "--behaviour", run / "cases.jsonl")
    assert f"\nThe model is the {WHOSE}.\n" in said
    said = json.loads(called(capsys, "find", run, "--behaviour", run / "cases.jsonl", "--json"))
    assert said["twin"]["original"] == "planted"


@pytest.mark.slow
def test_the_command_and_the_page_say_what_is_lost_in_the_original(run, capsys):
    gated_at, text = run.parent / "gated", ("--text", planted_text(run))
    called(capsys, "find", run, "--behaviour", run / "cases.jsonl")
    said = called(capsys, "validate", run, "--draws", 2, "--original", gated_at, *text)
    sentence = "In the original (planted, silu gates) the same 3 features carry 100 % of the margin"
    assert sentence in said
    assert "original: remove the same features" in said
    steps = {step["step"]: step["made_of"] for step in read_manifest(run)}
    original = load_original(gated_at, device="cpu")
    assert steps["validation of cases"]["original"] == original.fingerprint
    called(capsys, "report", run, "--single-file", *text)
    page = (run / "report.html").read_text()
    assert sentence in page
    assert WHOSE.replace("'", "&#39;") in page
