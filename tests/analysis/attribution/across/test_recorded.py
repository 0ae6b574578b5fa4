"""What depends on a layer is measured, its pairs add up to it; a pair's removal is predicted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attribution.across.effect import LayerEffect, beyond_mean
from analysis.attribution.across.pairs import EffectPairs
from analysis.attribution.across.prediction import Prediction
from analysis.attribution.across.recorded import Recorded, aligned, mean_over_classes
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.in_model import in_model
from analysis.validation.edits import edited
from circuits.attention import frozen
from circuits.attention.frozen_run import FrozenRun
from circuits.model import Model
from circuits.model.site import Site
from tests.support.planted_negation import (
    ANSWER,
    BAD,
    GOOD,
    NEGATED,
    NEGATOR,
    both_layers,
    plant,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    planted_network,
    planted_tokenizer,
    unit,
)


def stirred(kind="moved"):
    """The planted model with every weight moved a little, so that nothing in it is zero."""
    model = planted_model(kind)
    generator = torch.Generator().manual_seed(0)
    for weight in model.network.parameters():
        weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def recorded():
    return Recorded.of(in_model(planted_behaviour(8), stirred()))


@pytest.fixture(scope="module")
def dictionary():
    return planted_dictionaries("computed")[Site("mlp_in", 0)]


def test_the_run_has_the_models_own_inputs_and_differences(recorded):
    measured = recorded.cases.difference(recorded.cases.logits()).double()
    torch.testing.assert_close(recorded.difference, measured, rtol=1e-4, atol=1e-5)
    sites = [Site("mlp_in", layer) for layer in range(2)]
    for made, wanted in zip(
        recorded.inputs,
        recorded.cases.model.read(recorded.cases.tokens, sites).values(),
        strict=True,
    ):
        torch.testing.assert_close(made, wanted.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_an_mlps_effect_is_what_is_gone_with_it_at_its_mean(recorded, layer):
    """By running the model with norm scales held, and with attention patterns held as well."""
    effect, cases = LayerEffect.of(recorded, layer), recorded.cases
    site = Site("mlp_out", layer)
    mean = mean_over_classes(cases, cases.model.read(cases.tokens, [site])[site])
    plain = cases.margins()
    run = FrozenRun.of(cases.model, cases.tiles)

    def gone(looking):
        held = run.held(looking=looking)
        with held, edited(cases.model, layer, lambda x, y: mean):
            return (plain - cases.margins()).double()

    torch.testing.assert_close(effect.measured, gone(looking=True), rtol=1e-3, atol=1e-4)
    assert effect.off_by < 1e-5
    assert effect.total == pytest.approx(effect.measured, abs=1e-4)
    frozen_sum = cases.side * (effect.frozen_reads() * effect.apart).sum((1, 2))
    torch.testing.assert_close(frozen_sum, gone(looking=False), rtol=1e-3, atol=1e-4)


def test_no_layer_reads_what_comes_after_the_answer(recorded):
    after = torch.arange(recorded.cases.tokens.shape[1]) > recorded.cases.position[:, None]
    assert not any(bool(LayerEffect.of(recorded, layer).reads[after].any()) for layer in range(2))


def test_by_way_of_all_heads_comes_all_that_earlier_tokens_wrote(recorded):
    effect = LayerEffect.of(recorded, 0)
    by_heads = effect.frozen_reads() - effect.frozen_reads([(1, 0)])
    before = torch.arange(recorded.cases.tokens.shape[1]) < recorded.cases.position[:, None]
    torch.testing.assert_close(by_heads[before], effect.frozen_reads()[before])
    assert by_heads[before].abs().max() > 1e-3
    past = effect.frozen_reads(past_mlps=True)
    assert (effect.frozen_reads() - past).abs().max() > 1e-3


def test_pairs_sum_to_what_the_mlp_makes_of_the_dictionarys_part(recorded, dictionary):
    effect = LayerEffect.of(recorded, 0)
    pairs = EffectPairs(effect, dictionary)
    x = recorded.inputs[0].clone()
    case, at = pairs.active.tokens.mT
    x[case, at] = dictionary.decode(dictionary.encode(x[case, at].float())).double()
    made = beyond_mean(recorded, recorded.layer(0)(x))
    for added, reads in ((pairs.added, effect.reads), (pairs.added_running, effect.running_reads)):
        wanted = recorded.cases.side * (reads * made).sum((1, 2))
        torch.testing.assert_close(added.sum(1), wanted, rtol=1e-5, atol=1e-7)
    weights = recorded.cases.weights(recorded.cases.affected) * recorded.cases.side
    contrast = (weights[:, None] * pairs.added).sum(0)
    assert pairs.pairs["contrast"].to_numpy() == pytest.approx(contrast.numpy())
    assert pairs.known == pytest.approx(float(contrast.sum()))


def test_what_is_written_in_every_class_alike_has_no_effect(recorded, dictionary):
    effect = LayerEffect.of(recorded, 0)
    shape = recorded.cases.tokens.shape
    same = torch.arange(shape[1])[None, :, None].double().expand(*shape, recorded.model.d_model)
    assert effect.shared(aligned(recorded.cases, same)).abs().max() < 1e-9


def test_origins_sum_to_one_and_most_is_computed_where_it_was_planted(recorded, dictionary):
    origins = EffectPairs(LayerEffect.of(recorded, 0), dictionary).origins
    parts = (origins.computed, origins.inherited, origins.later, origins.within)
    assert sum(parts) == pytest.approx(1)
    assert origins.computed > 0.5


def test_what_a_later_layer_makes_of_what_is_written_is_no_spread_within_classes():
    """The first MLP writes whether there is a negator, the second multiplies that by what the
    adjective is: the contrast that depends on the first one is made later."""
    network = planted_network("inherited")
    first, last = (layer.mlp for layer in network.model.layers)
    with torch.no_grad():
        first.down_proj.weight[:, 0] = 0
        plant(last, 0, NEGATED, 5, unit(ANSWER, -1))
    cases = in_model(planted_behaviour(8), Model(network, planted_tokenizer(), Path("later")))
    dictionaries = both_layers("inherited")
    first_layer, second_layer = (
        EffectPairs(LayerEffect.of(Recorded.of(cases), n), dictionaries[Site("mlp_in", n)]).origins
        for n in (0, 1)
    )
    assert abs(first_layer.contrast) > 1
    assert first_layer.later == pytest.approx(1, abs=1e-3)
    assert first_layer.computed == pytest.approx(0, abs=1e-9)
    assert first_layer.inherited == pytest.approx(0, abs=1e-9)
    by_norms = second_layer.later  # the last one divides by more in some classes
    assert second_layer.computed + by_norms == pytest.approx(1, abs=1e-9)
    assert abs(by_norms) < 0.2


def test_texts_without_a_token_at_a_place_have_no_part_in_its_mean():
    """Classes of unequal length are compared as one: a token among the texts that have one there,
    and first tokens not at all."""
    cases = planted_behaviour(8).cases
    longer = [
        replace(case, text=f"the {case.text}" if case.factors["negated"] else case.text, pair=None)
        for case in cases
    ]
    uneven = in_model(replace(planted_behaviour(8), cases=tuple(longer)), planted_model("moved"))
    assert len(uneven.position.unique()) == 2
    n_pos = uneven.tokens.shape[1]
    at, last = torch.arange(n_pos), uneven.position[:, None]
    ones = torch.where((at > 0) & (at <= last), 1.0, 100.0)[..., None]  # first tokens far apart
    mean = mean_over_classes(uneven, ones)
    assert mean[at <= last].flatten().equal(ones[at <= last].flatten())
    number = torch.arange(len(uneven), dtype=torch.float32)[:, None, None].expand(-1, n_pos, 1)
    mean = mean_over_classes(uneven, number)
    longest = (uneven.position == uneven.position.max()).nonzero()[:, 0]
    labels = uneven.label[longest]
    each = [longest[labels == label].float().mean() for label in labels.unique()]
    assert mean[longest, 1, 0].tolist() == pytest.approx([float(sum(each) / len(each))] * 16)


def test_planted_pairs_compute_all_that_they_add(dictionary):
    cases = in_model(planted_behaviour(16), planted_model("moved"))
    pairs = EffectPairs(LayerEffect.of(Recorded.of(cases), 0), dictionary)
    table = pairs.pairs
    planted = table[(table["first"] == NEGATOR) & table["second"].isin([GOOD, BAD])]
    added = pairs.added[:, planted.index].sum(1)
    effect = cases.effects(cases.side * added)[cases.target].abs()
    computed, inherited = pairs.computed(planted).sum(0)
    assert float(computed) == pytest.approx(float(effect))
    assert float(inherited) == pytest.approx(0, abs=1e-9)


def test_turning_tokens_round_twice_gives_them_back(recorded):
    values = torch.randn(*recorded.cases.tokens.shape, 3)
    inside = torch.arange(values.shape[1]) <= recorded.cases.position[:, None]
    twice = aligned(recorded.cases, aligned(recorded.cases, values))
    assert twice[inside].equal(values[inside])
    here = torch.arange(len(values))
    assert aligned(recorded.cases, values)[:, 0].equal(values[here, recorded.cases.position])


@pytest.mark.parametrize("layer", [0, 1])
def test_removing_a_pair_does_to_the_frozen_model_what_was_predicted(recorded, layer):
    cases = recorded.cases
    dictionary = replace(planted_dictionaries("computed")[Site("mlp_in", 0)], site=None)
    pairs = EffectPairs(LayerEffect.of(recorded, layer), dictionary).pairs
    most = pairs.sort_values("contrast", ascending=False).head(3)
    ends = list(zip(most["first"], most["second"], strict=True))
    terms = PairTerms.of(cases.model, layer, dictionary, ends)
    (x,) = cases.model.read(cases.tokens, [Site("mlp_in", layer)]).values()
    mean = mean_over_classes(cases, terms(x))
    predicted = Prediction(cases, range(len(cases))).without(layer, terms, mean)
    plain = cases.margins()

    def at_mean(x, y):
        return y - terms(x) + mean

    with frozen(cases.model, cases.tiles), edited(cases.model, layer, at_mean):
        lost = cases.margins() - plain
    assert lost.abs().max() > 1e-3
    assert (predicted - lost).abs().max() / plain.abs().max() < 1e-5
