"""The quality row is what a plain loop over dense matrices measures."""

import numpy as np
import pytest
import torch

from analysis import quality
from circuits import Basis
from circuits.errors import DictionaryError, ModelError
from circuits.model import Site
from sae.reading import readings
from tests.support.dictionary_oracle import WINDOW, Oracle, tied
from tests.support.small_dictionaries import (
    D_MODEL,
    of_features_scaled,
    small_dictionary,
    small_transcoder,
    threshold_dictionary,
)
from tests.support.small_models import small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("texts"), 80)


def correlations(z, scores, chosen):
    """By NumPy, over the tokens that are chosen for each feature."""
    found = []
    for feature in range(z.shape[1]):
        on = chosen[:, feature]
        if on.sum() > 2:
            found.append(np.corrcoef(z[on, feature], scores[on, feature])[0, 1])
    return np.array(found)


@pytest.mark.parametrize("kind", ["topk", "signed", "thresholds", "deficient"])
def test_quality_is_what_a_plain_loop_measures(kind, plain, corpus):
    dictionary = {
        "topk": tied,
        "signed": lambda: tied(relu=False),
        "thresholds": lambda: tied(k=None, threshold=torch.full((48,), 0.4)),
        "deficient": lambda: small_dictionary(n_feature=10, dtype=torch.float64, k=3),
    }[kind]()
    row = quality(dictionary, plain, corpus, window=WINDOW, error=0.0).iloc[0]
    oracle = Oracle(plain, corpus, dictionary)
    x, f = oracle.x, dictionary.encode(oracle.x)
    error = x - (f @ dictionary.decoder + dictionary.offset)
    spread = x - x.mean(0)
    close = {"rel": 1e-5, "abs": 1e-7}
    assert row["fvu"] == pytest.approx(float(error.square().sum() / spread.square().sum()), **close)
    left = float((error - error.mean(0)).square().sum() / spread.square().sum())
    assert row["explained_variance"] == pytest.approx(1 - left, **close)
    assert row["l0"] == pytest.approx(float((f != 0).double().sum(1).mean()))
    shares = (f != 0).double().mean(0)
    assert row["dead"] == pytest.approx(float((shares == 0).double().mean()))
    assert row["dense"] == pytest.approx(float((shares > 0.1).double().mean()))
    assert row["n_token"] == len(x)

    losses = {
        "clean": oracle.loss(lambda x: x),
        "sae": oracle.loss(dictionary.reconstruct),
        "with_error": oracle.loss(lambda x: x),
        "zero": oracle.loss(torch.zeros_like),
        "mean": oracle.loss(lambda given: x.mean(0).expand_as(given)),
    }
    for name, loss in losses.items():
        assert row[f"loss_{name}"] == pytest.approx(loss, rel=1e-5), name
    gap = losses["zero"] - losses["clean"]
    recovered = (losses["zero"] - losses["sae"]) / gap
    assert row["recovered"] == pytest.approx(recovered, rel=1e-3, abs=1e-4)
    assert row["added"] == pytest.approx(losses["sae"] - losses["clean"], abs=1e-5)

    read = torch.linalg.pinv(dictionary.decoder).mT
    z = (x - dictionary.offset) @ read.mT
    active, scores = (f != 0).numpy(), dictionary.preactivations(x).numpy()
    for name, chosen in (("pinv_active", active), ("pinv_inactive", ~active)):
        found = correlations(z.numpy(), scores, chosen)
        assert row[f"{name}_n"] == len(found)
        assert row[name] == pytest.approx(np.median(found), abs=1e-6)
        assert row[f"{name}_mean"] == pytest.approx(np.mean(found), abs=1e-6)
    assert row["pinv_exact"] == (kind != "deficient")

    def on_active(given):
        z = (given - dictionary.offset) @ read.mT
        return (z * (dictionary.encode(given) != 0)) @ dictionary.decoder + dictionary.offset

    k = dictionary.k or round(row["l0"])

    def largest(given):
        z = (given - dictionary.offset) @ read.mT
        kept = z.topk(k)
        values = kept.values.relu() if dictionary.relu else kept.values
        chosen = torch.zeros_like(z).scatter(1, kept.indices, values)
        return chosen @ dictionary.decoder + dictionary.offset

    for name, made in (("pinv_on_active", on_active), ("pinv_largest", largest)):
        loss = oracle.loss(made)
        assert row[f"loss_{name}"] == pytest.approx(loss, rel=1e-5)
        lost = float((made(x) - x).square().sum() / spread.square().sum())
        assert row[f"fvu_{name}"] == pytest.approx(lost, **close)
        wanted = (losses["zero"] - loss) / gap
        assert row[f"recovered_{name}"] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_dictionary_that_reconstructs_everything_loses_nothing(plain, corpus):
    eye = torch.eye(D_MODEL, dtype=torch.float64)
    exact = small_dictionary(
        encoder=torch.cat([eye, -eye]), decoder=torch.cat([eye, -eye]), k=D_MODEL,
        bias=torch.zeros(2 * D_MODEL), offset=torch.zeros(D_MODEL),
    )  # fmt: skip
    row = quality(exact, plain, corpus, window=WINDOW, error=0.0).iloc[0]
    assert row["fvu"] == pytest.approx(0, abs=1e-20)
    assert row["explained_variance"] == pytest.approx(1)
    assert row["recovered"] == pytest.approx(1)
    assert row["added"] == pytest.approx(0, abs=1e-9)


def test_every_number_has_its_control_from_the_seed(plain, corpus):
    first, same, other = (
        quality(tied(), plain, corpus, window=WINDOW, error=0.0, seed=s) for s in (5, 5, 6)
    )
    assert first.equals(same)
    differing = {name for name in first if not first[name].equals(other[name])}
    assert differing == {
        *("loss_random", "fvu_random", "recovered_random", "seed"),
        *("pinv_active_random", "pinv_inactive_random"),
    }
    row = first.iloc[0]
    assert row["pinv_active"] > 0.5 > abs(row["pinv_active_random"])


def test_the_random_control_has_the_dictionarys_shape_and_norms(plain, corpus):
    dictionary = tied()
    row = quality(dictionary, plain, corpus, window=WINDOW, error=0.0, seed=4).iloc[0]
    random = Basis.from_decoder(dictionary.decoder, dictionary.offset).control(4).write
    oracle = Oracle(plain, corpus, dictionary)
    kept = (oracle.x @ random.mT).topk(5)  # of rows of length one
    made = torch.zeros(len(oracle.x), 48).double().scatter(1, kept.indices, kept.values.relu())
    lost = (made @ random - oracle.x).square().sum()
    lost /= (oracle.x - oracle.x.mean(0)).square().sum()
    assert row["fvu_random"] == pytest.approx(float(lost), rel=1e-5)


@pytest.mark.parametrize("power", [-67, -30, 30, 67])
def test_the_scale_of_a_dictionarys_features_changes_no_number(plain, corpus, power):
    dictionary = tied().to(torch.float32)
    scaled = of_features_scaled(dictionary, 2.0**power)
    rows = [quality(one, plain, corpus, window=WINDOW, error=0.0) for one in (dictionary, scaled)]
    assert rows[0].equals(rows[1])


def test_a_dictionary_of_another_model_or_of_no_site_is_refused(plain, corpus):
    wide = threshold_dictionary(
        encoder=torch.ones(48, 20), decoder=torch.ones(48, 20), offset=torch.ones(20)
    )
    with pytest.raises(DictionaryError) as refused:
        quality(wide, plain, corpus)
    assert str(refused.value) == (
        "quality: Dictionary(48 features of 20 at mlp_in@0, thresholds) is for activations of 20, "
        "and the model's have 16. Load the model that it was trained on."
    )
    with pytest.raises(ModelError, match="mlp_in@5"):
        quality(tied(site=Site("mlp_in", 5)), plain, corpus)
    with pytest.raises(
        ModelError, match=r"quality: the site that this dictionary was trained at is unknown"
    ):
        quality(tied(site=None), plain, corpus)


def test_several_dictionaries_are_measured_in_one_pass_as_each_alone(plain, corpus):
    several = [tied(), small_transcoder().to(torch.float64), tied(site=Site("mlp_out", 1))]
    passes = []
    with plain.replaced({"mlp_in@0": lambda x: passes.append(1) or x}):
        table = quality(several, plain, corpus, window=WINDOW, error=0.0)
        together = len(passes)
        passes.clear()
        alone = [quality(one, plain, corpus, window=WINDOW, error=0.0) for one in several]
    for (_, row), one in zip(table.iterrows(), alone, strict=True):
        for name in one:
            assert row[name] == pytest.approx(one[name].iloc[0], nan_ok=True), name
    assert together < len(passes)


def test_the_loss_is_read_until_its_error_is_small_enough(plain, tmp_path):
    corpus = small_corpus(tmp_path, 300)
    whole, some = (
        quality(tied(), plain, corpus, window=WINDOW, error=error).iloc[0] for error in (0.0, 0.9)
    )
    assert some["recovered_error"] <= 0.9
    assert some["n_predicted"] < whole["n_predicted"]
    assert some["n_token"] == whole["n_token"]
    assert some["fvu"] == whole["fvu"]
    few = quality(tied(), plain, corpus, window=WINDOW, n_documents=5, error=0.9).iloc[0]
    assert np.isnan(few["recovered_error"])  # of so few rows none is known
    with pytest.raises(DictionaryError, match=r"error -1.0.*0 or more"):
        quality(tied(), plain, corpus, error=-1.0)


def test_the_error_of_what_is_recovered_is_that_of_leaving_out_each_row(plain, corpus):
    parts = []
    for reading in readings(plain, corpus, [tied().site], window=WINDOW):
        x = reading.activations[tied().site]
        made = [reading.losses(tied().site, y) for y in (0 * x, tied().reconstruct(x))]
        parts.append(torch.stack([reading.losses(), *made]).double())
    nats = torch.cat(parts, 1)
    n_row = nats.shape[1]
    left = nats.sum(1, keepdim=True) - nats  # clean, zero, sae
    without = (left[1] - left[2]) / (left[1] - left[0])
    wanted = float(without.std() * (n_row - 1) / n_row**0.5)
    row = quality(tied(), plain, corpus, window=WINDOW, error=0.0).iloc[0]
    assert row["recovered_error"] == pytest.approx(wanted, rel=0.05)
