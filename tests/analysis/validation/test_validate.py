"""Validation of planted circuits: each edit does what is known beforehand, checks are exact."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.attribution.contrast import PairAccount
from analysis.attribution.pair_terms import PairTerms, terms_of
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import in_model
from analysis.cli.circuit_text import validation_rows, validation_text
from analysis.discovery.find import find_circuit
from analysis.report.circuit.circuit_tables import validation_tables
from analysis.validation import pair_checks
from analysis.validation.controls import random_pairs
from analysis.validation.criteria import (
    CRITERIA,
    IN_ONE_LAYER,
    Claim,
    Criterion,
    Direction,
    Measure,
    Whole,
    measured,
)
from analysis.validation.edits import EditKind, edited, removing
from analysis.validation.harness import Harness, have_counterparts
from analysis.validation.record import Validation
from analysis.validation.validate import validate
from circuits.corpus import open_corpus
from circuits.errors import BehaviourError, DictionaryError, FeatureRangeError, GraphError
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Interaction, Source
from circuits.model import Model, Site
from tests.support.planted_negation import (
    CAKE,
    GOOD,
    NEGATOR,
    TOM,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    sentiment,
    unseen_behaviour,
)
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_network, small_tokenizer

HALVES = planted_behaviour().halves()
CASES = unseen_behaviour()


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())


@pytest.fixture(scope="module")
def proof(circuit) -> Validation:
    return validate(planted_model(), circuit, CASES, planted_dictionaries(), n_draws=6)


def with_pairs(circuit: Circuit, *pairs: tuple[int, int]) -> Circuit:
    """The same circuit of other pairs."""
    ends = sorted({end for pair in pairs for end in pair})
    return replace(
        circuit,
        features=tuple(Feature(end, f"feature {end}", 0) for end in ends),
        interactions=tuple(Interaction(*pair, 1.0) for pair in pairs),
        gates=(),
    )


def test_the_planted_circuit_is_causal_computed_and_specific(proof):
    assert proof.claims == dict.fromkeys(IN_ONE_LAYER, True)
    assert proof.verdict == "causal; computed here; specific"
    assert [one.met for one in proof.criteria] == [True] * 12
    assert proof.judged.startswith("Judged, of 16 cases or more: all 2 of 2, class 4 of 4")


def test_what_was_judged_to_be_computed_is_said_by_its_strata(proof):
    """That takes enough of every class: a frame of 15 has enough in all of them together, and a
    word of one class has none of the others."""
    labels = ("good", "bad", "not good", "not bad")
    rows = [("class", label, 31) for label in labels]
    for frame, n in (("looked", 16), ("felt", 15)):
        rows += [("frame", frame, 2 * n)]
        rows += [("frame, class", f"{frame}, {label}", n) for label in labels]
    rows += [("adjective", word, 31) for word in ("nice", "awful")]
    strata = pd.DataFrame(rows, columns=["kind", "value", "n"]).assign(judged=True)
    origins = pd.DataFrame({"kind": ["all", "frame"], "value": ["all", "looked"]})
    found = replace(proof, strata=strata, origins=origins)
    assert found.judged.endswith(
        " Computed here was judged, with 16 or more of every class, for all cases; frame 'looked'; "
        "not for frame ('felt' has 15 cases of a class), adjective (none is in every class)."
    )


def test_removing_it_takes_all_and_leaves_the_other_classes_alone(proof):
    plain, removed = proof.edit(EditKind.NONE), proof.edit(EditKind.REMOVE)
    assert plain["removed"] == 0
    assert removed["removed"] == pytest.approx(1, abs=1e-5)
    assert (removed["low"], removed["high"]) == pytest.approx((1, 1), abs=1e-5)
    assert removed["side_effect"] == pytest.approx(0, abs=1e-6)
    assert removed[["not good", "not bad"]].to_numpy(float) == pytest.approx([0, 0], abs=1e-5)
    assert removed[["good", "bad"]].to_numpy(float) == pytest.approx(
        plain[["good", "bad"]].to_numpy(float)
    )


def test_keeping_it_alone_keeps_all_of_the_affected_classes_and_nothing_else(proof):
    kept = proof.edit(EditKind.KEEP)
    assert kept["faithfulness"] >= 1
    assert kept[["good", "bad"]].to_numpy(float) == pytest.approx([0, 0], abs=1e-5)
    assert proof.edit(EditKind.MEAN)["faithfulness"] == 0


def test_each_gate_takes_its_own_class(proof):
    for gate, class_, other in (
        ("negated & positive", "not good", "not bad"),
        ("negated & not positive", "not bad", "not good"),
    ):
        removed = proof.edit(EditKind.REMOVE_GATE, gate)
        assert removed[class_] == pytest.approx(0, abs=1e-5)
        assert removed[other] == pytest.approx(proof.edit(EditKind.NONE)[other])
    lost = proof.parts["faithfulness_lost"]
    assert lost.min() == pytest.approx(lost.max())
    assert lost.min() > 0.5


def test_patching_it_from_the_other_answer_turns_each_answer_round(proof):
    plain, patched = proof.edit(EditKind.NONE), proof.edit(EditKind.PATCH)
    assert patched["removed"] == pytest.approx(2)
    for label in ("not good", "not bad"):
        assert patched[label] == pytest.approx(-plain[label])
    assert patched["good"] == pytest.approx(plain["good"])


def with_cases_of_no_counterpart(behaviour: Behaviour, n: int) -> Behaviour:
    """And as many cases again, of which only the first ``n`` pairs are pairs."""
    more = planted_behaviour(16, "{child} {child} said the {thing}").cases
    alone = (replace(c, pair=c.pair + (100 if c.pair < n else 200 + 50 * place))
             for place, c in enumerate(more))  # fmt: skip
    return replace(behaviour, cases=(*behaviour.cases, *alone))


@pytest.mark.parametrize("n", [0, 3])
def test_a_patch_is_over_the_cases_that_have_a_counterpart(circuit, proof, n):
    mixed = with_cases_of_no_counterpart(CASES, n)
    cases = in_model(mixed, planted_model())
    assert int(have_counterparts(cases).sum()) == len(CASES.cases) + sum(
        c.pair < n for c in planted_behaviour(16).cases
    )
    found = validate(planted_model(), circuit, mixed, planted_dictionaries(), n_draws=1)
    patched = found.edit(EditKind.PATCH)
    assert patched["removed"] == pytest.approx(2)
    assert patched["n_cases"] == int(have_counterparts(cases).sum())
    assert found.edit(EditKind.REMOVE)["n_cases"] == len(mixed.cases)
    if not n:
        whole = proof.edit(EditKind.PATCH)
        for column in ("contrast", "side_effect", "faithfulness", *mixed.labels):
            assert patched[column] == pytest.approx(whole[column], abs=1e-5)
    rows = validation_rows(found)["edits"]
    assert [row["n_cases"] for row in rows if row["kind"] == "patch"] == [patched["n_cases"]]
    assert "n_cases" in validation_text(found)


def test_of_too_few_counterparts_no_patch_is_shown(circuit):
    alone = tuple(replace(c, pair=n if c.pair else 0) for n, c in enumerate(CASES.cases, start=1))
    apart = replace(CASES, cases=alone)
    assert 0 < int(have_counterparts(in_model(apart, planted_model())).sum()) < 5
    found = validate(planted_model(), circuit, apart, planted_dictionaries(), n_draws=1)
    assert EditKind.PATCH not in set(found.edits["kind"])


def test_random_pairs_do_next_to_nothing(proof):
    """They write to directions that no answer reads, and only change what the last norm divides
    by."""
    assert set(proof.random["kind"]) == {"same_number", "same_size"}
    assert len(proof.random) == 12
    loud = proof.random["kind"] == "same_size"
    assert proof.random.loc[~loud, "removed"].abs().max() < 0.2
    assert proof.random.loc[loud, "removed"].max() < 0.2
    assert proof.random.loc[loud, "size"].min() >= 1
    removed = proof.edit(EditKind.UNTRAINED_REMOVE)
    assert abs(removed["contrast"]) < 0.1


def test_every_pair_is_measured_in_the_running_model(proof, circuit):
    assert len(proof.checks) == len(circuit.interactions) * len(circuit.outputs)
    assert proof.checks["off_by"].max() < 1e-10
    assert proof.checks["predicted"].abs().min() > 0.1


def test_a_check_fails_where_the_prediction_is_of_another_layer(circuit, monkeypatch):
    """The checks must be able to fail: here predictions are of weights that do not run."""
    terms = pair_checks.terms_of

    def stretched(*arguments):
        found = terms(*arguments)
        return replace(found, written=1.001 * found.written)

    monkeypatch.setattr(pair_checks, "terms_of", stretched)
    wrong = validate(planted_model(), circuit, HALVES[1], planted_dictionaries(), n_draws=1)
    assert wrong.checks["off_by"].min() > 5e-4


def test_pairs_that_do_not_carry_the_behaviour_are_not_proven(circuit):
    wrong = with_pairs(circuit, (CAKE, TOM))
    found = validate(planted_model(), wrong, CASES, planted_dictionaries(), n_draws=2)
    assert found.claims == {Claim.CAUSAL: False, Claim.COMPUTED: False, Claim.SPECIFIC: False}
    assert found.verdict.startswith("not causal: removing the circuit removes ")
    assert " % of the margin (wanted: at least 60 %), " in found.verdict.split("; ")[0]
    assert abs(found.edit(EditKind.REMOVE)["removed"]) < 0.1


def test_one_pair_alone_is_validated(circuit):
    one = with_pairs(circuit, (NEGATOR, GOOD))
    found = validate(planted_model(), one, CASES, planted_dictionaries(), n_draws=2)
    removed = found.edit(EditKind.REMOVE)
    assert removed["not good"] == pytest.approx(0, abs=1e-5)
    assert removed["removed"] == pytest.approx(0.5, abs=1e-5)
    assert not found.claims[Claim.CAUSAL]
    worst = found.worst_strata.set_index("kind").loc["class"]
    assert (worst["value"].iloc[0], worst["left"].iloc[0]) == ("not bad", pytest.approx(1))


@pytest.mark.parametrize("biases", [False, True])
def test_pairs_of_every_kind_are_checked_exactly(biases):
    """Two features, one with itself, one with the constant, the constant alone; with biases of the
    layer that no input is without."""
    model = Model(small_network(mlp_bias=biases), small_tokenizer(), Path("small"))
    into = small_dictionary(site=Site("mlp_in", 0), k=24)
    out = small_dictionary(9, site=Site("mlp_out", 0))
    x = model.read(in_model(small_behaviour(), model).tokens, "mlp_in@0")[Site("mlp_in", 0)][:, -1]
    a, b = into.active(x).counts.topk(2).indices.sort().values.tolist()
    n = into.n_feature
    circuit = find_like(model, into, out, [(a, b), (a, a), (a, n), (n, n)])
    dictionaries = {into.site: into, out.site: out}
    found = validate(model, circuit, small_behaviour(), dictionaries, n_draws=1)
    assert len(found.checks) == 8
    assert found.checks["predicted"].abs().min() > 1e-3
    assert found.checks["off_by"].max() < 1e-9


def test_a_pair_that_is_never_active_together_is_right_that_it_does_nothing():
    """A difference of rounding errors is not off by a multiple of nothing."""
    model = Model(small_network(), small_tokenizer(), Path("small"))
    into = small_dictionary(site=Site("mlp_in", 0), k=4)
    out = small_dictionary(9, site=Site("mlp_out", 0))
    x = model.read(in_model(small_behaviour(), model).tokens, "mlp_in@0")[Site("mlp_in", 0)][:, -1]
    active = (into.encode(x) > 0).float()
    apart = (active.mT @ active == 0) & (active.sum(0)[:, None] * active.sum(0) > 0)
    pairs = [(int(one), int(other)) for one, other in apart.triu().nonzero()]
    assert pairs, "features that are active, but never together"
    circuit = find_like(model, into, out, [*pairs, (pairs[0][0], pairs[0][0])])
    found = validate(model, circuit, small_behaviour(), {into.site: into, out.site: out}, n_draws=1)
    idle = found.checks["predicted"] == 0
    assert idle.any()
    assert found.checks["off_by"].max() < 1e-6


def test_what_is_kept_goes_with_the_mean_of_the_rest_over_classes_each_alike():
    """On a random model, where that mean is not zero and one class has more cases than others."""
    model = Model(small_network(), small_tokenizer(), Path("small"))
    into, out = small_dictionary(k=24), small_dictionary(9, site=Site("mlp_out", 0))
    behaviour = small_behaviour()
    cases = [c for c in behaviour.cases if c.label == "good" or c.pair < 9]
    cases = in_model(replace(behaviour, cases=tuple(cases)), model)
    found = model.read(cases.tokens, ["mlp_in@0", "mlp_out@0"])
    x, y = (activation[:, -1] for activation in found.values())
    a, b, c = into.active(x).counts.topk(3).indices.sort().values.tolist()
    circuit = find_like(model, into, out, [(a, b), (a, c)])
    proof = validate(model, circuit, cases.behaviour, {into.site: into, out.site: out}, n_draws=1)
    terms = PairTerms.of(model, 0, into, [(a, b), (a, c)])
    own = terms(x)

    def with_output(new: torch.Tensor) -> list[float]:
        def function(outputs: torch.Tensor) -> torch.Tensor:
            return torch.cat([outputs[:, :-1], new[:, None]], dim=1)

        with model.replaced({"mlp_out@0": function}):
            return cases.class_means(cases.margins()).tolist()

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values[cases.label == c].mean(0) for c in range(4)]).mean(0)

    labels = list(cases.behaviour.labels)
    kept = with_output(own + mean(y - own))
    assert proof.edit(EditKind.KEEP)[labels].tolist() == pytest.approx(kept, abs=1e-4)
    assert kept != pytest.approx(with_output(own), abs=1e-2)
    whole = with_output(mean(y).expand_as(y))
    assert proof.edit(EditKind.MEAN)[labels].tolist() == pytest.approx(whole, abs=1e-4)


def small_behaviour():
    """Of words without meaning, which the small models know."""
    behaviour = planted_behaviour()
    words = sorted({word for case in behaviour.cases for word in case.text.split()})
    renamed = {word: f"w{i + 4}" for i, word in enumerate(words)}
    cases = tuple(
        replace(
            case,
            text=" ".join(renamed[word] for word in case.text.split()),
            right=("w30",) if case.right == ("glad", "happy") else ("w31",),
            wrong=("w31",) if case.right == ("glad", "happy") else ("w30",),
        )
        for case in behaviour.cases
    )
    return replace(behaviour, cases=cases)


def find_like(model, into, out, pairs) -> Circuit:
    planted = find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())
    source = Source(model.fingerprint, 0, into.fingerprint, out.fingerprint)
    return replace(with_pairs(planted, *pairs), source=source)


def test_of_classes_that_are_all_affected_nothing_is_said_of_others():
    behaviour = sentiment(planted_behaviour())
    model, dictionaries = planted_model("read"), planted_dictionaries()
    pairs = with_pairs(find_circuit(planted_model(), dictionaries, planted_behaviour()), (1, 1))
    pairs = replace(pairs, source=replace(pairs.source, model=model.fingerprint))
    found = validate(model, pairs, behaviour.halves()[1], dictionaries, n_draws=2)
    assert found.edits["side_effect"].isna().all()
    assert Measure.SIDE_EFFECT not in {one.name for one in found.criteria}
    assert "side_effect" not in validation_text(found).split("Random pairs")[0]


def test_other_circuits_are_controls_in_the_same_table(circuit):
    other = replace(with_pairs(circuit, (CAKE, TOM)), name="other")
    found = validate(
        planted_model(), circuit, HALVES[1], planted_dictionaries(), others=[other], n_draws=1
    )
    assert abs(found.edit(EditKind.OTHER_CIRCUIT, "other")["removed"]) < 0.1


def test_a_control_of_other_dictionaries_is_refused(circuit):
    other = replace(circuit, name="other", source=replace(circuit.source, inputs="0" * 64))
    with pytest.raises(GraphError, match="circuit 'other' is of another run: the hash of"):
        validate(planted_model(), circuit, HALVES[1], planted_dictionaries(), others=[other])


def test_side_effects_are_measured_where_no_answer_is_due(circuit, tmp_path):
    texts = [f"{case.text} {case.right[0]}" for case in HALVES[1].cases]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    text = open_corpus(tmp_path / "text.txt")
    found = validate(
        planted_model(), circuit, HALVES[1], planted_dictionaries(), text=text, n_draws=1
    )
    none, removed = found.side_effects.to_dict("records")
    assert none["kl"] == none["added"] == 0
    # the words after <bos>, and the end where a text has one; its answer is left out
    n_words = sum(len(case.text.split()) for case in HALVES[1].cases)
    assert none["n_token"] == removed["n_token"] == n_words + len(texts)
    assert 0 < removed["kl"] < 1
    again = validate(
        planted_model(), with_pairs(circuit, (CAKE, CAKE)), HALVES[1], planted_dictionaries(),
        text=text, n_draws=1,
    ).side_effects  # fmt: skip
    assert again["kl"].iloc[1] == 0


def test_a_validation_outlives_its_file(proof, tmp_path):
    again = Validation.load(proof.save(tmp_path / "proof.json"))
    assert repr(again) == repr(proof)
    for name, table in vars(proof).items():
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(getattr(again, name), table, check_dtype=len(table) > 0)
    assert validation_text(again) == validation_text(proof)


def test_what_is_not_known_is_null_in_the_file(proof, tmp_path):
    edits = proof.edits.assign(faithfulness=np.nan)
    path = replace(proof, edits=edits).save(tmp_path / "proof.json")
    assert "NaN" not in path.read_text()
    assert Validation.load(path).edits["faithfulness"].isna().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 7}, "is not a validation of this version"),
        ({"schema": "other"}, "is not a validation of this version"),
        ({"more": 1}, r"is not whole: missing nothing, unknown \['more'\]"),
        ({"edits": 5}, "is not whole: edits"),
        ({"random": {"set": []}}, "is not whole: random has only some of the columns set, there"),
        ({"n": "many"}, "is not whole: n"),
        ({"parts": {"first": [1], "second": []}}, "parts has columns of unequal length"),
        ({"criteria": [{"name": "removed"}]}, "is not whole: in criteria, missing"),
        ({"version": 1}, "is not whole: "),
    ],
)
def test_a_file_that_is_not_whole_is_refused(proof, tmp_path, change, said):
    path = proof.save(tmp_path / "proof.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GraphError, match=said):
        Validation.load(path)


def test_a_circuit_of_another_run_is_refused_with_every_hash(circuit):
    model = planted_model()
    model.network.lm_head.weight.data[5, 3] += 1
    into, out = planted_dictionaries().values()
    changed = {into.site: replace(into, bias=into.bias + 1), out.site: out}
    with pytest.raises(GraphError) as refused:
        validate(model, circuit, HALVES[1], changed)
    source, here = circuit.source, changed[into.site]
    assert str(refused.value) == (
        "circuit 'negation' is of another run: the hash of its model is "
        f"{source.model[:12]}…, here {model.fingerprint[:12]}…; the hash of its inputs is "
        f"{source.inputs[:12]}…, here {here.fingerprint[:12]}…. Find it in this one: "
        "circuits find"
    )


def test_what_cannot_be_validated_is_refused(circuit):
    model, dictionaries = planted_model(), planted_dictionaries()
    with pytest.raises(FeatureRangeError, match="n_draws = 0"):
        validate(model, circuit, HALVES[1], dictionaries, n_draws=0)
    with pytest.raises(
        GraphError, match="does not say of which layer, model, inputs, outputs it is"
    ):
        validate(model, replace(circuit, source=Source()), HALVES[1], dictionaries)
    with pytest.raises(GraphError, match="there is no dictionary of mlp_in@0"):
        validate(model, circuit, HALVES[1], {})
    wide = small_dictionary(site=Site("mlp_in", 0))
    other = replace(wide, notes={"activations": {"model": "a" * 64}})
    with pytest.raises(DictionaryError, match="trained on a model of hash aaaaaaaaaaaa"):
        validate(model, circuit, HALVES[1], {other.site: other})


def test_cases_that_the_circuit_was_chosen_on_are_no_test_of_it(circuit):
    model, dictionaries = planted_model(), planted_dictionaries()
    for behaviour, n in ((planted_behaviour(), 64), (HALVES[0], 32)):
        with pytest.raises(BehaviourError) as refused:
            validate(model, circuit, behaviour, dictionaries)
        assert str(refused.value) == (
            f"validate: circuit 'negation' was chosen on 32 of these {n} cases, so they are no "
            "test of it. Pass the half that was held out, behaviour.halves()[1], or other cases."
        )
    spelt = [replace(c, text=c.text.replace(" ", "  "), position=-1) for c in HALVES[0].cases]
    with pytest.raises(BehaviourError, match="chosen on 32 of these 32 cases"):
        validate(model, circuit, replace(HALVES[0], cases=tuple(spelt)), dictionaries)
    fewer = [replace(c, right=c.right[:1], wrong=c.wrong[:1]) for c in HALVES[0].cases]
    assert fewer != [*HALVES[0].cases]
    with pytest.raises(BehaviourError, match="chosen on 32 of these 32 cases"):
        validate(model, circuit, replace(HALVES[0], cases=tuple(fewer)), dictionaries)


def test_a_circuit_that_does_not_say_what_it_was_chosen_on_is_validated_on_any_case(circuit):
    older = replace(circuit, evidence=replace(circuit.evidence, chosen_on=()))
    proof = validate(planted_model(), older, HALVES[0], planted_dictionaries(), n_draws=1)
    assert proof.n == 32


def test_a_circuit_without_pairs_is_refused(circuit):
    none = replace(circuit, interactions=(), gates=())
    with pytest.raises(GraphError, match="'negation' has no pairs, so there is nothing to remove"):
        validate(planted_model(), none, CASES, planted_dictionaries())


def test_a_gate_without_pairs_and_a_control_without_pairs_change_nothing(circuit):
    empty = replace(circuit.gates[0], first=0, second=0)
    some = replace(circuit, gates=(*circuit.gates, empty))
    none = replace(circuit, name="none", interactions=(), gates=())
    found = validate(planted_model(), some, CASES, planted_dictionaries(), others=[none], n_draws=1)
    name = circuit.group_name(0)
    for row in (
        found.edit(EditKind.REMOVE_GATE, f"{name} & {name}"),
        found.edit(EditKind.OTHER_CIRCUIT, "none"),
    ):
        assert (row["n_pairs"], row["removed"], row["side_effect"]) == (0, 0, 0)


def test_a_validation_leaves_no_trace_in_the_model(circuit):
    model = planted_model()
    tokens = in_model(HALVES[1], model).tokens
    before, weights = model.logits(tokens).clone(), model.fingerprint
    validate(model, circuit, HALVES[1], planted_dictionaries(), n_draws=1)
    torch.testing.assert_close(model.logits(tokens), before, rtol=0, atol=0)
    assert replace(model).fingerprint == weights


def test_a_handful_of_cases_proves_nothing():
    """Every other criterion may be met by so few; none of them says more than these did."""
    model, dictionaries = planted_model(), planted_dictionaries()
    circuit = find_circuit(model, dictionaries, planted_behaviour())
    few = validate(model, circuit, unseen_behaviour(3), dictionaries, n_draws=2)
    assert few.verdict == (
        "nothing can be claimed: 3 held-out cases of each class, and 16 are needed: write at least "
        "32 of each"
    )
    assert not any(few.claims.values())


def test_a_model_that_is_wrong_proves_nothing(circuit):
    """Every effect is a share of the margin, and that of the opposite answers is below zero."""
    cases = tuple(replace(case, right=case.wrong, wrong=case.right) for case in CASES.cases)
    wrong = replace(CASES, cases=cases)
    found = validate(planted_model(), circuit, wrong, planted_dictionaries(), n_draws=2)
    assert not any(found.claims.values())
    assert "right cases of the model in each class: 0 % (wanted: at least 75 %)" in found.verdict


def test_a_criterion_is_met_on_its_own_side():
    removed = Criterion(Measure.REMOVED, Direction.AT_LEAST, 0.6)
    assert [replace(removed, value=v).met for v in (0.59, 0.6, None)] == [False, True, False]
    left = Criterion(Measure.LEFT, Direction.AT_MOST, 0.5)
    assert [replace(left, value=v).met for v in (0.51, 0.5, None)] == [False, True, False]


def test_criteria_are_sentences():
    assert [(str(criterion.claim), criterion.label) for criterion in CRITERIA] == [
        ("None", "cases of each class: at least 16"),
        ("None", "right cases of the model in each class: at least 75 %"),
        ("causal", "removing the circuit removes at least 60 % of the margin"),
        ("causal", "removing it leaves at most 50 % of the margin in any stratum"),
        ("causal", "keeping only the circuit keeps at least 60 % of the effect in any stratum"),
        ("computed here", "of what its pairs add to the contrast they compute at least 50 %"),
        ("computed here", "of the contrast at most 35 % was in the MLP's input, in any frame"),
        ("computed here",
         "of the contrast at most 20 % comes from the spread within classes, in any frame"),
        ("specific",
         "removing it changes the margin of other classes by at most 25 % in any stratum"),
        ("specific", "as many random pairs remove at most 5 % of the margin (median)"),
        ("specific",
         "random pairs remove at most 10 % of what it does, for what they write (median)"),
        ("specific",
         "random pairs remove at most 33.3 % of what it does, for what they write (worst draw)"),
    ]  # fmt: skip


def test_a_shortfall_says_what_was_measured_and_then_what_was_wanted():
    short = [replace(one, value=0.123456).shortfall for one in CRITERIA]
    assert short[2] == "removing the circuit removes 12.3 % of the margin (wanted: at least 60 %)"
    assert short[3] == (
        "removing it leaves 12.3 % of the margin in the worst stratum (wanted: at most 50 %)"
    )
    assert short[6].endswith(" was in the MLP's input, in the worst frame (wanted: at most 35 %)")
    assert short[9].endswith("remove 12.3 % of the margin (median; wanted: at most 5 %)")
    assert replace(CRITERIA[2], value=None).shortfall == f"{CRITERIA[2].label}: not measured"


def test_what_carries_nothing_is_not_specific(proof):
    """A handful of idle pairs leaves everything else alone, and so do others."""
    idle = tuple(
        replace(one, value=0.01) if one.name is Measure.REMOVED else one for one in proof.criteria
    )
    found = replace(proof, criteria=idle)
    assert found.claims == {Claim.CAUSAL: False, Claim.COMPUTED: True, Claim.SPECIFIC: False}
    assert found.verdict == (
        "not causal: removing the circuit removes 1 % of the margin (wanted: at least 60 %); "
        "computed here"
    )


def test_without_other_classes_only_half_of_specific_is_said(proof):
    alone = replace(proof, strata=proof.strata[proof.strata["affected"]])
    assert alone.claims == dict.fromkeys(IN_ONE_LAYER, True)
    assert alone.verdict == "causal; computed here; specific (random pairs only)"
    assert list(alone.claims_in_words) == [
        "causal",
        "computed here",
        "specific (random pairs only)",
    ]
    assert list(proof.claims_in_words) == ["causal", "computed here", "specific"]


def all_but(circuit: Circuit, harness: Harness, n: int) -> Circuit:
    """The circuit of all pairs that write anything and are active together, but so many."""
    pairs = PairAccount.of(harness.cases, 0, harness.into).pairs
    together = pairs[pairs["together"] >= 0.05]
    ends = list(zip(together["first"].tolist(), together["second"].tolist(), strict=True))
    sizes = terms_of(harness.model, 0, harness.into, with_pairs(circuit, *ends).interactions).sizes
    loud = [end for end, size in zip(ends, sizes.tolist(), strict=True) if size > 0]
    return with_pairs(circuit, *loud[:-n])


def test_where_other_pairs_are_few_the_draws_still_differ(circuit):
    """All that there is, ten times, is one draw."""
    into = planted_dictionaries()[Site("mlp_in", 0)]
    harness = Harness(in_model(CASES, planted_model()), 0, into, 0)
    most = all_but(circuit, harness, 8)
    terms = terms_of(harness.model, 0, into, most.interactions)
    table = random_pairs(harness, most, terms, 10, 0)
    loud = table[table["kind"] == "same_size"]
    assert loud["set"].nunique() > 1
    assert (loud["n_pairs"] < loud["there"]).all()


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        ([0] * 10, "the dictionary has only 4 such pairs, 1 of 10 draws differ, and 5 are needed"),
        ([0, 1], "2 draws were made, and 5 are needed"),
    ],
)
def test_draws_that_are_all_alike_are_not_judged(proof, sets, why):
    tables = tables_of({"all": 0.1}, [(0.0, 0.0)])
    row = {"kind": "same_size", "there": 4, "n_pairs": 4, "size": 0.6, "removed": 0.0,
           "side_effect": 0.0}  # fmt: skip
    loud = pd.DataFrame([row | {"set": own, "draw": n} for n, own in enumerate(sets)])
    many = loud.assign(kind="same_number")
    random = pd.concat([many, loud], ignore_index=True)
    criteria = measured(WHOLE, *tables[:2], random)
    assert [one.name for one in criteria if one.value is None] == [
        Measure.EQUAL, Measure.EQUAL_WORST,
    ]  # fmt: skip
    found = replace(proof, random=random, criteria=criteria)
    assert not found.claims[Claim.SPECIFIC]
    assert f"for what they write (median): not judged, {why}" in found.verdict
    assert found.random_table["distinct"].tolist() == [len(set(sets))] * 2


WHOLE = Whole(n_least=16, shown=1.0, removed=0.9, computed=1.0)


def tables_of(left: dict[str, float], shares: list[tuple[float, float]]) -> list[pd.DataFrame]:
    """Strata, origins and random draws as a validation makes them, of known numbers."""
    strata = [
        ("all" if name == "all" else "frame", name, True, 64, True, 3.7, value, 1.0)
        for name, value in left.items()
    ]
    strata.append(("all", "all", False, 64, True, 3.7, 1.0, 0.0))
    names = ["kind", "value", "affected", "n", "judged", "margin", "left", "kept"]
    origins = pd.DataFrame(shares, columns=["inherited", "within"]).assign(contrast=3.6)
    random = [(kind, n, 0.0, 1.0) for kind in ("same_number", "same_size") for n in range(5)]
    draws = pd.DataFrame(random, columns=["kind", "set", "removed", "size"])
    return [pd.DataFrame(strata, columns=names), origins, draws]


def test_effects_that_oppose_each_other_are_not_averaged():
    """Removal turns the answers in one frame and leaves most of them in another."""
    tables = tables_of({"all": 0.1, "began to": -0.6, "felt": 0.55}, [(0.0, 0.0)])
    found = {one.name: one for one in measured(WHOLE, *tables)}
    assert found[Measure.REMOVED].met
    assert (found[Measure.LEFT].value, found[Measure.LEFT].met) == (0.55, False)


def test_a_stratum_without_a_margin_is_not_passed_over():
    """Of a model that is wrong in one frame nothing can be claimed there."""
    tables = tables_of({"all": 0.1, "felt": float("nan")}, [(0.0, 0.0)])
    found = {one.name: one for one in measured(WHOLE, *tables)}
    assert (found[Measure.LEFT].value, found[Measure.LEFT].met) == (None, False)


def test_a_circuit_that_removes_nothing_is_not_specific():
    tables = tables_of({"all": 1.2}, [(0.0, 0.0)])
    tables[2]["removed"] = 0.5
    found = {one.name: one for one in measured(replace(WHOLE, removed=-0.2), *tables)}
    assert not found[Measure.EQUAL].met
    assert not found[Measure.EQUAL_WORST].met


def test_a_contrast_that_one_frame_inherits_is_not_computed():
    tables = tables_of({"all": 0.0}, [(0.0, 0.0), (-0.4, 0.1), (0.1, 0.0)])
    found = {one.name: one for one in measured(WHOLE, *tables)}
    assert (found[Measure.INHERITED].value, found[Measure.INHERITED].met) == (0.4, False)
    assert found[Measure.WITHIN].met
    for contrast in (0.0, -3.6):  # none, or one that opposes the answer
        tables[1].loc[0, "contrast"] = contrast
        found = {one.name: one for one in measured(WHOLE, *tables)}
        assert (found[Measure.WITHIN].value, found[Measure.WITHIN].met) == (None, False)


def test_after_the_last_mlp_only_the_norm_and_the_logits_are_computed(circuit):
    """And they are what the edited model gives."""
    model = planted_model()
    into = planted_dictionaries()[Site("mlp_in", 0)]
    harness = Harness(in_model(HALVES[1], model), 0, into, 0)
    terms = terms_of(model, 0, into, circuit.interactions)
    assert harness.is_last
    with edited(model, 0, removing(terms)):
        whole = harness.cases.margins()
    torch.testing.assert_close(harness.without(terms), whole)
    torch.testing.assert_close(harness.everywhere(removing(terms)), whole)
    assert (whole - harness.plain).abs().max() > 1


def test_other_bases_need_other_numbers_of_pairs(proof, circuit):
    """The planted product is one hidden unit, and two pairs of features."""
    bases = proof.bases.set_index("basis")
    assert bases.loc["dictionary", "needed"] == len(circuit.interactions) == 2
    assert bases.loc["hidden units", "needed"] == 1
    assert bases.loc["hidden units", "side_effect"] == pytest.approx(1, abs=1e-5)
    assert not bases.loc["random axes", "needed"] <= 2
    assert bases.loc["dictionary", ["removed", "side_effect"]].tolist() == pytest.approx(
        [1, 0], abs=1e-5
    )


def test_a_case_explains_what_it_loses(proof):
    affected = proof.cases[proof.cases["class"].isin(["not good", "not bad"])]
    assert affected["without"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert proof.explained.tolist() == pytest.approx([1] * 5, abs=1e-5)
    assert proof.case_by_case.startswith("Case by case the circuit explains 100 % of a margin")


def test_a_validation_of_0_1_is_read(tmp_path):
    path = Path(__file__).parents[2] / "support" / "files_of_0_1" / "negation.validation.json"
    found, old = Validation.load(path), json.loads(path.read_text())
    assert (found.circuit, found.n, found.seed) == ("negation", old["n"], old["seed"])
    assert list(found.edit_table["edit"][:4]) == old["edits"]["edit"][:4]
    assert found.edit("remove")["removed"] == old["edits"]["taken"][1]
    assert found.edit("remove_gate", "negated & positive")["n_pairs"] == 1
    assert found.edit("other_circuit", "but")["n_pairs"] == 13
    assert np.isnan(found.edit("untrained_remove")["side_effect"])
    assert list(found.random["removed"]) == old["random"]["taken"]
    assert set(found.random["kind"]) == {"same_number", "same_size"}
    assert [one.value for one in found.criteria] == old["criteria"]["value"]
    assert [one.met for one in found.criteria] == old["criteria"]["met"]
    assert found.claims == {}  # it asked other questions
    assert found.verdict.startswith("nothing is claimed: it was validated by 0.1")
    assert "nothing is claimed" in validation_text(found)
    assert found._repr_html_()
    assert len(validation_tables(found, str)) > 5
    assert found.case_by_case == "Case by case: not measured."
    again = Validation.load(found.save(tmp_path / "new.json"))
    pd.testing.assert_frame_equal(again.edits, found.edits)
    assert again.criteria == found.criteria


def test_an_edit_that_was_not_made_is_refused(proof):
    with pytest.raises(GraphError, match="has no edit 'other_circuit' but: it has none, rem"):
        proof.edit(EditKind.OTHER_CIRCUIT, "but")
