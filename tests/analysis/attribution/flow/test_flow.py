"""The contrast flows back through every layer without a loss, and a pair's removal is foretold."""

from dataclasses import replace

import pytest
import torch

from analysis.attribution.flow.flow import Flow, aligned
from analysis.attribution.flow.pairs import FlowPairs
from analysis.attribution.flow.prediction import Prediction
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.in_model import in_model
from analysis.validation.edits import edited, removing
from circuits.attention import frozen
from circuits.model.site import Site
from tests.support.planted_negation import (
    BAD,
    GOOD,
    NEGATOR,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
)


def stirred(kind="moved"):
    """The planted model with every weight moved a little, so that nothing in it is zero."""
    model = planted_model(kind)
    generator = torch.Generator().manual_seed(0)
    for weight in model.network.parameters():
        weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def flow():
    return Flow.of(in_model(planted_behaviour(8), stirred()))


@pytest.fixture(scope="module")
def dictionary():
    return planted_dictionaries("computed")[Site("mlp_in", 0)]


def test_what_the_embeddings_pass_on_is_the_whole_difference(flow):
    measured = flow.cases.difference(flow.cases.logits()).double()
    torch.testing.assert_close(flow.difference, measured, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flow.embedded.sum(1), flow.difference, rtol=1e-9, atol=1e-9)


def test_the_last_mlps_part_is_what_it_adds_directly(flow):
    found, reads = flow.cases.read_with_answers([Site("mlp_out", 1)])
    directly = flow.cases.side * (found["mlp_out@1"] * reads).sum(1)
    torch.testing.assert_close(flow.totals[1].float(), directly, rtol=1e-3, atol=1e-5)


def test_no_layer_reads_what_comes_after_the_answer(flow):
    after = torch.arange(flow.cases.tokens.shape[1]) > flow.cases.position[:, None]
    assert not any(bool(read[after].any()) for read in flow.reads)


def test_by_way_of_all_heads_comes_all_that_earlier_tokens_wrote(flow):
    by_heads = flow.by_way_of([(1, 0)])[0]
    before = torch.arange(flow.cases.tokens.shape[1]) < flow.cases.position[:, None]
    torch.testing.assert_close(by_heads[before], flow.reads[0][before])
    assert by_heads[before].abs().max() > 1e-3


def test_pairs_sum_to_what_the_mlp_makes_of_the_dictionarys_part(flow, dictionary):
    pairs = FlowPairs(flow, 0, dictionary)
    numbers = torch.tensor(sorted(pairs.pairs["number"]))
    case, at = pairs.tokens.mT
    known = dictionary.decode(dictionary.encode(flow.inputs[0][case, at].float())).double()
    values = (flow.reads[0][case, at] * flow.layer(0)(known)).sum(1)
    wanted = torch.zeros(len(flow.cases)).double().index_add_(0, case, values) * flow.cases.side
    torch.testing.assert_close(pairs.added(numbers).sum(1), wanted, rtol=1e-5, atol=1e-7)
    table = pairs.pairs.sort_values("number")
    weights = flow.cases.weights(flow.cases.affected) * flow.cases.side
    contrast = (weights[:, None] * pairs.added(numbers)).sum(0)
    assert table["contrast"].to_numpy() == pytest.approx(contrast.numpy())


def test_origins_sum_to_one_and_most_is_computed_where_it_was_planted(flow, dictionary):
    origins = FlowPairs(flow, 0, dictionary).origins
    assert origins.computed + origins.inherited + origins.within == pytest.approx(1)
    assert origins.computed > 0.5


def test_planted_pairs_compute_all_that_they_add(dictionary):
    cases = in_model(planted_behaviour(16), planted_model("moved"))
    pairs = FlowPairs(Flow.of(cases), 0, dictionary)
    table = pairs.pairs
    planted = table[(table["first"] == NEGATOR) & table["second"].isin([GOOD, BAD])]
    planted = planted.sort_values("number")
    added = pairs.added(torch.tensor(planted["number"].to_numpy())).sum(1)
    effect = cases.effects(cases.side * added)[cases.target].abs()
    computed, inherited = pairs.computed(planted).sum(0)
    assert float(computed) == pytest.approx(float(effect))
    assert float(inherited) == pytest.approx(0, abs=1e-9)


def test_turning_tokens_round_twice_gives_them_back(flow):
    values = torch.randn(*flow.cases.tokens.shape, 3)
    inside = torch.arange(values.shape[1]) <= flow.cases.position[:, None]
    twice = aligned(flow.cases, aligned(flow.cases, values))
    assert twice[inside].equal(values[inside])
    here = torch.arange(len(values))
    assert aligned(flow.cases, values)[:, 0].equal(values[here, flow.cases.position])


@pytest.mark.parametrize("layer", [0, 1])
def test_removing_a_pair_does_to_the_frozen_model_what_was_predicted(flow, layer):
    cases = flow.cases
    dictionary = replace(planted_dictionaries("computed")[Site("mlp_in", 0)], site=None)
    most = FlowPairs(flow, layer, dictionary).pairs.sort_values("contrast", ascending=False).head(3)
    ends = list(zip(most["first"], most["second"], strict=True))
    terms = PairTerms.of(cases.model, layer, dictionary, ends)
    predicted = Prediction(cases, range(len(cases))).without(layer, terms)
    plain = cases.margins()
    with frozen(cases.model, cases.tiles), edited(cases.model, layer, removing(terms)):
        lost = cases.margins() - plain
    assert lost.abs().max() > 1e-3
    assert (predicted - lost).abs().max() / plain.abs().max() < 1e-5
