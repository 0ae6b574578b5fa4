"""A transformer of three layers that negates by hand: the first MLP multiplies negator by
adjective, a head of the second layer carries the product to the last token, where two MLPs pass it
on, one to the other, and the last one writes the answer."""

from pathlib import Path

import torch
from torch import Tensor

from circuits.model import Model, Site
from sae import Dictionary
from tests.support.planted_negation import (
    ANSWER,
    FELT,
    MOVED,
    NEGATED,
    OTHER,
    both_layers,
    classes_of,
    dictionary_of,
    input_rows,
    plant,
    planted_network,
    planted_tokenizer,
    unit,
)

AGAIN = 11  # what the second MLP writes


def three_layers() -> Model:
    """The *moved* model of two layers, with one MLP more on the way."""
    from transformers import LlamaConfig, LlamaForCausalLM

    two = planted_network("moved")
    config = two.config.to_dict() | {"num_hidden_layers": 3}
    config.pop("layer_types", None)
    network = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        network.load_state_dict(two.state_dict(), strict=False)
        _, second, third = network.model.layers
        second.mlp.down_proj.weight.zero_()
        plant(second.mlp, 0, MOVED, FELT, unit(AGAIN))
        plant(third.mlp, 0, AGAIN, FELT, unit(ANSWER))
    return Model(network.eval().requires_grad_(False), planted_tokenizer(), Path("three"))


def three_dictionaries(*, overlapping: bool = False) -> dict[Site, Dictionary]:
    """Of all layers. The last MLP's input has features of what it reads, or ``overlapping`` ones:
    one of each class."""
    signed = [[unit(axis, sign) for sign in (1, -1)] for axis in (AGAIN, OTHER, NEGATED, ANSWER)]
    again, other, negated, answer = signed
    read: list[Tensor] = classes_of(AGAIN) if overlapping else [*again, *negated]
    made = {
        "mlp_out@1": dictionary_of([*again, *other], 2, "mlp_out@1"),
        "mlp_in@2": dictionary_of([*input_rows(), *read, *other], 8, "mlp_in@2"),
        "mlp_out@2": dictionary_of(answer, 2, "mlp_out@2"),
    }
    return both_layers("moved") | {Site.parse(site): each for site, each in made.items()}
