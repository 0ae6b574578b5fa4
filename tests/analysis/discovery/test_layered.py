"""Circuits through two layers: found where they were planted, with the head between."""

from dataclasses import replace

import pytest

from analysis import find_circuit, validate
from analysis.discovery.layered import LayeredCircuit
from circuits.errors import BehaviourError, GraphError, NotFoundError
from tests.support.planted_negation import (
    BAD,
    FELT_FEATURE,
    GOOD,
    NEGATOR,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    sentiment,
    unseen_behaviour,
)


def both_layers(kind):
    return {**planted_dictionaries("computed"), **planted_dictionaries(kind)}


def found(kind):
    return find_circuit(planted_model(kind), both_layers(kind), planted_behaviour(), across=True)


@pytest.fixture(scope="module")
def moved():
    return found("moved")


def ends(circuit):
    return {(pair.first, pair.second) for pair in circuit.interactions}


@pytest.mark.parametrize("kind", ["inherited", "moved"])
def test_the_planted_pairs_of_both_layers_are_found_and_no_others(kind):
    circuit = found(kind)
    assert circuit.layers == (0, 1)
    assert ends(circuit.stage(0)) == {(NEGATOR, GOOD), (NEGATOR, BAD)}
    assert len(ends(circuit.stage(1))) == 2
    assert all(FELT_FEATURE in pair for pair in ends(circuit.stage(1)))


@pytest.mark.parametrize(("kind", "by_head"), [("inherited", 0.0), ("moved", 1.0)])
def test_it_names_the_head_that_carries_the_product(kind, by_head):
    ways = found(kind).ways.set_index(["layer", "way"])["share"]
    assert ways[0, "1.0"] == pytest.approx(by_head, abs=1e-6)
    assert ways[0, "no head"] == pytest.approx(1 - by_head, abs=1e-6)


def test_the_first_layer_computes_and_the_second_passes_on(moved):
    shares = moved.shares.set_index("layer")
    assert shares.loc[0, "computed"] == pytest.approx(1, abs=1e-6)
    assert shares.loc[1, "inherited"] == pytest.approx(1, abs=1e-6)
    # of each product half counts for what was negated, half for the word it is multiplied by
    assert shares["flows_through"].tolist() == pytest.approx([0.5, 1], abs=1e-6)


def test_of_one_layer_it_is_that_layers_circuit():
    model, dictionaries = planted_model(), planted_dictionaries()
    alone = find_circuit(model, dictionaries, planted_behaviour())
    (stage,) = found("computed").stages
    assert ends(stage) == ends(alone)
    assert alone.evidence is not None
    assert stage.evidence is not None
    assert stage.evidence.shares.computed == pytest.approx(alone.evidence.shares.computed)


def test_nothing_is_found_where_the_answers_read_the_word_itself():
    with pytest.raises(NotFoundError, match=r"0\.00 of .* logits flow through layer 0"):
        find_circuit(
            planted_model("read"),
            planted_dictionaries(),
            sentiment(planted_behaviour()),
            across=True,
        )


def test_removing_it_removes_the_behaviour_and_every_pair_does_what_was_predicted(moved):
    model, dictionaries = planted_model("moved"), both_layers("moved")
    found = validate(model, moved, unseen_behaviour(), dictionaries, n_draws=5)
    edits = found.edits
    whole = edits[(edits["kind"] == "remove") & (edits["target"] == "")].iloc[0]
    assert whole["free"] == pytest.approx(1, abs=1e-4)
    assert whole["side_effect"] == pytest.approx(0, abs=1e-4)
    pairs = edits[edits["kind"] == "remove_gate"]
    assert len(pairs) == 4
    assert (pairs["off_by"] < 1e-4).all()
    assert pairs["predicted"].to_numpy() == pytest.approx(pairs["measured"].to_numpy(), abs=1e-4)
    assert (pairs["predicted"] > 0.4).all()
    patched = edits[edits["kind"] == "patch"].iloc[0]
    assert patched["free"] == pytest.approx(2, abs=1e-3)  # every answer turns round
    assert found.claims == {"causal": True, "specific": True}
    assert "causal; specific" in repr(found)


def test_an_untrained_model_has_no_shares(moved):
    model, dictionaries = planted_model("moved"), both_layers("moved")
    edits = validate(model, moved, unseen_behaviour(), dictionaries, n_draws=5).edits
    untrained = edits[edits["kind"] == "untrained_remove"].iloc[0]
    assert untrained[["frozen", "free"]].isna().all()


def test_half_a_circuit_is_not_causal(moved):
    model, dictionaries = planted_model("moved"), both_layers("moved")
    stage = moved.stage(1)
    half = LayeredCircuit(
        "half", (replace(stage, interactions=stage.interactions[:1]),), moved.ways.iloc[:0]
    )
    found = validate(model, half, unseen_behaviour(), dictionaries, n_draws=5)
    assert not found.claims["causal"]
    assert "not causal: " in found.verdict


def test_cases_that_it_was_chosen_on_are_refused(moved):
    with pytest.raises(BehaviourError, match="was chosen on"):
        validate(planted_model("moved"), moved, planted_behaviour(), both_layers("moved"))


@pytest.mark.parametrize("given", [{"layer": 0}, {"detection_cases": planted_behaviour()}])
def test_what_is_for_one_layer_is_refused(given):
    with pytest.raises(BehaviourError, match="for a circuit of one layer"):
        find_circuit(
            planted_model("moved"), both_layers("moved"), planted_behaviour(), across=True, **given
        )


def test_stages_are_one_of_each_layer_in_order(moved):
    with pytest.raises(GraphError, match=r"stages of layers \[1, 0\]"):
        LayeredCircuit("turned", moved.stages[::-1], moved.ways)
    with pytest.raises(GraphError, match="no part in layer 7"):
        moved.stage(7)


def test_options_of_one_layers_validation_are_refused(moved):
    with pytest.raises(GraphError, match="goes through several layers"):
        validate(planted_model("moved"), moved, unseen_behaviour(), both_layers("moved"),
                 others=[moved.stage(0)])  # fmt: skip
