"""A small polynomial transformer whose weights were written by hand to follow known rules.

Three layers, each with one thing to do. Head 0 looks back by one, and MLP 0 turns a subject into
its verb. Head 1 takes the place to each adjective, and each neuron of MLP 1 multiplies one place
with one adjective: a skip rule. Head 2 compares the present token with the one that stood before
each earlier token, and copies where they agree: induction. Every other weight is zero, plus noise.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import PlanError, check_index
from circuits.storage.files import folder_written_whole, write_json

_KINDS = {"special": 1, "subject": 4, "verb": 5, "place": 4, "adjective": 4, "connective": 4,
          "filler": 10}  # fmt: skip
_N_TOKEN = sum(_KINDS.values())
_D_HEAD, _N_POS, _N_LAYER, _N_RULE, _N_ROW = 64, 24, 3, 8, 96
_PAIRS = _D_HEAD // 2  # of numbers that rotary positions turn together
_SLOW = 16  # from this pair on they turn so slowly that a product is the same at every distance
_BEFORE, _ANSWER, _PLACE = _N_TOKEN, 2 * _N_TOKEN, 3 * _N_TOKEN
_ONE = _PLACE + _KINDS["place"]
_D_MODEL = _ONE + 1
"""In the stream: the token, the token before it, the answer, the place that an adjective read, and
a one."""

_VERB, _RULE, _COPY = 4.0, 6.0, 5.0  # what a rule adds to its answer's logit


@checked
def write_example(folder: str | Path, noise: float = 0.003, seed: int = 0) -> Path:
    """Write a model with known rules and text that follows them into a new folder: config.json,
    model.safetensors, rules.json and sequences.npz. ``noise`` is the standard deviation of what is
    added to each weight; the rules and the text are drawn with the seed."""
    check_index("write_example", seed, 2**63, "seed")
    if not 0 <= noise <= 1:
        raise PlanError(
            f"write_example: noise is {noise:g}, beside weights of about 1. Pass 0 to 1."
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanError(f"{folder}: exists already. Name a new folder, or remove this one.")
    generator = torch.Generator().manual_seed(seed)
    rules = _drawn_rules(generator)
    text = _drawn_text(rules, generator)
    weights = _weights(rules, generator)
    for name, weight in weights.items():
        if not name.endswith("scale"):
            weight += noise * torch.randn(weight.shape, generator=generator)
    sizes = {"vocab_size": _N_TOKEN, "seq_len": _N_POS, "d_model": _D_MODEL, "d_head": _D_HEAD,
             "d_mlp": _N_RULE, "n_layers": _N_LAYER, "rope_base": 1e4,
             "norm_type": "channel"}  # fmt: skip
    with folder_written_whole(folder) as files:
        write_json(files / "config.json", {"model": sizes})
        save_file(weights, files / "model.safetensors", metadata={"format": "pt"})
        write_json(files / "rules.json", rules)
        np.savez(files / "sequences.npz", tokens=text[0], rule=text[1])
    return folder


def _drawn_rules(generator: torch.Generator) -> dict[str, Any]:
    """Rules in the layout of ``rules.json``."""
    kinds, start = {}, 0
    for kind, n in _KINDS.items():
        kinds[kind], start = [*range(start, start + n)], start + n
    n_adjective = _KINDS["adjective"]
    pairs = torch.randperm(_KINDS["place"] * n_adjective, generator=generator)[:_N_RULE].tolist()
    answers = [kinds["connective"][n % _KINDS["connective"]] for n in range(_N_RULE)]
    skip = [
        {"place": kinds["place"][pair // n_adjective],
         "adjective": kinds["adjective"][pair % n_adjective], "connective": answer}
        for pair, answer in zip(pairs, answers, strict=True)
    ]  # fmt: skip
    bigram = {}
    for subject in kinds["subject"]:
        order = torch.randperm(_KINDS["verb"], generator=generator)[:3].tolist()
        chances = zip(order, (0.7, 0.2, 0.1), strict=True)
        bigram[str(subject)] = {str(kinds["verb"][i]): p for i, p in chances}
    return {"kinds": kinds, "bigram": bigram, "skip": skip}


def _drawn_text(rules: dict[str, Any], generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two fillers, a skip rule at a random distance, a subject and its verb, and the same
    two fillers again."""

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    tokens = np.zeros((_N_ROW, _N_POS), np.int64)
    fixed_by = np.zeros((_N_ROW, _N_POS), np.int64)
    for row in range(_N_ROW):
        skip = rules["skip"][row % _N_RULE]
        order = torch.randperm(_KINDS["filler"], generator=generator).tolist()
        one, two, *more = (rules["kinds"]["filler"][i] for i in order)
        subject = rules["kinds"]["subject"][below(_KINDS["subject"])]
        verbs = rules["bigram"][str(subject)]
        drawn = torch.multinomial(torch.tensor([*verbs.values()]), 1, generator=generator)
        between = 1 + below(6)
        text = [(0, 0), (one, 0), (two, 0), (skip["place"], 0)]
        text += [(filler, 0) for filler in more[:between]]
        text += [(skip["adjective"], 0), (skip["connective"], 2), (subject, 0)]
        text += [(int([*verbs][int(drawn)]), 1), (one, 0), (two, 3)]
        tokens[row, : len(text)], fixed_by[row, : len(text)] = zip(*text, strict=True)
    return tokens, fixed_by


def _weights(rules: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    embed, unembed = torch.eye(_D_MODEL)[:_N_TOKEN], torch.eye(_D_MODEL)[_ANSWER:_PLACE]
    embed[:, _ONE] = 1
    weights = {"embed.weight": embed}
    heads = (_look_back(), _to_adjectives(rules["kinds"]), _match())
    mlps = (_verbs(rules), _skip_rules(rules), torch.zeros(3, _N_RULE, _D_MODEL))
    for layer, (head, (left, right, out)) in enumerate(zip(heads, mlps, strict=True)):
        at = f"blocks.{layer}."
        own = {f"{at}attn.{name}_proj.weight": matrix for name, matrix in head.items()}
        own |= {f"{at}mlp.w_m.weight": left, f"{at}mlp.w_n.weight": right}
        for reads, part in ((f"{at}attn.", "attn"), (f"{at}mlp.", "mlp")):
            scale = 0.5 + torch.rand(_D_MODEL, generator=generator)  # undone in what reads it
            weights[f"{at}norm_{part}.scale"] = scale
            for name in own:
                if name.startswith(reads) and "o_proj" not in name:
                    own[name] = own[name] / scale
        weights |= own | {f"{at}mlp.w_proj.weight": out.mT.contiguous()}
    scale = 0.5 + torch.rand(_D_MODEL, generator=generator)
    weights |= {"final_norm.scale": scale, "unembed.weight": unembed / scale}
    return weights


def _head(
    query: Tensor, keys: tuple[Tensor, Tensor], value: Tensor, out: Tensor, score: float = 1.0
) -> dict[str, Tensor]:
    """Both queries alike, and scores that are as large as the keys ask for."""
    one, two = (math.sqrt(score * _D_HEAD) * key for key in keys)
    return {"q1": query.clone(), "k1": one, "q2": query.clone(), "k2": two, "v": value, "o": out}


def _look_back() -> dict[str, Tensor]:
    """Queries and keys are constant, so either product is a sum of waves of the distance. Slow
    waves make no peak alone, but the product of two does: about 1 at distance 1, and 0 elsewhere.
    Each is fitted in turn, the other fixed."""
    turns = 1e4 ** -(torch.arange(_PAIRS, dtype=torch.float64) / _PAIRS)
    angles = torch.arange(_N_POS, dtype=torch.float64)[:, None] * turns
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    peak = torch.zeros(_N_POS, dtype=torch.float64)
    peak[1] = 1

    def fitted(rows: Tensor) -> Tensor:
        small = 1e-5 * torch.eye(_D_HEAD, dtype=torch.float64)
        return torch.linalg.solve(rows.mT @ rows + small, rows.mT @ peak)

    one = two = fitted(waves)
    for _ in range(100):
        two = fitted(waves * (waves @ one)[:, None])
        one = fitted(waves * (waves @ two)[:, None])
    query, *keys = torch.zeros(3, _D_HEAD, _D_MODEL)
    query[:_PAIRS, _ONE] = 1
    for key, wave in zip(keys, (one, two), strict=True):
        key[:, _ONE] = wave
    return _head(query, (keys[0], keys[1]), *_copy(0, _BEFORE, _N_TOKEN))


def _to_adjectives(kinds: dict[str, list[int]]) -> dict[str, Tensor]:
    """From each place to each adjective; it writes which place it is."""
    query, key = torch.zeros(2, _D_HEAD, _D_MODEL)
    query[_PAIRS - 1, kinds["adjective"]] = 1  # the slowest pair: at any distance
    key[_PAIRS - 1, kinds["place"]] = 1
    return _head(query, (key, key.clone()), *_copy(kinds["place"][0], _PLACE, _KINDS["place"]))


def _match() -> dict[str, Tensor]:
    """From a token to those after an earlier occurrence of it; it writes their token."""
    query, key = torch.zeros(2, _D_HEAD, _D_MODEL)
    slow = [*range(_SLOW, _PAIRS), *range(_PAIRS + _SLOW, _D_HEAD)]
    codes = torch.linalg.qr(torch.randn(len(slow), len(slow), dtype=torch.float64,
                                        generator=torch.Generator().manual_seed(0))).Q  # fmt: skip
    query[slow, :_N_TOKEN] = codes[:, :_N_TOKEN].float()
    key[slow, _BEFORE : _BEFORE + _N_TOKEN] = codes[:, :_N_TOKEN].float()
    return _head(query, (key, key.clone()), *_copy(0, _ANSWER, _N_TOKEN), _COPY)


def _copy(start: int, to: int, n: int) -> tuple[Tensor, Tensor]:
    """Read n directions of the stream and write them to others."""
    value, out = torch.zeros(_D_HEAD, _D_MODEL), torch.zeros(_D_MODEL, _D_HEAD)
    n_range = torch.arange(n)
    value[n_range, start + n_range] = 1
    out[to + n_range, n_range] = 1
    return value, out


def _verbs(rules: dict[str, Any]) -> Tensor:
    """A neuron for each subject: its square writes the verbs."""
    left, right, out = torch.zeros(3, _N_RULE, _D_MODEL)
    for neuron, (subject, verbs) in enumerate(rules["bigram"].items()):
        left[neuron, int(subject)] = right[neuron, int(subject)] = 1
        for verb, chance in verbs.items():
            out[neuron, _ANSWER + int(verb)] = _VERB * chance
    return torch.stack([left, right, out])


def _skip_rules(rules: dict[str, Any]) -> Tensor:
    """A neuron for each rule: the place times the adjective writes the connective."""
    left, right, out = torch.zeros(3, _N_RULE, _D_MODEL)
    for neuron, rule in enumerate(rules["skip"]):
        left[neuron, rule["adjective"]] = 1
        right[neuron, _PLACE + rule["place"] - rules["kinds"]["place"][0]] = 1
        out[neuron, _ANSWER + rule["connective"]] = _RULE
    return torch.stack([left, right, out])
