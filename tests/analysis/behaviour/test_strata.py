"""Strata: which cases are judged together, and that none is hidden by another."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from analysis.behaviour.built_in import built_in_behaviour
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import in_model
from analysis.behaviour.strata import frames, means, strata
from circuits.errors import BehaviourError
from tests.support.planted_negation import planted_behaviour, planted_model


def named_cases() -> Behaviour:
    """The planted cases, with their child as a word and a frame that all share."""
    behaviour = planted_behaviour()
    cases = tuple(
        replace(case, strata={"child": "tom" if "tom" in case.text else "mia", "frame": "so"})
        for case in behaviour.cases
    )
    return replace(behaviour, cases=cases)


def test_strata_are_classes_and_words_and_each_is_named_once():
    cases = in_model(named_cases(), planted_model())
    found = {(each.kind, each.value): len(each.rows) for each in strata(cases)}
    assert found == {
        ("all", "all"): 32,
        ("class", "not bad"): 16,
        ("class", "not good"): 16,
        ("child", "mia"): 16,
        ("child, class", "mia, not bad"): 8,
        ("child, class", "mia, not good"): 8,
        ("child", "tom"): 16,
        ("child, class", "tom, not bad"): 8,
        ("child, class", "tom, not good"): 8,
    }
    assert {each.value for each in strata(cases) if not each.judged} == {
        "mia, not bad", "mia, not good", "tom, not bad", "tom, not good"
    }  # fmt: skip
    others = {each.value for each in strata(cases, affected=False) if each.kind == "class"}
    assert others == {"good", "bad"}


def test_a_stratum_has_the_mean_of_its_own_cases():
    cases = in_model(named_cases(), planted_model())
    values = torch.arange(float(len(cases)))
    some = strata(cases)
    wanted = [float(values[each.rows].mean()) for each in some]
    assert means(values, some).tolist() == pytest.approx(wanted)


def test_frames_have_every_class():
    cases = in_model(named_cases(), planted_model())
    assert [(kind, value) for kind, value, _ in frames(cases)] == [("all", "all")]
    twice = named_cases()
    again = tuple(
        replace(case, text=f"so {case.text}", pair=None if case.pair is None else case.pair + 100)
        for case in twice.cases
    )
    more = in_model(replace(twice, cases=twice.cases + again), planted_model())
    assert [(kind, value) for kind, value, _ in frames(more)] == [
        ("all", "all"), ("child", "mia"), ("child", "tom")
    ]  # fmt: skip


def test_built_in_cases_name_their_frames_and_words():
    behaviour = built_in_behaviour("negation", n=400)
    _, held_out = behaviour.halves()
    case = held_out.cases[0]
    assert set(case.strata) == {"frame", "modifier", "adjective"}
    assert all(word in case.text.split() for word in (case.strata["adjective"],))
    for kind in ("frame", "modifier", "adjective"):
        some = [c.strata[kind] for c in held_out.cases if c.label == "not good"]
        assert min(some.count(word) for word in set(some)) >= 16


@pytest.mark.parametrize("name", ["negation", "pronoun", "but"])
def test_halves_of_fresh_words_share_none(name):
    one, other = built_in_behaviour(name, n=40, fresh_words=True).halves()
    for kind in set(one.cases[0].strata) - {"frame"}:
        words = [{case.strata[kind] for case in half.cases} for half in (one, other)]
        assert all(words)
        assert not words[0] & words[1]
    assert set(one.other_words(other)) == set(one.cases[0].strata) - {"frame"}
    one, other = built_in_behaviour(name, n=40).halves()
    assert one.other_words(other) == ()


def test_cases_of_unlike_strata_are_refused():
    cases = planted_behaviour().cases
    mixed = (replace(cases[0], strata={"child": "tom"}), *cases[1:])
    with pytest.raises(BehaviourError, match="some cases have the strata 'child' and others none"):
        Behaviour("negation", mixed)


def test_strata_are_kept_in_the_file(tmp_path):
    behaviour = named_cases()
    again = Behaviour.load(behaviour.save(tmp_path / "negation.jsonl"))
    assert again.cases == behaviour.cases


@pytest.mark.parametrize("name", ["class", "all", "last token"])
def test_names_that_every_behaviour_has_are_refused(name):
    behaviour = planted_behaviour()
    cases = tuple(replace(case, strata={name: "a"}) for case in behaviour.cases)
    with pytest.raises(BehaviourError, match=f"strata are called '{name}', which every behaviour"):
        replace(behaviour, cases=cases)


@pytest.mark.parametrize("read", ["", "\ufffd"])
def test_last_tokens_that_read_alike_are_strata_of_their_own(read):
    model = planted_model()
    words = deepcopy(model.tokenizer)
    words.decode = lambda _tokens: read
    cases = in_model(named_cases(), replace(model, tokenizer=words))
    earlier = cases.pair % 2 == 0  # half of the pairs are asked one token before the others
    moved = replace(cases, position=cases.position - earlier.long())
    tokens = moved.tokens[torch.arange(len(moved)), moved.position].unique()
    assert len(tokens) == 2
    found = {each.value for each in strata(moved) if each.kind == "last token"}
    assert found == set(model.token_texts(tokens.tolist()))
