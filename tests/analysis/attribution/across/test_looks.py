"""What heads add by looking elsewhere is exact, and so is why they do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.attribution.across.effect import read_of
from analysis.attribution.across.looks import Looks
from analysis.attribution.across.recorded import Recorded, shapes
from analysis.attribution.across.score_pairs import score_pairs
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from analysis.studies import rules
from circuits.model import Model, Site, load_model
from circuits.model.formats.heads import scores_of_run
from tests.support import planted_negation
from tests.support.planted_looks import (
    planted_behaviour,
    planted_dictionaries,
    planted_model,
    stirred,
)
from tests.support.small_models import small_network, small_tokenizer


def looks_of(model: Model, behaviour: Behaviour | None = None) -> Looks:
    return Looks.of(Recorded.of(in_model(behaviour or planted_behaviour(), model)))


@pytest.fixture(scope="module")
def looks() -> Looks:
    return looks_of(stirred(planted_model(sharp=1.0)))


def biased() -> tuple[Model, Behaviour]:
    """Random weights in all parts, biases, keys that two heads share, and two shapes of text."""
    fields = {"attention_bias": True, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 4, "mlp_bias": False}  # fmt: skip
    cases = []
    for number in range(8):
        for which in (False, True):
            text = f"w{4 + number % 5} w{10 + which} w{15 + number}" + " w30" * (number % 2)
            right, wrong = (("w7",), ("w8",))[:: -1 if which else 1]
            cases.append(Case(text, str(which), right, wrong, {"which": which}, number))
    model = Model(small_network(**fields).requires_grad_(False), small_tokenizer(), Path("biased"))
    return model, Behaviour("biased", tuple(cases))


@pytest.mark.parametrize("kind", ["planted", "biased"])
def test_the_looks_part_is_what_is_gone_with_the_mean_pattern_of_a_pair(looks, kind):
    looks = looks if kind == "planted" else looks_of(*biased())
    recorded, cases = looks.recorded, looks.recorded.cases
    assert len(cases.tiles) == 1
    nothing = torch.zeros_like(looks.streams[0])
    for layer, heads in enumerate(looks.heads):
        for head in range(len(heads)):
            mean = mean_pattern(looks, layer, head)
            torch.testing.assert_close(looks.apart(layer, head),
                                       looks.patterns[layer][:, head] - mean)  # fmt: skip
            alike = recorded.run.with_pattern(cases.tokens, layer, head, mean)
            with alike.held():
                left = read_of(recorded, Site("attn_out", layer), nothing)[0]
            part = looks.part(layer, head)
            torch.testing.assert_close(part, recorded.difference - left, rtol=1e-9, atol=1e-9)
            assert part.abs().max() > 1e-6


def mean_pattern(looks: Looks, layer: int, head: int) -> torch.Tensor:
    """Of the texts of a pair and shape."""
    cases, pattern = looks.recorded.cases, looks.patterns[layer][:, head]
    mean = pattern.clone()
    for pair in cases.pair.unique():
        rows = cases.pair == pair
        assert len({*cases.position[rows].tolist()}) == 1
        mean[rows] = pattern[rows].mean(0)
    return mean


@pytest.mark.parametrize("kind", ["inherited", "moved"])
def test_where_all_texts_are_looked_at_alike_there_is_no_looks_part(kind):
    alike = looks_of(planted_negation.planted_model(kind), planted_negation.planted_behaviour())
    for layer in range(2):
        assert looks_part(alike, layer, 0) == pytest.approx(0, abs=1e-12)
    assert len(alike.places(1, 0)) == 0 or looks_part(alike, 1, 0) < 1e-12


def looks_part(looks: Looks, layer: int, head: int) -> float:
    cases = looks.recorded.cases
    return float((cases.weights(cases.affected) * looks.part(layer, head)).sum())


def test_without_pairs_the_texts_of_a_shape_are_compared():
    unpaired = tuple(replace(case, pair=None) for case in planted_behaviour().cases)
    longer = tuple(replace(c, text=f"said {c.text}") if c.label == "mia" else c for c in unpaired)
    assert not looks_of(planted_model(), Behaviour("longer", longer)).any_compared
    looks = looks_of(planted_model(), Behaviour("unpaired", unpaired))
    assert looks.any_compared
    assert looks.compared.tolist() == [0] * len(unpaired)
    assert looks_part(looks, 1, 1) == pytest.approx(looks_part(looks_of(planted_model()), 1, 1))


def dictionaries_of(kind: str) -> dict[Site, object]:
    known = {site: replace(d, site=None) for site, d in planted_dictionaries().items()}
    if kind == "of the stream":
        return {Site("resid_pre", 1): known[Site("mlp_in", 0)]}
    return known if kind == "of the MLPs" else {}


@pytest.mark.parametrize("kind", ["of the MLPs", "of the stream", "none"])
@pytest.mark.parametrize("layer", [0, 1])
def test_pairs_add_up_to_the_difference_of_the_scores_that_the_model_computes(looks, kind, layer):
    table = score_pairs(looks, layer, 1, dictionaries_of(kind))
    assert_scores_of_the_run(looks, layer, 1, float(table["score"].sum()))
    assert not table.duplicated(["query", "key", "distance"]).any()
    names = " ".join([*table["query"], *table["key"]])
    assert ("feature" in names, "MLP 0" in names, "token" in names) == {
        ("of the MLPs", 0): (False, False, True), ("of the MLPs", 1): (True, False, True),
        ("of the stream", 0): (False, False, True), ("of the stream", 1): (True, False, False),
        ("none", 0): (False, False, True), ("none", 1): (False, True, True),
    }[kind, layer]  # fmt: skip


def assert_scores_of_the_run(looks: Looks, layer: int, head: int, total: float) -> None:
    cases, model = looks.recorded.cases, looks.recorded.model
    scores = scores_of_run(model.network, cases.tokens, layer)[:, head]
    places = looks.places(layer, head)
    assert places
    wanted = sum(float((p.weights * scores[p.cases, p.query, p.key]).sum()) for p in places)
    assert total == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted) > 1e-3
    weights = torch.cat([place.weights for place in places])
    assert float(weights.clamp(min=0).sum()) == pytest.approx(1)  # two means
    assert float(weights.clamp(max=0).sum()) == pytest.approx(-1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_so_they_do_with_biases_shared_keys_and_several_forms_of_text(layer):
    looks = looks_of(*biased())
    assert len(shapes(looks.recorded.cases)) == 2
    for head in range(4):
        table = score_pairs(looks, layer, head, {})
        assert_scores_of_the_run(looks, layer, head, float(table["score"].sum()))
        assert {"bias of the query", "bias of the key"} <= {*table["query"], *table["key"]}


def test_where_a_pattern_is_a_product_of_two_scores_pairs_add_up_to_it(tmp_path):
    model = load_model(rules.write_example(tmp_path / "rules"), device="cpu")
    cases = in_model(planted_behaviour(), planted_model())
    drawn = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.n_token, cases.tokens.shape, generator=drawn)
    looks = Looks.of(Recorded.of(replace(cases, model=model, tokens=tokens, kept={})))
    for layer, (head,) in enumerate(looks.heads):
        assert head.n_form == 2
        table = score_pairs(looks, layer, 0, {})
        scores = scores_of_run(looks.recorded.model.network, tokens, layer).prod(1)
        wanted = sum(
            float((p.weights * scores[p.cases, p.query, p.key]).sum())
            for p in looks.places(layer, 0)
        )
        assert float(table["score"].sum()) == pytest.approx(wanted, abs=1e-9)
        assert wanted > 0.01
