"""Circuits through two layers: found where they were planted, with the head between."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import find_circuit, validate
from analysis.discovery.layered_circuit import ALL_OTHERS, LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.discovery.selection import enough_of_each
from analysis.validation.layered_record import LayeredValidation
from circuits.errors import BehaviourError, GraphError, NotFoundError
from tests.support import planted_looks
from tests.support.planted_layers import three_dictionaries, three_layers
from tests.support.planted_negation import (
    BAD,
    FELT_FEATURE,
    GOOD,
    INTENSIFIER,
    NEGATOR,
    both_layers,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    sentiment,
    unseen_behaviour,
)


def found(kind):
    return find_circuit(planted_model(kind), both_layers(kind), planted_behaviour(), across=True)


@pytest.fixture(scope="module")
def moved():
    return found("moved")


@pytest.fixture(scope="module")
def looking():
    """Of a model in which one head looks elsewhere."""
    return find_circuit(
        planted_looks.planted_model(),
        planted_looks.planted_dictionaries(),
        planted_looks.planted_behaviour(),
        across=True,
    )


@pytest.fixture(scope="module")
def proof(moved):
    return validate(
        planted_model("moved"), moved, unseen_behaviour(), both_layers("moved"), n_draws=5
    )


def ends(circuit):
    return {(pair.first, pair.second) for pair in circuit.interactions}


@pytest.mark.parametrize("kind", ["inherited", "moved"])
def test_the_planted_pairs_of_both_layers_are_found_and_no_others(kind):
    circuit = found(kind)
    assert circuit.layers == (0, 1)
    assert ends(circuit.stage(0)) == {(a, b) for a in (NEGATOR, INTENSIFIER) for b in (GOOD, BAD)}
    assert len(ends(circuit.stage(1))) == 4
    assert all(FELT_FEATURE in pair for pair in ends(circuit.stage(1)))


@pytest.mark.parametrize(("kind", "by_head"), [("inherited", 0.0), ("moved", 1.0)])
def test_it_names_the_head_that_carries_the_product(kind, by_head):
    ways = found(kind).ways.set_index(["layer", "way"])["share"]
    assert ways[0, "1.0"] == pytest.approx(by_head, abs=1e-6)
    assert ways[0, "no head"] == pytest.approx(1 - by_head, abs=1e-6)


@pytest.mark.parametrize("kind", ["inherited", "moved"])
def test_what_earlier_pairs_feed_later_ones_is_half_where_they_wrote_one_of_two_features(kind):
    """Each later pair is what the first layer wrote times the last word."""
    circuit = found(kind)
    assert circuit.links["share"].sum() == pytest.approx(0.5, abs=1e-6)
    assert set(circuit.links["pair"]) == {
        f"{one} & {other} in layer 1" for one, other in ends(circuit.stage(1))
    }
    logits = sum(pair.contrast for pair in circuit.stage(1).interactions)
    assert circuit.links["contrast"].sum() == pytest.approx(logits / 2)
    (said,) = (s for s in layered_sentences(circuit) if "The strongest link" in s)
    assert said.startswith("Of what layer 1's pairs add, layer 0's pairs wrote 50 % (each product")


def test_links_of_three_layers_go_from_one_to_the_next_and_not_past_it():
    model, dictionaries = three_layers(), three_dictionaries()
    circuit = find_circuit(model, dictionaries, planted_behaviour(), across=True)
    share = circuit.links.groupby(["from_layer", "layer"])["share"].sum()
    assert share[0, 1] == pytest.approx(0.5, abs=1e-6)
    assert share[1, 2] == pytest.approx(0.5, abs=1e-6)
    assert share[0, 2] == pytest.approx(0, abs=1e-9)


def test_the_first_layer_computes_and_the_second_passes_on(moved):
    shares = moved.shares.set_index("layer")
    assert shares.loc[0, "computed"] == pytest.approx(1, abs=1e-6)
    assert shares.loc[1, "inherited"] == pytest.approx(1, abs=1e-6)
    assert shares["depends"].tolist() == pytest.approx([1, 1], abs=1e-6)


def test_of_one_layer_it_is_that_layers_circuit():
    model, dictionaries = planted_model(), planted_dictionaries()
    alone = find_circuit(model, dictionaries, planted_behaviour())
    (stage,) = found("computed").stages
    assert ends(stage) > ends(alone)  # across layers those that do the same in other classes, too
    assert alone.evidence is not None
    assert stage.evidence is not None
    assert stage.evidence.shares.computed == pytest.approx(alone.evidence.shares.computed)


def test_nothing_is_found_where_the_answers_read_the_word_itself():
    with pytest.raises(NotFoundError, match=r"0\.00 of .* logits depend on layer 0"):
        find_circuit(
            planted_model("read"),
            planted_dictionaries(),
            sentiment(planted_behaviour()),
            across=True,
        )


def test_removing_it_removes_the_behaviour_and_every_pair_does_what_was_predicted(proof):
    found = proof
    edits = found.edits
    whole = edits[(edits["kind"] == "remove") & (edits["target"] == "")].iloc[0]
    assert whole["free"] == pytest.approx(1, abs=1e-4)
    assert whole["side_effect"] == pytest.approx(1, abs=1e-4)  # all classes are told by the product
    pairs = edits[edits["kind"] == "remove_gate"]
    assert len(pairs) == 8
    assert (pairs["off_by"] < 1e-4).all()
    assert pairs["predicted"].to_numpy() == pytest.approx(pairs["measured"].to_numpy(), abs=1e-4)
    of_layers = pairs.groupby(pairs["target"].str[-1])["predicted"].sum()
    assert of_layers.tolist() == pytest.approx([1, 1], abs=1e-4)  # all of a layer's together
    patched = edits[edits["kind"] == "patch"].iloc[0]
    assert patched["free"] == pytest.approx(2, abs=1e-3)  # every answer turns round
    assert found.claims == {"causal": True, "beyond random pairs": False}
    assert "causal; not beyond random pairs: random pairs are not judged, " in repr(found)


def test_an_untrained_model_has_no_shares(proof):
    edits = proof.edits
    untrained = edits[edits["kind"] == "untrained_remove"].iloc[0]
    assert untrained[["frozen", "free"]].isna().all()


def test_half_a_circuit_is_not_causal(moved):
    model, dictionaries = planted_model("moved"), both_layers("moved")
    stage = moved.stage(1)
    half = LayeredCircuit(
        "half", (replace(stage, interactions=stage.interactions[:1]),), moved.ways.iloc[:0]
    )
    found = validate(model, half, unseen_behaviour(), dictionaries, n_draws=5)
    assert not found.claims["causal"]
    assert "not causal: " in found.verdict


def test_cases_that_it_was_chosen_on_are_refused(moved):
    with pytest.raises(BehaviourError, match="was chosen on"):
        validate(planted_model("moved"), moved, planted_behaviour(), both_layers("moved"))


@pytest.mark.parametrize("given", [{"layer": 0}, {"detection_cases": planted_behaviour()}])
def test_what_is_for_one_layer_is_refused(given):
    with pytest.raises(BehaviourError, match="for a circuit of one layer"):
        find_circuit(
            planted_model("moved"), both_layers("moved"), planted_behaviour(), across=True, **given
        )


def test_probabilities_are_refused_for_logit_differences_are_followed():
    behaviour = planted_behaviour(metric="probability")
    with pytest.raises(BehaviourError, match=r"is measured in probabilities.*'logit difference'"):
        find_circuit(planted_model("moved"), both_layers("moved"), behaviour, across=True)


def test_parts_are_taken_until_no_aim_lacks_more_than_is_allowed():
    added = np.array([[0.6, 0.1], [0.3, -0.5], [0.3, 0.0], [0.0, 0.1]])
    aims = np.array([1.0, 0.1])
    assert enough_of_each(added, aims, 0.1, 4) == [0, 2]  # the second harms more than it helps
    assert enough_of_each(added, aims, 0.1, 1) == [0]
    assert enough_of_each(added, aims, 0.4, 4) == [0]
    assert enough_of_each(added, np.array([0.05, -0.3]), 0.1, 4) == []  # below zero: not lacking


def test_two_parts_that_help_together_are_taken_where_none_does_alone():
    """As features of one class each: what one writes in others is taken back by the rest."""
    added = np.array([[-0.94, 0.94, -0.44, 1.44], [1.44, -0.44, 0.94, -0.94],
                      [0.94, -0.94, 1.44, -0.44], [-0.44, 1.44, -0.94, 0.94]])  # fmt: skip
    assert added.sum(0) == pytest.approx([1, 1, 1, 1])
    assert enough_of_each(added, np.ones(4), 0.1, 4) == [0, 1, 2, 3]
    assert enough_of_each(added, np.ones(4), 0.1, 3) == [0, 1]  # two more would be one too many
    useless = np.array([[0.5, -0.5], [-0.5, 0.5]])
    assert enough_of_each(useless, np.array([1.0, 1.0]), 0.1, 4) == []  # nor do two help


def test_a_patch_is_measured_in_the_cases_that_have_a_counterpart(moved):
    model, dictionaries, whole = planted_model("moved"), both_layers("moved"), unseen_behaviour()
    others = planted_behaviour(8, "the {thing} said {child}").cases
    alone = tuple(  # one case of each pair, and all classes alike
        replace(case, pair=case.pair + 16)
        for number, case in enumerate(others)
        if number % 4 == case.pair % 4
    )
    behaviour = replace(whole, cases=(*alone, *whole.cases))
    row = validate(model, moved, behaviour, dictionaries, n_draws=5).edit("patch")
    assert len(behaviour.cases) == 72
    assert row["n_cases"] == 64
    assert row["free"] == pytest.approx(2, abs=1e-3)
    few = replace(whole, cases=(*whole.cases[:60], *alone))
    proof = validate(model, moved, few, dictionaries, n_draws=5)
    assert "patch" not in set(proof.edits["kind"])


def test_stages_are_one_of_each_layer_in_order(moved):
    with pytest.raises(GraphError, match=r"stages of layers \[1, 0\]"):
        LayeredCircuit("turned", moved.stages[::-1], moved.ways)
    with pytest.raises(GraphError, match="no part in layer 7"):
        moved.stage(7)


def test_options_of_one_layers_validation_are_refused(moved):
    with pytest.raises(GraphError, match="goes through several layers"):
        validate(planted_model("moved"), moved, unseen_behaviour(), both_layers("moved"),
                 others=[moved.stage(0)])  # fmt: skip


@pytest.mark.parametrize("kind", ["inherited", "moved"])
def test_what_passes_no_later_mlp_is_known_of_every_way(kind):
    """The product is read by the second MLP alone; what that writes goes to the answers."""
    ways = found(kind).ways
    ways = ways.dropna()
    first, last = (ways[ways["layer"] == layer]["to_answers"] for layer in (0, 1))
    assert first.to_numpy() == pytest.approx(0, abs=1e-6)
    assert last.tolist() == pytest.approx([1], abs=1e-6)


def test_a_circuit_and_its_validation_load_back_as_they_were(moved, proof, tmp_path):
    again = LayeredCircuit.load(moved.save(tmp_path / "circuit.json"))
    assert again.name == moved.name
    assert again.stages == moved.stages
    pd.testing.assert_frame_equal(again.ways, moved.ways, check_exact=True)
    read = LayeredValidation.load(proof.save(tmp_path / "proof.json"))
    for name in ("edits", "strata", "random"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(proof, name), check_exact=True)
    assert (read.circuit, read.behaviour, read.criteria, read.n, read.seed) == (
        proof.circuit, proof.behaviour, proof.criteria, proof.n, proof.seed,
    )  # fmt: skip
    assert repr(read) == repr(proof)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "circuit.json").read_bytes()


def test_a_head_that_looks_elsewhere_is_found_with_its_share_and_its_pair(looking):
    """All of the contrast is because it looks elsewhere."""
    assert looking.layers == (0, 1)
    depends = looking.shares["depends"]
    assert depends[0] == pytest.approx(1, abs=1e-3)  # it writes what the head looks from
    ways = looking.ways.set_index(["layer", "way"])["share"]
    assert ways[0, "where heads look"] == pytest.approx(1, abs=1e-6)
    shares = looking.looks.drop_duplicates(["layer", "head"]).set_index(["layer", "head"])["looks"]
    assert shares[1, 1] == pytest.approx(1, abs=1e-6)
    assert shares.drop((1, 1)).tolist() == pytest.approx([0] * 3, abs=1e-9)
    pairs = looking.looks[looking.looks["distance"].notna()]
    wrote = [f"feature {n} of mlp_out@0" for n in (0, 1)]  # that it is tom, that it is mia
    assert sorted(pairs["query"]) == wrote
    assert set(pairs["key"]) == {"token good"}
    assert pairs["distance"].tolist() == [4, 4]
    assert pairs["share"].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_its_rows_add_up_and_those_beyond_the_strongest_are_one(looking):
    model = planted_looks.stirred(planted_looks.planted_model(), 0.15)
    dictionaries = planted_looks.planted_dictionaries()
    stirred = find_circuit(model, dictionaries, planted_looks.planted_behaviour(), across=True)
    rows = stirred.looks[stirred.looks["share"].notna()]
    assert len(rows) == 9
    assert (rows.iloc[-1]["query"], rows.iloc[-1]["key"]) == (ALL_OTHERS, ALL_OTHERS)
    assert rows["share"].sum() == pytest.approx(1, abs=1e-9)
    sizes = rows["score"].iloc[:-1].abs()
    assert sizes.is_monotonic_decreasing
    assert (rows["share"] * rows["score"].sum()).to_numpy() == pytest.approx(rows["score"])


def test_where_nothing_is_looked_at_otherwise_no_pairs_are_sought(moved):
    assert moved.looks["looks"].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert moved.looks["score"].isna().all()
    assert set(moved.looks["query"]) == {""}


def test_sentences_name_the_head_and_its_strongest_pair(looking, moved):
    lines = layered_sentences(looking)
    (at,) = (n for n, line in enumerate(lines) if "looks elsewhere" in line)
    assert lines[at : at + 2] == [
        "Head 1.1 looks elsewhere in one class than in another: with its pattern at their mean 100 "
        "% of the contrast is gone.",
        "Its strongest pair is feature 0 of mlp_out@0 looking at token good, 4 tokens before: 50 % "
        "of the difference of its scores.",
    ]
    against = looking.looks.assign(looks=-looking.looks["looks"], share=looking.looks["share"] / 9)
    lines = layered_sentences(replace(looking, looks=against))
    assert lines[at].endswith("mean 100 % of the contrast is added.")
    assert lines[at + 1].startswith("No single pair explains that; the strongest is feature 0 of ")
    (said,) = (s for s in layered_sentences(moved) if "looking elsewhere" in s)
    assert said == (
        "No head makes 10 % of the contrast by looking elsewhere in one class than in another; "
        "head 0.0 makes most, 0 %."
    )
    unknown = replace(moved, looks=moved.looks.assign(looks=float("nan")))
    assert any("was not compared" in sentence for sentence in layered_sentences(unknown))
    older = replace(moved, looks=moved.looks.iloc[:0])
    assert len(layered_sentences(older)) == len(layered_sentences(moved)) - 1


def test_several_heads_that_look_elsewhere_are_counted(looking):
    first = looking.looks.iloc[[0]]
    more = pd.concat([first.assign(layer=layer, share=1.0) for layer in range(6)])
    said = [s for s in layered_sentences(replace(looking, looks=more)) if "elsewhere" in s]
    assert [s.split(" looks")[0] for s in said] == [f"Head {layer}.1" for layer in range(4)]
    assert "2 other heads do the same, at most 100 %." in layered_sentences(
        replace(looking, looks=more)
    )


@pytest.mark.parametrize("kind", ["moved", "looking"])
def test_what_heads_look_at_loads_back_as_it_was(kind, tmp_path, request):
    circuit = request.getfixturevalue(kind)
    again = LayeredCircuit.load(circuit.save(tmp_path / "circuit.json"))
    pd.testing.assert_frame_equal(again.looks, circuit.looks, check_exact=True)


Edit = Callable[[dict[str, Any]], object]
CIRCUIT_FAULTS: dict[str, tuple[Edit, str]] = {
    "of another schema": (lambda c: c.update(schema="x"), "is not a layered circuit"),
    "newer": (lambda c: c.update(version=9), r"of schema version 9; this version .* reads 4"),
    "older": (lambda c: c.update(version=3), r"of schema version 3; .* reads 4. Find it again"),
    "without stages": (lambda c: c.update(stages=[]), r"stages of layers \[\]"),
    "links lost": (lambda c: c.pop("links"), r"missing \['links'\]"),
    "a link of no pair": (
        lambda c: c["links"]["pair"].__setitem__(0, "7 & 7 in layer 1"), "no pairs of those layers",
    ),
    "a link from its own layer": (
        lambda c: c["links"]["from_layer"].__setitem__(0, 1), "are not between every two stages",
    ),
    "a link without a share": (
        lambda c: c["links"]["share"].__setitem__(0, None), "another share than contrast",
    ),
    "a link of any share": (
        lambda c: c["links"]["share"].__setitem__(0, 1e300), "another share than contrast",
    ),
    "no link": (
        lambda c: [column.clear() for column in c["links"].values()], "between every two stages",
    ),
    "links of no pair": (
        lambda c: c["links"].update(
            {name: [ALL_OTHERS if "pair" in name else column[0]]
             for name, column in c["links"].items()}
        ), "are not between every two stages",
    ),
    "a link twice": (
        lambda c: [column.append(column[0]) for column in c["links"].values()], "links lists one",
    ),
    "a stage lost": (lambda c: c["stages"].pop(0), r"stages of layers \[1\], chosen in \[0, 1\]"),
    "a way from no stage": (
        lambda c: c["ways"]["layer"].__setitem__(0, 7), "begin in layer 7, of which there is no",
    ),
    "stages turned": (lambda c: c["stages"].reverse(), r"stages of layers \[1, 0\]"),
    "a stage that is none": (lambda c: c["stages"].append(5), "not a list of circuits"),
    "a part of no behaviour": (lambda c: c["stages"][0].update(evidence=None), "of the behaviours"),
    "a pair without a weight": (
        lambda c: c["stages"][1]["interactions"][0].pop("weight"),
        r"stage 1 is not whole: .*missing \['weight'\]",
    ),
    "a field too many": (lambda c: c.update(more=1), r"unknown \['more'\]"),
    "a way by a stranger": (lambda c: c["ways"]["way"].__setitem__(0, "0.0"), "no head of a later"),
    "a way twice": (
        lambda c: [column.append(column[0]) for column in c["ways"].values()], "one of them twice",
    ),
    "columns of unequal length": (lambda c: c["ways"]["way"].pop(), "unequal length"),
    "a share that is text": (lambda c: c["ways"]["share"].__setitem__(0, "x"), "'share' does not"),
    "a choice twice": (lambda c: c["chosen"].append(c["chosen"][0]), "Name each layer once"),
    "a choice without a number": (
        lambda c: c["chosen"][0].pop("missing"), r"in chosen 0, missing \['missing'\]",
    ),
    "choices lost": (lambda c: c.pop("chosen"), r"missing \['chosen'\]"),
    "choices that are no list": (lambda c: c.update(chosen=5), "chosen is not a list"),
    "a stage that is left out": (
        lambda c: c["left_out"].append(
            {"layer": 1, "depends": 0.5, "n_pairs": 2, "carried": 0.25}
        ), r"stages of layers \[0, 1\], chosen in \[0, 1\] and left out \[1\]",
    ),
    "a number beyond all": (lambda c: c["ways"]["share"].__setitem__(0, 1e999), "'share' does not"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "why"), CIRCUIT_FAULTS.values(), ids=CIRCUIT_FAULTS)
def test_a_file_that_is_not_whole_is_refused_in_one_line(moved, tmp_path, edit, why):
    path = moved.save(tmp_path / "circuit.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=why) as refused:
        LayeredCircuit.load(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


LOOKS_FAULTS: dict[str, tuple[Edit, str]] = {
    "no table": (lambda looks: looks.pop("query"), "it lacks query"),
    "a column too many": (lambda looks: looks.update(more=looks["looks"]), "unknown column 'more'"),
    "a head that is none": (lambda looks: looks["head"].__setitem__(0, -1), "'head' does not hold"),
    "a pair lost": (
        lambda looks: [column.pop(1) for column in looks.values()], "shares that do not add up",
    ),
    "a pair twice": (
        lambda looks: [column.insert(0, column[0]) for column in looks.values()],
        r"looks of head 1\.1 list a pair twice",
    ),
    "a share changed": (lambda looks: looks["share"].__setitem__(0, 0.7), "do not add up to 1"),
    "a share lost": (lambda looks: looks["share"].__setitem__(0, None), "without a score or a"),
    "two shares of the contrast": (
        lambda looks: looks["looks"].__setitem__(0, 0.1), "several shares of the contrast",
    ),
    "a query that is a number": (lambda looks: looks["query"].__setitem__(0, 1), "'query' does no"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "why"), LOOKS_FAULTS.values(), ids=LOOKS_FAULTS)
def test_damaged_looks_are_refused_in_one_line(looking, tmp_path, edit, why):
    path = looking.save(tmp_path / "circuit.json")
    content = json.loads(path.read_text())
    edit(content["looks"])
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=why) as refused:
        LayeredCircuit.load(path)
    assert "\n" not in str(refused.value)


PROOF_FAULTS: dict[str, tuple[Edit, str]] = {
    "of one layer": (lambda v: v.update(schema="bilinear-circuits/validation"), "not a validation"),
    "of version 2": (lambda v: v.update(version=2), "not a validation .* of this version. Make it"),
    "no criteria": (lambda v: v.update(criteria=[]), "no row of cases, shown, removed"),
    "an edit lost": (lambda v: v["edits"]["kind"].__setitem__(1, "keep"), "no row of remove"),
    "a kind that is none": (lambda v: v["edits"]["kind"].__setitem__(1, "x"), "'kind' does not"),
    "a table lost": (lambda v: v.pop("random"), r"missing \['random'\]"),
    "a seed that is text": (lambda v: v.update(seed="0"), "not whole: seed"),
}


@pytest.mark.parametrize(("edit", "why"), PROOF_FAULTS.values(), ids=PROOF_FAULTS)
def test_a_validation_that_is_not_whole_is_refused_in_one_line(proof, tmp_path, edit, why):
    path = proof.save(tmp_path / "proof.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=why):
        LayeredValidation.load(path)


def test_files_of_other_kinds_are_not_overwritten(moved, proof, tmp_path):
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    for made in (moved, proof, moved.stage(0)):
        with pytest.raises(GraphError, match="would be lost"):
            made.save(tmp_path / "mine.json")
    stage = moved.stage(0).save(tmp_path / "stage.json")
    with pytest.raises(GraphError, match="is not a layered circuit"):
        moved.save(stage)
    layered = moved.save(tmp_path / "layered.json")
    with pytest.raises(GraphError, match="is not a circuit"):
        moved.stage(0).save(layered)


def test_its_picture_has_every_number_and_its_parts_add_up(moved):
    table = moved.figure().table.set_index(["from", "to"])["share"]
    assert table["layer 0", "head 1.0"] == pytest.approx(1, abs=1e-6)
    assert table["head 1.0", "layer 1"] == pytest.approx(1, abs=1e-6)
    assert table["layer 1", "answers"] == pytest.approx(1, abs=1e-6)
    halves = [share for (_, to), share in table.items() if to.startswith("pair ")]
    assert sum(halves) == pytest.approx(1, abs=1e-6)
    texts = [each["text"] for each in moved.figure().layout["annotations"]]
    assert {"head 1.0", "the answers", "Layer 0: 4 pairs", "100 % of the contrast"} <= set(texts)
    assert not any("norms" in text for text in texts)


def test_a_picture_of_many_pairs_draws_some_and_counts_the_rest(moved):
    stage = moved.stage(0)
    (pair, *_), n = stage.interactions, 9
    more = tuple(
        replace(stage.features[0], feature=100 + i, label=f"feature {100 + i}") for i in range(n)
    )
    pairs = tuple(
        replace(pair, first=feature.feature, second=feature.feature, contrast=0.1 * (i + 1))
        for i, feature in enumerate(more)
    )
    wide = replace(stage, features=more, interactions=pairs, gates=())
    figure = replace(moved, stages=(wide, moved.stage(1))).figure()
    texts = [each["text"] for each in figure.layout["annotations"]]
    assert "3 others" in texts
    assert "Layer 0: 9 pairs" in texts
    assert all(each["font"]["size"] >= 12 for each in figure.layout["annotations"])
    places = [(each["x"], each["y"]) for each in figure.layout["annotations"]]
    assert all(0 < x < figure.layout["width"] and 0 < y < figure.layout["height"]
               for x, y in places)  # fmt: skip
