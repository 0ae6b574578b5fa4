"""What a transformer that is a polynomial makes of two tokens, from its weights alone.

Two tokens stand some way apart and everything else is zero. What they do *together* is what the
network says to both less what it says to each alone, ``f(a, b) − f(a) − f(b)``. It is a sum over
paths: what each head takes from either token, and what each gate of an MLP multiplies, where a gate
is the product of two summands of the residual stream. A path can be removed from the running
model, exactly and alone: then what the weights promised is seen to be missing, or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import ModelError, check_count
from circuits.model.formats.llama import FIXED
from circuits.model.model import Model

FIRST, SECOND, OTHER = "first", "second", "other"
"""Groups of tokens: those that a rule names, in the order in which they stand, and all others."""


@dataclass(frozen=True, order=True)
class Writer:
    """A summand of the residual stream."""

    part: str  # "token", "head" or "mlp"
    layer: int = -1  # of a head or an MLP
    source: str = ""  # the group of the token, or of the tokens that a head takes from

    def __str__(self) -> str:
        if self.part == "token":
            return f"{self.source} token"
        return f"mlp {self.layer}" if self.part == "mlp" else f"head {self.layer} on {self.source}"


@dataclass(frozen=True)
class Gate:
    """The product of two summands in an MLP, at the tokens of one group."""

    layer: int
    one: Writer
    two: Writer
    at: str = SECOND

    def __str__(self) -> str:
        return f"mlp {self.layer}: {self.one} × {self.two}"


@dataclass(frozen=True)
class HeadPath:
    """What a head takes from the tokens of one group to those of another, as the logits read it."""

    layer: int
    source: str
    at: str = SECOND

    def __str__(self) -> str:
        return f"head {self.layer}: from {self.source} to the logits"


Path = Gate | HeadPath


class _Pass:
    """A forward pass that keeps every summand of the stream, with some gates left out."""

    def __init__(
        self,
        model: Model,
        embedded: Float[Tensor, "batch pos model"],
        groups: Mapping[str, Bool[Tensor, "batch pos"]],
        removed: Sequence[Path] = (),
        cut: Mapping[int, Bool[Tensor, "batch query key"]] | None = None,
    ) -> None:
        self.groups = groups
        self.parts = {
            Writer("token", source=name): embedded * mask[..., None]
            for name, mask in groups.items()
        }
        self.factors: list[dict[Writer, tuple[Tensor, Tensor]]] = []
        self.scores: list[Tensor] = []
        self._blocks = model.network.model.layers
        place = torch.arange(embedded.shape[1], device=embedded.device)[None]
        turns = model.network.model.rotary_emb(embedded, place)
        for layer, block in enumerate(self._blocks):
            self._attend(layer, block, turns, (cut or {}).get(layer))
            gates = [one for one in removed if isinstance(one, Gate) and one.layer == layer]
            self._multiply(layer, block, gates)
        self._norm, self._head = model.network.model.norm, model.network.lm_head

    @property
    def stream(self) -> Float[Tensor, "batch pos model"]:
        """The sum of all."""
        return torch.stack([*self.parts.values()]).sum(0)

    def _attend(self, layer: int, block: Any, turns: Any, cut: Tensor | None) -> None:
        head, x = block.self_attn, block.input_layernorm(self.stream)
        scores = head.scores(*head.sides(x, turns))
        self.scores.append(scores)
        if cut is not None:
            scores = scores.masked_fill(cut, 0)
        values = head.v_proj(x)
        for name, mask in self.groups.items():
            taken = (scores * mask[:, None]) @ values
            self.parts[Writer("head", layer, name)] = head.o_proj(taken)

    def _multiply(self, layer: int, block: Any, removed: Iterable[Gate]) -> None:
        mlp, norm = block.mlp, block.post_attention_layernorm  # a scale: of each summand alone
        read = {who: norm(part) for who, part in self.parts.items()}
        self.factors.append({who: (mlp.gate_proj(x), mlp.up_proj(x)) for who, x in read.items()})
        whole = norm(self.stream)
        hidden = mlp.gate_proj(whole) * mlp.up_proj(whole)
        for gate in removed:
            hidden = hidden - self._product(gate) * self.groups[gate.at][..., None]
        self.parts[Writer("mlp", layer)] = mlp.down_proj(hidden)

    def without(self, removed: Sequence[Path]) -> Float[Tensor, "batch pos model"]:
        """The last stream, less what heads take to the logits by these paths."""
        stream = self.stream
        for path in removed:
            if isinstance(path, HeadPath):
                part = self.parts[Writer("head", path.layer, path.source)]
                stream = stream - part * self.groups[path.at][..., None]
        return stream

    def _product(self, gate: Gate) -> Tensor:
        (left, right), (other_left, other_right) = (
            self.factors[gate.layer][who] for who in (gate.one, gate.two)
        )
        if gate.one == gate.two:
            return left * right
        return left * other_right + other_left * right

    def logits(self, stream: Tensor | None = None) -> Float[Tensor, "batch pos token"]:
        """What the last stream, or a summand of it, says."""
        return self._head(self._norm(self.stream if stream is None else stream))

    def paths(self) -> dict[Path, Float[Tensor, "batch token"]]:
        """What each path adds to the logits of the last position."""
        found: dict[Path, Tensor] = {}
        for who, part in self.parts.items():
            if who.part == "head":
                found[HeadPath(who.layer, who.source)] = self.logits(part[:, -1:])[:, 0]
        for layer, factors in enumerate(self.factors):
            down = self._blocks[layer].mlp.down_proj
            for one, two in combinations_with_replacement(factors, 2):
                gate = Gate(layer, one, two)
                written = down(self._product(gate)[:, -1:])
                if bool(written.any()):
                    found[gate] = self.logits(written)[:, 0]
        return found


@dataclass(frozen=True, eq=False)
class PairEffects:
    """What pairs of tokens do together to the next token's logits, and by which paths.

    ``total`` is the sum of ``paths``; the first token of a pair stands ``distance`` before the
    second.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    distances: tuple[int, ...]  # that are summed over
    total: Float[Tensor, "first second token"]
    paths: Mapping[Path, Float[Tensor, "first second token"]]

    def strongest(self, n: int, answers: Sequence[int] | None = None) -> pd.DataFrame:
        """The pairs of tokens and answers with the largest effects, relative to the mean over the
        answers: first, second, answer, effect, path (the strongest) and its share."""
        answers = [*range(self.total.shape[2])] if answers is None else [*answers]
        total = _centred(self.total, answers)
        order = total.flatten().argsort(descending=True)[:n].tolist()
        shape = total.shape
        rows = []
        parts = {path: _centred(each, answers).flatten() for path, each in self.paths.items()}
        for place in order:
            i, rest = divmod(place, shape[1] * shape[2])
            j, k = divmod(rest, shape[2])
            path = max(parts, key=lambda one: float(parts[one][place]))
            effect = float(total[i, j, k])
            share = float(parts[path][place]) / effect
            rows.append((self.first[i], self.second[j], answers[k], effect, str(path), share))
        return pd.DataFrame(rows, columns=["first", "second", "answer", "effect", "path", "share"])

    def strongest_paths(self, rules: pd.DataFrame, answers: Sequence[int]) -> pd.DataFrame:
        """What each path adds to these rules' effects, as a share of all of them, largest first."""
        index = tuple(
            torch.tensor([places.index(value) for value in rules[column]])
            for column, places in (
                ("first", list(self.first)), ("second", list(self.second)), ("answer", [*answers])
            )
        )  # fmt: skip
        whole = float(_centred(self.total, answers)[index].sum())
        shares = {
            path: float(_centred(each, answers)[index].sum()) / whole
            for path, each in self.paths.items()
        }
        table = pd.DataFrame({"path": [*shares], "share": [*shares.values()]})
        return table.sort_values("share", ascending=False, key=abs, ignore_index=True)


def _centred(effects: Tensor, answers: Sequence[int]) -> Tensor:
    """Of some answers, relative to their mean: logits have no zero of their own."""
    chosen = effects[..., list(answers)]
    return chosen - chosen.mean(-1, keepdim=True)


@checked
@torch.no_grad()
def pair_effects(
    model: Model,
    first: Sequence[int],
    second: Sequence[int],
    distances: Sequence[int] = (1,),
    removed: Sequence[Path] = (),
) -> PairEffects:
    """What every token of ``first`` does together with every token of ``second`` that stands so
    far behind it, summed over the distances, with some paths ``removed``; from the weights alone,
    in float64."""
    _check(model)
    exact, total = model.in_dtype(torch.float64), None
    paths: dict[Path, Tensor] = {}
    for distance in distances:
        check_count("pair_effects", distance, model.n_context - 1, "distance")
        passes = [
            _pair(exact, first, second, distance, kept, removed)
            for kept in ((1, 1), (1, 0), (0, 1))
        ]
        logits = [one.logits(one.without(removed)[:, -1:])[:, 0] for one in passes]
        own = logits[0] - logits[1] - logits[2]
        total = own if total is None else total + own
        split = [one.paths() for one in passes]
        for path in split[0]:
            alone = sum(one[path] for one in split[1:] if path in one)
            paths[path] = paths.get(path, torch.zeros_like(own)) + split[0][path] - alone
    if total is None:
        raise ModelError("pair_effects: no distance was given. Pass one at least, such as (1,).")
    shape = (len(first), len(second), -1)
    return PairEffects(
        tuple(first), tuple(second), tuple(distances), total.view(shape),
        {path: each.view(shape) for path, each in paths.items()},
    )  # fmt: skip


def _pair(
    model: Model,
    first: Sequence[int],
    second: Sequence[int],
    distance: int,
    kept: tuple[int, int],
    removed: Sequence[Path],
) -> _Pass:
    """All pairs, with one of their tokens or both."""
    one, two = (torch.tensor([*tokens], device=model.device) for tokens in (first, second))
    embedding = model.network.get_input_embeddings().weight
    x = embedding.new_zeros(len(one) * len(two), distance + 1, model.d_model)
    x[:, 0] = kept[0] * embedding[one.repeat_interleave(len(two))]
    x[:, -1] = kept[1] * embedding[two.repeat(len(one))]
    at_first = torch.zeros(x.shape[:2], dtype=torch.bool, device=model.device)
    at_first[:, 0] = True
    return _Pass(model, x, {FIRST: at_first, SECOND: at_first.flip(1)}, removed)


@checked
@torch.no_grad()
def single_effects(model: Model, tokens: Sequence[int]) -> Float[Tensor, "token answer"]:
    """The logits after one token that stands alone."""
    _check(model)
    exact = model.in_dtype(torch.float64)
    return exact.logits(torch.tensor([[token] for token in tokens]))[:, 0]


@checked
@torch.no_grad()
def logits_without(
    model: Model,
    tokens: Int64[Tensor, "batch pos"],
    first: Sequence[int],
    second: Sequence[int],
    paths: Sequence[Path] = (),
    cut: Mapping[int, Bool[Tensor, "batch query key"]] | None = None,
) -> Float[Tensor, "batch pos token"]:
    """The logits of the running model on real text, with these paths removed: of the tokens of the
    groups ``first`` and ``second``, and everything else as it was. ``cut`` removes by layer what
    the head takes to a query from a key."""
    _check(model)
    known = [torch.isin(tokens, torch.tensor([*group])) for group in (first, second)]
    groups = {FIRST: known[0], SECOND: known[1] & ~known[0], OTHER: ~(known[0] | known[1])}
    embedded = model.network.get_input_embeddings()(tokens.to(model.device))
    run = _Pass(model, embedded, groups, paths, cut)
    return run.logits(run.without(paths))


def _check(model: Model) -> None:
    """Refuse a model that is not a polynomial."""
    attention = model.network.model.layers[0].self_attn
    if not hasattr(attention, "q1_proj") or model.network.config.rms_norm_eps < FIXED:
        raise ModelError(
            f"{model.path}: not a polynomial, as it has a softmax or norms, so it is no sum over "
            f"pairs of tokens. Pass a model without either; for others there are circuits."
        )
