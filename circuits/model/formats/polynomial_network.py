"""The network of a polynomial transformer: transformers' Llama with another attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from circuits.model.formats.llama import FIXED
from circuits.model.formats.polynomial import checked_sizes, llama_config, renamed, write


def load(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """The network of a folder, in float32 and without gradients."""
    sizes = checked_sizes(folder, config, weights)
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced below
        network = PolynomialTransformer(llama_config(sizes))
    network.load_state_dict(renamed(sizes, {k: v.float() for k, v in weights.items()}))
    return network.eval().requires_grad_(False)


class PolynomialAttention(nn.Module):
    """One head whose scores are products of two, ``(q₁·k₁)(q₂·k₂) / d_head``, with no softmax."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.layer_idx, self.head_dim = index, int(config.head_dim)
        for name in ("q1", "k1", "q2", "k2"):
            linear = nn.Linear(config.hidden_size, config.head_dim, bias=False)
            self.add_module(f"{name}_proj", linear)
        self.v_proj = nn.Linear(config.hidden_size, config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos model"],
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """What the head adds to the stream, and its scores."""
        queries, keys = self.sides(hidden_states, position_embeddings)
        values = self.v_proj(hidden_states)
        if past_key_values is not None:
            both, values = past_key_values.update(
                torch.cat(keys, -1)[:, None], values[:, None], self.layer_idx
            )
            keys, values = both[:, 0].split(self.head_dim, -1), values[:, 0]
        scores = self.scores(queries, keys)
        return self.o_proj(scores @ values), scores

    def sides(
        self, x: Float[Tensor, "batch pos model"], turns: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both queries and both keys, turned by their positions."""
        cos, sin = turns
        q1, q2, k1, k2 = (
            y * cos + rotate_half(y) * sin
            for y in (getattr(self, f"{name}_proj")(x) for name in ("q1", "q2", "k1", "k2"))
        )
        return (q1, q2), (k1, k2)

    def scores(
        self, queries: tuple[Tensor, ...], keys: tuple[Tensor, ...]
    ) -> Float[Tensor, "batch query key"]:
        """How much of each earlier value, and of its own, a position takes; queries are last."""
        one, two = (q @ k.mT for q, k in zip(queries, keys, strict=True))
        return (one * two / self.head_dim).tril(one.shape[2] - one.shape[1])


class Scale(nn.Module):
    """A scale of each channel, or an RMSNorm, in the activation's own dtype."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.epsilon = config.rms_norm_eps

    def forward(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """The activation, scaled."""
        if self.epsilon == FIXED:
            return x * (self.weight / math.sqrt(FIXED))
        return self.weight * (x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt())


class PolynomialTransformer(LlamaForCausalLM):
    """Llama's layers with this attention and these norms."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, block in enumerate(self.model.layers):
            block.self_attn = PolynomialAttention(config, index)
            block.input_layernorm = Scale(config)
            block.post_attention_layernorm = Scale(config)
        self.model.norm = Scale(config)

    def write_layout(self, folder: Path) -> None:
        """Fill a folder as this one was read from."""
        write(self, folder)
