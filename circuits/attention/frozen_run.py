"""A model whose attention patterns and norm scales are those of its own run, whatever is edited.

What is left between its MLPs is linear, so an edit of an MLP has an effect that follows from the
weights exactly. Beside the same edit of the free model it says how much of an effect goes through
what attention looks at and what the norms divide by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import ModelError, check_index, check_memory, check_some
from circuits.model.formats.heads import watched_patterns
from circuits.model.model import Model
from circuits.model.ranges import check_tokens

_REMEDY = "Pass fewer rows, or shorter ones."


@dataclass(frozen=True, eq=False)
class _Run:
    """What one run looked at and divided by."""

    patterns: tuple[Float[Tensor, "batch head query_pos key_pos"], ...]
    scales: tuple[Float[Tensor, "batch pos 1"], ...]  # of each norm, in order


@checked
def frozen(
    model: Model,
    tokens: Int64[Tensor, "batch pos"] | Iterable[Tensor],
    *,
    closed: Collection[tuple[int, int]] = (),
) -> AbstractContextManager[Model]:
    """Within the block every pass over these tokens (or one of several batches of them) takes its
    patterns and scales from the model's run before the block; other tokens are refused.

    ``closed`` heads, as (layer, head), pass on values but no gradients.

    >>> with frozen(model, tokens), model.replaced({"mlp_out@0": edit}):  # doctest: +SKIP
    ...     model.logits(tokens)
    """
    return FrozenRun.of(model, tokens).held(closed)


@dataclass(frozen=True, eq=False)
class FrozenRun:
    """A model's run over some tokens, recorded once, to be held as often as wanted."""

    model: Model
    runs: Mapping[Any, _Run]

    @classmethod
    def of(cls, model: Model, tokens: Int64[Tensor, "batch pos"] | Iterable[Tensor]) -> FrozenRun:
        """Of one batch of tokens, or of several."""
        batches = [tokens] if isinstance(tokens, Tensor) else list(tokens)
        check_some("frozen", batches, "batches of tokens")
        for rows in batches:
            check_tokens(rows, model.n_token, model.n_context, model.path)
        n_pattern = sum(rows.numel() * rows.shape[-1] for rows in batches)
        check_memory("frozen", 4 * model.n_layer * model.n_head * n_pattern, _REMEDY)
        return cls(model, {_key(rows): _recorded(model, rows) for rows in batches})

    def held(
        self, closed: Collection[tuple[int, int]] = (), *, looking: bool = False
    ) -> AbstractContextManager[Model]:
        """Within the block passes take their patterns and scales from this run: see `frozen`.
        Where heads are left ``looking`` they look as the edited model does, and none is closed."""
        heads = {
            (check_index("frozen", layer, self.model.n_layer, "layer"),
             check_index("frozen", head, self.model.n_head, "head"))
            for layer, head in closed
        }  # fmt: skip
        if looking and heads:
            raise ModelError(
                f"frozen: {len(heads)} closed heads, and heads that are left looking: their "
                f"patterns pass on gradients. Close none, or do not leave them looking."
            )
        return _held(self.model, self.runs, heads, looking)

    def with_pattern(
        self,
        rows: Int64[Tensor, "batch pos"],
        layer: int,
        head: int,
        pattern: Float[Tensor, "batch query_pos key_pos"],
    ) -> FrozenRun:
        """The same run, in which one head looks elsewhere in one of the batches."""
        run = _known(self.runs, rows)
        patterns = list(run.patterns)
        patterns[layer] = patterns[layer].clone()
        patterns[layer][:, head] = pattern.to(patterns[layer])
        return replace(self, runs={**self.runs, _key(rows): replace(run, patterns=tuple(patterns))})

    def carried(
        self,
        rows: Int64[Tensor, "batch pos"],
        change: Float[Tensor, "batch pos model"],
        layer: int,
        later: int,
    ) -> Float[Tensor, "batch pos model"]:
        """What a change of a layer's output is at the input of a later layer's MLP, along the
        stream and by all heads. MLPs between pass nothing on."""
        later = check_index("FrozenRun.carried", later, self.model.n_layer, "later")
        layer = check_index("FrozenRun.carried", layer, later, "layer")
        run, blocks = _known(self.runs, rows), self.model.network.model.layers
        for index in range(layer + 1, later + 1):
            block, scale = blocks[index], run.scales[2 * index].to(change)
            x = change / scale * block.input_layernorm.weight
            value = x @ block.self_attn.v_proj.weight.mT
            moved = _mixed(block.self_attn, value, run.patterns[index])
            change = change + moved.flatten(-2) @ block.self_attn.o_proj.weight.mT
        scale = run.scales[2 * later + 1].to(change)
        return change / scale * blocks[later].post_attention_layernorm.weight

    def patterns(
        self, rows: Int64[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch head query_pos key_pos"], ...]:
        """Where the heads of each layer looked in one of the batches."""
        return _known(self.runs, rows).patterns

    def attention_scales(
        self, rows: Int64[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos"], ...]:
        """What the norm before each layer's attention divided by."""
        return tuple(scale[..., 0] for scale in _known(self.runs, rows).scales[:-1:2])


@contextmanager
def _held(
    model: Model, runs: Mapping[Any, _Run], closed: Collection[tuple[int, int]], looking: bool
) -> Iterator[Model]:
    now: list[_Run] = []

    def choose(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now[:] = [_known(runs, args[0] if args else kwargs["input_ids"])]

    with ExitStack() as hooks:
        decoder = model.network.model
        hooks.callback(
            decoder.register_forward_pre_hook(choose, prepend=True, with_kwargs=True).remove
        )
        for index, block in enumerate(() if looking else decoder.layers):
            cut = sorted(head for layer, head in closed if layer == index)
            hook, attention = _looking(partial(_pattern, now, index), cut), block.self_attn
            hooks.callback(
                attention.register_forward_hook(hook, prepend=True, with_kwargs=True).remove
            )
        for number, norm in enumerate(_norms(model)):
            divided = _dividing(partial(_scale, now, number))
            hooks.callback(norm.register_forward_hook(divided, prepend=True).remove)
        hooks.enter_context(model.edited_at("attention"))
        yield model


def _known(runs: Mapping[Any, _Run], rows: Tensor) -> _Run:
    if _key(rows) not in runs:
        raise ModelError(
            f"frozen: a pass over {tuple(rows.shape)} tokens that were not given, so their "
            f"patterns are not known. Pass every batch that is run within the block."
        )
    return runs[_key(rows)]


def _pattern(now: list[_Run], layer: int) -> Tensor:
    return now[0].patterns[layer]


def _scale(now: list[_Run], number: int) -> Tensor:
    return now[0].scales[number]


def _key(rows: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(rows.shape), rows.cpu().numpy().tobytes()


def _norms(model: Model) -> list[Any]:
    decoder = model.network.model
    each = ((block.input_layernorm, block.post_attention_layernorm) for block in decoder.layers)
    return [*(norm for both in each for norm in both), decoder.norm]


@torch.no_grad()
def _recorded(model: Model, rows: Int64[Tensor, "batch pos"]) -> _Run:
    scales = list[Tensor]()

    def keep(_module: Any, args: tuple[Any, ...]) -> None:
        scales.append(model.scale(args[0])[..., None])

    with ExitStack() as hooks, watched_patterns(model.network) as patterns:
        for norm in _norms(model):
            hooks.callback(norm.register_forward_pre_hook(keep).remove)
        model.logits_at(rows, torch.zeros(len(rows), dtype=torch.int64))
    one_head = (p[:, None] if p.ndim == 3 else p for p in patterns)
    return _Run(tuple(one_head), tuple(scales))


def _looking(pattern: Callable[[], Tensor], cut: list[int]) -> Callable[..., Any]:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        x, looks = args[0] if args else kwargs["hidden_states"], pattern()
        mixed = _mixed(module, module.v_proj(x), looks)
        if cut:
            mixed = mixed.clone()
            mixed[:, :, cut] = mixed[:, :, cut].detach()
        return module.o_proj(mixed.flatten(-2)), *out[1:]

    return hook


def _mixed(
    module: Any, value: Float[Tensor, "batch pos inner"], looks: Tensor
) -> Float[Tensor, "batch pos head inner_of_one"]:
    """What each head moves to each token, before the output's weights."""
    n_head = looks.shape[1]
    width = module.o_proj.in_features // n_head
    value = value.unflatten(-1, (-1, width))
    value = value.repeat_interleave(n_head // value.shape[2], dim=2)
    looks = looks.to(value)
    return einsum(looks, value, "batch head t u, batch u head inner -> batch t head inner")


def _dividing(scale: Callable[[], Tensor]) -> Callable[..., Tensor]:
    def hook(module: Any, args: tuple[Any, ...], _out: Tensor) -> Tensor:
        x = args[0]
        return module.weight * (x / scale().to(x))

    return hook
