"""Rules of token pairs: paths sum to what the model computes, and removing one removes its rule."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.studies import rules
from analysis.studies.rules.paths import ALONE, FIRST, OTHER, SECOND, Direct, Gate, Writer
from circuits.errors import ArgumentError, CircuitsError, CorpusError, ModelError, NotFoundError
from circuits.model import load_model
from tests.support.small_models import polynomial_folder, small_folder, some_tokens

A, B = [5, 6, 7], [8, 9]  # first and second tokens
LAST = 1  # layer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(polynomial_folder(tmp_path_factory.mktemp("random")), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rules.write_example(tmp_path_factory.mktemp("rules") / "example", seed=1)


@pytest.fixture(scope="module")
def example(folder):
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def known(folder, example):
    return rules.load_known_rules(folder, example.n_token)


@pytest.fixture(scope="module")
def study(example, known):
    return rules.study_rules(example, known, n_draws=2)


def alone(model, *placed):
    """The logits at the end of a row with tokens at these places and zeros everywhere else, by the
    model's own forward pass; relative to their mean."""
    exact = model.in_dtype(torch.float64)
    x = torch.zeros(1, placed[-1][0] + 1, model.d_model, dtype=torch.float64)
    for place, token in placed:
        if token is not None:
            x[0, place] = exact.network.get_input_embeddings().weight[token]
    with torch.no_grad():
        logits = exact.network(inputs_embeds=x, use_cache=False).logits[0, -1]
    return logits - logits.mean()


def test_the_paths_of_a_pair_sum_to_what_the_model_makes_of_both_less_either(model):
    effects = rules.pair_effects(model, A, B, (3,))
    torch.testing.assert_close(
        torch.stack([*effects.paths.values()]).sum(0), effects.total, rtol=1e-12, atol=1e-12
    )
    for i, first in enumerate(A):
        for j, second in enumerate(B):
            both = alone(model, (0, first), (3, second))
            wanted = both - alone(model, (0, first), (3, None)) - alone(model, (3, second))
            torch.testing.assert_close(effects.total[i, j], wanted, rtol=1e-9, atol=1e-9)


def test_the_paths_of_a_token_sum_to_its_logits(model):
    effects = rules.single_effects(model, [5, 9])
    torch.testing.assert_close(
        torch.stack([*effects.paths.values()]).sum(0), effects.total, rtol=1e-12, atol=1e-12
    )
    for row, token in enumerate((5, 9)):
        torch.testing.assert_close(effects.total[row], alone(model, (0, token)))
    assert str(next(iter(effects.paths))) == "the token to the logits"


def test_effects_are_relative_to_the_mean_over_the_answers_and_sum_over_distances(model):
    answers = [3, 30, 12]
    effects = rules.pair_effects(model, A, B, (2, 5), answers)
    whole = sum(rules.pair_effects(model, A, B, (far,)).total for far in (2, 5))[..., answers]
    torch.testing.assert_close(effects.total, whole - whole.mean(-1, keepdim=True))
    assert float(effects.total.sum(-1).abs().max()) < 1e-9


def test_a_removed_path_takes_exactly_its_own_share_of_the_effect(model):
    effects = rules.pair_effects(model, A, B, (4,))
    last = [path for path in effects.paths if isinstance(path, Direct) or path.layer == LAST]
    assert len(last) > 8
    for path in last:  # nothing reads these but the logits
        without = rules.pair_effects(model, A, B, (4,), removed=[path])
        torch.testing.assert_close(without.total, effects.total - effects.paths[path])
        assert path not in without.paths


def test_in_the_last_layer_a_removal_changes_running_logits_by_what_the_path_adds(model):
    exact, tokens = model.in_dtype(torch.float64), torch.tensor([[1, 5, 20, 9, 21, 6, 8]])
    intact = exact.logits(tokens)
    torch.testing.assert_close(rules.logits_without(exact, tokens, A, B), intact)
    embedded = exact.network.get_input_embeddings()(tokens)
    head, down = exact.network.lm_head, exact.network.model.layers[LAST].mlp.down_proj
    mlp, scale = (getattr(exact.network.model.layers[LAST], name)
                  for name in ("mlp", "post_attention_layernorm"))  # fmt: skip
    second = torch.isin(tokens, torch.tensor(B))[..., None]
    own = scale(embedded * second)
    with torch.no_grad():
        square = mlp.gate_proj(own) * mlp.up_proj(own)
        added = head(exact.network.model.norm(down(square)))
    token = Writer("token", source=SECOND)
    without = rules.logits_without(exact, tokens, A, B, [Gate(LAST, token, token)])
    torch.testing.assert_close(without, intact - added)
    with torch.no_grad():
        direct = head(exact.network.model.norm(embedded * second))
    without = rules.logits_without(exact, tokens, A, B, [Direct(token)])
    torch.testing.assert_close(without, intact - direct)


def test_without_all_gates_of_a_layer_its_mlp_adds_nothing_there(model):
    exact, tokens = model.in_dtype(torch.float64), some_tokens(2, 9)
    writers = [Writer("token", source=group) for group in (FIRST, SECOND, OTHER)]
    writers += [Writer("head", 0, group) for group in (FIRST, SECOND, OTHER)]
    gates = [
        Gate(0, one, two, group)
        for i, one in enumerate(writers) for two in writers[i:] for group in (FIRST, SECOND, OTHER)
    ]  # fmt: skip
    with exact.replaced({"mlp_out@0": torch.zeros_like}):
        wanted = exact.logits(tokens)
    without = rules.logits_without(exact, tokens, [*range(4, 12)], [*range(12, 20)], gates)
    torch.testing.assert_close(without, wanted)


def test_a_cut_sets_scores_to_zero(model):
    exact, tokens = model.in_dtype(torch.float64), some_tokens(2, 9)
    everything = torch.ones(2, 9, 9, dtype=torch.bool)
    with exact.replaced({"attn_out@1": torch.zeros_like}):
        wanted = exact.logits(tokens)
    torch.testing.assert_close(rules.logits_without(exact, tokens, cut={1: everything}), wanted)


def test_the_known_rules_are_found_first_and_without_their_path_they_are_lost(study, known):
    found = study.table[["first", "second", "answer"]].to_numpy().tolist()
    assert sorted(found) == sorted(known.skip.to_numpy().tolist())
    assert study.table["true"].all()
    assert (study.verbs["found"] == study.verbs["true"]).all()
    assert [str(path) for path in study.paths["path"]] == [f"mlp 1: {SECOND} × head 1 on {FIRST}"]
    numbers = study.measurements()
    assert numbers["skip_average_precision"] == numbers["skip_recall_at_8"] == 1
    assert numbers["bigram_top1"] == numbers["intact_top1"] == 1
    assert numbers["ablated_skip_top1"] < 0.3
    assert numbers["ablated_other_drop"] == numbers["random_drop"] == 0
    json.dumps(numbers, allow_nan=False)


def test_with_one_rule_less_the_others_stay(example, known):
    """The path is removed at one rule's tokens alone."""
    one = known.skip.iloc[0]
    gate = Gate(1, Writer("token", source=SECOND), Writer("head", 1, FIRST))
    logits = rules.logits_without(
        example, known.tokens, [int(one["first"])], [int(one["second"])], [gate]
    )
    answers, here = logits.argmax(-1)[:, :-1], known.rule[:, 1:] == 2
    lost = (answers != known.tokens[:, 1:]) & here
    pair = (known.tokens == one["first"]).any(1) & (known.tokens == one["second"]).any(1)
    assert lost.any()
    assert torch.equal(lost.any(1), pair & lost.any(1))
    assert lost[pair].any(1).all()


def test_the_neurons_of_a_rules_path_are_the_ones_written_for_it(example, known):
    gate = Gate(1, Writer("token", source=SECOND), Writer("head", 1, FIRST))
    for number in (0, 5):
        rule = known.skip.iloc[number : number + 1]
        neurons = rules.path_neurons(example, gate, rule, known.kinds["connective"], 4)
        assert neurons["neuron"][0] == number
        assert neurons["effect"][0] > 4
        effects = rules.pair_effects(
            example, rule["first"].tolist(), rule["second"].tolist(), (4,),
            known.kinds["connective"],
        )  # fmt: skip
        path = effects.shares(rule).set_index("path")["share"][gate] * effects.sum_of(rule)
        assert abs(neurons["effect"].sum() - path) < 1e-9


def test_the_neurons_of_any_gate_sum_to_what_it_adds_to_a_rule(model):
    """Of gates that a single token has as well: the pair's own share is meant."""
    answers, rule = [3, 30, 12], pd.DataFrame({"first": [6], "second": [9], "answer": [30]})
    effects = rules.pair_effects(model, [6], [9], (2,), answers)
    gates = [path for path in effects.paths if isinstance(path, Gate)]
    assert len(gates) > 20
    for gate in gates:
        neurons = rules.path_neurons(model, gate, rule, answers)
        wanted = float(effects.paths[gate][0, 0, 1])
        assert len(neurons) == 24
        assert abs(float(neurons["effect"].sum()) - wanted) < 1e-12


def test_the_heads_of_induction_are_named_and_proven(study):
    found = study.induction
    assert (found.looks_back, found.matches) == (0, 2)
    match = found.match[found.match["layer"] == 2]
    assert (match["same"] > 4).all()
    assert (match["different"].abs() < 0.1).all()
    assert (found.copied["same"] > 0.9).all()
    assert (found.copied["different"] < 0.1).all()
    right = study.induction_removed.groupby("removed")["induction"].min()
    assert right["intact"] == 1
    assert max(right["looks back by one"], right["looks for a match"], right["both"]) < 0.1
    assert min(right["other distance"], right["other head"]) > 0.9
    assert right["another row's matches"] > 0.5
    assert (study.induction_removed["skip"] > 0.9).all()


def test_a_match_is_a_key_whose_token_before_is_the_querys():
    from analysis.studies.rules.induction import after_match

    cells = after_match(torch.tensor([[4, 7, 9, 4, 7, 4]]))[0].nonzero().tolist()
    assert cells == [[3, 1], [4, 2], [5, 1], [5, 4]]


def test_the_same_seed_writes_the_same_example(folder, tmp_path):
    again = rules.write_example(tmp_path / "again", seed=1)
    other = rules.write_example(tmp_path / "other", seed=2)
    for name in ("model.safetensors", "rules.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
        assert (other / name).read_bytes() != (folder / name).read_bytes()
    with pytest.raises(CircuitsError, match="exists already"):
        rules.write_example(tmp_path / "again")


def test_the_page_shows_every_rule_and_runs_nothing(study, tmp_path):
    names = [f"<w{i}>" for i in range(32)]
    page = rules.write_page(study, tmp_path / "rules.html", names).read_text()
    assert page.count('class="rule"') == len(study.table)
    for first in study.table["first"]:
        assert f"&lt;w{first}&gt;" in page
    assert "<w" not in page
    assert not re.search(r"<script|https?:", page)
    with pytest.raises(CircuitsError, match="exists already"):
        rules.write_page(study, tmp_path / "rules.html")
    rules.write_page(study, tmp_path / "rules.html", force=True)


# --- what is refused ---


@pytest.mark.parametrize(
    ("kind", "said"), [("rms", "an RMSNorm"), ("llama", "a softmax")]
)  # fmt: skip
def test_a_model_that_is_no_polynomial_is_refused(kind, said, tmp_path):
    make = polynomial_folder if kind == "rms" else small_folder
    fields = {"norm_type": "rms"} if kind == "rms" else {}
    other = load_model(make(tmp_path / "other", **fields), device="cpu")
    for call in (
        lambda: rules.pair_effects(other, A, B),
        lambda: rules.single_effects(other, A),
        lambda: rules.find_induction(other),
        lambda: rules.logits_without(other, some_tokens(), A, B),
    ):
        with pytest.raises(ModelError, match=f"{said}, so it is not a polynomial") as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_a_model_without_induction_has_none_to_name(model):
    with pytest.raises(NotFoundError, match="no induction to name"):
        rules.find_induction(model, distances=(3, 6), n=200)


def test_a_model_without_induction_is_studied_all_the_same(folder, tmp_path, known):
    other = load_model(folder, device="cpu").in_dtype(torch.float32)
    with torch.no_grad():
        for layer in range(1, other.n_layer):
            other.network.model.layers[layer].self_attn.q1_proj.weight.zero_()
    study = rules.study_rules(other, known, n_draws=1)
    assert study.induction is None
    assert study.induction_removed.empty
    measured = study.measurements()
    assert measured["match_head"] is None
    assert "ablated_induction_top1" not in measured
    assert 0 <= measured["skip_average_precision"] <= 1
    page = rules.write_page(study, tmp_path / "rules.html")
    assert "No head looks for a match." in page.read_text()


@pytest.mark.parametrize(
    "path",
    [
        Gate(2, Writer("token", source=FIRST), Writer("token", source=FIRST)),
        Gate(0, Writer("head", 1, FIRST), Writer("token", source=SECOND)),
        Gate(0, Writer("mlp", 0), Writer("token", source=SECOND)),
        Gate(1, Writer("token", source=ALONE), Writer("token", source=SECOND)),
        Direct(Writer("head", 2, FIRST)),
        Direct(Writer("head", 1, FIRST), "elsewhere"),
    ],
)
def test_a_path_that_the_model_lacks_is_refused(path, model):
    with pytest.raises(ArgumentError, match="is no path between these tokens"):
        rules.logits_without(model, some_tokens(), A, B, [path])


def test_what_cannot_be_asked_is_refused(model, example, known):
    bad = pd.DataFrame({"first": [5], "second": [39], "answer": [3]})
    effects = rules.pair_effects(model, A, B)
    for call, said in (
        (lambda: rules.logits_without(model, some_tokens(), A, [7, 8]), "token 7 is among the"),
        (lambda: rules.logits_without(model, some_tokens(), cut={1: torch.ones(1, 2, 2).bool()}),
         r"cut of layer 1 has shape \(1, 2, 2\), not \(3, 11, 11\)"),
        (lambda: effects.shares(bad), "column second has 39, for which no effect"),
        (lambda: effects.shares(bad[["first"]]), "lacks the columns second, answer"),
        (lambda: rules.pair_effects(model, A, B, (20,)), "distance = 20. Ask for 1 to 19"),
        (lambda: rules.pair_effects(model, A, [40]), "there is no token 40"),
        (lambda: rules.explaining_paths(example, known.skip.assign(answer=27), [27]),
         "not above 0, so no path makes it"),
        (lambda: rules.find_induction(model, [5, 5]), "one token alone"),
        (lambda: rules.find_induction(model, distances=[1]), "no place for the token after"),
    ):  # fmt: skip
        with pytest.raises(CircuitsError, match=said):
            call()


def written(folder, **files):
    """The example's rules with other files: text for JSON, arrays for the archive."""
    given = json.loads((folder / "rules.json").read_text())
    (folder / "rules.json").write_text(json.dumps(given | files.get("rules", {})))
    if "arrays" in files:
        np.savez(folder / "sequences.npz", **files["arrays"])
    return folder


GOOD = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
RULE = np.array([[0, 1, 2, 3], [0, 0, 0, 0]])
A_RULE = {"place": 10, "adjective": 14, "connective": 18}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"rules": {"kinds": {}}}, r"not of this layout \(KeyError"),
        ({"rules": {"skip": [{"place": 1}]}}, r"not of this layout \(KeyError"),
        ({"rules": {"skip": []}}, "no skip rule or no verbs"),
        ({"rules": {"bigram": {"3": {"99": 1.0}}}}, "names the tokens 99, but the model has 0 to"),
        ({"rules": {"bigram": {"three": {}}}}, "TypeError: 'three' is no token"),
        ({"rules": {"bigram": {"3": {"4": 0.5}, "03": {"5": 0.5}}}}, "TypeError: '03' is no token"),
        ({"rules": {"bigram": {"3": {"4": float("nan"), "5": 0.9}}}}, "nan is no probability"),
        ({"rules": {"bigram": {"3": {"4": True}}}}, "True is no probability"),
        ({"rules": {"skip": [A_RULE, A_RULE]}}, "skip lists something twice"),
        ({"rules": {"kinds": {"place": [10, 10], "adjective": [14], "connective": [18]},
                    "skip": [A_RULE]}}, "kind 'place' lists something twice"),
        ({"rules": {"skip": [{"place": 1, "adjective": 2, "connective": 3}]}}, "1 skip rules are"),
        ({"arrays": {"tokens": GOOD}}, "no archive of the arrays tokens and rule"),
        ({"arrays": {"tokens": GOOD, "rule": RULE[:1]}}, r"tokens \(2, 4\) and rule \(1, 4\)"),
        ({"arrays": {"tokens": GOOD * 1.0, "rule": RULE}}, "tokens is float64 of shape"),
        ({"arrays": {"tokens": GOOD[0], "rule": RULE[0]}}, r"tokens is int64 of shape \(4,\)"),
        ({"arrays": {"tokens": GOOD + 99, "rule": RULE}}, "tokens has 100 to 103, not 0 to"),
        ({"arrays": {"tokens": GOOD, "rule": RULE + 1}}, "rule has 1 to 4, not 0 to 3"),
        ({"arrays": {"tokens": GOOD, "rule": RULE * 0}}, "fixed by bigram, skip, ind"),
        ({"arrays": {"tokens": GOOD, "rule": np.array([[1, 2, 3, 0], [1, 0, 0, 0]])}},
         "no token after the first of its row is fixed by bigram. Both"),
        ({"arrays": {"tokens": GOOD.astype(object), "rule": RULE}}, "allow_pickle=False"),
    ],
)  # fmt: skip
def test_known_rules_that_do_not_fit_are_refused_in_one_line(files, said, tmp_path):
    folder = written(rules.write_example(tmp_path / "example"), **files)
    with pytest.raises(CorpusError, match=said) as refusal:
        rules.load_known_rules(folder, 32)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["rules.json", "sequences.npz"])
@pytest.mark.parametrize("content", [None, b"junk", b""])
def test_a_missing_or_damaged_file_is_named(name, content, tmp_path):
    folder = rules.write_example(tmp_path / "example")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CorpusError, match=name):
        rules.load_known_rules(folder, 32)
