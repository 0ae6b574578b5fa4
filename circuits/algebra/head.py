"""An attention head in feature bases: which features it looks from and at, and what it then moves.

A head reads the residual stream *divided by its scale*, with the norm's weight folded into its
factors, as ``model.layer(i, fold_norm=True)`` does. A feature of the stream therefore comes with
the factor ``1/scale`` of its token, which is data; a bias does not. The softmax over scores is data
too: everything before and after it is linear in each of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import computing_dtype
from circuits.algebra.cross import CrossInteractions
from circuits.arguments import checked
from circuits.errors import (
    FeatureRangeError,
    TensorError,
    check_devices,
    check_index,
    check_range,
    check_tensors,
    check_width,
    largest,
    moved,
)

_AXES = {
    "query": "inner model",
    "key": "inner model",
    "value": "inner model",
    "output": "model inner",
    "cosine": "position inner",
    "sine": "position inner",
    "query_bias": "inner",
    "key_bias": "inner",
    "value_bias": "inner",
    "second_query": "inner model",
    "second_key": "inner model",
}


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """``score[t, u] = scaling · (R_t (query x_t + query_bias)) · (R_u (key x_u + key_bias))`` and,
    with ``pattern = softmax(score)``, ``out[t] = Σ_u pattern[t, u] · output (value x_u +
    value_bias)``, where ``x`` is the stream divided by its scale and ``R_t`` rotates to position t.

    A head of a polynomial transformer has a second query and key, and its pattern is the product of
    both scores, without a softmax.
    """

    query: Float[Tensor, "inner model"]
    key: Float[Tensor, "inner model"]
    value: Float[Tensor, "inner model"]
    output: Float[Tensor, "model inner"]
    cosine: Float[Tensor, "position inner"]  # of the rotary angles, as the model computes them
    sine: Float[Tensor, "position inner"]
    scaling: float  # of scores
    query_bias: Float[Tensor, " inner"] | None = None
    key_bias: Float[Tensor, " inner"] | None = None
    value_bias: Float[Tensor, " inner"] | None = None
    second_query: Float[Tensor, "inner model"] | None = None
    second_key: Float[Tensor, "inner model"] | None = None
    name: str = "head"

    def __post_init__(self) -> None:
        if (self.second_query is None) != (self.second_key is None):
            raise TensorError("Head: one of second_query and second_key alone. Pass both, or none.")
        given = self._tensors()
        check_tensors("Head", given, _AXES)
        dtype = computing_dtype(*given.values())
        for name, tensor in given.items():
            object.__setattr__(self, name, tensor.detach().to(dtype))

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: t for n, t in named.items() if n in _AXES and (t is not None or "_" not in n)}

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.query.shape[1]

    @property
    def d_head(self) -> int:
        """Width of queries, keys and values."""
        return self.query.shape[0]

    @property
    def n_form(self) -> int:
        """Of how many scores the pattern is made: of one, by a softmax, or of two, multiplied."""
        return 1 if self.second_query is None else 2

    @property
    def n_position(self) -> int:
        """How many positions the rotary angles are known for: the model's context."""
        return len(self.cosine)

    def to(self, *args: Any, **kwargs: Any) -> Head:
        """The same head on another device or in another dtype, as ``Tensor.to`` does it."""
        parts = moved("Head.to", self._tensors(), *args, **kwargs)
        return Head(**parts, scaling=self.scaling, name=self.name)

    def looks(
        self, inputs_query: Basis, inputs_key: Basis, distance: int, *, at: int = 0, form: int = 0
    ) -> CrossInteractions:
        """What each pair of a query feature and a key feature ``distance`` positions before it adds
        to the score, for features of ``resid_pre`` divided by their tokens' scales; of the second
        score, where there are two, with ``form=1``.

        The key is at position ``at``. A distance's matrix is the same at every ``at``, except that
        the model rounds its rotary angles to float32.
        """
        factors = self._forms[check_index("Head.looks", form, self.n_form, "form")]
        (own_query, query_bias), (own_key, key_bias) = factors
        query = self._read("looks", inputs_query, own_query, query_bias)
        key = self._read("looks", inputs_key, own_key, key_bias)
        left, right = self._apart("looks", query[0], key[0], distance, at)
        return CrossInteractions(left, right, query[1], key[1], ("query", "key"))

    def terms(
        self,
        query_parts: Float[Tensor, "query_part model"],
        key_parts: Float[Tensor, "key_part model"],
        distance: int,
        *,
        at: int = 0,
        form: int = 0,
    ) -> Float[Tensor, "query_term key_term"]:
        """What each pair of parts of two tokens' streams (over their scales) adds to a score, of
        two the one of this ``form``; the head's biases, where it has them, are the last row and
        column."""
        factors = self._forms[check_index("Head.terms", form, self.n_form, "form")]
        sides = []
        for parts, (factor, bias) in zip((query_parts, key_parts), factors, strict=True):
            check_width("Head.terms", parts, self.d_model, "parts")
            read = parts.to(factor) @ factor.mT
            sides.append(read if bias is None else torch.cat([read, bias[None]]))
        left, right = self._apart("terms", sides[0], sides[1], distance, at)
        return left @ right.mT

    @property
    def _forms(self) -> list[tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]]:
        """Of each score, the factor and the bias of its query and of its key."""
        forms = [((self.query, self.query_bias), (self.key, self.key_bias))]
        if self.second_query is None or self.second_key is None:
            return forms
        return [*forms, ((self.second_query, None), (self.second_key, None))]

    def _apart(
        self, method: str, query: Tensor, key: Tensor, distance: int, at: int
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys turned to their positions, whose products are scores."""
        at = check_index(f"Head.{method}", at, self.n_position, "position")
        if isinstance(distance, bool) or not 0 <= distance < self.n_position - at:
            raise FeatureRangeError(
                f"Head.{method}: distance = {distance!r:.40} from a key at position {at}. Ask for "
                f"0 to {self.n_position - 1 - at}: a head looks back, within the model's context."
            )
        query = self.scaling * self._rotated(query, torch.tensor([at + distance]))
        return query, self._rotated(key, torch.tensor([at]))

    def carries(self, inputs: Basis, outputs: Basis) -> CrossInteractions:
        """What the head moves: how much of each output feature is read where it writes, for one of
        each input feature where it looks (divided by that token's scale)."""
        left, labels = self._read("carries", inputs, self.value, self.value_bias)
        self._check_basis("carries", outputs)
        right = outputs.read.to(self.output) @ self.output
        named = outputs.labels or tuple(f"feature {i}" for i in range(outputs.n_feature))
        return CrossInteractions(left, right, labels, named, ("input", "output"))

    def scores(
        self, x: Float[Tensor, "*batch pos model"]
    ) -> Float[Tensor, "*batch query_pos key_pos"]:
        """The score of every pair of positions, before the causal mask and the softmax, for rows of
        the stream divided by its scale, from position 0; of two, their product."""
        self._check_stream("scores", x)
        x, positions, found = x.to(self.query), torch.arange(x.shape[-2]), list[Tensor]()
        for form in self._forms:
            sides = (
                x @ factor.mT if bias is None else x @ factor.mT + bias for factor, bias in form
            )
            query, key = (self._rotated(side, positions) for side in sides)
            found.append(self.scaling * query @ key.mT)
        return found[0] if self.n_form == 1 else found[0] * found[1]

    def moved(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """What the head adds where it looks, with pattern 1, at stream over scale ``x``."""
        check_width("Head.moved", x, self.d_model, "activations")
        value = x.to(self.value) @ self.value.mT
        value = value if self.value_bias is None else value + self.value_bias
        return value @ self.output.mT

    def _rotated(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Each row turned to its position, in the convention of two halves."""
        cosine, sine = (table[positions.to(table.device)] for table in (self.cosine, self.sine))
        first, second = rows.chunk(2, dim=-1)
        return rows * cosine + torch.cat([-second, first], dim=-1) * sine

    def _read(
        self, method: str, basis: Basis, factor: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """The features, the offset and the bias in the head's space, and their labels."""
        self._check_basis(method, basis)
        sizes = {"features": largest(basis.write), "head": largest(factor)}
        check_range(f"Head.{method}", factor.dtype, sizes, self.d_model)
        rows = [basis.write.to(factor) @ factor.mT]
        labels = basis.labels or tuple(f"feature {i}" for i in range(basis.n_feature))
        if basis.offset is not None:
            rows.append(basis.offset.to(factor)[None] @ factor.mT)
            labels = (*labels, "offset")
        if bias is not None:
            rows.append(bias[None])
            labels = (*labels, "bias")
        return torch.cat(rows), labels

    def _check_basis(self, method: str, basis: Basis) -> None:
        check_width(f"Head.{method}", basis.write, self.d_model, "the features")
        check_devices(f"Head.{method}", {"head": self.query, "features": basis.write})

    def _check_stream(self, method: str, x: Tensor) -> None:
        check_width(f"Head.{method}", x, self.d_model, "activations")
        if x.ndim < 2 or x.shape[-2] > self.n_position:
            raise FeatureRangeError(
                f"Head.{method}: activations of shape {tuple(x.shape)}, but rows of at most "
                f"{self.n_position} positions are expected. Pass one text's stream, pos x model."
            )

    def __repr__(self) -> str:
        return f"Head({self.name}: {self.d_head} of {self.d_model}, {self.query.dtype})"
