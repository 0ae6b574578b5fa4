"""Statistics of the interactions of every output, one row each, in one streamed pass.

A pair's weight is ``2 · matrix(o)[i, j]`` (cross), a feature's with itself ``matrix(o)[i, i]``
(self). The constant is left out, in the spectral columns too: its weights are linear terms, and
``linear_rms`` is about them. To judge a number, compare the same pass with ``inputs.control()``.
"""

from __future__ import annotations

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.algebra.interactions import Interactions
from circuits.algebra.pair_search import power_of_two, tiles
from circuits.errors import FeatureRangeError, RunError, shorten
from circuits.storage.shards import make_shards, merge_shards

_EDGE = 8.0  # histograms run from -_EDGE to _EDGE root mean squares; the rest is counted too
BINS = 66  # in each, the two outermost for values beyond the edges
_WHOLE = ("output", "n_feature", "strongest_first", "strongest_second", "and_first", "and_second")
_NUMBERS = ("energy", "effective_rank", "entropy_rank", "value_1", "value_2", "energy_2",
            "linear_rms", "self_mean", "self_rms", "self_kurtosis", "cross_mean", "cross_rms",
            "cross_kurtosis", "strongest_weight", "and_score")  # fmt: skip
_HISTOGRAMS = ("cross_histogram", "self_histogram")


def output_statistics(
    inter: Interactions, outputs: range | None = None, folder: str | Path | None = None
) -> pd.DataFrame:
    """One row for each output; kept in ``folder`` as shards, so that it can stop and resume, and
    several processes may fill it with different ranges. Costs ``features² · model`` for each
    output."""
    outputs = range(inter.n_output) if outputs is None else outputs
    unbroken = isinstance(outputs, range) and outputs and outputs.step == 1
    if not unbroken or not 0 <= outputs[0] <= outputs[-1] < inter.n_output:
        raise FeatureRangeError(
            f"output_statistics: {outputs} is not a range(a, b) of outputs 0 to "
            f"{inter.n_output - 1}. Name at least one of them."
        )
    features = inter.inputs.write.double()
    alone = inter.without_constant
    with tempfile.TemporaryDirectory() as temporary:
        place = temporary if folder is None else folder
        rows_of = partial(_statistics_of, inter, alone, features.mT @ features)
        make_shards(place, outputs, rows_of, inter.fingerprint, "statistics")
        return _checked(merge_shards(place, outputs), inter.n_input, place)


def _checked(table: pd.DataFrame, n_input: int, folder: str | Path) -> pd.DataFrame:
    """The table; refused where shards that lay in the folder before hold no such statistics."""
    wrong = [name for name in (*_WHOLE, *_NUMBERS, *_HISTOGRAMS) if name not in table]
    if not wrong:
        ends = table[[*_WHOLE[2:]]]
        wrong = [name for name in _WHOLE if table[name].dtype.kind not in "iu"]
        wrong = wrong or [name for name in ends if not ends[name].between(-1, n_input - 1).all()]
        wrong += [name for name in _NUMBERS if table[name].dtype.kind != "f"
                  or np.isinf(table[name].to_numpy()).any()]  # fmt: skip
        wrong += [name for name in _HISTOGRAMS if not table[name].map(_is_histogram).all()]
    if wrong:
        raise RunError(
            f"{folder}: a shard there holds no statistics of this layer in {shorten(wrong)}. "
            f"Delete the folder, and run the pass again."
        )
    return table


def _is_histogram(counts: object) -> bool:
    if not isinstance(counts, np.ndarray) or counts.shape != (BINS,):
        return False
    return bool((counts >= 0).all() and np.isfinite(counts).all())


def histogram_edges() -> Float[Tensor, " edge"]:
    """The edges of the histograms' bins, in units of the row's own root mean square."""
    return torch.linspace(-_EDGE, _EDGE, BINS - 1, dtype=torch.float64)


def _statistics_of(
    inter: Interactions, alone: Interactions, gram: Tensor, output: int
) -> pd.DataFrame:
    """One row: ``alone`` are the interactions of the features without the constant."""
    features, form = alone.write, alone.form(output)
    images = features @ form
    selves = (images.double() * features.double()).sum(1)
    spectrum = alone.spectrum(output)
    values = [*spectrum.values.tolist(), 0.0, 0.0]
    row = {
        "output": output,
        "n_feature": len(features),
        "energy": float(spectrum.values.double().square().sum()),
        "effective_rank": spectrum.effective_rank,
        "entropy_rank": spectrum.entropy_rank,
        "value_1": values[0],
        "value_2": values[1],
        "energy_2": spectrum.energy(min(2, len(spectrum))),
        "linear_rms": _linear_rms(inter, output),
        "self_mean": float(selves.mean()),
        "self_rms": float(selves.square().mean().sqrt()),
        "self_kurtosis": _kurtosis(selves),
        **_cross_statistics(features, images, selves, gram, form),
        "self_histogram": _histogram(selves, float(selves.square().mean().sqrt())).tolist(),
    }
    return pd.DataFrame([row])


def _linear_rms(inter: Interactions, output: int) -> float:
    if not inter.has_constant:
        return 0.0
    image = inter.form(output).double() @ inter.write[-1].double()
    linear = 2 * inter.inputs.write.double() @ image[: inter.inputs.d_model]
    return float(linear.square().mean().sqrt())


def _cross_statistics(
    features: Tensor, images: Tensor, selves: Tensor, gram: Tensor, form: Tensor
) -> dict[str, object]:
    """Moments, histogram and extremes of the weights of all pairs of different features."""
    n_pairs = len(features) * (len(features) - 1) // 2
    if n_pairs == 0:
        return dict(_NO_PAIRS)
    # sums over all pairs are known before any pair is, so moments are taken about the mean
    total = features.double().sum(0)
    mean = float(total @ form.double() @ total - selves.sum()) / n_pairs
    image = gram @ form.double()
    squares = 2 * float((image.mT * image).sum() - selves.square().sum())
    rms = (max(squares, 0.0) / n_pairs) ** 0.5
    cross = _cross_pass(features, images, selves, mean, rms or float(selves.abs().max()) or 1.0)
    measured = float(cross["cross_rms"])
    if abs(measured - rms) > 1e-3 * measured > 0:  # the difference above had cancelled
        cross = _cross_pass(features, images, selves, mean, measured)
    return cross


_NO_PAIRS: dict[str, object] = {
    **dict.fromkeys(("cross_mean", "cross_rms", "cross_kurtosis", "strongest_weight"), math.nan),
    **dict.fromkeys(("strongest_first", "strongest_second"), -1),
    "and_score": math.nan,
    **dict.fromkeys(("and_first", "and_second"), -1),
    "cross_histogram": [0] * BINS,
}


def _cross_pass(
    features: Tensor, images: Tensor, selves: Tensor, mean: float, unit: float
) -> dict[str, Any]:
    """One pass over the tiles, in units that keep the numbers near one."""
    scaled, own = images * (2 / unit), (selves.abs() / unit).to(images.dtype)
    sums = torch.zeros(3, dtype=torch.float64)
    counts = torch.zeros(BINS, dtype=torch.int64)
    strongest, gate = (-1.0, -1, -1), (-math.inf, -1, -1)
    for rows, columns in tiles(len(features)):
        weights = scaled[rows] @ features[columns].mT
        score = weights - own[rows, None] - own[columns]
        centred, size = weights - mean / unit, weights.abs()
        if columns.start == rows.start:  # each pair once
            below = torch.ones_like(weights, dtype=torch.bool).tril_()
            centred.masked_fill_(below, 0)
            size.masked_fill_(below, -1)
            score.masked_fill_(below, -math.inf)
            weights.masked_fill_(below, 0)
            counts[BINS // 2] -= int(below.sum())  # zero opens the upper of the two middle bins
        squares = centred.square()
        powers = (centred, squares, squares.square())
        sums += torch.stack([power.sum(dtype=torch.float64) for power in powers]).cpu()
        counts += _histogram(weights, 1.0)
        strongest = max(strongest, _largest(size, rows, columns))
        gate = max(gate, _largest(score, rows, columns))
    n_pairs = len(features) * (len(features) - 1) // 2
    off, second, fourth = (sums / n_pairs).tolist()
    pair = images[strongest[1]].double() @ features[strongest[2]].double()
    return {
        "cross_mean": mean + off * unit,
        "cross_rms": float(second + 2 * off * mean / unit + (mean / unit) ** 2) ** 0.5 * unit,
        "cross_kurtosis": fourth / second**2 if second > 0 else math.nan,
        "strongest_weight": 2 * float(pair),
        "strongest_first": strongest[1],
        "strongest_second": strongest[2],
        "and_score": gate[0] * unit,
        "and_first": gate[1],
        "and_second": gate[2],
        "cross_histogram": counts.tolist(),
    }


def _largest(tile: Tensor, rows: slice, columns: slice) -> tuple[float, int, int]:
    where = int(tile.argmax())
    row, column = divmod(where, tile.shape[1])
    return float(tile[row, column]), row + rows.start, column + columns.start


def _histogram(values: Tensor, unit: float) -> Int[Tensor, " bin"]:
    """Counts in these units; the outermost bins hold what lies beyond."""
    width = 2 * _EDGE / (BINS - 2)
    inside = (values / (unit or 1.0)).clamp(-_EDGE - width / 2, _EDGE + width / 2)
    counts = torch.histc(inside.float(), BINS, -_EDGE - width, _EDGE + width)
    return counts.long().cpu()


def _kurtosis(values: Tensor) -> float:
    values = values.double() / power_of_two(values)  # fourth powers stay in range
    centred = values - values.mean()
    variance = float(centred.square().mean())
    return float(centred.square().square().mean()) / variance**2 if variance > 0 else math.nan
