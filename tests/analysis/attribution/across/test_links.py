"""What earlier pairs feed later ones, beside the same from the paths of each text."""

import pytest
import torch

from analysis.attribution.across.effect import LayerEffect, beyond_mean
from analysis.attribution.across.links import links
from analysis.attribution.across.recorded import Recorded
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.in_model import in_model
from circuits.attention import text_paths
from circuits.model import Site
from tests.support.planted_layers import three_dictionaries, three_layers
from tests.support.planted_looks import stirred
from tests.support.planted_negation import GOOD, INTENSIFIER, NEGATOR, planted_behaviour


@pytest.mark.parametrize("layers", [(0, 1), (1, 2), (0, 2)])
def test_a_link_is_the_part_of_a_product_that_paths_carry_into_either_feature(layers):
    model, dictionaries = stirred(three_layers(), 0.2), three_dictionaries()
    one, two = layers
    recorded = Recorded.of(in_model(planted_behaviour(), model))
    first, second = (dictionaries[Site("mlp_in", n)] for n in layers)
    early = [(NEGATOR, GOOD), (GOOD, GOOD), (INTENSIFIER, first.n_feature)]
    used = active(recorded, two, second)
    late = [(used[0], used[1]), (used[1], used[1]), (used[2], second.n_feature)]
    added = links(recorded, (one, first, early), (two, second, late))
    wanted = torch.tensor([
        [by_paths(recorded, layers, PairTerms.of(recorded.model, one, first, [source]),
                  second, pair) for source in early]
        for pair in late
    ])  # fmt: skip
    assert (wanted.abs() > 1e-6).sum() >= 4
    assert added.flatten().tolist() == pytest.approx(wanted.flatten().tolist(), abs=1e-6)


def active(recorded, layer, dictionary):
    """The features that are active most often."""
    code = dictionary.encode(recorded.inputs[layer][:, 1:])
    return (code != 0).sum((0, 1)).argsort(descending=True, stable=True)[:3].tolist()


def by_paths(recorded, layers, terms, dictionary, pair):
    """Of one pair of each layer, from the definition."""
    (one, two), cases, constant = layers, recorded.cases, dictionary.n_feature
    wrote = terms(recorded.inputs[one]).double()
    code = dictionary.encode(recorded.inputs[two]).double()
    halves = torch.zeros(*cases.tokens.shape, 1, dtype=torch.float64)
    for case, row in enumerate(cases.tokens):
        n = int(cases.position[case]) + 1
        paths = text_paths(recorded.model, row[:n])
        arrived = paths.carry(
            wrote[case, :n], Site("mlp_out", one), torch.arange(n), Site("mlp_in", two)
        ).sum(0)
        for end, other in (pair, pair[::-1]):
            if end != constant:
                part = arrived @ dictionary.encoder[end].double() * (code[case, :n, end] != 0)
                known = code[case, :n, other] / 2 if other != constant else 1.0
                halves[case, :n, 0] += part * known
    unit = PairTerms.of(recorded.model, two, dictionary, [pair]).written.double()
    written = beyond_mean(recorded, halves) * unit
    reads = LayerEffect.of(recorded, two).reads
    return float((cases.weights(cases.affected) * (reads * written).sum((1, 2))).sum())
