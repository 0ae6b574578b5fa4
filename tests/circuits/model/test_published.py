"""The paper's checkpoint layout converts to a Llama model that computes the very same."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuits.errors import ModelError
from circuits.model import load_model
from tests.support.small import relative_error
from tests.support.small_models import (
    N_TOKEN,
    PUBLISHED,
    published_folder,
    published_weights,
    small_tokenizer,
    some_tokens,
)


def rotated(x: torch.Tensor, inv_freq: torch.Tensor) -> torch.Tensor:
    """Rotary positions, the two halves of a head turned against each other."""
    angles = torch.arange(x.shape[-2])[:, None] * inv_freq
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def root_mean_square(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-8).sqrt()


def reference(weights: dict, config: dict, tokens: torch.Tensor) -> torch.Tensor:
    """The forward pass, from the description of the layout alone; in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    n_pos, n_head = tokens.shape[1], config["n_head"]
    norm = root_mean_square if config["normalization"] else lambda x: x
    ahead = torch.ones(n_pos, n_pos).triu(1).bool()
    x = w["transformer.wte.weight"][tokens]
    for i in range(config["n_layer"]):
        at = f"transformer.h.{i}."
        parts = (norm(x) @ w[f"{at}attn.qkv.weight"].mT).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (n_head, -1)).transpose(1, 2) for p in parts)
        q, k = (rotated(part, w[f"{at}attn.rotary.inv_freq"]) for part in (q, k))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(ahead, float("-inf"))
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + seen @ w[f"{at}attn.o.weight"].mT / (2 * config["n_layer"]) ** 0.5
        factors = norm(x) @ w[f"{at}mlp.w.weight"].mT + w.get(f"{at}mlp.w.bias", 0)
        left, right = factors.chunk(2, dim=-1)
        x = x + (left * right) @ w[f"{at}mlp.p.weight"].mT + w.get(f"{at}mlp.p.bias", 0)
    return norm(x) @ w["lm_head.weight"].mT


@pytest.mark.parametrize("normalization", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_a_published_model_gives_the_logits_of_its_description(
    bias, n_layer, normalization, tmp_path
):
    fields = {"bias": bias, "n_layer": n_layer, "normalization": normalization}
    model = load_model(published_folder(tmp_path, **fields), device="cpu")
    config = {**PUBLISHED, **fields}
    tokens = some_tokens(4, 20)
    wanted = reference(published_weights(config), config, tokens)
    assert relative_error(model.logits(tokens), wanted) < 1e-5
    x, out = model.read(tokens, ["mlp_in@0", "mlp_out@0"]).values()
    assert relative_error(model.layer(0)(x), out) < 1e-5


def test_a_converted_model_saves_as_a_llama_model(tmp_path):
    from transformers import AutoModelForCausalLM

    model = load_model(published_folder(tmp_path / "published"), device="cpu")
    folder = model.save(tmp_path / "llama")
    theirs = AutoModelForCausalLM.from_pretrained(folder)(some_tokens()).logits
    assert relative_error(theirs.detach(), model.logits(some_tokens())) < 1e-6
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == "linear"


def test_a_published_model_takes_a_tokenizer_from_elsewhere(tmp_path):
    folder = published_folder(tmp_path / "published")
    with pytest.raises(ModelError, match=r"the model names 'hub:tdooms/ts-tokenizer-4096'"):
        load_model(folder, device="cpu").tokens("w5")
    small_tokenizer().save_pretrained(tmp_path / "words")
    model = load_model(folder, tokenizer=tmp_path / "words", device="cpu")
    assert model.tokens("w5 w6").tolist() == [[1, 5, 6]]
    assert model.hooked(model.tokens("w5 w6")).shape == (1, 3, N_TOKEN)


REFUSED = {
    "bilinear": (False, "bilinear is False: its MLP is not bilinear"),
    "gate": ("silu", "gate is 'silu': an activation on one factor"),
    "normalization": ("off", "normalization is 'off', not true or false"),
    "n_head": (3, "d_model 16 cannot be split into 3 heads"),
    "d_model": ("16", "d_model is '16', not a whole number of at least 1"),
    "bias": ("false", "bias is 'false', not true or false"),
    "dropout": (0.1, "unknown field 'dropout'"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_converted_exactly_is_refused(field, tmp_path):
    value, said = REFUSED[field]
    with pytest.raises(ModelError, match=said) as refused:
        load_model(_edited(tmp_path, **{field: value}))
    assert str(tmp_path / "config.json") in str(refused.value)


def _edited(folder, **fields):
    published_folder(folder)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **fields}))
    return folder


def test_missing_and_unknown_weights_are_named(tmp_path):
    folder = published_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "transformer.h.0.attn.extra": torch.ones(2)}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"unknown weights transformer.h.0.attn.extra"):
        load_model(folder)
    del weights["transformer.h.1.mlp.p.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lack transformer.h.1.mlp.p.weight"):
        load_model(folder)


def test_a_rounded_checkpoint_is_scaled_in_float32(tmp_path):
    folder = published_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    rounded = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(rounded, folder / "model.safetensors")
    model = load_model(folder, device="cpu")
    scaled = rounded["transformer.h.0.attn.o.weight"].float() * 6**-0.5
    assert torch.equal(model.network.model.layers[0].self_attn.o_proj.weight, scaled)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.attn.qkv.weight", (2, 16)),
        ("transformer.h.1.mlp.w.weight", (1, 16)),
        ("transformer.h.1.mlp.p.weight", (16,)),
        ("transformer.wte.weight", ()),
        ("lm_head.weight", ()),
    ],
)
def test_weights_of_another_shape_are_named(name, shape, tmp_path):
    folder = published_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: torch.ones(shape)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"weight has shape .*, where config.json asks for"):
        load_model(folder)
