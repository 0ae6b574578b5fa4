"""A model of the same shape that has learnt nothing: the control of claims about weights.

What a reader would get wrong: it is a fresh start by the family's own rule, not the trained
weights in another order, so its norms and biases are those of a start too.
"""

from __future__ import annotations

import torch

from circuits.model.model import Model


def untrained(model: Model, seed: int = 0) -> Model:
    """The same shape, tokenizer, dtype and device; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(model.network)(model.network.config)
    network = network.to(model.device).eval().requires_grad_(False)
    for weight in network.parameters():  # weights alone: rotary angles stay in float32
        weight.data = weight.data.to(model.dtype)
    return Model(network, model.tokenizer, model.path)
