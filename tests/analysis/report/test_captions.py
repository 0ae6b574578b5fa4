"""A caption names the words that a feature follows, with the correlation that they reach."""

import numpy as np
import pytest

from analysis.report.catalogue.captions import _KINDS, SOON, Caption, _caption, _Condition

DICE = np.random.default_rng(0)
ROWS = [DICE.integers(0, 30, n).astype(np.int64) for n in (40, 1, 25, 0, 60)]
TEXT = np.concatenate(ROWS)


@pytest.fixture(scope="module")
def conditions():
    return {kind: _Condition(ROWS, *back) for kind, back in _KINDS.items()}


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


def caption(activation, conditions) -> Caption:
    return _caption(np.asarray(activation, float), conditions, lambda word: f"w{word}")


@pytest.mark.parametrize(
    ("nearest", "furthest", "text", "short"),
    [
        (0, 0, "w3 · w7", "w3 · w7"),
        (1, 1, "after w3 · w7", "after w3 · w7"),
        (1, 8, "soon after w3 · w7", "w3 · w7 …"),
    ],
)
def test_a_feature_that_follows_words_is_called_by_them(conditions, nearest, furthest, text, short):
    found = caption(2.5 * (stands(3, nearest, furthest) | stands(7, nearest, furthest)), conditions)
    assert sorted(found.words) == ["w3", "w7"]
    assert found.correlation == pytest.approx(1)
    named = Caption(found.kind, tuple(sorted(found.words)), 1.0)
    assert (named.text, named.short) == (text, short)


def test_the_correlation_is_that_of_the_words_with_the_activation(conditions):
    activation = np.abs(DICE.standard_normal(len(TEXT))) * (DICE.random(len(TEXT)) < 0.3)
    found = caption(activation, conditions)
    back = _KINDS[found.kind]
    any_of = np.any([stands(int(word[1:]), *back) for word in found.words], axis=0)
    assert found.correlation == pytest.approx(np.corrcoef(any_of, activation)[0, 1])
    # no single word of any kind does better
    for nearest, furthest in _KINDS.values():
        for word in range(30):
            single = np.corrcoef(stands(word, nearest, furthest), activation)[0, 1]
            assert single <= found.correlation + 0.02


def test_what_is_as_well_told_by_the_token_itself_is_told_by_it():
    rows = [np.array([1, 2, 3, 1, 2, 4, 4, 3])]
    conditions = {kind: _Condition(rows, *back) for kind, back in _KINDS.items()}
    assert caption(rows[0] == 2, conditions).text == "w2"  # and always after w1


def test_of_a_feature_that_is_never_or_always_active_there_is_nothing_to_say(conditions):
    assert caption(np.zeros(len(TEXT)), conditions) == Caption()
    always = caption(np.ones(len(TEXT)), conditions)
    assert (always.text, always.correlation) == ("", 0)
    assert SOON not in always.text
