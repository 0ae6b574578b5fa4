"""Tiny random transformers on disk, in both layouts, and the words to talk to them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.corpus import open_corpus
from tests.support.small import generator, normal

N_TOKEN = 40


def small_tokenizer(n_token: int = N_TOKEN):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>"])}
    words |= {f"w{i}": i for i in range(4, n_token)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    marks = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


def small_network(kind: str = "llama", seed: int = 0, **fields):
    """Weights large enough that every part matters, norms' weights and biases included."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": N_TOKEN,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "hidden_act": "linear",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "mistral":
        sizes["sliding_window"] = None
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **fields}))
    with torch.no_grad():
        for i, weight in enumerate(network.parameters()):
            drawn = normal(*weight.shape, seed=seed + i, dtype=torch.float32)
            weight.copy_(1 + 0.3 * drawn if weight.ndim == 1 else 0.3 * drawn)
    return network.eval()


def small_folder(path: Path, kind: str = "llama", *, dtype=torch.float32, **fields) -> Path:
    from circuits.model.formats.llama import write

    path.mkdir(parents=True, exist_ok=True)
    write(small_network(kind, **fields).to(dtype), small_tokenizer(), path)
    return path


def small_original(corpus, path: Path, activation: str = "silu") -> Path:
    """A gated model that has learned a little of a text."""
    from circuits.model import ModelPlan, ModelShape, train_model

    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2, activation=activation)
    plan = ModelPlan(shape, n_steps=60, n_rows=8, window=32, warm_up=5, learning_rate=1e-2)
    return train_model(plan, corpus, path, device="cpu").folder


def gated_folder(path: Path) -> Path:
    """A gated model that knows of a text just that no word in it is a mark."""
    from circuits.model.formats.llama import write

    network = small_network(hidden_act="silu")
    with torch.no_grad():
        network.model.embed_tokens.weight[:, 0] = 20.0
        network.lm_head.weight *= 0.1
        network.lm_head.weight[:, 0] = 0.0
        network.lm_head.weight[:4, 0] = -5.0
    path.mkdir(parents=True)
    write(network, small_tokenizer(), path)
    return path


def some_tokens(n_rows: int = 3, n_pos: int = 11, seed: int = 5) -> Tensor:
    drawn = torch.randint(4, N_TOKEN, (n_rows, n_pos), generator=generator(seed))
    drawn[:, 0] = 1
    return drawn


PUBLISHED = {
    "n_head": 2,
    "n_layer": 3,
    "n_ctx": 20,
    "d_model": 16,
    "d_hidden": 24,
    "bilinear": True,
    "gate": None,
    "bias": False,
    "normalization": True,
    "tokenizer": "ts-4096",
    "repo": None,
}


def published_weights(config: dict) -> dict[str, Tensor]:
    d, h, n_layer = config["d_model"], config["d_hidden"], config["n_layer"]
    shapes = {"transformer.wte.weight": (N_TOKEN, d), "lm_head.weight": (N_TOKEN, d)}
    for i in range(n_layer):
        layer = f"transformer.h.{i}."
        shapes |= {f"{layer}attn.qkv.weight": (3 * d, d), f"{layer}attn.o.weight": (d, d)}
        shapes |= {f"{layer}mlp.w.weight": (2 * h, d), f"{layer}mlp.p.weight": (d, h)}
        if config["bias"]:
            shapes |= {f"{layer}mlp.w.bias": (2 * h,), f"{layer}mlp.p.bias": (d,)}
    size = 0.4 if config["normalization"] is True else 0.2  # without norms, layers multiply sizes
    weights = {
        name: size * normal(*shape, seed=i, dtype=torch.float32)
        for i, (name, shape) in enumerate(shapes.items())
    }
    half = config["d_model"] // config["n_head"] // 2
    for i in range(n_layer):
        angles = 10000.0 ** -(torch.arange(half) / half)
        weights[f"transformer.h.{i}.attn.rotary.inv_freq"] = angles
    return weights


def published_folder(path: Path, **fields) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    config = {**PUBLISHED, **fields}
    (path / "config.json").write_text(json.dumps(config))
    save_file(published_weights(config), path / "model.safetensors")
    return path


POLYNOMIAL = {
    "vocab_size": N_TOKEN,
    "seq_len": 20,
    "d_model": 16,
    "d_head": 6,
    "d_mlp": 24,
    "n_layers": 2,
    "rope_base": 100.0,
    "norm_type": "channel",
}


def polynomial_weights(sizes: dict, seed: int = 0) -> dict[str, Tensor]:
    d, head, hidden = sizes["d_model"], sizes["d_head"], sizes["d_mlp"]
    shapes = {"embed.weight": (N_TOKEN, d), "unembed.weight": (N_TOKEN, d)}
    scales = ["final_norm.scale"]
    for i in range(sizes["n_layers"]):
        at = f"blocks.{i}."
        shapes |= {f"{at}attn.{n}_proj.weight": (head, d) for n in ("q1", "k1", "q2", "k2", "v")}
        shapes |= {f"{at}attn.o_proj.weight": (d, head), f"{at}mlp.w_proj.weight": (d, hidden)}
        shapes |= {f"{at}mlp.{name}.weight": (hidden, d) for name in ("w_m", "w_n")}
        scales += [f"{at}norm_attn.scale", f"{at}norm_mlp.scale"]
    weights = {
        name: 0.3 * normal(*shape, seed=seed + i, dtype=torch.float32)
        for i, (name, shape) in enumerate(shapes.items())
    }
    if sizes.get("norm_type", "channel") == "channel":
        for i, name in enumerate(scales):
            weights[name] = 1 + 0.3 * normal(d, seed=seed + 100 + i, dtype=torch.float32)
    return weights


def polynomial_folder(path: Path, seed: int = 0, **fields) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    sizes = {**POLYNOMIAL, **fields}
    (path / "config.json").write_text(json.dumps({"model": sizes}))
    save_file(polynomial_weights(sizes, seed), path / "model.safetensors")
    return path


def small_corpus(folder: Path, n_document: int = 60, longest: int = 25, *, ragged: bool = True):
    """Documents of random words, of one to ``longest`` words each unless all are that long."""
    drawn = torch.randint(4, N_TOKEN, (n_document, longest), generator=generator(3)).tolist()
    lengths = [1 + i % longest if ragged else longest for i in range(n_document)]
    texts = [
        " ".join(f"w{word}" for word in row[:n]) for row, n in zip(drawn, lengths, strict=True)
    ]
    (folder / "texts.txt").write_text("\n\n".join(texts))
    return open_corpus(folder / "texts.txt")
