"""The story of a circuit is told from the same numbers as its account, class by class."""

from dataclasses import replace

import pytest
import torch

from analysis.attribution.contrast import PairAccount
from analysis.discovery.find import find_circuit
from analysis.report.circuit.circuit_tables import Labels
from analysis.report.circuit.mechanism import Mechanism, without
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
def story(planted) -> Mechanism:
    return Mechanism.of(*planted)


def test_what_each_pair_adds_is_its_part_of_the_account(planted, story):
    run, found = planted
    account = PairAccount.of(story.asked, 0, run.dictionaries[Site("mlp_in", 0)])
    rows = account.pairs.set_index(["first", "second"])
    for n, pair in enumerate(found.circuit.interactions):
        row = rows.loc[pair.first, pair.second]
        assert float(story.weight[n]) == pytest.approx(row["weight"])
        for place, label in enumerate(story.asked.behaviour.labels):
            assert float(story.added[place, n]) == pytest.approx(row[label], abs=1e-9)
    torch.testing.assert_close(story.mlp, account.class_totals)


def test_the_planted_circuit_is_told_as_it_was_planted(planted, story):
    hub = story.hub(Labels(planted[1], {}))
    assert hub["feature"] == NEGATOR
    assert hub["pairs"] == 2
    assert [label for label, _ in hub["on"]] == ["not good", "not bad"]
    good, bad = story.classes()
    assert (good["label"], bad["label"]) == ("not good", "not bad")
    assert (good["right"], bad["right"]) == (bad["wrong"], good["wrong"])
    for told, own in ((good, GOOD), (bad, BAD)):
        (pair,) = told["pairs"]  # each class by one pair
        assert any(f"feature {own} " in name for name in pair["ends"])
        assert pair["elsewhere"] == ""
        assert pair["adds"] == told["together"] == told["mlp"]
        assert pair["adds"].startswith("+")
    assert good["pairs"][0]["weight"].startswith("−")
    assert bad["pairs"][0]["weight"].startswith("+")
    assert story.towards == (bad["right"], bad["wrong"])


def test_a_pair_that_hurts_another_class_as_much_is_told_after_one_that_does_not(story):
    place, other = (story.asked.behaviour.labels.index(x) for x in ("not good", "not bad"))
    plain = story.classes()[0]["pairs"]
    own = int(story.added[place].argmax())
    loud = 1 - own  # the other class's pair, made louder here than its own, at that one's expense
    added = story.added.clone()
    added[place, loud] = 2 * added[place, own]
    added[other, loud] = -2 * added[place, own]
    told = replace(story, added=added).classes()[0]["pairs"]
    assert told[0]["ends"] == plain[0]["ends"]
    assert len(told) == 2


def test_what_the_pairs_carry_is_measured_on_the_same_cases_as_what_each_adds(planted, story):
    run, _ = planted
    account = PairAccount.of(story.asked, 0, run.dictionaries[Site("mlp_in", 0)])
    whole, told = account.totals.mlp, story.of_mlp
    assert float(told["mlp"]) == pytest.approx(whole, abs=0.005)
    together = [float(each["together"]) for each in story.classes()]
    assert float(told["carried"]) == pytest.approx(sum(together) / 2 / whole, abs=0.01)
    half = replace(story, added=story.added / 2).of_mlp
    assert float(half["carried"]) == pytest.approx(float(told["carried"]) / 2, abs=0.01)


def test_what_is_told_of_removal_is_what_validation_measured(planted):
    _, found = planted
    told = without(found)
    plain, removed = (found.validation.edit(kind) for kind in (EditKind.NONE, EditKind.REMOVE))
    for label, before, after in told["affected"]:
        assert float(before) == pytest.approx(plain[label], abs=0.005)
        assert float(after.replace("−", "-")) == pytest.approx(removed[label], abs=0.005)
    assert told["n"] == found.validation.n == len(planted_behaviour().halves()[1].cases)


def test_its_tables_hold_the_numbers_that_are_told(planted, story):
    labels = Labels(planted[1], {})
    means, added = (table.raw for table in story.tables(labels))
    names = list(story.asked.behaviour.labels)
    assert means[names].to_numpy() == pytest.approx(story.means.mT.numpy())
    assert added[names].to_numpy()[:2] == pytest.approx(story.added.mT.numpy())
    assert added[names].to_numpy()[2] == pytest.approx(story.added.sum(1).numpy())
    asked = story.asked_table().raw
    assert list(asked["class"]) == names
    assert asked["n"].sum() == story.n
