"""Toy gates: one bilinear layer learns Boolean functions, and its weights *are* their truth tables.

On bits ``x² = x``, so a quadratic form is a unique polynomial ``constant + Σ linear_i x_i + Σ
pair_ij x_i x_j``, read from the interaction matrix and compared with that of the truth table. It
cannot represent a product of three bits, and then the least possible error is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.spectrum import Spectrum
from circuits.arguments import checked
from circuits.errors import TensorError, check_count

Gate = Callable[..., bool]
_MOST_HIDDEN = 2**20  # hidden units of a toy
_LETTERS = "abcdefghijkl"  # of bits

GATES: Mapping[str, Gate] = {
    "a and b": lambda a, b, c: a and b,
    "a or b": lambda a, b, c: a or b,
    "a xor b": lambda a, b, c: a != b,
    "not (b and c)": lambda a, b, c: not (b and c),
    "b and not c": lambda a, b, c: b and not c,
    "a equals c": lambda a, b, c: a == c,
    "a and b and c": lambda a, b, c: a and b and c,
    "most of a, b, c": lambda a, b, c: a + b + c >= 2,
}


@checked
@dataclass(frozen=True, eq=False)
class TruthTable:
    """Every input of ``n`` bits, and the answer of each gate."""

    names: tuple[str, ...]
    bits: Float64[Tensor, "row bit"]  # 0 or 1
    answers: Float64[Tensor, "row gate"]

    def __post_init__(self) -> None:
        if not self.names or self.bits.numel() == 0 or self.answers.shape[1] != len(self.names):
            raise TensorError(
                f"TruthTable: {len(self.names)} names, bits of shape {tuple(self.bits.shape)} and "
                f"answers of shape {tuple(self.answers.shape)}. Pass at least one bit, and a "
                f"column of answers for each name."
            )
        _check_terms("TruthTable", self.names, self.bits.shape[1])
        if not bool(((self.bits == 0) | (self.bits == 1)).all()):
            raise TensorError(
                "TruthTable: bits other than 0 and 1, for which no polynomial is the only one. "
                "Pass zeros and ones."
            )

    @classmethod
    def of(cls, gates: Mapping[str, Gate], n_bit: int) -> TruthTable:
        """The table of these functions of ``n_bit`` bits."""
        if not gates or not 1 <= n_bit <= len(_LETTERS):
            raise TensorError(
                f"TruthTable: {len(gates)} gates of {n_bit} bits. Pass at least one gate, of 1 to "
                f"{len(_LETTERS)} bits."
            )
        rows = list(product([False, True], repeat=n_bit))
        try:
            answers = [[float(bool(gate(*row))) for gate in gates.values()] for row in rows]
        except TypeError as error:
            raise TensorError(
                f"TruthTable: every gate must take {n_bit} bits, but: {error}. Change n_bit or the "
                f"gate."
            ) from error
        bits = torch.tensor(rows, dtype=torch.float64)
        return cls(tuple(gates), bits, torch.tensor(answers, dtype=torch.float64))

    def polynomials(self) -> tuple[pd.DataFrame, Float[Tensor, " gate"]]:
        """The quadratic polynomial closest to each gate, and its mean squared error: zero exactly
        where the gate needs no product of three bits."""
        n_bit = self.bits.shape[1]
        pairs = list(combinations(range(n_bit), 2))
        products = [self.bits[:, i] * self.bits[:, j] for i, j in pairs]
        terms = torch.stack([torch.ones(len(self.bits)).double(), *self.bits.mT, *products], dim=1)
        coefficients = torch.linalg.lstsq(terms, self.answers).solution
        error = (terms @ coefficients - self.answers).square().mean(0)
        return pd.DataFrame(coefficients.numpy(), index=_terms(n_bit), columns=self.names), error


@checked
def train_gates(table: TruthTable, d_hidden: int = 16, seed: int = 0) -> BilinearLayer:
    """One bilinear layer with biases, trained on every gate of the table: all rows at once, in
    float64, by L-BFGS, to about 1e-6."""
    layer = random_layer(table, d_hidden, seed)
    weights = {
        name: getattr(layer, name).clone().requires_grad_()
        for name in ("left", "right", "down", "left_bias", "right_bias", "down_bias")
    }
    optimiser = torch.optim.LBFGS(
        weights.values(), max_iter=500, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=1e-16,
    )  # fmt: skip

    def loss() -> Tensor:
        optimiser.zero_grad()
        left = table.bits @ weights["left"].mT + weights["left_bias"]
        right = table.bits @ weights["right"].mT + weights["right_bias"]
        answers = (left * right) @ weights["down"].mT + weights["down_bias"]
        error = (answers - table.answers).square().mean()
        error.backward()
        return error

    optimiser.step(loss)
    return BilinearLayer(**weights)


@checked
def random_layer(table: TruthTable, d_hidden: int = 16, seed: int = 0) -> BilinearLayer:
    """The layer before training: the control."""
    generator = torch.Generator().manual_seed(seed)
    n_bit, n_gate = table.bits.shape[1], table.answers.shape[1]
    check_count("random_layer", d_hidden, _MOST_HIDDEN, "d_hidden")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator) / shape[-1] ** 0.5

    return BilinearLayer(
        left=normal(d_hidden, n_bit),
        right=normal(d_hidden, n_bit),
        down=normal(n_gate, d_hidden),
        left_bias=normal(d_hidden),
        right_bias=normal(d_hidden),
        down_bias=torch.zeros(n_gate, dtype=torch.float64),
    )


@checked
def read_polynomials(layer: BilinearLayer, names: tuple[str, ...]) -> pd.DataFrame:
    """Each gate's polynomial, read from the layer's interaction matrices alone."""
    if len(names) != layer.d_out:
        raise TensorError(
            f"read_polynomials: {len(names)} names for a layer of {layer.d_out} outputs. Pass one "
            f"name for each."
        )
    n_bit = layer.d_model
    _check_terms("read_polynomials", names, n_bit)
    columns = {}
    forms = layer.interaction(torch.eye(layer.d_out, dtype=layer.dtype))
    biases = [0.0] * layer.d_out if layer.down_bias is None else layer.down_bias.tolist()
    for name, form, bias in zip(names, forms, biases, strict=True):
        constant = float(form[-1, -1]) + bias
        linear = form.diagonal()[:-1] + 2 * form[:-1, -1]  # x² = x on bits
        pairs = [2 * float(form[i, j]) for i, j in combinations(range(n_bit), 2)]
        columns[name] = [constant, *linear.tolist(), *pairs]
    return pd.DataFrame(columns, index=_terms(n_bit))


@checked
def gate_report(
    gates: Mapping[str, Gate] = GATES, n_bit: int = 3, seed: int = 0
) -> tuple[BilinearLayer, pd.DataFrame]:
    """Train, read the gates back from the weights, and measure how far off each is, and
    (``control``) how far the layer was before training."""
    table = TruthTable.of(gates, n_bit)
    layer = train_gates(table, seed=seed)
    exact, floor = table.polynomials()
    learned = read_polynomials(layer, table.names)
    control = read_polynomials(random_layer(table, seed=seed), table.names)
    rows = []
    for gate, name in enumerate(table.names):
        direction = torch.eye(layer.d_out, dtype=layer.dtype)[gate]
        spectrum = Spectrum.of(layer.interaction(direction), has_constant=True)
        answers = spectrum.activation(table.bits).sum(-1) + layer.down_bias[gate]  # type: ignore[index]
        rows.append(
            {
                "gate": name,
                "rows_right": int(((answers > 0.5) == (table.answers[:, gate] > 0.5)).sum()),
                "rows": len(table.bits),
                "polynomial": _spell(learned[name]),
                "off_by": float((learned[name] - exact[name]).abs().max()),
                "control": float((control[name] - exact[name]).abs().max()),
                "error": float((answers - table.answers[:, gate]).square().mean()),
                "error_floor": float(floor[gate]),
            }
        )
    return layer, pd.DataFrame(rows)


def _check_terms(owner: str, names: tuple[str, ...], n_bit: int) -> None:
    """Refuse what no table of polynomials could show: a letter for each bit, a column for each
    name."""
    if n_bit > len(_LETTERS) or len({*names}) < len(names):
        raise TensorError(
            f"{owner}: {n_bit} bits and {len({*names})} different names of {len(names)}. Pass at "
            f"most {len(_LETTERS)} bits, and a name of its own for each gate."
        )


def _terms(n_bit: int) -> list[str]:
    letters = _LETTERS[:n_bit]
    return ["1", *letters, *(one + two for one, two in combinations(letters, 2))]


def _spell(coefficients: pd.Series[float]) -> str:
    """A polynomial as people write it: `a + b − 2ab`."""
    spelt = ""
    for term, value in zip(map(str, coefficients.index), coefficients.tolist(), strict=True):
        if abs(value) < 5e-4:
            continue
        sign = ("− " if value < 0 else "") if not spelt else (" − " if value < 0 else " + ")
        size = f"{abs(value):.3g}"
        spelt += sign + (size if term == "1" else term if size == "1" else f"{size}{term}")
    return spelt or "0"
