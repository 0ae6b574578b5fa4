"""A page explains its own words and numbers: who opens it first needs no other document."""

import pytest

from analysis.behaviour.bounds import LEAST
from analysis.lowrank.curve import RankCurve
from analysis.validation.criteria import Claim
from tests.support.reports import page_text


@pytest.fixture(scope="module")
def overview(hostile_run) -> str:
    return page_text(hostile_run[0] / "report", "index")


@pytest.fixture(scope="module")
def circuit(hostile_run) -> str:
    return page_text(hostile_run[0] / "report", "circuit-hostile")


def test_the_main_figure_of_low_rank_is_the_same_everywhere(hostile_run, overview):
    folder, _ = hostile_run
    curve = RankCurve.load(folder / "rank" / "layer-0")
    for text in (overview, page_text(folder / "report", "rank")):
        assert f"{curve.needed_sentence} {curve.needed_conclusion}".strip() in text
        assert "what the layer writes on them, used as directions" in text


def test_every_claim_of_a_badge_is_explained(overview):
    assert "Proven" not in overview
    for claim in Claim:
        assert f"{claim[0].upper()}{claim[1:]}: " in overview


@pytest.mark.parametrize(
    "word",
    ["Stratum", "Frame", "Affected classes", "Effect removed", "Effect kept", "Contrast", "z, q"],
)
def test_words_of_the_tables_are_defined_on_the_overview(overview, word):
    assert f"{word}: " in overview
    assert f"fewer than {LEAST} cases is not judged" in overview
    assert "A share above 100 % means that" in overview


@pytest.mark.parametrize("gate", ["AND", "Inhibition (NOT in a picture)", "OR", "NOR", "XOR"])
def test_every_gate_that_can_occur_is_in_the_legend(overview, gate):
    legend = overview.split("Gate: ")[1].split("Affected classes: ")[0]
    assert gate in legend
    assert "cancels what the first adds" not in legend  # it may add nothing


def test_a_circuits_page_names_the_affected_classes_at_its_top(circuit):
    lead = circuit.split("How it works")[0]
    assert "must be seen: not bad, not <b>good; other classes: bad, <b>good." in lead


def test_the_size_of_a_pair_by_class_and_in_the_picture_are_brought_together(circuit):
    assert "a pair has one number: the mean over the affected classes, on the cases" in circuit


@pytest.mark.parametrize(
    "said",
    [
        "divided by its size (how much it writes, relative to the circuit) and by the share that "
        "the circuit removes. Only removal counts",
        "other circuits of this run removed, for comparison; no criterion uses them",
        "There: how many pairs the basis has",
        "carry 80 % of the contrast in every stratum; empty: not reached within those tried",
        "carried, their share in the worst stratum",
        "that with the most margin left",
        "the least kept may be in another one",
    ],
)
def test_the_tables_of_a_validation_say_how_their_numbers_are_made(circuit, said):
    assert said in circuit


def test_no_page_says_that_a_text_is_empty(circuit, overview):
    """What an empty text is shown as: a sentence that is not there is left out."""
    assert "⟨empty⟩" not in circuit + overview
