"""Is a pair's weight more than chance? Exact p-values, and control of false discoveries.

The null: similar features are rotated at random (``circuits.graph.frames``), so that what they
share stays: their norms, the small spaces that some of them lie in, and how much they vary along
each direction. The distribution of a pair's weight is then known without sampling: hold one
feature still and turn the rest about it; in each block of directions the other's cosine with what
the layer makes of the first follows Student's t. The blocks' normal values are added, each weighted
by what it can tell. The test is made from both ends and the larger p-value counts, because a
feature of a strong gate has larger weights with *every* feature, which is expected only from its
own end. A feature's pair with itself is a quadratic form of one random direction; its tail comes
from the form's eigenvalues by the saddlepoint formula of Lugannani and Rice, within a quarter of
the p-value.

Which features are similar is itself found from the dictionary, and the p-values hold against
features that rotate within what was found. They are no bound against other forms: those shaped like
the data's own covariance can give discoveries in more outputs than the rate says. And a pair tested
against the whole form may pass as the shadow of another (`scored`); ``significant_pairs`` tests it
given the others.

A direction that all features share is a block of its own, which cannot turn: it is no evidence for
any pair of them. The constant's linear terms are neither tested nor counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.algebra.pair_search import power_of_two
from circuits.algebra.unchanged import versions
from circuits.arguments import checked
from circuits.graph.frames import Frame, frames, shared_spaces, turning

_NEGLIGIBLE = 1e-280  # below this, z is computed without the p-value


class Atoms:
    """A vector for each feature. The products of two are what a form is made of: ``written``
    directions, or ``readers`` (rows of the pseudoinverse); both without the directions that cannot
    turn."""

    def __init__(
        self,
        white: Float[Tensor, "feature rank"],
        sizes: Float[Tensor, " rank"],
        spaces: Int[Tensor, " feature"],
    ) -> None:
        self.directions = turning(sizes)
        white, sizes = white[:, self.directions], sizes[self.directions]
        rows = white * sizes
        length = rows.norm(dim=1)
        self.length = length.clamp(min=1e-12 * float(length.max()) if len(length) else None)
        self.unit = rows / self.length[:, None]
        self.spaces, self.frames = spaces, frames(white, sizes, spaces)
        self.blocks = [(name, frame.axes[block]) for name, frame in enumerate(self.frames)
                        for block in frame.broad]  # fmt: skip
        columns = [(self.unit @ axes.mT).square().sum(1) * (spaces == name)
                   for name, axes in self.blocks]  # fmt: skip
        parts = torch.stack(columns, 1) if columns else rows.new_ones(len(rows), 1)
        # how much of each feature is in each block of its space's directions
        self.parts: Float[Tensor, "feature block"] = parts / parts.sum(1, keepdim=True).clamp(
            min=1e-300
        )

    def inside(self, form: Float[Tensor, "whole whole"]) -> Float[Tensor, "rank rank"]:
        """A form of what the features span in these directions."""
        return form[self.directions][:, self.directions]

    def noise_of_blocks(
        self,
        form: Float[Tensor, "rank rank"],
        left: Float[Tensor, "rank rank"],
        pairs: Int[Tensor, "pair two"],
    ) -> Float[Tensor, "block block"]:
        """The squared residual per dimension between every two blocks, where these were fitted;
        where so many were that any form would be, that of the form itself."""
        if len(self.blocks) <= 1:
            n_numbers = len(left) * (len(left) + 1) // 2
            return (left.square().sum() / max(n_numbers - len(pairs), 1)).reshape(1, 1)
        widths = torch.tensor([len(axes) for _, axes in self.blocks]).to(left)
        axes = torch.cat([axes for _, axes in self.blocks])
        owner = torch.repeat_interleave(torch.arange(len(widths)), widths.long().cpu()).to(pairs)

        def norms(of: Float[Tensor, "rank rank"]) -> Float[Tensor, "block block"]:
            squares = (axes @ of @ axes.mT).square()
            sums = of.new_zeros(len(widths), len(axes)).index_add_(0, owner, squares)
            return of.new_zeros(len(widths), len(widths)).index_add_(1, owner, sums)

        fitted = self.parts[pairs[:, 0]].mT @ self.parts[pairs[:, 1]]
        fitted = (fitted + fitted.mT) / 2
        same = torch.eye(len(widths)).to(left)
        # blocks off the diagonal stand in the matrix twice
        numbers = widths[:, None] * widths * (1 - same) + same * widths * (widths + 1) / 2
        free = (numbers - fitted * (2 - same)).clamp(min=1)
        crowded = fitted * (2 - same) > numbers / 3
        return (2 - same) * torch.where(crowded, norms(form) / numbers, norms(left) / free)

    def z_values(
        self,
        form: Float[Tensor, "rank rank"],
        first: Int[Tensor, " pair"],
        second: Int[Tensor, " pair"],
        share: Float[Tensor, " pair"] | None = None,
    ) -> Float[np.ndarray, " pair"]:
        """How unlikely each pair is, as a standard normal value. Where the form is what a fit of
        the pairs leaves, ``share`` is each pair's coefficient, which is put back, and a feature's
        other pairs take a degree of freedom each."""
        taken = first.new_zeros(len(self.unit))
        if share is None:
            share = form.new_zeros(len(first))
        else:
            taken = torch.bincount(first, minlength=len(taken))
            taken = taken + torch.bincount(second[first != second], minlength=len(taken))
            taken = (taken - 1).clamp(min=0)
        unit = power_of_two(form)  # a common factor changes nothing but what is in range
        form, share = form / unit, share / unit
        ends = [
            self.from_one_end(form, held, turned, share, taken[held])
            for held, turned in ((first, second), (second, first))
        ]
        z = np.where(np.abs(ends[0]) <= np.abs(ends[1]), *ends)
        selves = first == second
        if selves.any():
            z[selves.cpu().numpy()] = self._with_itself(form, first[selves], share[selves])
        return z

    def from_one_end(
        self, form: Tensor, held: Tensor, turned: Tensor, share: Tensor, taken: Tensor
    ) -> Float[np.ndarray, " pair"]:
        """The normal value of the turned feature's weight with what the form makes of the other."""
        one, two = self.unit[held], self.unit[turned]
        image = one @ form + share[:, None] / 2 * (two + one * (one * two).sum(1, keepdim=True))
        z = np.zeros(len(held))
        for name, frame in enumerate(self.frames):
            here = (self.spaces[turned] == name).nonzero()[:, 0]
            if len(here):
                ends = frame.place[held[here]], frame.place[turned[here]]
                z[here.cpu().numpy()] = turned_z(frame, image[here], *ends, taken[here])
        return z

    def _with_itself(self, form: Tensor, feature: Tensor, share: Tensor) -> np.ndarray:
        """In the block of directions that holds most of the feature."""
        z = np.zeros(len(feature))
        if not len(form):
            return z
        place = [(int(self.spaces[one]), self._main_block(int(one))) for one in feature]
        for name, block in set(place):
            here = torch.tensor([at == (name, block) for at in place], device=feature.device)
            frame = self.frames[name]
            axes = frame.axes[frame.blocks[block]] / frame.sizes[frame.blocks[block], None]
            inside = axes @ form @ axes.mT
            ours = frame.turned[frame.place[feature[here]], frame.blocks[block]]
            size = ours.square().sum(1).clamp(min=1e-300)
            there = (ours @ inside * ours).sum(1) / size
            back = share[here] * size / self.length[feature[here]].square()
            values = torch.linalg.eigvalsh(inside).repeat(len(ours), 1)
            # putting its share back moves about one eigenvalue: the one nearest to what was there
            moved = (values - there[:, None]).abs().argmin(1, keepdim=True)
            values.scatter_add_(1, moved, back[:, None])
            z[here.cpu().numpy()] = sphere_tail(values.cpu().numpy(), (there + back).cpu().numpy())
        return z

    def _main_block(self, feature: int) -> int:
        frame = self.frames[int(self.spaces[feature])]
        parts = (frame.turned[frame.place[feature]] * frame.sizes).square()
        return int(np.argmax([float(parts[block].sum()) for block in frame.blocks]))


def turned_z(
    frame: Frame, image: Tensor, held: Tensor, turned: Tensor, taken: Tensor
) -> Float[np.ndarray, " pair"]:
    """The blocks' normal values, together. ``held`` is −1 for a feature outside the frame."""
    image = image @ frame.axes.mT / frame.sizes
    moving = frame.turned[turned]
    still = torch.where(held[:, None] >= 0, frame.turned[held.clamp(min=0)], 0.0)
    lost = (held >= 0).double()  # the axis about which they turn
    total, weights = np.zeros(len(held)), np.zeros(len(held))
    for block in frame.blocks:
        width = block.stop - block.start
        axis = torch.nn.functional.normalize(still[:, block], dim=1, eps=1e-300)
        left, right = (
            part[:, block] - (part[:, block] * axis).sum(1, keepdim=True) * axis
            for part in (image, moving)
        )
        norm = left.norm(dim=1) * right.norm(dim=1)
        cosine = (left * right).sum(1) / norm.clamp(min=1e-300)
        # below this it is rounding
        cosine[norm <= 1e-12 * image[:, block].norm(dim=1) * moving[:, block].norm(dim=1)] = 0.0
        freedom = width - 1 - lost - taken * width / len(frame.sizes)
        z = normal_of_cosine(cosine.clamp(-1, 1).cpu().numpy(), freedom.cpu().numpy())
        weight = norm * frame.sizes[block].square().mean() / width**0.5
        weight = torch.where(freedom >= 1, weight, 0.0).cpu().numpy()
        total, weights = total + weight * z, weights + weight**2
    return total / np.sqrt(np.maximum(weights, 1e-300))


@dataclass(frozen=True, eq=False)
class RotationNull:
    """The features of one dictionary, ready to be tested against any form."""

    white: Float[Tensor, "feature rank"]  # in whitened coordinates: orthonormal columns
    sizes: Float[Tensor, " rank"]
    directions: Float[Tensor, "rank model"]  # write = white * sizes @ directions
    spaces: Int[Tensor, " feature"]  # the shared space of each feature

    @classmethod
    def of(cls, features: Basis) -> RotationNull:
        """For the features of a dictionary, without its offset; kept for as long as these are, and
        as they are."""
        now, known = versions(vars(features).values()), _KNOWN.get(features)
        if known is not None and known[0] == now:
            return known[1]
        sizes, directions = features.span.sizes, features.span.directions
        white = features.write.double() @ (directions / sizes[:, None]).mT
        made = cls(white, sizes, directions, shared_spaces(white))
        _KNOWN[features] = now, made
        return made

    @property
    def n_pairs(self) -> int:
        """How many pairs are tested for each output: all, including a feature's with itself."""
        return len(self.white) * (len(self.white) + 1) // 2

    @cached_property
    def written(self) -> Atoms:
        """The directions that features write."""
        return Atoms(self.white, self.sizes, self.spaces)

    @cached_property
    def readers(self) -> Atoms:
        """The rows of the pseudoinverse."""
        return Atoms(self.white, 1 / self.sizes, self.spaces)

    @cached_property
    def between(self) -> tuple[Float[Tensor, "feature rank"], Float[Tensor, " rank"]]:
        """Rows and a factor for each direction: no entry of a form between ``written`` units is
        larger than between these rows, nor one between units of ``readers`` than between the rows
        times the factors."""
        unit, sizes = self.written.unit, self.sizes[self.written.directions]
        length = (unit / sizes.square()).norm(dim=1)
        middle = length.median()
        longer = (middle / length.clamp(min=1e-12 * float(middle))).clamp(min=1)
        return (unit * longer[:, None]).float(), 1 / sizes.square() / middle

    def inside(self, form: Float[Tensor, "model model"]) -> Float[Tensor, "rank rank"]:
        """A form within what the features span."""
        return self.directions @ form.double() @ self.directions.mT

    def z_values(
        self,
        form: Float[Tensor, "model model"],
        first: Int[Tensor, " pair"],
        second: Int[Tensor, " pair"],
    ) -> Float[np.ndarray, " pair"]:
        """How unlikely each pair's weight is, as a standard normal value."""
        return self.written.z_values(self.written.inside(self.inside(form)), first, second)


# every graph of a basis asks for the same
_KNOWN: WeakKeyDictionary[Basis, tuple[list[tuple[int, int, int]], RotationNull]] = (
    WeakKeyDictionary()
)


def normal_of_cosine(
    cosine: Float[np.ndarray, " pair"], freedom: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """The normal value as unlikely as this cosine of random directions in ``freedom + 1`` axes."""
    rest = np.maximum(1 - cosine**2, 1e-24)  # float64 resolves no smaller angle
    none, freedom = freedom < 1, np.maximum(freedom, 1)
    half = special.stdtr(freedom, -np.abs(cosine) * np.sqrt(freedom / rest))
    far = half < _NEGLIGIBLE  # Wallace's formula, accurate in the far tail
    size = -special.ndtri(np.where(far, 0.5, half))
    wallace = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(-freedom * np.log(rest))
    size = np.where(far, wallace, size)
    return np.sign(cosine) * np.where(none, 0.0, size)


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


@checked
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
    # 0.1 scored beside features turned anywhere: its shards are not these
    named, score = "scored among their like", partial(scored, alone, null)
    return alone.strongest_of_each(n, outputs, folder=folder, score=score, score_name=named)


def scored(
    inter: Interactions, null: RotationNull, pairs: pd.DataFrame, output: int
) -> pd.DataFrame:
    """The same pairs of features of one output, with z and q, each against the whole form."""
    first, second = (torch.tensor(pairs[end].to_numpy()) for end in ("first", "second"))
    device = null.white.device
    z = null.z_values(inter.form(output), first.to(device), second.to(device))
    return pairs.assign(z=z, q=q_values(z, null.n_pairs))
