"""Edits: what pairs write, by the definition, taken out of a running model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.attribution.pair_terms import PairTerms
from analysis.validation.edits import edited, removing
from circuits.errors import ModelError
from circuits.model import Model, Site
from sae import Dictionary
from tests.support.small import normal, relative_error
from tests.support.small_dictionaries import (
    small_dictionary,
    some_activations,
    threshold_dictionary,
)
from tests.support.small_models import small_network, small_tokenizer, some_tokens

LAYER = 0


def small_model(dtype: torch.dtype = torch.float64, **fields) -> Model:
    network = small_network(**fields).to(dtype).requires_grad_(False)
    return Model(network, small_tokenizer(), Path("small"))


DICTIONARIES = {
    "top k": small_dictionary(dtype=torch.float64, k=20),
    "signed": small_dictionary(dtype=torch.float64, k=20, relu=False),
    "thresholds": threshold_dictionary(level=0.5).to(torch.float64),
}
N = 48
PAIRS = [(0, 1), (7, 3), (5, 5), (4, N), (N, 9), (N, N)]


def by_definition(model: Model, dictionary: Dictionary, x: Tensor, pairs=PAIRS) -> Tensor:
    """Pair by pair and row by row: z z P[(W a + b)*(V c + b') + (W c + b)*(V a + b')], where the
    layer's biases are the constant's."""
    layer = model.layer(LAYER)
    zero = torch.zeros(layer.left.shape[0], dtype=torch.float64)
    biases = [zero if b is None else b for b in (layer.left_bias, layer.right_bias)]
    rows = []
    for row, z in zip(x, dictionary.encode(x), strict=True):
        total = torch.zeros_like(row)
        for i, j in pairs:
            sides = []
            for end in (i, j):
                vector = dictionary.offset if end == N else z[end] * dictionary.decoder[end]
                own = biases if end == N else (zero, zero)
                sides.append((layer.left @ vector + own[0], layer.right @ vector + own[1]))
            (wa, va), (wb, vb) = sides
            total = total + layer.down @ (wa * va if i == j else wa * vb + wb * va)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_terms_are_the_definition(kind, biases):
    """A pair, one given backwards, a feature with itself, with the constant, the constant alone."""
    model, dictionary = small_model(mlp_bias=biases), DICTIONARIES[kind]
    x = some_activations(60, dtype=torch.float64)
    terms = PairTerms.of(model, LAYER, dictionary, PAIRS)
    wanted = by_definition(model, dictionary, x)
    assert relative_error(terms(x), wanted) < 1e-10
    for pair, column in zip(PAIRS, terms.products(x).mT, strict=True):
        assert column.any(), f"{pair} is nowhere active, so nothing is tested of it"
    torch.testing.assert_close(terms(x.view(3, 20, 16)), terms(x).view(3, 20, 16))


def test_all_pairs_with_the_constant_are_the_whole_layer():
    """Of what the dictionary makes of an input; the plain bias is nobody's."""
    model, dictionary = small_model(mlp_bias=True), DICTIONARIES["top k"]
    layer = model.layer(LAYER)
    pairs = [(i, j) for i in range(N + 1) for j in range(i, N + 1)]
    terms = PairTerms.of(model, LAYER, dictionary, pairs)
    x = some_activations(9, dtype=torch.float64)
    wanted = layer(dictionary.reconstruct(x)) - layer.down_bias
    assert relative_error(terms(x), wanted) < 1e-10


def test_a_subset_is_those_pairs_alone():
    model, dictionary = small_model(), DICTIONARIES["top k"]
    x = some_activations(30, dtype=torch.float64)
    terms = PairTerms.of(model, LAYER, dictionary, PAIRS)
    some = terms.subset(torch.tensor([4, 0]))
    wanted = by_definition(model, dictionary, x, [PAIRS[4], PAIRS[0]])
    assert relative_error(some(x), wanted) < 1e-10
    assert len(some) == 2
    none = terms.subset(torch.tensor([], dtype=torch.int64))
    assert not none(x).any()
    assert none.products(x).shape == (30, 0)


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
def test_removing_changes_each_token_but_the_first_by_what_the_pairs_write(biases):
    model, dictionary = small_model(mlp_bias=biases), DICTIONARIES["top k"]
    tokens, (into, out) = some_tokens(), (Site("mlp_in", LAYER), Site("mlp_out", LAYER))
    before = model.read(tokens, [into, out])
    with edited(model, LAYER, removing(PairTerms.of(model, LAYER, dictionary, PAIRS))):
        after = model.read(tokens, [into, out])
    x = before[into]
    removed = by_definition(model, dictionary, x.flatten(0, 1)).view_as(x)
    assert float(removed[:, 0].abs().max()) > 0.1  # there was something to be left alone
    removed[:, 0] = 0
    torch.testing.assert_close(after[into], x, rtol=0, atol=0)
    torch.testing.assert_close(after[out], before[out] - removed)


def test_nothing_is_left_of_an_edit_after_its_block():
    model, tokens = small_model(), some_tokens()
    before = model.logits(tokens)
    terms = PairTerms.of(model, LAYER, DICTIONARIES["top k"], PAIRS)
    with edited(model, LAYER, removing(terms)):
        inside = model.logits(tokens)
    assert relative_error(inside, before) > 1e-3
    torch.testing.assert_close(model.logits(tokens), before, rtol=0, atol=0)
    broken = RuntimeError("in the block")
    with pytest.raises(RuntimeError, match="in the block"), edited(model, LAYER, removing(terms)):
        raise broken
    torch.testing.assert_close(model.logits(tokens), before, rtol=0, atol=0)


def test_edits_of_two_layers_add_up_and_one_is_refused_where_no_layer_is():
    model, tokens = small_model(), some_tokens()
    zero = lambda x, y: torch.zeros_like(y)  # noqa: E731
    with edited(model, 0, zero), edited(model, 1, zero):
        found = model.read(tokens, ["mlp_out@0", "mlp_out@1"])
    for activation in found.values():
        assert not activation[:, 1:].any()
        assert activation[:, :1].any()
    with pytest.raises(ModelError, match="has no layer 2"), edited(model, 2, zero):
        pass


def test_a_change_of_another_shape_is_refused():
    model = small_model()
    with (
        pytest.raises(ModelError, match="returned"),
        edited(model, LAYER, lambda x, y: y[:, :-1]),
    ):
        model.logits(some_tokens())


def test_half_precision_models_are_edited_in_the_dictionarys_dtype():
    model = small_model(torch.bfloat16)
    dictionary = replace(DICTIONARIES["top k"]).to(torch.float32)
    tokens, (into, out) = some_tokens(), (Site("mlp_in", LAYER), Site("mlp_out", LAYER))
    before = model.read(tokens, [into, out])
    terms = PairTerms.of(model, LAYER, dictionary, PAIRS[:2])
    with edited(model, LAYER, removing(terms)):
        after = model.read(tokens, out)[out]
    assert after.dtype == torch.bfloat16
    wanted = before[out].float() - terms(before[into])
    torch.testing.assert_close(after[:, 1:], wanted.to(torch.bfloat16)[:, 1:])


def test_products_are_those_of_known_activations():
    dictionary = DICTIONARIES["signed"]
    terms = PairTerms.of(small_model(), LAYER, dictionary, PAIRS)
    x = normal(25, 16, seed=4)
    z = torch.cat([dictionary.encode(x), torch.ones(25, 1)], dim=1)
    wanted = torch.stack([z[:, i] * z[:, j] for i, j in PAIRS], dim=1)
    torch.testing.assert_close(terms.products_of(dictionary.active(x)), wanted)
