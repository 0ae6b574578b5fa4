"""TransformerLens' bridge over a bilinear model, kept from turning it into something else.

The bridge is right as it is made. ``enable_compatibility_mode()`` with any weight processing is
not: TransformerLens 3.9 does not know the activation ``linear`` and silently runs a SiLU in its
place. Here that call is refused; ``enable_compatibility_mode(no_processing=True)`` is let through.
A hook of the bridge at ``hook_resid_mid`` changes what the norm is given but not the stream itself,
where ``Model.replaced`` at ``resid_mid`` changes both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from circuits.errors import ModelError
from circuits.model.llama import distance

if TYPE_CHECKING:
    from circuits.model.model import Model


def hooked(model: Model, tokenizer: Any) -> Any:
    """A bridge over a copy of the model's network, checked on random tokens."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(
        str(model.path),
        hf_model=copy.deepcopy(model.network),
        tokenizer=tokenizer,
        dtype=model.dtype,
        device=str(model.device),
    )
    bridge.enable_compatibility_mode = _refusing_to_process(bridge.enable_compatibility_mode)
    bridge.process_weights = _refuse
    _check(model, bridge)
    return bridge


def _refusing_to_process(enable: Callable[..., None]) -> Callable[..., None]:
    def enable_compatibility_mode(disable_warnings: bool = False, **options: Any) -> None:
        if not options.pop("no_processing", False):
            _refuse()
        enable(disable_warnings=disable_warnings, no_processing=True)

    return enable_compatibility_mode


def _refuse(*_args: Any, **_options: Any) -> None:
    raise ModelError(
        "TransformerLens' weight processing replaces an activation that it does not know by SiLU, "
        "without a word, and a bilinear model's is one. Use the bridge as it is, or "
        "enable_compatibility_mode(no_processing=True)."
    )


@torch.no_grad()
def _check(model: Model, bridge: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (2, min(8, model.n_context))
    tokens = torch.randint(model.n_token, size, generator=generator).to(model.device)
    logits, cache = bridge.run_with_cache(tokens)
    errors = {"logits": distance(logits, model.logits(tokens))}
    for i in range(model.n_layer):
        pre, lin, post = (cache[f"blocks.{i}.mlp.hook_{n}"] for n in ("pre", "pre_linear", "post"))
        errors[f"layer {i}"] = distance(post, pre * lin)
    near = max(1e-4, 16 * torch.finfo(model.dtype).eps)
    wrong = {where: error for where, error in errors.items() if not error < near}
    if wrong:
        listed = ", ".join(f"{where} by {error:.2g}" for where, error in wrong.items())
        raise ModelError(
            f"{model.path}: TransformerLens' bridge does not compute what the model does: off in "
            f"{listed}. Use model.read and model.replaced, which run the model itself."
        )
