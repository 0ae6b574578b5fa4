"""Ledgers: rows of every kind add up to the number that the running model computed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attribution.ledger import Ledger, Reader, ledger
from circuits.errors import DictionaryError, FeatureRangeError, ModelError, TensorError
from circuits.model import Model, Site
from sae import Dictionary
from tests.support.small import normal
from tests.support.small_dictionaries import small_dictionary, threshold_dictionary
from tests.support.small_models import small_network, small_tokenizer, some_tokens

LAYER = 1


def small_model(dtype: torch.dtype = torch.float32, **fields) -> Model:
    network = small_network(**fields).to(dtype).requires_grad_(False)
    return Model(network, small_tokenizer(), Path("small"))


def inputs_at(point: str, **fields) -> Dictionary:
    return small_dictionary(site=Site(point, LAYER), **fields)


def outputs_at(point: str) -> Dictionary:
    return small_dictionary(40, site=Site(point, LAYER))


def some_ledgers(model: Model, inputs: Dictionary, out: Dictionary, n: int) -> Iterator[Ledger]:
    """Of features and tokens at random."""
    tokens = some_tokens()
    drawn = torch.Generator().manual_seed(11)

    def number(least: int, most: int) -> int:
        return int(torch.randint(least, most, (1,), generator=drawn))

    for _ in range(n):
        row, position = tokens[number(0, 3)], number(1, 11)
        reader = Reader.of(out, number(0, out.n_feature))
        yield ledger(model, LAYER, inputs, reader, row, position)


def off_by(made: Ledger) -> float:
    """Relative to the model's number or, where that is nearly nothing because rows cancel, to the
    largest row."""
    largest = float(made.rows["value"].abs().max())
    return abs(made.total - made.computed) / max(abs(made.computed), largest)


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("into", ["mlp_in", "resid_mid"])
@pytest.mark.parametrize("out", ["mlp_out", "resid_post"])
def test_rows_add_up_to_the_models_number(into, out, biases):
    """Norms' weights are not one here; the model runs in float32."""
    model = small_model(mlp_bias=biases)
    norm = model.network.model.layers[LAYER].post_attention_layernorm.weight
    assert float(norm.std()) > 0.1
    made = list(some_ledgers(model, inputs_at(into), outputs_at(out), 40))
    assert max(map(off_by, made)) < 1e-5
    numbers = torch.tensor([each.computed for each in made])
    assert float(numbers.abs().median()) > 0.1
    assert max(each.off_by for each in made if abs(each.computed) > 0.1) < 1e-4


@pytest.mark.parametrize(("into", "least"), [("mlp_in", 1e-12), ("resid_mid", 1e-7)])
def test_in_float64_nothing_but_rounding_is_left(into, least):
    """The model's norm rounds to float32 whatever it runs in: that is left of ``resid_mid``."""
    model = small_model(torch.float64, mlp_bias=True)
    out = outputs_at("resid_post").to(torch.float64)
    made = some_ledgers(model, inputs_at(into, dtype=torch.float64), out, 20)
    assert max(map(off_by, made)) < least


def test_a_ledger_that_leaves_out_the_error_does_not_add_up():
    """The sum must be able to fail."""
    made = next(some_ledgers(small_model(), inputs_at("mlp_in"), outputs_at("mlp_out"), 1))
    kept = made.rows[made.rows["kind"] != "error"]
    assert off_by(replace(made, rows=kept)) > 1e-2


@pytest.mark.parametrize(
    "inputs",
    [
        inputs_at("mlp_in", relu=False),
        replace(threshold_dictionary(), site=Site("mlp_in", LAYER)),
        replace(threshold_dictionary(level=1e6), site=Site("mlp_in", LAYER)),
    ],
    ids=["signed", "thresholds", "none active"],
)
def test_dictionaries_of_every_kind_add_up(inputs):
    made = list(some_ledgers(small_model(mlp_bias=True), inputs, outputs_at("resid_post"), 20))
    assert max(map(off_by, made)) < 1e-5
    if inputs.threshold is not None and float(inputs.threshold.min()) > 1e5:
        assert set(made[0].kinds.index) == {"constant", "error", "direct"}


def test_each_pair_of_active_features_is_one_row():
    model, inputs = small_model(mlp_bias=True), inputs_at("mlp_in")
    tokens = some_tokens()[0]
    site = Site("mlp_in", LAYER)
    x = model.read(tokens[None], site)[site][:, 6]
    active = sorted(inputs.encode(x)[0].nonzero()[:, 0].tolist())
    reader = Reader.of(outputs_at("resid_post"), 3)
    made = ledger(model, LAYER, inputs, reader, tokens, 6)
    counts = made.rows.groupby("kind").size().to_dict()
    n = len(active)
    assert counts == {
        "pair": n * (n - 1) // 2, "square": n, "linear": n, "error": n + 1, "constant": 2,
        "direct": 1,
    }  # fmt: skip
    pairs = made.rows[made.rows["kind"] == "pair"]
    assert all(a < b for a, b in zip(pairs["first"], pairs["second"], strict=True))
    assert sorted(set(pairs["first"]) | set(pairs["second"])) == active
    assert made.rows["value"].abs().is_monotonic_decreasing
    assert float(made.kinds.sum()) == pytest.approx(made.total)
    assert repr(made).startswith("Ledger(feature 3 of resid_post@1 at token 6: ")


def test_a_pairs_row_is_what_it_writes():
    """By the product itself: the encoder's row times P[(W a)*(V b) + (W b)*(V a)]."""
    model, inputs = small_model(torch.float64), inputs_at("mlp_in", dtype=torch.float64)
    tokens, site, layer = some_tokens()[1], Site("mlp_in", LAYER), model.layer(LAYER)
    x = model.read(tokens[None], site)[site][0, 5]
    z = inputs.encode(x)
    row = normal(16, seed=3)
    made = ledger(model, LAYER, inputs, Reader(row), tokens, 5)
    for each in made.rows[made.rows["kind"] == "pair"].itertuples():
        a, b = (z[f] * inputs.decoder[f] for f in (each.first, each.second))
        written = layer.down @ (
            (layer.left @ a) * (layer.right @ b) + (layer.left @ b) * (layer.right @ a)
        )
        assert each.value == pytest.approx(float(row @ written), rel=1e-9)


def test_the_layers_biases_belong_to_the_constant():
    """A feature with the constant, and the constant alone: the offset and the biases together."""
    model, inputs = small_model(torch.float64, mlp_bias=True), inputs_at("mlp_in").to(torch.float64)
    tokens, site, layer = some_tokens()[1], Site("mlp_in", LAYER), model.layer(LAYER)
    z = inputs.encode(model.read(tokens[None], site)[site][0, 5])
    row = normal(16, seed=3)
    made = ledger(model, LAYER, inputs, Reader(row), tokens, 5).rows.set_index("kind")
    left, right = (
        weight @ inputs.offset + bias
        for weight, bias in ((layer.left, layer.left_bias), (layer.right, layer.right_bias))
    )
    for each in made.loc["linear"].itertuples():
        a = z[each.first] * inputs.decoder[each.first]
        written = layer.down @ ((layer.left @ a) * right + left * (layer.right @ a))
        assert each.value == pytest.approx(float(row @ written), rel=1e-9)
    wanted = float(row @ (layer.down @ (left * right) + layer.down_bias))
    assert made.loc["constant", "value"].sum() == pytest.approx(wanted, rel=1e-9)


def test_a_readers_number_is_the_features_activation_before_selection():
    model, out = small_model(), outputs_at("resid_post")
    tokens, site = some_tokens()[0], Site("resid_post", LAYER)
    x = model.read(tokens[None], site)[site][0, 4]
    made = ledger(model, LAYER, inputs_at("mlp_in"), Reader.of(out, 7), tokens, 4)
    assert made.computed == pytest.approx(float(out.preactivations(x)[7]), rel=1e-4)


def test_what_has_no_ledger_is_refused():
    model, tokens, plain = small_model(), some_tokens()[0], Reader(normal(16))
    known = inputs_at("mlp_in")

    def refused(kind, said, *, inputs=known, reader=plain, layer=LAYER, at=3):
        with pytest.raises(kind, match=said):
            ledger(model, layer, inputs, reader, tokens, at)

    said = "the input features are of mlp_out@1, and the MLP of layer 1 reads mlp_in@1"
    refused(ModelError, said, inputs=outputs_at("mlp_out"))
    refused(ModelError, "are of mlp_in@0", inputs=small_dictionary(site=Site("mlp_in", 0)))
    refused(
        ModelError,
        "the site that this dictionary was trained at is unknown",
        inputs=small_dictionary(site=None),
    )
    refused(
        TensorError,
        r"shape \(17,\), but their last axis must have size 16",
        reader=Reader(normal(17)),
    )
    for position in (0, -1, 11):
        refused(ModelError, f"position {position} of tokens of shape .11,.", at=position)
    with pytest.raises(ModelError, match="feature 0 of mlp_in@1 reads mlp_in, which no MLP writes"):
        Reader.of(inputs_at("mlp_in"), 0)
    with pytest.raises(FeatureRangeError, match="there is no feature 48"):
        Reader.of(outputs_at("mlp_out"), 48)
    elsewhere = {"activations": {"model": "f" * 64}}
    said = "was trained on a model of hash ffffffffffff…, and this one has"
    refused(DictionaryError, said, inputs=inputs_at("mlp_in", notes=elsewhere))
    foreign = replace(outputs_at("mlp_out"), notes=elsewhere)
    refused(DictionaryError, said, reader=Reader.of(foreign, 7))
    earlier = Reader.of(small_dictionary(site=Site("mlp_out", 0)), 7)
    said = "the reader is feature 7 of mlp_out@0, and the MLP of layer 1 writes mlp_out@1"
    refused(ModelError, said, reader=earlier)
    nowhere = small_dictionary(site=Site("mlp_in", 2))
    refused(ModelError, "has no layer 2", inputs=nowhere, layer=2)
