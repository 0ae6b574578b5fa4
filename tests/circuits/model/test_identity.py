"""A model is its weights, what its configuration computes with them, and its tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from circuits.corpus import built_in
from circuits.corpus.tokenizer import tokenizer_hash, train_tokenizer
from circuits.model import Model, load_model
from circuits.model.formats.llama import write
from tests.support.small_models import (
    published_folder,
    small_corpus,
    small_folder,
    small_network,
    small_tokenizer,
    some_tokens,
)


def edited(folder: Path, copy: Path, name: str, **fields) -> Path:
    shutil.copytree(folder, copy)
    path = copy / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return copy


def loaded(folder: Path, **how) -> Model:
    return load_model(folder, device="cpu", **how)


COMPUTING = {
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    "scaled": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": 31,
}


@pytest.mark.parametrize("field", COMPUTING)
def test_a_field_that_computes_makes_another_model(field, tmp_path):
    folder = small_folder(tmp_path / "model")
    name = "rope_parameters" if field == "scaled" else field
    other = loaded(edited(folder, tmp_path / "copy", "config.json", **{name: COMPUTING[field]}))
    assert other.fingerprint != loaded(folder).fingerprint


def test_heads_split_otherwise_make_another_model(tmp_path):
    folder = small_folder(tmp_path / "model")
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    other = loaded(edited(folder, tmp_path / "copy", "config.json", **shape))
    assert not torch.equal(other.logits(some_tokens()), loaded(folder).logits(some_tokens()))
    assert other.fingerprint != loaded(folder).fingerprint


def test_a_sliding_window_makes_another_model(tmp_path):
    folder = small_folder(tmp_path / "model", "mistral")
    other = loaded(edited(folder, tmp_path / "copy", "config.json", sliding_window=3))
    assert other.fingerprint != loaded(folder).fingerprint


STORED = {
    "transformers_version": "4.30.0",
    "architectures": ["LlamaForCausalLM", "Other"],
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "initializer_range": 0.5,
    "eos_token_id": [2, 3],
    "_name_or_path": "somewhere/else",
    "attention_dropout": 0.1,
    "rope_theta": 10000,
}


def test_a_field_that_does_not_compute_leaves_the_model_as_it_is(tmp_path):
    folder = small_folder(tmp_path / "model")
    other = loaded(edited(folder, tmp_path / "copy", "config.json", **STORED))
    assert torch.equal(other.logits(some_tokens()), loaded(folder).logits(some_tokens()))
    assert other.fingerprint == loaded(folder).fingerprint


def permuted(folder: Path, copy: Path) -> Path:
    """Two words have each other's numbers."""
    shutil.copytree(folder, copy)
    path = copy / "tokenizer.json"
    stated = json.loads(path.read_text())
    words = stated["model"]["vocab"]
    words["w5"], words["w6"] = words["w6"], words["w5"]
    path.write_text(json.dumps(stated))
    return copy


def test_another_tokenizer_makes_another_model(tmp_path):
    folder = small_folder(tmp_path / "model")
    own = loaded(folder).fingerprint
    assert loaded(permuted(folder, tmp_path / "permuted")).fingerprint != own
    splits = json.loads((folder / "tokenizer.json").read_text())
    lower = edited(folder, tmp_path / "lower", "tokenizer.json", normalizer={"type": "Lowercase"})
    assert splits["normalizer"] is None
    assert loaded(lower).fingerprint != own
    for path in (tmp_path / "lower").glob("tokenizer*"):
        path.unlink()
    assert loaded(lower).fingerprint != own


def some_tokenizers(folder: Path):
    stories, texts = built_in(0, 200), small_corpus(folder)
    from transformers import LlamaTokenizer

    added = train_tokenizer(texts, "bpe", n_words=300)
    added.add_tokens(["brandnew", " spaced "])
    added.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    llama = LlamaTokenizer(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "▁a": 3, "a": 4}, merges=[])
    return {
        "word": train_tokenizer(stories),
        "bpe": train_tokenizer(texts, "bpe", n_words=300),
        "added": added,
        "llama": llama,
        "small": small_tokenizer(),
    }


@pytest.mark.parametrize("name", ["word", "bpe", "added", "llama", "small"])
def test_a_model_saved_and_loaded_again_is_the_same(name, tmp_path):
    tokenizer = some_tokenizers(tmp_path)[name]
    network = small_network(vocab_size=max(tokenizer.get_vocab().values()) + 7)
    (tmp_path / "first").mkdir()
    write(network, tokenizer, tmp_path / "first")
    first = loaded(tmp_path / "first")
    assert first.fingerprint == Model(network, tokenizer, tmp_path).fingerprint
    second = loaded(first.save(tmp_path / "second"))
    third = loaded(second.save(tmp_path / "deeper" / "third"))
    assert first.fingerprint == second.fingerprint == third.fingerprint


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_dtype_in_use_counts_and_that_of_the_file_does_not(kind, tied, tmp_path):
    stored = small_folder(tmp_path / "b", kind, dtype=torch.bfloat16, tie_word_embeddings=tied)
    wide = loaded(stored)
    assert loaded(wide.save(tmp_path / "f")).fingerprint == wide.fingerprint
    narrow = loaded(stored, dtype=torch.bfloat16)
    assert loaded(narrow.save(tmp_path / "n"), dtype=torch.bfloat16).fingerprint == (
        narrow.fingerprint
    )
    assert narrow.fingerprint != wide.fingerprint


def test_a_published_checkpoint_and_its_conversion_are_the_same(tmp_path):
    published = loaded(published_folder(tmp_path / "published"))
    assert loaded(published.save(tmp_path / "llama")).fingerprint == published.fingerprint


def test_using_a_model_does_not_change_what_it_is(tmp_path):
    model = loaded(small_folder(tmp_path / "model"))
    texts = ["w5 w6", "w7"]
    model.tokenizer(texts, padding=True, truncation=True, max_length=3)
    model.generate("w5", 3)
    _ = model.hooked
    assert model.fingerprint == loaded(tmp_path / "model").fingerprint


def test_a_tokenizer_that_cannot_be_read_is_known_by_what_it_does():
    class Plain:
        bos_token_id = eos_token_id = unk_token_id = None

        def __init__(self, step):
            self.step = step

        def get_vocab(self):
            return {"a": 0}

        def __call__(self, text):
            return {"input_ids": [ord(c) // self.step for c in text]}

    assert tokenizer_hash(Plain(1)) == tokenizer_hash(Plain(1)) != tokenizer_hash(Plain(2))


def test_weights_that_are_changed_in_place_make_another_model(tmp_path):
    model = load_model(small_folder(tmp_path / "model"), device="cpu")
    before, layer = model.fingerprint, model.layer(0)
    form = layer.interaction(torch.ones(model.d_model))
    with torch.no_grad():
        model.network.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    assert model.fingerprint != before
    assert load_model(model.save(tmp_path / "again"), device="cpu").fingerprint == model.fingerprint
    torch.testing.assert_close(layer.interaction(torch.ones(model.d_model)), 1.5 * form)


def test_heads_whose_weights_are_changed_in_place_are_the_changed_ones(tmp_path):
    model = load_model(small_folder(tmp_path / "model"), device="cpu")
    before = model.head(0, 1).query
    with torch.no_grad():
        model.network.model.layers[0].input_layernorm.weight.mul_(2)  # folded into the factors
    torch.testing.assert_close(model.head(0, 1).query, 2 * before)


def by_data(weight):
    weight.data[3, 1] += 0.5


def in_inference_mode(weight):
    with torch.inference_mode():
        weight[3, 1] += 0.5


def by_a_fused_optimizer(weight):
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1, fused=True).step()


def by_memory(weight):
    weight.detach().numpy()[3, 1] += 0.5


@pytest.mark.parametrize("change", [by_data, in_inference_mode, by_a_fused_optimizer, by_memory])
def test_a_change_that_torch_does_not_count_makes_another_model(change, tmp_path):
    model = load_model(small_folder(tmp_path / "model"), device="cpu")
    before, bridge = model.fingerprint, model.hooked
    tokens = model.tokens("w5 w6 w7")
    change(model.network.model.layers[0].mlp.down_proj.weight)
    assert model.fingerprint != before
    assert model.hooked is not bridge
    torch.testing.assert_close(model.hooked(tokens), model.logits(tokens))


def test_a_configuration_that_is_changed_makes_another_model(tmp_path):
    model = load_model(small_folder(tmp_path / "model"), device="cpu")
    before = model.fingerprint
    model.network.config.rms_norm_eps *= 100
    assert model.fingerprint != before
