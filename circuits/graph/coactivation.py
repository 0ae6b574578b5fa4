"""Which pairs of features are active together, counted in one pass over sparse activations.

On average a pair adds its weight times the mean of ``fᵢ fⱼ``, the *coactivation*. Only the listed
pairs are counted. Activations come as batches of ``(indices, values)``, each token's active
features in any order; a value of zero (padding) is not active.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuits.arguments import checked
from circuits.errors import FeatureRangeError, TensorError, check_count, check_memory

LOOKUPS = 2**21
"""Pairs of active features looked up at a time: this bounds the memory."""

Batch = tuple[Int[Tensor, "token active"], Float[Tensor, "token active"]]


@checked
@dataclass(frozen=True, eq=False)
class Coactivation:
    """How often features and pairs are active, and the mean product of each pair."""

    n_tokens: int
    frequency: Float[np.ndarray, " feature"]  # share of tokens that each feature is active on
    pairs: pd.DataFrame  # first, second, coactivation, together

    def of(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """The same pairs (first, second, weight, …) with coactivation, together, data_weight."""
        new = ["coactivation", "together", "data_weight"]
        if missing := {"first", "second", "weight"} - {*pairs.columns}:
            raise FeatureRangeError(
                f"Coactivation: pairs have no column {' or '.join(sorted(missing))}. Pass a table "
                f"of Interactions.strongest(n)."
            )
        plain = pairs.drop(columns=new, errors="ignore")
        known = plain.merge(self.pairs, on=["first", "second"], how="left", validate="many_to_one")
        if known["coactivation"].isna().any():
            raise FeatureRangeError(
                f"Coactivation: {int(known['coactivation'].isna().sum())} of {len(pairs)} pairs "
                f"were not counted. Count them: count_coactivation(activations, pairs, n_feature)."
            )
        return known.assign(data_weight=known["weight"] * known["coactivation"])


@checked
def count_coactivation(
    activations: Iterable[Batch], pairs: pd.DataFrame, n_feature: int, constant: bool = False
) -> Coactivation:
    """Count ``pairs`` (columns first, second) over all batches.

    With ``constant``, feature ``n_feature`` is the constant, which is 1 on every token.
    ``together`` is the share of tokens that both are active on: compare the product of their
    frequencies.
    """
    n_feature = check_count("count_coactivation", n_feature, None, "n_feature")
    size = n_feature + constant
    check_memory("count_coactivation", 8 * size, "Pass the dictionary's number of features.")
    if missing := {"first", "second"} - {*pairs.columns}:
        raise FeatureRangeError(
            f"count_coactivation: pairs have no column {' or '.join(sorted(missing))}. Pass a "
            f"table of Interactions.strongest(n)."
        )
    ends = np.sort(pairs[["first", "second"]].to_numpy(dtype=np.int64).reshape(-1, 2), axis=1)
    if len(ends) and not 0 <= ends.min() <= ends.max() < size:
        raise FeatureRangeError(
            f"count_coactivation: pairs name features {ends.min()} to {ends.max()}, the dictionary "
            f"has 0 to {size - 1}. Pass the n_feature that the pairs were made with."
        )
    wanted = np.unique(ends[:, 0] * size + ends[:, 1])
    keys = torch.from_numpy(wanted)
    active = torch.zeros(size, dtype=torch.int64)
    together = torch.zeros(len(keys), dtype=torch.int64)
    products = torch.zeros(len(keys), dtype=torch.float64)
    n_tokens = 0
    for indices, values in activations:
        indices, values = _checked(indices, values, n_feature)
        if constant:
            indices = functional.pad(indices, (0, 1), value=n_feature)
            values = functional.pad(values, (0, 1), value=1.0)
        n_tokens += len(indices)
        active += torch.bincount(indices[values != 0], minlength=size)
        n = max(LOOKUPS // max(indices.shape[1] ** 2, 1), 1)
        for some, strengths in zip(indices.split(n), values.split(n), strict=True):
            _count(some, strengths, size, keys, together, products)
    if n_tokens == 0:
        raise TensorError("count_coactivation: there was no token to count. Pass some batches.")
    n = n_tokens
    counted = pd.DataFrame(
        {
            "first": wanted // size,
            "second": wanted % size,
            "coactivation": products.numpy() / n,
            "together": together.numpy() / n,
        }
    )
    return Coactivation(n_tokens, active.numpy() / n, counted)


def _checked(indices: Tensor, values: Tensor, n_feature: int) -> Batch:
    if indices.ndim != 2 or indices.shape != values.shape:
        raise TensorError(
            f"count_coactivation: indices of shape {tuple(indices.shape)} and values of shape "
            f"{tuple(values.shape)}; both must be (token, active)."
        )
    indices, values = indices.cpu().long(), values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise TensorError(
            f"count_coactivation: {int((~torch.isfinite(values)).sum())} activations are NaN or "
            f"infinite, and so would be every mean. Look at the activations."
        )
    outside = (indices < 0) | (indices >= n_feature)
    if bool((outside & (values != 0)).any()):
        raise FeatureRangeError(
            f"count_coactivation: active feature {int(indices[outside & (values != 0)][0])} of a "
            f"dictionary of {n_feature}. Pass the n_feature of the dictionary that made them."
        )
    return indices.masked_fill(outside, 0), values


def _count(
    indices: Tensor, values: Tensor, size: int, keys: Tensor, together: Tensor, products: Tensor
) -> None:
    """Add every pair of active features of these tokens, a feature with itself once."""
    if not len(keys) or not indices.numel():
        return
    one, two = torch.triu_indices(indices.shape[1], indices.shape[1])
    first, second = indices[:, one], indices[:, two]
    key = torch.minimum(first, second) * size + torch.maximum(first, second)
    place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
    product = values[:, one] * values[:, two]
    met = (keys[place] == key) & (product != 0)
    together += torch.bincount(place[met], minlength=len(keys))
    products += torch.bincount(place[met], weights=product[met], minlength=len(keys))
