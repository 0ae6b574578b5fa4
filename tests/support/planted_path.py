"""A transformer of three layers in which one path leads to the answer, every weight set by hand.

A head of layer 0 looks two tokens back and moves what ``FACT`` is to a direction of its own. Where
that arrives at ``PLACE``, MLP 1 multiplies both. A head of layer 2 looks at ``PLACE`` and moves the
product to ``ASKED``, with which MLP 2 multiplies it, and that is the logit of ``ANSWER``. All other
heads and products write as much to a direction that nothing on the path reads.
"""

from pathlib import Path

import torch
from torch import Tensor

from circuits.model import Model, Site
from sae import Dictionary
from tests.support.small_models import small_tokenizer

D_MODEL, D_HEAD = 16, 8
CONSTANT, FACT_AXIS, PLACE_AXIS, ASKED_AXIS, MOVED, FOUND, BROUGHT, ANSWERED, UNREAD = range(9)
FACT, PLACE, ASKED, ANSWER = (f"w{n}" for n in range(4, 8))
TEXT = f"w8 {FACT} w9 {PLACE} w10 {ASKED}"  # after the token that begins it
AT_FACT, AT_PLACE, AT_ASKED = 2, 4, 6
SHARP = 10.0  # how much larger than values queries and keys are: scores of hundreds


def planted_path(heads: tuple[int, int] = (0, 1)) -> tuple[Model, list[Dictionary]]:
    """The model, whose path uses these heads of layers 0 and 2, and a dictionary of each MLP."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=D_MODEL, intermediate_size=2, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, head_dim=D_HEAD, hidden_act="linear",
        max_position_embeddings=16, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},  # one pair of axes turns
    )  # fmt: skip
    network = LlamaForCausalLM(config).requires_grad_(False).eval()
    for name, weight in network.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    numbers = tokenizer.get_vocab()
    embedding, last = network.model.embed_tokens.weight, network.lm_head.weight
    embedding[:, CONSTANT] = 1.0
    for word, axis in ((FACT, FACT_AXIS), (PLACE, PLACE_AXIS), (ASKED, ASKED_AXIS)):
        embedding[numbers[word], axis] = 1.0
    last[numbers[ANSWER], ANSWERED] = 1.0
    for layer in range(3):
        for head in range(2):
            _head(network, layer, head, CONSTANT, UNREAD)
        _product(network, layer, 1, (CONSTANT, UNREAD), UNREAD)
    _head(network, 0, heads[0], FACT_AXIS, MOVED)
    _looks_back(network, 0, heads[0], 2)
    _product(network, 1, 0, (MOVED, PLACE_AXIS), FOUND)
    _head(network, 2, heads[1], FOUND, BROUGHT)
    _looks_at(network, 2, heads[1], PLACE_AXIS)
    _product(network, 2, 0, (BROUGHT, ASKED_AXIS), ANSWERED)
    return Model(network, tokenizer, Path("planted")), [known_features(i) for i in range(3)]


def known_features(layer: int) -> Dictionary:
    """What the MLPs write: feature 0 is ``FOUND``, 1 ``ANSWERED``, 2 ``UNREAD``."""
    rows = torch.eye(D_MODEL)[[FOUND, ANSWERED, UNREAD]]
    return Dictionary(
        encoder=rows, decoder=rows, bias=torch.zeros(3), offset=torch.zeros(D_MODEL), k=3,
        site=Site("mlp_out", layer),
    )  # fmt: skip


def _inner(network, layer: int, head: int, part: str) -> Tensor:
    """A head's rows of a projection; of the last one its columns, as rows."""
    weight = getattr(network.model.layers[layer].self_attn, f"{part}_proj").weight
    weight = weight.mT if part == "o" else weight
    return weight[head * D_HEAD : (head + 1) * D_HEAD]


def _head(network, layer: int, head: int, reads: int, writes: int) -> None:
    """A head that moves one direction to another, from wherever it looks."""
    for part, axis in (("v", reads), ("o", writes)):
        weight = _inner(network, layer, head, part)
        weight.zero_()
        weight[0, axis] = 1.0


def _looks_back(network, layer: int, head: int, distance: int) -> None:
    """Scores are the cosine of how much further back than the distance a key is."""
    _inner(network, layer, head, "q")[0, CONSTANT] = SHARP
    key = _inner(network, layer, head, "k")
    angle = torch.tensor(float(distance))
    key[0, CONSTANT], key[D_HEAD // 2, CONSTANT] = SHARP * angle.cos(), SHARP * angle.sin()


def _looks_at(network, layer: int, head: int, axis: int) -> None:
    """Every query looks for one direction, by axes that do not turn."""
    _inner(network, layer, head, "q")[1, CONSTANT] = SHARP
    _inner(network, layer, head, "k")[1, axis] = SHARP


def _product(network, layer: int, hidden: int, reads: tuple[int, int], writes: int) -> None:
    """A hidden unit that multiplies two directions."""
    mlp = network.model.layers[layer].mlp
    mlp.gate_proj.weight[hidden, reads[0]] = 1.0
    mlp.up_proj.weight[hidden, reads[1]] = 1.0
    mlp.down_proj.weight[writes, hidden] = 1.0
