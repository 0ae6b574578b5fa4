"""Random dictionaries, and activations for them."""

from dataclasses import replace

import torch
from torch import Tensor

from circuits.model import Site
from sae import Dictionary
from tests.support.small import normal

D_MODEL, N_FEATURE = 16, 48


def small_dictionary(seed: int = 0, *, n_feature: int = N_FEATURE, dtype=torch.float32, **fields):
    parts = {
        "encoder": normal(n_feature, D_MODEL, seed=seed, dtype=dtype),
        "decoder": normal(n_feature, D_MODEL, seed=seed + 1, dtype=dtype),
        "bias": 0.3 * normal(n_feature, seed=seed + 2, dtype=dtype),
        "offset": normal(D_MODEL, seed=seed + 3, dtype=dtype),
        "k": 5,
        "site": Site("mlp_in", 0),
    }
    return Dictionary(**{**parts, **fields})


def threshold_dictionary(seed: int = 0, level: float = 2.0, **fields) -> Dictionary:
    """Of one threshold for each feature, all of them positive."""
    threshold = level + normal(N_FEATURE, seed=seed + 4, dtype=torch.float32).abs()
    return small_dictionary(seed, **{"k": None, "threshold": threshold, **fields})


def some_activations(n_token: int = 200, seed: int = 7, dtype=torch.float32) -> Tensor:
    return 1.5 * normal(n_token, D_MODEL, seed=seed, dtype=dtype)


def small_transcoder(seed: int = 0, *, skip: bool = False, d_target: int = D_MODEL, **fields):
    """One of mlp_in@0 to mlp_out@0, with a skip connection if asked for."""
    parts = {
        "decoder": normal(N_FEATURE, d_target, seed=seed + 1, dtype=torch.float32),
        "offset": normal(d_target, seed=seed + 3, dtype=torch.float32),
        "target": Site("mlp_out", 0),
        "skip": normal(d_target, D_MODEL, seed=seed + 5, dtype=torch.float32) if skip else None,
    }
    return small_dictionary(seed, **{**parts, **fields})


def threshold_transcoder(seed: int = 0, **fields) -> Dictionary:
    threshold = 2 + normal(N_FEATURE, seed=seed + 4, dtype=torch.float32).abs()
    return small_transcoder(seed, **{"k": None, "threshold": threshold, **fields})


def of_features_scaled(dictionary: Dictionary, scale: float) -> Dictionary:
    """The same reconstructions: features write so much more and are so much less active."""
    return replace(
        dictionary,
        encoder=dictionary.encoder / scale,
        bias=dictionary.bias / scale,
        decoder=dictionary.decoder * scale,
    )
