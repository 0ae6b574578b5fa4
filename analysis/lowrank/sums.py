"""How well sums of squares approximate a feature: every rank at once, streamed over tokens.

A form ``x̂ᵀQx̂ + constant`` approximated by r of its eigenpairs is ``Σ λ (v · x̂)² + constant``,
nothing refitted. Three passes over the same tokens: `totals_of`; `on_active`, entry by entry, so
that the cost follows the number of active entries; and `on_all`, where a feature is zero if not
active, so that only the approximations' variance remains to be summed: ``λᵀ C λ`` with C the
covariance of the squares, a matrix product.

R² is that of the approximation as it stands, so it is negative where the mean activation would be
closer. Correlation ignores a wrong scale and a wrong constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.algebra.directions import random_orthonormal
from circuits.algebra.spectrum import Spectrum
from circuits.errors import TensorError, check_index
from circuits.storage.records import Word
from sae.reading import Reading
from sae.sparse import Code

MOST_REPLICATES = 100_000
"""Of a bootstrap: each is a weight for every token."""

_CHUNK = 2**14  # tokens that are processed together
_TILE = 2**19  # squares that are held at a time, so that they stay in the cache
_ROWS = 2**12  # tokens of a tile


class Control(Word):
    """What every correlation of a rank curve is compared with; part of column names. Random
    directions and tokens' outputs are as many as the features."""

    RANDOM = "random"  # random directions in place of the features, in the same model
    TOKENS = "tokens"  # outputs of random tokens in place of the features, in the same model
    ROTATED = "rotated"  # the same eigenvalues along random orthonormal directions
    SHUFFLED = "shuffled"  # another live feature's form
    UNTRAINED = "untrained"  # the features' directions in a model of random weights

    @property
    def column(self) -> str:
        """The column of `RankCurve.table` that holds its correlation."""
        return f"correlation_{self}"

    @property
    def has_own_directions(self) -> bool:
        """Whether it is active on tokens of its own, not on those of the features."""
        return self in (Control.RANDOM, Control.TOKENS, Control.UNTRAINED)


@dataclass(frozen=True, eq=False)
class Observed:
    """Some tokens: the forms' inputs, and how active each feature is."""

    inputs: Float[Tensor, "token input"]  # with the constant 1 where the forms have one
    code: Code
    document: Int64[Tensor, " token"]  # tokens of one document are resampled together


def documents_of(reading: Reading) -> Int64[Tensor, " token"]:
    """The document of each counted token, on the device of its activations."""
    (activation, *_) = reading.activations.values()
    return reading.batch.document[reading.counted.nonzero()[:, 0]].to(activation.device)


@dataclass(frozen=True, eq=False)
class Forms:
    """Forms by their first eigenpairs, in the order in which they are added up."""

    feature: Int64[Tensor, " form"]  # the feature of the code that each approximates
    values: Float[Tensor, "form rank"]
    vectors: Float[Tensor, "form rank input"]
    constant: Float[Tensor, " form"]
    whole: Callable[[Tensor], Tensor]  # inputs "token input" -> exact values "token form"

    @classmethod
    def of_matrices(
        cls,
        matrices: Float[Tensor, "form input input"],
        feature: Sequence[int],
        constant: Float[Tensor, " form"] | None = None,
        n_rank: int = 64,
    ) -> Forms:
        """Any symmetric matrices, for example a graph's, each to approximate a feature."""
        if len(feature) != len(matrices):
            raise TensorError(
                f"Forms: {len(feature)} features for {len(matrices)} forms. Name the feature that "
                f"each form approximates, in their order."
            )
        spectra = [Spectrum.of(matrix, min(n_rank, matrices.shape[-1])) for matrix in matrices]
        added = matrices.new_zeros(len(matrices)) if constant is None else constant

        def whole(x: Tensor) -> Tensor:
            squares = [((x @ matrix) * x).sum(1) for matrix in matrices]
            return torch.stack(squares, dim=1) + added

        return cls(
            torch.as_tensor(feature, device=matrices.device),
            torch.stack([s.values for s in spectra]),
            torch.stack([s.vectors for s in spectra]),
            added,
            whole,
        )

    @property
    def n_rank(self) -> int:
        """The number of eigenpairs of each form."""
        return self.values.shape[1]

    def approximated(
        self, form: int, inputs: Float[Tensor, "token input"], whole: Float[Tensor, " token"]
    ) -> Float[Tensor, "token rank_and_whole"]:
        """One form's approximation of every rank, and its exact value last."""
        squares = (inputs @ self.vectors[form].mT).double().square_()
        ranks = (squares * self.values[form].double()).cumsum(1) + self.constant[form].double()
        return torch.cat([ranks, whole[:, None].double()], dim=1)

    def rotated(self, seed: int) -> Forms:
        """The control: the same eigenvalues along random orthonormal directions."""
        draw = torch.Generator().manual_seed(seed)
        vectors = torch.empty_like(self.vectors)
        for rows in vectors:  # one at a time: all of them in float64 would be a lot
            rows.copy_(random_orthonormal(rows.shape[1], rows.shape[0], draw).mT)

        def whole(x: Tensor) -> Tensor:  # unknown: only the first eigenvalues are kept
            return x.new_full((len(x), len(self.feature)), float("nan"))

        return replace(self, vectors=vectors, whole=whole)

    def shuffled(self, order: Int64[Tensor, " form"]) -> Forms:
        """The control: feature i approximated by form ``order[i]``."""
        own = (self.values, self.vectors, self.constant)
        values, vectors, constant = (part[order] for part in own)
        return Forms(self.feature, values, vectors, constant, lambda x: self.whole(x)[:, order])


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over all tokens."""

    n_token: int
    second: Float[Tensor, "input input"]  # Σ x̂ x̂ᵀ
    n_active: Float[Tensor, " feature"]
    total: Float[Tensor, " feature"]  # Σ a
    square: Float[Tensor, " feature"]  # Σ a²

    def mean_squares(self, vectors: Float[Tensor, "*form input"]) -> Float[Tensor, "*form"]:
        """The mean of ``(v · x̂)²`` over all tokens."""
        v = vectors.double()
        return ((v @ self.second) * v).sum(-1) / self.n_token


def totals_of(tokens: Iterable[Observed]) -> Totals:
    """Step 1."""
    n_token, second, sums = 0, None, None
    for part in tokens:
        x, code = part.inputs.double(), part.code
        if second is None or sums is None:
            second, sums = x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(3, code.n_feature)
        n_token += len(x)
        second += x.mT @ x
        values = code.values.double()
        for row, added in zip(sums, (code.active.double(), values, values.square()), strict=True):
            row.index_add_(0, code.features, added)
    if second is None or sums is None:
        raise TensorError("no tokens, so nothing can be measured. Pass at least one document.")
    return Totals(n_token, second, *sums)


@dataclass(frozen=True, eq=False)
class Fit:
    """How well each form's approximations match its feature: ranks in order, the whole last."""

    correlation: Float[np.ndarray, "*replicate form rank"]
    r2: Float[np.ndarray, "*replicate form rank"]


def fit(n: Tensor, a: Tensor, aa: Tensor, y: Tensor, yy: Tensor, ay: Tensor) -> Fit:
    """Correlation and R² from sums; NaN where either is constant up to rounding."""
    spread_a, spread_y = aa - a * a / n, yy - y * y / n
    constant_a, constant_y = spread_a <= 1e-10 * aa, spread_y <= 1e-10 * yy
    correlation = (ay - a * y / n) / (spread_a * spread_y).clamp(min=0).sqrt()
    r2 = 1 - (aa - 2 * ay + yy) / spread_a
    correlation = correlation.masked_fill(constant_a | constant_y, float("nan")).clamp(-1, 1)
    r2 = r2.masked_fill(constant_a, float("nan"))
    return Fit(correlation.cpu().numpy(), r2.cpu().numpy())


@dataclass(frozen=True)
class Resampling:
    """A bootstrap over documents: each counts as often as a Poisson draw of mean 1, which depends
    on the seed and its number only."""

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_index("rank_curve", self.n, MOST_REPLICATES, "n_bootstrap")

    def weights(self, document: Int64[Tensor, " token"]) -> Float[Tensor, "token replicate"]:
        """A column of ones for the sample itself, then a column for each replicate."""
        numbers, place = document.cpu().unique(return_inverse=True)
        draws = (np.random.default_rng((self.seed, int(number))) for number in numbers)
        drawn = np.stack([one.poisson(1, self.n) for one in draws])
        weights = functional.pad(torch.from_numpy(drawn).double(), (1, 0), value=1.0)
        return weights.to(document.device)[place.to(document.device)]


@torch.no_grad()
def active_sums(
    forms: Forms, tokens: Iterable[Observed], resampling: Resampling | None = None
) -> Float[Tensor, "replicate form six rank"]:
    """Step 2: n, a, aa, y, yy, ay over the tokens where each form's feature is active."""
    resampling = resampling or Resampling(0)
    n_form, wide = len(forms.feature), forms.n_rank + 1
    sums = forms.values.new_zeros(n_form, 1 + resampling.n, 3 + 3 * wide, dtype=torch.float64)
    features = forms.feature.tolist()
    for part in tokens:
        by, whole = part.code.by_feature, forms.whole(part.inputs)
        starts, weights = by.starts.tolist(), resampling.weights(part.document)
        for form, feature in enumerate(features):
            here = slice(starts[feature], starts[feature + 1])
            a = part.code.values[by.entries[here]].double()
            on, rows = a != 0, by.rows[here]
            a, rows = a[on, None], rows[on]
            y = forms.approximated(form, part.inputs[rows], whole[rows, form])
            numbers = torch.cat([torch.ones_like(a), a, a * a, y, y * y, y * a], dim=1)
            sums[form] += weights[rows].mT @ numbers
    alone = sums[..., :3, None].expand(-1, -1, -1, wide)
    return torch.cat([alone, sums[..., 3:].unflatten(-1, (3, wide))], dim=2).transpose(0, 1)


def on_active(
    forms: Forms, tokens: Iterable[Observed], resampling: Resampling | None = None
) -> Fit:
    """Step 2, of the sample first and then of each replicate."""
    return fit(*active_sums(forms, tokens, resampling).unbind(2))


@torch.no_grad()
def on_all(forms: Forms, tokens: Iterable[Observed], totals: Totals, active: Tensor) -> Fit:
    """Step 3; ``active`` are the sample's own sums from `active_sums`."""
    n = float(totals.n_token)
    means = totals.mean_squares(forms.vectors)
    spread, whole = _spread(forms, tokens, means)
    values = forms.values.double()
    y = n * (values * means).cumsum(1) + n * forms.constant[:, None].double()
    covariance = values[:, :, None] * spread * values[:, None]
    yy = covariance.cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2) + y.square() / n
    y, yy = (
        torch.cat([part, last[:, None]], dim=1) for part, last in zip((y, yy), whole, strict=True)
    )
    a, aa = (part[forms.feature][:, None] for part in (totals.total, totals.square))
    return fit(torch.full_like(a, n), a, aa, y, yy, active[:, 5])


def _spread(
    forms: Forms, tokens: Iterable[Observed], means: Float[Tensor, "form rank"]
) -> tuple[Float[Tensor, "form rank rank"], Float[Tensor, "two form"]]:
    """``Σ (s − mean)(s − mean)ᵀ`` of the squares ``s = (v · x̂)²``, and the sums of the exact
    values and of their squares."""
    n_form, n_rank, d_input = forms.vectors.shape
    spread = means.new_zeros(n_form, n_rank, n_rank)
    whole = means.new_zeros(2, n_form)
    for part in tokens:
        exact = forms.whole(part.inputs).double()
        whole += torch.stack([exact.sum(0), exact.square().sum(0)])
        for x in part.inputs.split(_ROWS):
            n_together = max(1, _TILE // (n_rank * len(x)))
            for start in range(0, n_form, n_together):
                block = slice(start, start + n_together)
                onto = forms.vectors[block].reshape(-1, d_input) @ x.mT
                squares = onto.square_().unflatten(0, (-1, n_rank))
                squares -= means[block, :, None].to(squares)
                spread[block] += squares @ squares.mT
    return spread, whole


def in_chunks(tokens: Iterable[Observed], n_token: int = _CHUNK) -> Iterator[Observed]:
    """The same tokens, with small parts merged into larger ones."""
    held: list[Observed] = []
    for part in tokens:
        held.append(part)
        if sum(len(one.inputs) for one in held) >= n_token:
            yield _together(held)
            held = []
    if held:
        yield _together(held)


def _together(parts: Sequence[Observed]) -> Observed:
    inputs = torch.cat([part.inputs for part in parts])
    document = torch.cat([part.document for part in parts])
    return Observed(inputs, Code.joined([part.code for part in parts]), document)
