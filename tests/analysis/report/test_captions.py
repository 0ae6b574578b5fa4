"""A caption names the words that a feature follows, with their correlation."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from analysis.report.catalogue.captions import Caption, Captions

RNG = np.random.default_rng(0)
ROWS = [RNG.integers(0, 30, n).astype(np.int64) for n in (40, 1, 25, 0, 60)]
TEXT = np.concatenate(ROWS)
KINDS = {"": (0, 0), "after ": (1, 1), "soon after ": (1, 8)}  # how many tokens back


def stands(word: int, nearest: int, furthest: int) -> np.ndarray:
    """Token by token: whether a word stands so many tokens back in the same row."""
    return np.array(
        [
            any(
                back <= place and row[place - back] == word for back in range(nearest, furthest + 1)
            )
            for row in ROWS
            for place in range(len(row))
        ]
    )


def caption(activation, rows=ROWS) -> Caption:
    """Of the only feature of a dictionary."""
    column = csr_matrix(np.asarray(activation, float)[:, None])
    found = Captions.of_activations(rows, column, lambda word: f"w{word}")
    assert found.n_token == len(activation)
    return found.of[0]


@pytest.mark.parametrize(
    ("nearest", "furthest", "text", "short"),
    [
        (0, 0, "w3 · w7", "w3 · w7"),
        (1, 1, "after w3 · w7", "after w3 · w7"),
        (1, 8, "soon after w3 · w7", "w3 · w7 …"),
    ],
)
def test_a_feature_that_follows_words_is_captioned_with_them(nearest, furthest, text, short):
    found = caption(2.5 * (stands(3, nearest, furthest) | stands(7, nearest, furthest)))
    assert sorted(found.words) == ["w3", "w7"]
    assert found.correlation == pytest.approx(1)
    named = Caption(found.kind, tuple(sorted(found.words)), 1.0)
    assert (named.text, named.short) == (text, short)


def test_the_correlation_is_that_of_the_words_with_the_activation():
    activation = np.abs(RNG.standard_normal(len(TEXT))) * (RNG.random(len(TEXT)) < 0.3)
    found = caption(activation)
    back = KINDS[found.kind]
    any_of = np.any([stands(int(word[1:]), *back) for word in found.words], axis=0)
    assert found.correlation == pytest.approx(np.corrcoef(any_of, activation)[0, 1])
    # no single word of any kind does better
    for nearest, furthest in KINDS.values():
        for word in range(30):
            single = np.corrcoef(stands(word, nearest, furthest), activation)[0, 1]
            assert single <= found.correlation + 0.02


def test_of_equally_good_captions_the_token_itself_is_taken():
    rows = [np.array([1, 2, 3, 1, 2, 4, 4, 3])]
    assert caption(rows[0] == 2, rows).text == "w2"  # and always after w1


def test_a_feature_that_is_never_or_always_active_has_no_caption():
    assert caption(np.zeros(len(TEXT))) == Caption()
    always = caption(np.ones(len(TEXT)))
    assert (always.text, always.correlation) == ("", 0)
    assert always.kind == ""


@pytest.mark.parametrize("power", [-100, -67, 67, 100])
def test_the_scale_of_an_activation_changes_no_caption(power):
    activation = stands(3, 1, 1) * 2.0
    assert caption(activation * 2.0**power) == caption(activation)
