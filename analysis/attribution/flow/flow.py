"""What every MLP adds to a behaviour's contrast, by all of its ways to the answers.

With attention patterns and norm scales of each case as data, the logit difference is a polynomial
of what was written before. An MLP's pairs share what it adds, half to each of the two, so that the
contrast flows back through later MLPs without a loss: what the embeddings pass on (and biases,
where a model has them) is all of it again. An MLP's part is what flows through it, which holds what
it passes on: the parts of two layers overlap.

Classes are compared token by token, counted back from the answer, in cases of one shape: of one
frame, where cases name theirs, and one length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.behaviour.in_model import ModelCases
from circuits.algebra.bilinear import BilinearLayer
from circuits.attention.frozen_run import FrozenRun
from circuits.errors import check_memory
from circuits.model.model import Model
from circuits.model.site import Site


@dataclass(frozen=True, eq=False)
class Flow:
    """Of the cases of a behaviour, in float64; positions after the answers' read nothing."""

    cases: ModelCases
    model: Model
    run: FrozenRun
    inputs: tuple[Float[Tensor, "case pos model"], ...]  # of each MLP
    reads: tuple[Float[Tensor, "case pos model"], ...]  # of its output, towards side +1
    attention_reads: tuple[Float[Tensor, "case pos model"], ...]  # of each attention's output
    embedded: Float[Tensor, "case pos"]  # what each token's embedding passes on
    difference: Float[Tensor, " case"]  # of the logits

    @classmethod
    def of(cls, cases: ModelCases) -> Flow:
        """The flow through all heads; made once for some cases."""
        if "flow" not in cases.kept:
            n_number = cases.tokens.numel() * cases.model.d_model * cases.model.n_layer
            check_memory("Flow.of", 40 * n_number, "Pass fewer cases, or shorter ones.")
            model = cases.model.in_dtype(torch.float64)
            run = FrozenRun.of(model, cases.tiles)
            cases.kept["flow"] = cls(cases, model, run, *_swept(cases, run, ()))
        flow: Flow = cases.kept["flow"]
        return flow

    def layer(self, layer: int) -> BilinearLayer:
        """An MLP in float64."""
        return self.model.layer(layer).to("cpu", torch.float64)

    @cached_property
    def totals(self) -> tuple[Float[Tensor, " case"], ...]:
        """What flows through each MLP, towards each case's right answer."""
        return tuple(
            self.cases.side * (self.layer(layer)(x) * read).sum((1, 2))
            for layer, (x, read) in enumerate(zip(self.inputs, self.reads, strict=True))
        )

    def by_way_of(
        self, heads: Collection[tuple[int, int]], *, past_mlps: bool = False
    ) -> tuple[Float[Tensor, "case pos model"], ...]:
        """The part of each MLP's reads that comes through any of some heads, as (layer, head);
        with ``past_mlps`` what of that comes through no later MLP."""
        reads = self.reads_past_mlps if past_mlps else self.reads
        others = _swept(self.cases, self.run, heads, past_mlps)[1]
        return tuple(read - without for read, without in zip(reads, others, strict=True))

    @cached_property
    def reads_past_mlps(self) -> tuple[Float[Tensor, "case pos model"], ...]:
        """The part of each MLP's reads that comes through no later MLP."""
        return _swept(self.cases, self.run, (), past_mlps=True)[1]


def shapes(cases: ModelCases) -> list[Int64[Tensor, " case"]]:
    """The cases of each frame and length, whose tokens can be set against each other."""
    found: dict[tuple[str | None, int], list[int]] = {}
    for number, (case, at) in enumerate(
        zip(cases.behaviour.cases, cases.position.tolist(), strict=True)
    ):
        found.setdefault((case.strata.get("frame"), at), []).append(number)
    return [torch.tensor(rows) for _, rows in sorted(found.items(), key=lambda kind: str(kind[0]))]


def aligned(
    cases: ModelCases, values: Float[Tensor, "case pos width"]
) -> Float[Tensor, "case at width"]:
    """The same tokens counted back from each answer's, zeros before a text's first; done twice it
    is the texts again, up to the answers."""
    at = cases.position[:, None] - torch.arange(values.shape[1])
    at = at.to(values.device)
    moved = values.gather(1, at.clamp(min=0)[..., None].expand_as(values))
    return moved * (at >= 0)[..., None]


def _swept(
    cases: ModelCases, run: FrozenRun, closed: Collection[tuple[int, int]], past_mlps: bool = False
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """Inputs, reads of MLPs and of attention, what embeddings pass on, and logit differences, where
    closed heads pass on no influence; with ``past_mlps`` no MLP does either."""
    model = run.model
    layers = range(model.n_layer)
    made: list[tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]] = []
    head = model.network.lm_head.weight
    each = torch.stack([head[list(a)].mean(0) - head[list(b)].mean(0) for a, b in cases.answers])
    directions = each[cases.answer.to(head.device)]
    start = 0
    with run.held(closed):
        for rows in cases.tiles:
            here = slice(start, start + len(rows))
            made.append(
                _swept_tile(model, rows, cases.position[here], directions[here], layers, past_mlps)
            )
            start += len(rows)
    *streams, embedded, difference = zip(*made, strict=True)
    joined = (tuple(torch.cat([tile[i] for tile in each]) for i in layers) for each in streams)
    return (*joined, torch.cat(embedded), torch.cat(difference))  # type: ignore[return-value]


def _swept_tile(
    model: Model,
    rows: Tensor,
    position: Tensor,
    directions: Tensor,
    layers: range,
    past_mlps: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    shape = (*rows.shape, model.d_model)
    sites = [Site(point, layer) for point in ("mlp_out", "attn_out") for layer in layers]
    added = {s: torch.zeros(shape, dtype=torch.float64, device=model.device) for s in sites}
    inputs: list[Tensor] = [None] * len(layers)  # type: ignore[list-item]
    seen: list[Tensor] = []

    def halved(layer: int, x: Tensor) -> Tensor:
        inputs[layer] = x.detach().cpu()
        passed = x.detach() if past_mlps else x
        return (passed + x.detach()) / 2  # the same value, half the gradient

    def begin(x: Tensor) -> Tensor:
        seen[:] = [x.detach().clone().requires_grad_()]
        return seen[0]

    functions: dict[Site | str, Callable[[Tensor], Tensor]] = {Site("resid_pre", 0): begin}
    for layer in layers:
        functions[Site("mlp_in", layer)] = partial(halved, layer)
    for site, nothing in added.items():
        functions[site] = nothing.requires_grad_().add
    with torch.enable_grad(), model.replaced(functions):
        stream = model.network.model(rows.to(model.device), use_cache=False).last_hidden_state
        at = stream[torch.arange(len(rows)), position.to(model.device)]
        difference = (at * directions).sum(1)
        found = torch.autograd.grad(difference.sum(), [*added.values(), seen[0]])
    *reads, back = (each.cpu() for each in found)
    embedded = (back * seen[0].detach().cpu()).sum(-1)
    of_mlps, of_attention = reads[: len(layers)], reads[len(layers) :]
    return inputs, of_mlps, of_attention, embedded, difference.detach().cpu()
