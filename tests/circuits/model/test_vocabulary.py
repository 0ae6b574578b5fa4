"""Embeddings with more rows than the tokenizer has tokens, vocabularies with gaps, added tokens."""

import json

import pytest
import torch

from circuits.corpus.batches import BatchPlan, in_order
from circuits.corpus.tokenizer import known_tokens, token_texts
from circuits.model import ModelPlan, ModelShape, Site, load_model, train_model
from circuits.model.formats.llama import write
from sae import card, logit_effects
from sae.features.examples import examples
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import N_TOKEN, small_corpus, small_network, small_tokenizer

N_ROW = N_TOKEN + 24
ADDED = N_TOKEN  # the numbers after it have no token


def gapped_tokenizer():
    """One word without a number, and one added at the end."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = small_tokenizer()
    stated = json.loads(plain.backend_tokenizer.to_str())
    del stated["model"]["vocab"]["w20"]
    marks = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    stated["model"]["vocab"]["brandnew"] = ADDED
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    stated["added_tokens"].append({"id": ADDED, "content": "brandnew", "normalized": True, **flags})
    raw = Tokenizer.from_str(json.dumps(stated))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The rows that no token has are louder than the others."""
    network = small_network(vocab_size=N_ROW)
    unknown = [20, *range(ADDED + 1, N_ROW)]
    with torch.no_grad():
        network.lm_head.weight[unknown] *= 3
    folder = tmp_path_factory.mktemp("model")
    write(network, gapped_tokenizer(), folder)
    return load_model(folder, device="cpu")


@pytest.fixture
def corpus(tmp_path):
    corpus = small_corpus(tmp_path)
    text = (tmp_path / "texts.txt").read_text()
    (tmp_path / "texts.txt").write_text(text.replace("w20", "brandnew"))
    return type(corpus)(corpus.texts, corpus.files, corpus.columns)


def test_a_number_without_a_token_is_shown_as_such(model):
    assert model.token_texts([5, 20, ADDED, N_ROW - 1]) == ["w5", "<id 20>", "brandnew", "<id 63>"]
    assert token_texts(model.tokenizer, [4, 20]) == ["w4", "<id 20>"]
    assert known_tokens(model.tokenizer) == [*range(20), *range(21, ADDED + 1)]
    assert model.known_tokens.tolist() == known_tokens(model.tokenizer)


def test_only_tokens_are_ranked_by_what_a_feature_adds(model):
    dictionary = small_dictionary(site=Site("mlp_out", 1))
    table = logit_effects(dictionary, model, n=len(model.known_tokens))
    assert set(table["token_number"]) == set(model.known_tokens.tolist())
    wanted = dictionary.decoder @ model.unembedding.mT
    numbers = torch.tensor(table["token_number"])
    features = torch.tensor(table["feature"])
    torch.testing.assert_close(torch.tensor(table["effect"]), wanted[features, numbers])
    assert not table["token"].isna().any()


def test_a_card_of_a_model_with_spare_rows_is_drawn(model, corpus):
    dictionary = small_dictionary(site=Site("mlp_out", 1))
    for feature in range(0, 48, 7):
        page = card(dictionary, feature, model, corpus)._repr_html_()
        assert "None" not in page
        assert "nan" not in page.lower()


def test_examples_spell_every_token_that_a_row_holds(model, corpus):
    found = examples(small_dictionary(), model, corpus)
    assert all(isinstance(word, str) for word in found.words.values())
    rows = torch.cat([b.tokens[b.mask] for b in in_order(corpus, model.tokenizer, BatchPlan(), 60)])
    assert set(found.words) <= set(rows.tolist())


def test_a_number_without_a_token_is_never_generated(model):
    for temperature in (0.0, 2.0):
        text = model.generate("w5 w6", 20, temperature=temperature)
        words = set(text.split())
        assert words <= {*model.tokenizer.get_vocab()}
    tokens = model.tokens("w5 w6")
    with torch.no_grad():
        assert int(model.logits(tokens)[0, -1].argmax()) not in model.known_tokens.tolist()


def test_the_bridge_leaves_the_models_tokenizer_as_it_is(tmp_path):
    bare = small_tokenizer()
    bare.pad_token = None
    write(small_network(vocab_size=N_ROW), bare, tmp_path)
    model = load_model(tmp_path, device="cpu")
    before = (model.tokenizer.pad_token, len(model.tokenizer))
    _ = model.hooked
    assert (model.tokenizer.pad_token, len(model.tokenizer)) == before


def test_a_model_trained_with_gaps_in_its_vocabulary_has_a_row_for_every_token(corpus, tmp_path):
    shape = ModelShape(d_model=8, d_hidden=8)
    plan = ModelPlan(shape=shape, n_steps=2, n_rows=4, window=16)
    tokenizer = gapped_tokenizer()
    assert len(tokenizer) == ADDED  # one less than the last number says
    trained = train_model(plan, corpus, tmp_path / "out", tokenizer=tokenizer, device="cpu")
    assert load_model(trained.folder, device="cpu").n_token == ADDED + 1
