"""What the interactions of every output look like, one row each, in one streamed pass.

The numbers are over *pairs of features*: a pair's weight is ``2 · matrix(o)[i, j]`` (cross), a
feature's with itself ``matrix(o)[i, i]`` (self). The constant feature is no feature here: its
weights are linear terms, and ``linear_rms`` keeps them apart.

Nothing here says what is *much*. Run the same pass with ``inputs.control()`` and put the two
tables side by side.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import FeatureRangeError
from circuits.interactions import Interactions
from circuits.shards import make_shards, merge_shards
from circuits.spectrum import Spectrum
from circuits.strongest import tiles

EDGE = 8.0  # histograms run from -EDGE to EDGE root mean squares; what lies beyond is counted
BINS = 66  # in each of them, the two outermost for what lies beyond


def output_statistics(
    inter: Interactions, outputs: range | None = None, folder: str | Path | None = None
) -> pd.DataFrame:
    """One row for each output; kept in ``folder`` as shards, so that it can stop and resume.

    Several processes may fill one folder with different ranges; ``merge_shards`` then makes one
    table of them. Costs ``features² · model`` operations for each output, and a tile of memory.
    """
    outputs = range(inter.n_output) if outputs is None else outputs
    if not outputs or not 0 <= outputs[0] <= outputs[-1] < inter.n_output:
        raise FeatureRangeError(
            f"output_statistics: {outputs} is not among outputs 0 to {inter.n_output - 1}. "
            f"Name a range of at least one of them."
        )
    with tempfile.TemporaryDirectory() as temporary:
        place = temporary if folder is None else folder
        features = inter.write[: inter.inputs.n_feature]
        rows_of = partial(_statistics_of, inter, features.mT @ features)
        make_shards(place, outputs, rows_of, inter.fingerprint, "statistics")
        return merge_shards(place, outputs)


def histogram_edges() -> Float[Tensor, " edge"]:
    """The edges of the histograms' bins, in units of the row's own root mean square."""
    return torch.linspace(-EDGE, EDGE, BINS - 1, dtype=torch.float64)


def _statistics_of(inter: Interactions, gram: Tensor, output: int) -> pd.DataFrame:
    form = inter.form(output)
    features = inter.write[: inter.inputs.n_feature]
    images = features @ form
    selves = (images * features).sum(1)
    spectrum = Spectrum.of(inter.whitened.interaction(inter.outputs.read[output]))
    linear = 2 * images @ inter.write[-1] if inter.has_constant else selves.new_zeros(1)
    # Σ (2Q_ij)² over i < j, known before any pair is: the scale of the histogram
    squares = ((gram @ form).mT * (gram @ form)).sum()
    n_pairs = len(features) * (len(features) - 1) // 2
    cross_rms = float((2 * (squares - selves.square().sum()).clamp(min=0) / max(n_pairs, 1)).sqrt())
    cross = _cross_pass(features, images, selves, cross_rms)
    self_rms = float(selves.square().mean().sqrt())
    values = [*spectrum.values.tolist(), 0.0, 0.0]
    row = {
        "output": output,
        "n_feature": len(features),
        "energy": spectrum.total_energy,
        "effective_rank": spectrum.effective_rank,
        "entropy_rank": spectrum.entropy_rank,
        "value_1": values[0],
        "value_2": values[1],
        "energy_2": spectrum.energy(min(2, len(spectrum))),
        "linear_rms": float(linear.square().mean().sqrt()),
        "self_mean": float(selves.mean()),
        "self_rms": self_rms,
        "self_kurtosis": _kurtosis(selves),
        **cross,
        "self_histogram": _histogram(selves / (self_rms or 1.0)).long().tolist(),
    }
    return pd.DataFrame([row])


def _cross_pass(features: Tensor, images: Tensor, selves: Tensor, rms: float) -> dict[str, object]:
    """Moments, histogram and extremes of the weights of all pairs of different features."""
    scale = 2 / rms if rms > 0 else 0.0
    scaled, own = images * scale, selves.abs() * (scale / 2)
    sums = torch.zeros(4, dtype=torch.float64)
    counts = torch.zeros(BINS, dtype=torch.float64)
    strongest, gate = (0.0, 0, 0), (-float("inf"), 0, 0)
    for rows, columns in tiles(len(features)):
        weights = scaled[rows] @ features[columns].mT
        score = weights - own[rows, None] - own[columns]
        if columns.start == rows.start:  # each pair once
            weights.triu_(1)
            below = torch.ones_like(weights, dtype=torch.bool).tril_()
            score.masked_fill_(below, -float("inf"))
            counts[BINS // 2] -= int(below.sum())  # zero opens the upper of the two middle bins
        powers = weights.square()
        sums += torch.stack(
            [weights.sum(), powers.sum(), (powers * weights).sum(), powers.square().sum()]
        ).to(sums)
        counts += _histogram(weights)
        strongest = max(strongest, _largest(powers, rows, columns))
        gate = max(gate, _largest(score, rows, columns))
    n_pairs = len(features) * (len(features) - 1) // 2
    mean, second, third, fourth = (sums / max(n_pairs, 1)).tolist()
    variance = second - mean**2
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    unit = 1 / scale if scale else 0.0
    return {
        "cross_mean": mean * 2 * unit,
        "cross_rms": rms,
        "cross_kurtosis": central / variance**2 if variance > 0 else float("nan"),
        "strongest_weight": float(images[strongest[1]] @ features[strongest[2]]) * 2,
        "strongest_first": strongest[1],
        "strongest_second": strongest[2],
        "and_score": gate[0] * 2 * unit,
        "and_first": gate[1],
        "and_second": gate[2],
        "cross_histogram": counts.long().tolist(),
    }


def _largest(tile: Tensor, rows: slice, columns: slice) -> tuple[float, int, int]:
    where = int(tile.argmax())
    row, column = divmod(where, tile.shape[1])
    return float(tile[row, column]), row + rows.start, column + columns.start


def _histogram(values: Tensor) -> Float[Tensor, " bin"]:
    """Counts in units of the root mean square; the outermost bins hold what lies beyond."""
    width = 2 * EDGE / (BINS - 2)
    inside = values.clamp(-EDGE - width / 2, EDGE + width / 2)
    counts = torch.histc(inside.float(), BINS, -EDGE - width, EDGE + width)
    return counts.double().cpu()


def _kurtosis(values: Tensor) -> float:
    centred = values.double() - values.double().mean()
    variance = float(centred.square().mean())
    return float(centred.square().square().mean()) / variance**2 if variance > 0 else float("nan")
