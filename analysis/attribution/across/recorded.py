"""The run of a behaviour's cases that every part of a circuit through several layers is read from,
and means over the classes in it.

Classes are compared token by token, counted back from the answer, in cases of one shape: of one
frame, where cases name theirs, and one length. Shapes that lack a class are compared as one, each
token among the texts that have one there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.behaviour.in_model import ModelCases
from circuits.algebra.bilinear import BilinearLayer
from circuits.attention.frozen_run import FrozenRun
from circuits.errors import check_memory
from circuits.model.model import Model
from circuits.model.site import Site


@dataclass(frozen=True, eq=False)
class Recorded:
    """Of the cases of a behaviour, in float64."""

    cases: ModelCases
    model: Model
    run: FrozenRun
    inputs: tuple[Float[Tensor, "case pos model"], ...]  # of each MLP
    difference: Float[Tensor, " case"]  # of the logits

    @classmethod
    def of(cls, cases: ModelCases) -> Recorded:
        """Made once for some cases."""

        def made() -> Recorded:
            n_number = cases.tokens.numel() * cases.model.d_model * cases.model.n_layer
            check_memory("Recorded.of", 40 * n_number, "Pass fewer cases, or shorter ones.")
            model = cases.model.in_dtype(torch.float64)
            run = FrozenRun.of(model, cases.tiles)
            return cls(cases, model, run, *_swept(cases, run))

        return cases.once("recorded", made)

    def layer(self, layer: int) -> BilinearLayer:
        """An MLP in float64."""
        return self.model.layer(layer).to("cpu", torch.float64)


def shapes(cases: ModelCases) -> list[Int64[Tensor, " case"]]:
    """The cases of each frame and length, whose tokens can be set against each other."""
    found: dict[tuple[str | None, int], list[int]] = {}
    for number, (case, at) in enumerate(
        zip(cases.behaviour.cases, cases.position.tolist(), strict=True)
    ):
        found.setdefault((case.strata.get("frame"), at), []).append(number)
    return [torch.tensor(rows) for _, rows in sorted(found.items(), key=lambda kind: str(kind[0]))]


def matched(cases: ModelCases) -> list[Int64[Tensor, " case"]]:
    """The same, but shapes that lack a class are one together: their tokens are set against each
    other as they are counted back from the answer."""
    whole, rest = list[Int64[Tensor, " case"]](), list[int]()
    for rows in shapes(cases):
        if len(cases.label[rows].unique()) == len(cases.signs):
            whole.append(rows)
        else:
            rest += rows.tolist()
    return [*whole, *([torch.tensor(sorted(rest))] if rest else [])]


def mean_over_classes(
    cases: ModelCases, values: Float[Tensor, "case pos width"]
) -> Float[Tensor, "case pos width"]:
    """At each token up to the answer's the mean over the `matched` cases that have a token there,
    each class alike. A text's first token keeps its own value: what is written there is no part of
    any effect (`beyond_mean`)."""
    back = aligned(cases, values)
    inside = beyond_first(cases, values.shape[1]).to(values.device)[..., None]
    mean = back.clone()
    for rows in matched(cases):
        means, known = class_means(cases, back, rows)
        whole = means.sum(0) / known.sum(0).clamp(min=1)[:, None]
        mean[rows] = torch.where(inside[rows], whole, back[rows])
    return aligned(cases, mean)


def class_means(
    cases: ModelCases, back: Float[Tensor, "case at width"], rows: Int64[Tensor, " row"]
) -> tuple[Float[Tensor, "class at width"], Bool[Tensor, "class at"]]:
    """Of some cases, counted back from the answers: the mean of each class over its texts that have
    a token there beyond their first, and whether there is any such text."""
    inside = beyond_first(cases, back.shape[1]).to(back.device)
    means = back.new_zeros(len(cases.signs), *back.shape[1:])
    known = torch.zeros(means.shape[:2], dtype=torch.bool, device=back.device)
    for number in range(len(means)):
        some = rows[cases.label[rows] == number]
        n = inside[some].sum(0)
        means[number] = (back[some] * inside[some, :, None]).sum(0) / n.clamp(min=1)[:, None]
        known[number] = n > 0
    return means, known


def beyond_first(cases: ModelCases, n_pos: int) -> Bool[Tensor, "case at"]:
    """Whether a text has a token at a place, counted back from its answer, beyond its first."""
    return torch.arange(n_pos) < cases.position[:, None]


def aligned(
    cases: ModelCases, values: Float[Tensor, "case pos width"]
) -> Float[Tensor, "case at width"]:
    """The same tokens counted back from each answer's, zeros before a text's first; done twice it
    is the texts again, up to the answers."""
    at = cases.position[:, None] - torch.arange(values.shape[1])
    at = at.to(values.device)
    moved = values.gather(1, at.clamp(min=0)[..., None].expand_as(values))
    return moved * (at >= 0)[..., None]


def _swept(cases: ModelCases, run: FrozenRun) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs of the MLPs, and logit differences."""
    model, start, found = run.model, 0, list[Tensor]()
    inputs: list[list[Tensor]] = [[] for _ in range(model.n_layer)]
    directions = answer_directions(cases, model)

    def kept(layer: int, x: Tensor) -> Tensor:
        inputs[layer].append(x.cpu())
        return x

    keep = dict[Site | str, Callable[[Tensor], Tensor]]()
    keep |= {Site("mlp_in", layer): partial(kept, layer) for layer in range(model.n_layer)}
    with torch.no_grad(), run.held(), model.replaced(keep):
        for rows in cases.tiles:
            here = slice(start, start + len(rows))
            found.append(read_difference(model, rows, cases.position[here], directions[here]))
            start += len(rows)
    return tuple(torch.cat(each) for each in inputs), torch.cat(found).cpu()


def answer_directions(cases: ModelCases, model: Model) -> Float[Tensor, "case model"]:
    """What each case's logit difference reads of the last stream, in a model's own numbers."""
    head = model.network.lm_head.weight
    each = torch.stack([head[list(a)].mean(0) - head[list(b)].mean(0) for a, b in cases.answers])
    return each[cases.answer.to(head.device)]


def read_difference(
    model: Model, rows: Int64[Tensor, "row pos"], position: Tensor, directions: Tensor
) -> Float[Tensor, " row"]:
    """The logit difference of each row, with its gradients."""
    stream = model.network.model(rows.to(model.device), use_cache=False).last_hidden_state
    at = stream[torch.arange(len(rows)), position.to(model.device)]
    return (at * directions).sum(1)
