"""A text that a model's tokenizer cannot spell is refused, and one that it can is not."""

from dataclasses import replace

import pytest

from circuits.corpus import built_in, open_corpus
from circuits.errors import CorpusError
from circuits.model import load_model
from circuits.model.known_text import check_spelt
from tests.support.small_models import small_corpus, small_folder

CHINESE = "从前有一个小女孩, 她喜欢在花园里玩耍。 她的妈妈说 你不能去那里。"


@pytest.fixture(scope="module")
def stories():
    return load_model("stories260K-bilinear", device="cpu")


@pytest.fixture
def chinese(tmp_path):
    (tmp_path / "chinese.txt").write_text("\n\n".join([CHINESE] * 20), encoding="utf-8")
    return open_corpus(tmp_path / "chinese.txt")


def test_a_text_of_bytes_that_the_model_does_not_expect_is_refused(stories, chinese):
    for text in (chinese, CHINESE):
        with pytest.raises(CorpusError, match=r"9\d% of the tokens are single bytes"):
            check_spelt(stories, text)


def test_stories_are_not(stories):
    check_spelt(stories, built_in(0, 40))
    check_spelt(stories, "Lily had a ball 从.")


def test_unknown_words_are_counted_without_the_marks_around_a_text(tmp_path, chinese):
    small_folder(tmp_path)
    model = load_model(tmp_path, device="cpu")  # of random weights: its loss says nothing
    check_spelt(model, small_corpus(tmp_path, 20))
    check_spelt(model, "w5 w6 zebra")
    check_spelt(model, "w5 zebra")  # half of them is not most
    for text in (chinese, "w5 zebra zebra"):
        with pytest.raises(CorpusError, match="tokens are unknown to its tokenizer"):
            check_spelt(model, text)


def test_a_mark_that_stands_for_unknown_words_as_well_is_none(tmp_path, chinese):
    """As the one special token of GPT-2."""
    small_folder(tmp_path)
    model = load_model(tmp_path, device="cpu")
    words = model.tokenizer
    words.bos_token = words.eos_token = words.pad_token = words.unk_token
    check_spelt(replace(model, tokenizer=words), "zebra zebra w5")
