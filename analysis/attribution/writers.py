"""All that is written into the stream in one run, piece by piece, and what each piece adds.

An MLP's output is the sum of its dictionary's active features, the dictionary's offset and what the
dictionary misses. Attention is no writer but a path: with its patterns and the norms' scales taken
from the run, whatever reads the stream is a sum over these pieces, wherever they were written.

A feature's value is its activation, which is its preactivation: the selection only decides which
are active. The encoder reads ``y − offset`` of an MLP's output ``y``, so the value is a quadratic
form of the MLP's input and a constant: ``e · y + bias − e · offset``. The dictionary's offset
counts twice, in two places: in that constant, and as a piece that is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.algebra.bilinear import BilinearLayer
from circuits.attention.paths import TextPaths, text_paths
from circuits.model.formats.heads import attending
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary

KINDS = ("token", "feature", "error", "whole MLP", "bias")
"""Of pieces. ``bias``: attention's biases, a dictionary's offset, or a layer's constant."""


@dataclass(frozen=True, eq=False)
class Block:
    """The pieces of one place of writing: as many for each position, some of them empty."""

    site: Site
    vectors: Float[Tensor, "pos slot model"]
    first: int  # the number of its first piece among all

    @property
    def numbers(self) -> slice:
        """Of its pieces, position by position."""
        return slice(self.first, self.first + self.vectors.shape[0] * self.vectors.shape[1])


@dataclass(frozen=True, eq=False)
class Readings:
    """Linear readings of the stream at one position, and the constant that each adds."""

    directions: Float[Tensor, "reader model"]
    constants: Float[Tensor, " reader"]
    site: Site
    position: int


@dataclass(frozen=True, eq=False)
class Writers:
    """The pieces of one text; the constants of the layers come last."""

    model: Model
    paths: TextPaths
    dictionaries: Mapping[int, Dictionary]  # of mlp_out, by layer
    blocks: Mapping[Site, Block]
    table: pd.DataFrame  # kind, layer, position, feature (−1: none), value (NaN: none), empty
    inputs: tuple[Float[Tensor, "pos model"], ...]  # what each MLP read
    last: Float[Tensor, "pos model"]  # the last stream

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: Model, dictionaries: Mapping[int, Dictionary], tokens: Int64[Tensor, " pos"]
    ) -> Writers:
        """The pieces of a row of tokens. The model runs twice."""
        paths = text_paths(model, tokens)
        sites = [Site("mlp_in", layer) for layer in range(model.n_layer)]
        end = Site("resid_post", model.n_layer - 1)
        dtype = paths.written[Site("resid_pre", 0)].dtype
        with attending(model.network):  # as the paths were read
            read = model.read(tokens[None], [*sites, end])
        found = {site: x[0].to(dtype) for site, x in read.items()}
        blocks, tables, first = {}, [], 0
        for site, written in paths.written.items():
            of_mlp = dictionaries.get(site.layer) if site.point == "mlp_out" else None
            vectors, table = pieces_of(site, written, of_mlp)
            blocks[site] = Block(site, vectors, first)
            tables.append(table)
            first += len(table)
        constants = [("bias", layer, -1, -1, 1.0, False) for layer in range(model.n_layer)]
        tables.append(pd.DataFrame(constants, columns=list(tables[0])))
        table = pd.concat(tables, ignore_index=True)
        inputs = tuple(found[site] for site in sites)
        return cls(model, paths, dictionaries, blocks, table, inputs, found[end])

    def __len__(self) -> int:
        return len(self.table)

    def constant(self, layer: int) -> int:
        """The number of a layer's constant."""
        return len(self) - self.model.n_layer + layer

    def layer(self, layer: int) -> BilinearLayer:
        """The MLP of a layer in the dtype of everything here."""
        return self.model.layer(layer).to(self.last)

    def logits(
        self, tokens: Int64[Tensor, " target"], less: Float[Tensor, " token"] | None, position: int
    ) -> Readings:
        """Logits at a position, less a fixed mixture of logits."""
        rows = self.model.unembedding.to(self.last)
        directions = rows[tokens] if less is None else rows[tokens] - less.to(rows) @ rows
        directions = directions / self.model.scale(self.last[position])
        site = Site("resid_post", self.model.n_layer - 1)
        return Readings(directions, directions.new_zeros(len(tokens)), site, position)

    def gates(self, layer: int, features: Int64[Tensor, " reader"]) -> Tensor:
        """``reader hidden``: what each feature's encoder reads of every product of the MLP."""
        encoder = self.dictionaries[layer].encoder[features].to(self.last)
        return encoder @ self.layer(layer).down

    def level(self, layer: int, features: Int64[Tensor, " reader"]) -> Float[Tensor, " reader"]:
        """The constant in each feature's value, beside its quadratic form."""
        dictionary, layer_ = self.dictionaries[layer], self.layer(layer)
        encoder = dictionary.encoder[features].to(self.last)
        level = dictionary.bias[features].to(encoder) - encoder @ dictionary.offset.to(encoder)
        return level if layer_.down_bias is None else level + encoder @ layer_.down_bias

    def features(self, layer: int, position: int, features: Int64[Tensor, " reader"]) -> Readings:
        """Active features of a layer's MLP, as Shapley reads their quadratic forms ``x̂ᵀQx̂``: along
        ``Q x̂``, which gives each piece its square and half of each of its pairs."""
        layer_ = self.layer(layer)
        left, right = layer_.factors
        x = layer_.lift(self.inputs[layer][position])
        gates = self.gates(layer, features)
        read = ((gates * (right @ x)) @ left + (gates * (left @ x)) @ right) / 2
        constants = self.level(layer, features)
        if layer_.has_constant:
            constants = constants + read[:, -1]
        site = Site("mlp_in", layer)
        return Readings(read[:, : layer_.d_model], constants, site, position)

    def contributions(self, readings: Readings) -> Float[Tensor, "reader writer"]:
        """What each piece adds to each reading: a row's sum is the reading, constant included. The
        constant of a logit counts for the last layer."""
        made = readings.directions.new_zeros(len(readings.directions), len(self))
        pulled = self.paths.pull(readings.directions, readings.site, readings.position)
        for site, back in pulled.items():
            block = self.blocks[site]
            added = einsum(back, block.vectors, "read pos model, pos slot model -> read pos slot")
            made[:, block.numbers] = added.flatten(1)
        made[:, self.constant(readings.site.layer)] = readings.constants
        return made

    def name(self, number: int) -> str:
        """What a piece is called: its kind, layer and position."""
        if number >= self.constant(0):
            return f"constant L{number - self.constant(0)}"
        row = self.table.iloc[number]
        kind, layer, at = row["kind"], row["layer"], row["position"]
        if kind == "token":
            return f"token @{at}"
        if kind == "bias":
            of_mlp = self.blocks.get(Site("mlp_out", layer))
            inside = of_mlp is not None and of_mlp.first <= number < of_mlp.numbers.stop
            kind = "offset" if inside else "attention bias"
        elif kind == "feature":
            kind = f"f{row['feature']}"
        return f"{kind} L{layer} @{at}"

    def vectors(self, numbers: np.ndarray) -> list[tuple[Site, np.ndarray, Tensor, Tensor]]:
        """Some pieces by place of writing: the site, their places in ``numbers``, their vectors and
        their positions; without constants of layers, which are not in the stream."""
        found = []
        for site, block in self.blocks.items():
            inside = (numbers >= block.numbers.start) & (numbers < block.numbers.stop)
            if inside.any():
                chosen = torch.as_tensor(numbers[inside] - block.first, device=self.last.device)
                vectors = block.vectors.flatten(0, 1)[chosen]
                where = chosen // block.vectors.shape[1]
                found.append((site, np.flatnonzero(inside), vectors, where))
        return found


def pieces_of(
    site: Site, written: Float[Tensor, "pos model"], dictionary: Dictionary | None
) -> tuple[Float[Tensor, "pos slot model"], pd.DataFrame]:
    """What a place wrote as a sum of pieces, as many for each row, and a table of them."""
    n, layer = len(written), site.layer
    columns = ["kind", "layer", "position", "feature", "value", "empty"]
    if dictionary is None:
        kind = {"resid_pre": "token", "attn_out": "bias", "mlp_out": "whole MLP"}[site.point]
        rows = [(kind, layer, at, -1, 1.0, False) for at in range(n)]
        return written[:, None], pd.DataFrame(rows, columns=columns)
    code = dictionary.active(written.to(dictionary.dtype))
    counts = code.starts.diff()
    n_slot = int(counts.max())
    slot = torch.arange(len(code.rows), device=counts.device) - code.starts[code.rows]
    features = torch.full((n, n_slot), -1, device=counts.device)
    values = written.new_zeros(n, n_slot)
    features[code.rows, slot] = code.features.long()
    values[code.rows, slot] = code.values.to(written)
    decoder = dictionary.decoder.to(written)[features.clamp(min=0)]
    parts = values[..., None] * decoder
    offset = dictionary.offset.to(written).expand(n, 1, -1)
    error = written[:, None] - parts.sum(1, keepdim=True) - offset
    active = (values != 0).tolist()
    rows = [
        row
        for at, (names, sizes) in enumerate(zip(features.tolist(), values.tolist(), strict=True))
        for row in (
            *(
                ("feature", layer, at, name, size, not on)
                for name, size, on in zip(names, sizes, active[at], strict=True)
            ),
            ("bias", layer, at, -1, 1.0, False),
            ("error", layer, at, -1, 1.0, False),
        )
    ]
    return torch.cat([parts, offset, error], dim=1), pd.DataFrame(rows, columns=columns)
