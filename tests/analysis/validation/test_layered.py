"""Circuits through several layers are judged in every class, and against pairs that do
something."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import find_circuit, validate
from analysis.attribution.across.recorded import Recorded
from analysis.attribution.pair_terms import PairTerms
from analysis.cli.layered_text import layered_validation_text
from analysis.report.pages.layered import headline, layered_page
from analysis.runs.belonging import LayeredFound
from analysis.validation.controls import PairPool, random_draws, size_of
from analysis.validation.criteria import CRITERIA_ACROSS, Measure, Whole, measured_across
from analysis.validation.edits import DrawKind
from circuits.model.site import Site
from tests.support.planted_negation import (
    GOOD,
    NEGATOR,
    both_layers,
    input_rows,
    planted_behaviour,
    planted_model,
    sentiment,
    unseen_behaviour,
)

N_PAIRS = 8  # of the planted circuit
MODEL, DICTIONARIES = planted_model("moved"), both_layers("moved")


@pytest.fixture(scope="module")
def moved():
    return find_circuit(MODEL, DICTIONARIES, planted_behaviour(), across=True)


def proven(circuit, behaviour, n_draws=2):
    return validate(MODEL, circuit, behaviour, DICTIONARIES, n_draws=n_draws)


@pytest.fixture(scope="module")
def proof(moved):
    return proven(moved, unseen_behaviour(), 6)


def draws(removed=0.0, size=1.0, n_pairs=N_PAIRS, sets=range(6)):
    """Of both kinds, all alike."""
    row = {"there": 20, "n_pairs": n_pairs, "size": size, "free": removed, "frozen": removed}
    return pd.DataFrame(
        [
            {"kind": kind.value, "draw": draw, "set": own} | row
            for kind in DrawKind
            for draw, own in enumerate(sets)
        ]
    )


def judged(random, strata=(("class", True, 1.0), ("class", False, 1.0))):
    """The criteria's values, of strata with what is kept of each."""
    table = pd.DataFrame(strata, columns=["kind", "affected", "kept"])
    table = table.assign(judged=table["kept"] != 0.1, left=0.0)
    whole = Whole(n_least=16, shown=1.0, removed=0.9)
    return measured_across(whole, N_PAIRS, table, random.rename(columns={"free": "removed"}))


def value(criteria, name):
    return next(one.value for one in criteria if one.name is name)


def test_without_minimal_pairs_there_is_no_patch_and_the_rest_is_measured(moved, proof):
    whole = unseen_behaviour()
    alone = replace(whole, cases=tuple(replace(case, pair=None) for case in whole.cases))
    found = proven(moved, alone)
    assert "patch" not in set(found.edits["kind"])
    assert found.edit("remove")["free"] == pytest.approx(proof.edit("remove")["free"], abs=1e-6)


def test_a_circuit_must_keep_the_effect_of_classes_that_are_not_affected_too(moved):
    """Without two pairs of "not good" it keeps less in other classes than in affected ones."""
    first, last = moved.stages
    not_good = len(input_rows()) + 1  # the feature of the second layer
    stages = (
        replace(first, interactions=tuple(
            pair for pair in first.interactions if (pair.first, pair.second) != (NEGATOR, GOOD)
        )),
        replace(last, interactions=tuple(
            pair for pair in last.interactions if not_good not in (pair.first, pair.second)
        )),
    )  # fmt: skip
    found = proven(replace(moved, stages=stages), unseen_behaviour())
    assert found.edit("remove")["n_pairs"] == N_PAIRS - 2
    least = found.strata.groupby("affected")["kept"].min()
    assert least[False] < least[True] - 0.5
    assert value(found.criteria, Measure.KEPT) == least[False]


def test_the_effect_must_be_kept_in_the_judged_strata_of_every_class():
    kept = (("class", True, 0.9), ("class", False, 0.5), ("frame", False, 0.1))
    (criterion,) = (one for one in judged(draws(), kept) if one.name is Measure.KEPT)
    assert criterion.value == 0.5  # the third is not judged
    assert not criterion.met


def test_where_a_model_answers_nothing_other_classes_are_not_judged(moved):
    cases = [replace(case, strata={"frame": "felt"}) for case in unseen_behaviour().cases]
    cut = [
        replace(case, text=case.text.removesuffix(" felt"), strata={"frame": "cut"}, pair=None)
        for case in unseen_behaviour().cases
        if case.label == "good"
    ]
    cases = [replace(case, pair=None) for case in cases]
    found = proven(moved, replace(unseen_behaviour(), cases=(*cases, *cut)))
    table = found.strata.set_index("value")
    assert table.loc["cut", "n"] == 16
    assert not table.loc["cut", "affected"]
    assert table["judged"].to_dict() == {value: value != "cut" for value in table.index}
    assert value(found.criteria, Measure.KEPT) == table["kept"].min()  # NaN where it is cut


def test_it_is_beyond_random_pairs_where_those_of_either_sign_do_little(proof):
    few = replace(proof, random=draws(0.01), criteria=judged(draws(0.01)))
    assert few.claims == {"causal": True, "beyond random pairs": True}
    assert few.verdict == (
        "causal; beyond random pairs (without its pairs other classes change by up to 100 %)"
    )
    raising = judged(draws(-0.5))
    assert value(raising, Measure.RANDOM_CHANGE) == pytest.approx(0.5)
    assert value(raising, Measure.EQUAL_CHANGE_WORST) == pytest.approx(0.5 / 0.9)
    found = replace(proof, random=draws(-0.5), criteria=raising)
    assert not found.claims["beyond random pairs"]
    assert "as many random pairs change the margin by 50 % (median; wanted" in found.verdict


@pytest.mark.parametrize(
    ("random", "why"),
    [
        (draws(sets=[0] * 6), "has only 20 such pairs, 1 of 6 draws differ, and 5 are needed"),
        (draws(sets=range(2)), "2 draws were made, and 5 are needed"),
        (draws(n_pairs=5), "outside of the circuit of 8 pairs there are only 5 that could be"),
    ],
)
def test_draws_of_the_same_pairs_or_of_too_few_are_not_judged(proof, random, why):
    criteria = judged(random)
    assert value(criteria, Measure.EQUAL_CHANGE) is None
    found = replace(proof, random=random, criteria=criteria)
    assert found.verdict.count("random pairs are not judged, ") == 1
    assert why in found.verdict
    assert not found.claims["beyond random pairs"]


def test_random_pairs_write_something_and_the_planted_ones_are_too_few(proof):
    assert (proof.random["size"] > 0.01).all()
    assert (proof.random["there"] < 2 * N_PAIRS).all()
    assert "random pairs are not judged, outside of the circuit of 8 pairs" in proof.verdict
    assert [one.name for one in proof.criteria] == [one.name for one in CRITERIA_ACROSS]


def test_pairs_that_write_as_much_write_at_most_half_of_what_all_do():
    into = DICTIONARIES[Site("mlp_in", 0)]
    pairs = [(first, second) for first in range(4) for second in range(first, 4)]
    terms = PairTerms.of(MODEL, 0, into, pairs)
    products = torch.rand(3, len(terms), generator=torch.Generator().manual_seed(0))
    pool = PairPool(terms, products, 2, 100.0)
    assert pool.aim == pytest.approx(size_of(terms, products) / 2)
    assert replace(pool, wrote=1e-3).aim == 1e-3
    random = random_draws(
        {0: pool}, 8, np.random.default_rng(0), lambda drawn: {"n": len(drawn[0])}
    )
    assert (random["n_pairs"] == random["n"]).all()
    assert random["set"].nunique() > 1
    again = random_draws({0: pool}, 8, np.random.default_rng(0), lambda drawn: {"n": len(drawn[0])})
    pd.testing.assert_frame_equal(random, again)


def test_the_tables_show_what_random_pairs_do_with_its_sign(proof):
    random = draws(0.1).assign(free=[-0.3, *[0.1] * 11])
    found = replace(proof, random=random)
    row = found.random_table.iloc[0]
    assert (row["free_least"], row["free"], row["free_most"]) == (-0.3, 0.1, 0.1)
    assert "−30 % to 10 %" in layered_validation_text(found)


def test_what_falls_short_is_said_once(proof):
    """Random pairs do nothing here, and that says nothing of a circuit that is not causal."""
    good = tuple(replace(one, value=one.wanted) for one in proof.criteria)
    idle = tuple(replace(one, value=0.25) if one.name is Measure.REMOVED else one for one in good)
    few = tuple(replace(one, value=3.0) if one.name is Measure.CASES else one for one in good)
    assert replace(proof, criteria=idle).claims == {"causal": False, "beyond random pairs": False}
    assert replace(proof, criteria=idle).verdict == (
        "not causal: removing the circuit removes 25 % of the margin (wanted: at least 60 %)"
    )
    assert replace(proof, criteria=few).verdict == (
        "nothing can be claimed: 3 held-out cases of each class, and 16 are needed: write at least "
        "32 of each"
    )


def test_without_other_classes_the_text_says_so_and_nothing_is_added_to_the_verdict(moved):
    cases = sentiment(planted_behaviour(16, "said {child} the {thing}"))
    found = proven(moved, cases)
    text = layered_validation_text(found)
    removed, untrained = (
        next(line for line in text.splitlines() if name in line)
        for name in ("remove the circuit ", "untrained")
    )
    assert removed.count("no other class") == 2
    assert untrained.count("not shown") == 4
    assert "without its pairs" not in found.verdict


def test_cases_of_another_behaviour_are_named(moved, proof):
    found = proven(moved, replace(unseen_behaviour(), name="moods"))
    assert found.behaviour == "moods"
    assert repr(found).startswith("LayeredValidation(negation, on cases of moods: ")
    assert "negation, across layers, on cases of moods: " in layered_validation_text(found)
    assert repr(proof).startswith("LayeredValidation(negation: ")


def test_no_gradients_are_followed_through_held_out_cases(moved, monkeypatch):
    monkeypatch.setattr(Recorded, "of", lambda *_: pytest.fail("cases were recorded"))
    assert proven(moved, unseen_behaviour()).edit("remove")["free"] == pytest.approx(1, abs=1e-4)


def test_a_badge_is_a_claim(moved, proof):
    found = LayeredFound("negation", moved, unseen_behaviour(), proof)
    assert headline(found, "x")["claims"] == {"causal": True, "beyond random pairs": False}


def test_the_page_says_of_how_many_cases_single_pairs_are_and_what_is_judged(moved, proof):
    page = layered_page(LayeredFound("negation", moved, unseen_behaviour(), proof), "x", {})
    captions = {table.key: table.caption for table in page.tables}
    assert "the effect removed, in the first 8 cases of each class. In the" in captions["alone"]
    assert "beyond random pairs, others do not do it" in captions["criteria"]
    assert "below 0 the margin grows" in captions["random"]
    assert "with all else that these MLPs write at its mean" in captions["edits"]
