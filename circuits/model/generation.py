"""How a model continues a row of tokens, token by token."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@torch.no_grad()
def continued(
    network: Any,
    tokens: Int64[Tensor, "one pos"],
    n_token: int,
    *,
    among: Int64[Tensor, " known"],
    end: int | None,
    temperature: float,
    generator: torch.Generator,
    keep: bool,
) -> Int64[Tensor, "one longer"]:
    """The row with up to ``n_token`` tokens more, fewer where the ``end`` comes first. ``keep``
    computes only the newest position, from what is kept of earlier ones."""
    cache = None
    for _ in range(n_token):
        new = tokens if cache is None else tokens[:, -1:]
        out = network(new, past_key_values=cache, use_cache=keep, logits_to_keep=1)
        cache = out.past_key_values if keep else None
        logits = out.logits[0, -1, among].float().cpu()
        chosen = int(among[_choose(logits, temperature, generator)])
        if chosen == end:
            break
        tokens = torch.cat([tokens, tokens.new_tensor([[chosen]])], dim=1)
    return tokens


def _choose(logits: Float[Tensor, " token"], temperature: float, generator: torch.Generator) -> int:
    if temperature < torch.finfo(logits.dtype).tiny:  # as good as 0, and 0 / 0 has no chance
        return int(logits.argmax())
    chances = ((logits - logits.max()) / temperature).softmax(0)
    return int(torch.multinomial(chances, 1, generator=generator))
