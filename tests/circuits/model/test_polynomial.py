"""Transformers without a softmax compute what the description of their layout says."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import score_ledger
from analysis.cli.main import main
from circuits import Basis
from circuits.errors import FeatureRangeError, ModelError
from circuits.model import Site, load_model
from circuits.model.formats.heads import scores_of_run, watched_patterns
from circuits.model.loading import untrained
from tests.support.small import normal, relative_error
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import (
    N_TOKEN,
    POLYNOMIAL,
    polynomial_folder,
    polynomial_weights,
    some_tokens,
)


def turned(x: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions: number j and number j + half turn together."""
    half = x.shape[-1] // 2  # angles in float32, as everyone has them
    angles = torch.arange(x.shape[-2])[:, None] * (1 / base ** (torch.arange(half) / half))
    one, two = x[..., :half], x[..., half:]
    cos, sin = angles.cos().double(), angles.sin().double()
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)


def reference(weights: dict, sizes: dict, tokens: torch.Tensor) -> torch.Tensor:
    """The forward pass, from the description of the layout alone; in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def norm(x, name):
        if sizes["norm_type"] == "channel":
            return x * w[f"{name}.scale"]
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    x = w["embed.weight"][tokens]
    for i in range(sizes["n_layers"]):
        at = f"blocks.{i}."
        read = norm(x, f"{at}norm_attn")
        q1, k1, q2, k2 = (
            turned(read @ w[f"{at}attn.{name}_proj.weight"].mT, sizes["rope_base"])
            for name in ("q1", "k1", "q2", "k2")
        )
        scores = torch.einsum("btd,bud->btu", q1, k1) * torch.einsum("btd,bud->btu", q2, k2)
        seen = (scores / sizes["d_head"]).tril() @ (read @ w[f"{at}attn.v_proj.weight"].mT)
        x = x + seen @ w[f"{at}attn.o_proj.weight"].mT
        read = norm(x, f"{at}norm_mlp")
        hidden = (read @ w[f"{at}mlp.w_m.weight"].mT) * (read @ w[f"{at}mlp.w_n.weight"].mT)
        x = x + hidden @ w[f"{at}mlp.w_proj.weight"].mT
    return norm(x, "final_norm") @ w["unembed.weight"].mT


KINDS = pytest.mark.parametrize("norm_type", ["channel", "rms"])


@pytest.fixture
def folder(tmp_path):
    return polynomial_folder(tmp_path / "model")


@KINDS
def test_the_logits_are_those_of_the_description(norm_type, tmp_path):
    model = load_model(polynomial_folder(tmp_path, norm_type=norm_type), device="cpu")
    sizes = {**POLYNOMIAL, "norm_type": norm_type}
    tokens = some_tokens(4, 20)
    wanted = reference(polynomial_weights(sizes), sizes, tokens)
    assert relative_error(model.logits(tokens), wanted) < 1e-5
    exact = model.in_dtype(torch.float64)
    assert relative_error(exact.logits(tokens), wanted) < 1e-6


@KINDS
def test_a_layer_computes_what_its_site_holds(norm_type, tmp_path):
    model = load_model(polynomial_folder(tmp_path, norm_type=norm_type), device="cpu")
    for layer in range(2):
        sites = [f"{point}@{layer}" for point in ("resid_pre", "attn_out", "resid_mid", "mlp_in",
                                                  "mlp_out", "resid_post")]  # fmt: skip
        pre, attn, mid, x, out, post = model.read(some_tokens(), sites).values()
        assert relative_error(model.layer(layer)(x), out) < 1e-5
        assert relative_error(pre + attn, mid) < 1e-6
        assert relative_error(mid + out, post) < 1e-6


@KINDS
def test_what_is_saved_is_the_same_model_and_layout(norm_type, tmp_path):
    model = load_model(polynomial_folder(tmp_path / "given", norm_type=norm_type), device="cpu")
    again = load_model(model.save(tmp_path / "saved"), device="cpu")
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.logits(some_tokens()), model.logits(some_tokens()))
    given, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("given", "saved"))
    assert given.keys() == saved.keys()
    for name, weight in given.items():
        torch.testing.assert_close(saved[name], weight, rtol=1e-6, atol=0)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config == {"model": {**POLYNOMIAL, "norm_type": norm_type}}


def test_generation_with_a_cache_gives_what_whole_passes_give(folder):
    network = load_model(folder, device="cpu").network
    tokens = some_tokens(3, 18)
    first = network(tokens[:, :9], use_cache=True)
    cache, found = first.past_key_values, [first.logits]
    for place in range(9, 18):
        step = network(tokens[:, place : place + 1], past_key_values=cache, use_cache=True)
        found.append(step.logits)
    whole = network(tokens, use_cache=False).logits
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)
    made = network.generate(tokens[:1, :5], max_new_tokens=6, do_sample=False)
    for place in range(5, 11):
        before = network(made[:, :place], use_cache=False).logits[0, -1]
        assert int(before.argmax()) == int(made[0, place])


def test_an_untrained_model_has_the_same_shape_and_layers(folder):
    model = load_model(folder, device="cpu")
    control = untrained(model, seed=1)
    assert control.fingerprint != model.fingerprint
    assert control.logits(some_tokens()).shape == (3, 11, N_TOKEN)
    x, out = control.read(some_tokens(), ["mlp_in@1", "mlp_out@1"]).values()
    assert relative_error(control.layer(1)(x), out) < 1e-5


def test_transformer_lens_is_refused_in_words(folder):
    with pytest.raises(ModelError, match=r"no attention without a softmax\. Use model\.read"):
        _ = load_model(folder, device="cpu").hooked


def test_info_says_that_there_is_no_softmax(folder, capsys):
    assert main(["model", "info", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "attention bilinear, no softmax" in shown
    assert "none: fixed scales" in shown


def changed(folder, weights=None, **fields):
    """The folder with other weights, or another configuration."""
    state = load_file(folder / "model.safetensors")
    for name, change in (weights or {}).items():
        if change is None:
            del state[name]
        else:
            state[name] = change(state.get(name))
    save_file(state, folder / "model.safetensors")
    sizes = {name: x for name, x in {**POLYNOMIAL, **fields}.items() if x != "absent"}
    (folder / "config.json").write_text(json.dumps({"model": sizes}))
    return folder


@pytest.mark.parametrize(
    ("weights", "fields", "said"),
    [
        ({"blocks.0.attn.q1_proj.weight": None}, {}, "lacks blocks.0.attn.q1_proj.weight"),
        ({"blocks.1.norm_mlp.scale": None}, {}, "lacks blocks.1.norm_mlp.scale"),
        ({"blocks.0.attn.bias": lambda _: torch.ones(3)}, {}, "holds the unknown blocks.0.attn.b"),
        ({"embed.weight": lambda x: x[:5].clone()}, {}, r"embed.weight has shape \(5, 16\), where"),
        ({"unembed.weight": lambda x: x * float("nan")}, {}, "unembed.weight holds NaN"),
        ({}, {"norm_type": "rms"}, "holds the unknown"),
        ({}, {"d_head": 5}, "d_head is 5: a rotary embedding turns pairs"),
        ({}, {"softcap": 3.0}, "unknown field 'softcap'"),
        ({}, {"norm_type": "layer"}, "norm_type is 'layer', not channel or rms"),
        ({}, {"n_layers": 0}, "n_layers is 0"),
        ({}, {"rope_base": -1.0}, "rope_base is -1.0"),
        ({}, {"vocab_size": "63"}, "vocab_size is '63'"),
        ({}, {"d_head": "absent"}, "d_head is None"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(weights, fields, said, folder):
    with pytest.raises(ModelError, match=said) as refusal:
        load_model(changed(folder, weights, **fields), device="cpu")
    assert "\n" not in str(refusal.value)


def test_without_weights_nothing_is_loaded(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_model(folder, device="cpu")


@KINDS
def test_a_pattern_is_the_product_of_what_two_pairs_of_features_add(norm_type, tmp_path):
    model = load_model(polynomial_folder(tmp_path, norm_type=norm_type), dtype=torch.float64)
    tokens, width = some_tokens(1), model.d_model
    for layer in range(model.n_layer):
        site, head = Site("resid_pre", layer), model.head(layer, 0)
        assert head.n_form == 2
        x = model.read(tokens, site)[site][0]
        x = x / model.scale(x)[:, None]
        with watched_patterns(model.network) as patterns:
            model.logits(tokens)
        assert relative_error(head.scores(x).tril(), patterns[layer][0]) < 1e-12
        features = Basis.from_decoder(torch.eye(width, dtype=torch.float64))
        apart = [head.looks(features, features, 3, at=2, form=form).matrix() for form in (0, 1)]
        one, two = (x[5] @ form @ x[2] for form in apart)
        assert abs(float(one * two - patterns[layer][0, 5, 2])) < 1e-12 * float(abs(one * two))
        both = scores_of_run(model.network, tokens, layer)[0]
        torch.testing.assert_close(both[:, 5, 2], torch.stack([one, two]))
        moved = patterns[layer][0] @ head.moved(x)
        out = model.read(tokens, f"attn_out@{layer}")[Site("attn_out", layer)]
        assert relative_error(moved, out[0]) < 1e-12
    with pytest.raises(FeatureRangeError, match="there is no form 2; they run from 0 to 1"):
        head.looks(features, features, 3, form=2)


def test_a_score_of_two_has_an_account_of_each(tmp_path):
    model = load_model(polynomial_folder(tmp_path), dtype=torch.float64)
    wide = {
        name: normal(40, model.d_model, seed=5, dtype=torch.float64)
        for name in ("encoder", "decoder")
    }
    zeros = {"bias": torch.zeros(40).double(), "offset": torch.ones(model.d_model).double()}
    features = small_dictionary(**wide, **zeros, site=Site("resid_pre", 1), dtype=torch.float64)
    tokens = some_tokens(1)[0]
    made = [score_ledger(model, 1, 0, features, tokens, 5, 2, form=form) for form in (0, 1)]
    wanted = scores_of_run(model.network, tokens[None], 1)[0, :, 5, 2]
    for ledger, value in zip(made, wanted, strict=True):
        assert ledger.computed == pytest.approx(float(value), rel=1e-9)
