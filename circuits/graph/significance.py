"""Is a pair's weight more than chance? Exact p-values, and control of false discoveries.

The null: all features are rotated together at random against the layer, so their norms and the
angles between them stay. The distribution of one pair's weight is then known without sampling: hold
one feature still and rotate the rest about it; the other's cosine with what the layer makes of the
first follows Student's t. The test is made from both ends and the larger p-value counts, because a
feature of a strong gate has larger weights with *every* feature, which is expected only from its
own end. A feature's pair with itself is a quadratic form of one random direction; its tail comes
from the form's eigenvalues by the saddlepoint formula of Lugannani and Rice, within a quarter of
the p-value.

Features are in whitened coordinates (the left singular vectors of the dictionary): weights are the
same there, and a direction that all features share is no evidence for any pair of them. The
constant's linear terms are neither tested nor counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions

_NEGLIGIBLE = 1e-280  # below this, z is computed without the p-value


@dataclass(frozen=True, eq=False)
class RotationNull:
    """The features of one dictionary, ready to be tested against any form."""

    write: Float[Tensor, "feature model"]  # in float64
    features: Float[Tensor, "feature rank"]  # whitened: orthonormal columns
    onto: Float[Tensor, "rank model"]  # a form in whitened coordinates is onto @ form @ onto.mT

    @classmethod
    def of(cls, features: Basis) -> RotationNull:
        """For the features of a dictionary, without its offset."""
        sizes, directions = features.span.sizes, features.span.directions
        write = features.write.double()
        return cls(write, write @ (directions / sizes[:, None]).mT, sizes[:, None] * directions)

    @property
    def n_pairs(self) -> int:
        """How many pairs are tested for each output: all, including a feature's with itself."""
        return len(self.write) * (len(self.write) + 1) // 2

    @cached_property
    def _norms(self) -> Float[Tensor, " feature"]:
        return self.features.norm(dim=1)

    def z_values(
        self,
        form: Float[Tensor, "model model"],
        first: Int[Tensor, " pair"],
        second: Int[Tensor, " pair"],
        weight: Float[Tensor, " pair"] | None = None,
        partners: Int[Tensor, " feature"] | None = None,
    ) -> Float[np.ndarray, " pair"]:
        """How unlikely each pair's weight is, as a standard normal value. Where the form is what a
        fit of pairs leaves, ``weight`` is each tested pair's own share, which is put back, and
        ``partners`` counts the fitted pairs of each feature, a degree of freedom each."""
        form = self.onto @ form.double() @ self.onto.mT
        weight = form.new_zeros(len(first)) if weight is None else weight
        partners = first.new_zeros(len(self.write)) if partners is None else partners
        ends = []
        for held, turned in ((first, second), (second, first)):
            taken = (partners[held] - 1).clamp(min=0).cpu().numpy()
            ends.append(self.from_one_end(form, held, turned, weight, taken))
        z = np.where(np.abs(ends[0]) <= np.abs(ends[1]), *ends)
        selves = (first == second).cpu().numpy()
        if selves.any():
            z[selves] = self._with_itself(form, first[selves], weight[selves])
        return z

    def from_one_end(
        self, form: Tensor, held: Tensor, turned: Tensor, weight: Tensor, taken: np.ndarray
    ) -> np.ndarray:
        """Student's t of the cosine between a turned feature and the held one's image."""
        still, moving = self.features[held], self.features[turned]
        own_held, own_turned = (self.write[end] @ self.onto.mT for end in (held, turned))
        own = own_turned * (own_held * still).sum(1, keepdim=True)
        own = own + own_held * (own_turned * still).sum(1, keepdim=True)
        image = still @ form + weight[:, None] / 2 * own
        axis = still / self._norms[held].clamp(min=1e-300)[:, None]
        image = image - (image * axis).sum(1, keepdim=True) * axis
        moving = moving - (moving * axis).sum(1, keepdim=True) * axis
        sizes = image.norm(dim=1) * moving.norm(dim=1)
        noise = 1e-12 * self._norms[turned] * form.norm() * self._norms[held]
        cosine = ((image * moving).sum(1) / sizes.clamp(min=1e-300)).cpu().numpy()
        cosine[(sizes <= noise).cpu().numpy()] = 0.0
        freedom = np.maximum(form.shape[0] - 2 - taken, 0)
        return _normal_of_cosine(np.clip(cosine, -1, 1), freedom)

    def _with_itself(self, form: Tensor, feature: Tensor, weight: Tensor) -> np.ndarray:
        unit = self.features[feature] / self._norms[feature].clamp(min=1e-300)[:, None]
        ours = self.write[feature] @ self.onto.mT
        height = (unit @ form * unit).sum(1) + (ours * unit).sum(1).square() * weight
        values = torch.linalg.eigvalsh(form).repeat(len(feature), 1)
        if form.shape[0]:
            # putting its share back moves about one eigenvalue: the one nearest to what was there
            size = ours.square().sum(1)
            there = (ours @ form * ours).sum(1) / size.clamp(min=1e-300)
            moved = (values - there[:, None]).abs().argmin(1, keepdim=True)
            values.scatter_add_(1, moved, (size * weight)[:, None])
        return sphere_tail(values.cpu().numpy(), height.cpu().numpy())


def _normal_of_cosine(
    cosine: Float[np.ndarray, " pair"], freedom: Int[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """The normal value as unlikely as this cosine of random directions in ``freedom + 1`` axes."""
    freedom = freedom.astype(np.float64)
    rest = np.maximum(1 - cosine**2, 1e-24)  # float64 resolves no smaller angle
    t = np.abs(cosine) * np.sqrt(np.maximum(freedom, 1) / rest)
    half = special.stdtr(np.maximum(freedom, 1), -t)
    far = half < _NEGLIGIBLE  # Wallace's formula, accurate in the far tail
    size = -special.ndtri(np.where(far, 0.5, half))
    wallace = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(-freedom * np.log(rest))
    size = np.where(far, wallace, size)
    return np.sign(cosine) * np.where(freedom < 1, 0.0, size)


def sphere_tail(
    values: Float[np.ndarray, "pair rank"], height: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """The normal value as unlikely as ``xᵀQx ≥ height`` for a random unit vector ``x`` (below its
    mean, as ``≤``), given the eigenvalues of each ``Q``.

    ``xᵀQx > h`` says that ``Σ (λ − h) g²`` of Gaussians is positive, whose cumulant function is
    known; its saddlepoint gives the tail.
    """
    if values.shape[1] == 0:  # features that write nothing
        return np.zeros(len(height))
    sign = np.where(height >= values.mean(1), 1.0, -1.0)
    shifted = sign[:, None] * (values - height[:, None])
    size = np.abs(shifted).max(1)
    # at or beyond the largest eigenvalue the tail is only rounding
    lift = np.maximum(1e-12 * size - shifted.max(1), 0)
    shifted[np.arange(len(shifted)), shifted.argmax(1)] += lift
    low, high = np.zeros(len(height)), 1 / (2 * np.maximum(shifted.max(1), 1e-300))
    for _ in range(60):
        middle = (low + high) / 2
        slope = (shifted / (1 - 2 * middle[:, None] * shifted)).sum(1)
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    rest = 1 - 2 * low[:, None] * shifted
    root = np.sqrt(np.maximum(np.log(rest).sum(1), 0))
    spread = low * np.sqrt(2 * (shifted**2 / rest**2).sum(1))
    flat = np.ptp(values, axis=1) <= 1e-12 * np.abs(values).max(1)
    unknown = flat | (root < 1e-4) | (spread <= 0)  # at the mean, or every height is the same
    ratio = np.where(unknown, 1.0, spread / np.where(unknown, 1.0, root))
    z = root + np.log(ratio) / np.where(unknown, 1.0, root)
    return np.where(unknown, 0.0, sign * np.maximum(z, 0))


def p_values(z: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """Two-sided p-values of normal values."""
    return 2 * special.ndtr(-np.abs(z))


def q_values(z: Float[np.ndarray, " pair"], n_pairs: int) -> Float[np.ndarray, " pair"]:
    """Benjamini and Hochberg's false-discovery rate at which each pair would be accepted, of
    ``n_pairs`` tested in all: those not listed are assumed weaker, so it is never too small."""
    order = np.argsort(-np.abs(z), kind="stable")
    ranked = p_values(z)[order] * n_pairs / np.arange(1, len(z) + 1)
    q = np.empty(len(z))
    q[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return q


def scored_strongest(
    inter: Interactions,
    n: int,
    outputs: Iterable[int] | None = None,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """``strongest_of_each`` of the features without the constant, with z and q of each pair against
    the whole form: a shadow of a strong pair may pass here, but not in ``significant_pairs``."""
    alone = inter.without_constant
    null = RotationNull.of(alone.inputs)
    return alone.strongest_of_each(n, outputs, folder=folder, score=partial(scored, alone, null))


def scored(
    inter: Interactions, null: RotationNull, pairs: pd.DataFrame, output: int
) -> pd.DataFrame:
    """The same pairs of features of one output, with z and q."""
    first, second = (torch.tensor(pairs[end].to_numpy()) for end in ("first", "second"))
    device = null.write.device
    z = null.z_values(inter.form(output), first.to(device), second.to(device))
    return pairs.assign(z=z, q=q_values(z, null.n_pairs))
