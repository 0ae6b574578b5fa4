"""Traces of small random models, with a dictionary of each MLP."""

import torch

from analysis import attribution_graph
from circuits.model.site import Site
from tests.support.small import normal
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_networks import exact_norms, small_model

TEXT = "w10 w20 w5 w31 w7 w10 w12 w30"
ALL = {"n_nodes": 10**6, "n_gates": 10**9, "n_followed": 10**6}


def dictionary(layer: int, dtype=torch.float64, **fields):
    wide = {"encoder": normal(40, 32, seed=layer, dtype=dtype), "k": 4,
            "decoder": 0.1 * normal(40, 32, seed=layer + 7, dtype=dtype),
            "offset": 0.1 * normal(32, seed=layer + 9, dtype=dtype)}  # fmt: skip
    wide["bias"] = normal(40, seed=layer + 11, dtype=dtype)
    return small_dictionary(dtype=dtype, site=Site("mlp_out", layer), **{**wide, **fields})


def parts(kind: str = "llama", n_layer: int = 2, dtype=torch.float64):
    """A model and a dictionary of each MLP."""
    model = exact_norms(small_model(kind, dtype, n_layer=n_layer))
    return model, [dictionary(layer, dtype) for layer in range(n_layer)]


def traced(kind: str = "llama", n_layer: int = 2, dtype=torch.float64, **how):
    return attribution_graph(*parts(kind, n_layer, dtype), TEXT, **how)
