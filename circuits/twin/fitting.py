"""Each MLP's bilinear stand-in, fitted alone to what the original's MLP is given and gives.

One pass of the original over a text shows all of its MLPs at work; each stand-in then takes a step
of its own, so that no layer waits for another. The whole twin trains from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from circuits.corpus.batches import Batch
from circuits.model.plan import cosine_rate
from circuits.storage.progress import counted

_RATE, _WARM_UP = 3e-3, 50


def fit_layers(
    original: Any, network: Any, batches: Iterator[Batch], n_steps: int
) -> tuple[float, ...]:
    """Fit the MLPs of a network whose gates are straight; by layer, the share of the original's
    output that its stand-in misses on a batch that it was not fitted to."""
    mlps = [block.mlp for block in network.model.layers]
    weights = [weight for mlp in mlps for weight in mlp.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    with counted(n_steps, "fitting each MLP", "step") as bar:
        for step in range(n_steps):
            optimizer.param_groups[0]["lr"] = cosine_rate(_RATE, _WARM_UP, n_steps, step)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(_missed(mlps, _seen(original, next(batches)))).sum().backward()
            optimizer.step()
            bar.update(1)
    with torch.no_grad():
        return tuple(map(float, _missed(mlps, _seen(original, next(batches)))))


def _missed(mlps: list[Any], seen: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The squared error of each, over the variance of what it should give."""
    return [
        (mlp(given) - wanted).square().sum() / above_zero((wanted - wanted.mean(0)).square().sum())
        for mlp, (given, wanted) in zip(mlps, seen, strict=True)
    ]


def above_zero(size: Tensor) -> Tensor:
    """What an error is divided by: 1 where the size is 0, as of an MLP that gives nothing."""
    return size.where(size > 0, 1.0)


@torch.no_grad()
def _seen(original: Any, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """What each MLP of the original is given, and what it gives, at every position of a batch."""
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        block.mlp.register_forward_hook(
            lambda _m, args, out: seen.append((args[0].flatten(0, 1), out.flatten(0, 1)))
        )
        for block in original.model.layers
    ]
    try:
        original.model(batch.tokens.to(original.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
