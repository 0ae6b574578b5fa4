"""A forward pass through a polynomial transformer that keeps every summand apart.

The residual stream is a sum: of token embeddings, of what each head takes from each group of
tokens, and of what each MLP adds. An MLP multiplies, so what it adds is a sum over *gates*, each
the product of two of those summands. A *path* is a gate, or a summand that the logits read
directly. Paths can be left out of the pass one by one; everything after them is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import ArgumentError, ModelError
from circuits.model.formats.llama import FIXED, has_softmax
from circuits.model.model import Model

FIRST, SECOND, OTHER, ALONE = "first token", "second token", "other tokens", "the token"
"""Groups of tokens: those that a rule names, in their order, and all others; or a single one."""


@dataclass(frozen=True, order=True)
class Writer:
    """A summand of the residual stream."""

    part: str  # "token", "head" or "mlp"
    layer: int = -1  # of a head or an MLP
    source: str = ""  # the group of the token, or of the tokens that a head takes from

    def __str__(self) -> str:
        if self.part == "token":
            return self.source
        return f"mlp {self.layer}" if self.part == "mlp" else f"head {self.layer} on {self.source}"


@dataclass(frozen=True)
class Gate:
    """The product of two summands in an MLP, at the tokens of one group."""

    layer: int
    one: Writer
    two: Writer
    at: str = SECOND

    @property
    def writers(self) -> tuple[Writer, ...]:
        """The summands that it reads."""
        return (self.one, self.two)

    def __str__(self) -> str:
        return f"mlp {self.layer}: {self.one} × {self.two}"


@dataclass(frozen=True)
class Direct:
    """A summand as the logits read it, at the tokens of one group."""

    writer: Writer
    at: str = SECOND

    @property
    def writers(self) -> tuple[Writer, ...]:
        """The summand."""
        return (self.writer,)

    def __str__(self) -> str:
        return f"{self.writer} to the logits"


Path = Gate | Direct


class SplitPass:
    """A forward pass that keeps every summand of the stream, with some paths left out. Positions
    that are zero stay zero, so ``places`` may name the others alone (all, from 0)."""

    def __init__(
        self,
        model: Model,
        embedded: Float[Tensor, "batch pos model"],
        groups: Mapping[str, Bool[Tensor, "batch pos"]],
        removed: Sequence[Path] = (),
        cut: Mapping[int, Bool[Tensor, "batch query key"]] | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        self._model, self._groups, self._removed = model, groups, removed
        self._check_removed()
        self.parts = {
            Writer("token", source=name): embedded * mask[..., None]
            for name, mask in groups.items()
        }
        self.scores: list[Tensor] = []  # of each layer's head
        self._reads: list[dict[Writer, Tensor]] = []  # the summands before each MLP
        at = range(embedded.shape[1]) if places is None else places
        turns = model.network.model.rotary_emb(
            embedded, torch.tensor([*at], device=embedded.device)[None]
        )
        self.stream = embedded
        for layer, block in enumerate(model.network.model.layers):
            self._attend(layer, block, turns, (cut or {}).get(layer))
            self._multiply(layer, block)

    def _attend(self, layer: int, block: Any, turns: Any, cut: Tensor | None) -> None:
        head, x = block.self_attn, block.input_layernorm(self.stream)
        scores = head.scores(*head.sides(x, turns))
        self.scores.append(scores)
        if cut is not None:
            scores = scores.masked_fill(cut, 0)
        values = head.v_proj(x)
        for name, mask in self._groups.items():
            taken = (scores * mask[:, None]) @ values
            self._add(Writer("head", layer, name), head.o_proj(taken))

    def _multiply(self, layer: int, block: Any) -> None:
        mlp, x = block.mlp, block.post_attention_layernorm(self.stream)
        self._reads.append(dict(self.parts))
        hidden = mlp.gate_proj(x) * mlp.up_proj(x)
        for gate in self._removed:
            if isinstance(gate, Gate) and gate.layer == layer:
                hidden = hidden - self.product(gate) * self._groups[gate.at][..., None]
        self._add(Writer("mlp", layer), mlp.down_proj(hidden))

    def _add(self, writer: Writer, part: Tensor) -> None:
        self.parts[writer] = part
        self.stream = self.stream + part

    def product(self, gate: Gate) -> Float[Tensor, "batch pos hidden"]:
        """A gate's share of its MLP's hidden layer."""
        one = self._factors(gate.layer, gate.one)
        if gate.one == gate.two:
            return one[0] * one[1]
        two = self._factors(gate.layer, gate.two)
        return one[0] * two[1] + two[0] * one[1]

    def _factors(self, layer: int, writer: Writer) -> tuple[Tensor, Tensor]:
        block = self._model.network.model.layers[layer]
        x = block.post_attention_layernorm(self._reads[layer][writer])  # a scale, so of each alone
        return block.mlp.gate_proj(x), block.mlp.up_proj(x)

    def normed(self) -> Float[Tensor, "batch pos model"]:
        """What the logits read, without the summands that are left out there."""
        stream = self.stream
        for path in self._removed:
            if isinstance(path, Direct):
                stream = stream - self.parts[path.writer] * self._groups[path.at][..., None]
        return self._scaled(stream)

    def paths(self, at: str) -> Iterable[tuple[Path, Float[Tensor, "batch model"]]]:
        """What each path adds to what the logits read at the last position, which is of the group
        ``at``; those that add nothing to any row are left out."""
        for writer, part in self.parts.items():
            if writer.part != "mlp" and bool(part[:, -1].any()):
                yield Direct(writer, at), self._scaled(part[:, -1])
        for layer, writers in enumerate(self._reads):
            down = self._model.network.model.layers[layer].mlp.down_proj
            for one, two in combinations_with_replacement(writers, 2):
                gate = Gate(layer, one, two, at)
                written = down(self.product(gate)[:, -1])
                if bool(written.any()):
                    yield gate, self._scaled(written)

    def _scaled(self, stream: Tensor) -> Tensor:
        scaled: Tensor = self._model.network.model.norm(stream)
        return scaled

    def _check_removed(self) -> None:
        for path in self._removed:
            last = path.layer if isinstance(path, Gate) else self._model.n_layer
            fits = last < self._model.n_layer or isinstance(path, Direct)
            fits &= path.at in self._groups
            for writer in path.writers:
                before = last if writer.part == "mlp" else last + 1
                fits &= writer.part == "token" or 0 <= writer.layer < min(
                    before, self._model.n_layer
                )
                fits &= writer.part == "mlp" or writer.source in self._groups
            if not fits:
                raise ArgumentError(
                    f"'{path}' is no path between these tokens in a model of "
                    f"{self._model.n_layer} layers, so there is nothing to remove. Take paths from "
                    f"pair_effects(model, …).paths."
                )


def check_is_polynomial(owner: str, model: Model) -> None:
    """Refuse a model that is not a polynomial."""
    softmax = has_softmax(model.network)
    if softmax or model.network.config.rms_norm_eps < FIXED:
        raise ModelError(
            f"{owner}: {model.path} has {'a softmax' if softmax else 'an RMSNorm'}, so it is not a "
            f"polynomial and no sum over pairs of tokens. Pass a model without softmax and norms; "
            f"for others there is find_circuit."
        )
