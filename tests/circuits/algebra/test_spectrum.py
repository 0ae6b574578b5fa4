import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Basis, Interactions, Spectrum, hosvd
from circuits.algebra import spectrum as spectrum_module
from circuits.algebra.spectrum import eigenpairs
from circuits.errors import BasisError
from tests.support.small import basis, dense_tensor, lifted, normal, relative_error, small_layer


def form_with(values: torch.Tensor, seed: int = 0, dtype: torch.dtype = torch.float64):
    vectors = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    form = (vectors * values.double()) @ vectors.mT
    return ((form + form.mT) / 2).to(dtype)


def by_size(values: torch.Tensor) -> torch.Tensor:
    return values[values.abs().argsort(descending=True)]


@pytest.mark.parametrize(("n", "rank"), [(30, None), (8, None), (5, None), (30, 3)])
@pytest.mark.parametrize("biases", ["", "left right"])
@pytest.mark.parametrize("offset", [False, True])
def test_feature_spectra_are_those_of_the_matrix_that_is_not_built(n, rank, biases, offset):
    inter = Interactions(small_layer(biases=biases), basis(n, rank=rank, offset=offset), basis(9))
    matrix, spectrum = inter.matrix(4), inter.spectrum(4)
    wanted = by_size(torch.linalg.eigvalsh(matrix))
    assert relative_error(spectrum.values, wanted[: len(spectrum)]) < 1e-10
    left = wanted[len(spectrum) :]
    assert len(left) == 0 or left.abs().max() < 1e-10 * wanted.abs().max()
    assert relative_error(spectrum.matrix(), matrix) < 1e-10
    identity = torch.eye(len(spectrum)).double()
    assert relative_error(spectrum.vectors @ spectrum.vectors.mT, identity) < 1e-9
    assert spectrum.has_constant == inter.has_constant


@pytest.mark.parametrize("biases", ["", "left right down"])
def test_model_spectra_add_up_to_the_output_feature(biases):
    layer, out = small_layer(biases=biases), basis(9, seed=2)
    inter = Interactions(layer, basis(20), out)
    x = normal(5, 8, seed=3)
    spectrum = inter.spectrum(4, space="model")
    wanted = layer(x) @ out.read[4] - inter.bias(4)
    assert relative_error(spectrum.activation(x).sum(-1), wanted) < 1e-10


def test_feature_spectra_add_up_to_the_output_feature():
    layer, into, out = small_layer(biases="left"), basis(20, offset=True), basis(9, seed=2)
    inter = Interactions(layer, into, out)
    f = normal(5, 20, seed=3)
    wanted = out.coordinates(layer(into.compose(f)))[:, 4] - inter.bias(4)
    spectrum = inter.spectrum(4)
    assert relative_error(spectrum.activation(f).sum(-1), wanted) < 1e-10
    assert relative_error(spectrum.activation(lifted(f)), spectrum.activation(f)) < 1e-12


@given(seed=st.integers(0, 50), rank=st.integers(1, 12))
def test_the_first_pairs_are_the_first_of_all(seed, rank):
    form = form_with(normal(256, seed=seed))
    values, vectors, energy = eigenpairs(form, rank)
    assert math.isclose(energy, float(form.square().sum()), rel_tol=1e-12)
    wanted = by_size(torch.linalg.eigvalsh(form))[:rank]
    assert relative_error(values, wanted) < 1e-10
    assert relative_error(vectors @ form, values[:, None] * vectors) < 1e-9


@pytest.mark.parametrize("spectrum", ["flat", "decaying"])
def test_float32_pairs_are_right_to_five_digits(spectrum):
    values = 1 / torch.arange(1, 257) if spectrum == "decaying" else normal(256)
    form = form_with(values, dtype=torch.float32)
    got, _, _ = eigenpairs(form, 8)
    assert relative_error(got, by_size(torch.linalg.eigvalsh(form.double()))[:8]) < 1e-5


@pytest.mark.parametrize("mistake", ["missed", "wrong", "imprecise", "no convergence"])
def test_an_iteration_that_goes_wrong_is_found_out_and_everything_is_decomposed(
    monkeypatch, mistake
):
    form = form_with(torch.linspace(1, 2, 256))
    values, vectors = np.linalg.eigh(form.numpy())

    def bad_eigsh(matrix, k, **options):
        if mistake == "no convergence":
            raise spectrum_module.ArpackError(-1)
        if mistake == "missed":  # true eigenpairs, but the largest is not among them
            return values[-k - 1 : -1], vectors[:, -k - 1 : -1]
        if k == 1:  # the look at what is left finds nothing
            return values[:1] * 0, vectors[:, :1]
        off = 1.001 if mistake == "wrong" else 1 + 1e-9
        return values[-k:] * off, vectors[:, -k:]

    monkeypatch.setattr(spectrum_module, "eigsh", bad_eigsh)
    assert spectrum_module.lanczos(form, 8) is None
    got, _, _ = eigenpairs(form, 8)
    assert relative_error(got, by_size(torch.from_numpy(values))[:8]) < 1e-10


def test_truncation_is_the_best_of_its_rank_and_energy_says_how_good():
    form = form_with(torch.tensor([3.0, -2.0, 1.0, 0.5]))
    spectrum = Spectrum.of(form)
    torch.testing.assert_close(spectrum.values, torch.tensor([3.0, -2.0, 1.0, 0.5]).double())
    left = (form - spectrum.truncate(2).matrix()).square().sum() / form.square().sum()
    assert math.isclose(1 - float(left), spectrum.energy(2), rel_tol=1e-10)
    assert math.isclose(spectrum.energy(2), 13 / 14.25, rel_tol=1e-10)
    assert spectrum.energy(0) == 0
    assert math.isclose(spectrum.energy(4), 1, rel_tol=1e-12)


@given(k=st.integers(1, 12), scale=st.floats(1e-3, 1e3))
def test_k_equal_eigenvalues_have_effective_rank_k(k, scale):
    signs = torch.ones(12)
    signs[::3] = -1
    spectrum = Spectrum.of(form_with(scale * signs * (torch.arange(12) < k)))
    assert math.isclose(spectrum.effective_rank, k, rel_tol=1e-6)
    assert math.isclose(spectrum.entropy_rank, k, rel_tol=1e-6)


def test_a_partial_spectrum_knows_its_share_and_refuses_to_guess_the_rest():
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    whole, part = inter.spectrum(4), inter.spectrum(4, rank=2)
    assert math.isclose(part.energy(2), whole.energy(2), rel_tol=1e-10)
    assert part.energy(2) < 0.99
    with pytest.raises(BasisError, match=r"holds the first 2 pairs.* rank=None"):
        _ = part.effective_rank
    with pytest.raises(BasisError, match="needs every eigenvalue"):
        _ = part.entropy_rank


def test_a_tail_too_small_to_see_in_the_energy_is_still_not_guessed():
    values = torch.full((512,), 1.3e-4, dtype=torch.float64)
    values[0] = 1
    form = form_with(values)
    assert Spectrum.of(form).effective_rank > 1.1
    with pytest.raises(BasisError, match="every eigenvalue"):
        _ = Spectrum.of(form, rank=1).effective_rank
    with pytest.raises(BasisError, match="every eigenvalue"):
        _ = Spectrum.of(form).truncate(1).effective_rank


def test_a_slight_asymmetry_is_averaged():
    slight = torch.tensor([[1.0, 0.0], [9e-5, 1.0]])
    wanted = torch.linalg.eigvalsh((slight + slight.mT) / 2)
    torch.testing.assert_close(Spectrum.of(slight).values.sort().values, wanted)


def test_a_large_offset_costs_no_direction():
    layer, write = small_layer(biases="left", dtype=torch.float32), normal(50, 8).float()
    into = Basis.from_decoder(write, 1e3 * normal(8, seed=4).float())
    inter = Interactions(layer, into, Basis.identity(8))
    assert len(inter.spectrum(0)) == 9


def test_a_form_of_zeros_has_a_spectrum():
    spectrum = Spectrum.of(torch.zeros(3, 3))
    assert (spectrum.effective_rank, spectrum.entropy_rank, spectrum.energy(1)) == (0, 0, 1)


# --- the layer's main outputs ---


@pytest.mark.parametrize("biases", ["", "left right"])
def test_the_components_of_a_layer_add_up_to_its_tensor(biases):
    layer = small_layer(6, 30, 5, biases=biases)
    tensor, parts = dense_tensor(layer), hosvd(layer)
    wanted = torch.linalg.svdvals(tensor.flatten(1))
    assert relative_error(parts.values, wanted) < 1e-10
    forms = layer.interaction(parts.outputs) / parts.values[:, None, None]
    made = torch.einsum("k,ko,kij->oij", parts.values, parts.outputs, forms)
    assert relative_error(made, tensor) < 1e-10
    gram = torch.einsum("kij,lij->kl", forms, forms)
    assert relative_error(gram, torch.eye(5).double()) < 1e-10


def test_a_layer_that_writes_to_few_directions_has_few_components():
    layer = small_layer(6, 3, 5)
    assert len(hosvd(layer).values) == 3


def test_the_control_of_features_has_the_same_form_in_other_features():
    """Its spectrum in model space is that of the features; in feature space it is another one."""
    layer, out = small_layer(16, 32), Basis.from_encoder(normal(40, 16), normal(40, 16, seed=1))
    inter = Interactions(layer, basis(40, 16), out)
    control = Interactions(layer, inter.inputs.control(), out)
    same = [one.spectrum(3, space="model").values for one in (inter, control)]
    assert torch.equal(*same)
    for one in (inter, control):
        wanted = by_size(torch.linalg.eigvalsh(one.matrix(3)))[:16]
        assert relative_error(one.spectrum(3).values, wanted) < 1e-10
        n = float(wanted.abs().sum() ** 2 / wanted.square().sum())
        assert math.isclose(one.spectrum(3).effective_rank, n, rel_tol=1e-9)
    changed = relative_error(control.spectrum(3).values, inter.spectrum(3).values)
    assert changed > 0.01


def test_a_rotated_spectrum_keeps_the_eigenvalues_along_other_directions():
    spectrum = Spectrum.of(form_with(torch.tensor([3.0, -2.0, 1.0, 0.5])), rank=3)
    control = spectrum.rotated(seed=1)
    assert torch.equal(control.values, spectrum.values)
    assert control.energy(3) == spectrum.energy(3)
    identity = torch.eye(3).double()
    assert relative_error(control.vectors @ control.vectors.mT, identity) < 1e-12
    assert (control.vectors - spectrum.vectors).norm() > 0.1
    assert torch.equal(spectrum.rotated(seed=1).vectors, control.vectors)
