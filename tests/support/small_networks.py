"""Running models with grouped key heads, rotary angles, biases and a tied head."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from circuits.model.model import Model
from tests.support.small_models import small_network, small_tokenizer

KINDS = ("llama", "llama with biases", "mistral", "qwen2")


def small_model(kind: str = "llama", dtype=torch.float64, n_layer: int = 2, **fields) -> Model:
    """8 heads of 4 key heads each two, and a tied head."""
    sizes = {"hidden_size": 32, "num_hidden_layers": n_layer, "num_attention_heads": 8,
             "num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": True}  # fmt: skip
    if kind == "llama with biases":
        sizes |= {"attention_bias": True, "mlp_bias": True}
    network = small_network(kind.split()[0], **{**sizes, **fields})
    for weight in network.parameters():
        weight.requires_grad_(False)
        weight.data = weight.data.to(dtype)
    return Model(network, _tokenizer(), Path("small"))


@cache
def _tokenizer():
    return small_tokenizer()


class ExactNorm(nn.Module):
    """The same norm; transformers' rounds to float32 on the way."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


def exact_norms(model: Model) -> Model:
    """The model, whose norms compute in its own dtype."""
    for block in model.network.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(block, name, ExactNorm(getattr(block, name)))
    return model
