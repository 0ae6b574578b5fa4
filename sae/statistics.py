"""How often and how strongly each feature is active, exactly, from one pass over activations.

Means, quantiles and histograms are of *active* values. At most 512 MiB of those are kept; beyond
that, quantiles and histograms use every second, fourth, … token (`Statistics.kept_every`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import DictionaryError, check_index
from circuits.model.formats.weights import check_state, read_tensors
from circuits.storage.files import content_hash
from sae.sparse import Code

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Which quantiles of each feature's active values are kept."""

N_BIN = 20
"""Equal bins of each feature's histogram, which covers its values and zero."""

_N_KEPT = 2**25  # entries
_OF = "weights_sha256"  # in the file's header


@dataclass(frozen=True)
class FeatureStatistics:
    """One feature's statistics over some tokens; zeros if it was never active."""

    n_token: int
    n_active: int
    frequency: float
    mean: float
    minimum: float
    maximum: float
    histogram: list[int]  # of its active values

    @property
    def span(self) -> tuple[float, float]:
        """Where the histogram begins and ends."""
        return min(0.0, self.minimum), max(0.0, self.maximum)


@checked
@dataclass(frozen=True, eq=False)
class Statistics:
    """Each feature's statistics over some tokens; zeros for a feature that was never active."""

    n_token: Int64[Tensor, ""]
    n_active: Int64[Tensor, " feature"]  # tokens
    mean: Float[Tensor, " feature"]
    minimum: Float[Tensor, " feature"]
    maximum: Float[Tensor, " feature"]
    quantiles: Float[Tensor, "feature level"]
    histogram: Int64[Tensor, "feature bin"]
    kept_every: Int64[Tensor, ""]  # quantiles and histogram use each n-th token; 1 is all

    @property
    def frequency(self) -> Float[Tensor, " feature"]:
        """The share of tokens on which each feature is active."""
        return self.n_active / self.n_token.clamp(min=1)

    def of(self, feature: int) -> FeatureStatistics:
        """One feature's statistics, as plain numbers."""
        feature = check_index("Statistics.of", feature, len(self.n_active), "feature")
        names = ("n_active", "frequency", "mean", "minimum", "maximum", "histogram")
        values = {name: getattr(self, name)[feature].tolist() for name in names}
        return FeatureStatistics(n_token=int(self.n_token), **values)

    def table(self) -> pd.DataFrame:
        """One row per feature."""
        names = ("n_active", "frequency", "mean", "minimum", "maximum")
        columns = {name: getattr(self, name).numpy() for name in names}
        for level, values in zip(LEVELS, self.quantiles.mT.numpy(), strict=True):
            columns[f"quantile_{level:g}"] = values
        return pd.DataFrame({"feature": np.arange(len(self.n_active)), **columns})

    def write(self, path: Path, weights: Path) -> None:
        """One safetensors file, with the hash of the dictionary's file that it is of."""
        about = {_OF: content_hash(weights)}
        save_file({part.name: getattr(self, part.name) for part in fields(self)}, path, about)

    @classmethod
    def read(cls, path: Path, n_feature: int, weights: Path) -> Statistics:
        """Read a file that `write` made; refused if it is of another dictionary than the file of
        ``weights`` beside it, or states what cannot be counted."""
        state = read_tensors(path)
        shapes: dict[str, tuple[int, ...]] = {part.name: (n_feature,) for part in fields(cls)}
        shapes |= {"quantiles": (n_feature, len(LEVELS)), "histogram": (n_feature, N_BIN)}
        shapes |= {"n_token": (), "kept_every": ()}
        check_state(path, state, shapes, "dictionary beside it")
        if noted_weights(path) not in (None, content_hash(weights)):
            raise DictionaryError(
                f"{path}: of other weights than {weights.name} beside it. Copy both again, or "
                f"remove it: the dictionary works without."
            )
        found = cls(**state)
        if wrong := found._faults():
            raise DictionaryError(
                f"{path}: states {', '.join(wrong)}, which nobody counted. Copy it again, or "
                f"remove it: the dictionary works without."
            )
        return found

    def _faults(self) -> list[str]:
        """What no tokens give."""
        values = (self.mean, self.minimum, self.maximum, self.quantiles)
        every = self.histogram.double()  # sums of 64 bits may be too large for them
        fits = {
            "no tokens": bool(self.n_token >= 1),
            "features active on fewer than none or more than all tokens": bool(
                ((self.n_active >= 0) & (self.n_active <= self.n_token)).all()
            ),
            "a histogram of other values": bool(
                (every >= 0).all() and (every.sum(1) <= self.n_active).all()
            ),
            "a part of the tokens that is none": bool(self.kept_every >= 1),
            "values that are not finite": all(bool(x.isfinite().all()) for x in values),
            "a least value above the largest": bool((self.minimum <= self.maximum).all()),
        }
        return [what for what, fine in fits.items() if not fine]


def noted_weights(path: Path) -> str | None:
    """The hash of the file of weights that statistics were written beside; earlier versions noted
    none."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(_OF)


def statistics(codes: Iterable[Code], n_kept: int = _N_KEPT) -> Statistics:
    """Statistics over the tokens of some codes, keeping at most ``n_kept`` active values."""
    tally = None
    for code in codes:
        tally = tally or _Tally(code.n_feature, n_kept)
        tally.add(code)
    if tally is None or tally.n_token == 0:
        raise DictionaryError(
            "statistics: there are no tokens, so features have no frequency. Was the iterator of "
            "activations used before? It gives them once; make a new one."
        )
    return tally.result()


class _Tally:
    """Sums over all entries, and the entries themselves as far as they fit."""

    def __init__(self, n_feature: int, most_kept: int) -> None:
        self.n_token = 0
        self._n_feature, self._most_kept = n_feature, most_kept
        self._every, self._n_kept = 1, 0
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # token, feature, value
        self._counts = np.zeros(n_feature, np.int64)
        self._sums = np.zeros(n_feature)
        self._least, self._most = np.full(n_feature, np.inf), np.full(n_feature, -np.inf)

    def add(self, code: Code) -> None:
        active = code.active
        feature = code.features[active].cpu().numpy()
        value = code.values[active].double().cpu().numpy()
        token = code.rows[active].cpu().numpy() + self.n_token
        self.n_token += code.n_row
        self._counts += np.bincount(feature, minlength=self._n_feature)
        self._sums += np.bincount(feature, weights=value, minlength=self._n_feature)
        np.minimum.at(self._least, feature, value)
        np.maximum.at(self._most, feature, value)
        self._keep(token, feature.astype(np.uint32), value.astype(np.float32))
        while self._n_kept > self._most_kept:
            self._every *= 2
            kept, self._kept, self._n_kept = self._kept, [], 0
            for entries in kept:
                self._keep(*entries)

    def _keep(self, token: np.ndarray, feature: np.ndarray, value: np.ndarray) -> None:
        if self._every > 1:
            chosen = token % self._every == 0
            token, feature, value = token[chosen], feature[chosen], value[chosen]
        self._kept.append((token, feature, value))
        self._n_kept += len(value)

    def result(self) -> Statistics:
        seen = self._counts > 0
        least, most = np.where(seen, self._least, 0), np.where(seen, self._most, 0)
        feature, value = self._sorted()
        starts = np.searchsorted(feature, np.arange(self._n_feature + 1))
        low, high = np.minimum(least, 0), np.maximum(most, 0)
        width = np.where(high > low, high - low, 1)[feature] / N_BIN
        bins = np.clip(((value - low[feature]) / width).astype(np.int64), 0, N_BIN - 1)
        histogram = np.bincount(feature * N_BIN + bins, minlength=self._n_feature * N_BIN)
        return Statistics(
            n_token=torch.tensor(self.n_token),
            n_active=torch.from_numpy(self._counts),
            mean=torch.from_numpy(self._sums / np.maximum(self._counts, 1)).float(),
            minimum=torch.from_numpy(least).float(),
            maximum=torch.from_numpy(most).float(),
            quantiles=torch.from_numpy(_quantiles(value, starts)).float(),
            histogram=torch.from_numpy(histogram.reshape(self._n_feature, N_BIN)),
            kept_every=torch.tensor(self._every),
        )

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The kept entries by feature, ascending within each: one sort of integers."""
        keys = np.empty(self._n_kept, np.uint64)
        at = 0
        while self._kept:  # freed piece by piece
            _, feature, value = self._kept.pop()
            bits = value.view(np.uint32)
            ordered = bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
            keys[at : at + len(value)] = feature.astype(np.uint64) << np.uint64(32) | ordered
            at += len(value)
        keys.sort()
        feature = (keys >> np.uint64(32)).astype(np.int64)
        ordered = keys.astype(np.uint32)  # the lower half
        bits = ordered ^ np.where(ordered >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
        return feature, bits.astype(np.uint32).view(np.float32)


def _quantiles(value: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Interpolated quantiles of each run of sorted values; zeros for an empty one."""
    counts = np.diff(starts)
    last = np.maximum(counts - 1, 0)[:, None]
    place = last * np.array(LEVELS)
    below = place.astype(np.int64)
    padded = np.append(value, np.float32(0)).astype(np.float64)
    first = np.where(counts, starts[:-1], len(value))[:, None]
    low, high = padded[first + below], padded[first + np.minimum(below + 1, last)]
    return np.where(counts[:, None] > 0, low + (high - low) * (place - below), 0)
