"""Influence flows back from the targets to tokens, and at each node it is split as its value is.

A node passes its influence to what it reads in proportion to |contribution|, where a pair of
pieces counts half for either (Shapley's value of it). So nothing is lost: what arrives at tokens,
errors, biases and whole MLPs, and what stays at features that were not followed, sums to 1. Sizes
are absolute: two large contributions that cancel have both influence.

Only the ``n_followed`` features of most influence are followed in each layer, because each costs a
sweep back through the text; the share that stays at the others is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.attribution.writers import Readings, Writers


@dataclass(frozen=True, eq=False)
class Followed:
    """Nodes whose contributions are known."""

    numbers: Int64[np.ndarray, " node"]  # among the pieces
    contributions: Float[Tensor, "node writer"]

    @property
    def shares(self) -> Float[Tensor, "node writer"]:
        """Of each node's influence, what each piece gets."""
        return self.signed.abs()

    @property
    def signed(self) -> Float[Tensor, "node writer"]:
        """The same with the sign of what each piece adds."""
        sizes = self.contributions.abs().sum(1, keepdim=True)
        return self.contributions / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Influence:
    """How much of the targets goes back to each piece."""

    writers: Writers
    targets: Float[Tensor, "target writer"]  # what each piece adds to each target
    layers: Mapping[int, Followed]
    of: Float[np.ndarray, " writer"]  # the influence of each piece

    @property
    def followed(self) -> Bool[np.ndarray, " writer"]:
        """Which pieces are features that are followed further back."""
        known = np.zeros(len(self.writers), dtype=bool)
        for layer in self.layers.values():
            known[layer.numbers] = True
        return known

    @property
    def ends(self) -> Bool[np.ndarray, " writer"]:
        """Which pieces are not followed further back because nothing is known of them."""
        return (self.writers.table["kind"] != "feature").to_numpy()

    @property
    def net(self) -> Float[np.ndarray, " writer"]:
        """Influence with its sign: how much of it raises the targets, less how much lowers them.
        What lowers a feature's activation passes on the opposite of that feature's own."""
        signs = torch.as_tensor(np.sign(self.writers.table["value"].to_numpy()))
        top = Followed(np.arange(len(self.targets)), self.targets).signed.double().cpu()
        arrived = top.mean(0)
        for layer in sorted(self.layers, reverse=True):
            numbers = torch.as_tensor(self.layers[layer].numbers)
            passed = arrived[numbers] * signs[numbers]
            arrived = arrived + self.layers[layer].signed.double().cpu().mT @ passed
        return arrived.numpy()

    def through(self, kept: Bool[np.ndarray, " writer"]) -> Float[np.ndarray, " writer"]:
        """The influence that reaches each piece by way of kept ones alone."""
        return _passed_back(self.targets, self.layers, torch.as_tensor(kept)).numpy()


def influence(writers: Writers, targets: Readings, n_followed: int) -> Influence:
    """The influence of every piece on the targets, which have the same share each."""
    top = writers.contributions(targets)
    features = (writers.table["kind"] == "feature").to_numpy()
    layer_of = writers.table["layer"].to_numpy()
    layers: dict[int, Followed] = {}
    arrived = _passed_back(top, {}, None)
    for layer in reversed(range(writers.model.n_layer)):
        here = np.flatnonzero(features & (layer_of == layer) & (arrived.numpy() > 0))
        chosen = here[np.argsort(-arrived.numpy()[here], kind="stable")[:n_followed]]
        if len(chosen):
            layers[layer] = followed(writers, layer, np.sort(chosen))
            numbers = torch.as_tensor(layers[layer].numbers)
            arrived = arrived + layers[layer].shares.double().cpu().mT @ arrived[numbers]
    return Influence(writers, top, layers, arrived.numpy())


def followed(writers: Writers, layer: int, numbers: Int64[np.ndarray, " node"]) -> Followed:
    """The contributions to some features of a layer."""
    rows = writers.table.iloc[numbers]
    made = [
        writers.contributions(writers.features(layer, int(at), features_of(writers, some)))
        for at, some in rows.groupby("position", sort=True)
    ]
    return Followed(numbers, torch.cat(made))


def features_of(writers: Writers, rows: object) -> Int64[Tensor, " node"]:
    """The dictionary's numbers of some rows of the table."""
    numbers = np.array(rows["feature"])  # type: ignore[index]
    return torch.as_tensor(numbers, device=writers.last.device)


def _passed_back(
    targets: Float[Tensor, "target writer"],
    layers: Mapping[int, Followed],
    kept: Bool[Tensor, " writer"] | None,
) -> Float[Tensor, " writer"]:
    """What arrives at each piece, layer by layer from the last."""
    top = Followed(np.arange(len(targets)), targets).shares.double().cpu()
    arrived = top.mean(0)
    for layer in sorted(layers, reverse=True):
        numbers = torch.as_tensor(layers[layer].numbers)
        passed = arrived[numbers] if kept is None else arrived[numbers] * kept[numbers]
        arrived = arrived + layers[layer].shares.double().cpu().mT @ passed
    return arrived
