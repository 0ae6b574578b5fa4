import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import BilinearLayer
from tests.support.small import BIASES, dense_tensor, lifted, normal, relative_error, small_layer

sizes = st.integers(1, 9)


@pytest.mark.parametrize("biases", BIASES)
def test_a_layer_is_its_dense_tensor(biases):
    layer = small_layer(biases=biases)
    x = normal(5, 8, seed=9)
    inputs = lifted(x) if layer.has_constant else x
    wanted = torch.einsum("oij,bi,bj->bo", dense_tensor(layer), inputs, inputs)
    if layer.down_bias is not None:
        wanted = wanted + layer.down_bias
    assert relative_error(layer(x), wanted) < 1e-10


@given(d_model=sizes, d_hidden=sizes, d_out=sizes, biases=st.sampled_from(BIASES), seed=sizes)
def test_an_interaction_matrix_gives_the_output_along_its_direction(
    d_model, d_hidden, d_out, biases, seed
):
    layer = small_layer(d_model, d_hidden, d_out, biases, seed)
    x, direction = normal(4, d_model, seed=seed + 1), normal(d_out, seed=seed + 2)
    form = layer.interaction(direction)
    inputs = lifted(x) if layer.has_constant else x
    along = torch.einsum("bi,ij,bj->b", inputs, form, inputs)
    if layer.down_bias is not None:
        along = along + direction @ layer.down_bias
    size = float(torch.einsum("bi,ij,bj->b", inputs.abs(), form.abs(), inputs.abs()).max()) + 1
    torch.testing.assert_close(along, layer(x) @ direction, rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("biases", BIASES)
def test_lift_appends_the_constant_only_where_the_layer_has_one(biases):
    layer, x = small_layer(biases=biases), normal(2, 3, 8)
    has_one = "left" in biases or "right" in biases
    assert torch.equal(layer.lift(x), lifted(x) if has_one else x)
    assert torch.equal(layer.lift(x, 0.0)[..., 8:], torch.zeros(2, 3, int(has_one)).double())
    left, right = layer.factors
    made = (layer.lift(x) @ left.mT * (layer.lift(x) @ right.mT)) @ layer.down.mT
    made = made if layer.down_bias is None else made + layer.down_bias
    assert relative_error(made, layer(x)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interaction_matrices_are_symmetric_to_the_bit(dtype):
    form = small_layer(33, 70, biases="left", dtype=dtype).interaction(normal(33, dtype=dtype))
    assert torch.equal(form, form.mT)


def test_a_batch_of_directions_is_each_direction():
    layer, directions = small_layer(biases="right"), normal(2, 3, 8, seed=4)
    forms = layer.interaction(directions)
    assert forms.shape == (2, 3, 9, 9)
    assert relative_error(forms[1, 2], layer.interaction(directions[1, 2])) < 1e-14


def test_interaction_is_linear_in_the_direction():
    layer, a, b = small_layer(), normal(8, seed=1), normal(8, seed=2)
    wanted = 2 * layer.interaction(a) - 3 * layer.interaction(b)
    assert relative_error(layer.interaction(2 * a - 3 * b), wanted) < 1e-10


@pytest.mark.parametrize("biases", ["", "left right"])
def test_pair_gram_is_the_inner_product_of_forms_that_are_not_built(biases):
    layer, a, b = small_layer(biases=biases), normal(8, seed=1), normal(8, seed=2)
    wanted = (layer.interaction(a) * layer.interaction(b)).sum()
    got = (a @ layer.down) @ layer.pair_gram @ (b @ layer.down)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("biases", BIASES)
def test_float32_is_float64_to_five_digits(biases):
    exact = small_layer(64, 128, biases=biases)
    layer, x, u = exact.to(torch.float32), normal(20, 64, seed=8), normal(64, seed=7)
    assert relative_error(layer(x.float()), exact(x)) < 1e-5
    assert relative_error(layer.interaction(u.float()), exact.interaction(u)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_in_float32(dtype):
    half = small_layer(biases="left right down", dtype=dtype)
    assert half.dtype == torch.float32
    x = normal(3, 8, dtype=dtype)
    exact = half.to(torch.float64)
    assert relative_error(half(x), exact(x.double())) < 1e-5
    u = normal(8, seed=3, dtype=dtype)
    assert relative_error(half.interaction(u), exact.interaction(u.double())) < 1e-5


def test_a_layer_moves_between_dtypes_and_keeps_what_it_is():
    layer = small_layer(biases="left down")
    there = layer.to(torch.float32)
    assert there.dtype == torch.float32
    assert there.right_bias is None
    assert there.left_bias is not None
    assert layer.dtype == torch.float64, "the layer itself is not changed"
    assert relative_error(there.to(torch.float64).left, layer.left) < 1e-6


def test_a_layer_moves_between_devices():
    layer = small_layer(biases="left").to("meta")
    assert layer.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_layer_on_the_gpu_is_the_layer():
    layer, u = small_layer(64, 128, biases="left right"), normal(64)
    on_gpu = layer.to("cuda").interaction(u.cuda())
    assert relative_error(on_gpu.cpu(), layer.interaction(u)) < 1e-10


def test_a_layer_holds_values_and_no_gradient():
    left = normal(3, 2).requires_grad_()
    layer = BilinearLayer(left, normal(3, 2), normal(2, 3))
    assert not layer(normal(2)).requires_grad


@pytest.mark.parametrize("biases", BIASES)
def test_a_layer_whose_weights_are_changed_in_place_is_the_changed_one(biases):
    """It shares them, with a running model for example."""
    given = {name: tensor.clone() for name, tensor in vars(small_layer(biases=biases)).items()
             if isinstance(tensor, torch.Tensor)}  # fmt: skip
    layer, direction = BilinearLayer(**given), normal(8, seed=5)
    before = layer.interaction(direction), layer.pair_gram, layer.factors
    again = layer.interaction(direction), layer.pair_gram, layer.factors
    assert all(one is other for one, other in zip(before[1:], again[1:], strict=True))
    for tensor in given.values():
        tensor.mul_(1e3).add_(1)
    fresh = BilinearLayer(**{name: tensor.clone() for name, tensor in given.items()})
    torch.testing.assert_close(layer.interaction(direction), fresh.interaction(direction))
    torch.testing.assert_close(layer.pair_gram, fresh.pair_gram)
    torch.testing.assert_close(layer.factors, fresh.factors)
