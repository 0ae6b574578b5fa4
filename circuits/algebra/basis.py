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
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.bilinear import computing_dtype
from circuits.errors import (
    BasisError,
    DirectionWarning,
    check_indices,
    check_tensors,
    check_width,
    shorten,
)

ROWS_AT_ONCE = 4096  # features handled at a time: bounds the memory of every pass over a dictionary


@dataclass(frozen=True, eq=False)
class Span:
    """The space that a dictionary's rows span: ``write = U diag(sizes) directions``."""

    sizes: Float[Tensor, " rank"]  # singular values, in float64
    directions: Float[Tensor, "rank model"]  # right singular vectors, orthonormal, in float64


def span(write: Float[Tensor, "feature model"], size: float | None = None) -> Span:
    """Singular values and right singular vectors of a dictionary of any height.

    A QR decomposition of row blocks, each stacked on the triangle of those before (so the memory
    is one block), then the decomposition of the last triangle: as accurate as a decomposition of
    the whole, where ``writeᵀ write`` would lose half of the digits. In float64.

    Directions that rounding to the dictionary's dtype could have made are left out: those under
    ``4 eps √features`` of ``size``, which is the largest singular value unless it is given.
    """
    n_feature, d_model = write.shape
    triangle = write.new_zeros(0, d_model, dtype=torch.float64)
    for block in write.split(max(ROWS_AT_ONCE, 2 * d_model)):
        stacked = torch.cat([triangle, block.double()])
        triangle = torch.linalg.qr(stacked, mode="r").R
    _, sizes, directions = torch.linalg.svd(triangle, full_matrices=False)
    noise = 4 * torch.finfo(write.dtype).eps * max(n_feature, d_model) ** 0.5
    largest = float(sizes[0]) if size is None else size
    rank = int((sizes > noise * largest).sum())
    return Span(sizes[:rank], directions[:rank])


class Basis:
    """A dictionary of features: how they write to an activation, how they are read from it.

    ``x = write.mT @ features + offset`` and ``features = read @ (x − offset) + bias``, by the
    reader that ``reader`` names. It holds the tensors it is given: do not change them in place.

    >>> basis = Basis.from_decoder(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> basis.compose(basis.coordinates(torch.tensor([1.0, 2.0])))
    tensor([1.0000, 2.0000])
    """

    write: Float[Tensor, "feature model"]  # row f: what feature f adds to an activation
    offset: Float[Tensor, " model"] | None  # what an activation is with no feature present
    bias: Float[Tensor, " feature"] | None  # what is read of each feature where nothing is present
    reader: str  # how `read` was made: "pinv", "encoder", "transpose" or the caller's word
    _least_squares: bool  # whether a reader that is not exact is accepted
    _whole: Basis | None  # what this is a subset of
    _kept: list[int]

    def __init__(
        self,
        write: Float[Tensor, "feature model"],
        read: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
        bias: Float[Tensor, " feature"] | None = None,
        reader: str = "given",
    ) -> None:
        self._hold({"write": write, "read": read, "offset": offset, "bias": bias}, reader)
        _warn_of_directions(self.write)

    def _hold(
        self, parts: dict[str, Tensor | None], reader: str, least_squares: bool = False
    ) -> None:
        """Check the parts and keep them; without a reader it is the pseudoinverse, when needed."""
        given = {name: part for name, part in parts.items() if part is not None}
        axes = {
            "write": "feature model",
            "read": "feature model",
            "offset": "model",
            "bias": "feature",
        }
        check_tensors("Basis", given, axes)
        dtype = computing_dtype(*given.values())
        held: dict[str, Any] = dict.fromkeys(("offset", "bias"))
        held |= {name: part.detach().to(dtype) for name, part in given.items()}
        held |= {"reader": reader, "_least_squares": least_squares, "_whole": None, "_kept": []}
        vars(self).update(held)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"a Basis does not change: make another one with this {name}")

    @classmethod
    def _of(
        cls, parts: dict[str, Tensor | None], reader: str, least_squares: bool = False
    ) -> Basis:
        """Without the warnings: made from a basis that has given them."""
        basis = cls.__new__(cls)
        basis._hold(parts, reader, least_squares)
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
        basis = cls._of({"write": decoder, "offset": offset}, "pinv", least_squares)
        _warn_of_directions(basis.write)
        return basis

    @classmethod
    def from_encoder(
        cls,
        decoder: Float[Tensor, "feature model"],
        encoder: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
        bias: Float[Tensor, " feature"] | None = None,
    ) -> Basis:
        """The decoder's rows, read by the encoder's rows (before any threshold or top-k)."""
        parts = {"write": decoder, "read": encoder, "offset": offset, "bias": bias}
        basis = cls._of(parts, "encoder")
        _warn_of_directions(basis.write)
        return basis

    @classmethod
    def orthonormal(
        cls,
        directions: Float[Tensor, "feature model"],
        offset: Float[Tensor, " model"] | None = None,
    ) -> Basis:
        """Orthonormal rows, such as principal components with their mean, read by themselves."""
        basis = cls._of({"write": directions, "read": directions, "offset": offset}, "transpose")
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
        if self._whole is not None:
            return self._whole.read[self._kept]
        rank = len(self.span.sizes)
        if rank < self.d_model and not self._least_squares:
            raise BasisError(
                f"decoder of shape ({self.n_feature} features, {self.d_model} model) has rank "
                f"{rank}: its features cannot write {self.d_model - rank} directions of the "
                f"activation to {self.dtype} precision, so no reader can be exact. Train a wider "
                f"SAE, or accept the nearest reader with "
                f"Basis.from_decoder(decoder, least_squares=True)."
            )
        return self._nearest()

    def _nearest(self) -> Tensor:
        """The reader, or the least-squares one where reading by it is refused."""
        if self._whole is not None:
            return self._whole._nearest()[self._kept]
        return pseudoinverse(self.write, self.span) if self.reader == "pinv" else self.read

    @cached_property
    def span(self) -> Span:
        """The space that the features write to."""
        return span(self.write)

    @property
    def _parts(self) -> dict[str, Tensor | None]:
        """What it was made from; no reader where that is the pseudoinverse."""
        read = None if self.reader == "pinv" else self.read
        return {"write": self.write, "read": read, "offset": self.offset, "bias": self.bias}

    def coordinates(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch feature"]:
        """How strongly each feature is present in an activation."""
        check_width("Basis.coordinates", x, self.d_model, "activations")
        x = x.to(self.dtype)
        features = (x if self.offset is None else x - self.offset) @ self.read.mT
        return features if self.bias is None else features + self.bias

    def compose(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch model"]:
        """The activation that these features write, with the offset."""
        check_width("Basis.compose", features, self.n_feature, "features")
        x = features.to(self.dtype) @ self.write
        return x if self.offset is None else x + self.offset

    def without_offset(self) -> Basis:
        """The features alone, for questions about them and not about the constant."""
        if self._whole is not None:
            return self._whole.without_offset().subset(self._kept)
        return self._of(self._parts | {"offset": None}, self.reader, self._least_squares)

    def subset(self, features: Sequence[int] | Tensor) -> Basis:
        """Some of the features, each read as it was read in the whole dictionary.

        Where the whole cannot be read exactly, reading the subset is refused too.
        """
        listed = features.tolist() if isinstance(features, Tensor) else list(features)
        if listed and all(isinstance(feature, bool) for feature in listed):
            raise BasisError(
                "Basis.subset: a mask was given; it takes indices. Pass mask.nonzero()[:, 0]."
            )
        kept = check_indices("Basis.subset", listed, self.n_feature, "feature")
        if not kept:
            raise BasisError("Basis.subset: no features were named. Name at least one.")
        bias = None if self.bias is None else self.bias[kept]
        parts = {"write": self.write[kept], "offset": self.offset, "bias": bias}
        part = self._of(parts, f"{self.reader} of {self.n_feature}")
        vars(part).update(_whole=self, _kept=kept)
        return part

    def control(self, seed: int = 0) -> Basis:
        """Random directions in place of the features: the same shape, norms, offset and reader.

        What is found with a dictionary means little if it is found with this one too. A reader
        other than the pseudoinverse becomes the writer itself, scaled to the reader's norms.
        """
        if self._whole is not None:
            return self._whole.control(seed).subset(self._kept)
        generator = torch.Generator().manual_seed(seed)
        shape, dtype = self.write.shape, torch.float64
        random = torch.randn(shape, dtype=dtype, generator=generator).to(self.write)
        if self.reader == "transpose":
            return Basis.orthonormal(torch.linalg.qr(random.mT).Q.mT, self.offset)
        random = random / random.norm(dim=1, keepdim=True)
        write = random * self.write.norm(dim=1, keepdim=True)
        if self.reader == "pinv":
            return self._of({"write": write, "offset": self.offset}, "pinv", least_squares=True)
        read = random * self.read.norm(dim=1, keepdim=True)
        return self._of(self._parts | {"write": write, "read": read}, self.reader)

    def to(self, *args: Any, **kwargs: Any) -> Basis:
        """The same basis on another device or in another dtype, as ``Tensor.to`` says it."""
        if self._whole is not None:
            return self._whole.to(*args, **kwargs).subset(self._kept)
        parts = {
            name: None if part is None else part.to(*args, **kwargs)
            for name, part in self._parts.items()
        }
        return self._of(parts, self.reader, self._least_squares)

    def report(self, seed: int = 0) -> pd.DataFrame:
        """One row of what this basis can and cannot do; ``coherence`` costs features² · model.

        ``identity_error`` is the Frobenius norm of ``writeᵀ read − 1``: zero for an exact reader,
        ``√(d_model − rank)`` for the nearest one of a deficient dictionary. ``coherence`` is the
        largest |cosine| of two features, with that of random directions beside it.
        """
        sizes = self.span.sizes
        read = self._nearest()
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


def pseudoinverse(
    write: Float[Tensor, "feature model"], span: Span
) -> Float[Tensor, "feature model"]:
    """The rows that read what these rows write, exactly where their span is everything."""
    inverse = span.directions / span.sizes[:, None]
    # two thin products; the one matrix inverseᵀ inverse would square the condition number
    read = torch.cat([rows.double() @ inverse.mT @ inverse for rows in write.split(ROWS_AT_ONCE)])
    condition = float(span.sizes[0] / span.sizes[-1]) if len(span.sizes) else 1.0
    if condition**2 * torch.finfo(torch.float64).eps > 10 * torch.finfo(write.dtype).eps:
        # a Newton step squares the error that is left
        projector = span.directions.mT @ span.directions
        read += read @ (projector - write.double().mT @ read)
    return read.to(write.dtype)


def zero_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features whose direction is zero, up to rounding against the longest."""
    norms = _norms(rows)
    return (norms <= torch.finfo(rows.dtype).eps * norms.max()).nonzero()[:, 0].tolist()


def repeated_rows(rows: Float[Tensor, "feature model"]) -> list[int]:
    """Features that point where a feature before them points, up to rounding.

    Equal directions have equal shadows on a random line, so sorting one number per feature puts
    them side by side; only neighbours are compared in full. Costs features · model.
    """
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(rows.shape[1], dtype=torch.float64, generator=generator).to(rows.device)
    norms = _norms(rows)
    shadows = torch.cat([block.double() @ line for block in rows.split(ROWS_AT_ONCE)]) / norms
    order = torch.argsort(shadows, stable=True)
    order = order[(norms > torch.finfo(rows.dtype).eps * norms.max())[order]]
    near = shadows[order].diff() < 1e-6 * line.norm()
    pairs = torch.stack([order[:-1][near], order[1:][near]], dim=1)
    cosines = [
        (rows[i].double() * rows[j].double()).sum(1) / norms[i] / norms[j]
        for i, j in (block.unbind(1) for block in pairs.split(ROWS_AT_ONCE))
    ]
    near[near.clone()] = torch.cat(cosines) > 1 - 1e-12
    # runs of equal neighbours are one direction; its first feature is the one that is not a repeat
    run = torch.cat([near.new_zeros(1), ~near]).long().cumsum(0)
    run = run[: len(order)]  # of no features there are no runs
    first = torch.full_like(order, len(rows)).scatter_reduce(0, run, order, "amin")
    return sorted(order[order != first[run]].tolist())


def _norms(rows: Float[Tensor, "feature model"]) -> Float[Tensor, " feature"]:
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def coherence(rows: Float[Tensor, "feature model"]) -> float:
    """The largest |cosine| between two different features; zero features are left out."""
    norms = rows.norm(dim=1, keepdim=True)
    unit = (rows / norms)[(norms > torch.finfo(rows.dtype).eps * norms.max())[:, 0]]
    largest = 0.0
    for start in range(0, len(unit), ROWS_AT_ONCE):
        for other in range(start, len(unit), ROWS_AT_ONCE):
            cosines = unit[start : start + ROWS_AT_ONCE] @ unit[other : other + ROWS_AT_ONCE].mT
            if other == start:
                cosines.fill_diagonal_(0)
            largest = max(largest, float(cosines.abs_().max()))
    return largest


def _warn_of_directions(write: Float[Tensor, "feature model"]) -> None:
    if write.is_meta:  # a shape without content
        return
    zero, repeated = zero_rows(write), repeated_rows(write)
    said = []
    if zero:
        said.append(
            f"features {shorten(zero)} write nothing (their rows are zero beside the longest)"
        )
    if repeated:
        said.append(f"features {shorten(repeated)} repeat the direction of an earlier feature")
    if said:
        warnings.warn(
            f"dictionary of {len(write)} features: {'; '.join(said)}. Results stay finite, but "
            f"such features share or lose their interactions; Basis.subset leaves them out.",
            DirectionWarning,
            stacklevel=3,
        )
