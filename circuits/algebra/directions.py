"""Directions in activation space: what they span, what reads them, which are zero or repeated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DirectionWarning, check_range, largest, shorten

ROWS = 4096
"""Directions handled at a time: bounds the memory of every pass over a dictionary."""


@dataclass(frozen=True, eq=False)
class Span:
    """The space that a dictionary's rows span: ``write = U diag(sizes) directions``."""

    sizes: Float[Tensor, " rank"]  # singular values, in float64
    directions: Float[Tensor, "rank model"]  # right singular vectors, orthonormal, in float64


def span(write: Float[Tensor, "feature model"], size: float | None = None) -> Span:
    """Singular values and right singular vectors of a dictionary of any height, in float64.

    A QR decomposition of row blocks, each stacked on the triangle of those before, then the SVD of
    the last triangle: as accurate as an SVD of the whole, where ``writeᵀ write`` would lose half of
    the digits. Directions that may come from rounding to the dictionary's dtype are left out: those
    under ``4 eps √features`` of ``size``, by default the largest singular value.
    """
    n_feature, d_model = write.shape
    triangle = write.new_zeros(0, d_model, dtype=torch.float64)
    for block in write.split(max(ROWS, 2 * d_model)):
        stacked = torch.cat([triangle, block.double()])
        triangle = torch.linalg.qr(stacked, mode="r").R
    _, sizes, directions = torch.linalg.svd(triangle, full_matrices=False)
    noise = 4 * torch.finfo(write.dtype).eps * max(n_feature, d_model) ** 0.5
    rank = int((sizes > noise * (float(sizes[0]) if size is None else size)).sum())
    return Span(sizes[:rank], directions[:rank])


def pseudoinverse(
    write: Float[Tensor, "feature model"], span: Span
) -> Float[Tensor, "feature model"]:
    """The rows that read what these rows write; exact where they span the whole space."""
    inverse = span.directions / span.sizes[:, None]
    # two thin products; the one matrix inverseᵀ inverse would square the condition number
    read = torch.cat([rows.double() @ inverse.mT @ inverse for rows in write.split(ROWS)])
    condition = float(span.sizes[0] / span.sizes[-1]) if len(span.sizes) else 1.0
    if condition**2 * torch.finfo(torch.float64).eps > 10 * torch.finfo(write.dtype).eps:
        # a Newton step squares the error that is left
        projector = span.directions.mT @ span.directions
        read += read @ (projector - write.double().mT @ read)
    check_range("Basis.read", write.dtype, {"read": largest(read)})
    return read.to(write.dtype)


def zero_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features whose direction is zero, up to rounding against the longest."""
    norms = row_norms(rows)
    return (norms <= torch.finfo(rows.dtype).eps * norms.max()).nonzero()[:, 0].tolist()


def repeated_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features with the direction of an earlier feature, up to rounding: equal directions have
    equal shadows on a random line, so only neighbours on it are compared in full."""
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(rows.shape[1], dtype=torch.float64, generator=generator).to(rows.device)
    norms = row_norms(rows)
    shadows = torch.cat([block.double() @ line for block in rows.split(ROWS)]) / norms
    order = torch.argsort(shadows, stable=True)
    order = order[(norms > torch.finfo(rows.dtype).eps * norms.max())[order]]
    near = shadows[order].diff() < 1e-6 * line.norm()
    pairs = torch.stack([order[:-1][near], order[1:][near]], dim=1)
    cosines = [
        (rows[i].double() * rows[j].double()).sum(1) / norms[i] / norms[j]
        for i, j in (block.unbind(1) for block in pairs.split(ROWS))
    ]
    near[near.clone()] = torch.cat(cosines) > 1 - 1e-12
    # runs of equal neighbours are one direction; its first feature is the one that is not a repeat
    run = torch.cat([near.new_zeros(1), ~near]).long().cumsum(0)
    run = run[: len(order)]  # of no features there are no runs
    first = torch.full_like(order, len(rows)).scatter_reduce(0, run, order, "amin")
    return sorted(order[order != first[run]].tolist())


def row_norms(rows: Float[Tensor, "feature model"]) -> Float[Tensor, " feature"]:
    """The length of each row, in float64: squares leave the range of float32 long before it."""
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def coherence(rows: Float[Tensor, "feature model"]) -> float:
    """The largest |cosine| between two different features; zero features are left out."""
    norms = row_norms(rows)
    unit = (rows / norms[:, None]).to(rows.dtype)
    unit = unit[norms > torch.finfo(rows.dtype).eps * norms.max()]
    most = 0.0
    for start in range(0, len(unit), ROWS):
        for other in range(start, len(unit), ROWS):
            cosines = unit[start : start + ROWS] @ unit[other : other + ROWS].mT
            if other == start:
                cosines.fill_diagonal_(0)
            most = max(most, float(cosines.abs_().max()))
    return most


def warn_of_directions(write: Float[Tensor, "feature model"]) -> None:
    """Warn the caller's caller of features that are zero or repeated."""
    if write.is_meta:  # a shape without content
        return
    zero, repeated = zero_rows(write), repeated_rows(write)
    faults = []
    if zero:
        faults.append(
            f"features {shorten(zero)} write nothing (their rows are zero next to the longest)"
        )
    if repeated:
        faults.append(f"features {shorten(repeated)} repeat the direction of an earlier feature")
    if faults:
        warnings.warn(
            f"dictionary of {len(write)} features: {'; '.join(faults)}. Results stay finite, but "
            f"such features share or lose their interactions; Basis.subset leaves them out.",
            DirectionWarning,
            stacklevel=3,
        )


def random_orthonormal(
    n_row: int, n_column: int, generator: torch.Generator
) -> Float[Tensor, "row column"]:
    """A random matrix with orthonormal columns, in float64 on the CPU."""
    random = torch.randn(n_row, n_column, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(random).Q
