"""Behaviours built from a model's own words: chosen on one half of them, measured on the other."""

import json
from collections import Counter

import pytest

from analysis import Behaviour, behaviour_from_lexicon, in_model
from analysis.behaviour.bounds import LEAST, SHOWN
from circuits.corpus.tokenizer import token_texts
from circuits.errors import CircuitsError
from circuits.model import load_model
from tests.support.planted_negation import planted_model

KINDS = ("negation", "pronoun", "number", "opposites", "induction")
SHOWN_BY_IT = ("pronoun", "number", "induction")


@pytest.fixture(scope="module")
def model():
    return load_model("stories260K-bilinear", device="cpu")


@pytest.fixture(scope="module")
def built(model):
    return {kind: behaviour_from_lexicon(model, kind) for kind in KINDS}


def refused(*given, **named) -> str:
    with pytest.raises(CircuitsError) as error:
        behaviour_from_lexicon(*given, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def words_of(behaviour: Behaviour, stratum: str) -> set[str]:
    return {case.strata[stratum] for case in behaviour.cases}


@pytest.mark.parametrize("kind", SHOWN_BY_IT)
def test_what_is_reported_is_what_the_model_answers(model, built, kind):
    found = built[kind]
    rows = found.classes.set_index("class")
    for half, name in zip(found.behaviour.halves(), ("", "held-out "), strict=True):
        cases = in_model(half, model)
        shown = dict(zip(half.labels, cases.shown(cases.margins()).tolist(), strict=True))
        for label, share in shown.items():
            assert rows.loc[label, f"{name}right"] == pytest.approx(share)
        assert rows.loc["all", f"{name}cases"] == len(half.cases)
    assert rows.loc["all", "held-out cases"] >= 64
    assert rows.loc["all", "held-out right"] >= 0.8


@pytest.mark.parametrize("kind", SHOWN_BY_IT)
def test_frames_are_chosen_on_words_that_are_not_held_out(model, built, kind):
    found = built[kind]
    chosen, held_out = found.behaviour.halves()
    (stratum,) = set(chosen.cases[0].strata) - {"frame"}
    assert chosen.other_words(held_out) == (stratum,)
    assert found.trials["kept"].tolist() == (found.trials["worst"] >= SHOWN).tolist()
    kept = set(found.trials["frame"][found.trials["kept"]])
    assert words_of(chosen, "frame") == words_of(held_out, "frame") == kept
    tried = found.trials.set_index("frame")
    for half, name in ((chosen, ""), (held_out, "held-out ")):
        cases = in_model(half, model)
        right = dict(zip((case.text for case in half.cases), cases.margins() > 0, strict=True))
        for frame in kept:
            shown = [float(right[c.text]) for c in half.cases if c.strata["frame"] == frame]
            if len(shown) == tried.loc[frame, f"{name}cases"]:  # all are among the cases
                assert sum(shown) / len(shown) == pytest.approx(tried.loc[frame, f"{name}right"])
    assert not any("both halves" in note for note in found.notes)


@pytest.mark.parametrize("kind", SHOWN_BY_IT)
def test_classes_words_and_frames_come_equally_often(built, kind):
    behaviour = built[kind].behaviour
    assert len({*Counter(case.label for case in behaviour.cases).values()}) == 1
    for half in behaviour.halves():
        frames = Counter(case.strata["frame"] for case in half.cases)
        assert max(frames.values()) - min(frames.values()) <= 2  # a pair
    if kind != "induction":  # where two lists of words are in turn
        (stratum,) = set(behaviour.cases[0].strata) - {"frame"}
        for half in behaviour.halves():
            words = Counter(case.strata[stratum] for case in half.cases)
            assert max(words.values()) - min(words.values()) <= built[kind].n_kept


def test_the_same_seed_gives_the_same_cases_and_another_one_others(model, built):
    again = behaviour_from_lexicon(model, "number")
    assert again.behaviour == built["number"].behaviour
    assert json.dumps(again.as_dict()) == json.dumps(built["number"].as_dict())
    other = behaviour_from_lexicon(model, "number", seed=1)
    assert other.behaviour != again.behaviour


@pytest.mark.parametrize("kind", ["negation", "opposites"])
def test_a_model_that_shows_nothing_gets_the_table_of_what_was_tried(built, kind):
    found = built[kind]
    assert found.behaviour is None
    assert found.n_kept == 0
    assert found.n_tried >= 12
    assert (found.trials["cases"] >= 2 * LEAST).all()
    assert (found.trials["worst"] < SHOWN).all()
    assert found.trials["why not"].str.startswith("right in ").all()
    assert len(found.classes) == 0
    assert "0 of " in repr(found)
    assert "right in " in found._repr_html_()


def test_texts_of_opposites_have_as_many_tokens_and_other_answers(model):
    found = behaviour_from_lexicon(model, "opposites", shown=0.01)
    cases = in_model(found.behaviour, model)  # refuses pairs of unequal texts
    assert len(cases) == len(found.behaviour.cases) > 100
    for case in found.behaviour.cases:
        assert case.strata["word"] in case.text
        assert case.wrong == (case.strata["word"],)
    assert any("first token" in note for note in found.notes)


def test_negation_crosses_a_negator_with_a_good_word(model):
    found = behaviour_from_lexicon(model, "negation", shown=1e-9, n=40)
    by_class = {case.label: case for case in found.behaviour.cases[:4]}
    assert len(found.behaviour.cases) <= 160
    assert set(by_class) == {"good", "bad", "not good", "not bad"}
    for label, case in by_class.items():
        assert case.right == (("happy",) if label in ("good", "not bad") else ("sad",))
        assert case.factors == {"negated": "not" in label, "positive": "good" in label}


def test_random_words_of_induction_are_single_tokens_of_the_vocabulary(model):
    frames = ["{a} {b} {x} {a} {b}", "{a} {b} {d} {c} {x} {a} {b}"]
    found = behaviour_from_lexicon(model, "induction", frames=frames, shown=0.01)
    vocabulary = token_texts(model.tokenizer, range(model.n_token))
    for case in found.behaviour.cases:
        (word,), (other,) = case.right, case.wrong
        assert f"▁{word}" in vocabulary
        first, *rest = case.text.split()
        assert rest[0] == word
        assert rest[-1] == first
        assert other not in case.text.split() or "{c}" in case.strata["frame"]
    assert found.first_pieces == ()


def test_frames_and_words_of_ones_own_take_the_place_of_the_ready_ones(model, tmp_path):
    girls, boys = ["Lily", "Sue", "Amy", "Anna"], ["Tim", "Tom", "Max", "Ben"]
    found = behaviour_from_lexicon(
        model, "pronoun", frames=["{name} saw the {thing}. {She}"],
        words={"girls": girls, "boys": boys},
    )  # fmt: skip
    assert found.trials["frame"].tolist() == ["{name} saw the {thing}. {She}"]
    assert words_of(found.behaviour, "name") <= {*girls, *boys}
    path = found.behaviour.save(tmp_path / "pronoun.jsonl")
    assert Behaviour.load(path) == found.behaviour


def test_words_that_both_halves_need_are_reported(model):
    found = behaviour_from_lexicon(model, "pronoun", words={"girls": ["Lily"]})
    assert any(note == "some words of name are in both halves" for note in found.notes)


def test_words_that_no_tokenizer_of_whole_words_knows_are_the_reason():
    found = behaviour_from_lexicon(planted_model(), "negation")
    assert found.behaviour is None
    assert found.trials["why not"].str.startswith("the model does not know The").any()
    assert (found.trials["cases"] == 0).all()


def test_answers_without_a_token_are_an_error_that_names_them(model):
    frame = "In the {place}, the {noun} {is}"
    said = refused(model, "number", frames=[frame])
    assert "no usable answers" in said
    assert "no token for is" in said
    said = refused(model, "number", frames=["The {noun} of {name} {has}"])
    assert "has and have begin with one token" in said
    frames = ["{a} {b} {x} {a} {b}"]
    said = refused(model, "induction", frames=frames, words={"words": ["Lily"]})
    assert "fewer than four words of words" in said
    said = refused(model, "opposites", words={"more": ["small"], "less": ["slow"]})
    assert "no word of less begins with another token than its word of more" in said


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("{name} had a", "does not end with the slot of its answer"),
        ("{name} had a {thing}", "{thing} is no answer"),
        ("a {thing}. {She}", "it lacks {name} before that"),
        ("{name} and {nobody}. {She}", "{nobody} is no slot of it"),
        ("{name", "Write a slot as {name}"),
        ("{} {name} {She}", "{} is no slot of it"),
        ("{name:d}. {She}", "outside of a plain slot"),
        ("{name!x}. {She}", "outside of a plain slot"),
        ("{name:{thing}}. {She}", "outside of a plain slot"),
        ("{name:>999999999}. {She}", "outside of a plain slot"),
        ("{name} had {{a}}. {She}", "outside of a plain slot"),
        ("{name.real}. {She}", "outside of a plain slot"),
        ("{name} \ud800 {She}", "half of a character"),
    ],
)
def test_frames_that_do_not_fit_are_refused(model, frame, said):
    assert said in refused(model, "pronoun", frames=[frame])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"kind": "pronouns"}, "no kind 'pronouns'; there are negation, pronoun"),
        ({"n": 31}, "31 pairs, where a claim needs 32"),
        ({"shown": 0.0}, "must lie between 0 and 1"),
        ({"words": {"girl": ["Lily"]}}, "words for 'girl', of which 'pronoun' has no list"),
        ({"words": {"girls": "Lily"}}, "words is a dict, not a mapping from a text to several"),
        ({"frames": "{name} {She}"}, "frames is '{name} {She}', not several of: a text"),
        ({"words": {"girls": ["Lily", "\ud800"]}}, "half of a character"),
        ({"kind": "opposites", "words": {"more": ["big"]}}, "those at one place belong together"),
    ],
)
def test_what_contradicts_itself_is_refused(model, named, said):
    assert said in refused(model, **({"kind": "pronoun"} | named))
