"""The gated model that a twin is made from, read as strictly as a bilinear one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from circuits.corpus.tokenizer import tokenizer_hash
from circuits.errors import ModelError
from circuits.model.formats.llama import build, check_stream, write_about
from circuits.model.formats.published import check_published, is_published
from circuits.model.formats.tokenizer import read_tokenizer
from circuits.model.formats.weights import read_config, read_weights
from circuits.model.loading import chosen_device, local_folder, without_gates
from circuits.model.model import Model
from circuits.twin.gates import GATES, check_offset

_SAMPLE = "Once upon a time, there was a girl. She said: 'not 2 good!'"
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")


def load_original(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """A gated model that runs and can be read and edited by site; it has no exact `layer`."""
    folder = local_folder(path)
    config = read_config(folder)
    check_gated(folder / "config.json", config)
    network = build(folder, config, read_weights(folder))
    check_offset(network)
    words_at = folder if tokenizer is None else local_folder(tokenizer)
    words = read_tokenizer(words_at, network.config.vocab_size, required=True)
    _check_read_again(network, words, words_at)
    network = network.to(chosen_device(device))
    check_stream(folder, network)
    return Model(network, words, folder)


def _check_read_again(network: Any, words: Any, given: Path) -> None:
    """Refuse, before anything is trained, a tokenizer that cannot be saved, or will be another one
    beside this model's config, which may decide the class that reads it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_about(network, words, folder)
        again: Any = read_tokenizer(folder, network.config.vocab_size, required=True)
    if tokenizer_hash(again) != tokenizer_hash(words) or again(_SAMPLE) != words(_SAMPLE):
        raise ModelError(
            f"{given}: read as a {network.config.model_type}, as its twin's folder will be, this "
            f"{type(words).__name__} is a {type(again).__name__} and gives other tokens. Pass a "
            f"tokenizer of the original's own family."
        )


def check_gated(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse, before any weight is read, what has no bilinear twin."""
    kind = config.get("model_type")
    if is_published(config):
        check_published(where, config)
    if without_gates(config):
        raise ModelError(
            f"{where}: this model is bilinear already, so it is its own twin and there is nothing "
            f"to do. Load it with load_model, or name it to any other command."
        )
    if kind is None:
        raise ModelError(f"{where}: field 'model_type' is missing: not a Hugging Face model.")
    if config.get("quantization_config"):
        raise ModelError(
            f"{where}: the weights are quantised (quantization_config), and a twin is trained in "
            f"float32. Save the model without: model.dequantize(), then model.save_pretrained."
        )
    if experts := [name for name in _EXPERTS if config.get(name)]:
        raise ModelError(
            f"{where}: {kind} is a mixture of experts ({experts[0]} is {config[experts[0]]}): "
            f"which expert computes is decided for each token, so its layers are not one tensor. "
            f"Pass a dense model, such as Llama, Mistral or Qwen2."
        )
    if "activation_function" in config:
        raise ModelError(
            f"{where}: {kind} has an MLP without a gate (activation_function "
            f"{config['activation_function']}): there is no second factor to multiply with. Pass a "
            f"gated model, such as Llama, Mistral or Qwen2."
        )
    activation = config.get("hidden_act") or config.get("hidden_activation") or "silu"
    if str(activation) not in GATES:
        raise ModelError(
            f"{where}: hidden_act is {activation!r:.40}, which is not one of the gates that fade: "
            f"{', '.join(GATES)}."
        )
