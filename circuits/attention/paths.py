"""Everything between two MLPs of one run is linear: what is written anywhere, at any later MLP.

With attention patterns and norm scales taken from a run as data, a vector written into the stream
at one position reaches a later layer along the stream itself and along chains of heads, each of
which adds ``pattern[t, u] · output value / scale_u``. Only the MLPs between are left out: what they
write counts as written by them.

The matrices of these maps are never made: vectors are carried forward layer by layer, and what
reads them is pulled back to all places at once in one sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.algebra.bilinear import computing_dtype
from circuits.arguments import checked
from circuits.errors import ModelError, check_index, check_some, check_width
from circuits.model.formats.heads import watched_patterns
from circuits.model.formats.llama import distance
from circuits.model.model import Model
from circuits.model.site import Site, as_sites

NUMBERS = 2**22
"""Of the streams that are carried at a time: this bounds the memory."""


def stage(site: Site) -> int | None:
    """How far along the stream a site lies: ``2 · layer`` before a layer's attention, one more
    after it; None for what is not in the stream's own coordinates."""
    at = {"resid_pre": 0, "attn_out": 1, "resid_mid": 1, "mlp_out": 2, "resid_post": 2}
    return 2 * site.layer + at[site.point] if site.point in at else None


@dataclass(frozen=True, eq=False)
class _Layer:
    """Attention of one layer in a run, as a linear map of the stream."""

    value: Float[Tensor, "inner model"]  # of all heads, one below the other
    output: Float[Tensor, "inner model"]
    value_bias: Float[Tensor, " inner"] | None
    output_bias: Float[Tensor, " model"] | None
    pattern: Float[Tensor, "head query_pos key_pos"]
    scale: Float[Tensor, " pos"]  # of the norm before attention
    mlp_scale: Float[Tensor, " pos"]
    mlp_norm: Float[Tensor, " model"]  # weight of the norm before the MLP

    def moved(self, x: Float[Tensor, "batch later model"]) -> Float[Tensor, "batch later model"]:
        """What attention adds at each position, for streams from some position to the last."""
        first = len(self.scale) - x.shape[1]
        value = (x / self.scale[first:, None]) @ self.value.mT
        value = value.unflatten(-1, (len(self.pattern), -1))
        pattern = self.pattern[:, first:, first:]
        mixed = einsum(pattern, value, "head t u, batch u head inner -> batch t head inner")
        return mixed.flatten(-2) @ self.output

    def pulled(
        self, direction: Float[Tensor, "batch earlier model"]
    ) -> Float[Tensor, "batch earlier model"]:
        """The transpose of `moved`, for streams from the first position to some position."""
        last = direction.shape[1]
        value = (direction @ self.output.mT).unflatten(-1, (len(self.pattern), -1))
        pattern = self.pattern[:, :last, :last]
        mixed = einsum(pattern, value, "head t u, batch t head inner -> batch u head inner")
        return mixed.flatten(-2) @ self.value / self.scale[:last, None]

    @cached_property
    def constant(self) -> Float[Tensor, "pos model"] | None:
        """What attention adds whatever the stream is: its biases."""
        if self.value_bias is None and self.output_bias is None:
            return None
        made = self.pattern.new_zeros(len(self.scale), self.output.shape[1])
        if self.value_bias is not None:
            shared = self.value_bias.unflatten(0, (len(self.pattern), -1))
            held = einsum(self.pattern.sum(-1), shared, "head t, head inner -> t head inner")
            made = made + held.flatten(-2) @ self.output
        return made if self.output_bias is None else made + self.output_bias


@checked
@dataclass(frozen=True, eq=False, repr=False)
class TextPaths:
    """The paths of one text through a model, from `text_paths`."""

    tokens: Int64[Tensor, " pos"]
    written: dict[Site, Tensor]  # pos model: the embedding, what each MLP wrote, attention's biases
    streams: dict[Site, Tensor]  # pos model: resid_pre of each layer, of this run
    _layers: tuple[_Layer, ...]

    @property
    def n_position(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def pattern(self, layer: int) -> Float[Tensor, "head query_pos key_pos"]:
        """Where each head of a layer looked."""
        return self._layers[
            check_index("TextPaths.pattern", layer, len(self._layers), "layer")
        ].pattern

    def through(self, heads: Iterable[tuple[int, int]]) -> TextPaths:
        """The same paths where only these heads, as (layer, head), move anything: of none, the
        stream itself. ``written`` and ``streams`` stay those of the run."""
        chosen = set(_checked_heads("TextPaths.through", heads, self._layers))
        layers = []
        for index, layer in enumerate(self._layers):
            kept = [(index, head) in chosen for head in range(len(layer.pattern))]
            mask = torch.tensor(kept, device=layer.pattern.device)
            layers.append(replace(layer, pattern=layer.pattern * mask[:, None, None]))
        return replace(self, _layers=tuple(layers))

    def attended(
        self, change: Float[Tensor, "batch pos model"], layer: int
    ) -> Float[Tensor, "batch pos model"]:
        """What a layer's attention adds for a stream before it, or for a change of one; its biases
        are written, so they are no part of it."""
        return self._layer("attended", change, layer).moved(change.to(self._like))

    def normed(
        self, change: Float[Tensor, "batch pos model"], layer: int
    ) -> Float[Tensor, "batch pos model"]:
        """A stream before a layer's MLP, or a change of one, as the MLP reads it."""
        made = self._layer("normed", change, layer)
        return change.to(self._like) * made.mlp_norm / made.mlp_scale[:, None]

    def _layer(self, method: str, change: Tensor, layer: int) -> _Layer:
        self._check_vectors(method, change)
        if change.shape[-2] != self.n_position:
            raise ModelError(
                f"TextPaths.{method}: streams of {change.shape[-2]} positions of a text of "
                f"{self.n_position} tokens. Pass all positions."
            )
        return self._layers[check_index(f"TextPaths.{method}", layer, len(self._layers), "layer")]

    def carry(
        self,
        vectors: Float[Tensor, "writer model"],
        written: Site | str,
        position: int | Int64[Tensor, " one_each"],
        read: Site | str,
        at: int | None = None,
    ) -> Float[Tensor, "writer pos model"] | Float[Tensor, "writer model"]:
        """What each vector, written at a site and position, adds at a later site: at every
        position, or ``at`` one. Read ``mlp_in`` for what a layer's MLP reads, norm included, or a
        point of the stream.

        ``position`` is one for all vectors, or one for each.
        """
        source, target = self._stages(_site(written), _site(read))
        self._check_vectors("carry", vectors)
        n = self.n_position
        places = self._positions(position, len(vectors))
        if at is not None:
            at = check_index("TextPaths.carry", at, n, "position")
        first = min(int(places.min()), n - 1) if len(places) else 0
        rows = max(1, NUMBERS // (n * vectors.shape[1]))
        made = [
            self._carried(some.to(self._like), where - first, first, (source, target), _site(read))
            for some, where in zip(vectors.split(rows), places.split(rows), strict=True)
        ]
        if at is not None:
            made = [x[:, at - first] if at >= first else torch.zeros_like(x[:, 0]) for x in made]
            return torch.cat(made)
        carried = torch.cat(made)
        return torch.cat([carried.new_zeros(len(carried), first, carried.shape[2]), carried], dim=1)

    def _carried(
        self, vectors: Tensor, places: Tensor, first: int, stages: tuple[int, int], read: Site
    ) -> Float[Tensor, "writer later model"]:
        x = vectors.new_zeros(len(vectors), self.n_position - first, vectors.shape[1])
        x[torch.arange(len(x), device=x.device), places] = vectors
        for number in range(*stages):
            if number % 2 == 0:
                x = x + self._layers[number // 2].moved(x)
        if read.point == "mlp_in":
            layer = self._layers[read.layer]
            x = x * layer.mlp_norm / layer.mlp_scale[first:, None]
        return x

    def pull(
        self,
        directions: Float[Tensor, "reader model"],
        read: Site | str,
        position: int,
        written: Iterable[Site | str] | None = None,
    ) -> dict[Site, Float[Tensor, "reader pos model"]]:
        """What reads each place of writing, where ``directions`` read a later site at a position:
        the transpose of `carry`, to all places and positions in one sweep.

        The sum of ``written[site] · pulled[site]`` over sites and positions is what a direction
        reads of the run. Without ``written`` the places are those of `TextPaths.written` before
        ``read``.
        """
        site = _site(read)
        position = check_index("TextPaths.pull", position, self.n_position, "position")
        self._check_vectors("pull", directions)
        given = written
        wanted = [_site(one) for one in (self.written if given is None else given)]
        if given is None:
            end = self._stages(None, site)[1]
            wanted = [one for one in wanted if (stage(one) or 0) <= end]
        at = {one: self._stages(one, site) for one in check_some("pull", wanted, "sites")}
        x = directions.to(self._like)
        if site.point == "mlp_in":
            layer = self._layers[site.layer]
            x = x * layer.mlp_norm / layer.mlp_scale[position]
        n = self.n_position
        made = {one: x.new_zeros(len(x), n, x.shape[1]) for one in at}
        rows = max(1, NUMBERS // (n * x.shape[1]))
        end, start = next(iter(at.values()))[1], min(source for source, _ in at.values())
        for begin in range(0, len(x), rows):
            some = x[begin : begin + rows]
            back = some.new_zeros(len(some), position + 1, x.shape[1])
            back[:, position] = some
            for number in range(end, start - 1, -1):
                if number < end and number % 2 == 0:
                    back = back + self._layers[number // 2].pulled(back)
                for one, (source, _) in at.items():
                    if source == number:
                        made[one][begin : begin + rows, : position + 1] = back
        return made

    def by_head(
        self, direction: Float[Tensor, " model"], read: Site | str, position: int
    ) -> pd.DataFrame:
        """What a direction reads of this run at a layer's ``mlp_in`` or ``resid_mid``, by the last
        step: the stream before attention, each head from each position, and biases. Rows, strongest
        first, add up to what it reads."""
        site = _site(read)
        if site.point not in ("mlp_in", "resid_mid"):
            raise ModelError(
                f"TextPaths.by_head: {site} is not behind a layer's attention. Read mlp_in or "
                f"resid_mid."
            )
        position = check_index("TextPaths.by_head", position, self.n_position, "position")
        here = Site("resid_mid", site.layer)
        end = self.pull(direction[None], site, position, [here])[here][0, position]
        layer, stream = self._layers[site.layer], self.streams[Site("resid_pre", site.layer)]
        value = (stream / layer.scale[:, None]) @ layer.value.mT
        value = value if layer.value_bias is None else value + layer.value_bias
        reading = (layer.output @ end).unflatten(0, (len(layer.pattern), -1))
        value = value.unflatten(-1, (len(layer.pattern), -1))
        read_of = einsum(value, reading, "u head inner, head inner -> head u")
        added = (layer.pattern[:, position] * read_of)[:, : position + 1]
        rows = [("stream", -1, position, float(stream[position] @ end))]
        rows += [
            ("head", head, source, number)
            for head, numbers in enumerate(added.tolist())
            for source, number in enumerate(numbers)
        ]
        if layer.output_bias is not None:
            rows.append(("bias", -1, position, float(layer.output_bias @ end)))
        table = pd.DataFrame(rows, columns=["kind", "head", "position", "value"])
        return table.sort_values(
            "value", key=abs, ascending=False, kind="stable", ignore_index=True
        )

    @property
    def _like(self) -> Tensor:
        """Of the dtype and on the device of everything here."""
        return self._layers[0].value

    def _stages(self, written: Site | None, read: Site) -> tuple[int, int]:
        """From where to where along the stream; refused where nothing leads there."""
        end = 2 * read.layer + 1 if read.point == "mlp_in" else stage(read)
        start = 0 if written is None else stage(written)
        if read.point in ("attn_out", "mlp_out") or end is None:
            raise ModelError(
                f"TextPaths: {read} is written, and what it is made of is not linear in what was "
                f"written before. Read mlp_in, or a point of the stream (resid_pre, resid_mid, "
                f"resid_post)."
            )
        if start is None:
            raise ModelError(
                f"TextPaths: {written} is behind a norm, so nothing is written there. Name a point "
                f"of the stream, or attn_out or mlp_out."
            )
        if end > 2 * len(self._layers) or start > end:
            raise ModelError(
                f"TextPaths: nothing leads from {written} to {read} in a model of "
                f"{len(self._layers)} layers. Read at a later site."
            )
        return start, end

    def _check_vectors(self, method: str, vectors: Tensor) -> None:
        width = self._layers[0].value.shape[1]
        check_width(f"TextPaths.{method}", vectors, width, "vectors")

    def _positions(self, position: int | Tensor, n: int) -> Int64[Tensor, " writer"]:
        device = self.tokens.device
        if not isinstance(position, Tensor):
            position = check_index("TextPaths.carry", position, self.n_position, "position")
            return torch.full((n,), position, device=device)
        if len(position) != n or not bool(((position >= 0) & (position < self.n_position)).all()):
            raise ModelError(
                f"TextPaths.carry: {len(position)} positions for {n} vectors of a text of "
                f"{self.n_position} tokens. Pass one position from 0 to {self.n_position - 1} for "
                f"each."
            )
        return position.to(device)

    def __repr__(self) -> str:
        return f"TextPaths({self.n_position} tokens through {len(self._layers)} layers)"


def _site(site: Site | str) -> Site:
    return as_sites(site)[0]


def _checked_heads(
    owner: str, heads: Iterable[tuple[int, int]], layers: tuple[_Layer, ...]
) -> list[tuple[int, int]]:
    checked_heads = []
    for layer, head in heads:
        layer = check_index(owner, layer, len(layers), "layer")
        checked_heads.append((layer, check_index(owner, head, len(layers[layer].pattern), "head")))
    return checked_heads


@checked
@torch.no_grad()
def text_paths(model: Model, tokens: Int64[Tensor, " pos"]) -> TextPaths:
    """The paths of one row of tokens: the model runs once, and its patterns and scales are kept.

    Memory is that of the attention weights, and of ``pos · model`` and ``head · pos²`` numbers for
    each layer.
    """
    points = [
        (Site(p, i)) for i in range(model.n_layer) for p in ("resid_pre", "resid_mid", "mlp_out")
    ]
    with watched_patterns(model.network) as patterns:
        found = {site: x[0] for site, x in model.read(tokens[None], points).items()}
    layers = tuple(
        _layer(model, index, pattern[0], found) for index, pattern in enumerate(patterns)
    )
    dtype = layers[0].value.dtype
    found = {site: x.to(dtype) for site, x in found.items()}
    embedding = model.embedding[tokens.to(model.device)].to(dtype)
    streams = {Site("resid_pre", i): found[Site("resid_pre", i)] for i in range(model.n_layer)}
    written: dict[Site, Tensor] = {Site("resid_pre", 0): streams[Site("resid_pre", 0)]}
    for index, layer in enumerate(layers):
        if layer.constant is not None:
            written[Site("attn_out", index)] = layer.constant
        written[Site("mlp_out", index)] = found[Site("mlp_out", index)]
    _check_run(model, layers, found, embedding)
    return TextPaths(tokens.to(model.device), written, streams, layers)


def _layer(model: Model, index: int, pattern: Tensor, found: dict[Site, Tensor]) -> _Layer:
    heads = [model.head(index, head) for head in range(model.n_head)]
    block = model.network.model.layers[index]
    biases = [head.value_bias for head in heads if head.value_bias is not None]
    dtype = computing_dtype(heads[0].value)
    output_bias = block.self_attn.o_proj.bias
    return _Layer(
        value=torch.cat([head.value for head in heads]),
        output=torch.cat([head.output.mT for head in heads]),
        value_bias=torch.cat(biases) if biases else None,
        output_bias=None if output_bias is None else output_bias.to(dtype),
        pattern=pattern.to(dtype),
        scale=model.scale(found[Site("resid_pre", index)]).to(dtype),
        mlp_scale=model.scale(found[Site("resid_mid", index)]).to(dtype),
        mlp_norm=block.post_attention_layernorm.weight.to(dtype),
    )


def _check_run(
    model: Model, layers: tuple[_Layer, ...], found: dict[Site, Tensor], embedding: Tensor
) -> None:
    """Refuse a run whose parts are not what its stream is made of."""
    near = max(1e-3, 8 * torch.finfo(model.dtype).eps)
    stream, error = embedding, 0.0
    for index, layer in enumerate(layers):
        before = found[Site("resid_pre", index)]
        after = before + layer.moved(before[None])[0]
        after = after if layer.constant is None else after + layer.constant
        error = max(
            error, distance(before, stream), distance(found[Site("resid_mid", index)], after)
        )
        stream = found[Site("resid_mid", index)] + found[Site("mlp_out", index)]
    if not error < near:
        raise ModelError(
            f"text_paths: the stream is not the sum of the embedding, attention and MLPs (relative "
            f"error {error:.2g}), so its paths would not add up. If a site is replaced now, leave "
            f"that block first; replace only what MLPs write."
        )
