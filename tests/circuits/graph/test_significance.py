"""Chance is what the null says it is, and false discoveries are as rare as promised."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra.basis import rotated, shuffled
from circuits.errors import CircuitsError, RunError
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import (
    RotationNull,
    p_values,
    q_values,
    scored_strongest,
    sphere_tail,
    turned_z,
)
from tests.support.small import basis, normal, small_layer


def symmetric(d: int, seed: int = 0) -> torch.Tensor:
    form = normal(d, d, seed=seed)
    return form + form.mT


def layer_of(form: torch.Tensor) -> BilinearLayer:
    values, vectors = torch.linalg.eigh(form)
    return BilinearLayer(vectors.mT, vectors.mT, values[None])


def only_output(form: torch.Tensor, inputs: Basis) -> Interactions:
    return Interactions(layer_of(form), inputs, Basis.identity(1, torch.float64))


def turned_about(axis: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Random rotations that leave the axis where it is."""
    d = len(axis)
    random = torch.linalg.qr(normal(n, d - 1, d - 1, seed=seed))
    signs = random.R.diagonal(dim1=-2, dim2=-1).sign()
    inside = random.Q * signs[:, None, :]  # uniform over rotations and reflections
    frame = torch.linalg.qr(torch.cat([axis[:, None], normal(d, d - 1, seed=seed + 1)], 1)).Q
    turn = torch.zeros(n, d, d, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1:, 1:] = inside
    return frame @ turn @ frame.mT


def even(n: int, d: int) -> Basis:
    """Features that vary alike along all directions."""
    return Basis.from_decoder(torch.linalg.qr(normal(n, d)).Q)


def in_span(null: RotationNull, form: torch.Tensor) -> torch.Tensor:
    return null.written.inside(null.inside(form))


def test_from_one_end_p_is_the_share_of_rotations_with_a_larger_weight():
    null = RotationNull.of(even(20, 7))
    form = symmetric(7, seed=5)
    form = form + 20 * torch.outer(form[0], form[0]) / form[0].norm() ** 2  # one large eigenvalue
    white = in_span(null, form)
    held, turned, none = torch.tensor([3, 4]), torch.tensor([9, 2]), torch.zeros(2)
    got = p_values(null.written.from_one_end(white, held, turned, none.double(), none.long()))
    for i, j, p in zip(held, turned, got, strict=True):
        still, moving = null.white[i], null.white[j]
        turns = turned_about(still / still.norm(), 20_000, seed=1)
        weights = (turns @ moving) @ white @ still
        middle = (still @ white @ still) * (still @ moving) / still.norm() ** 2
        seen = still @ white @ moving
        share = ((weights - middle).abs() >= (seen - middle).abs()).double().mean()
        assert abs(float(share) - p) < 0.012  # three standard errors


def in_spaces(n: int = 300, seed: int = 0) -> torch.Tensor:
    """Features of which a quarter lie in six of 24 dimensions, and which vary unequally."""
    write = normal(n, 24, seed=seed)
    write[: n // 4, 6:] = 0
    return write * torch.tensor([1.0] * 12 + [0.1] * 12).double()


def test_features_that_share_a_space_are_found():
    null = RotationNull.of(Basis.from_decoder(in_spaces()))
    assert null.spaces.tolist() == [1] * 75 + [0] * 225
    small = null.written.frames[1]
    assert (small.place >= 0).nonzero()[:, 0].tolist() == list(range(75))
    assert len(small.sizes) == 6
    whole = null.written.frames[0]
    ratios = [
        float(whole.sizes[block.start] / whole.sizes[block.stop - 1]) for block in whole.blocks
    ]
    assert max(ratios) <= 3
    assert len(ratios) >= 2
    rebuilt = small.turned * small.sizes @ small.axes
    rows = (null.white * null.sizes)[:75, null.written.directions]
    torch.testing.assert_close(rebuilt, rows)


@pytest.mark.parametrize(("i", "j"), [(0, 1), (100, 200), (100, 0), (0, 100)])
@pytest.mark.parametrize("kind", ["written", "readers"])
def test_p_is_uniform_where_features_turn_among_their_like(kind, i, j):
    """In each block of directions on its own, about the feature that is held if it turns too."""
    null = RotationNull.of(Basis.from_decoder(in_spaces()))
    atoms = getattr(null, kind)
    form = atoms.inside(null.inside(symmetric(24, seed=3)))
    frame = atoms.frames[int(atoms.spaces[j])]
    at, n = frame.place, 2000
    moving = frame.turned[at[j]].repeat(n, 1)
    for block in frame.blocks:
        width = block.stop - block.start
        if at[i] >= 0:
            axis = frame.turned[at[i], block]
            turns = turned_about(axis / axis.norm(), n, seed=1 + block.start)
            moving[:, block] = (turns @ moving[0, block, None])[..., 0]
        else:
            random = torch.nn.functional.normalize(normal(n, width, seed=1 + block.start), dim=1)
            moving[:, block] = random * moving[0, block].norm()
    both = torch.cat([frame.turned, moving])
    turned = replace(frame, turned=both)
    index = torch.arange(n)
    image = (atoms.unit[i] @ form).repeat(n, 1)
    held = at[i].repeat(n)
    p = p_values(turned_z(turned, image, held, index + len(frame.turned), torch.zeros(n).long()))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_pair_is_tested_from_both_ends():
    null, form = RotationNull.of(basis(20, 7)), symmetric(7)
    first, second = torch.triu_indices(20, 20, 1)
    none = torch.zeros(len(first))
    ends = [
        np.abs(null.written.from_one_end(in_span(null, form), *e, none.double(), none.long()))
        for e in ((first, second), (second, first))
    ]
    np.testing.assert_allclose(np.abs(null.z_values(form, first, second)), np.minimum(*ends))


@pytest.mark.parametrize("values", [[3.0, -3, 0, 0, 0, 0, 0, 0], list(np.linspace(-2, 3, 12))])
def test_the_tail_of_a_form_on_the_sphere_is_that_of_random_directions(values):
    values = np.array(values)
    x = normal(400_000, len(values), seed=3).numpy()
    heights = (x**2 @ values) / (x**2).sum(1)
    for share in (0.1, 0.01, 0.001, 0.9):
        height = np.quantile(heights, 1 - share)
        z = sphere_tail(values[None], np.array([height]))[0]
        one_sided = stats.norm.sf(abs(z))
        assert one_sided == pytest.approx(min(share, 1 - share), rel=0.2)
        assert (z > 0) == (height > values.mean())


@pytest.mark.parametrize("d", [2, 3, 8])
def test_randomly_rotated_features_rarely_have_small_p_values(d):
    """Over whole rotations: a pair's p-value is never too small, a feature's own hardly."""
    null, form = RotationNull.of(even(10, d)), symmetric(d, seed=1)
    first, second = torch.triu_indices(10, 10)
    selves = (first == second).numpy()
    found = []
    for seed in range(400):
        turn = torch.linalg.qr(normal(d, d, seed=seed)).Q
        turned = replace(null, white=null.white @ turn)
        found.append(p_values(turned.z_values(form, first, second)))
    p = np.array(found)
    for share in (0.2, 0.05, 0.01):
        assert (p[:, ~selves] <= share).mean() <= share
        assert (p[:, selves] <= share).mean() <= 1.2 * share


def test_a_form_that_is_the_same_in_every_direction_has_no_significant_pair():
    inter = only_output(torch.eye(6).double(), basis(15, 6))
    whole = Interactions(inter.layer, Basis.identity(6, torch.float64), inter.outputs)
    null = RotationNull.of(whole.inputs)
    index = torch.arange(6)
    assert np.abs(null.z_values(whole.form(0), index, index)).max() == 0
    assert len(significant_pairs(whole, 0)) == 0


def test_q_values_are_benjamini_hochberg_over_every_pair():
    z = normal(200, seed=1).numpy() * 2
    np.testing.assert_allclose(
        q_values(z, 200), stats.false_discovery_control(p_values(z)), rtol=1e-9
    )
    strongest = np.sort(np.abs(z))[::-1][:20]
    whole = np.sort(q_values(z, 200))[:20]
    assert (q_values(strongest, 200) >= whole - 1e-12).all()
    assert q_values(strongest, 2000)[0] > q_values(strongest, 200)[0]


def test_z_knows_neither_the_scale_of_features_nor_the_axes_of_the_model():
    write, form = normal(30, 8), symmetric(8)
    turn = torch.linalg.qr(normal(8, 8, seed=9)).Q
    first, second = torch.triu_indices(30, 30)
    plain = RotationNull.of(Basis.from_decoder(write)).z_values(form, first, second)
    other = RotationNull.of(Basis.from_decoder(3 * write @ turn))
    np.testing.assert_allclose(
        other.z_values(turn.mT @ form @ turn, first, second), plain, rtol=1e-6, atol=1e-8
    )


def test_a_direction_that_all_features_share_is_no_evidence_for_pairs():
    shared = normal(24, seed=4)
    write = normal(120, 24) + 3 * shared
    inter = only_output(torch.outer(shared, shared), Basis.from_decoder(write))
    assert (scored_strongest(inter, 200)["q"] > 0.05).all()
    assert len(significant_pairs(inter, 0)) <= 2


def test_random_layers_have_hardly_ever_an_edge():
    layer = small_layer(16, 40, 60)
    inter = Interactions(layer, basis(40, 16), Basis.identity(60, torch.float64))
    null = RotationNull.of(inter.inputs)
    any_edge = [len(significant_pairs(inter, o, 0.05, null)) > 0 for o in range(60)]
    assert np.mean(any_edge) <= 0.05


def test_heavy_tails_of_a_low_rank_form_are_no_discoveries():
    """Strong products of directions that are no features."""
    false = []
    for seed in range(100):
        one, two = normal(2, 16, seed=seed + 500)
        form = torch.outer(one, two)
        inter = only_output(form + form.mT, basis(60, 16, seed=seed))
        false.append(len(significant_pairs(inter, 0)) > 0)
    assert np.mean(false) <= 0.05


def test_features_that_write_nothing_or_the_same_are_no_trouble():
    write = normal(30, 8)
    write[4] = 0
    write[7] = write[5]
    with pytest.warns(UserWarning, match="write nothing"):
        inputs = Basis.from_decoder(write)
    inter = only_output(symmetric(8), inputs)
    table = scored_strongest(inter, 30 * 31 // 2)
    assert np.isfinite(table[["weight", "z", "q"]]).all().all()
    significant_pairs(inter, 0)


@pytest.mark.parametrize(("n_feature", "d"), [(1, 1), (1, 4), (3, 4), (5, 1), (6, 2)])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_too_few_features_or_dimensions_have_no_discoveries(n_feature, d, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that write nothing
        inputs = Basis.from_decoder(size * normal(n_feature, d))
    inter = only_output(symmetric(d), inputs)
    table = scored_strongest(inter, 3)
    assert np.isfinite(table[["z", "q"]]).all().all()
    assert (table["q"] > 0.05).all()
    assert len(significant_pairs(inter, 0)) == 0


def test_the_constant_is_neither_tested_nor_counted():
    layer = small_layer(8, 13, biases="left right down")
    inter = Interactions(layer, basis(20, offset=True), basis(9, seed=2))
    table = scored_strongest(inter, 210)
    assert table["second"].max() == 19
    assert len(table) == 9 * 210


def test_scored_pairs_are_the_strongest_and_resume(tmp_path):
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    table = scored_strongest(inter, 7)
    pd.testing.assert_frame_equal(
        table[["output", "first", "second", "weight"]], inter.strongest_of_each(7)
    )
    scored_strongest(inter, 7, range(4), tmp_path)
    pd.testing.assert_frame_equal(scored_strongest(inter, 7, folder=tmp_path), table)
    with pytest.raises(RunError, match="another layer"):
        scored_strongest(inter, 8, folder=tmp_path)
    with pytest.raises(CircuitsError, match="there is no output"):
        scored_strongest(inter, 7, range(3, 12))


def test_controls_keep_norms_and_only_rotation_keeps_angles():
    whole = basis(20, offset=True)
    for control, keeps in ((rotated(whole, 1), True), (shuffled(whole, 1), False)):
        torch.testing.assert_close(control.write.norm(dim=1), whole.write.norm(dim=1))
        same = torch.allclose(control.write @ control.write.mT, whole.write @ whole.write.mT)
        assert same == keeps
        assert not torch.allclose(control.write, whole.write)


@pytest.mark.parametrize("q", [0.0, 1.0, -1.0, float("nan")])
def test_an_invalid_rate_is_refused(q):
    with pytest.raises(CircuitsError, match=r"not a (false-discovery rate|finite number)"):
        significant_pairs(Interactions(small_layer(), basis(20), basis(9)), 0, q)


def test_the_null_of_a_basis_that_is_changed_in_place_is_that_of_the_changed_one():
    decoder = normal(20, 7)
    features, other = Basis.from_decoder(decoder), normal(20, 7, seed=1)
    kept = RotationNull.of(features)
    assert RotationNull.of(features) is kept
    decoder.copy_(other)
    fresh = RotationNull.of(Basis.from_decoder(other))
    torch.testing.assert_close(RotationNull.of(features).sizes, fresh.sizes)
