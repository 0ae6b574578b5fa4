"""Whether a pass of a model stays in the range of its numbers.

What leaves it need not end in NaN: a norm divides an activation by its root mean square, and where
the squares are infinite every output is a plain zero; so is the output of an attention whose scores
are infinite. So what enters the norms is looked at, and the weights are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.corpus.tokenizer import unknown_words
from circuits.errors import ModelError, check_range, largest, shorten
from circuits.model.formats.llama import has_softmax, layer_of
from circuits.model.site import Site

_MOST = torch.finfo(torch.float32).max  # norms and attention compute in float32
_REMEDY = "Look at the model's weights and at what was replaced in it."


class Ranges:
    """What can leave the range of a network's numbers."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self._looked_at: set[Site] = set()

    @contextmanager
    def watched(self, caller: str) -> Iterator[None]:
        """Within the block, what the norms square is watched; at its end it is refused if it was
        out of range."""
        sizes: list[Tensor] = []

        def look(_module: Any, args: tuple, kwargs: dict) -> None:
            x = (args[0] if args else kwargs["hidden_states"]).detach()
            sizes.append(torch.stack(x.aminmax()).abs().max())

        blocks = self.network.model.layers
        norms = [norm for block in blocks for norm in _norms(block)]
        with ExitStack() as hooks:
            for norm in (*norms, self.network.model.norm):
                handle = norm.register_forward_pre_hook(look, with_kwargs=True)
                hooks.callback(handle.remove)
            yield
        size = float(torch.stack(sizes).max()) if sizes else 0.0
        if not size**2 * int(self.network.config.hidden_size) <= _MOST:  # NaN neither
            raise ModelError(
                f"{caller}: activations of up to {size:.2g} before a norm, whose squares are "
                f"beyond float32, so that what follows would be zero or NaN. {_REMEDY}"
            )
        if not self._scores <= _MOST:
            raise ModelError(
                f"{caller}: attention weights so large that its scores, of up to "
                f"{self._scores:.2g}, are beyond float32, so it would be zero or NaN. {_REMEDY}"
            )

    @cached_property
    def _scores(self) -> float:
        """No product of a query and a key is larger. Without a softmax, what is infinite stays so
        to the end and is seen there."""
        most = 0.0
        if not has_softmax(self.network):
            return most
        for block in self.network.model.layers:
            width = block.input_layernorm.weight.numel()
            read = largest(block.input_layernorm.weight) * width**1.5  # of an entry of either
            size = read * read * width
            for name in ("q_proj", "k_proj"):
                size *= largest(getattr(block.self_attn, name).weight)
            most = max(most, size)
        return most

    def check_small(self, site: Site) -> None:
        """Refuse to read what weights make that are so small that their product is zero."""
        if site in self._looked_at:
            return
        block, sizes, beside = self.network.model.layers[site.layer], {}, 0.0
        if site.point == "mlp_out":
            layer = layer_of(block.mlp)  # of a gated model too, whose product is no larger
            norm = largest(block.post_attention_layernorm.weight) * layer.d_model**0.5
            for name, bias in (("left", layer.left_bias), ("right", layer.right_bias)):
                sizes[name] = max(norm * largest(getattr(layer, name)), largest(bias))
            sizes["down"], beside = largest(layer.down), largest(layer.down_bias)
        elif site.point == "attn_out":
            heads = block.self_attn
            sizes = {name: largest(getattr(heads, name).weight) for name in ("v_proj", "o_proj")}
        if sizes:
            dtype = self.network.lm_head.weight.dtype
            check_range(f"Model.read of {site}", dtype, sizes, beside=beside)
        self._looked_at.add(site)


def _norms(block: Any) -> tuple[Any, Any]:
    return block.input_layernorm, block.post_attention_layernorm


def check_finite(caller: str, made: Tensor) -> Tensor:
    """The same tensor, refused where it holds NaN or infinity."""
    if not bool(torch.isfinite(made.detach().sum(dtype=torch.float64))):
        n = int((~torch.isfinite(made)).sum())
        if n:
            raise ModelError(
                f"{caller}: {n} of {made.numel()} numbers are NaN or infinite, as a product left "
                f"the range of {made.dtype}. {_REMEDY}"
            )
    return made


def check_tokens(tokens: Tensor, n_token: int, n_context: int, path: Path) -> None:
    """Refuse tokens that a model of these sizes, from this path, has no numbers for."""
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ModelError(
            f"tokens of shape {tuple(tokens.shape)} and {tokens.dtype}, not integers of shape "
            f"(batch, pos). model.tokens(text) makes them."
        )
    n_pos = tokens.shape[1]
    if n_pos > n_context:
        raise ModelError(
            f"rows of {n_pos} tokens, but {path} has a context of {n_context} (config.json, field "
            f"'max_position_embeddings'): later positions were never trained. Split the text into "
            f"shorter rows."
        )
    if tokens.numel() == 0 or int(tokens.min()) < 0 or int(tokens.max()) >= n_token:
        raise ModelError(
            f"tokens of shape {tuple(tokens.shape)} must not be empty and must lie in 0 to "
            f"{n_token - 1}, the rows of the embedding. Use this model's own tokenizer: "
            f"model.tokens(text)."
        )


def check_prompt(tokenizer: Any, prompt: str, tokens: list[int], n_context: int) -> None:
    """Refuse to continue what has unknown words, or leaves no place for another token."""
    if tokenizer.unk_token_id in tokens:
        words = unknown_words(tokenizer, prompt) or [prompt]
        raise ModelError(
            f"Model.generate: the model does not know the words "
            f"{shorten(f'{word!r:.40}' for word in words)} of the prompt. Leave them out, or use "
            f"words of the text that it was trained on."
        )
    if len(tokens) == n_context:
        raise ModelError(
            f"Model.generate: the prompt {prompt!r:.40} has {len(tokens)} tokens and fills the "
            f"model's context, so nothing can follow. Pass a shorter one."
        )
