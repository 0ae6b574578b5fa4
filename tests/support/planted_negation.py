"""Transformers that negate by hand: every weight is known, so every share and edit is.

One head attends to all tokens alike and carries what a word is (negator or intensifier, good or
bad, which thing, which child) to directions of their own. In the *computed* model the MLP
multiplies negator by adjective and writes the answer. In the *inherited* one its first MLP writes
that product to a direction that no answer reads, and the second only multiplies it with a constant;
the *moved* one does the same, but a head of the second layer has to carry the product to where it
is multiplied. In the *read* one the answers read the adjective itself: the MLP has no part in them.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from analysis.behaviour.cases import Behaviour, Case
from circuits.model import Model, Site, load_model
from sae import Dictionary

D_MODEL = 16
# a word's kind and its side: 0 negation, 1 sentiment, 2 thing, 3 child; moved to 4, 5, 6, 7
KINDS = {
    "not": (0, 1), "never": (0, 1), "very": (0, -1), "really": (0, -1),
    "good": (1, 1), "nice": (1, 1), "bad": (1, -1), "awful": (1, -1),
    "cake": (2, 1), "film": (2, -1), "tom": (3, 1), "mia": (3, -1),
}  # fmt: skip
PLAIN, XOR, MOVED, FELT, ANSWER, NEGATED, OTHER = 8, 9, 10, 12, 13, 14, 15
GLAD, SAD = ("glad", "happy"), ("sad", "upset")
FILLERS = ("said", "the", "was", "so", *GLAD, *SAD)
WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", *KINDS, *FILLERS, "felt")
TWO_LAYERS = ("inherited", "moved")
N_POS = 10  # of each text, with the token that begins it

NEGATOR, INTENSIFIER, GOOD, BAD, CAKE, FILM, TOM, MIA, FELT_FEATURE = range(9)
"""The features of every input dictionary here, in order; more follow."""


def unit(axis: int, sign: float = 1.0) -> Tensor:
    return sign * torch.eye(D_MODEL)[axis]


def planted_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    marks = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


def planted_network(kind: str = "computed"):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=D_MODEL, intermediate_size=4,
        num_hidden_layers=2 if kind in TWO_LAYERS else 1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=32, hidden_act="linear",
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        for token, word in enumerate(WORDS):
            axis, sign = KINDS.get(word, (FELT if word == "felt" else PLAIN, 1))
            network.model.embed_tokens.weight[token] = unit(axis, sign)
        first = network.model.layers[0]
        for axis in range(4):  # an embedding is scaled by sqrt(d) = 4, a word counts one in ten
            first.self_attn.v_proj.weight[axis, axis] = 1
            first.self_attn.o_proj.weight[axis + 4, axis] = N_POS / 4
        writes = XOR if kind in TWO_LAYERS else ANSWER
        if kind != "read":
            plant(first.mlp, 0, 4, 5, unit(writes, -1))
        plant(first.mlp, 1, 4, FELT, unit(NEGATED))
        plant(first.mlp, 2, 6, 7, unit(OTHER))
        if kind in TWO_LAYERS:
            last, read = network.model.layers[1], XOR
            if kind == "moved":
                read = MOVED
                last.self_attn.v_proj.weight[0, XOR] = 1
                last.self_attn.o_proj.weight[MOVED, 0] = 3
            plant(last.mlp, 0, read, FELT, unit(ANSWER))
        for sign, words in ((1, GLAD), (-1, SAD)):
            for word in words:
                read = unit(5 if kind == "read" else ANSWER, sign)
                network.lm_head.weight[WORDS.index(word)] = read
    return network.eval().requires_grad_(False)


def plant(mlp, hidden: int, one: int, other: int, written: Tensor) -> None:
    mlp.gate_proj.weight[hidden, one] = 1
    mlp.up_proj.weight[hidden, other] = 1
    mlp.down_proj.weight[:, hidden] = written


def planted_model(kind: str = "computed") -> Model:
    return Model(planted_network(kind), planted_tokenizer(), Path(kind))


def dictionary_of(rows: list[Tensor], k: int, site: str, **fields) -> Dictionary:
    """Features that are read by the very directions they write."""
    write = torch.stack(rows)
    parts = {
        "encoder": write, "decoder": write, "bias": torch.zeros(len(write)),
        "offset": torch.zeros(D_MODEL), "k": k, "site": Site.parse(site),
    }  # fmt: skip
    return Dictionary(**(parts | fields))


def input_rows() -> list[Tensor]:
    moved = [unit(axis, sign) for axis in range(4, 8) for sign in (1, -1)]
    words = [unit(axis, sign) for axis in range(4) for sign in (1, -1)]
    return [*moved, unit(FELT), *words, unit(PLAIN)]


def classes_of(axis: int) -> list[Tensor]:
    """Of a product and what is negated, a direction for each class: good, not good, bad, not
    bad."""
    return [
        (unit(axis, made) + unit(NEGATED, negated)) / 2**0.5
        for made, negated in ((1, -1), (-1, 1), (-1, -1), (1, 1))
    ]


def planted_dictionaries(kind: str = "computed", *, plain: bool = False) -> dict[Site, Dictionary]:
    """Of the last layer. Its second MLP is given the classes as features of their own, or, where
    ``plain`` is asked for, the product and what is negated as separate features."""
    layer, rows, k = 0, input_rows(), 5
    if kind in TWO_LAYERS:
        product = XOR if kind == "inherited" else MOVED
        alone = [unit(axis, sign) for axis in (product, NEGATED) for sign in (1, -1)]
        layer, k = 1, 8
        rows += [*(alone if plain else classes_of(product)), unit(OTHER), unit(OTHER, -1)]
    out = [*classes_of(ANSWER), unit(OTHER), unit(OTHER, -1), unit(ANSWER), unit(ANSWER, -1)]
    found = (
        dictionary_of(rows, k, f"mlp_in@{layer}"),
        dictionary_of(out if layer == 0 else out[-2:], 2, f"mlp_out@{layer}"),
    )
    return {d.known_site("planted"): d for d in found}


def planted_behaviour(n: int = 16, begins: str = "{child} said the {thing}", **fields) -> Behaviour:
    """As many of the 16 minimal pairs that have no text in common."""
    cases = []
    words = list(product(("cake", "film"), ("tom", "mia"), (0, 1), (0, 1)))
    for number, (thing, child, which, kind) in enumerate(words[:n]):
        negator, plain = ("not", "never")[which], ("very", "really")[which]
        good, bad = ("good", "nice")[kind], ("bad", "awful")[kind]
        for negated, positive in product((False, True), (True, False)):
            word, adjective = (negator if negated else plain), (good if positive else bad)
            right = GLAD if negated != positive else SAD
            cases.append(
                Case(
                    f"{begins.format(child=child, thing=thing)} was {word} {adjective} so felt",
                    ("not " if negated else "") + ("good" if positive else "bad"),
                    right,
                    SAD if right == GLAD else GLAD,
                    {"negated": negated, "positive": positive},
                    number,
                )
            )
    return Behaviour(**({"name": "negation", "cases": tuple(cases)} | fields))


def unseen_behaviour(n: int = 16) -> Behaviour:
    """The same in other texts, which nothing is found on: each class has as many cases as a stratum
    needs."""
    return planted_behaviour(n, "said {child} the {thing}")


def wide_behaviour(name: str = "negation") -> Behaviour:
    """Both of these together: each class has as many cases as a stratum needs in either half."""
    more = tuple(replace(case, pair=case.pair + 16) for case in unseen_behaviour().cases)
    return Behaviour(name, (*planted_behaviour().cases, *more))


def sentiment(behaviour: Behaviour) -> Behaviour:
    """Its cases without a negator, which differ in one factor."""
    cases = tuple(
        Case(c.text, c.label, c.right, c.wrong, {"positive": c.factors["positive"]}, c.pair)
        for c in behaviour.cases
        if not c.factors["negated"]
    )
    return Behaviour("sentiment", cases)


def both_layers(kind: str) -> dict[Site, Dictionary]:
    """Dictionaries of both layers of a model of two."""
    return {**planted_dictionaries("computed"), **planted_dictionaries(kind)}


def planted_run(folder: Path, kind: str = "computed", *, both: bool = False) -> Path:
    """A run folder of the planted model and its dictionaries: of the last layer, or of both."""
    planted_model(kind).save(folder / "model")
    trained_on = {"activations": {"model": load_model(folder / "model", device="cpu").fingerprint}}
    known = both_layers(kind) if both else planted_dictionaries(kind)
    for site, dictionary in known.items():
        replace(dictionary, notes=trained_on).save(folder / "saes" / site.hook_name)
    return folder


def planted_text(folder: Path) -> Path:
    """Documents in the planted model's words, some to be held out."""
    texts = [f"{case.text} {case.right[0]}" for case in planted_behaviour().cases] * 4
    (folder / "text.txt").write_text("\n\n".join(f"{text} {text}" for text in texts))
    return folder / "text.txt"
