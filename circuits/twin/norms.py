"""RMSNorms faded into fixed scales, one after the other, until no number depends on the data.

A norm divides each token by its own root mean square ``r``. Faded, it multiplies by ``s / r + (1 -
s) c`` instead, with ``c`` the mean of ``1 / r`` over data, and ``s`` from 1 to 0. A Llama without
norms is still a Llama that plain transformers runs: ``x / sqrt(mean(x²) + eps)`` with an ``eps`` of
1e12 divides every token by the same 1e6, which the norm's weight takes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from circuits.errors import ModelError
from circuits.model.formats.llama import FIXED


class FadingNorm(nn.Module):
    """A norm at a strength from 1, whole, to 0, a fixed scale."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, float(norm.variance_epsilon)
        self.strength, self.constant = 1.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        """The activation, scaled."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        if self.strength < 1:
            scale = self.strength * scale + (1 - self.strength) * self.constant
        return self.weight * (wide * scale).to(x.dtype)


def fading_norms(network: Any) -> list[FadingNorm]:
    """Put a fading norm in place of each of a network's, in the order in which they are used;
    refused where there are others, because all norms of a Llama share one epsilon."""
    norms = []
    for block in network.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            norms.append(FadingNorm(getattr(block, name)))
            setattr(block, name, norms[-1])
    norms.append(FadingNorm(network.model.norm))
    network.model.norm = norms[-1]
    others = [
        name
        for name, module in network.named_modules()
        if "Norm" in type(module).__name__ and not isinstance(module, FadingNorm)
    ]
    if others:
        raise ModelError(
            f"remove_norms: {type(network).__name__} has norms within its layers' parts, such as "
            f"{others[0]}, which cannot be written as fixed scales. Keep the norms of this model."
        )
    return norms


@torch.no_grad()
def fit_constants(network: Any, norms: list[FadingNorm], batches: Iterable[Tensor]) -> None:
    """Set each norm's constant to the mean of what it multiplies tokens by."""
    sums, n = torch.zeros(len(norms), dtype=torch.float64), 0
    handles = []
    for index, norm in enumerate(norms):

        def add(module: Any, args: tuple[Tensor], index: int = index) -> None:
            squares = args[0].float().square().mean(-1)
            sums[index] += float(torch.rsqrt(squares + module.epsilon).double().sum())

        handles.append(norm.register_forward_pre_hook(add))
    try:
        for tokens in batches:
            network.model(tokens, use_cache=False)  # without logits
            n += tokens.numel()
    finally:
        for handle in handles:
            handle.remove()
    for norm, total in zip(norms, sums.tolist(), strict=True):
        norm.constant = total / n


@torch.no_grad()
def made_fixed(network: Any, norms: list[FadingNorm]) -> None:
    """Write what faded norms compute as plain norms of a very large epsilon."""
    if not norms:
        return
    for norm in norms:
        norm.weight *= norm.constant * math.sqrt(FIXED)
        norm.epsilon, norm.strength = FIXED, 1.0
    network.config.rms_norm_eps = FIXED
