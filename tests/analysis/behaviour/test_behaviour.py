"""Behaviours: cases of classes, their JSONL, how a model is asked, and all that is refused."""

import json
from dataclasses import replace

import pytest
import torch

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.built_in import built_in_behaviour, cases_from_stories
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from analysis.discovery.find import find_circuit
from circuits.corpus import built_in
from circuits.corpus.stories.lexicon import Lexicon
from circuits.corpus.stories.prompts import BEHAVIOURS, minimal_pairs
from circuits.corpus.tokenizer import train_tokenizer
from circuits.errors import BehaviourError, FeatureRangeError, ModelError
from tests.support.planted_negation import (
    GLAD,
    SAD,
    WORDS,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    planted_tokenizer,
    sentiment,
)


@pytest.fixture(scope="module")
def model():
    return planted_model()


def changed(number: int, **fields) -> Behaviour:
    """The planted behaviour with one case that is another."""
    cases = list(planted_behaviour().cases)
    cases[number] = replace(cases[number], **fields)
    return planted_behaviour(cases=tuple(cases))


def refused(make) -> str:
    with pytest.raises(BehaviourError) as error:
        make()
    return str(error.value)


# --- files


def test_a_behaviour_outlives_its_file(tmp_path):
    cases = [replace(c, position=-1 if i % 3 else 7) for i, c in
             enumerate(planted_behaviour().cases)]  # fmt: skip
    behaviour = planted_behaviour(cases=tuple(cases))
    path = behaviour.save(tmp_path / "negation.jsonl")
    assert Behaviour.load(path) == behaviour
    assert Behaviour.load(path, "probability", name="other") == replace(
        behaviour, metric="probability", name="other"
    )
    plain = tuple(replace(c, factors={}, pair=None) for c in sentiment(behaviour).cases)
    again = Behaviour("plain", plain).save(tmp_path / "plain.jsonl")
    assert Behaviour.load(again) == Behaviour("plain", plain)
    assert "pair" not in again.read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ('{"text": "a", "label": "x", "label": "y"}', "the key 'label' is there twice in one"),
        ("[1]", "line 2 is not a JSON object. Write one case a line."),
        ('{"text": "a"}', "line 2 has no 'label', no 'right', no 'wrong'. Its keys are text, lab"),
        ({"colour": 1}, "line 2 has an unknown 'colour'. Its keys are text, label, right, wrong"),
        ({"text": None}, "line 2 has text None, which is not text"),
        (
            {"label": None, "right": None},
            "line 2 has label None, which is not text, right None, wh",
        ),
        (
            {"text": 5, "pair": True},
            "line 2 has text 5, which is not text, pair True, which is not a wh",
        ),
        ({"right": "glad"}, "line 2 has right 'glad', which is not a list of words"),
        ({"wrong": [1]}, "line 2 has wrong [1], which is not a list of words"),
        ({"factors": {"a": 1}}, "line 2 has factors {'a': 1}, which is not true or false"),
        ({"position": 1.5}, "line 2 has position 1.5, which is not a whole number"),
        ({"label": "a \ud800"}, "line 2 has '\\ud800' in it, half of a character, which is not te"),
        ({"factors": {"\ud800": True}}, "line 2 has '\\ud800' in it, half of a character"),
    ],
)
def test_a_line_that_is_no_case_is_refused_by_its_number(tmp_path, line, said):
    lines = planted_behaviour().save(tmp_path / "cases.jsonl").read_text().splitlines()
    lines[1] = line if isinstance(line, str) else json.dumps(json.loads(lines[1]) | line)
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    assert said in refused(lambda: Behaviour.load(tmp_path / "cases.jsonl"))


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        ("factors", {"negatd": True, "positive": True},
         "line 3 has the factors 'negatd', 'positive', most lines have 'negated', 'positive'"),
        ("strata", {"chid": "tom"}, "line 3 has the strata 'chid', most lines have 'child'"),
        ("strata", {}, "line 3 has the strata none, most lines have 'child'"),
    ],
)  # fmt: skip
def test_a_name_that_other_lines_do_not_have_is_refused_by_its_line(tmp_path, kind, named, said):
    cases = [replace(case, strata={"child": "tom"}) for case in planted_behaviour().cases]
    path = planted_behaviour(cases=tuple(cases)).save(tmp_path / "cases.jsonl")
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {kind: named})
    path.write_text("\n".join(lines))
    assert refused(lambda: Behaviour.load(path)) == (
        f"{path}: {said}. Name the same in every case."
    )
    lines[5] = json.dumps(json.loads(lines[5]) | {kind: named})
    path.write_text("\n".join(lines))
    assert f"{said} (and 1 more lines have others)" in refused(lambda: Behaviour.load(path))


def test_files_without_cases_are_refused(tmp_path):
    assert "cannot be read" in refused(lambda: Behaviour.load(tmp_path / "none.jsonl"))
    assert "not a regular file (a folder)" in refused(lambda: Behaviour.load(tmp_path))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(lambda: Behaviour.load(tmp_path / "bytes.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert "has no cases. Write one a line" in refused(
        lambda: Behaviour.load(tmp_path / "empty.jsonl")
    )


# --- what contradicts itself


def test_every_fault_is_named_at_once():
    case = Case("a", "one", (), ())
    said = refused(lambda: Behaviour(" ", (case, case)))
    for fault in (
        "1 classes ('one')",
        "it has no name",
        "1 texts are there twice",
        "2 cases without right or wrong answers, as 'a'",
    ):
        assert fault in said


def test_a_class_of_one_case_is_refused():
    behaviour = planted_behaviour()
    cases = [c for c in behaviour.cases if c.label != "not bad" or c.pair == 0]
    said = refused(lambda: planted_behaviour(cases=tuple(cases)))
    assert said == (
        "behaviour 'negation': 'not bad' of one case: without a second one no spread is known, and "
        "no interval. Fix its cases."
    )


def test_three_classes_are_refused():
    cases = [c for c in planted_behaviour().cases if c.label != "not bad"]
    said = refused(lambda: planted_behaviour(cases=tuple(cases)))
    assert "3 classes ('good', 'bad', 'not good'), where 2 or 2 x 2 can be set against" in said
    assert said.endswith("against each other; no case is negated and not positive. Fix its cases.")
    assert "0 classes" in refused(lambda: Behaviour("none", ()))


def test_factors_and_classes_must_agree():
    only = {"negated": True}
    assert "need one factor (or none named), four need two" in refused(
        lambda: changed(3, factors=only)
    )
    both = {"negated": True, "positive": True}
    assert "a class has cases of different factors" in refused(lambda: changed(3, factors=both))
    none = tuple(replace(case, factors={}) for case in planted_behaviour().cases)
    assert "four need two" in refused(lambda: planted_behaviour(cases=none))
    alike = tuple(replace(c, factors={"x": True}) for c in sentiment(planted_behaviour()).cases)
    assert "two classes the same factors" in refused(lambda: Behaviour("alike", alike))


def test_a_case_counts_once_and_in_one_class():
    first = planted_behaviour().cases[0]
    assert "1 texts are there twice with the same position, as 'tom said" in refused(
        lambda: changed(3, text=first.text)
    )
    assert changed(3, text=first.text, position=4)
    assert "1 cases have an answer both right and wrong" in refused(
        lambda: changed(0, wrong=("sad", "glad"))
    )


@pytest.mark.parametrize("name", ["first", "contrast", "removed"])
def test_classes_are_not_named_as_columns_of_its_tables(name):
    cases = tuple(
        replace(c, label=name if c.label == "good" else c.label) for c in planted_behaviour().cases
    )
    said = refused(lambda: planted_behaviour(cases=cases))
    assert f"classes or factors are called '{name}', as columns of its tables are" in said


def test_factors_are_not_named_as_columns_of_its_tables():
    cases = sentiment(planted_behaviour()).cases
    cases = tuple(replace(c, factors={"mean": c.factors["positive"]}) for c in cases)
    assert "called 'mean'" in refused(lambda: Behaviour("sentiment", cases))


def test_texts_that_two_stories_share_count_once():
    behaviour = cases_from_stories(1000, seed=1_000_005)  # 2 of them share their words
    texts = [case.text for case in behaviour.cases]
    assert len(set(texts)) == len(texts) == 999


def test_a_file_with_a_mark_of_its_encoding_is_read(tmp_path):
    path = planted_behaviour().save(tmp_path / "negation.jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Behaviour.load(path) == planted_behaviour()


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_separators_of_lines_that_json_allows_in_a_string_are_read(tmp_path, separator):
    path = planted_behaviour().save(tmp_path / "negation.jsonl")
    path.write_text(path.read_text().replace("tom said", f"tom{separator}said"), "utf-8")
    assert Behaviour.load(path).cases[0].text.startswith(f"tom{separator}said the")


def test_a_text_without_tokens_is_refused(model):
    said = refused(lambda: in_model(changed(3, text="", pair=None), model))
    assert "'' has no token that an answer could follow" in said


def test_answers_that_follow_no_factor_are_refused(model):
    """Half of a class is asked for the opposite of the other half."""
    cases = [
        replace(c, right=c.wrong, wrong=c.right) if c.label == "good" and c.pair % 2 else c
        for c in planted_behaviour().cases
    ]
    said = refused(lambda: in_model(planted_behaviour(cases=tuple(cases)), model).target)
    assert (
        "follows neither a factor nor both together (mean side by class: good 1.00, bad 0.00"
        in said
    )


def test_cases_of_a_pair_are_asked_for_the_same_answers(model):
    said = refused(lambda: in_model(changed(1, right=("upset",), wrong=("happy",)), model))
    assert "is asked for ('upset',) against ('happy',), another case of its pair for" in said
    plain = tuple(replace(c, pair=None) for c in changed(1, right=("upset",)).cases)
    assert "another case of its kind for" in refused(
        lambda: in_model(planted_behaviour(cases=plain), model)
    )


def test_a_name_of_several_lines_is_refused():
    broken = (
        {"label": "not\ngood"},
        {"factors": {"a\n": True}},
        {"strata": {"frame": "so\u2028felt"}},
    )
    for each in broken:
        cases = tuple(replace(case, pair=None, **each) for case in changed(0).cases[:2])
        said = refused(lambda cases=cases: Behaviour("negation", cases))
        assert "is of several lines" in said


def test_what_no_one_knows_is_not_built_in():
    assert "there are negation, pronoun, but, lies" in refused(lambda: built_in_behaviour("irony"))
    with pytest.raises(FeatureRangeError, match="n = 0"):
        built_in_behaviour("negation", n=0)


# --- cases of a model


def test_words_that_are_no_tokens_are_all_listed_with_suggestions(model):
    answers = tuple(f"word{i}" for i in range(10))
    said = refused(lambda: in_model(changed(1, right=(*SAD, "gladly"), wrong=answers), model))
    assert "no token of 'gladly' (it has glad" in said
    assert all(repr(word) in said for word in answers)
    assert (
        "can be an answer: it is unknown, begins with a token that is a space alone, or changes"
        in said
    )


@pytest.mark.parametrize(
    "alike",
    [{"wrong": ("sad", " happy")}, {"right": ("happy", "happy")}, {"right": ("happy ", "happy")}],
)
def test_answers_of_one_token_are_refused(model, alike):
    said = refused(lambda: in_model(changed(0, pair=None, **alike), model))
    assert "are one token, which would count more than once, or for and against" in said
    assert "'happy' and" in said or "and 'happy'" in said


def test_texts_of_unknown_words_are_refused(model):
    said = refused(
        lambda: in_model(changed(2, text="tom said the cakes was not good so felt"), model)
    )
    assert "1 texts have words that the model does not know ('cakes' (it has cake" in said


def test_pairs_of_unequal_length_are_refused(model):
    longer = "tom said the cake was so not good so felt"
    said = refused(lambda: in_model(changed(2, text=longer), model))
    assert "the texts of 1 pairs have unequal numbers of tokens" in said
    assert "or leave out 'pair'" in said
    alone = tuple(replace(c, pair=None) for c in changed(2, text=longer).cases)
    assert len(in_model(planted_behaviour(cases=alone), model)) == 64


@pytest.mark.parametrize(
    "spelt",
    [
        {"text": "tom  said the cake was very good so felt"},
        {"position": -1},
        {"position": 9},
        {"text": "tom said the cake was very good so felt glad", "position": 9},
    ],
)
def test_cases_of_the_same_tokens_up_to_their_position_are_one(model, spelt):
    """A second space is no other text to the tokenizer, nor the last token by its number, nor what
    comes after it."""
    cases = [replace(case, pair=None) for case in planted_behaviour().cases]
    again = replace(cases[0], **spelt)
    said = refused(lambda: in_model(planted_behaviour(cases=(*cases, again)), model))
    assert said == (
        "behaviour 'negation': 1 cases have the same tokens up to their position as an earlier "
        f"case, as {cases[0].text!r} and {again.text!r}: they are one case to the model, and would "
        "count more than once; keep one of each."
    )


@pytest.mark.parametrize("position", [0, 10, -10, 99])
def test_a_position_out_of_range_is_refused(model, position):
    said = refused(lambda: in_model(changed(0, position=position), model))
    assert f"position {position} of 'tom said the cake was very good so felt'" in said
    assert "has the tokens 1 to 9 (0 begins the text), or -1 to -9 from its end" in said


def test_positions_count_from_either_end(model):
    for position, token in ((None, 9), (-1, 9), (9, 9), (-9, 1), (1, 1)):
        assert int(in_model(changed(0, position=position), model).position[0]) == token


def test_margins_are_logits_of_right_less_wrong_answers(model):
    behaviour = planted_behaviour()
    cases = in_model(behaviour, model)
    logits = model.logits(cases.tokens)[:, -1]
    each = {word: logits[:, WORDS.index(word)] for word in (*GLAD, *SAD)}
    glad = (each["glad"] + each["happy"]) / 2 - (each["sad"] + each["upset"]) / 2
    towards = torch.tensor([1.0 if c.right == GLAD else -1.0 for c in behaviour.cases])
    torch.testing.assert_close(cases.margins(), glad * towards)
    chance = logits.softmax(-1)
    glad = sum(chance[:, WORDS.index(w)] for w in GLAD) - sum(
        chance[:, WORDS.index(w)] for w in SAD
    )
    likely = in_model(replace(behaviour, metric="probability"), model)
    torch.testing.assert_close(likely.margins(), glad * towards)


def test_answer_sets_may_be_of_unequal_size(model):
    cases = tuple(
        replace(c, right=c.right[:1] if c.right == SAD else c.right,
                wrong=c.wrong[:1] if c.wrong == SAD else c.wrong)
        for c in planted_behaviour().cases
    )  # fmt: skip
    cases = in_model(planted_behaviour(cases=cases), model)
    torch.testing.assert_close(cases.margins(), in_model(planted_behaviour(), model).margins())
    assert cases.answers == ((tuple(map(WORDS.index, GLAD)), (WORDS.index("sad"),)),)


def test_effects_are_the_class_means_exactly(model):
    cases = in_model(planted_behaviour(), model)
    values = torch.randn(len(cases), 3, generator=torch.Generator().manual_seed(0)).double()
    effects, means = cases.effects(values), cases.class_means(values)
    assert cases.effects_named == ("mean", "negated", "positive", "negated x positive")
    for c, label in enumerate(cases.behaviour.labels):
        case = next(case for case in cases.behaviour.cases if case.label == label)
        n, s = (1.0 if case.factors[f] else -1.0 for f in ("negated", "positive"))
        made = effects[0] + n * effects[1] + s * effects[2] + n * s * effects[3]
        torch.testing.assert_close(made, means[c])
    assert cases.effects_named[cases.target] == "negated x positive"
    assert in_model(sentiment(cases.behaviour), model).target == 1


def test_bootstrap_draws_are_of_whole_pairs_and_of_one_seed(model):
    cases = in_model(planted_behaviour(), model)
    numbers = cases.pair.double()
    draws = cases.resampled(numbers, 50, seed=3)
    assert draws.shape == (50, 4)
    # the classes of a pair are drawn together, so a number of the pair has one mean in all of them
    torch.testing.assert_close(draws, draws[:, :1].expand(-1, 4))
    assert draws[:, 0].std() > 0.1
    torch.testing.assert_close(
        in_model(planted_behaviour(), model).resampled(numbers, 50, 3), draws
    )
    plain = tuple(replace(c, pair=None) for c in planted_behaviour().cases)
    free = in_model(planted_behaviour(cases=plain), model).resampled(numbers, 50, 3)
    assert float((free - free[:, :1]).abs().max()) > 0.1


def test_what_is_computed_of_an_edited_model_is_not_kept():
    model, (into, _) = planted_model(), planted_dictionaries().values()
    cases, fresh = (in_model(planted_behaviour(), model) for _ in range(2))
    plain = PairAccount.of(cases, 0, into)
    assert PairAccount.of(cases, 0, into) is plain
    with model.replaced({"mlp_in@0": lambda x: 2 * x}):
        edited = [PairAccount.of(each, 0, into) for each in (cases, fresh)]
        with pytest.raises(ModelError, match="is replaced at the moment"):
            find_circuit(model, planted_dictionaries(), planted_behaviour())
    for each in edited:
        torch.testing.assert_close(each.x, 2 * plain.x)
    assert PairAccount.of(cases, 0, into) is plain
    torch.testing.assert_close(PairAccount.of(fresh, 0, into).x, plain.x)


def test_every_bootstrap_draw_has_every_class(model):
    """Of a class that is in few pairs, a draw of pairs may have none: it is drawn again."""
    behaviour = sentiment(planted_behaviour())
    labels = [case.label for case in behaviour.cases]
    kept, seen = [], 0
    for case, label in zip(behaviour.cases, labels, strict=True):
        seen += label == labels[0]
        kept += [case] if label != labels[0] or seen <= 2 else []
    cases = in_model(replace(behaviour, cases=tuple(kept)), model)
    ones = torch.ones(len(cases), dtype=torch.float64)
    draws = cases.resampled(ones, 2000, seed=3)
    torch.testing.assert_close(draws, torch.ones_like(draws))
    again = in_model(replace(behaviour, cases=tuple(kept)), model).resampled(ones, 2000, seed=3)
    torch.testing.assert_close(again, draws)


# --- halves


def test_halves_have_every_class_and_no_pair_in_common():
    behaviour = planted_behaviour()
    one, other = behaviour.halves()
    assert {c.pair for c in one.cases} | {c.pair for c in other.cases} == set(range(16))
    assert not {c.pair for c in one.cases} & {c.pair for c in other.cases}
    assert one.labels == other.labels == behaviour.labels


def test_pairs_of_different_classes_are_each_halved():
    """Pairs 0, 2, … are of negated cases and the others of plain ones: by number alone, each half
    would lack two classes."""
    cases = tuple(
        replace(c, pair=2 * c.pair + (not c.factors["negated"])) for c in planted_behaviour().cases
    )
    for half in planted_behaviour(cases=cases).halves():
        assert sorted(half.labels) == ["bad", "good", "not bad", "not good"]


def test_too_few_cases_for_two_halves_are_refused():
    assert refused(planted_behaviour(2).halves) == (
        "behaviour 'negation' has too few cases of 'good', 'bad', 'not good', 'not bad': a circuit "
        "is chosen on one half of the cases and measured on the other, and each half needs two of "
        "every class. Write at least 32 of every class: a claim needs 16 of them held out."
    )


# --- built in, and other tokenizers


@pytest.fixture(scope="module")
def word_model():
    tokenizer = train_tokenizer(built_in(0, lies=True), n_documents=2000)
    return replace(planted_model(), tokenizer=tokenizer)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_built_in_behaviours_fit_the_stories_words(name, word_model):
    behaviour = built_in_behaviour(name, word_model, 200, seed=1)
    assert len({case.text for case in behaviour.cases}) == len(behaviour.cases)
    assert len(behaviour.cases) == 200 * len(behaviour.labels)
    assert in_model(behaviour, word_model).target == (3 if name in ("negation", "lies") else 1)
    assert built_in_behaviour(name, word_model, 200, seed=1) == behaviour
    assert built_in_behaviour(name, word_model, 200, seed=2) != behaviour


def test_stories_up_to_a_reaction_are_in_the_classes_of_their_truth(word_model):
    behaviour = cases_from_stories(200, seed=3)
    assert len(behaviour.cases) > 190
    assert set(behaviour.labels) == {"good", "bad", "not good", "not bad"}
    lexicon = Lexicon()
    for case in behaviour.cases:
        negated, positive = case.factors["negated"], case.factors["positive"]
        assert case.label == ("not " if negated else "") + ("good" if positive else "bad")
        assert (case.right[0] in lexicon.glad) == (negated != positive)
        # the sentence that is reacted to has a negator if, and only if, its class has
        words = case.text.split(" . ")[-1].split()
        assert negated == bool(set(words) & set(lexicon.negators))
    assert in_model(behaviour, word_model).effects_named[3] == "negated x positive"


def test_a_story_that_comes_twice_counts_once():
    """Of these thousand, one is the beginning of another."""
    behaviour = cases_from_stories(1000, seed=2)
    texts = [case.text for case in behaviour.cases]
    assert len(set(texts)) == len(texts) == 999


def test_a_pair_that_is_drawn_twice_counts_once():
    """Of so many pairs of pronouns a few texts come twice."""
    drawn = [
        text
        for seed in (4, 5)
        for pair in minimal_pairs("pronoun", 1000, seed=seed)
        for text in pair.texts
    ]
    assert len(set(drawn)) < len(drawn)
    behaviour = built_in_behaviour("pronoun", n=2000, seed=2)
    assert len({case.text for case in behaviour.cases}) == len(behaviour.cases) == 4000


def test_a_tokenizer_of_few_words_is_asked_with_those():
    model = planted_model()
    said = refused(lambda: built_in_behaviour("negation", model, 8))
    assert said.startswith("computed: the built-in 'negation' is of the stories' words, and its ")
    assert "fewer than two of those for glad, sad, cheers, tears as single tokens" in said
    assert "docs/guide.md describes them under 'Cases of your own'" in said
    said = refused(lambda: built_in_behaviour("pronoun", model, 8))
    assert "the built-in 'pronoun' " in said
    assert "fewer than two of those for boys, girls" in said
    assert "glad" not in said


@pytest.fixture(scope="module")
def pieces_model():
    """Words in pieces, with a mark for the space before a word."""
    tokenizer = train_tokenizer(built_in(0), "bpe", n_words=340, n_documents=500)
    return replace(planted_model(), tokenizer=tokenizer)


def in_pieces(right: tuple[str, ...], wrong: tuple[str, ...]) -> Behaviour:
    each = {"cake": (right, wrong), "film": (wrong, right)}
    return Behaviour("pieces", tuple(
        Case(f"the {word}{i}", word, *each[word]) for word in each for i in range(2)
    ))  # fmt: skip


def begins(tokenizer, *words: str) -> list[int]:
    """The first token of each after a space."""
    return [tokenizer(f"the {word}")["input_ids"][len(tokenizer("the")["input_ids"])]
            for word in words]  # fmt: skip


def test_answers_in_pieces_are_those_after_a_space(pieces_model):
    tokenizer = pieces_model.tokenizer
    whole = [t[1:] for t in tokenizer.get_vocab() if t.startswith("Ġ") and t[1:].isalpha()]
    right, wrong = sorted(word for word in whole if len(word) > 2)[:2]
    known = in_model(in_pieces((right,), (wrong,)), pieces_model)
    vocabulary = tokenizer.get_vocab()
    assert known.answers == (((vocabulary[f"Ġ{right}"],), (vocabulary[f"Ġ{wrong}"],)),)
    assert known.first_pieces == ()
    assert len(tokenizer("the zebra")["input_ids"]) > len(tokenizer("the")["input_ids"]) + 1
    said = refused(lambda: in_model(in_pieces(("zebra",), (wrong,)), pieces_model))
    assert "no token of 'zebra'" in said  # it begins with a space alone


def test_answers_of_several_tokens_are_compared_by_the_first(pieces_model):
    right, wrong = ("miserable", "miffed", "sad"), ("gladdened", "happy")
    known = in_model(in_pieces(right, wrong), pieces_model)
    tokens = [begins(pieces_model.tokenizer, *side) for side in (right, wrong)]
    assert tokens[0][0] == tokens[0][1]  # of two that begin alike the token counts once
    assert known.answers == ((tuple(dict.fromkeys(tokens[0])), tuple(tokens[1])),)
    assert {"miserable by mi", "sad by s"} < set(known.first_pieces)
    said = refused(lambda: in_model(in_pieces(("miserable",), ("miffed",)), pieces_model))
    assert "the answers 'miserable' and 'miffed' begin with one token" in said


def test_the_planted_tokenizer_knows_every_word():
    assert planted_tokenizer()(" ".join(WORDS[4:]))["input_ids"] == [1, *range(4, len(WORDS))]
