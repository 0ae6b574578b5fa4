"""What a node is made of, exactly: its gates, and the heads that carried each piece to it.

Both need the pieces themselves at the place that reads them, so they are worked out for the nodes
of a pruned graph only, and among its pieces; all others together are one more piece, *other*.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.writers import Readings, Writers
from circuits.attention.paths import stage
from circuits.model.site import Site


@dataclass(frozen=True, eq=False)
class Carried:
    """Some pieces, carried to every later place."""

    writers: Writers
    numbers: Int64[np.ndarray, " piece"]
    _kept: dict[object, Tensor] = field(default_factory=dict)

    def to(self, site: Site) -> Float[Tensor, "piece pos model"]:
        """What each piece adds at a site: ``mlp_in``, or a point of the stream."""
        if site not in self._kept:
            paths, last = self.writers.paths, self.writers.last
            end = 2 * site.layer + 1 if site.point == "mlp_in" else stage(site)
            made = last.new_zeros(len(self.numbers), *last.shape)
            for written, places, vectors, where in self.writers.vectors(self.numbers):
                if (stage(written) or 0) <= (end or 0):
                    made[torch.as_tensor(places)] = paths.carry(vectors, written, where, site)
            self._kept[site] = made
        return self._kept[site]

    def pairs(
        self, layer: int, position: int, gates: Float[Tensor, " hidden"]
    ) -> Float[Tensor, "part part"]:
        """The symmetric matrix of a quadratic form of the MLP's input, whose entries sum to the
        form: the pieces, then the layer's constant, then all other pieces together."""
        bilinear = self.writers.layer(layer)
        left, right = bilinear.factors
        key = ("parts", layer, position)
        if key not in self._kept:
            pieces = self.to(Site("mlp_in", layer))[:, position]
            other = self.writers.inputs[layer][position] - pieces.sum(0)
            constant = bilinear.lift(torch.zeros_like(other))
            added = bilinear.lift(torch.cat([pieces, other[None]]), 0.0)
            self._kept[key] = torch.cat([added[:-1], constant[None], added[-1:]])
        parts = self._kept[key]
        form = (parts @ left.mT * gates) @ (parts @ right.mT).mT
        return (form + form.mT) / 2

    def ways(self, readings: Readings) -> tuple[list[str], Float[Tensor, "reader piece way"]]:
        """How each piece came to a reading, by the last head that moved it: ``stream`` where none
        did. Over ways the numbers sum to what the piece adds."""
        paths, position = self.writers.paths, readings.position
        directions, end = self._in_stream(readings)
        names = ["stream"]
        made = [directions.new_zeros(len(directions), len(self.numbers), 1)]
        for written, places, vectors, where in self.writers.vectors(self.numbers):
            here = (where == position) & ((stage(written) or 0) <= end)
            added = directions @ vectors.mT * here
            made[0][:, torch.as_tensor(places), 0] = added
        for layer in range((end + 1) // 2):
            mixed = einsum(
                paths.pattern(layer)[:, position],
                self._values(layer),
                "head pos, piece pos head inner -> piece head inner",
            )
            heads = [self.writers.model.head(layer, h) for h in range(self.writers.model.n_head)]
            output = torch.stack([head.output for head in heads])
            read = einsum(directions, output, "read model, head model inner -> read head inner")
            made.append(einsum(read, mixed, "read head inner, piece head inner -> read piece head"))
            names += [f"head {layer}.{number}" for number in range(len(heads))]
        return names, torch.cat(made, dim=2)

    def _in_stream(self, readings: Readings) -> tuple[Float[Tensor, "reader model"], int]:
        """The readings of the stream itself, without the norm before an MLP; how far along."""
        if readings.site.point != "mlp_in":
            return readings.directions, stage(readings.site) or 0
        here = Site("resid_mid", readings.site.layer)
        pulled = self.writers.paths.pull(
            readings.directions, readings.site, readings.position, [here]
        )
        return pulled[here][:, readings.position], stage(here) or 0

    def _values(self, layer: int) -> Float[Tensor, "piece pos head inner"]:
        """The value of each piece at each head of a layer."""
        if layer not in self._kept:
            model, site = self.writers.model, Site("resid_pre", layer)
            value = torch.stack([model.head(layer, h).value for h in range(model.n_head)])
            scale = model.scale(self.writers.paths.streams[site])
            stream = self.to(site) / scale[:, None].to(self.writers.last)
            self._kept[layer] = einsum(
                stream, value, "piece pos model, head inner model -> piece pos head inner"
            )
        return self._kept[layer]
