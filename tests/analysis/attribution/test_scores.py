"""Ledgers of attention scores add up to the score that the running model computed."""

from dataclasses import replace

import pytest
import torch

from analysis import score_ledger
from circuits.errors import DictionaryError, FeatureRangeError, ModelError
from circuits.model import Site
from tests.support.small import normal
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import some_tokens
from tests.support.small_networks import KINDS, exact_norms, small_model

TOKENS = some_tokens(1)[0]


def dictionary(dtype=torch.float64, site: str = "resid_pre@1"):
    wide = {"encoder": normal(60, 32, seed=1, dtype=dtype), "offset": normal(32, dtype=dtype),
            "decoder": 0.2 * normal(60, 32, seed=2, dtype=dtype)}  # fmt: skip
    return small_dictionary(n_feature=60, dtype=dtype, site=Site.parse(site), **wide)


def off_by(made):
    return abs(made.total - made.computed) / float(made.rows["value"].abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_rows_add_up_to_the_models_score(kind, dtype, near):
    model = small_model(kind, dtype)
    model = exact_norms(model) if dtype == torch.float64 else model
    for head, query, key in [(0, 5, 5), (3, 5, 4), (7, 10, 0), (2, 0, 0)]:
        made = score_ledger(model, 1, head, dictionary(dtype), TOKENS, query, key)
        assert off_by(made) < near
        assert {"pair", "linear", "constant", "error"} == set(made.rows["kind"])
        assert len(made.rows) == 7 * 7  # five features, the error and the constant


def test_pairs_are_a_query_feature_and_a_key_feature_of_the_matrix():
    model, features = small_model(), dictionary()
    made = score_ledger(model, 1, 3, features, TOKENS, 6, 2)
    x = model.read(TOKENS[None], "resid_pre@1")[Site("resid_pre", 1)][0]
    scale, z = model.scale(x), features.encode(x)
    looks = model.head(1, 3).looks(features.basis("encoder"), features.basis("encoder"), 4, at=2)
    for _, row in made.rows[made.rows["kind"] == "pair"].iterrows():
        first, second = int(row["first"]), int(row["second"])
        weight = float(looks.matrix()[first, second])
        wanted = z[6, first] / scale[6] * z[2, second] / scale[2] * weight
        assert row["value"] == pytest.approx(float(wanted), rel=1e-9)


def test_features_of_the_layer_before_are_of_the_same_stream():
    model = small_model()
    made = score_ledger(model, 1, 0, dictionary(site="resid_post@0"), TOKENS, 4, 1)
    again = score_ledger(model, 1, 0, dictionary(), TOKENS, 4, 1)
    assert made.computed == again.computed
    assert made.rows.equals(again.rows)


def test_other_places_and_features_of_other_sites_are_refused():
    model = small_model()
    with pytest.raises(FeatureRangeError, match="there is no key 6; they run from 0 to 5"):
        score_ledger(model, 1, 0, dictionary(), TOKENS, 5, 6)
    with pytest.raises(ModelError, match="of mlp_in@1, and attention of layer 1 reads resid_pre@1"):
        score_ledger(model, 1, 0, dictionary(site="mlp_in@1"), TOKENS, 5, 4)
    with pytest.raises(ModelError, match="resid_post@1"):
        score_ledger(model, 1, 0, dictionary(site="resid_post@1"), TOKENS, 5, 4)


def test_a_dictionary_of_another_model_is_refused():
    foreign = replace(dictionary(), notes={"activations": {"model": "f" * 64}})
    with pytest.raises(DictionaryError, match="was trained on a model of hash ffffffffffff"):
        score_ledger(small_model(), 1, 0, foreign, TOKENS, 3, 2)
