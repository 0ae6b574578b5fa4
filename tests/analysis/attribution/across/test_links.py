"""What earlier pairs feed later ones, beside the same from the paths of each text."""

from dataclasses import replace

import pytest
import torch

from analysis.attribution.across.effect import LayerEffect, beyond_mean
from analysis.attribution.across.links import LaterPairs
from analysis.attribution.across.recorded import Recorded
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from circuits.attention import text_paths
from circuits.model import Site
from tests.support.planted_layers import three_dictionaries, three_layers
from tests.support.planted_looks import stirred
from tests.support.planted_negation import planted_behaviour
from tests.support.small_networks import exact_norms, small_model
from tests.support.small_traces import dictionary


@pytest.mark.parametrize("layers", [(0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("kind", ["planted", "llama", "llama with biases"])
def test_a_link_is_the_part_of_a_product_that_paths_carry_into_either_feature(kind, layers):
    (model, dictionaries), (one, two) = made(kind), layers
    recorded = Recorded.of(in_model(behaviour(kind), model))
    first, second = (dictionaries[Site("mlp_in", n)] for n in layers)
    a, b, c = active(recorded, one, first)
    early = [(a, b), (b, b), (c, first.n_feature)]
    a, b, c = active(recorded, two, second)
    late = [(a, b), (b, b), (c, second.n_feature)]
    added = LaterPairs.of(recorded, two, second, late).fed_by(one, first, early)
    arrived = [
        by_paths(recorded, layers, PairTerms.of(recorded.model, one, first, [source]))
        for source in early
    ]
    wanted = torch.tensor(
        [[halves(recorded, two, second, pair, part) for part in arrived] for pair in late]
    )
    if kind != "planted":  # whose constants are zero
        assert wanted[-1].any()
        assert wanted[:, -1].any()
    near = 1e-5 * float(wanted.abs().max())
    assert near > 0
    assert added.flatten().tolist() == pytest.approx(wanted.flatten().tolist(), abs=near)


def made(kind):
    """A model of three layers and its dictionaries."""
    if kind == "planted":
        return stirred(three_layers(), 0.2), three_dictionaries()
    model = exact_norms(small_model(kind, torch.float64, n_layer=3))
    sites = [Site("mlp_in", layer) for layer in range(3)]
    return model, {site: replace(dictionary(site.layer), site=site) for site in sites}


def behaviour(kind):
    """Two classes that differ in a word, in texts of two lengths."""
    if kind == "planted":
        return planted_behaviour(4)
    cases = []
    for pair in range(8):
        for other in (False, True):
            text = f"w{10 + pair} w20 {'w5' if other else 'w6'} w{30 - pair}" + " w7" * (pair % 2)
            right, wrong = (("w8",), ("w9",))[:: -1 if other else 1]
            label = "other" if other else "one"
            cases.append(Case(text, label, right, wrong, {"other": other}, pair))
    return Behaviour("words", tuple(cases))


def active(recorded, layer, dictionary):
    """The features that are active most often."""
    code = dictionary.encode(recorded.inputs[layer][:, 1:])
    return (code != 0).sum((0, 1)).argsort(descending=True, stable=True)[:3].tolist()


def by_paths(recorded, layers, terms):
    """What a pair of one layer wrote, at the input of another layer's MLP."""
    (one, two), cases = layers, recorded.cases
    wrote = terms(recorded.inputs[one]).double()
    arrived = torch.zeros_like(wrote)
    for case, row in enumerate(cases.tokens):
        n = int(cases.position[case]) + 1
        paths, at = text_paths(recorded.model, row[:n]), torch.arange(n)
        read = paths.carry(wrote[case, :n], Site("mlp_out", one), at, Site("mlp_in", two))
        arrived[case, :n] = read.sum(0)
    return arrived


def halves(recorded, layer, dictionary, pair, arrived):
    """The part of a pair's contrast that is half of this in either feature, from the definition."""
    cases, constant = recorded.cases, dictionary.n_feature
    code = dictionary.encode(recorded.inputs[layer]).double()
    inside = torch.arange(code.shape[1]) <= cases.position[:, None]
    made = torch.zeros(*cases.tokens.shape, 1, dtype=torch.float64)
    for end, other in (pair, pair[::-1]):
        if end != constant:
            part = arrived @ dictionary.encoder[end].double() * (code[..., end] != 0)
            known = code[..., other] / 2 if other != constant else 1.0
            made[..., 0] += part * known * inside
    unit = PairTerms.of(recorded.model, layer, dictionary, [pair]).written.double()
    written = beyond_mean(recorded, made) * unit
    reads = LayerEffect.of(recorded, layer).reads
    return float((cases.weights(cases.affected) * (reads * written).sum((1, 2))).sum())
