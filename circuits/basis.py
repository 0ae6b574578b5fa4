"""Feature directions in activation space, and the vectors that read them back.

``write`` says what each feature adds to an activation, ``read`` how strongly each feature is
present in one; a dictionary of more features than dimensions has many readers for one writer,
so a ``Basis`` always names its own. The pseudoinverse reader ``D⁺`` is exact: reading an
activation and writing it again gives the activation back (``writeᵀ read = 1``), though not the
same sparse features. An encoder's rows read sparsely and give it back only approximately.

Only an *output* is read. A rank-deficient decoder is a perfectly good set of inputs, and its
reader is refused only when it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.bilinear import computing_dtype
from circuits.errors import BasisError, DirectionWarning, check_indices, check_tensors, shorten

_ROWS = 4096  # features handled at a time: bounds the memory of every pass over a dictionary


class Span(NamedTuple):
    """The space that a dictionary's rows span: ``write = U diag(sizes) directions``."""

    sizes: Float[Tensor, " rank"]  # singular values, in float64
    directions: Float[Tensor, "rank model"]  # right singular vectors, orthonormal, in float64


def span(write: Float[Tensor, "feature model"]) -> Span:
    """Singular values and right singular vectors of a dictionary of any height.

    A QR decomposition of row blocks, each stacked on the triangle of those before (so the memory
    is one block), then the decomposition of the last triangle: as accurate as a decomposition of
    the whole, where ``writeᵀ write`` would lose half of the digits. In float64.
    """
    n_feature, d_model = write.shape
    triangle = write.new_zeros(0, d_model, dtype=torch.float64)
    rows = max(_ROWS, 2 * d_model)
    for block in write.split(rows):
        stacked = torch.cat([triangle, block.double()])
        triangle = torch.linalg.qr(stacked, mode="r").R
    _, sizes, directions = torch.linalg.svd(triangle, full_matrices=False)
    # what float arithmetic of this dtype could have left of a true zero
    noise = 4 * torch.finfo(write.dtype).eps * max(n_feature, d_model) ** 0.5
    rank = int((sizes > noise * sizes[:1]).sum())
    return Span(sizes[:rank], directions[:rank])


class Basis:
    """A dictionary of features: how they write to an activation, how they are read from it.

    ``x = write.mT @ features + offset`` and ``features = read @ (x − offset)``, by the reader
    that ``reader`` names. Values only: nothing here changes after construction.

    >>> basis = Basis.from_decoder(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> basis.compose(basis.coordinates(torch.tensor([1.0, 2.0])))
    tensor([1.0000, 2.0000])
    """

    write: Float[Tensor, "feature model"]  # row f: what feature f adds to an activation
    offset: Float[Tensor, " model"] | None  # what an activation is with no feature present
    reader: str  # how `read` was made: "pinv", "encoder", "transpose" or the caller's word

    def __init__(
        self,
        write: Float[Tensor, "feature model"],
        read: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
        reader: str = "given",
    ) -> None:
        self._fill(write, offset, reader, read)
        _warn_of_directions(self.write)

    def _fill(
        self,
        write: Tensor,
        offset: Tensor | None,
        reader: str,
        read: Tensor | Callable[[], Tensor],
    ) -> None:
        """Check and keep; a reader that is a function is called when it is first needed."""
        given = {"write": write} if callable(read) else {"write": write, "read": read}
        if offset is not None:
            given["offset"] = offset
        axes = {"write": "feature model", "read": "feature model", "offset": "model"}
        check_tensors("Basis", given, axes)
        dtype = computing_dtype(*given.values())
        self.write = write.detach().to(dtype)
        self.offset = None if offset is None else offset.detach().to(dtype)
        self.reader = reader
        self._read = read if callable(read) else read.detach().to(dtype)

    @classmethod
    def _lazy(
        cls, write: Tensor, offset: Tensor | None, reader: str, read: Callable[[], Tensor]
    ) -> Basis:
        basis = cls.__new__(cls)
        basis._fill(write, offset, reader, read)
        return basis

    @classmethod
    def from_decoder(
        cls,
        decoder: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
        *,
        least_squares: bool = False,
    ) -> Basis:
        """The decoder's rows, read by its pseudoinverse, which is computed once, when asked for.

        A decoder that does not span the activation has no exact reader, and reading by it is
        refused, unless ``least_squares`` accepts the reader that is nearest to one.
        """
        basis = cls._lazy(decoder, offset, "pinv", lambda: basis._pinv(least_squares))
        _warn_of_directions(basis.write)
        return basis

    @classmethod
    def from_encoder(
        cls,
        decoder: Float[Tensor, "feature model"],
        encoder: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
    ) -> Basis:
        """The decoder's rows, read by the encoder's rows (before any threshold or top-k)."""
        return cls(decoder, encoder, offset, reader="encoder")

    @classmethod
    def orthonormal(
        cls,
        directions: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
    ) -> Basis:
        """Orthonormal rows, such as principal components with their mean, read by themselves."""
        basis = cls(directions, directions, offset, reader="transpose")
        gram = basis.write @ basis.write.mT
        error = float((gram - torch.eye(len(gram)).to(gram)).abs().max())
        if error > len(gram) ** 0.5 * 100 * torch.finfo(gram.dtype).eps:
            raise BasisError(
                f"these {len(gram)} directions are not orthonormal: their inner products are off "
                f"by up to {error:.2g}, so they cannot read themselves back. Orthonormalise them "
                f"(torch.linalg.qr), or use Basis.from_decoder for the exact reader."
            )
        return basis

    @classmethod
    def identity(
        cls, d_model: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Basis:
        """The activation's own coordinates as features."""
        return cls.orthonormal(torch.eye(d_model, dtype=dtype, device=device))

    @property
    def n_feature(self) -> int:
        """How many features there are, the offset not counted."""
        return self.write.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activation."""
        return self.write.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype everything is computed in."""
        return self.write.dtype

    @property
    def device(self) -> torch.device:
        """Where the directions live."""
        return self.write.device

    @cached_property
    def read(self) -> Float[Tensor, "feature model"]:
        """Row f: how strongly feature f is present in an activation (less its offset)."""
        return self._read() if callable(self._read) else self._read

    @cached_property
    def span(self) -> Span:
        """The space that the features write to."""
        return span(self.write)

    def _pinv(self, least_squares: bool) -> Tensor:
        rank = len(self.span.sizes)
        if rank < self.d_model and not least_squares:
            raise BasisError(
                f"decoder of shape ({self.n_feature} features, {self.d_model} model) has rank "
                f"{rank}: its features cannot write {self.d_model - rank} directions of the "
                f"activation, so no reader can be exact. Train a wider SAE, or accept the nearest "
                f"reader with Basis.from_decoder(decoder, least_squares=True)."
            )
        inverse = self.span.directions / self.span.sizes[:, None]
        # two thin products; the one matrix inverseᵀ inverse would square the condition number
        read = torch.cat([rows.double() @ inverse.mT @ inverse for rows in self.write.split(_ROWS)])
        condition = float(self.span.sizes[0] / self.span.sizes[-1]) if rank else 1.0
        if condition**2 * torch.finfo(torch.float64).eps > 10 * torch.finfo(self.dtype).eps:
            # a Newton step squares the error that is left
            projector = self.span.directions.mT @ self.span.directions
            read += read @ (projector - self.write.double().mT @ read)
        return read.to(self.dtype)

    def coordinates(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch feature"]:
        """How strongly each feature is present in an activation."""
        x = x.to(self.dtype)
        return (x if self.offset is None else x - self.offset) @ self.read.mT

    def compose(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch model"]:
        """The activation that these features write, with the offset."""
        x = features.to(self.dtype) @ self.write
        return x if self.offset is None else x + self.offset

    def subset(self, features: Sequence[int] | Tensor) -> Basis:
        """Some of the features, each read as it was read in the whole dictionary."""
        listed = features.tolist() if isinstance(features, Tensor) else list(features)
        kept = check_indices("Basis.subset", listed, self.n_feature, "feature")
        if not kept:
            raise BasisError("Basis.subset: no features were named. Name at least one.")
        return self._lazy(self.write[kept], self.offset, self.reader, lambda: self.read[kept])

    def control(self, seed: int = 0) -> Basis:
        """Random directions in place of the features: the same shape, norms, offset and reader.

        What is found with a dictionary means little if it is found with this one too. A reader
        other than the pseudoinverse becomes the writer itself, scaled to the reader's norms.
        """
        generator = torch.Generator().manual_seed(seed)
        shape, dtype = self.write.shape, torch.float64
        write = torch.randn(shape, dtype=dtype, generator=generator).to(self.write)
        if self.reader == "transpose":
            return Basis.orthonormal(torch.linalg.qr(write.mT).Q.mT, self.offset)
        write = write / write.norm(dim=1, keepdim=True)
        scaled = write * self.write.norm(dim=1, keepdim=True)
        if self.reader == "pinv":
            basis = self._lazy(scaled, self.offset, "pinv", lambda: basis._pinv(True))
            return basis
        norms = self.read.norm(dim=1, keepdim=True)
        return self._lazy(scaled, self.offset, self.reader, lambda: write * norms)

    def to(self, *args: Any, **kwargs: Any) -> Basis:
        """The same basis on another device or in another dtype, as ``Tensor.to`` says it."""
        offset = None if self.offset is None else self.offset.to(*args, **kwargs)
        write = self.write.to(*args, **kwargs)
        return self._lazy(write, offset, self.reader, lambda: self.read.to(*args, **kwargs))

    def report(self, seed: int = 0) -> pd.DataFrame:
        """One row of what this basis can and cannot do; ``coherence`` costs features² · model.

        ``identity_error`` is the Frobenius norm of ``writeᵀ read − 1``: zero for an exact reader,
        ``√(d_model − rank)`` for the nearest one of a deficient dictionary. ``coherence`` is the
        largest |cosine| of two features, with that of random directions beside it.
        """
        sizes = self.span.sizes
        read = self._pinv(True) if self.reader == "pinv" else self.read
        identity = torch.eye(self.d_model, dtype=self.dtype, device=self.device)
        return pd.DataFrame(
            {
                "reader": self.reader,
                "n_feature": self.n_feature,
                "d_model": self.d_model,
                "rank": len(sizes),
                "condition": float(sizes[0] / sizes[-1]) if len(sizes) else float("inf"),
                "identity_error": float((self.write.mT @ read - identity).norm()),
                "coherence": coherence(self.write),
                "coherence_control": coherence(self.control(seed).write),
                "n_zero": len(zero_rows(self.write)),
                "n_repeated": len(repeated_rows(self.write)),
                "n_unread": len(zero_rows(read)),
                "offset_norm": 0.0 if self.offset is None else float(self.offset.norm()),
                "seed": seed,
            },
            index=[0],
        )

    def __repr__(self) -> str:
        offset = "" if self.offset is None else ", with offset"
        return f"Basis({self.n_feature} features of {self.d_model}, read by {self.reader}{offset})"


def zero_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features whose direction is zero, up to rounding against the longest."""
    norms = rows.norm(dim=1)
    return (norms <= torch.finfo(rows.dtype).eps * norms.max()).nonzero()[:, 0].tolist()


def repeated_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features that point where a feature before them points already (cosine above 1 − 1e-6).

    Equal directions have equal shadows on a random line, so sorting one number per feature puts
    them side by side; only neighbours are compared in full. Costs features · model.
    """
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(rows.shape[1], dtype=torch.float64, generator=generator).to(rows.device)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    shadows = torch.cat([block.double() @ line for block in rows.split(_ROWS)]) / norms
    order = torch.argsort(shadows, stable=True)
    order = order[(norms > torch.finfo(rows.dtype).eps * norms.max())[order]]
    near = shadows[order].diff() < 1e-5 * line.norm()
    before, after = order[:-1][near], order[1:][near]
    cosines = (rows[before].double() * rows[after].double()).sum(1) / norms[before] / norms[after]
    near[near.clone()] = cosines > 1 - 1e-6
    # runs of equal neighbours are one direction; its first feature is the one that is not a repeat
    run = torch.cat([near.new_zeros(1), ~near]).long().cumsum(0)
    run = run[: len(order)]  # of no features there are no runs
    first = torch.full_like(order, len(rows)).scatter_reduce(0, run, order, "amin")
    return sorted(order[order != first[run]].tolist())


def coherence(rows: Float[Tensor, "feature model"]) -> float:
    """The largest |cosine| between two different features; zero features are left out."""
    norms = rows.norm(dim=1, keepdim=True)
    unit = (rows / norms)[(norms > torch.finfo(rows.dtype).eps * norms.max())[:, 0]]
    largest = 0.0
    for start in range(0, len(unit), _ROWS):
        for other in range(start, len(unit), _ROWS):
            cosines = unit[start : start + _ROWS] @ unit[other : other + _ROWS].mT
            if other == start:
                cosines.fill_diagonal_(0)
            largest = max(largest, float(cosines.abs_().max()))
    return largest


def _warn_of_directions(write: Float[Tensor, "feature model"]) -> None:
    zero, repeated = zero_rows(write), repeated_rows(write)
    said = []
    if zero:
        said.append(f"features {shorten(zero)} write nothing (their rows are zero)")
    if repeated:
        said.append(f"features {shorten(repeated)} repeat the direction of an earlier feature")
    if said:
        warnings.warn(
            f"dictionary of {len(write)} features: {'; '.join(said)}. Results stay finite, but "
            f"such features share or lose their interactions; Basis.subset leaves them out.",
            DirectionWarning,
            stacklevel=3,
        )
