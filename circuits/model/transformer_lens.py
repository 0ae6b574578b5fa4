"""TransformerLens' bridge over a bilinear model, without its weight processing.

TransformerLens 3.9 does not know the activation ``linear``, and ``enable_compatibility_mode()``
silently uses a SiLU instead, so only ``no_processing=True`` is allowed. A bridge hook at
``hook_resid_mid`` changes the norm's input but not the stream; ``Model.replaced`` changes both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from circuits.errors import ModelError
from circuits.model.formats.llama import distance, has_softmax


def hooked(path: Path, network: Any, tokenizer_of: Callable[[], Any]) -> Any:
    """A bridge over copies of a model's network and tokenizer, checked on random tokens."""
    if not has_softmax(network):
        raise ModelError(
            f"{path}: TransformerLens has no attention without a softmax. Use model.read and "
            f"model.replaced, which run the model itself."
        )
    tokenizer = tokenizer_of()
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(
        str(path),
        hf_model=copy.deepcopy(network),
        tokenizer=copy.deepcopy(tokenizer),  # the bridge gives it marks that it lacks
        dtype=network.lm_head.weight.dtype,
        device=str(network.lm_head.weight.device),
        trust_remote_code=False,
    )
    bridge.enable_compatibility_mode = _refusing_to_process(bridge.enable_compatibility_mode)
    bridge.process_weights = _refuse
    _check(path, network, bridge)
    return bridge


def _refusing_to_process(enable: Callable[..., None]) -> Callable[..., None]:
    def enable_compatibility_mode(disable_warnings: bool = False, **options: Any) -> None:
        if not options.pop("no_processing", False):
            _refuse()
        enable(disable_warnings=disable_warnings, no_processing=True)

    return enable_compatibility_mode


def _refuse(*_args: Any, **_options: Any) -> None:
    raise ModelError(
        "TransformerLens' weight processing silently replaces an activation that it does not know, "
        "such as a bilinear model's, by SiLU. Use the bridge as it is, or "
        "enable_compatibility_mode(no_processing=True)."
    )


@torch.no_grad()
def _check(path: Path, network: Any, bridge: Any) -> None:
    config, weight = network.config, network.lm_head.weight
    generator = torch.Generator().manual_seed(0)
    size = (2, min(8, int(config.max_position_embeddings)))
    tokens = torch.randint(int(config.vocab_size), size, generator=generator).to(weight.device)
    logits, cache = bridge.run_with_cache(tokens)
    errors = {"logits": distance(logits, network(tokens, use_cache=False).logits)}
    for i in range(len(network.model.layers)):
        pre, lin, post = (cache[f"blocks.{i}.mlp.hook_{n}"] for n in ("pre", "pre_linear", "post"))
        errors[f"layer {i}"] = distance(post, pre * lin)
    near = max(1e-4, 16 * torch.finfo(weight.dtype).eps)
    wrong = {where: error for where, error in errors.items() if not error < near}
    if wrong:
        listed = ", ".join(f"{where} by {error:.2g}" for where, error in wrong.items())
        raise ModelError(
            f"{path}: TransformerLens' bridge does not compute what the model does: off in "
            f"{listed}. Use model.read and model.replaced, which run the model itself."
        )
