"""What the targets lose where one piece is not written: all its gates, through all later layers.

With patterns and scales of the run, what a later MLP writes changes by the gates that the piece is
in: with whole pairs, of which Shapley gives it half, less its square, which they count twice. That
change is carried on to the next MLP. So nothing is linearised, and the number is what taking the
piece away does, as long as attention looks where it did and norms divide by what they did.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.writers import Readings, Writers
from circuits.attention.paths import NUMBERS, stage
from circuits.model.site import Site


@torch.no_grad()
def removal_effects(
    writers: Writers, targets: Readings, numbers: Int64[np.ndarray, " piece"]
) -> Float[Tensor, "target piece"]:
    """What each target loses without each piece, removed alone. NaN for constants of layers, which
    nothing writes. A piece costs as much as a run of the text's later layers."""
    made = targets.directions.new_full((len(targets.directions), len(numbers)), torch.nan)
    rows = max(1, NUMBERS // writers.last.numel())
    for site, places, vectors, where in writers.vectors(numbers):
        parts = zip(vectors.split(rows), where.split(rows), strict=True)
        lost = [_lost(writers, site, *part)[:, targets.position] for part in parts]
        made[:, torch.as_tensor(places)] = targets.directions @ torch.cat(lost).mT
    return made


def _lost(
    writers: Writers,
    site: Site,
    vectors: Float[Tensor, "piece model"],
    where: Int64[Tensor, " piece"],
) -> Float[Tensor, "piece pos model"]:
    """What the last stream loses without each of some pieces, written at the same site."""
    start, paths = stage(site) or 0, writers.paths
    written = vectors.new_zeros(len(vectors), *writers.last.shape)
    written[torch.arange(len(vectors), device=where.device), where] = vectors
    lost = written
    for layer in range(start // 2, writers.model.n_layer):
        if 2 * layer >= start:  # attention's biases are written after it
            lost = lost + paths.attended(lost, layer)
        lost = lost + _lost_of_mlp(writers, layer, paths.normed(lost, layer))
    return lost


def _lost_of_mlp(
    writers: Writers, layer: int, change: Float[Tensor, "piece pos model"]
) -> Float[Tensor, "piece pos model"]:
    """What an MLP does not write where its input loses something: B(x, x) − B(x − c, x − c)."""
    bilinear = writers.layer(layer)
    left, right = bilinear.factors
    x, change = bilinear.lift(writers.inputs[layer]), bilinear.lift(change, 0.0)
    first, second = change @ left.mT, change @ right.mT
    pairs = first * (x @ right.mT) + (x @ left.mT) * second
    return (pairs - first * second) @ bilinear.down.mT
