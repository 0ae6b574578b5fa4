"""Proposals: gates are seen in the weights of a planted layer, and none in one that learned
nothing."""

import math

import pytest

from analysis.cli.circuit_text import proposals_text
from analysis.discovery.find import verdict
from analysis.discovery.propose import gate_likeness, propose_circuits
from analysis.validation.criteria import Claim
from analysis.validation.edits import EditKind
from analysis.validation.validate import validate
from circuits.algebra.interactions import Interactions
from circuits.errors import DictionaryError, FeatureRangeError
from circuits.graph.circuit import Circuit
from circuits.model import Site
from circuits.model.loading import untrained
from tests.support.planted_negation import (
    BAD,
    CAKE,
    FELT_FEATURE,
    FILM,
    GOOD,
    INTENSIFIER,
    MIA,
    NEGATOR,
    TOM,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
)


@pytest.fixture(scope="module")
def proposals() -> dict[int, Circuit]:
    found = propose_circuits(planted_model(), planted_dictionaries())
    return {circuit.outputs[0].feature: circuit for circuit in found}


def weights_of(circuit: Circuit) -> dict[tuple[int, int], float]:
    return {(pair.first, pair.second): pair.weight for pair in circuit.interactions}


def test_every_output_that_was_planted_is_proposed_with_its_pairs(proposals):
    """A class: its product of negation and sentiment, and what is negated; features are half of an
    axis each, so every product of axes is four pairs."""
    assert set(proposals) == set(range(8))
    one = math.sqrt(0.5)  # the classes are diagonals
    good = {
        (NEGATOR, GOOD): -one, (NEGATOR, BAD): one, (INTENSIFIER, GOOD): one,
        (INTENSIFIER, BAD): -one, (NEGATOR, FELT_FEATURE): -one, (INTENSIFIER, FELT_FEATURE): one,
    }  # fmt: skip
    assert weights_of(proposals[0]) == pytest.approx(good, rel=1e-5)
    other = {(CAKE, TOM): 1, (CAKE, MIA): -1, (FILM, TOM): -1, (FILM, MIA): 1}
    assert weights_of(proposals[4]) == pytest.approx(other, rel=1e-5)
    for circuit in proposals.values():
        assert circuit.explained == pytest.approx(1)
        assert {gate.gate for gate in circuit.gates} == {"XOR"}
        assert circuit.proposal.energy_of_four == pytest.approx(1)


def test_opposite_ends_of_a_direction_are_named_together(proposals):
    opposite = {output: circuit.proposal.opposite for output, circuit in proposals.items()}
    assert opposite == {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4, 6: 7, 7: 6}


def test_a_layer_that_learned_nothing_has_no_proposals():
    found = propose_circuits(untrained(planted_model(), 0), planted_dictionaries())
    assert found == []
    said = proposals_text(found, 0)
    assert said.startswith("no output of layer 0 has a significant pair: there is nothing to pro")
    assert "circuits sae quality RUN" in said


def test_as_many_are_proposed_as_are_asked_for(proposals):
    found = propose_circuits(planted_model(), planted_dictionaries(), n=3)
    assert len(found) == 3
    assert all(circuit == proposals[circuit.outputs[0].feature] for circuit in found)
    assert proposals_text(found, 0).count("layer 0 output") == 3


def test_outputs_are_ranked_by_energy_and_size():
    into, out = planted_dictionaries().values()
    layer = planted_model().layer(0)
    table = gate_likeness(Interactions(layer, into.basis(least_squares=True), out.basis("encoder")))
    assert table["score"].is_monotonic_decreasing
    assert table["score"].iloc[0] == pytest.approx(1)
    assert list(table["energy"]) == pytest.approx([1] * 8)


def test_a_proposal_is_validated_like_any_circuit(proposals, tmp_path):
    circuit = Circuit.load(proposals[0].save(tmp_path / "proposal.json"))
    behaviour = planted_behaviour().halves()[1]
    found = validate(planted_model(), circuit, behaviour, planted_dictionaries(), n_draws=1)
    removed = found.edit(EditKind.REMOVE)
    assert removed["removed"] == pytest.approx(1, abs=1e-5)
    assert removed["side_effect"] == pytest.approx(
        1, abs=1e-5
    )  # it is the whole product, of all classes
    assert not found.claims[Claim.SPECIFIC]
    assert found.checks["off_by"].max() < 1e-6
    assert verdict(circuit) == "found without a behaviour: nothing is known of a contrast"


def test_what_cannot_be_proposed_is_refused():
    model, dictionaries = planted_model(), planted_dictionaries()
    with pytest.raises(FeatureRangeError, match="n = 0"):
        propose_circuits(model, dictionaries, n=0)
    with pytest.raises(DictionaryError, match=r"for layer 1 \(there are for \[0\]\)"):
        propose_circuits(model, dictionaries, 1)
    with pytest.raises(DictionaryError, match=r"there are for none"):
        propose_circuits(model, {Site("mlp_in", 0): dictionaries[Site("mlp_in", 0)]})
