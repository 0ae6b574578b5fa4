"""Statistics from one pass over sparse codes are those of the dense matrix."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from circuits.errors import CircuitsError, DictionaryError
from sae import load_dictionary
from sae.sparse import Code
from sae.statistics import LEVELS, N_BIN, statistics
from tests.support.commands import command
from tests.support.small_dictionaries import N_FEATURE, small_dictionary, some_activations


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("sizes", [[200], [1, 120, 79]])
def test_statistics_are_those_of_the_dense_features(sizes, relu):
    dictionary = small_dictionary(k=20, relu=relu, bias=torch.linspace(-60, 1, N_FEATURE))
    x = some_activations()
    found = dictionary.measured(x.split(sizes)).statistics
    dense = dictionary.encode(x).double().numpy()
    assert int(found.n_token) == 200
    assert int(found.kept_every) == 1
    for feature in range(N_FEATURE):
        active = dense[:, feature][dense[:, feature] != 0]
        assert int(found.n_active[feature]) == len(active)
        assert float(found.frequency[feature]) == pytest.approx(len(active) / 200)
        assert int(found.histogram[feature].sum()) == len(active)
        if len(active) == 0:
            assert float(found.maximum[feature]) == float(found.mean[feature]) == 0
            continue
        assert float(found.mean[feature]) == pytest.approx(active.mean(), rel=1e-6)
        assert float(found.maximum[feature]) == active.max()
        assert float(found.minimum[feature]) == active.min()
        wanted = np.quantile(active, LEVELS)
        np.testing.assert_allclose(found.quantiles[feature].numpy(), wanted, rtol=1e-5)
        # counted up to each edge: values that lie on one may fall to either side
        edges = np.linspace(*found.of(feature).span, N_BIN + 1)
        up_to = [(active <= edge + 1e-5).sum() for edge in edges[1:]]
        np.testing.assert_array_equal(found.histogram[feature].cumsum(0).numpy(), up_to)
    assert (found.n_active == 0).any()


def rows(dense, sizes):
    """Each part's entries as a code of k = 5, whose numbers are those of the whole."""
    for part in dense.split(sizes):
        values, features = part.topk(5)
        yield Code.of_equal_rows(features, values, N_FEATURE)


def test_more_than_fits_is_thinned_by_token_and_says_so():
    dense = small_dictionary().encode(some_activations(1000))
    whole = statistics(rows(dense, 1000))
    thinned = statistics(rows(dense, 300), n_kept=1500)  # entries, of 1000 · 5
    assert int(thinned.kept_every) == 4
    for exact in ("n_token", "n_active", "minimum", "maximum"):
        assert torch.equal(getattr(thinned, exact), getattr(whole, exact))
    torch.testing.assert_close(thinned.mean, whole.mean)
    every_fourth = statistics(rows(dense[::4], 250))
    assert torch.equal(thinned.quantiles, every_fourth.quantiles)


def test_statistics_do_not_depend_on_how_the_tokens_are_cut():
    dense = small_dictionary().encode(some_activations())
    first, second = (statistics(rows(dense, n)) for n in (200, 33))
    for name in ("n_active", "quantiles", "histogram", "maximum"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_the_table_has_a_row_for_each_feature():
    found = small_dictionary().measured([some_activations()]).statistics
    table = found.table()
    assert len(table) == N_FEATURE
    assert table.loc[3, "maximum"] == float(found.maximum[3])
    assert table.loc[3, "quantile_0.5"] == float(found.quantiles[3, 2])


def test_no_token_is_refused():
    with pytest.raises(DictionaryError) as refused:
        small_dictionary().measured(iter([]))
    assert str(refused.value) == (
        "statistics: there are no tokens, so features have no frequency. Was the iterator of "
        "activations used before? It gives them once; make a new one."
    )


@pytest.fixture
def saved(tmp_path):
    """Two dictionaries of one shape, with their statistics."""
    for name, seed in (("one", 1), ("other", 2)):
        dictionary = small_dictionary(seed=seed)
        dictionary.measured([some_activations()]).save(tmp_path / name)
    return tmp_path


def test_statistics_of_another_dictionary_are_refused(saved):
    assert load_dictionary(saved / "one").statistics is not None
    name = "stats.safetensors"
    (saved / "one" / name).write_bytes((saved / "other" / name).read_bytes())
    with pytest.raises(DictionaryError, match=r"stats\.safetensors: of other weights than"):
        load_dictionary(saved / "one")


def test_statistics_of_an_earlier_version_are_read_and_marked(saved):
    path = saved / "one" / "stats.safetensors"
    assert "note:" not in command("sae", "info", str(saved / "one")).stdout
    save_file(load_file(path), path)
    assert load_dictionary(saved / "one").statistics is not None
    said = command("sae", "info", str(saved / "one")).stdout
    assert f"note: {path}: nothing records of which dictionary they are" in said


@pytest.mark.parametrize(
    "change",
    [
        {"n_token": torch.tensor(0)}, {"n_token": torch.tensor(-1)},
        {"kept_every": torch.tensor(0)}, {"n_active": torch.full((N_FEATURE,), -1)},
        {"n_active": torch.full((N_FEATURE,), 201)}, {"n_active": torch.zeros(N_FEATURE)},
        {"histogram": torch.full((N_FEATURE, N_BIN), -1)},
        {"histogram": torch.full((N_FEATURE, N_BIN), 2**62)},
        {"mean": torch.full((N_FEATURE,), torch.nan)},
        {"minimum": torch.full((N_FEATURE,), 1e9)},
    ],
)  # fmt: skip
def test_counts_that_no_tokens_give_are_refused(change, saved):
    path = saved / "one" / "stats.safetensors"
    save_file({**load_file(path), **change}, path)
    with pytest.raises(CircuitsError, match=r"(?i)stat"):
        load_dictionary(saved / "one")
