"""Where each site lies in transformers' modules, and how an activation is caught there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from circuits.model.site import Site


class ReadAll(Exception):
    """Raised at the last site that is wanted."""


def attach(
    network: Any, site: Site, function: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Show every pass's activation to the function; a tensor that it returns takes its place."""
    block = network.model.layers[site.layer]
    if site.point == "resid_pre":
        return _before(block, function)
    if site.point == "resid_mid":
        return _before(block.post_attention_layernorm, lambda x: _in_place(x, function))
    if site.point == "mlp_in":
        return _before(block.mlp, function)
    module = {"attn_out": block.self_attn, "mlp_out": block.mlp, "resid_post": block}[site.point]
    return _after(module, function)


def _before(module: Any, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    def hook(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        by_name = not args
        new = function(kwargs["hidden_states"] if by_name else args[0])
        if new is None:
            return None
        return ((), {**kwargs, "hidden_states": new}) if by_name else ((new, *args[1:]), kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: Any, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    def hook(_module: Any, _args: tuple, out: Any) -> Any:
        new = function(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    return module.register_forward_hook(hook)


def _in_place(x: Tensor, function: Callable[[Tensor], Tensor | None]) -> None:
    """The layer has kept this very tensor as its residual, so it must change where it lies."""
    before = x.clone()
    new = function(before)
    if new is not None:
        x.copy_(new)
