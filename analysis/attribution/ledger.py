"""One number that a model computed, as a sum: pairs of features, squares, constants, error, direct.

What a reader reads of an MLP's output (an output feature's activation before any selection, or a
direction of any kind) is a quadratic form of the MLP's input. With that input written in features,
``x = Σ zᵢ dᵢ + offset + error``, the form falls into terms, and their sum is the model's own number
except for rounding. The terms with the dictionary's *error* are rows like any other: without them
the account would not add up.

A dictionary of ``resid_mid`` stands before the norm, which divides a token by its scale ``s``:
its pairs come with the common factor ``1/s²``, which is data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.algebra.bilinear import BilinearLayer
from circuits.arguments import checked
from circuits.errors import ModelError, check_index, check_tensors, check_width
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.plotting.display import html_of
from sae.dictionary import Dictionary

_INPUTS = ("mlp_in", "resid_mid")
_OUTPUTS = ("mlp_out", "resid_post")


@checked
@dataclass(frozen=True, eq=False)
class Reader:
    """What is read of an MLP's output, or of the stream after it: ``direction · y + bias``."""

    direction: Float[Tensor, " model"]
    bias: float = 0.0
    point: str = "mlp_out"
    name: str = "direction"
    dictionary: Dictionary | None = None  # whose feature it is

    def __post_init__(self) -> None:
        check_tensors("Reader", {"direction": self.direction}, {"direction": "model"})
        if self.point not in _OUTPUTS:
            raise ModelError(
                f"ledger: {self.name} reads {self.point}, which no MLP writes to. Read "
                f"{' or '.join(_OUTPUTS)}."
            )

    @classmethod
    def of(cls, dictionary: Dictionary, feature: int) -> Reader:
        """A feature's activation before any selection: the encoder's row."""
        site = dictionary.known_site("ledger")
        feature = check_index("Reader.of", feature, dictionary.n_feature, "feature")
        row = dictionary.encoder[feature]
        bias = float(dictionary.bias[feature] - row @ dictionary.offset)
        return cls(row, bias, site.point, f"feature {feature} of {site}", dictionary)


@dataclass(frozen=True, eq=False)
class Ledger:
    """The rows, the model's own number, and how far apart they are."""

    rows: pd.DataFrame  # kind, first, second, value; strongest first
    computed: float  # by the model
    reader: str
    where: str

    @property
    def total(self) -> float:
        """What the rows add up to."""
        return float(self.rows["value"].sum())

    @property
    def off_by(self) -> float:
        """The difference to the model's number, relative to it."""
        return abs(self.total - self.computed) / max(abs(self.computed), 1e-300)

    @property
    def kinds(self) -> pd.Series:
        """The sum of each kind of row."""
        return self.rows.groupby("kind")["value"].sum()

    def _repr_html_(self) -> str:
        sums = self.kinds.rename("sum").reset_index()
        said = f"{self!r} Rows add up to {self.total:.6g}: off by {self.off_by:.1e} of the number."
        return html_of(said, sums=sums, strongest_rows=self.rows.head(12))

    def __repr__(self) -> str:
        sums = ", ".join(f"{kind} {value:+.3g}" for kind, value in self.kinds.items())
        return f"Ledger({self.reader} {self.where}: {self.computed:.6g} = {sums})"


@checked
def ledger(
    model: Model,
    layer: int,
    inputs: Dictionary,
    reader: Reader,
    tokens: Int64[Tensor, " pos"],
    position: int,
) -> Ledger:
    """The account of what ``reader`` reads at one token of one row of tokens.

    ``inputs`` are features of ``mlp_in`` or ``resid_mid`` of the layer. Kinds of rows: ``pair`` and
    ``square`` of features; ``linear``, a feature with the constant; ``constant``; ``error``, all
    terms with what the dictionary misses, alone or with a feature; ``direct``, what the stream
    before the MLP adds where the stream after it is read.
    """
    inputs.known_site("ledger")
    site = inputs.site_in(model, "ledger")
    if site.point not in _INPUTS or site.layer != layer:
        raise ModelError(
            f"ledger: the input features are of {site}, and the MLP of layer {layer} reads "
            f"mlp_in@{layer}, or resid_mid@{layer} through its norm. Take a dictionary of those."
        )
    check_width("ledger", reader.direction, model.d_model, "the reader")
    written = Site(reader.point, layer)
    if reader.dictionary is not None and reader.dictionary.site_in(model, "ledger") != written:
        raise ModelError(
            f"ledger: the reader is {reader.name}, and the MLP of layer {layer} writes {written}. "
            f"Take a feature of that."
        )
    if tokens.ndim != 1 or not 0 < position < len(tokens):
        raise ModelError(
            f"ledger: position {position} of tokens of shape {tuple(tokens.shape)}. Give one row "
            f"of tokens, and a position from 1 (0 begins the text) to its last."
        )
    at = [site, Site("resid_mid", layer), written]
    with torch.no_grad():
        found = {s: x[0, position].double() for s, x in model.read(tokens[None], at).items()}
    weights = model.layer(layer, fold_norm=site.point == "resid_mid").to(torch.float64)
    parts, names = _parts(model, weights, inputs, found[site])
    direction = reader.direction.double().to(parts)
    form = parts @ weights.interaction(direction) @ parts.mT
    level = reader.bias
    if weights.down_bias is not None:
        level += float(weights.down_bias @ direction)
    rows = list(_terms(form, names))
    rows.append(("constant", -1, -1, level))
    if reader.point == "resid_post":
        rows.append(("direct", -1, -1, float(found[at[1]] @ direction)))
    table = pd.DataFrame(rows, columns=["kind", "first", "second", "value"])
    table = table.sort_values("value", key=abs, ascending=False, kind="stable", ignore_index=True)
    computed = float(found[at[2]] @ direction) + reader.bias
    return Ledger(table, computed, reader.name, f"at token {position}")


def _parts(
    model: Model, layer: BilinearLayer, inputs: Dictionary, x: Float[Tensor, " model"]
) -> tuple[Float[Tensor, "part input"], list[int]]:
    """The MLP's input as a sum: active features, constant, error; and the features' numbers."""
    code = inputs.active(x[None].to(inputs.dtype))
    chosen = code.features[code.active].long()
    written = code.values[code.active].double()[:, None] * inputs.decoder[chosen].double()
    offset = inputs.offset.double()
    error = x - written.sum(0) - offset
    assert inputs.site is not None  # the caller asked for it
    scale = model.scale(x) if inputs.site.point == "resid_mid" else 1.0
    features, constant, missed = (part / scale for part in (written, offset[None], error[None]))
    parts = [layer.lift(features, 0.0), layer.lift(constant), layer.lift(missed, 0.0)]
    return torch.cat(parts), chosen.tolist()


def _terms(form: Float[Tensor, "part part"], names: list[int]) -> Any:
    """Each pair of parts once: kind, the features' numbers (−1: none), value."""
    n, constant, error = len(names), len(names), len(names) + 1
    values = (form + form.mT).tolist()
    for i in range(n):
        yield "square", names[i], names[i], values[i][i] / 2
        for j in range(i + 1, n):
            first, second = sorted((names[i], names[j]))
            yield "pair", first, second, values[i][j]
        yield "linear", names[i], -1, values[i][constant]
        yield "error", names[i], -1, values[i][error]
    yield "constant", -1, -1, values[constant][constant] / 2
    yield "error", -1, -1, values[constant][error] + values[error][error] / 2
