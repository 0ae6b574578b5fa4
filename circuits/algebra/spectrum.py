"""Eigenpairs of an interaction matrix, what they keep of it, and a layer's main outputs.

An interaction matrix is a sum of squares, ``Σ_r λ_r (v_r · x)²``, often well approximated by a few.
Eigenpairs are ordered by |λ|; vectors are *rows*: ``vectors[r]`` belongs to ``values[r]``. A
spectrum of the first few pairs still knows the energy ``Σ λ²`` of the whole, so shares are exact;
what needs every eigenvalue raises an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, eigsh
from threadpoolctl import ThreadpoolController
from torch import Tensor

from circuits.algebra.bilinear import BilinearLayer, computing_dtype
from circuits.algebra.directions import random_orthonormal
from circuits.algebra.pair_search import power_of_two
from circuits.arguments import checked
from circuits.errors import (
    BasisError,
    FeatureRangeError,
    TensorError,
    check_count,
    check_range,
    check_tensors,
    largest,
)
from circuits.plotting.display import html_of
from circuits.plotting.figure import spectrum_figure


@checked
@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of a symmetric form, by falling |value|."""

    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "rank axis"]  # orthonormal rows
    total_energy: float | None = None  # Σ λ² of all pairs; None: these are all
    has_constant: bool = False  # whether the last coordinate of `axis` is the constant 1

    def __post_init__(self) -> None:
        if len(self.vectors) > self.vectors.shape[1]:
            raise TensorError(
                f"Spectrum: {len(self.vectors)} vectors of size {self.vectors.shape[1]} cannot be "
                f"orthonormal. Vectors are rows: pass vectors.mT."
            )

    @property
    def _held_energy(self) -> float:
        values = self.values.double()
        sizes = {"values": largest(values), "values (again)": largest(values)}
        check_range("Spectrum", values.dtype, sizes, len(values))
        return float(values.square().sum())

    @classmethod
    def of(
        cls, form: Float[Tensor, "i i"], rank: int | None = None, has_constant: bool = False
    ) -> Spectrum:
        """The spectrum of a symmetric matrix, or its first ``rank`` pairs."""
        check_tensors("Spectrum.of", {"form": form}, {"form": "i i"})
        form = form.to(computing_dtype(form))
        check_range("Spectrum.of", form.dtype, {"form": largest(form)}, len(form))
        asymmetry = float((form - form.mT).abs().max())
        if asymmetry > 1e-4 * float(form.abs().max()):
            raise TensorError(
                f"Spectrum.of: the matrix is not symmetric (entries differ from their mirror by up "
                f"to {asymmetry:.3g}); a decomposition would read one triangle only. "
                f"Pass (form + form.mT) / 2."
            )
        return cls(*eigenpairs((form + form.mT) / 2, rank), has_constant)

    def __len__(self) -> int:
        return len(self.values)

    def truncate(self, rank: int) -> Spectrum:
        """The first ``rank`` eigenpairs."""
        if not 0 <= rank <= len(self):
            raise FeatureRangeError(
                f"Spectrum.truncate: rank {rank} of a spectrum of {len(self)} pairs. "
                f"Ask for 0 to {len(self)}, or compute more with spectrum(o, rank={rank})."
            )
        energy = self.total_energy
        if energy is None and rank < len(self):
            energy = self._held_energy
        return Spectrum(self.values[:rank], self.vectors[:rank], energy, self.has_constant)

    def energy(self, rank: int) -> float:
        """The share of the squared norm that the first ``rank`` eigenpairs keep."""
        kept = self.truncate(rank)._held_energy
        total = self._held_energy if self.total_energy is None else self.total_energy
        return kept / total if total > 0 else 1.0

    @property
    def effective_rank(self) -> float:
        """``(Σ|λ|)² / Σλ²``: how many equal eigenvalues would look like these."""
        self._require_all("effective_rank")
        energy = self._held_energy
        return float(self.values.double().abs().sum() ** 2 / energy) if energy > 0 else 0.0

    @property
    def entropy_rank(self) -> float:
        """``exp(H)`` of the shares ``λ² / Σλ²``: a rank that weighs a long tail less."""
        self._require_all("entropy_rank")
        energy = self._held_energy
        shares = self.values.double().square() / (energy or 1.0)
        return float(torch.special.entr(shares).sum().exp()) if energy > 0 else 0.0

    def activation(self, x: Float[Tensor, "*batch axis"]) -> Float[Tensor, "*batch rank"]:
        """What each eigenpair adds, ``λ (v · x)²``, for ``x`` with or without the constant 1."""
        width = self.vectors.shape[1]
        if x.ndim == 0:
            x = x[None]  # refused by its size below
        x = x.to(self.vectors.dtype)
        size = largest(x)
        sizes = {"x": size, "x (again)": size, "values": largest(self.values)}
        beside = sizes["values"] * largest(self.vectors[:, -1:]) ** 2 if self.has_constant else 0.0
        check_range("Spectrum.activation", x.dtype, sizes, width**2, beside)
        if self.has_constant and x.shape[-1] == width - 1:
            along = x @ self.vectors[:, :-1].mT + self.vectors[:, -1]
        elif x.shape[-1] == width:
            along = x @ self.vectors.mT
        else:
            wanted = f"{width - 1} (or {width} with the constant 1)" if self.has_constant else width
            raise TensorError(
                f"Spectrum.activation: the last axis of x has size {x.shape[-1]}, "
                f"the eigenvectors have {wanted}. Pass inputs of the space of the spectrum."
            )
        return self.values * along.square()

    def matrix(self) -> Float[Tensor, "axis axis"]:
        """The form made of these eigenpairs."""
        return einsum(self.values, self.vectors, self.vectors, "r, r i, r j -> i j")

    def plot(self, **controls: Spectrum) -> Any:
        """The eigenvalues as a plotly figure, with those of named controls:
        ``spectrum.plot(rotated=control.spectrum(7))``."""
        named = {name.replace("_", " "): one._descending for name, one in controls.items()}
        kept = None if self.total_energy is None else self.energy(len(self))
        rank = self.effective_rank if kept is None else None
        return spectrum_figure(self._descending, named, kept, rank).plot()

    @property
    def _descending(self) -> Float[np.ndarray, " rank"]:
        return self.values.double().sort(descending=True).values.cpu().numpy()

    def rotated(self, seed: int = 0) -> Spectrum:
        """The control: the same eigenvalues along random orthonormal directions."""
        wide = self.vectors.shape[1]
        directions = random_orthonormal(wide, wide, torch.Generator().manual_seed(seed))
        vectors = directions[: len(self)].to(self.vectors)
        return Spectrum(self.values, vectors, self.total_energy, self.has_constant)

    def _repr_html_(self) -> str:
        n = min(len(self), 12)
        table = pd.DataFrame(
            {
                "rank": range(1, n + 1),
                "eigenvalue": self.values[:n].tolist(),
                "energy kept": [self.energy(r + 1) for r in range(n)],
            }
        )
        return html_of(repr(self), strongest=table)

    def __repr__(self) -> str:
        width = self.vectors.shape[1]
        of = "all" if self.total_energy is None else f"{self.energy(len(self)):.1%} of the energy"
        return f"Spectrum({len(self)} eigenpairs in {width} dimensions, {of})"

    def _require_all(self, what: str) -> None:
        if self.total_energy is not None:
            raise BasisError(
                f"{what} needs every eigenvalue, but this spectrum holds the first {len(self)} "
                f"pairs, {self.energy(len(self)):.1%} of the energy. Compute it with rank=None."
            )


def eigenpairs(
    form: Float[Tensor, "i i"], rank: int | None = None
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "rank i"], float | None]:
    """Eigenvalues of a symmetric matrix by falling |value|, their vectors as rows, and the energy
    of all where these are not all.

    A few pairs of a large matrix come from Lanczos iterations, which are then checked: the residual
    of each pair, and whether a larger eigenvalue was missed. Else the whole matrix is decomposed.
    """
    unit = power_of_two(form)  # so that no square leaves the range of the dtype
    values, vectors, norm = _eigenpairs(form / unit, rank)
    energy = None if norm is None else (norm * unit) * (norm * unit)
    return values * unit, vectors, energy


def _eigenpairs(form: Tensor, rank: int | None) -> tuple[Tensor, Tensor, float | None]:
    """The same for a form of entries near 1, with the norm of the whole in place of its square."""
    size = len(form)
    kept = size if rank is None else check_count("spectrum", rank, size, "rank")
    norm = None
    if kept < size:
        norm = float(torch.linalg.vector_norm(form, dtype=torch.float64))
    if size >= 128 and 8 * kept <= size and form.device.type == "cpu":
        found = lanczos(form, kept)
        if found is not None:
            return *found, norm
    values, vectors = torch.linalg.eigh(form)
    order = values.abs().argsort(descending=True, stable=True)[:kept]
    return values[order], vectors.mT[order], norm


def lanczos(form: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """The top pairs by ARPACK from a fixed start, or None where they do not pass the checks."""
    try:
        # two more than requested, because the last ones converge worst
        accuracy = 8 * torch.finfo(form.dtype).eps
        values, columns = _arpack(form, rank + 2, seed=0, tol=accuracy)
        order = values.abs().argsort(descending=True, stable=True)[:rank]
        values, vectors = values[order], columns.mT[order]
        left = form - (vectors.mT * values) @ vectors
        missed, _ = _arpack(left, 1, seed=1, tol=1e-2)
    except ArpackError:
        return None
    scale = 100 * torch.finfo(form.dtype).eps * float(values[0].abs())
    residual = float((vectors @ form - values[:, None] * vectors).norm(dim=1).max())
    if not residual <= scale or not float(missed.abs()) <= float(values[-1].abs()) + scale:
        return None
    return values, vectors


def _arpack(form: Tensor, rank: int, seed: int, tol: float) -> tuple[Tensor, Tensor]:
    """ARPACK's eigenpairs of largest |value|, as columns. On one thread: numpy's threads would wait
    for cores that torch's idle threads hold."""
    matrix = form.numpy()
    start = np.random.default_rng(seed).standard_normal(len(form)).astype(matrix.dtype)
    with _numpy_threads().limit(limits=1):
        values, columns = eigsh(matrix, k=rank, v0=start, which="LM", tol=tol)
    return torch.from_numpy(values), torch.from_numpy(columns)


@cache
def _numpy_threads() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


@dataclass(frozen=True, eq=False)
class HOSVD:
    """A layer's tensor as outputs x input pairs: ``B = Σ_k outputs[k] ⊗ form(k)``, where ``form(k)
    = layer.interaction(outputs[k])`` has norm ``values[k]``. The first components are the
    directions that the layer writes most to."""

    values: Float[Tensor, " component"]  # singular values, falling
    outputs: Float[Tensor, "component out"]  # left singular vectors, as rows


@checked
def hosvd(layer: BilinearLayer) -> HOSVD:
    """The singular value decomposition of ``B`` as outputs x pairs, from an out x out matrix.

    ``B Bᵀ = down · pair_gram · downᵀ`` costs ``hidden² · out``; in float64, because the squares
    lose half of the digits (values below 1e-8 of the first are noise and are left out).
    """
    exact = layer.to(torch.float64)
    sizes = {"down": largest(exact.down), "inner products": largest(exact.pair_gram)}
    sizes["down (again)"] = sizes["down"]
    check_range("hosvd", torch.float64, sizes, layer.d_hidden**2)
    squares, outputs = torch.linalg.eigh(exact.down @ exact.pair_gram @ exact.down.mT)
    order = squares.argsort(descending=True, stable=True)
    order = order[squares[order] > 1e-16 * layer.d_out * squares.max()]
    values = squares[order].sqrt()
    check_range("hosvd", layer.dtype, {"values": largest(values)})
    return HOSVD(values.to(layer.dtype), outputs.mT[order].to(layer.dtype))
