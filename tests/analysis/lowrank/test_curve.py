"""The curve is what dense matrices and a plain loop measure, and its controls are what they say."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from analysis import quality, rank_curve
from analysis.lowrank import measure
from analysis.lowrank.curve import RankCurve
from analysis.lowrank.sums import (
    Control,
    Forms,
    Observed,
    Resampling,
    active_sums,
    in_chunks,
    on_active,
    on_all,
    totals_of,
)
from analysis.runs.layers import run_rank
from analysis.runs.run import Run
from circuits import Spectrum
from circuits.errors import CorpusError, DictionaryError, TensorError
from circuits.model import Site, load_model
from circuits.model.loading import untrained
from circuits.storage.manifest import read_manifest
from sae.reading import readings
from sae.sparse import Code
from tests.support.small import lifted, normal
from tests.support.small_dictionaries import D_MODEL, small_dictionary, some_activations
from tests.support.small_models import small_corpus, small_folder

OUT, IN = Site("mlp_out", 1), Site("mlp_in", 1)


@pytest.fixture(scope="module", params=["plain", "biases"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    small_folder(folder, mlp_bias=request.param == "biases")
    return load_model(folder, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("texts"))


def dictionary(**fields):
    return small_dictionary(dtype=torch.float64, **{"n_feature": 24, "site": OUT, **fields})


def curve(model, corpus, given=None, **options):
    defaults = {"n_bootstrap": 5, "min_active": 20}
    return rank_curve(model, given or dictionary(), corpus=corpus, **{**defaults, **options})


def activations(model, corpus, n_documents=1000):
    found = list(readings(model, corpus, [IN, OUT], n_documents=n_documents))
    return [torch.cat([reading.activations[site] for reading in found]) for site in (IN, OUT)]


def correlated(a, b):
    return np.corrcoef(a, b)[0, 1]


def explained(a, approximation):
    return 1 - ((a - approximation) ** 2).sum() / ((a - a.mean()) ** 2).sum()


def column(table, feature, name):
    return table.loc[table["feature"] == feature, name].to_numpy()


def in_turn(values):
    """Places of the eigenvalues, the largest of either sign in turn, in a plain loop."""
    positive = [i for i in values.argsort(descending=True).tolist() if values[i] > 0]
    negative = [i for i in values.argsort().tolist() if values[i] <= 0]
    order = []
    while positive or negative:
        order += [one.pop(0) for one in (positive, negative) if one]
    return torch.tensor(order)


@pytest.mark.parametrize("reader", ["encoder", "pinv"])
def test_the_table_is_what_a_plain_loop_measures(reader, model, corpus):
    given = dictionary()
    found = curve(model, corpus, given, reader=reader)
    x, out = activations(model, corpus)
    f, layer = given.encode(out), model.layer(1)
    x_hat = lifted(x) if layer.has_constant else x
    basis = given.basis(reader)
    level = -given.offset if layer.down_bias is None else layer.down_bias - given.offset
    assert set(found.table["feature"]) == set((f != 0).any(0).nonzero()[:, 0].tolist())
    often = ((f != 0).sum(0) > 2).nonzero()[:, 0].tolist()
    for feature in often[:3]:
        form = layer.interaction(basis.read[feature])
        constant = float(basis.read[feature] @ level)
        constant += 0.0 if basis.bias is None else float(basis.bias[feature])
        values, vectors = torch.linalg.eigh(form)
        squares = values * (x_hat @ vectors).square()
        on = f[:, feature] != 0
        orders = {
            "": values.abs().argsort(descending=True),
            "_by_data": squares.mean(0).abs().argsort(descending=True),
            "_by_sign": in_turn(values),
        }
        for name, order in orders.items():
            y = (squares[:, order].cumsum(1) + constant).numpy()
            for token, suffix in ((on.numpy(), name), (np.ones(len(f), bool), "_all")):
                if name and suffix == "_all":
                    continue
                a = f[token, feature].numpy()
                wanted = [correlated(a, part) for part in y[token].T]
                got = column(found.table, feature, f"correlation{suffix}")
                np.testing.assert_allclose(got, wanted, atol=1e-8)
                if suffix == "_by_sign":
                    continue
                wanted = [explained(a, part) for part in y[token].T]
                got = column(found.table, feature, f"r2{suffix}")
                np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(y[:, -1], basis.coordinates(out)[:, feature].numpy())
        energy = values[orders[""]].square().cumsum(0) / values.square().sum()
        np.testing.assert_allclose(column(found.table, feature, "energy"), energy)
        assert found.features.loc[feature, "n_active"] == int(on.sum())
        ranks = values.abs().sum() ** 2 / values.square().sum()
        assert found.features.loc[feature, "effective_rank"] == pytest.approx(float(ranks))
    assert found.ranks == list(range(1, x_hat.shape[1] + 1))


def test_an_encoder_reads_the_activation_itself_at_full_rank(model, corpus):
    linear = dictionary(k=24, relu=False)  # every feature on every token, nothing cut
    found = curve(model, corpus, linear, reader="encoder")
    whole = found.at(found.ranks[-1])
    of_all = ("correlation", "r2", "correlation_all", "r2_all", "correlation_untrained")
    for name in (*of_all, "correlation_random", "r2_random", "correlation_tokens", "r2_tokens"):
        np.testing.assert_allclose(whole[name], 1, atol=1e-9)
    assert (found.at(2)["r2"] < 0.999).all()
    rare = curve(model, corpus, reader="encoder")  # is active on few tokens, and cut at zero
    np.testing.assert_allclose(rare.compared(found.ranks[-1]), 1, atol=1e-9)
    assert (rare.at(found.ranks[-1])["correlation_all"] < 0.999).all()


def observed(n_token=120, n_feature=10, n_document=9):
    x = some_activations(n_token, dtype=torch.float64)
    code = dictionary(n_feature=n_feature, k=4).active(some_activations(n_token, 8).double())
    return Observed(x, code, torch.arange(n_token) * n_document // n_token)


def matrices(n=10, size=D_MODEL):
    drawn = normal(n, size, size, seed=4)
    return (drawn + drawn.mT) / 2


def cut(whole, places):
    ends = [0, *places, len(whole.inputs)]
    for start, stop in pairwise(ends):
        first, last = whole.code.starts[[start, stop]].tolist()
        code = Code(
            whole.code.starts[start : stop + 1] - first,
            whole.code.features[first:last],
            whole.code.values[first:last],
            whole.code.n_feature,
        )
        yield Observed(whole.inputs[start:stop], code, whole.document[start:stop])


def test_chunks_change_nothing():
    whole = observed()
    forms = Forms.of_matrices(matrices(), range(10), normal(10, seed=1), n_rank=6)
    parts = list(cut(whole, [1, 40, 41, 77]))
    one, many = ((totals_of(t), active_sums(forms, t, Resampling(7, 3))) for t in ([whole], parts))
    torch.testing.assert_close(one[1], many[1])
    torch.testing.assert_close(one[0].second, many[0].second)
    all_of = [on_all(forms, t, s[0], s[1][0]) for t, s in (([whole], one), (parts, many))]
    np.testing.assert_allclose(all_of[0].correlation, all_of[1].correlation, atol=1e-12)
    merged = list(in_chunks(parts, 50))
    assert [len(part.inputs) for part in merged] == [77, 43]
    torch.testing.assert_close(active_sums(forms, merged, Resampling(7, 3)), one[1])


def test_any_forms_can_approximate():
    """A circuit's graph is a form of its features: here the forms read features directly."""
    whole, given, constant = observed(), matrices(), normal(10, seed=1)
    forms = Forms.of_matrices(given, range(10), constant, n_rank=5)
    found = on_active(forms, [whole])
    dense = whole.code.dense()
    for i in range(10):
        on = dense[:, i] != 0
        x = whole.inputs[on]
        for rank in range(1, 6):
            kept = Spectrum.of(given[i]).truncate(rank).matrix()
            y = ((x @ kept) * x).sum(1) + constant[i]
            wanted = correlated(dense[on, i], y)
            assert found.correlation[0, i, rank - 1] == pytest.approx(wanted, abs=1e-9)
            assert found.r2[0, i, rank - 1] == pytest.approx(
                float(explained(dense[on, i], y)), rel=1e-9
            )
        y = ((x @ given[i]) * x).sum(1) + constant[i]
        assert found.correlation[0, i, -1] == pytest.approx(correlated(dense[on, i], y))
    with pytest.raises(TensorError, match="9 features for 10 forms"):
        Forms.of_matrices(given, range(9))


def test_a_product_of_two_directions_needs_two_eigenvectors():
    a, b = normal(2, D_MODEL, seed=9)
    x = some_activations(400, dtype=torch.float64)
    product = (x @ a) * (x @ b)
    code = Code.of_equal_rows(torch.zeros(400, 1).long(), product[:, None], 1)
    tokens = [Observed(x, code, torch.arange(400))]
    form = torch.outer(a, b)
    forms = Forms.of_matrices(((form + form.mT) / 2)[None], [0])
    found = on_active(forms, tokens)
    assert found.correlation[0, 0, 0] < 0.99
    np.testing.assert_allclose(found.correlation[0, 0, 1:], 1)
    np.testing.assert_allclose(found.r2[0, 0, 1:], 1)
    control = on_active(forms.rotated(0), tokens)
    assert abs(control.correlation[0, 0, 1]) < 0.5


def test_a_feature_that_does_not_vary_has_no_correlation():
    x = some_activations(50, dtype=torch.float64)
    values = torch.full((50, 1), 3.0).double() + 1e-7 * normal(50, 1)
    code = Code.of_equal_rows(torch.zeros(50, 1).long(), values, 1)
    found = on_active(Forms.of_matrices(matrices(1), [0]), [Observed(x, code, torch.arange(50))])
    assert np.isnan(found.correlation).all()
    assert np.isnan(found.r2).all()


def test_intervals_resample_documents_by_the_seed(plain, corpus):
    first, same, other = (curve(plain, corpus, n_bootstrap=40, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first.table, same.table)
    pd.testing.assert_series_equal(first.table["correlation"], other.table["correlation"])
    assert not first.table["low"].equals(other.table["low"])
    rows = first.at(2)
    often = rows[rows["n_active"] >= 50]
    assert (often["low"] < often["correlation"]).mean() > 0.9
    assert (often["correlation"] < often["high"]).mean() > 0.9

    whole, n = observed(), 6
    forms = Forms.of_matrices(matrices(), range(10), n_rank=2)
    found = on_active(forms, [whole], Resampling(n, seed=5)).correlation
    drawn = np.stack([np.random.default_rng((5, d)).poisson(1, n) for d in range(9)])
    on = whole.code.dense()[:, 3] != 0
    a, x = whole.code.dense()[on, 3].numpy(), whole.inputs[on]
    y = ((x @ Spectrum.of(matrices()[3]).truncate(2).matrix()) * x).sum(1).numpy()
    for i in range(n):
        times = drawn[whole.document[on], i]
        wanted = correlated(np.repeat(a, times), np.repeat(y, times))
        assert found[i + 1, 3, 1] == pytest.approx(wanted)


def test_controls_keep_the_eigenvalues():
    forms = Forms.of_matrices(matrices(), range(10), n_rank=7)
    control, again, other = (forms.rotated(seed) for seed in (3, 3, 4))
    assert torch.equal(control.vectors, again.vectors)
    assert not torch.equal(control.vectors, other.vectors)
    gram = control.vectors @ control.vectors.mT
    torch.testing.assert_close(gram, torch.eye(7).double().expand(10, 7, 7))
    assert torch.equal(control.values, forms.values)
    order = torch.arange(10).roll(1)
    moved = forms.shuffled(order)
    assert torch.equal(moved.feature, forms.feature)
    assert torch.equal(moved.vectors[3], forms.vectors[2])
    x = some_activations(5, dtype=torch.float64)
    assert torch.equal(moved.whole(x)[:, 3], forms.whole(x)[:, 2])


def test_every_live_feature_is_shuffled_to_another(plain, corpus):
    given = dictionary()
    found = curve(plain, corpus, given, reader="encoder")
    _, out = activations(plain, corpus)
    f, scores = given.encode(out), given.preactivations(out)
    whole = found.at(found.ranks[-1]).set_index("feature")
    for feature in whole.index:
        on = f[:, feature] != 0
        if on.sum() < 20:
            continue
        others = np.corrcoef(torch.cat([f[on, feature, None], scores[on]], 1).T.numpy())[0, 1:]
        got = whole.loc[feature, "correlation_shuffled"]
        assert np.abs(np.delete(others, feature) - got).min() < 1e-9


def test_an_untrained_model_has_the_shape_and_nothing_else(plain):
    state = torch.get_rng_state()
    first, same, other = (untrained(plain, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.fingerprint == same.fingerprint
    assert len({first.fingerprint, other.fingerprint, plain.fingerprint}) == 3
    shapes = [{n: (w.shape, w.dtype) for n, w in m.network.state_dict().items()}
              for m in (first, plain)]  # fmt: skip
    assert shapes[0] == shapes[1]


def test_the_untrained_control_is_its_own_layers_form(plain, corpus):
    given = dictionary()
    found = curve(plain, corpus, given, seed=3, reader="pinv")
    x, out = activations(untrained(plain, 3), corpus)
    read = given.basis("pinv").read
    values = out @ read.mT
    scores = (values - values.mean(0)) / values.std(0, correction=0)
    kept = scores.topk(5)
    active = torch.zeros_like(scores).scatter(1, kept.indices, kept.values.relu())
    layer = untrained(plain, 3).layer(1)
    rows = found.table[found.table["feature"] == 7]
    on = active[:, 7] != 0
    assert (rows["n_active_untrained"] == int(on.sum())).all()
    for rank, got in zip(rows["rank"], rows["correlation_untrained"], strict=True):
        form = Spectrum.of(layer.interaction(read[7])).truncate(rank).matrix()
        wanted = correlated(active[on, 7], ((x[on] @ form) * x[on]).sum(1))
        assert got == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("kind", ["topk", "signed", "thresholds"])
@pytest.mark.parametrize("reader", ["encoder", "pinv"])
def test_truncation_at_full_rank_loses_what_the_dictionary_does(kind, reader, plain, corpus):
    given = {
        "topk": dictionary,
        "signed": lambda: dictionary(relu=False),
        "thresholds": lambda: dictionary(k=None, threshold=torch.full((24,), 2.0).double()),
    }[kind]()
    loss = curve(plain, corpus, given, reader=reader).loss.set_index("replaced_by")
    row = quality(given, plain, corpus).iloc[0]
    for name in ("clean", "zero", "sae"):
        assert loss.loc[name, "loss"] == pytest.approx(row[f"loss_{name}"], abs=1e-6)
    full = loss.loc["full rank"]
    if reader == "encoder":
        assert full["loss"] == pytest.approx(row["loss_sae"], abs=1e-6)
        assert full["chosen"] == pytest.approx(row["loss_sae"], abs=1e-6)
        assert full["beyond_sae"] == pytest.approx(0, abs=1e-6)
    else:
        if kind == "signed":  # otherwise negative values are cut, as the rule does
            assert full["chosen"] == pytest.approx(row["loss_pinv_on_active"], abs=1e-6)
        if kind != "thresholds":
            assert full["loss"] == pytest.approx(row["loss_pinv_largest"], abs=1e-6)
    assert abs(loss.loc["rank 1", "loss"] - full["loss"]) > 1e-3
    share = (row["loss_zero"] - full["loss"]) / (row["loss_zero"] - row["loss_clean"])
    assert full["recovered"] == pytest.approx(share, rel=1e-4)


def test_truncation_is_what_dense_forms_decode_to(model, corpus):
    given = dictionary()
    found = curve(model, corpus, given, reader="encoder").loss.set_index("replaced_by")
    layer = model.layer(1)
    level = -given.offset if layer.down_bias is None else layer.down_bias - given.offset
    forms = [Spectrum.of(layer.interaction(row)).truncate(4).matrix() for row in given.encoder]
    total, n = 0.0, 0
    for reading in readings(model, corpus, [IN]):
        x = reading.activations[IN]
        x = lifted(x) if layer.has_constant else x
        scores = torch.stack([((x @ form) * x).sum(1) for form in forms], dim=1)
        scores = scores + given.encoder @ level + given.bias
        kept = scores.topk(5)
        code = torch.zeros_like(scores).scatter(1, kept.indices, kept.values.relu())
        made = torch.zeros(*reading.counted.shape, D_MODEL).double()
        made[reading.counted] = code @ given.decoder + given.offset

        def spliced(out, made=made):
            return torch.cat([out[:, :1], made[:, 1 : out.shape[1]]], dim=1)

        with torch.no_grad(), model.replaced({OUT: spliced}):
            logits = model.logits(reading.batch.tokens)
        mask = reading.batch.mask[:, 1:]
        targets = reading.batch.tokens[:, 1:][mask]
        total += float(functional.cross_entropy(logits[:, :-1][mask], targets, reduction="sum"))
        n += len(targets)
    assert found.loc["rank 4", "loss"] == pytest.approx(total / n, abs=1e-6)


def test_blocks_of_features_change_nothing(plain, corpus, monkeypatch):
    whole = curve(plain, corpus)
    monkeypatch.setattr("analysis.lowrank.layer_forms.BLOCK", 7)
    parts = curve(plain, corpus)
    by_block = ["correlation_shuffled", "correlation_rotated"]  # drawn block by block
    left, right = (c.table.drop(columns=by_block) for c in (whole, parts))
    pd.testing.assert_frame_equal(left, right)
    pd.testing.assert_frame_equal(whole.loss, parts.loss)


def small_curve(**about):
    rows = [
        {
            "feature": feature, "n_active": 10 * feature, "rank": rank, "energy": rank / 4,
            "effective_rank": 2.0, "entropy_rank": 2.0, "correlation": 0.2 * feature + 0.1 * rank,
            "low": 0.0, "high": 1.0, "r2": 0.1 * feature, "correlation_all": 0.1, "r2_all": 0.1,
            "correlation_by_data": 0.3, "r2_by_data": 0.2, "correlation_rotated": 0.05 * feature,
            "correlation_shuffled": -0.1, "n_active_untrained": 30 - 10 * feature,
            "correlation_untrained": 0.5, "r2_untrained": 0.5, "correlation_by_sign": 0.2,
            "n_active_random": 20, "correlation_random": 0.4, "r2_random": 0.25 * rank,
            "n_active_tokens": 20, "correlation_tokens": 0.4, "r2_tokens": 0.1,
        }
        for feature in range(4) for rank in (1, 2, 4)
    ]  # fmt: skip
    loss = pd.DataFrame({"replaced_by": ["clean", "full rank"], "loss": [1.0, 1.5],
                         "chosen": [float("nan"), 1.25]})  # fmt: skip
    known = {"site": "mlp_out@0", "reader": "pinv", "min_active": 10, "seed": 0, "n_token": 99,
            "n_loss_documents": 5}  # fmt: skip
    return RankCurve(pd.DataFrame(rows), loss, {**known, **about})


def test_aggregates_count_features_that_are_active_often_enough():
    found = small_curve()
    assert found.compared(2).to_dict() == pytest.approx({1: 0.4, 2: 0.6, 3: 0.8})
    assert found.share_above(0.5) == pytest.approx(2 / 3)
    assert found.share_above(0.5, rank=4) == 1
    assert found.compared(2, "correlation_untrained").index.tolist() == [0, 1, 2]
    steps = found.thresholds(2)
    assert steps.loc[0.59, "share"] == pytest.approx(2 / 3)
    assert steps.loc[0.61, "share"] == pytest.approx(1 / 3)
    assert steps.loc[0.06, "rotated"] == pytest.approx(2 / 3)
    assert found.mean.loc[2, "mean"] == pytest.approx(0.6)
    assert found.mean.loc[2, "low"] < 0.6 < found.mean.loc[2, "high"]
    assert found.mean.loc[2, "mean_shuffled"] == pytest.approx(-0.1)
    assert found.nulls.loc[("rotated", 2), "median"] == pytest.approx(0.1)
    summary = found.summary()
    assert (summary["n_live"], summary["n_often"], summary["n_compared"]) == (4, 3, 3)
    assert summary["median"] == pytest.approx(0.6)
    assert summary["share_above"] == pytest.approx(1 / 3)
    assert small_curve(min_active=25).summary()["n_compared"] == 1


def test_the_rank_that_is_needed_is_the_first_that_explains_enough():
    found = small_curve()
    assert found.needed(Control.RANDOM, r2=0.5).tolist() == [2] * 4
    assert found.needed(Control.RANDOM).tolist() == [np.inf] * 4  # 4 is the whole form
    assert found.needed(Control.RANDOM, r2=0.3).tolist() == [2] * 4
    assert found.needed().tolist() == [np.inf] * 3
    summary = found.summary()
    assert (summary["needed"], summary["needed_random"], summary["needed_tokens"]) == (
        None, None, None
    )  # fmt: skip
    assert found.needed_sentence == (
        "Eigenvectors needed for an R² of 0.9, median: more than there are; random directions of "
        "the same model more than 2, outputs of random tokens more than there are, an untrained "
        "model more than there are."
    )


def test_what_was_not_compared_was_not_measured():
    """A rank that nothing was compared at is no rank beyond those that were tried."""
    nothing = small_curve(min_active=10**6)
    assert nothing.needed().empty
    assert nothing.needed_sentence == (
        "Eigenvectors needed for an R² of 0.9, median: not measured; random directions of the same "
        "model not measured, outputs of random tokens not measured, an untrained model not "
        "measured."
    )
    assert nothing.needed_conclusion == ""
    found = small_curve()
    lacking = found.table.assign(r2_tokens=float("nan"))  # as of a file of schema 1
    assert "tokens not measured, an" in replace(found, table=lacking).needed_sentence


def needing(features: list[float], tokens: list[float]) -> RankCurve:
    """A curve whose features and tokens' outputs need so many eigenvectors, of 12 tried."""
    rows = [
        {"feature": f, "rank": rank, "n_active": 99, "n_active_tokens": 99,
         "r2": float(rank >= own), "r2_tokens": float(rank >= other)}
        for f, (own, other) in enumerate(zip(features, tokens, strict=True))
        for rank in range(1, 14)
    ]  # fmt: skip
    return RankCurve(pd.DataFrame(rows), pd.DataFrame(), {"min_active": 20, "seed": 0})


@pytest.mark.parametrize(
    ("features", "tokens", "said"),
    [
        ([6] * 20, [6] * 20, "the low rank is the layer's doing, not the dictionary's."),
        ([9] * 20, [6] * 20, "Features need no fewer than the outputs of random tokens:"),
        ([99] * 20, [6] * 20, "Features need no fewer than the outputs of random tokens:"),
        ([3, 9, 6, 7] * 3, [3, 9, 7, 7] * 3, "Features do not clearly need fewer than"),
        ([2, 3] * 10, [8, 99] * 10, "that difference is the dictionary's doing"),
        ([99] * 20, [99] * 20, ""),
    ],
)
def test_low_rank_is_the_dictionarys_only_where_features_need_fewer(features, tokens, said):
    conclusion = needing(features, tokens).needed_conclusion
    assert said in conclusion
    assert bool(conclusion) is bool(said)


def test_random_directions_and_outputs_of_tokens_are_read_in_the_same_model(plain, corpus):
    """Whole, each is what its row reads, selected as features are."""
    given = dictionary()
    found = curve(plain, corpus, given, seed=5)
    _, out = activations(plain, corpus)
    rows = torch.randn(given.encoder.shape, generator=torch.Generator().manual_seed(5),
                       dtype=torch.float64)  # fmt: skip
    values = out @ rows.mT
    scores = (values - values.mean(0)) / values.std(0, correction=0)
    active = (scores >= scores.topk(given.k).values[:, -1:]) & (scores > 0)
    counted = found.table.groupby("feature")["n_active_random"].first()
    assert counted.to_dict() == {f: int(active[:, f].sum()) for f in counted.index}
    whole = found.at(found.ranks[-1])
    for control in ("random", "tokens"):
        often = whole[whole[f"n_active_{control}"] >= 20]
        np.testing.assert_allclose(often[f"r2_{control}"], 1, atol=1e-9)
        assert (found.at(1)[f"r2_{control}"] < 0.999).any()


def test_a_curve_of_schema_1_lacks_controls_and_is_read(tmp_path):
    path = small_curve().save(tmp_path / "old")
    table = pd.read_parquet(path)
    since = [
        c for c in table if c.endswith(("_random", "_tokens", "_by_sign")) or c == "r2_untrained"
    ]
    table.drop(columns=since).to_parquet(path)
    content = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(content | {"schema": 1}))
    found = RankCurve.load(path)
    assert found.summary()["needed_random"] is None
    assert np.isnan(found.summary()["share_above_random"])
    assert found.summary()["median"] == small_curve().summary()["median"]


def test_a_feature_without_a_correlation_is_not_compared():
    found = small_curve()
    table = found.table.assign(correlation=found.table["correlation"].where(
        found.table["feature"] != 2))  # fmt: skip
    summary = replace(found, table=table).summary()
    assert (summary["n_often"], summary["n_compared"]) == (3, 2)


def test_a_saved_curve_is_the_same_when_loaded(tmp_path, plain, corpus):
    found = curve(plain, corpus)
    path = found.save(tmp_path / "rank" / "layer-1")
    assert path == tmp_path / "rank" / "layer-1.parquet"
    assert sorted(p.name for p in path.parent.iterdir()) == ["layer-1.json", "layer-1.parquet"]
    for name in (path, path.with_suffix(".json"), path.with_suffix("")):
        again = RankCurve.load(name)
        pd.testing.assert_frame_equal(again.table, found.table)
        pd.testing.assert_frame_equal(again.loss, found.loss)
        assert again.about == found.about
    text = path.with_suffix(".json").read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert content["summary"]["median"] == pytest.approx(found.summary()["median"])
    assert len(content["thresholds"]["threshold"]) == 101
    assert set(content["nulls"]["control"]) == set(Control)


def test_a_file_that_is_not_a_curve_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": 7}')
    with pytest.raises(
        DictionaryError, match=r"a.json: not a rank curve of schema 2 \(its schema is 7\)"
    ):
        RankCurve.load(tmp_path / "a")
    with pytest.raises(DictionaryError, match=r"b.json: no such file"):
        RankCurve.load(tmp_path / "b")
    small_curve().save(tmp_path / "c")
    (tmp_path / "c.parquet").unlink()
    with pytest.raises(DictionaryError, match=r"c.parquet: there is no such file beside"):
        RankCurve.load(tmp_path / "c")
    for about in (None, "x", {"seed": 0}):
        (tmp_path / "d.json").write_text(json.dumps({"schema": 2, "loss": {}, "about": about}))
        with pytest.raises(DictionaryError, match=r"d.json: its 'about' lacks site, r"):
            RankCurve.load(tmp_path / "d")


@pytest.mark.parametrize("ranks", [lambda known: 0, lambda known: 1, lambda known: known - 1])
def test_a_curve_of_one_rank_or_of_rank_0_is_refused(tmp_path, ranks):
    found = small_curve()
    found.save(tmp_path / "a")
    found.table.assign(rank=ranks(found.table["rank"])).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DictionaryError, match=r"a\.parquet: its ranks are not two or more"):
        RankCurve.load(tmp_path / "a")


def test_a_curve_shows_itself(plain, corpus):
    found = curve(plain, corpus)
    assert repr(found).startswith("RankCurve(mlp_out@1 read by encoder: ")
    page = found._repr_html_()
    assert "mean_rotated" in page
    assert len(page) < 6000
    names = {trace.name for trace in found.plot().data}
    assert {*Control, "active tokens", "features"} <= names
    figures = {figure.key: figure for figure in found.figures()}
    spread = figures["distribution"].table
    assert spread[spread["of"] == "features"]["n"].sum() == len(found.compared(2))
    (own,) = [t for t in figures["losses"].traces if t["name"] == "chosen among approximations"]
    assert own["y"] == found.loss.set_index("replaced_by").loc[own["x"], "loss"].tolist()


def test_a_stopped_curve_resumes_to_the_same_result(plain, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.lowrank.layer_forms.BLOCK", 10)
    whole = curve(plain, corpus)
    made = []
    plainly = measure.active_sums  # once for each block

    def stopped(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments)
        return plainly(*arguments)

    monkeypatch.setattr(measure, "active_sums", stopped)
    with pytest.raises(KeyboardInterrupt):
        curve(plain, corpus, folder=tmp_path / "half")
    assert len(list((tmp_path / "half").glob("own-*.parquet"))) == 2
    counted = []
    monkeypatch.setattr(measure, "active_sums", lambda *a: counted.append(a) or plainly(*a))
    again = curve(plain, corpus, folder=tmp_path / "half")
    assert len(counted) == len(list((tmp_path / "half").glob("own-*.parquet"))) - 2
    pd.testing.assert_frame_equal(again.table, whole.table, check_exact=True)
    counted.clear()
    other = curve(
        plain, corpus, folder=tmp_path / "half", seed=5
    )  # other random draws: computed again
    assert len(counted) > 2
    assert not other.table["correlation_rotated"].equals(whole.table["correlation_rotated"])
    (tmp_path / "half" / "own-0000000.parquet").write_bytes(b"cut short")
    pd.testing.assert_frame_equal(
        curve(plain, corpus, folder=tmp_path / "half").table, whole.table, check_exact=True
    )


def test_other_sites_and_thin_text_are_refused(plain, corpus):
    with pytest.raises(DictionaryError) as refused:
        rank_curve(plain, dictionary(site=Site("resid_post", 1)), corpus=corpus)
    assert str(refused.value) == (
        "rank_curve: the dictionary is at resid_post@1. Only at mlp_out is an activation a form of "
        "the MLP's input alone: the stream also holds what did not pass through the MLP. Pass a "
        "dictionary trained at mlp_out@1."
    )
    with pytest.raises(
        DictionaryError, match="there is no dictionary at layer 0, only at mlp_out@1"
    ):
        rank_curve(plain, {OUT: dictionary()}, 0, corpus)
    with pytest.raises(DictionaryError, match="no dictionary at layer None, only at none"):
        rank_curve(plain, {}, corpus=corpus)
    with pytest.raises(DictionaryError, match="active on 5000 of the"):
        rank_curve(plain, dictionary(), corpus=corpus, min_active=5000)
    with pytest.raises(CorpusError, match="does not know the words of the built-in stories"):
        rank_curve(plain, dictionary())
    with pytest.raises(
        DictionaryError, match=r"rank 3 was not measured. Ask for 1 to 2, or 4 for the w"
    ):
        small_curve().at(3)
    with pytest.raises(DictionaryError, match="no column 'r3'"):
        small_curve().compared(2, "r3")
    found = rank_curve(plain, {OUT: dictionary(), IN: dictionary(site=IN)}, corpus=corpus,
                       n_bootstrap=0, n_rank=3)  # fmt: skip
    assert found.ranks == [1, 2, 3, D_MODEL]
    assert found.table["low"].isna().all()


def test_a_run_saves_and_records_its_curves(tmp_path, plain, corpus):
    other = dictionary(site=Site("mlp_out", 0), seed=5)
    given = {OUT: dictionary(), Site("mlp_out", 0): other, IN: dictionary(site=IN)}
    options = {"corpus": corpus, "min_active": 20, "n_documents": 40, "reader": "encoder"}
    run = Run(tmp_path, model=plain, dictionaries=given)
    curves = run_rank(run, **options)
    assert sorted(curves) == [0, 1]
    assert [step["step"] for step in read_manifest(tmp_path)] == [
        "rank of layer 0",
        "rank of layer 1",
    ]
    for i, step in enumerate(read_manifest(tmp_path)):
        assert sorted(step["made"]) == [f"rank/layer-{i}.{kind}" for kind in ("json", "parquet")]
        assert step["made_of"]["reader"] == "encoder"
    again = RankCurve.load(tmp_path / "rank" / "layer-1")
    pd.testing.assert_frame_equal(again.table, curves[1].table)
    assert not again.table.equals(RankCurve.load(tmp_path / "rank" / "layer-0").table)
    with pytest.raises(DictionaryError) as refused:
        run_rank(run, layers=[1, 7], corpus=corpus)
    assert str(refused.value) == (
        "there are no dictionaries of mlp_out for layer 7 (there are for [0, 1]). Train them: "
        "circuits sae train RUN"
    )
