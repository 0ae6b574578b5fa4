"""Transformers that are polynomials: bilinear MLPs, and attention without a softmax.

A score is the product of two, ``(q₁·k₁)(q₂·k₂) / d_head``, and a key after the query has none.
Before each part stands a scale of each channel, or an RMSNorm without weights, which is no
polynomial. There are no biases, and one head in a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import ModelError, number_faults
from circuits.model.formats.llama import FIXED
from circuits.model.formats.weights import check_state
from circuits.storage.files import write_json

_SIZES = ("vocab_size", "seq_len", "d_model", "d_head", "d_mlp", "n_layers")
_OF_TRAINING = {"init_std", "norm_init"}
_KNOWN = {*_SIZES, *_OF_TRAINING, "rope_base", "norm_type"}
_ATTENTION = ("q1", "k1", "q2", "k2", "v", "o")
_MLP = {"w_m": "gate", "w_n": "up", "w_proj": "down"}
_NORMS = {"norm_attn": "input_layernorm", "norm_mlp": "post_attention_layernorm"}
_RMS = float(torch.finfo(torch.float32).eps)  # torch's own, where none is stated


def is_polynomial(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has this layout."""
    inside = config.get("model")
    return isinstance(inside, Mapping) and "d_mlp" in inside and "model_type" not in config


def checked_sizes(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The sizes in a configuration; refused if the weights do not fit them."""
    sizes = dict(config["model"])
    check_polynomial(folder / "config.json", sizes)
    check_state(folder, dict(weights), _shapes(sizes))
    return sizes


def check_polynomial(where: Path, sizes: Mapping[str, Any]) -> None:
    """Refuse sizes that do not say what is computed."""
    faults = [f"unknown field '{name}'" for name in sizes if name not in _KNOWN]
    faults += number_faults(
        {"rope_base": 10000.0, **sizes}, dict.fromkeys(_SIZES, 1), above_zero=("rope_base",)
    )
    if (norm := sizes.get("norm_type", "channel")) not in ("channel", "rms"):
        faults.append(f"norm_type is {norm!r}, not channel or rms")
    if not faults and sizes["d_head"] % 2:
        faults.append(f"d_head is {sizes['d_head']}: a rotary embedding turns pairs of numbers")
    if faults:
        raise ModelError(
            f"{where}: " + "; ".join(faults) + ". Only what is known can be loaded without change."
        )


def write(network: Any, folder: Path) -> None:
    """Fill a folder in this layout."""
    config = network.config
    scales = config.rms_norm_eps == FIXED
    sizes = {
        "vocab_size": config.vocab_size,
        "seq_len": config.max_position_embeddings,
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "rope_base": config.rope_parameters["rope_theta"],
        "norm_type": "channel" if scales else "rms",
    }
    state = network.state_dict()
    named = {old: (new, factor) for old, new, factor in _names(sizes)}
    weights = {old: (state[new] / factor).contiguous() for old, (new, factor) in named.items()}
    write_json(folder / "config.json", {"model": sizes})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _names(sizes: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Each weight's name here, its name in the network, and what it is multiplied by."""
    names = [("embed.weight", "model.embed_tokens.weight", 1.0)]
    names += [("unembed.weight", "lm_head.weight", 1.0)]
    scaled = sizes.get("norm_type", "channel") == "channel"
    for layer in range(sizes["n_layers"]):
        old, new = f"blocks.{layer}.", f"model.layers.{layer}."
        names += [(f"{old}attn.{part}_proj.weight", f"{new}self_attn.{part}_proj.weight", 1.0)
                  for part in _ATTENTION]  # fmt: skip
        names += [(f"{old}mlp.{part}.weight", f"{new}mlp.{name}_proj.weight", 1.0)
                  for part, name in _MLP.items()]  # fmt: skip
        if scaled:
            names += [(f"{old}{part}.scale", f"{new}{name}.weight", FIXED**0.5)
                      for part, name in _NORMS.items()]  # fmt: skip
    return names + [("final_norm.scale", "model.norm.weight", FIXED**0.5)] * scaled


def _shapes(sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d, head, hidden = sizes["d_model"], sizes["d_head"], sizes["d_mlp"]
    by_part: dict[str, tuple[int, ...]] = {f"{part}_proj": (head, d) for part in _ATTENTION}
    by_part["o_proj"] = (d, head)
    by_part |= {"w_m": (hidden, d), "w_n": (hidden, d), "w_proj": (d, hidden), "scale": (d,)}
    by_part |= dict.fromkeys(("embed", "unembed"), (sizes["vocab_size"], d))

    def shape(name: str) -> tuple[int, ...]:
        part = name.removesuffix(".weight").split(".")[-1]
        return by_part[part]

    return {old: shape(old) for old, _, _ in _names(sizes)}


def renamed(sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own weights, of those of this layout."""
    state = {new: weights[old] * factor for old, new, factor in _names(sizes)}
    if sizes.get("norm_type", "channel") == "rms":
        ones = torch.ones(sizes["d_model"])
        for layer in range(sizes["n_layers"]):
            state |= {f"model.layers.{layer}.{name}.weight": ones for name in _NORMS.values()}
        state["model.norm.weight"] = ones
    return state


def llama_config(sizes: Mapping[str, Any]) -> Any:
    """The configuration of a network of these sizes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["d_model"],
        intermediate_size=sizes["d_mlp"],
        num_hidden_layers=sizes["n_layers"],
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=sizes["d_head"],
        max_position_embeddings=sizes["seq_len"],
        hidden_act="linear",
        rms_norm_eps=FIXED if sizes.get("norm_type", "channel") == "channel" else _RMS,
        rope_parameters={"rope_type": "default", "rope_theta": float(sizes.get("rope_base", 1e4))},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
