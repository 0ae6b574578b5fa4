"""find_circuit on transformers whose circuits were put there by hand, and where there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.attribution.contrast import PairAccount
from analysis.behaviour import bounds
from analysis.behaviour.bounds import SHOWN
from analysis.behaviour.in_model import in_model
from analysis.behaviour.strata import strata
from analysis.cli.circuit_text import circuit_rows, circuit_text
from analysis.discovery.find import find_circuit, verdict
from analysis.discovery.selection import covering, kind_of, shares_of_strata
from circuits.errors import (
    ArgumentError,
    BehaviourError,
    DictionaryError,
    FeatureRangeError,
    ModelError,
    NotFoundError,
)
from circuits.graph.circuit import Circuit
from circuits.graph.records import Choice, Selection, Thresholds
from circuits.model import Site
from circuits.model.loading import untrained
from tests.support.planted_negation import (
    BAD,
    FELT_FEATURE,
    GOOD,
    NEGATOR,
    WORDS,
    input_rows,
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    sentiment,
)
from tests.support.small_dictionaries import of_features_scaled


@pytest.fixture(scope="module")
def found() -> Circuit:
    return find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())


def pairs_of(circuit: Circuit) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in circuit.interactions}


def gates_of(circuit: Circuit) -> dict[tuple[str, str], str]:
    name = circuit.group_name
    return {(name(g.first), name(g.second)): g.gate for g in circuit.gates}


def test_the_planted_pairs_are_found_and_no_others(found):
    assert pairs_of(found) == {(NEGATOR, GOOD), (NEGATOR, BAD)}
    assert gates_of(found) == {
        ("negated", "positive"): "inhibition",
        ("negated", "not positive"): "AND",
    }
    good, bad = sorted(found.interactions, key=lambda pair: pair.second)
    assert good.weight == pytest.approx(-bad.weight)
    assert good.weight < 0  # towards the answers of the first case, which are glad


def test_what_is_planted_in_the_mlp_is_computed_there(found):
    shares = found.evidence.shares
    assert shares.computed == pytest.approx(1)
    assert shares.inherited == pytest.approx(0, abs=1e-6)
    assert shares.carried == pytest.approx(1)
    assert shares.direct == pytest.approx(1, abs=1e-6)
    assert shares.error == pytest.approx(0, abs=1e-6)
    assert verdict(found).startswith("computed in this MLP")
    for pair in found.interactions:
        # of the mean over four classes, where contrast is over the two that are affected
        assert pair.computed == pytest.approx(pair.contrast / 2)
        assert (pair.inherited, pair.elsewhere) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("power", [-100, -67, -30, 30, 67, 100])
def test_the_scale_of_a_dictionarys_features_changes_no_gate_and_no_share(found, power):
    scaled = {site: of_features_scaled(one, 2.0**power)
              for site, one in planted_dictionaries().items()}  # fmt: skip
    again = find_circuit(planted_model(), scaled, planted_behaviour())
    assert pairs_of(again) == pairs_of(found)
    assert gates_of(again) == gates_of(found)
    assert again.evidence.shares == found.evidence.shares
    assert [f.label for f in again.features] == [f.label for f in found.features]
    weights = [[p.weight for p in one.interactions] for one in (again, found)]
    assert weights[0] == [weight * 4.0**power for weight in weights[1]]


def with_parts(found: Circuit, computed: float | None, inherited: float | None) -> Circuit:
    """The same circuit, each of its pairs with such parts."""
    pairs = (replace(p, computed=computed, inherited=inherited) for p in found.interactions)
    return replace(found, interactions=tuple(pairs))


def test_a_circuit_of_other_pairs_than_those_that_compute_is_not_called_computed(found):
    said = verdict(with_parts(found, 0.12, 0.88))
    assert said == (
        "the MLP computes the contrast (computed 1.00, inherited 0.00), but not by these pairs: "
        "they compute 12% of what they add"
    )
    assert "they compute 0% of" in verdict(with_parts(found, 1.0, -1.0))  # they add nothing
    assert verdict(with_parts(found, 0.6, 0.4)).startswith("computed in this MLP")


def test_of_a_circuit_that_does_not_say_what_its_pairs_compute_only_the_mlp_is_judged(found):
    assert verdict(with_parts(found, None, None)) == (
        "the MLP computes the contrast (computed 1.00, inherited 0.00), of these pairs it is not "
        "known"
    )


def test_the_classes_are_detected_by_their_own_output_features(found):
    assert {d.label: (d.features, d.f1) for d in found.detectors} == {
        "not good": ((1,), 1.0),
        "not bad": ((3,), 1.0),
    }
    assert {o.feature: o.share for o in found.outputs} == pytest.approx({1: 0.5, 3: 0.5}, rel=1e-5)


def test_a_feature_that_is_always_active_detects_no_class(found):
    """Of a class with a quarter of the cases it has an F1 of 0.4."""
    assert [d.baseline for d in found.detectors] == pytest.approx([0.4, 0.4])
    assert "F1 if always active" in circuit_text(found)
    into, out = planted_dictionaries().values()
    always = replace(out, encoder=torch.zeros_like(out.encoder),
                     bias=torch.arange(out.n_feature, 0, -1).float())  # fmt: skip
    again = find_circuit(planted_model(), {into.site: into, out.site: always}, planted_behaviour())
    assert [(d.features, d.cuts, d.f1) for d in again.detectors] == [((), (), 0.0)] * 2
    assert not any("good" in output.label or "bad" in output.label for output in again.outputs)
    rows = circuit_text(again).split("above their thresholds\n")[1].splitlines()
    assert rows[1].split() == ["not", "good", "none", "0", "0.4"]


def test_features_record_the_effect_of_each_factor(found):
    effects = {f.feature: (f.mean, f.first_effect, f.second_effect) for f in found.features}
    size = effects[NEGATOR][0]
    assert size > 0.5
    assert effects == {
        NEGATOR: pytest.approx((size, size, 0)),
        GOOD: pytest.approx((size, 0, size)),
        BAD: pytest.approx((size, 0, -size)),
    }


def test_a_found_circuit_outlives_its_file(found, tmp_path):
    assert Circuit.load(found.save(tmp_path / "circuit.json")) == found


def test_a_file_without_the_cases_that_it_was_chosen_on_is_read(found, tmp_path):
    path = found.save(tmp_path / "circuit.json")
    content = json.loads(path.read_text())
    assert len(set(content["evidence"].pop("chosen_on"))) == found.evidence.n_cases == 32
    assert content["evidence"].pop("other_words") == []
    path.write_text(json.dumps(content))
    again = Circuit.load(path)
    assert again.evidence == replace(found.evidence, chosen_on=(), other_words=None)
    assert again.evidence.held_out_half == "not recorded"


def test_a_circuit_says_which_answers_are_compared_by_their_first_token(found, tmp_path):
    assert found.evidence.compared == ""
    assert "first: " not in circuit_text(found)
    pieces = ("sad by s", "happy by h")
    cut = replace(found, evidence=replace(found.evidence, first_pieces=pieces))
    again = Circuit.load(cut.save(tmp_path / "circuit.json"))
    said = "Answers of several tokens are compared by the first: sad by s, happy by h."
    assert circuit_text(again).endswith(said)
    assert circuit_rows(again)["source"]["first_pieces"] == [*pieces]


def test_a_circuit_says_which_words_its_held_out_half_has_not_in_common():
    """Of every second pair the thing is another one; child and negator are not."""
    cases = []
    for case in planted_behaviour().cases:
        words = case.text.split()
        cases.append(
            replace(
                case,
                pair=2 * case.pair - 15 * (case.pair > 7),
                strata={"negator": words[5], "thing": words[3], "child": words[0]},
            )
        )
    cases.sort(key=lambda case: case.pair)
    turned = planted_behaviour(cases=tuple(cases))
    found = find_circuit(planted_model(), planted_dictionaries(), turned)
    assert found.evidence.other_words == ("thing",)
    assert found.evidence.held_out_half == "other words (thing)"


def test_a_circuit_says_what_it_was_asked_for():
    found = find_circuit(
        planted_model(), planted_dictionaries(), planted_behaviour(), coverage=0.6, n_pairs=3
    )
    assert found.evidence.thresholds == Thresholds(coverage=0.6, n_pairs=3, right=SHOWN)
    assert found.selection == Selection(Choice.CONTRAST, 0.6, "effects of factors", 0)


def test_a_circuit_says_which_classes_and_factors_it_is_of(found):
    evidence = found.evidence
    assert (evidence.behaviour, evidence.metric) == ("negation", "logit difference")
    assert evidence.factors == ("negated", "positive")
    assert evidence.affected == ("not good", "not bad")
    assert evidence.n_cases == 32
    assert {group.name: group.effect for group in found.groups} == {
        name: name for name in ("negated", "positive", "not positive")
    }


def test_names_with_commas_survive_the_file(tmp_path):
    cases = tuple(
        replace(c, label=c.label.replace("not ", "bad, but "),
                factors={"bad, but": c.factors["negated"], "good, too": c.factors["positive"]})
        for c in planted_behaviour().cases
    )  # fmt: skip
    behaviour = planted_behaviour(cases=cases)
    found = find_circuit(planted_model(), planted_dictionaries(), behaviour)
    again = Circuit.load(found.save(tmp_path / "circuit.json"))
    assert again == found
    assert again.evidence.factors == ("bad, but", "good, too")
    assert again.evidence.affected == ("bad, but good", "bad, but bad")
    assert {group.effect for group in again.groups} == {
        "bad, but", "good, too", "not good, too",
    }  # fmt: skip


def test_finding_twice_is_finding_the_same(found, tmp_path):
    again = find_circuit(planted_model(), planted_dictionaries(), planted_behaviour())
    paths = [each.save(tmp_path / f"{i}.json") for i, each in enumerate((found, again))]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("plain", [False, True])
def test_a_contrast_that_the_mlp_only_reads_is_called_inherited(plain):
    """Low rank proves nothing: two eigenvectors hold this layer's whole form, too."""
    model = planted_model("inherited")
    dictionaries = planted_dictionaries("inherited", plain=plain)
    found = find_circuit(model, dictionaries, planted_behaviour(), layer=1)
    assert verdict(found).startswith("inherited from attention or earlier layers")
    assert found.evidence.shares.inherited == pytest.approx(1)
    assert found.evidence.shares.computed == pytest.approx(0, abs=1e-6)
    assert "inherited" in circuit_text(found)
    account = PairAccount.of(
        in_model(planted_behaviour(), model), 1, dictionaries[Site("mlp_in", 1)]
    )
    form = account.layer.interaction(account.mean_read)
    values, vectors = torch.linalg.eigh(form)
    two = values.abs().topk(2).indices
    kept = (account.x @ vectors[:, two]).square() @ values[two]
    torch.testing.assert_close(kept, ((account.x @ form) * account.x).sum(1))


def test_features_of_one_class_are_grouped_by_it():
    found = find_circuit(
        planted_model("inherited"), planted_dictionaries("inherited"), planted_behaviour()
    )
    assert set(gates_of(found)) == {("not good", "constant"), ("not bad", "constant")}
    assert FELT_FEATURE in {pair.first for pair in found.interactions}


@pytest.mark.parametrize(
    ("means", "group"),
    [
        ([0, 0, 2, 2], "negated"),
        ([2, 2, 0, 0], "not negated"),
        ([2, 0, 2.2, 0.1], "positive"),
        ([1, 0, 0.1, 1], "not negated x positive"),
        ([0.1, 0, 0, 2], "not bad"),
        ([2, 2.1, 0, 2], "all but not good"),
        ([0, 0, -2, 0], "all but not good"),
        ([1, 1, 1, 1], "constant"),
        ([4.5, 4.0, 3.5, 4.0], "in every class"),
        ([8, 4.5, 8, 4.5], "positive"),
    ],
)
def test_a_group_is_named_by_what_moves_its_features(means, group):
    """Means of good, bad, not good, not bad."""
    cases = in_model(planted_behaviour(), planted_model())
    effects = cases.effects(torch.tensor(means).double()[cases.label]).numpy()
    assert kind_of(cases, effects, list(cases.effects_named[1:])) == group


def test_without_a_layer_the_one_that_computes_is_taken():
    model, dictionaries = planted_model("inherited"), planted_dictionaries("inherited")
    at_0 = {
        site: replace(dictionary, site=site)
        for site, dictionary in planted_dictionaries("computed").items()
    }
    found = find_circuit(model, at_0 | dictionaries, planted_behaviour())
    assert found.source.layer == 1


def test_a_model_that_learned_nothing_shows_no_circuit():
    model, dictionaries, behaviour = planted_model(), planted_dictionaries(), planted_behaviour()
    for seed in range(20):
        with pytest.raises(NotFoundError, match="not found: the model does not show this behavio"):
            find_circuit(untrained(model, seed), dictionaries, behaviour)


def test_a_contrast_that_no_mlp_makes_is_not_found():
    behaviour = sentiment(planted_behaviour())
    assert bool((in_model(behaviour, planted_model("read")).margins() > 1).all())
    with pytest.raises(
        NotFoundError,
        match=r"in layer 0, the MLP adds 0\.00 of the 1\.\d\d logits .*needs more than 10%",
    ):
        find_circuit(planted_model("read"), planted_dictionaries(), behaviour)


def test_few_pairs_that_carry_too_little_are_named_as_the_reason(monkeypatch):
    model, dictionaries = planted_model(), planted_dictionaries()
    monkeypatch.setattr(bounds, "CARRIED", 0.9)
    why = r"in layer 0, the best 1 pairs .* carry \d\d% of the .* and a circuit needs 90%\. Allow"
    with pytest.raises(NotFoundError, match=why):
        find_circuit(model, dictionaries, planted_behaviour(), n_pairs=1)


def test_two_plain_classes_without_pairs_or_factors_are_enough():
    cases = tuple(
        replace(case, factors={}, pair=None)
        for case in planted_behaviour().cases
        if case.factors["negated"]
    )
    found = find_circuit(
        planted_model(), planted_dictionaries(), planted_behaviour(cases=cases, name="plain")
    )
    assert found.evidence.affected == ("not good", "not bad")
    assert {GOOD, BAD} <= {f.feature for f in found.features}
    # what one factor changes was in the MLP's input, however it came there
    assert verdict(found).startswith("passed on, not computed: one factor makes it")


def test_pairs_may_come_in_any_order(found):
    cases = list(planted_behaviour().cases)
    for n in range(4, len(cases), 4):  # the first case of the other pairs asks for the other answer
        cases[n : n + 4] = [*cases[n + 1 : n + 4], cases[n]]
    behaviour = planted_behaviour(cases=tuple(cases))
    again = find_circuit(planted_model(), planted_dictionaries(), behaviour)
    assert pairs_of(again) == pairs_of(found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes_have_the_same_circuit(found, dtype):
    model = planted_model().in_dtype(dtype)
    again = find_circuit(model, planted_dictionaries(), planted_behaviour())
    assert pairs_of(again) == pairs_of(found)
    assert again.evidence.shares.computed == pytest.approx(1, abs=0.02)


def test_one_signed_pair_is_found_for_what_it_does_in_all_classes():
    into, out = planted_dictionaries().values()
    axes = torch.stack(input_rows()[:8:2] + input_rows()[8:])
    n = len(axes)
    signed = replace(into, encoder=axes, decoder=axes, bias=torch.zeros(n), relu=False, k=n)
    found = find_circuit(planted_model(), {into.site: signed, out.site: out}, planted_behaviour())
    (pair,) = found.interactions
    assert (pair.first, pair.second) == (0, 1)
    assert pair.elsewhere == pytest.approx(pair.contrast)
    assert verdict(found).startswith("computed")


def test_features_with_thresholds_make_the_same_circuit(found):
    into, out = planted_dictionaries().values()
    cut = replace(into, k=None, threshold=torch.full((into.n_feature,), 0.5))
    again = find_circuit(planted_model(), {into.site: cut, out.site: out}, planted_behaviour())
    assert pairs_of(again) == pairs_of(found)


def test_the_probability_metric_finds_the_same_pairs(found):
    behaviour = planted_behaviour(metric="probability")
    again = find_circuit(planted_model(), planted_dictionaries(), behaviour)
    assert pairs_of(again) == pairs_of(found)
    assert again.evidence.metric == "probability"


def test_detectors_may_be_chosen_on_other_cases(found):
    """On cases that are half of them in another's class, no feature detects a class."""
    model, dictionaries, behaviour = planted_model(), planted_dictionaries(), planted_behaviour()
    cases = list(behaviour.cases)
    for n in range(0, 32, 4):  # of every other half of the pairs, negated and plain texts change
        texts = [case.text for case in cases[n : n + 4]]
        turned = [*texts[2:], *texts[:2]]
        cases[n : n + 4] = [
            replace(c, text=t) for c, t in zip(cases[n : n + 4], turned, strict=True)
        ]
    detection_cases = planted_behaviour(cases=tuple(cases))
    again = find_circuit(model, dictionaries, behaviour, detection_cases=detection_cases)
    assert again.interactions == found.interactions
    assert max(d.f1 for d in again.detectors) < 0.9
    other = sentiment(behaviour)
    with pytest.raises(
        BehaviourError, match="detection_cases has the classes good, bad of positive, the"
    ):
        find_circuit(model, dictionaries, behaviour, detection_cases=other)


def test_what_cannot_be_asked_for_is_refused():
    model, dictionaries, behaviour = planted_model(), planted_dictionaries(), planted_behaviour()
    with pytest.raises(FeatureRangeError, match=r"n_pairs = 0\. Ask for at least 1"):
        find_circuit(model, dictionaries, behaviour, n_pairs=0)
    with pytest.raises(ArgumentError, match="coverage is nan, not a finite number"):
        find_circuit(model, dictionaries, behaviour, coverage=float("nan"))
    for coverage in (0.0, 1.5):
        with pytest.raises(BehaviourError, match="must lie between 0 and 1"):
            find_circuit(model, dictionaries, behaviour, coverage=coverage)
    with pytest.raises(DictionaryError, match=r"for layer 3 \(there are for \[0\]\)"):
        find_circuit(model, dictionaries, behaviour, layer=3)
    with pytest.raises(BehaviourError, match="has too few cases of 'good', 'bad'"):
        find_circuit(model, dictionaries, planted_behaviour(3))


def test_dictionaries_of_another_model_or_site_are_refused_by_name():
    model, behaviour = planted_model(), planted_behaviour()
    into, out = planted_dictionaries().values()
    other = replace(into, notes={"activations": {"model": "f" * 64}})
    with pytest.raises(DictionaryError) as refused:
        find_circuit(model, {into.site: other, out.site: out}, behaviour)
    assert str(refused.value) == (
        "dictionaries of another model or site: mlp_in@0 was trained on a model of hash "
        f"ffffffffffff…, and this one has {model.fingerprint[:12]}…. Load the model that they were "
        "trained on, or train new ones: circuits sae train."
    )
    with pytest.raises(DictionaryError, match="that of mlp_in@0 was trained at mlp_out@0"):
        find_circuit(model, {into.site: out, out.site: into}, behaviour)
    with pytest.raises(DictionaryError, match="there are no dictionaries of mlp_in and mlp_out"):
        find_circuit(model, {into.site: into}, behaviour)


def test_a_model_with_numbers_that_are_not_finite_is_refused_as_such():
    model = planted_model()
    model.network.lm_head.weight.data[WORDS.index("glad"), 0] = float("nan")
    with pytest.raises(ModelError, match="logits_at: 32 of 800 numbers are NaN or infinite"):
        find_circuit(model, planted_dictionaries(), planted_behaviour())


def test_a_dictionary_that_misses_the_contrast_makes_no_circuit():
    """Pairs of features that reconstruct little would add up to another model's numbers."""
    model, dictionaries = planted_model(), planted_dictionaries()
    into = dictionaries[Site("mlp_in", 0)]
    weaker = replace(into, decoder=3 * into.decoder)
    with pytest.raises(NotFoundError, match="dictionary of mlp_in@0 misses too much"):
        find_circuit(model, dictionaries | {Site("mlp_in", 0): weaker}, planted_behaviour())


# --- the search covers strata


def test_a_part_that_carries_the_mean_does_not_carry_a_stratum():
    """The first carries twice what is wanted in one stratum and nothing in the other."""
    shares = np.array([[2.0, 0.0], [0.3, 0.3], [0.0, 0.95]])
    assert covering(shares, 0.9, 3, 0.01) == [0, 2]
    assert covering(shares, 0.9, 1, 0.01) == [0]
    assert covering(shares, 0.25, 3, 0.01) == [1]
    assert covering(shares, 0.9, 3, 2.0) == []


def test_the_gate_on_right_cases_can_be_passed_by():
    model = untrained(planted_model(), 0)
    plain = {site: replace(each, notes={}) for site, each in planted_dictionaries().items()}
    with pytest.raises(NotFoundError, match="does not show this behaviour"):
        find_circuit(model, plain, planted_behaviour())
    with pytest.raises(NotFoundError, match=r"in layer 0, .* and a circuit needs"):
        find_circuit(model, plain, planted_behaviour(), shown=0.0)


def test_the_parts_of_a_complete_basis_sum_to_one_in_every_stratum():
    account = PairAccount.of(in_model(planted_behaviour(), planted_model()), 0,
                             planted_dictionaries()[Site("mlp_in", 0)])  # fmt: skip
    left, right = account.layer.factors
    lifted = account.layer.lift(account.x)
    units = (lifted @ left.mT) * (lifted @ right.mT) * (account.reads @ account.layer.down)
    added = units * account.cases.side.double()[:, None]
    shares = shares_of_strata(account.cases, added, account.case_totals)
    assert shares.shape[1] == len(strata(account.cases))
    assert shares.sum(0) == pytest.approx(1)


def test_a_stratum_to_which_the_layer_adds_nothing_is_left_out():
    cases = in_model(planted_behaviour(), planted_model())
    totals = torch.where(cases.label == cases.behaviour.labels.index("not bad"), 0.0, 2.0).double()
    shares = shares_of_strata(cases, torch.ones(len(cases), 1).double(), totals)
    named = [each.value for each in strata(cases)]
    assert "not bad" in named
    assert shares.shape[1] < len(named)
    assert shares.max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("added", "said"),
    [("tom ", "the texts of 16 pairs have unequal"), ("zebra ", "16 texts have words that the")],
)
def test_a_message_about_cases_counts_those_of_both_halves(added, said):
    behaviour = planted_behaviour()
    cases = tuple(
        replace(case, text=f"{added}{case.text}") if case.label == "good" else case
        for case in behaviour.cases
    )
    for across in (False, True):
        with pytest.raises(BehaviourError, match=said):
            find_circuit(
                planted_model(), planted_dictionaries(), replace(behaviour, cases=cases),
                across=across,
            )  # fmt: skip


def test_a_message_about_the_cases_to_detect_classes_on_counts_those_of_both_halves():
    behaviour = planted_behaviour()
    cases = tuple(replace(case, text=f"zebra {case.text}") for case in behaviour.cases)
    with pytest.raises(BehaviourError, match="64 texts have words that the model does not know"):
        find_circuit(
            planted_model(), planted_dictionaries(), behaviour,
            detection_cases=replace(behaviour, cases=cases),
        )  # fmt: skip
