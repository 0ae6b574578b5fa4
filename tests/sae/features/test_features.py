"""Examples, direct logit effects, neighbours and splices are what brute force finds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.corpus import open_corpus
from circuits.errors import FeatureRangeError, ModelError
from circuits.model import Site, load_model
from sae.features.effects import logit_effects, neighbours
from sae.features.examples import examples
from sae.reading import readings
from tests.support.small import generator
from tests.support.small_dictionaries import N_FEATURE, small_dictionary
from tests.support.small_models import N_TOKEN, small_folder, some_tokens

WINDOW = 12  # so that longer documents become several rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(small_folder(tmp_path_factory.mktemp("model") / "llama"), device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of 1 to 30 words, among them twins whose tokens are equally strong."""
    drawn = torch.randint(4, N_TOKEN, (40, 30), generator=generator(3)).tolist()
    texts = [" ".join(f"w{word}" for word in row[: 1 + i % 30]) for i, row in enumerate(drawn)]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join([*texts, *texts[:5]]))
    return open_corpus(path)


def every_token(dictionary, model, corpus):
    """Each token that counts, one by one: document, position, row, place and its features."""
    for reading in readings(model, corpus, [dictionary.site], window=WINDOW):
        batch = reading.batch
        features = torch.zeros(*batch.mask.shape, N_FEATURE)
        # the very products that are searched: twins are equal in them to the last bit or not
        features[reading.counted] = dictionary.encode(reading.activations[dictionary.site])
        for row, place in itertools.product(*map(range, batch.mask.shape)):
            if place > 0 and batch.mask[row, place]:
                position = int(batch.nth[row]) * (WINDOW - 1) + place - 1
                yield (int(batch.document[row]), position), batch, row, place, features


@pytest.mark.parametrize("relu", [True, False])
def test_examples_are_the_strongest_tokens_of_the_corpus(relu, model, corpus):
    dictionary = small_dictionary(relu=relu)
    found = examples(dictionary, model, corpus, n=4, context=2, window=WINDOW)
    tokens = list(every_token(dictionary, model, corpus))
    for feature in range(N_FEATURE):
        ranked = sorted(
            (-float(features[row, place, feature]), at, batch, row, place, features)
            for at, batch, row, place, features in tokens
            if features[row, place, feature] != 0
        )[:4]
        assert int((found.document[feature] >= 0).sum()) == len(ranked)
        for rank, (value, at, batch, row, place, features) in enumerate(ranked):
            assert found.values[feature, rank] == pytest.approx(-value, abs=1e-4)
            got = (found.document[feature, rank], found.position[feature, rank])
            assert got == at
            window = [
                (int(batch.tokens[row, p]), float(features[row, p, feature]))
                if 0 < p < batch.mask.shape[1] and batch.mask[row, p]
                else (-1, 0.0)
                for p in range(place - 2, place + 3)
            ]
            assert found.tokens[feature, rank].tolist() == [token for token, _ in window]
            strengths = [strength for _, strength in window]
            np.testing.assert_allclose(found.activations[feature, rank], strengths, atol=1e-4)


def test_examples_of_some_features_are_those_of_all(model, corpus):
    dictionary = small_dictionary()
    some = examples(dictionary, model, corpus, [7, 3, 7], n=2, window=WINDOW)
    whole = examples(dictionary, model, corpus, n=2, window=WINDOW)
    assert some.features.tolist() == [7, 3]
    for part in ("values", "document", "position", "tokens", "activations"):
        np.testing.assert_array_equal(getattr(some, part), getattr(whole, part)[[7, 3]])


def test_a_table_of_examples_shows_the_token_in_its_window(model, corpus):
    found = examples(small_dictionary(), model, corpus, [5], n=3, context=4, window=WINDOW)
    table = found.table()
    assert table["rank"].tolist() == [0, 1, 2]
    for i, row in table.iterrows():
        word = found.words[int(found.tokens[0, i, 4])]
        assert row["tokens"][row["place"]] == word
        assert row["activations"][row["place"]] == row["value"]
        text = corpus.documents(row["document"], row["document"] + 1)[0].split()
        assert [*text, "<eos>"][row["position"]] == word
    silent = small_dictionary(bias=torch.full((N_FEATURE,), -1e3))
    assert examples(silent, model, corpus, [5], window=WINDOW).table().empty


def test_what_is_read_leaves_out_the_first_token_and_padding(model, corpus):
    n_words = sum(len(text.split()) + 1 for text in corpus.documents(0, 45))  # each with its <eos>
    site = Site("mlp_in", 1)
    read = list(readings(model, corpus, [site], window=WINDOW))
    # a document that fills its last row has no room for its <eos>
    full = sum(len(text.split()) % (WINDOW - 1) == 0 for text in corpus.documents(0, 45))
    assert sum(len(reading.activations[site]) for reading in read) == n_words - full
    assert len(read[0].position) == len(read[0].activations[site])
    assert not read[0].counted[:, 0].any()


def test_a_model_without_a_tokenizer_cannot_read_a_corpus(model, corpus):
    from dataclasses import replace

    mute = replace(model, tokenizer=None)
    with pytest.raises(
        ModelError, match=r"no tokenizer in this folder, which reading a corpus needs\. Load"
    ):
        next(iter(readings(mute, corpus, [Site("mlp_in", 1)])))


@pytest.mark.parametrize("site", ["mlp_out@1", "resid_post@1"])
def test_logit_effects_are_what_the_feature_adds_to_the_logits(site, model):
    """At the last layer the direct path is the only one, but for the norm's scale."""
    dictionary = small_dictionary(site=Site.parse(site))
    table = logit_effects(dictionary, model, [4, 9], n=3)
    tokens = some_tokens()
    before = model.read(tokens, "resid_post@1")[Site("resid_post", 1)]
    for feature in (4, 9):
        with model.replaced({site: lambda x, f=feature: x + 0.01 * dictionary.decoder[f]}):
            added = model.logits(tokens)
        row = 0.01 * dictionary.decoder[feature]
        scales = [model.scale(x)[..., None] for x in (before + row, before)]
        change = (added * scales[0] - model.logits(tokens) * scales[1]).mean((0, 1)) / 0.01
        of_feature = table[table["feature"] == feature]
        for side, order in (("top", change.argsort(descending=True)), ("bottom", change.argsort())):
            part = of_feature[of_feature["side"] == side]
            assert part["token_number"].tolist() == order[:3].tolist()
            wanted = change[order[:3]].detach().numpy()
            np.testing.assert_allclose(part["effect"], wanted, atol=2e-2)
            words = [f"w{token}" for token in order[:3].tolist() if token > 3]
            assert [word for word in part["token"] if word.startswith("w")] == words


def test_what_an_mlp_reads_has_no_direct_path_to_a_logit(model):
    with pytest.raises(ModelError, match="mlp_in@0 is what an MLP reads, so its features"):
        logit_effects(small_dictionary(), model)
    with pytest.raises(FeatureRangeError, match="there is no feature 48"):
        logit_effects(small_dictionary(site=Site("mlp_out", 0)), model, [48])


def test_neighbours_are_the_nearest_by_decoder_cosine():
    n_feature = 5000  # more than one tile
    dictionary = small_dictionary(n_feature=n_feature, dtype=torch.float64)
    unit, read = (w / w.norm(dim=1, keepdim=True) for w in (dictionary.decoder, dictionary.encoder))
    wanted = (unit @ unit.mT).fill_diagonal_(-2).topk(6)
    table = neighbours(dictionary, n=6)
    assert table["feature"].tolist() == np.arange(n_feature).repeat(6).tolist()
    assert table["neighbour"].tolist() == wanted.indices.flatten().tolist()
    np.testing.assert_allclose(table["decoder_cosine"], wanted.values.flatten().numpy())
    encoder_cosines = torch.einsum("fd,fnd->fn", read, read[wanted.indices])
    np.testing.assert_allclose(table["encoder_cosine"], encoder_cosines.flatten(), atol=1e-12)
    one = neighbours(dictionary, [17], n=6)
    assert one["neighbour"].tolist() == table[table["feature"] == 17]["neighbour"].tolist()


def test_several_dictionaries_are_spliced_at_once_by_nesting(model):
    first, second = small_dictionary(), small_dictionary(9, site=Site("mlp_out", 1))
    tokens = some_tokens()
    functions = {d.site: d.reconstruct for d in (first, second)}
    with torch.no_grad():
        clean = model.logits(tokens)
        with model.replaced(functions):
            wanted = model.logits(tokens)
        with first.spliced(model), second.spliced(model):
            torch.testing.assert_close(model.logits(tokens), wanted)
        with first.spliced(model, error=True), second.spliced(model, error=True):
            torch.testing.assert_close(model.logits(tokens), clean, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.logits(tokens), clean)


def test_a_dictionary_whose_weights_are_changed_in_place_is_the_changed_one():
    dictionary, x = small_dictionary(), torch.randn(5, 16, generator=generator(3))
    before = dictionary.fingerprint, dictionary.encode(x)
    assert dictionary.fingerprint is before[0]
    dictionary.encoder.mul_(2)
    dictionary.bias.add_(1)
    fresh = replace(dictionary, encoder=dictionary.encoder.clone(), bias=dictionary.bias.clone())
    assert dictionary.fingerprint == fresh.fingerprint != before[0]
    torch.testing.assert_close(dictionary.encode(x), fresh.encode(x))
