"""A card shows the numbers it is made of, and text escaped."""

from html import escape

import pandas as pd
import pytest

from circuits.corpus import open_corpus
from circuits.errors import DictionaryError, FeatureRangeError
from circuits.model import Site, load_model
from sae import card, logit_effects
from sae.features.effects import neighbours
from tests.support.small_dictionaries import small_dictionary, some_activations
from tests.support.small_models import small_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(small_folder(tmp_path_factory.mktemp("model") / "llama"), device="cpu")


def test_a_card_shows_the_statistics_and_what_the_weights_promote(model):
    dictionary = small_dictionary(site=Site("mlp_out", 0)).measured([some_activations()])
    shown = card(dictionary, 3)
    assert shown.statistics.n_active == int(dictionary.statistics.n_active[3])
    assert shown.statistics.histogram == dictionary.statistics.histogram[3].tolist()
    assert (
        shown.neighbours["neighbour"].tolist()
        == neighbours(dictionary, [3], 6)["neighbour"].tolist()
    )
    assert shown.effects is None
    assert shown.examples is None
    with_model = card(dictionary, 3, model)
    wanted = logit_effects(dictionary, model, [3], n=6)
    pd.testing.assert_frame_equal(with_model.effects, wanted)
    assert f"active on {float(dictionary.statistics.frequency[3]):.2%}" in repr(shown)
    assert shown._repr_html_().count("<rect") == len(shown.statistics.histogram)


def test_a_card_shows_the_strongest_contexts_shaded(model, tmp_path):
    (tmp_path / "texts.txt").write_text("w5 w6 w7 w8\n\nw9 w10 w11\n\nw5 w12")
    corpus = open_corpus(tmp_path / "texts.txt")
    dictionary = small_dictionary()
    for feature in range(dictionary.n_feature):
        shown = card(dictionary, feature, model, corpus)
        page = shown._repr_html_()
        assert shown.n_documents == 3
        assert page.count("&nbsp;") == len(shown.examples)
        assert ("active on no token" in page) == (len(shown.examples) == 0)
        for row in shown.examples.to_dict("records"):
            assert f"<b>{escape(row['tokens'][row['place']])}</b>" in page
    assert dictionary.statistics is None  # then it says nothing of how often
    assert "active on" not in repr(shown)


def test_a_card_of_what_an_mlp_reads_has_no_tokens_that_it_promotes(model):
    assert card(small_dictionary(site=Site("mlp_in", 0)), 0, model).effects is None


def test_a_card_that_cannot_be_made_is_refused(model, tmp_path):
    (tmp_path / "texts.txt").write_text("w5 w6\n\nw7 w8")
    with pytest.raises(DictionaryError, match="a corpus was given without a model"):
        card(small_dictionary(), 0, corpus=open_corpus(tmp_path / "texts.txt"))
    with pytest.raises(FeatureRangeError, match="feature 999"):
        card(small_dictionary(), 999)
