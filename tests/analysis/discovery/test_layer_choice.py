"""Which layers and pairs a circuit through several layers has, and what it says of the others."""

import json
from dataclasses import asdict, replace

import pytest

from analysis import find_circuit
from analysis.cli.layered_text import layered_rows
from analysis.discovery.find import verdict
from analysis.discovery.layer_records import Chosen, LeftOut
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.discovery.ways import BY_NORMS
from circuits.errors import GraphError
from circuits.graph.circuit import Circuit
from tests.support.planted_layers import three_dictionaries, three_layers
from tests.support.planted_negation import (
    BAD,
    FELT_FEATURE,
    GOOD,
    INTENSIFIER,
    NEGATOR,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    wide_behaviour,
)


def found(dictionaries=None, **given):
    known = three_dictionaries() if dictionaries is None else dictionaries
    return find_circuit(three_layers(), known, wide_behaviour(), across=True, **given)


@pytest.fixture(scope="module")
def three():
    return found()


def ends(circuit):
    return {(pair.first, pair.second) for pair in circuit.interactions}


def test_a_path_through_three_layers_is_found_exactly_and_nothing_else(three):
    assert three.layers == (0, 1, 2)
    assert ends(three.stage(0)) == {(a, b) for a in (NEGATOR, INTENSIFIER) for b in (GOOD, BAD)}
    assert ends(three.stage(1)) == {(FELT_FEATURE, n) for n in (18, 19, 20, 21)}  # of each class
    assert ends(three.stage(2)) == {(FELT_FEATURE, n) for n in (18, 19)}  # both signs of AGAIN
    shares = three.shares.set_index("layer")
    assert shares["depends"].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert shares["carried"].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    ways = three.ways[three.ways["way"] != BY_NORMS].set_index(["layer", "way"])["share"]
    path = [(0, "1.0"), (1, "no head"), (2, "no head")]
    assert ways.loc[path].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert ways.drop(path).abs().max() < 0.01
    assert three.looks["looks"].abs().max() < 0.01
    assert [one.layer for one in three.chosen] == [0, 1, 2]
    assert max(one.missing for one in three.chosen) < 1e-6
    assert max(one.off_by for one in three.chosen) < 1e-6
    assert three.left_out == ()


def test_features_of_one_class_each_are_found_together():
    """What each pair adds in one class it takes in another: no single one brings anything after
    the second."""
    circuit = found(three_dictionaries(overlapping=True))
    assert circuit.layers == (0, 1, 2)
    assert ends(circuit.stage(2)) == {(FELT_FEATURE, n) for n in (18, 19, 20, 21)}
    assert circuit.shares["carried"].tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_layer_whose_pairs_carry_too_little_is_left_out_with_the_numbers():
    circuit = found(n_pairs=1)
    assert circuit.layers == (0, 2)
    (one,) = circuit.left_out
    assert (one.layer, one.n_pairs) == (1, 1)
    assert one.depends == pytest.approx(1, abs=1e-5)
    assert one.carried == pytest.approx(0, abs=1e-5)
    assert (
        "Layer 1 is not in the circuit: 100 % of the contrast depends on its MLP, but the best "
        "pair carries 0 % of that, and 50 % are needed."
    ) in layered_sentences(circuit)


def test_layers_without_dictionaries_are_named():
    known = {site: each for site, each in three_dictionaries().items() if site.layer != 1}
    circuit = found(known)
    assert circuit.layers == (0, 2)
    assert circuit.left_out == (LeftOut(1, None),)
    assert "Without dictionaries, and not looked at: layer 1." in layered_sentences(circuit)


def test_where_the_limit_comes_first_it_says_what_is_missing():
    circuit = found(n_pairs=3)
    (first, *_) = circuit.chosen
    assert (first.layer, first.at_limit) == (0, True)
    assert first.missing == pytest.approx(0.75, abs=1e-5)
    said = (
        "Layer 0: stopped at the limit of 3 pairs; in the worst stratum (class: good) 75 % of the "
        "margin is still missing, and 10 % may be."
    )
    assert said in layered_sentences(circuit)
    stuck = replace(circuit, chosen=(replace(first, at_limit=False),))
    assert said.replace("stopped at the limit of 3 pairs", "no other pair brings more") in (
        layered_sentences(stuck)
    )
    near = replace(circuit, chosen=(replace(first, missing=0.1),))
    assert not any("missing" in line for line in layered_sentences(near))


def test_sentences_say_why_each_layer_is_left_out(three):
    small = [LeftOut(layer, 0.01 * layer) for layer in (3, 4, 5)]
    against, few, none = LeftOut(6, -0.25), LeftOut(7, 1.0, 2, 0.25), LeftOut(8, 0.5, 0, 0.0)
    many = replace(
        three, left_out=(*small, against, few, none, LeftOut(9, None), LeftOut(10, None))
    )
    said = layered_sentences(many)
    assert said[4:9] == [
        "Layer 6 is not in the circuit: its MLP works against the contrast, with −25 % of it.",
        "Layer 7 is not in the circuit: 100 % of the contrast depends on its MLP, but the best 2 "
        "pairs carry 25 % of that, and 50 % are needed.",
        "Layer 8 is not in the circuit: 50 % of the contrast depends on its MLP, but no pair does "
        "enough.",
        "Layers 3, 4 and 5 are not in the circuit: at most 5 % of the contrast depends on each, "
        "and 10 % are needed.",
        "Without dictionaries, and not looked at: layers 9 and 10.",
    ]
    alone = layered_sentences(replace(three, left_out=tuple(small[:1])))
    (one,) = (line for line in alone if "Layer 3" in line)
    assert one == (
        "Layer 3 is not in the circuit: 3 % of the contrast depends on its MLP, and 10 % are "
        "needed."
    )


def test_a_file_has_what_was_chosen_and_left_out(three, tmp_path):
    whole = replace(three, left_out=(LeftOut(3, 0.5, 2, 0.25), LeftOut(4, None)))
    again = LayeredCircuit.load(whole.save(tmp_path / "circuit.json"))
    assert (again.chosen, again.left_out) == (whole.chosen, whole.left_out)
    rows = layered_rows(whole)
    assert rows["chosen"] == [asdict(one) for one in whole.chosen]
    assert rows["left_out"][0] == {"layer": 3, "depends": 0.5, "n_pairs": 2, "carried": 0.25}


@pytest.mark.parametrize(
    "given",
    [
        {"left_out": (LeftOut(1, 0.5),)},
        {"chosen": (Chosen(3, 0.0, "all", False, 0.0),)},
        {"chosen": (Chosen(0, 0.0, "all", False, 0.0),) * 2},
    ],
)
def test_each_layer_is_named_once(three, given):
    with pytest.raises(GraphError, match="Name each layer once"):
        replace(three, **given)


WORDS = {
    "computed": ((1.0, 0.1, 0.0, 0.0), "computed in this MLP (computed 1.00, inherited 0.10)"),
    "only read": (
        (0.05, 0.95, 0.0, 0.0),
        "inherited from attention or earlier layers, and only read here (computed 0.05, inherited "
        "0.95)",
    ),
    "both": (
        (0.39, 0.6, 0.0, 0.01),
        "partly inherited from attention or earlier layers, partly computed here (computed 0.39, "
        "inherited 0.60)",
    ),
    "against": (
        (-0.5, 1.5, 0.0, 0.0),
        "inherited from attention or earlier layers, and what is computed here works against it "
        "(computed -0.50, inherited 1.50)",
    ),
    "later": (
        (0.0, 0.05, 0.96, -0.01),
        "made later from what it writes (computed 0.00, inherited 0.05, made later 0.96, within "
        "the classes -0.01)",
    ),
    "later, partly": (
        (-0.17, 0.23, 0.95, -0.01),
        "partly made later from what it writes, partly inherited from attention or earlier layers "
        "(computed -0.17, inherited 0.23, made later 0.95, within the classes -0.01)",
    ),
    "computed, but read otherwise": (
        (0.9, 0.1, 0.5, -0.5),
        "partly computed here, partly made later from what it writes (computed 0.90, inherited "
        "0.10, made later 0.50, within the classes -0.50)",
    ),
    "neither": (
        (0.1, 0.2, 0.1, 0.6),
        "neither computed nor inherited alone (computed 0.10, inherited 0.20, made later 0.10, "
        "within the classes 0.60)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shares", "words"), WORDS.values(), ids=WORDS)
def test_a_verdict_says_no_more_than_its_numbers(three, shares, words):
    stage, names = three.stage(0), ("computed", "inherited", "later", "within")
    evidence = stage.evidence
    made = replace(evidence.shares, **dict(zip(names, shares, strict=True)))
    assert verdict(replace(stage, evidence=replace(evidence, shares=made))) == words


def test_shares_of_a_stage_add_up_and_those_of_one_layer_have_no_later_part(three, tmp_path):
    shares = three.shares[["computed", "inherited", "later", "within"]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    alone = find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())
    content = json.loads(alone.save(tmp_path / "circuit.json").read_text())
    assert "later" not in content["evidence"]["shares"]
    assert "later" not in repr(alone)
    assert Circuit.load(tmp_path / "circuit.json") == alone
    stage = json.loads(three.stage(1).save(tmp_path / "stage.json").read_text())
    assert stage["evidence"]["shares"]["later"] == pytest.approx(0, abs=1e-6)
