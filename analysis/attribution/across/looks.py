"""What each head adds to a behaviour's contrast because it looks elsewhere in one of the classes.

A head's *looks* part is what is gone of a logit difference when it looks in each text as it does
on average over the texts of the minimal pair, and all other heads look where they did. It is
``apart[t, u] · moved[t, u]`` summed: ``apart`` is what the pattern differs by, and ``moved`` what
the answers read of what the head moves from u to t, on average over the straight line from one
pattern to the other. What is left of the network with its patterns and scales held is a polynomial,
so few points of the line give that average exactly.

Where cases name no pairs, all texts of a shape (`shapes`) are compared, each class alike; a text
with no other class to be compared with has no looks part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.across.effect import read_of
from analysis.attribution.across.recorded import Recorded, shapes
from circuits.algebra.head import Head
from circuits.errors import check_memory
from circuits.model.site import Site

_N_POINTS = 8  # of the line from one pattern to another, Gauss's


@dataclass(frozen=True, eq=False)
class Place:
    """A query and a key in cases of one shape, and how much the score of the two counts in each."""

    cases: Int64[Tensor, " row"]
    query: int
    key: int
    weights: Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class Looks:
    """Of the cases of a behaviour, in float64."""

    recorded: Recorded
    heads: tuple[tuple[Head, ...], ...]  # by layer
    patterns: tuple[Float[Tensor, "case head query_pos key_pos"], ...]
    streams: tuple[Float[Tensor, "case pos model"], ...]  # before each layer's attention
    scales: tuple[Float[Tensor, "case pos"], ...]  # that the norms divide them by

    @classmethod
    def of(cls, recorded: Recorded) -> Looks:
        """What the heads of all layers look at and read. Attention that is not made of heads (see
        `Model.head`) is refused."""
        model, tokens = recorded.model, recorded.cases.tokens
        layers, n_pos = range(model.n_layer), tokens.shape[1]
        n_number = tokens.numel() * (model.d_model + 4 * model.n_head * n_pos)
        check_memory("Looks.of", 8 * model.n_layer * n_number, "Pass fewer cases, or shorter ones.")
        heads = tuple(
            tuple(model.head(layer, head).to("cpu") for head in range(model.n_head))
            for layer in layers
        )
        sites, run, tiles = (
            [Site("resid_pre", n) for n in layers],
            recorded.run,
            recorded.cases.tiles,
        )
        with run.held():
            read = [model.read(rows, sites) for rows in tiles]
        streams = ([tile[site] for tile in read] for site in sites)
        looked = zip(*map(run.patterns, tiles), strict=True)
        scales = zip(*map(run.attention_scales, tiles), strict=True)
        return cls(recorded, heads, *(_joined(each) for each in (looked, streams, scales)))

    @cached_property
    def compared(self) -> Int64[Tensor, " case"]:
        """The number of the texts that each is compared with: those of its pair and shape."""
        cases = self.recorded.cases
        shape = torch.zeros(len(cases), dtype=torch.int64)
        for number, rows in enumerate(shapes(cases)):
            shape[rows] = number
        pair = torch.zeros_like(shape) if cases.pair is None else cases.pair
        return torch.unique(torch.stack([shape, pair]), dim=1, return_inverse=True)[1]

    @cached_property
    def _counts(self) -> Float[Tensor, "compared class"]:
        n_class = len(self.recorded.cases.signs)
        number = self.compared * n_class + self.recorded.cases.label
        n = (int(self.compared.max()) + 1) * n_class
        return torch.bincount(number, minlength=n).view(-1, n_class).double()

    @property
    def any_compared(self) -> bool:
        """Whether any text has one of another class to be compared with."""
        return bool(((self._counts > 0).sum(1) > 1).any())

    @cached_property
    def _alike(self) -> Float[Tensor, " case"]:
        """The weight of each text in the mean of those it is compared with, each class alike."""
        n_class = (self._counts > 0).sum(1)[self.compared]
        return 1 / (self._counts[self.compared, self.recorded.cases.label] * n_class)

    def _sums(self, values: Float[Tensor, "case ..."]) -> Float[Tensor, "case ..."]:
        """For each text the sum over those it is compared with."""
        sums = values.new_zeros(len(self._counts), *values.shape[1:])
        return sums.index_add_(0, self.compared, values)[self.compared]

    def apart(self, layer: int, head: int) -> Float[Tensor, "case query_pos key_pos"]:
        """Each text's pattern, less the mean pattern of the texts it is compared with."""
        pattern = self.patterns[layer][:, head]
        return pattern - self._sums(pattern * self._alike[:, None, None])

    def moved(self, layer: int, head: int) -> Float[Tensor, "case query_pos key_pos"]:
        """What the head adds to each logit difference towards side +1 for a pattern of one."""
        made, x = self.heads[layer][head], self.streams[layer] / self.scales[layer][..., None]
        value = x @ made.value.mT
        value = value if made.value_bias is None else value + made.value_bias
        read = self._reads(layer, head) @ made.output
        return einsum(read, value, "case t inner, case u inner -> case t u")

    def part(self, layer: int, head: int) -> Float[Tensor, " case"]:
        """What of each logit difference is there only because the head looks elsewhere in its text
        than in those it is compared with."""
        return (self.apart(layer, head) * self.moved(layer, head)).sum((1, 2))

    def _reads(self, layer: int, head: int) -> Float[Tensor, "case pos model"]:
        """What the logit differences read of the layer's attention, on average over the line from
        the head's mean pattern to its own."""
        recorded = self.recorded

        def made() -> Float[Tensor, "case pos model"]:
            own, apart = self.patterns[layer][:, head], self.apart(layer, head)
            site, nothing = Site("attn_out", layer), torch.zeros_like(self.streams[layer])
            n_point = min(2 ** (recorded.model.n_layer - 1 - layer), _N_POINTS)  # exact to 4 MLPs
            places, weights = np.polynomial.legendre.leggauss(n_point)  # from -1 to 1
            reads = torch.zeros_like(nothing)
            for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
                run, pattern = (
                    recorded.run,
                    (own + (place - 1) / 2 * apart).split(_tile_sizes(recorded)),
                )
                for rows, one in zip(recorded.cases.tiles, pattern, strict=True):
                    run = run.with_pattern(rows, layer, head, one)
                with run.held():
                    reads += weight / 2 * read_of(recorded, site, nothing)[1]
            return reads

        return recorded.cases.once(("looks", layer, head), made)

    def raised(self, layer: int, head: int) -> Float[Tensor, "case query_pos key_pos"]:
        """What a score that is higher by one adds to each logit difference, to first order and from
        the mean pattern on: through a softmax all other keys are looked at less."""
        moved = self.moved(layer, head)
        if self.heads[layer][head].n_form == 2:  # the product of the scores is the pattern
            return moved.tril()
        mean = self.patterns[layer][:, head] - self.apart(layer, head)
        return mean * (moved - (mean * moved).sum(2, keepdim=True))

    def places(self, layer: int, head: int) -> list[Place]:
        """Of each shape the place whose scores' difference adds most to the looks part. The largest
        part itself may be at another place, which is looked at only because this one is not.

        With their weights scores make a difference of two means: over the texts in which a higher
        score there adds to the contrast, and over those they are compared with.
        """
        cases, made = self.recorded.cases, self.heads[layer][head]
        own = cases.weights(cases.affected)
        sign = 1.0 if float((own * self.part(layer, head)).sum()) > 0 else -1.0
        raised = sign * own[:, None, None] * self.raised(layer, head)
        scores = made.scores(self.streams[layer] / self.scales[layer][..., None])
        added = raised * (scores - self._sums(scores * self._alike[:, None, None]))
        found, weights = [], torch.zeros(len(cases), dtype=torch.float64)
        for rows in shapes(cases):
            sums = added[rows].sum(0)
            query, key = divmod(int(sums.argmax()), sums.shape[1])
            if sums[query, key] > 0:
                found.append((rows, query, key))
                weights[rows] = raised[rows, query, key]
        weights = weights - self._alike * self._sums(weights)
        weights = 2 * weights / weights.abs().sum().clamp(min=torch.finfo(torch.float64).tiny)
        return [Place(rows, query, key, weights[rows]) for rows, query, key in found]


def _tile_sizes(recorded: Recorded) -> list[int]:
    return [len(rows) for rows in recorded.cases.tiles]


def _joined(layers: Iterable[Iterable[Tensor]]) -> tuple[Tensor, ...]:
    """Of each layer all tiles together, in float64."""
    return tuple(torch.cat([tile.cpu() for tile in tiles]).double() for tiles in layers)
