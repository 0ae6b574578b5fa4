"""Arguments of the right kind that cannot be right: refused before a library sees them."""

import pytest
import torch

from circuits import Interactions
from circuits.errors import ArgumentError, BasisError, CircuitsError
from tests.support.small import basis, small_layer


@pytest.mark.parametrize("where", ["x", -1, [], {}, 2**70, "cuda:99"])
def test_where_nothing_can_be_moved_is_refused(where):
    for thing in (basis(20), basis(20).subset([1]), small_layer()):
        with pytest.raises(ArgumentError, match=r"\.to: .* Pass a device that can be used here"):
            thing.to(where)


def test_a_tensor_is_no_seed_and_no_list_of_features():
    for call in (basis(20).control, basis(20).report):
        with pytest.raises(CircuitsError, match="seed = a Tensor is not a whole number"):
            call(torch.tensor(1))
    for features in (torch.tensor(1), torch.tensor([[1]])):
        with pytest.raises(BasisError, match=r"a tensor of \d axes was given, and indices have"):
            basis(20).subset(features)


@pytest.mark.parametrize(
    "score", [lambda table, o: None, lambda table, o: table.drop(columns="output")]
)
@pytest.mark.parametrize("folder", [None, "shards"])
def test_a_score_that_does_not_return_its_table_is_refused(score, folder, tmp_path):
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    kept = {} if folder is None else {"folder": tmp_path / folder, "score_name": "none"}
    with pytest.raises(ArgumentError, match="is not the table of its output with further"):
        inter.strongest_of_each(3, score=score, **kept)
