"""A transformer whose answers differ only because one head looks at another word.

Every text names a good thing and a bad one, and ends with a child. The first MLP multiplies which
child it is by `NAMED`; head 1.1 looks from that at the good word for tom, at the bad one for mia,
and moves what it finds to the answers, and to where the second MLP multiplies it by `NAMED` for
them. All other heads look at all tokens alike and move nothing.
"""

from itertools import product
from pathlib import Path

import torch

from analysis.behaviour.cases import Behaviour, Case
from circuits.model import Model, Site
from sae import Dictionary
from tests.support.planted_negation import (
    ANSWER,
    D_MODEL,
    GLAD,
    KINDS,
    MOVED,
    OTHER,
    PLAIN,
    SAD,
    WORDS,
    XOR,
    dictionary_of,
    plant,
    planted_tokenizer,
    unit,
)

NAMED, D_HEAD = 11, 4
SENTIMENT, CHILD = 1, 3
TOM_WROTE, MIA_WROTE = 0, 1
"""The features of the first MLP's output."""


def planted_network(sharp: float):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=D_MODEL, intermediate_size=1, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=D_HEAD, hidden_act="linear",
        max_position_embeddings=32, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},  # one pair of axes turns
    )  # fmt: skip
    network = LlamaForCausalLM(config).requires_grad_(False).eval()
    for name, weight in network.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    for token, word in enumerate(WORDS):
        axis, sign = KINDS.get(word, (PLAIN, 1))
        network.model.embed_tokens.weight[token] = unit(axis, sign)
        if axis == CHILD:
            network.model.embed_tokens.weight[token] += unit(NAMED)
    first, last = network.model.layers
    plant(first.mlp, 0, CHILD, NAMED, unit(XOR))
    inner = D_HEAD + 1  # of head 1, on an axis that does not turn
    last.self_attn.q_proj.weight[inner, XOR] = sharp
    last.self_attn.k_proj.weight[inner, SENTIMENT] = 1
    last.self_attn.v_proj.weight[inner, SENTIMENT] = 1
    last.self_attn.o_proj.weight[MOVED, inner] = 1
    last.self_attn.o_proj.weight[ANSWER, inner] = 1
    plant(last.mlp, 0, MOVED, NAMED, unit(ANSWER))
    for sign, words in ((1, GLAD), (-1, SAD)):
        for word in words:
            network.lm_head.weight[WORDS.index(word)] = unit(ANSWER, sign)
    return network


def planted_model(sharp: float = 4.0) -> Model:
    return Model(planted_network(sharp), planted_tokenizer(), Path("looks"))


def planted_dictionaries() -> dict[Site, Dictionary]:
    axes = (*range(4), XOR, MOVED)
    rows = [*(unit(axis, sign) for axis in axes for sign in (1, -1)), unit(NAMED), unit(PLAIN)]
    wrote = {0: XOR, 1: ANSWER}
    found = [dictionary_of(rows, 6, f"mlp_in@{layer}") for layer in wrote]
    found += [
        dictionary_of([unit(axis), unit(axis, -1), unit(OTHER)], 2, f"mlp_out@{layer}")
        for layer, axis in wrote.items()
    ]
    return {d.known_site("planted"): d for d in found}


def planted_behaviour() -> Behaviour:
    """Pairs that differ in the child alone."""
    cases = []
    words = product(("cake", "film"), ("not", "very"), ("said", "was"), ("never", "really"))
    for number, some in enumerate(words):
        for child, right in (("tom", GLAD), ("mia", SAD)):
            wrong = SAD if right == GLAD else GLAD
            text = f"{' '.join(some[:2])} good bad {' '.join(some[2:])} {child}"
            cases.append(Case(text, child, right, wrong, {"mia": child == "mia"}, number))
    return Behaviour("whose", tuple(cases))


def stirred(model: Model, size: float = 0.05) -> Model:
    """The model with every weight moved a little, so that nothing in it is zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.network.parameters():
        weight += size * torch.randn(weight.shape, generator=generator)
    return model
