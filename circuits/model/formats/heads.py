"""The attention heads of a network of Llama's layout, and what attention does in one run.

Each layer's attention is run once on random input and compared with its heads, so that a network
which computes something else (norms of queries and keys, another rotation) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.algebra.head import Head
from circuits.algebra.unchanged import versions
from circuits.errors import ModelError
from circuits.model.formats.llama import distance

_FACTORS = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = "transformers.models.llama.modeling_llama"
_OF_TWO = {
    "query": "q1_proj", "key": "k1_proj", "second_query": "q2_proj", "second_key": "k2_proj",
    "value": "v_proj",
}  # fmt: skip
"""Of a head whose pattern is the product of two scores."""


class Heads:
    """Heads by layer and number."""

    def __init__(self, network: Any, where: Path) -> None:
        self.network, self.where = network, where
        self._known: dict[int, tuple[list[tuple[int, int, int]], list[Head]]] = {}

    def of(self, layer: int) -> list[Head]:
        """The heads of a layer, checked when they are first asked for, and again where weights were
        changed in place."""
        now = versions(self.network.model.layers[layer].parameters())
        if layer not in self._known or self._known[layer][0] != now:
            parts = {
                name for name, _ in self.network.model.layers[layer].self_attn.named_children()
            }
            if parts == {*_OF_TWO.values(), "o_proj"}:
                heads = [self._of_two_scores(layer)]
            else:
                self._refuse(layer, parts)
                heads = self._heads(layer)
            self._check(layer, heads)
            self._known[layer] = now, heads
        return self._known[layer][1]

    def _refuse(self, layer: int, parts: set[str]) -> None:
        if other := sorted(parts - set(_FACTORS)):
            raise ModelError(
                f"{self.where}: attention of layer {layer} has {', '.join(other)}, so its scores "
                f"are no bilinear form of the stream over its scale. Use a model without."
            )
        rotary = getattr(self.network.model, "rotary_emb", None)
        if not parts >= set(_FACTORS) or rotary is None:
            raise ModelError(
                f"{self.where}: attention of layer {layer} is not Llama's, with "
                f"{', '.join(_FACTORS)} and a rotary embedding, so it has no heads of known form. "
                f"Convert the weights to the Llama format."
            )
        if getattr(rotary, "rope_type", "") == "longrope":
            raise ModelError(
                f"{self.where}: rope_type is longrope, whose angles depend on the length of the "
                f"text, so no score is a form of the distance alone. Set another rope_type."
            )

    @cached_property
    def _rotary(self) -> tuple[Float[Tensor, "position inner"], Float[Tensor, "position inner"]]:
        n_position = int(self.network.config.max_position_embeddings)
        weight = self.network.lm_head.weight
        cosine, sine = self._angles(weight.new_empty(1, 1, 1), n_position)
        return cosine[0], sine[0]

    def _angles(self, like: Tensor, n_position: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(n_position, device=like.device)[None]
        cosine, sine = self.network.model.rotary_emb(like, positions)
        return cosine, sine

    def _heads(self, layer: int) -> list[Head]:
        block = self.network.model.layers[layer]
        attention, norm = block.self_attn, block.input_layernorm.weight
        cosine, sine = self._rotary
        width, config = cosine.shape[1], self.network.config
        factors = [getattr(attention, name) for name in _FACTORS]
        n_head, n_key = int(config.num_attention_heads), int(config.num_key_value_heads)
        split: dict[str, list[Tensor]] = {}
        for name, factor in zip(("query", "key", "value"), factors, strict=False):
            split[name] = list((factor.weight * norm).split(width))
            if factor.bias is not None:
                split[f"{name}_bias"] = list(factor.bias.split(width))
        output = factors[3].weight.split(width, dim=1)
        if len(split["query"]) != n_head or len(split["key"]) != n_key:
            raise ModelError(
                f"{self.where}: {n_head} heads and {n_key} key heads do not fit a rotary embedding "
                f"of width {width}: only a part of each head is rotated. Use another model."
            )
        heads = []
        for index in range(n_head):
            own: dict[str, Any] = {  # keys and values are shared by groups of heads
                name: parts[index if name.startswith("query") else index * n_key // n_head]
                for name, parts in split.items()
            }
            own |= {"output": output[index], "cosine": cosine, "sine": sine}
            name = f"head {layer}.{index}"
            heads.append(Head(**own, scaling=float(attention.scaling), name=name))
        return heads

    def _of_two_scores(self, layer: int) -> Head:
        block = self.network.model.layers[layer]
        attention, norm = block.self_attn, block.input_layernorm.weight
        cosine, sine = self._rotary
        own = {name: getattr(attention, part).weight * norm for name, part in _OF_TWO.items()}
        return Head(
            **own, output=attention.o_proj.weight, cosine=cosine, sine=sine,
            scaling=attention.head_dim**-0.5, name=f"head {layer}.0",
        )  # fmt: skip

    @torch.no_grad()
    def _check(self, layer: int, heads: list[Head]) -> None:
        """Compare a layer's attention with its heads on random input, each looking everywhere."""
        block, config = self.network.model.layers[layer], self.network.config
        n_position = min(8, int(config.max_position_embeddings))
        generator = torch.Generator().manual_seed(0)
        weight = self.network.lm_head.weight
        x = torch.randn(1, n_position, weight.shape[1], generator=generator).to(weight)
        normed = block.input_layernorm(x)
        with attending(self.network):
            out, pattern = block.self_attn.forward(  # without hooks, which may replace it now
                hidden_states=normed,
                position_embeddings=self._angles(x, n_position),
                attention_mask=None,
            )
        x = x / (x.square().mean(-1, keepdim=True) + float(config.rms_norm_eps)).sqrt()
        scores = torch.stack([head.scores(x[0]) for head in heads])
        if heads[0].n_form == 1:
            sure = pattern[0] > 1e-6
            error = distance(pattern[0].log()[sure], scores.log_softmax(-1)[sure])
        else:
            error = distance(pattern[0], scores[0].tril())
        made = torch.zeros_like(scores[0] @ x[0].to(scores))
        for head, looks in zip(heads, pattern[0] if pattern.ndim > 3 else pattern, strict=True):
            made += looks.to(made) @ head.moved(x[0])
        bias = block.self_attn.o_proj.bias
        error = max(error, distance(out[0], made if bias is None else made + bias))
        if not error < max(1e-3, 8 * torch.finfo(weight.dtype).eps):
            raise ModelError(
                f"{self.where}: attention of layer {layer} is not what its heads compute (relative "
                f"error {error:.2g} on random input), as it is in Llama: "
                f"{type(block.self_attn).__name__} computes something else. Convert the weights to "
                f"the Llama format."
            )


@contextmanager
def attending(network: Any, how: str = "eager") -> Iterator[None]:
    """Within the block, attention is computed in another way; the usual one computes its pattern as
    a tensor."""
    before = network.config._attn_implementation
    network.config._attn_implementation = how
    try:
        yield
    finally:
        network.config._attn_implementation = before


@torch.no_grad()
def scores_of_run(
    network: Any, tokens: Int64[Tensor, "batch pos"], layer: int
) -> Float[Tensor, "batch head_or_form query_pos key_pos"]:
    """The scores of a layer's heads as the network computes them, before the mask: products of its
    projections, rotated by its own function. Of a head with two scores, both."""
    attention, seen = network.model.layers[layer].self_attn, dict[str, Tensor]()
    two = hasattr(attention, "q1_proj")
    names = [f"{side}{form}_proj" for side in "qk" for form in ((1, 2) if two else ("",))]
    with ExitStack() as hooks:
        for name in names:

            def keep(_module: Any, _args: Any, out: Tensor, name: str = name) -> None:
                seen[name] = out.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

            hooks.callback(getattr(attention, name).register_forward_hook(keep).remove)
        network.model(tokens, use_cache=False)
    half = len(names) // 2
    query, key = (torch.cat([seen[n] for n in part], 1) for part in (names[:half], names[half:]))
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    angles = network.model.rotary_emb(query, positions)
    home = _LLAMA if two else type(attention).__module__
    query, key = import_module(home).apply_rotary_pos_emb(query, key, *angles)
    if two:
        return query @ key.mT / attention.head_dim**0.5
    key = key.repeat_interleave(attention.num_key_value_groups, dim=1)
    return query @ key.mT * attention.scaling


@contextmanager
def watched_patterns(network: Any) -> Iterator[list[Float[Tensor, "batch head query_pos key_pos"]]]:
    """Where each head of each layer looks, of the passes within the block."""
    found: list[Tensor] = []
    with attending(network), ExitStack() as hooks:
        for block in network.model.layers:
            handle = block.self_attn.register_forward_hook(lambda _m, _a, out: found.append(out[1]))
            hooks.callback(handle.remove)
        yield found
