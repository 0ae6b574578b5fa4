"""Feature directions in activation space, and the vectors that read them back.

A dictionary of more features than dimensions has many possible readers, so a ``Basis`` names its
own. The pseudoinverse ``D⁺`` is exact: reading an activation and writing it again returns the
activation (``writeᵀ read = 1``), but not the same sparse features. An encoder's rows read sparsely,
and return it only approximately.

Only *outputs* are read: a rank-deficient decoder is refused only where its reader is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import FrozenInstanceError
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.bilinear import computing_dtype
from circuits.algebra.directions import (
    Span,
    coherence,
    pseudoinverse,
    random_orthonormal,
    repeated_rows,
    row_norms,
    span,
    warn_of_directions,
    zero_rows,
)
from circuits.algebra.unchanged import while_unchanged
from circuits.arguments import check_argument, checked, checked_methods
from circuits.errors import (
    BasisError,
    check_count,
    check_indices,
    check_memory,
    check_range,
    check_tensors,
    check_width,
    largest,
    moved,
)

_Rows = Float[Tensor, "feature model"]
_Point = Float[Tensor, " model"] | None
_Levels = Float[Tensor, " feature"] | None


@runtime_checkable
class Vocabulary(Protocol):
    """What `Basis.of_tokens` reads of a `Model`."""

    @property
    def embedding(self) -> Float[Tensor, "token model"]:
        """What each token writes to the first residual stream."""

    @property
    def unembedding(self) -> Float[Tensor, "token model"]:
        """What reads each token's logit."""

    def token_texts(self, tokens: Iterable[int]) -> list[str]:
        """Each token as the tokenizer spells it."""


@checked_methods
class Basis:
    """A dictionary of features: how they write to an activation, how they are read from it.

    ``x = write.mT @ features + offset`` and ``features = read @ (x − offset) + bias``, by the
    reader that ``reader`` names. It shares the tensors it is given: a change of them in place
    changes it.

    >>> basis = Basis.from_decoder(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> basis.compose(basis.coordinates(torch.tensor([1.0, 2.0])))
    tensor([1.0000, 2.0000])
    """

    write: _Rows  # row f: what feature f adds to an activation
    offset: _Point  # what an activation is with no feature present
    bias: _Levels  # what is read of each feature where nothing is present
    reader: str  # how `read` was made: "pinv", "encoder", "transpose" or the caller's name for it
    labels: tuple[str, ...] | None  # what tables and graphs call each feature
    _least_squares: bool  # whether a reader that is not exact is accepted
    _whole: Basis | None  # what this is a subset of
    _kept: list[int]

    def __init__(
        self,
        write: _Rows,
        read: _Rows,
        offset: _Point = None,
        bias: _Levels = None,
        reader: str = "given",
    ) -> None:
        check_argument("Basis", "read", read, _Rows)
        self._hold({"write": write, "read": read, "offset": offset, "bias": bias}, reader)
        warn_of_directions(self.write)

    def _hold(
        self, parts: dict[str, Tensor | None], reader: str, least_squares: bool = False
    ) -> None:
        """Check the parts and keep them; a missing reader is the pseudoinverse, made on use."""
        given = {name: part for name, part in parts.items() if part is not None}
        check_argument("Basis", "write", given.get("write"), _Rows)
        axes = {"write": "feature model", "read": "feature model"}
        axes |= {"offset": "model", "bias": "feature"}
        check_tensors("Basis", given, axes)
        dtype = computing_dtype(*given.values())
        held: dict[str, Any] = dict.fromkeys(("offset", "bias", "labels"))
        held |= {name: part.detach().to(dtype) for name, part in given.items()}
        held |= {"reader": reader, "_least_squares": least_squares, "_whole": None, "_kept": []}
        vars(self).update(held)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"a Basis cannot be changed: make another one with this {name}")

    @classmethod
    def _of(
        cls, parts: dict[str, Tensor | None], reader: str, least_squares: bool = False
    ) -> Basis:
        """Without warnings: for a basis made from one that already warned."""
        basis = cls.__new__(cls)
        basis._hold(parts, reader, least_squares)
        return basis

    @classmethod
    def from_decoder(
        cls, decoder: _Rows, offset: _Point = None, *, least_squares: bool = False
    ) -> Basis:
        """The decoder's rows, read by its pseudoinverse; without ``least_squares``, which accepts
        the nearest reader, reading raises an error where the decoder does not span the activation.
        """
        basis = cls._of({"write": decoder, "offset": offset}, "pinv", least_squares)
        warn_of_directions(basis.write)
        return basis

    @classmethod
    def from_encoder(
        cls, decoder: _Rows, encoder: _Rows, offset: _Point = None, bias: _Levels = None
    ) -> Basis:
        """The decoder's rows, read by the encoder's rows (before any threshold or top-k)."""
        parts = {"write": decoder, "read": encoder, "offset": offset, "bias": bias}
        basis = cls._of(parts, "encoder")
        warn_of_directions(basis.write)
        return basis

    @classmethod
    def orthonormal(cls, directions: _Rows, offset: _Point = None) -> Basis:
        """Orthonormal rows, such as principal components with their mean; they read themselves."""
        basis = cls._of({"write": directions, "read": directions, "offset": offset}, "transpose")
        gram = basis.write @ basis.write.mT
        error = float((gram - torch.eye(len(gram)).to(gram)).abs().max())
        if not error <= len(gram) ** 0.5 * 100 * torch.finfo(gram.dtype).eps:
            raise BasisError(
                f"these {len(gram)} directions are not orthonormal: their inner products are off "
                f"by up to {error:.2g}, so they are not their own reader. Orthonormalise them "
                f"(torch.linalg.qr), or use Basis.from_decoder for the exact reader."
            )
        return basis

    @classmethod
    def identity(
        cls, d_model: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Basis:
        """The activation's own coordinates as features."""
        d_model = check_count("Basis.identity", d_model, None, "d_model")
        check_memory("Basis.identity", 4 * d_model**2, "Make d_model smaller.")
        return cls.orthonormal(torch.eye(d_model, dtype=dtype, device=device))

    @classmethod
    def of_tokens(cls, model: Vocabulary) -> Basis:
        """The tokens as features, labelled by their texts: they write their embedding, and are read
        by the unembedding (norm weight included), which gives logits of a stream over its scale."""
        embedding = model.embedding
        parts = {"write": embedding, "read": model.unembedding, "offset": None, "bias": None}
        tokens = cls._of(parts, "unembedding")  # unused rows of an embedding are often equal
        return tokens.labelled(model.token_texts(range(len(embedding))))

    def labelled(self, labels: Sequence[str]) -> Basis:
        """The same basis, whose features have these names in tables and graphs."""
        if isinstance(labels, str) or len(labels) != self.n_feature:
            raise BasisError(
                f"Basis.labelled: {len(labels)} labels for {self.n_feature} features. Pass a list "
                f"with one text for each."
            )
        if self._whole is not None:
            basis = self._whole.subset(self._kept)
        else:
            basis = self._of(self._parts, self.reader, self._least_squares)
        vars(basis).update(labels=tuple(map(str, labels)))
        return basis

    def _like(self, basis: Basis) -> Basis:
        """A basis made of the same features, with their labels."""
        vars(basis).update(labels=self.labels)
        return basis

    @property
    def n_feature(self) -> int:
        """How many features there are, without the offset."""
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
        """Where the directions are."""
        return self.write.device

    @while_unchanged
    def read(self) -> _Rows:
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
        """The reader, or the least-squares one where there is no exact reader."""
        if self._whole is not None:
            return self._whole._nearest()[self._kept]
        return pseudoinverse(self.write, self.span) if self.reader == "pinv" else self.read

    @while_unchanged
    def span(self) -> Span:
        """The space that the features write to."""
        return span(self.write)

    @property
    def _parts(self) -> dict[str, Tensor | None]:
        """What it was made from, without the reader where that is the pseudoinverse."""
        read = None if self.reader == "pinv" else self.read
        return {"write": self.write, "read": read, "offset": self.offset, "bias": self.bias}

    def coordinates(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch feature"]:
        """How strongly each feature is present in an activation."""
        check_width("Basis.coordinates", x, self.d_model, "activations")
        x = x.to(self.dtype) if self.offset is None else x.to(self.dtype) - self.offset
        self._check_range("Basis.coordinates", "activations", x, "read", self.bias)
        features = x @ self.read.mT
        return features if self.bias is None else features + self.bias

    def compose(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch model"]:
        """The activation that these features write, with the offset."""
        check_width("Basis.compose", features, self.n_feature, "features")
        features = features.to(self.dtype)
        self._check_range("Basis.compose", "features", features, "write", self.offset)
        x = features @ self.write
        return x if self.offset is None else x + self.offset

    def _check_range(
        self, owner: str, name: str, given: Tensor, side: str, added: Tensor | None
    ) -> None:
        if not given.is_meta:
            sizes = {name: largest(given), side: self._sizes[side]}
            check_range(owner, self.dtype, sizes, given.shape[-1], largest(added))

    @while_unchanged
    def _sizes(self) -> dict[str, float]:
        return {"read": largest(self.read), "write": largest(self.write)}

    def without_offset(self) -> Basis:
        """The same features without the constant."""
        if self._whole is not None:
            return self._like(self._whole.without_offset().subset(self._kept))
        parts = self._parts | {"offset": None}
        return self._like(self._of(parts, self.reader, self._least_squares))

    def subset(self, features: Sequence[int] | Tensor) -> Basis:
        """Some of the features, each read as in the whole (an error where that has no reader)."""
        if isinstance(features, Tensor) and features.ndim != 1:
            raise BasisError(
                f"Basis.subset: a tensor of {features.ndim} axes was given, and indices have one. "
                f"Pass features.flatten()."
            )
        listed = features.tolist() if isinstance(features, Tensor) else list(features)
        if listed and all(isinstance(feature, bool) for feature in listed):
            raise BasisError(
                "Basis.subset: a mask was given, but indices are expected. "
                "Pass mask.nonzero()[:, 0]."
            )
        kept = check_indices("Basis.subset", listed, self.n_feature, "feature")
        if not kept:
            raise BasisError("Basis.subset: no features were named. Name at least one.")
        bias = None if self.bias is None else self.bias[kept]
        parts = {"write": self.write[kept], "offset": self.offset, "bias": bias}
        part = self._of(parts, f"{self.reader} of {self.n_feature}")
        labels = None if self.labels is None else tuple(self.labels[feature] for feature in kept)
        vars(part).update(_whole=self, _kept=kept, labels=labels)
        return part

    def control(self, seed: int = 0) -> Basis:
        """Random directions in place of the features: the same shape, norms, offset and reader. (A
        reader that is not the pseudoinverse becomes the writer, scaled to the reader's norms.)"""
        if self._whole is not None:
            return self._whole.control(seed).subset(self._kept)
        generator = torch.Generator().manual_seed(seed)
        shape, dtype = self.write.shape, torch.float64
        random = torch.randn(shape, dtype=dtype, generator=generator).to(self.write)
        if self.reader == "transpose":
            return Basis.orthonormal(torch.linalg.qr(random.mT).Q.mT, self.offset)
        random = random / random.norm(dim=1, keepdim=True)
        write = (random * row_norms(self.write)[:, None]).to(self.dtype)
        if self.reader == "pinv":
            return self._of({"write": write, "offset": self.offset}, "pinv", least_squares=True)
        read = (random * row_norms(self.read)[:, None]).to(self.dtype)
        return self._of(self._parts | {"write": write, "read": read}, self.reader)

    def to(self, *args: Any, **kwargs: Any) -> Basis:
        """The same basis on another device or in another dtype, as ``Tensor.to`` does it."""
        if self._whole is not None:
            return self._like(self._whole.to(*args, **kwargs).subset(self._kept))
        parts = moved("Basis.to", self._parts, *args, **kwargs)
        return self._like(self._of(parts, self.reader, self._least_squares))

    def report(self, seed: int = 0) -> pd.DataFrame:
        """One row of properties: ``identity_error`` is the Frobenius norm of ``writeᵀ read − 1``,
        zero for an exact reader; ``coherence``, the largest |cosine| of two features, costs
        features² · model."""
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
                "offset_norm": 0.0 if self.offset is None else float(self.offset.double().norm()),
                "seed": seed,
            },
            index=[0],
        )

    def __repr__(self) -> str:
        offset = "" if self.offset is None else ", with offset"
        return f"Basis({self.n_feature} features of {self.d_model}, read by {self.reader}{offset})"


@checked
def rotated(basis: Basis, seed: int = 0) -> Basis:
    """A control: all features turned by one random rotation, so that norms and angles between them
    stay, and read by their pseudoinverse."""
    generator = torch.Generator().manual_seed(seed)
    turn = random_orthonormal(basis.d_model, basis.d_model, generator)
    write = (basis.write.double().cpu() @ turn).to(basis.write)
    return Basis.from_decoder(write, basis.offset, least_squares=True)


@checked
def shuffled(basis: Basis, seed: int = 0) -> Basis:
    """A control: each feature's coordinates shuffled on their own, read by their pseudoinverse."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(basis.write.shape, generator=generator).argsort(dim=1)
    write = basis.write.gather(1, order.to(basis.device))
    return Basis.from_decoder(write, basis.offset, least_squares=True)
