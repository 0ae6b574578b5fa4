"""Whole messages: what came, what it breaks, what to do.

The type checks of the test run would speak first, so they are off in this file.
"""

import re

import jaxtyping
import pytest
import torch

from circuits import Basis, BilinearLayer, Interactions, Spectrum
from circuits.algebra.output_statistics import output_statistics
from circuits.errors import (
    BasisError,
    CircuitsError,
    DirectionWarning,
    FeatureRangeError,
    TensorError,
)
from circuits.model import load_model
from tests.support.small import basis, normal, small_layer
from tests.support.small_models import small_folder


@pytest.fixture(autouse=True)
def _without_type_checks():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def refuses(error: type[Exception], message: str):
    assert issubclass(error, CircuitsError)
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_every_mismatch_of_a_layer_is_named_at_once():
    with refuses(
        TensorError,
        "BilinearLayer: left_bias has 2 axes (1, 3), not (hidden); axis hidden must have one size, "
        "but is 3 in left, 4 in right, 5 in down; axis model must have one size, but is 2 in left, "
        "7 in right. Wanted: left (hidden model), right (hidden model), down (out hidden)"
        ", left_bias (hidden).",
    ):
        BilinearLayer(normal(3, 2), normal(4, 7), normal(2, 5), left_bias=normal(1, 3))


def test_nan_and_infinity_are_counted_and_located():
    left, down = normal(3, 2), normal(2, 3)
    left[0, 0] = float("nan")
    down[0, 0], down[1, 1] = float("inf"), float("-inf")
    with refuses(
        TensorError,
        "BilinearLayer: left holds 1 NaN and 0 infinite of 6; down holds 0 NaN and 2 infinite of "
        "6. Every result would be NaN: check where these weights were trained or loaded.",
    ):
        BilinearLayer(left, normal(3, 2), down)


def test_large_but_finite_weights_are_not_mistaken_for_infinity():
    huge = torch.full((3, 2), 3e38)
    assert BilinearLayer(huge, huge, normal(2, 3, dtype=torch.float32)).d_hidden == 3


def test_integers_are_refused():
    with refuses(
        TensorError,
        "BilinearLayer computes with real floating-point numbers, but left is torch.int64, down "
        "is torch.complex64. Convert with .float() or .double() first.",
    ):
        BilinearLayer(
            torch.ones(3, 2, dtype=torch.int64), normal(3, 2), torch.ones(2, 3) * (1 + 1j)
        )
    with refuses(
        TensorError,
        "Basis.from_decoder: decoder is a list, not a torch tensor. "
        "Convert it with torch.as_tensor(decoder, dtype=torch.float32).",
    ):
        Basis.from_decoder([[1.0, 2.0]])


def test_mixed_devices_are_refused():
    with refuses(
        TensorError,
        "BilinearLayer: left on cpu, right on meta, down on cpu. "
        "Move all to one device with .to(device).",
    ):
        BilinearLayer(normal(3, 2), normal(3, 2).to("meta"), normal(2, 3))
    with pytest.raises(TensorError, match="layer on meta, inputs on cpu, outputs on cpu"):
        Interactions(small_layer().to("meta"), basis(20), basis(9))


def test_a_direction_of_another_width_is_refused():
    with refuses(
        TensorError,
        "BilinearLayer.interaction: directions have shape (7,), but their last axis must have "
        "size 8. Check which site they were read from.",
    ):
        small_layer().interaction(normal(7))


def test_inputs_of_another_width_are_refused_wherever_they_enter():
    layer, into = small_layer(), basis(20)
    with refuses(
        TensorError,
        "BilinearLayer: activations have shape (3, 7), but their last axis must have size 8. "
        "Check which site they were read from.",
    ):
        layer(normal(3, 7))
    for call in (into.coordinates, into.compose, layer.interaction):
        with pytest.raises(TensorError, match="last axis must have size"):
            call(normal(7))
        with pytest.raises(TensorError, match=r"shape \(\)"):
            call(torch.tensor(1.0))
        with pytest.raises(TensorError, match="is a list"):
            call([1.0] * 8)
    with pytest.raises(TensorError):
        layer.interaction(normal(8).to("meta"))


def test_tokens_of_another_kind_are_refused(tmp_path):
    model = load_model(small_folder(tmp_path / "llama"), device="cpu")
    for tokens in (torch.ones(3, dtype=torch.int64), torch.ones(1, 3)):
        with pytest.raises(TensorError, match=r"not \(batch pos\)|must be a tensor of int64"):
            model.logits(tokens)


def test_parts_in_the_wrong_place_are_named():
    with pytest.raises(TensorError, match="inputs is a Tensor, not a Basis"):
        Interactions(small_layer(), normal(20, 8), basis(9))


def test_a_mask_is_told_to_be_indices():
    with pytest.raises(BasisError, match="mask was given"):
        basis(3).subset(torch.tensor([True, False, True]))


def test_shapes_without_content_are_allowed():
    assert Basis.from_decoder(torch.empty(9, 4, device="meta")).n_feature == 9


def test_an_empty_dictionary_is_refused():
    with refuses(
        TensorError,
        "Basis: write is empty: axis feature has size 0. Wanted: write (feature model).",
    ):
        Basis.from_decoder(torch.zeros(0, 4))
    with refuses(BasisError, "Basis.subset: no features were named. Name at least one."):
        basis(20).subset([])


def test_a_reader_of_another_shape_is_refused():
    with pytest.raises(TensorError, match="axis feature must have one size, but is 9 in write, 8"):
        Basis(normal(9, 4), normal(8, 4))


def test_a_rank_deficient_reader_is_refused_where_it_would_be_used():
    inter = Interactions(small_layer(), basis(20), Basis.from_decoder(normal(5, 8)))
    with refuses(
        BasisError,
        "decoder of shape (5 features, 8 model) has rank 5: its features cannot write 3 "
        "directions of the activation to torch.float64 precision, so no reader can be exact. "
        "Train a wider SAE, or accept the nearest reader with "
        "Basis.from_decoder(decoder, least_squares=True).",
    ):
        inter.matrix(0)


def test_zero_rows_warn_and_everything_stays_finite():
    decoder = normal(20, 8)
    decoder[[3, 4]] = 0
    with pytest.warns(DirectionWarning, match="features 3, 4 write nothing"):
        into = Basis.from_decoder(decoder)
    inter = Interactions(small_layer(biases="left"), into, into)
    for tensor in (inter.matrix(3), inter.matrix(0), inter.spectrum(0).vectors, inter.energies):
        assert bool(torch.isfinite(tensor).all())
    assert float(inter.matrix(3).abs().max()) == 0
    assert bool(inter.strongest(5)["weight"].map(lambda w: w == w).all())
    assert inter.spectrum(3).effective_rank == 0


def test_all_rows_zero_is_still_finite():
    with pytest.warns(DirectionWarning):
        into = Basis.from_decoder(torch.zeros(4, 8).double())
    inter = Interactions(small_layer(), into, basis(9))
    assert float(inter.matrix(0).abs().max()) == 0
    assert len(inter.spectrum(0)) == 0
    assert float(inter.strongest(3)["weight"].abs().max()) == 0
    with pytest.warns(DirectionWarning):
        assert Basis.from_decoder(torch.zeros(4, 8)).report().iloc[0]["rank"] == 0


def test_widths_that_do_not_meet_are_all_named():
    with refuses(
        TensorError,
        "Interactions: the layer reads activations of width 8, but the input features write to "
        "width 6; the layer writes activations of width 8, but the output features are read from "
        "width 5. Use dictionaries trained at the input and output of this layer.",
    ):
        Interactions(small_layer(), basis(20, 6), basis(20, 5))


@pytest.mark.parametrize("output", [9, -1])
def test_an_output_out_of_range_is_refused(output):
    inter = Interactions(small_layer(), basis(20), basis(9))
    message = f"Interactions: there is no output {output}; they run from 0 to 8."
    for ask in (inter.matrix, inter.spectrum, inter.bias, inter.form):
        with refuses(FeatureRangeError, message):
            ask(output)
    with pytest.raises(FeatureRangeError, match=f"no output {output}"):
        inter.strongest(3, output)


def test_an_output_that_is_no_integer_is_refused():
    inter = Interactions(small_layer(), basis(20), basis(9))
    for output in (1.0, True, "1", None):
        with pytest.raises(FeatureRangeError, match="output must be an integer"):
            inter.matrix(output)


def test_ranks_and_counts_out_of_range_are_refused():
    inter = Interactions(small_layer(), basis(20), basis(9))
    with refuses(FeatureRangeError, "spectrum: rank = 9. Ask for 1 to 8."):
        inter.spectrum(0, rank=9)
    with pytest.raises(FeatureRangeError, match="n = 0"):
        inter.strongest(0)
    for n in (3.0, True, "3"):
        with pytest.raises(FeatureRangeError, match="is not a whole number"):
            inter.strongest(n)
    for rank in (2.0, True):
        with pytest.raises(FeatureRangeError, match="is not a whole number"):
            inter.spectrum(0, rank=rank)
    with pytest.raises(FeatureRangeError, match="no outputs were named"):
        inter.strongest(3, [])
    with pytest.raises(FeatureRangeError, match="rank 5 of a spectrum of 2 pairs"):
        inter.spectrum(0, rank=2).truncate(5)


def test_statistics_of_a_list_are_refused():
    inter = Interactions(small_layer(), basis(20), basis(9))
    with pytest.raises(FeatureRangeError, match=r"\[1, 2\] is not a range"):
        output_statistics(inter, [1, 2])


def test_an_unknown_space_is_refused():
    with pytest.raises(CircuitsError, match='no space "hidden"'):
        Interactions(small_layer(), basis(20), basis(9)).spectrum(0, space="hidden")


def test_an_asymmetric_matrix_is_refused():
    with pytest.raises(TensorError, match="differ from their mirror by up to 2"):
        Spectrum.of(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    with pytest.raises(TensorError):
        Spectrum.of(torch.full((2, 2), float("nan")))


def test_inputs_of_another_space_are_refused():
    spectrum = Interactions(small_layer(biases="left"), basis(20), basis(9)).spectrum(0)
    with pytest.raises(TensorError, match=r"size 19, the eigenvectors have 20 \(or 21"):
        spectrum.activation(normal(19))
