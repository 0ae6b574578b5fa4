"""Each pair of a circuit alone: predicted from weights, measured on the running model.

The prediction removes a term from the MLP's output, the measurement removes features from its
*input*: the two share nothing but the model.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.pair_terms import terms_of
from analysis.validation.harness import Harness
from circuits.graph.circuit import Circuit
from circuits.graph.records import Interaction
from circuits.model.model import Model
from circuits.model.site import mlp_sites
from sae.dictionary import Dictionary

_N_CASES = 64  # that pairs are checked on


def checked_pairs(harness: Harness, circuit: Circuit, out: Dictionary) -> pd.DataFrame:
    """Each pair by a real intervention: a second difference of the MLP in its two inputs, in a copy
    of the model that runs in float64, for differences of nearly equal numbers keep few digits.

    ``off_by`` is relative to the prediction, or to a thousandth of what the pair writes at all
    where an output reads almost nothing of it, or to a millionth of what the MLP writes where its
    features are never active together.
    """
    inside = (harness.cases.affected[harness.cases.label] > 0).nonzero()[:, 0][:_N_CASES]
    model, into = harness.model.in_dtype(torch.float64), harness.into.to(torch.float64)
    cases, site = harness.cases, mlp_sites(harness.layer)[0]
    tokens, position = cases.tokens[inside], cases.position[inside]
    row = torch.arange(len(inside))
    x = model.read(tokens, [site])[site][row, position]
    code = into.encode(x)
    outputs = [output.feature for output in circuit.outputs]
    encoder = out.encoder[outputs].to(x)
    terms = terms_of(model, harness.layer, into, circuit.interactions)
    products = terms.products(x)

    bias = model.layer(harness.layer).down_bias

    def mlp(inputs: Tensor) -> Tensor:
        outputs = _mlp(model, harness.layer, tokens, position, inputs)
        return outputs if bias is None else outputs - bias

    whole = (mlp(x) @ encoder.mT).abs().amax(0)
    rows = []
    for place, pair in enumerate(circuit.interactions):
        measured = _measured(mlp, x, code, into, pair) @ encoder.mT
        predicted = (products[:, place, None] * terms.written[place]) @ encoder.mT
        off = (measured - predicted).abs().max(0).values
        sizes = products[:, place].abs().max() * terms.sizes[place] * encoder.norm(dim=1)
        for n, feature in enumerate(outputs):
            most = int(predicted[:, n].abs().argmax())
            size = max(
                abs(float(predicted[most, n])),
                1e-3 * float(sizes[n]),
                1e-6 * float(whole[n]),
                1e-300,
            )
            rows.append((pair.first, pair.second, feature, float(predicted[most, n]),
                         float(measured[most, n]), float(off[n]) / size))  # fmt: skip
    names = ["first", "second", "output", "predicted", "measured", "off_by"]
    return pd.DataFrame(rows, columns=names)


def _measured(
    mlp: Callable[[Tensor], Tensor],
    x: Float[Tensor, "case model"],
    code: Float[Tensor, "case feature"],
    into: Dictionary,
    pair: Interaction,
) -> Float[Tensor, "case model"]:
    """What a pair writes, from the MLP's outputs for changed inputs alone.

    The constant is the offset with whatever the layer's biases add, which no input is without: its
    pair with a feature is what changes sign with the feature around the offset.
    """
    one, other = (
        code[:, end, None] * into.decoder[end] if end < into.n_feature else None
        for end in (pair.first, pair.second)
    )
    constant = into.offset.expand_as(x)
    if one is None and other is None:
        return mlp(constant)
    if one is None or other is None:
        feature = one if other is None else other
        assert feature is not None  # the constant with itself is above
        return (mlp(constant + feature) - mlp(constant - feature)) / 2
    difference = mlp(x) - mlp(x - one) - mlp(x - other) + mlp(x - one - other)
    # a feature's pair with itself is half of its second difference
    return difference / (2 if pair.first == pair.second else 1)


def _mlp(
    model: Model,
    layer: int,
    tokens: Int64[Tensor, "case pos"],
    position: Int64[Tensor, " case"],
    x: Float[Tensor, "case model"],
) -> Float[Tensor, "case model"]:
    """The MLP's output in the running model, its input at each position replaced."""
    (into, out), row = mlp_sites(layer), torch.arange(len(tokens))

    def function(inputs: Tensor) -> Tensor:
        new = inputs.clone()
        new[row, position] = x.to(new)
        return new

    with model.replaced({into: function}):
        return model.read(tokens, [out])[out][row, position]
