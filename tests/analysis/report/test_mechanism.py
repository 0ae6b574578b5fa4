"""The mechanism of a circuit has the same numbers as its pair account, class by class."""

from dataclasses import replace

import pytest
import torch

from analysis.attribution.contrast import PairAccount
from analysis.discovery.find import find_circuit
from analysis.report.circuit.circuit_tables import circuit_tables
from analysis.report.circuit.labels import Labels
from analysis.report.circuit.mechanism import Mechanism, removal_effect
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from analysis.validation.edits import EditKind
from analysis.validation.validate import validate
from circuits.model import Site
from tests.support.planted_negation import (
    BAD,
    GOOD,
    NEGATOR,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    model, dictionaries = planted_model(), planted_dictionaries()
    circuit = find_circuit(model, dictionaries, planted_behaviour())
    proof = validate(model, circuit, planted_behaviour().halves()[1], dictionaries)
    run = Run(tmp_path_factory.mktemp("run"), model=model, dictionaries=dictionaries)
    return run, Found("negation", circuit, planted_behaviour(), proof)


@pytest.fixture(scope="module")
def mechanism(planted) -> Mechanism:
    return Mechanism.of(*planted)


def test_what_each_pair_adds_is_its_part_of_the_account(planted, mechanism):
    run, found = planted
    account = PairAccount.of(mechanism.cases, 0, run.dictionaries[Site("mlp_in", 0)])
    rows = account.pairs.set_index(["first", "second"])
    for n, pair in enumerate(found.circuit.interactions):
        row = rows.loc[pair.first, pair.second]
        assert float(mechanism.weight[n]) == pytest.approx(row["weight"])
        for place, label in enumerate(mechanism.cases.behaviour.labels):
            assert float(mechanism.added[place, n]) == pytest.approx(row[label], abs=1e-9)
    torch.testing.assert_close(mechanism.mlp, account.class_totals)


def test_the_planted_circuit_is_described_as_it_was_planted(planted, mechanism):
    hub = mechanism.hub(Labels(planted[1], {}))
    assert hub["feature"] == NEGATOR
    assert hub["pairs"] == 2
    assert [label for label, _ in hub["active"]] == ["not good", "not bad"]
    good, bad = mechanism.classes()
    assert (good["label"], bad["label"]) == ("not good", "not bad")
    assert (good["right"], bad["right"]) == (bad["wrong"], good["wrong"])
    for found, own in ((good, GOOD), (bad, BAD)):
        (pair,) = found["pairs"]  # each class by one pair
        assert any(f"feature {own} " in name for name in pair["ends"])
        assert pair["elsewhere"] == ""
        assert pair["adds"] == found["together"] == found["mlp"]
        assert pair["adds"].startswith("+")
    assert good["pairs"][0]["weight"].startswith("−")
    assert bad["pairs"][0]["weight"].startswith("+")
    assert mechanism.sides == (bad["right"], bad["wrong"])


def test_a_pair_that_hurts_another_class_as_much_comes_after_one_that_does_not(mechanism):
    place, other = (mechanism.cases.behaviour.labels.index(x) for x in ("not good", "not bad"))
    plain = mechanism.classes()[0]["pairs"]
    own = int(mechanism.added[place].argmax())
    loud = 1 - own  # the other class's pair, made louder here than its own, at that one's expense
    added = mechanism.added.clone()
    added[place, loud] = 2 * added[place, own]
    added[other, loud] = -2 * added[place, own]
    pairs = replace(mechanism, added=added).classes()[0]["pairs"]
    assert pairs[0]["ends"] == plain[0]["ends"]
    assert len(pairs) == 2


def test_a_pairs_two_sizes_are_brought_together(planted, mechanism):
    """One class has all of what the pair adds, so its mean is half of that."""
    found = mechanism.bridge()
    inside = [mechanism.cases.behaviour.labels.index(x) for x in ("not good", "not bad")]
    added = mechanism.added[inside]
    n = int((added[0] - added[1]).abs().argmax())
    first, second = (f"{float(x):+.2f}".replace("-", "−") for x in added[:, n])
    for size, label in ((first, "not good"), (second, "not bad")):
        assert (
            abs(float(size.replace("−", "-"))) < 0.005 or f"{size} in {label}" in found["by_class"]
        )
    assert float(found["mean"]) == pytest.approx(float(added[:, n].mean()), abs=0.005)
    contrast = planted[1].circuit.interactions[n].contrast
    assert float(found["there"]) == pytest.approx(contrast, abs=0.005)
    tables = circuit_tables(planted[1].circuit, Labels(planted[1], {}))
    (caption,) = (each.caption for each in tables if each.key == "pairs")
    assert "logits added, mean over the affected classes (not good, not bad)" in caption
    assert replace(mechanism, added=0 * mechanism.added).bridge() is None


def test_what_the_pairs_carry_is_measured_on_the_same_cases_as_what_each_adds(planted, mechanism):
    run, _ = planted
    account = PairAccount.of(mechanism.cases, 0, run.dictionaries[Site("mlp_in", 0)])
    whole, shown = account.totals.mlp, mechanism.mlp_effect
    assert float(shown["mlp"]) == pytest.approx(whole, abs=0.005)
    together = [float(each["together"]) for each in mechanism.classes()]
    percent = float(shown["carried"].removesuffix(" %"))
    assert percent == pytest.approx(100 * sum(together) / 2 / whole, abs=1)
    half = replace(mechanism, added=mechanism.added / 2).mlp_effect
    assert float(half["carried"].removesuffix(" %")) == pytest.approx(percent / 2, abs=1)


def test_the_effect_of_removal_is_what_validation_measured(planted):
    _, found = planted
    effect = removal_effect(found)
    plain, removed = (found.validation.edit(kind) for kind in (EditKind.NONE, EditKind.REMOVE))
    for label, before, after in effect["affected"]:
        assert float(before) == pytest.approx(plain[label], abs=0.005)
        assert float(after.replace("−", "-")) == pytest.approx(removed[label], abs=0.005)
    assert effect["n"] == found.validation.n == len(planted_behaviour().halves()[1].cases)


def test_its_tables_hold_its_numbers(planted, mechanism):
    labels = Labels(planted[1], {})
    means, added, cases = (table.raw for table in mechanism.tables(labels))
    names = list(mechanism.cases.behaviour.labels)
    assert means[names].to_numpy() == pytest.approx(mechanism.means.mT.numpy())
    assert added[names].to_numpy()[:2] == pytest.approx(mechanism.added.mT.numpy())
    assert added[names].to_numpy()[2] == pytest.approx(mechanism.added.sum(1).numpy())
    assert list(cases["class"]) == names
    assert cases["n"].sum() == len(mechanism.cases)
