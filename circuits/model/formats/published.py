"""Language models in the layout of the paper's own checkpoints, as Hugging Face Llama models.

The conversion is exact: weights are renamed and split, and the attention output's factor ``1 /
sqrt(2 · n_layer)`` is multiplied into its weight. Norms there have no weights (here: ones). Where
``normalization`` is off, norms here divide by a constant and multiply by it again (`FIXED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.errors import ModelError, number_faults
from circuits.model.formats.llama import FIXED

_SIZES = ("n_head", "n_layer", "n_ctx", "d_model", "d_hidden")
_KNOWN = {*_SIZES, "bilinear", "gate", "bias", "normalization", "tokenizer", "repo"}


def is_published(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has this layout rather than Hugging Face's."""
    return "model_type" not in config and "n_layer" in config and "d_hidden" in config


def check_published(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse what cannot be converted exactly, naming every field."""
    faults = [f"unknown field '{name}'" for name in config if name not in _KNOWN]
    flags = {"bias": False, "normalization": True}
    faults += number_faults({**flags, **config}, dict.fromkeys(_SIZES, 1), flags=[*flags])
    if config.get("bilinear") is not True:
        faults.append(f"bilinear is {config.get('bilinear')!r}: its MLP is not bilinear")
    if config.get("gate") is not None:
        faults.append(f"gate is {config['gate']!r}: an activation on one factor, so not bilinear")
    if not faults and config["d_model"] % config["n_head"]:
        faults.append(f"d_model {config['d_model']} cannot be split into {config['n_head']} heads")
    if faults:
        raise ModelError(
            f"{where}: " + "; ".join(faults) + ". Only a bilinear model can be converted "
            "without change."
        )


def convert(
    where: Path, config: Mapping[str, Any], published: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The Llama configuration and weights that compute the same function, of a checked one."""
    left, d, hidden = dict(published), config["d_model"], config["d_hidden"]

    def take(name: str, *wanted: int) -> Tensor:
        if name not in left:
            raise ModelError(f"{where}: its weights lack {name}. Copy the whole checkpoint.")
        weight = left.pop(name)
        if weight.shape != wanted:
            raise ModelError(
                f"{where}: {name} has shape {tuple(weight.shape)}, where config.json asks for "
                f"{wanted}. The weights are not those of its config.json."
            )
        return weight.float()  # before anything is multiplied

    head = published.get("lm_head.weight")
    n_token = len(head) if head is not None and head.ndim else 1
    embed = take("transformer.wte.weight", n_token, d)
    state = {
        "model.embed_tokens.weight": embed,
        "lm_head.weight": take("lm_head.weight", n_token, d),
    }
    ones = torch.full((d,), 1.0 if config.get("normalization", True) else FIXED**0.5)
    state["model.norm.weight"] = ones
    for layer in range(config["n_layer"]):
        old, new = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{new}{norm}.weight"] = ones.clone()
        stacked = take(f"{old}attn.qkv.weight", 3 * d, d).chunk(3)
        for name, part in zip("qkv", stacked, strict=True):
            state[f"{new}self_attn.{name}_proj.weight"] = part.clone()
        scale = (2 * config["n_layer"]) ** -0.5
        state[f"{new}self_attn.o_proj.weight"] = take(f"{old}attn.o.weight", d, d) * scale
        for kind in ("weight", "bias") if config.get("bias") else ("weight",):
            inputs, outputs = ((d,), (hidden,)) if kind == "weight" else ((), ())
            factors = take(f"{old}mlp.w.{kind}", 2 * hidden, *inputs).chunk(2)
            for name, part in zip(("gate", "up"), factors, strict=True):
                state[f"{new}mlp.{name}_proj.{kind}"] = part.clone()
            state[f"{new}mlp.down_proj.{kind}"] = take(f"{old}mlp.p.{kind}", d, *outputs)
        left.pop(f"{old}attn.rotary.inv_freq", None)
    if left:
        raise ModelError(
            f"{where}: unknown weights {', '.join(sorted(left)[:3])}, which have no place in a "
            f"Llama model. Load a checkpoint of the published layout."
        )
    return _llama_config(config, n_token), state


def _llama_config(config: Mapping[str, Any], n_token: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": n_token,
        "hidden_size": config["d_model"],
        "intermediate_size": config["d_hidden"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "num_key_value_heads": config["n_head"],
        "head_dim": config["d_model"] // config["n_head"],
        "max_position_embeddings": config["n_ctx"],
        "hidden_act": "linear",
        "mlp_bias": bool(config.get("bias")),
        "rms_norm_eps": 1e-8 if config.get("normalization", True) else FIXED,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        # not stated in published configurations
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
