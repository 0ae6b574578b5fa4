import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from circuits import Basis, BilinearLayer, Interactions, Spectrum
from circuits.algebra import pair_search as strongest
from circuits.algebra.output_statistics import histogram_edges, output_statistics
from circuits.errors import FeatureRangeError, RunError
from circuits.storage import shards
from circuits.storage.files import written_whole
from circuits.storage.shards import make_shards, merge_shards
from tests.support.small import basis, normal, small_layer


@pytest.fixture
def inter(monkeypatch):
    monkeypatch.setattr(shards, "OUTPUTS", 4)
    monkeypatch.setattr(strongest, "ROWS", 8)
    monkeypatch.setattr(strongest, "COLUMNS", 13)
    return Interactions(small_layer(biases="left"), basis(30, offset=True), basis(11, seed=2))


def test_the_statistics_are_those_of_all_the_pairs(inter):
    row = output_statistics(inter, range(3, 4)).iloc[0]
    matrix = inter.matrix(3).numpy()
    features, linear = matrix[:-1, :-1], 2 * matrix[-1, :-1]
    above = np.triu_indices(30, 1)
    cross, own = 2 * features[above], features.diagonal()
    assert row["cross_mean"] == pytest.approx(cross.mean(), rel=1e-9)
    assert row["cross_rms"] == pytest.approx(np.sqrt((cross**2).mean()), rel=1e-9)
    centred = cross - cross.mean()
    assert row["cross_kurtosis"] == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
    assert row["self_mean"] == pytest.approx(own.mean())
    assert row["self_rms"] == pytest.approx(np.sqrt((own**2).mean()))
    assert row["linear_rms"] == pytest.approx(np.sqrt((linear**2).mean()), rel=1e-9)
    assert row["energy"] == pytest.approx((features**2).sum())
    best = np.abs(cross).argmax()
    assert row["strongest_weight"] == pytest.approx(cross[best])
    assert (row["strongest_first"], row["strongest_second"]) == (above[0][best], above[1][best])
    score = cross - np.abs(own[above[0]]) - np.abs(own[above[1]])
    assert row["and_score"] == pytest.approx(score.max())
    assert (row["and_first"], row["and_second"]) == (
        above[0][score.argmax()],
        above[1][score.argmax()],
    )
    edges = np.concatenate([[-np.inf], histogram_edges().numpy(), [np.inf]])
    wanted, _ = np.histogram(cross / np.sqrt((cross**2).mean()), edges)
    assert row["cross_histogram"].tolist() == wanted.tolist()
    assert row["cross_histogram"].sum() == 30 * 29 // 2
    assert row["self_histogram"].sum() == 30


def test_the_spectral_columns_are_those_of_the_spectrum(inter):
    """Those of the features alone: the constant is left out."""
    row = output_statistics(inter, range(2, 3)).iloc[0]
    spectrum = Spectrum.of(inter.matrix(2)[:-1, :-1])
    assert row["effective_rank"] == pytest.approx(spectrum.effective_rank)
    assert row["value_1"] == pytest.approx(float(spectrum.values[0]))
    assert row["energy_2"] == pytest.approx(spectrum.energy(2))


def test_any_range_gives_the_same_rows(inter):
    whole = output_statistics(inter)
    assert whole["output"].tolist() == list(range(11))
    part = output_statistics(inter, range(3, 9))
    pd.testing.assert_frame_equal(part, whole.iloc[3:9].reset_index(drop=True))


def test_shards_of_any_cut_merge_to_the_same_bytes(inter, tmp_path):
    output_statistics(inter, folder=tmp_path / "one")
    for part in (range(9, 11), range(0, 6), range(5, 9)):  # as processes might, with an overlap
        output_statistics(inter, part, folder=tmp_path / "many")
    merge_shards(tmp_path / "one", range(11), tmp_path / "one.parquet")
    merge_shards(tmp_path / "many", range(11), tmp_path / "many.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()


def test_an_interrupted_pass_resumes_where_it_stopped(inter, tmp_path, monkeypatch):
    whole = output_statistics(inter)
    computed = []
    spectrum = Interactions.spectrum  # computed once for each output

    def stops_at_6(self, output):
        if output == 6 and 6 not in computed:
            computed.append(output)
            raise KeyboardInterrupt
        computed.append(output)
        return spectrum(self, output)

    monkeypatch.setattr(Interactions, "spectrum", stops_at_6)
    with pytest.raises(KeyboardInterrupt):
        output_statistics(inter, folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["outputs-0000000-0000004.parquet"]
    computed_before = len(computed)
    resumed = output_statistics(inter, folder=tmp_path)
    assert computed[computed_before:] == list(range(4, 11)), "finished outputs are not done again"
    pd.testing.assert_frame_equal(resumed, whole)


def test_shards_of_another_layer_are_refused(inter, tmp_path):
    output_statistics(inter, range(4), folder=tmp_path)
    other = Interactions(small_layer(seed=5), inter.inputs, inter.outputs)
    with pytest.raises(RunError, match=r"made from another layer.*use another folder"):
        output_statistics(other, range(8), folder=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    make_shards(elsewhere, range(4, 8), lambda o: pd.DataFrame({"output": [o]}), "other", "")
    next(elsewhere.iterdir()).rename(tmp_path / "outputs-0000004-0000008.parquet")
    with pytest.raises(RunError, match="mixes shards"):
        merge_shards(tmp_path, range(8))


def test_every_row_of_an_output_is_kept_and_an_overlap_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "OUTPUTS", 4)
    rows_of = lambda o: pd.DataFrame({"output": [o, o], "weight": [1.0, 1.0]})  # noqa: E731
    make_shards(tmp_path, range(0, 6), rows_of, "same", "")
    make_shards(tmp_path, range(2, 9), rows_of, "same", "")
    assert merge_shards(tmp_path, range(1, 9))["output"].tolist() == sorted([*range(1, 9)] * 2)


def test_missing_outputs_and_broken_shards_are_named(inter, tmp_path):
    with pytest.raises(RunError, match="holds no shards"):
        merge_shards(tmp_path, range(4))
    output_statistics(inter, range(4), folder=tmp_path)
    with pytest.raises(RunError, match="lacks outputs 4, 5, 6"):
        merge_shards(tmp_path, range(7))
    shard = tmp_path / "outputs-0000000-0000004.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(RunError, match=r"not a readable Parquet file.*Delete it"):
        output_statistics(inter, range(4), folder=tmp_path)


def test_a_file_is_whole_or_absent(tmp_path):
    def half(path):
        with written_whole(path) as file:
            file.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with written_whole(tmp_path / "new" / "file") as file:
        file.write_text("whole")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


def test_outputs_that_do_not_exist_are_refused(inter):
    with pytest.raises(FeatureRangeError, match="outputs 0 to 10"):
        output_statistics(inter, range(5, 12))
    for outputs in (range(0), range(0, 4, 2)):
        with pytest.raises(FeatureRangeError, match=r"not a range\(a, b\)"):
            output_statistics(inter, outputs)


def identity_with_form(form: torch.Tensor) -> Interactions:
    """Features are coordinates, and the one output has this form."""
    values, vectors = torch.linalg.eigh(form.double())
    layer = BilinearLayer(vectors.mT, vectors.mT, values[None])
    n = len(form)
    inter = Interactions(
        layer, Basis.identity(n, torch.float64), Basis.identity(1, torch.float64)
    )  # fmt: skip
    return inter


@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_large_self_interactions_do_not_hide_the_cross_ones(size):
    noise = normal(64, 64)
    form = 3 * torch.eye(64) + size * (noise + noise.mT)
    cross = 2 * form[tuple(torch.triu_indices(64, 64, 1))].numpy()
    row = output_statistics(identity_with_form(form)).iloc[0]
    assert row["cross_rms"] == pytest.approx(np.sqrt((cross**2).mean()), rel=1e-6)
    assert abs(row["strongest_weight"]) == pytest.approx(np.abs(cross).max(), rel=1e-6)
    assert np.sum(row["cross_histogram"]) == len(cross)
    assert row["cross_histogram"].max() < len(cross) / 2


def test_a_common_level_does_not_spoil_the_kurtosis():
    write = normal(100, 8) * 1e-3 + normal(8, seed=1)
    inter = Interactions(small_layer(), Basis.from_decoder(write), basis(3))
    cross = 2 * inter.matrix(1)[tuple(torch.triu_indices(100, 100, 1))].numpy()
    centred = cross - cross.mean()
    wanted = (centred**4).mean() / (centred**2).mean() ** 2
    assert output_statistics(inter, range(1, 2)).iloc[0]["cross_kurtosis"] == pytest.approx(wanted)


def test_where_there_is_no_cross_interaction_the_row_says_so():
    row = output_statistics(identity_with_form(torch.diag(torch.tensor([3.0, -2, 5, 1])))).iloc[0]
    assert row["strongest_weight"] == pytest.approx(0, abs=1e-12)
    assert row["strongest_first"] < row["strongest_second"]
    assert row["and_score"] == pytest.approx(-3)
    assert (row["and_first"], row["and_second"]) == (1, 3)
    alone = output_statistics(identity_with_form(torch.ones(1, 1))).iloc[0]
    assert np.isnan(alone["cross_rms"])
    assert np.isnan(alone["and_score"])
    assert (alone["and_first"], alone["strongest_second"]) == (-1, -1)


@pytest.mark.parametrize("size", [1e-12, 1e10])
def test_statistics_do_not_depend_on_the_unit_of_the_features(size):
    layer, out = small_layer(dtype=torch.float32), basis(3).to(torch.float32)
    write = normal(30, 8, dtype=torch.float32)
    one = output_statistics(Interactions(layer, Basis.from_decoder(write), out)).iloc[0]
    other = output_statistics(Interactions(layer, Basis.from_decoder(write * size), out)).iloc[0]
    for column in ("cross_kurtosis", "effective_rank", "self_kurtosis"):
        assert other[column] == pytest.approx(one[column], rel=1e-3)
    assert other["cross_rms"] == pytest.approx(one["cross_rms"] * size**2, rel=1e-3)


def test_a_random_layer_has_gaussian_weights_and_a_planted_pair_does_not():
    """What the table is for: the same statistic where there is nothing to find."""
    directions = torch.linalg.qr(normal(64, 64)).Q
    noise = small_layer(64, 400, 1)
    left = torch.cat([noise.left * 0.02, directions[:1]])
    right = torch.cat([noise.right * 0.02, directions[1:2]])
    down = torch.cat([noise.down, torch.ones(1, 1).double()], dim=1)
    into, out = Basis.orthonormal(directions), Basis.identity(1, torch.float64)
    row = output_statistics(Interactions(BilinearLayer(left, right, down), into, out)).iloc[0]
    control = output_statistics(
        Interactions(BilinearLayer(left, right, down), into.control(), out)
    ).iloc[0]
    assert (row["and_first"], row["and_second"]) == (0, 1)
    assert row["cross_kurtosis"] > 10 * control["cross_kurtosis"]


def test_shards_record_what_they_were_made_from(inter, tmp_path):
    output_statistics(inter, range(2), folder=tmp_path)
    metadata = pq.read_schema(next(tmp_path.iterdir())).metadata
    assert metadata[b"circuits.fingerprint"].decode() == inter.fingerprint


def test_a_shard_whose_rows_were_damaged_is_refused_at_every_byte(inter, tmp_path):
    output_statistics(inter, range(4), tmp_path)
    (path,) = tmp_path.glob("*.parquet")
    whole, table = path.read_bytes(), merge_shards(tmp_path, range(4))
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = merge_shards(tmp_path, range(4))
        except RunError:
            continue
        pd.testing.assert_frame_equal(found, table)  # a byte that no row depends on
