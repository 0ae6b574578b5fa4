"""What depends on an MLP: the network beside the same with that MLP's output at its mean.

The mean is over the classes, token by token, so that what an MLP writes in every class alike, which
favours one answer whatever the text says, is no part of its effect. The effect itself is whatever
the network makes of the rest: straight at the answers, through later MLPs, and by moving what later
heads look at. Norms divide by what they divided by: in the network as it runs what is written in a
direction that nothing reads has a part, too, as it makes all the rest smaller. That is beside it.

On the straight line from the one output to the other the gradient of each logit difference is
averaged (integrated gradients). By it every part of the output has a share, and shares add up to
the effect but for `LayerEffect.off_by`. With attention patterns as they were, too, the same is
exact, for what is left is a polynomial.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.across.recorded import (
    Recorded,
    answer_directions,
    mean_over_classes,
    read_difference,
)
from circuits.errors import check_memory
from circuits.model.site import Site

_N_POINTS = 16  # of the line, Gauss's


@dataclass(frozen=True, eq=False)
class LayerEffect:
    """Of one MLP and the cases of a behaviour, in float64."""

    recorded: Recorded
    layer: int
    apart: Float[Tensor, "case pos model"]  # what is written beyond the mean, from the second token
    reads: Float[Tensor, "case pos model"]  # of it, by each logit difference towards side +1
    running_reads: Float[Tensor, "case pos model"]  # the same in the network as it runs
    # of the margin, what is gone with the output at its mean and the norms as they were
    measured: Float[Tensor, " case"]

    @classmethod
    def of(cls, recorded: Recorded, layer: int) -> LayerEffect:
        """Made once for some cases."""
        cases = recorded.cases

        def made() -> LayerEffect:
            check_memory("LayerEffect.of", 40 * recorded.inputs[layer].numel(),
                         "Pass fewer cases, or shorter ones.")  # fmt: skip
            apart = beyond_mean(recorded, recorded.layer(layer)(recorded.inputs[layer]))
            with recorded.run.held(looking=True):
                reads = _averaged(recorded, layer, apart, _N_POINTS // 2)
                measured = cases.side * gone(recorded, layer, apart)
            running = _averaged(recorded, layer, apart, _N_POINTS)
            return cls(recorded, layer, apart, reads, running, measured)

        return cases.once(("effect", layer), made)

    def frozen_reads(
        self, closed: Collection[tuple[int, int]] = (), *, past_mlps: bool = False
    ) -> Float[Tensor, "case pos model"]:
        """`reads` in the network with its attention patterns and norm scales as they were; closed
        heads, as (layer, head), pass nothing on, and with ``past_mlps`` no later MLP does."""
        later = self.recorded.model.n_layer - 1 - self.layer
        n_point = 1 if past_mlps else min(2 ** max(later - 1, 0), _N_POINTS)  # exact to 5 MLPs
        with self.recorded.run.held(closed):
            return _averaged(self.recorded, self.layer, self.apart, n_point, past_mlps)

    def shared(self, written: Float[Tensor, "case pos model"]) -> Float[Tensor, " case"]:
        """The share of each margin's effect that a part of the output has."""
        return self.recorded.cases.side * (self.reads * beyond_mean(self.recorded, written)).sum(
            (1, 2)
        )

    @property
    def total(self) -> Float[Tensor, " case"]:
        """The effect on each margin as a sum of shares."""
        return self.recorded.cases.side * (self.reads * self.apart).sum((1, 2))

    @property
    def running_total(self) -> Float[Tensor, " case"]:
        """The same in the network as it runs."""
        return self.recorded.cases.side * (self.running_reads * self.apart).sum((1, 2))

    @property
    def off_by(self) -> float:
        """How far the sum is from what was measured, in the worst case, of the largest margin;
        kept in a circuit's file (`Chosen`)."""
        margins = self.recorded.difference.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        return float((self.total - self.measured).abs().max() / margins)


def beyond_mean(
    recorded: Recorded, values: Float[Tensor, "case pos width"]
) -> Float[Tensor, "case pos width"]:
    """Values less their mean over the classes; zero at the first token and after the answer's."""
    at = torch.arange(values.shape[1])
    inside = (at <= recorded.cases.position[:, None]) & (at > 0)
    return (values - mean_over_classes(recorded.cases, values)) * inside[..., None]


def _averaged(
    recorded: Recorded, layer: int, apart: Tensor, n_point: int, past_mlps: bool = False
) -> Float[Tensor, "case pos model"]:
    """What the logit differences read of an MLP's output, on average over the way to its mean."""
    places, weights = np.polynomial.legendre.leggauss(n_point)  # from -1 to 1
    reads = torch.zeros_like(apart)
    for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
        change = (place - 1) / 2 * apart
        reads += weight / 2 * read_of(recorded, Site("mlp_out", layer), change, past_mlps)[1]
    return reads


def gone(
    recorded: Recorded, layer: int, written: Float[Tensor, "case pos model"]
) -> Float[Tensor, " case"]:
    """Of each logit difference what is gone without a part of what an MLP writes."""
    return recorded.difference - read_of(recorded, Site("mlp_out", layer), -written)[0]


def read_of(
    recorded: Recorded, site: Site, change: Float[Tensor, "case pos model"], past_mlps: bool = False
) -> tuple[Float[Tensor, " case"], Float[Tensor, "case pos model"]]:
    """Of the network with what a layer's MLP or attention adds changed: the logit differences, and
    what they read of that; with ``past_mlps`` only what passes no later MLP."""
    cases, model = recorded.cases, recorded.model
    directions = answer_directions(cases, model)
    passed = range(site.layer + 1, model.n_layer) if past_mlps else ()
    changes = dict[Site | str, Callable[[Tensor], Tensor]]()
    changes |= {Site("mlp_in", later): torch.Tensor.detach for later in passed}
    differences, reads = list[Tensor](), list[Tensor]()
    start = 0
    for rows in cases.tiles:
        here = slice(start, start + len(rows))
        start += len(rows)
        added = change[here].to(model.device).requires_grad_()
        with torch.enable_grad(), model.replaced(changes | {site: added.add}):
            found = read_difference(model, rows, cases.position[here], directions[here])
            (read,) = torch.autograd.grad(found.sum(), added)
        differences.append(found.detach().cpu())
        reads.append(read.cpu())
    return torch.cat(differences), torch.cat(reads)
