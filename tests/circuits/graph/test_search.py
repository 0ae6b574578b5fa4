"""What makes searches fast leaves out nothing: rows, pairs, lines and outputs that are skipped."""

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analysis.discovery.propose import gate_likeness
from analysis.studies.planted import Planted, plant
from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra import pair_search
from circuits.algebra.reaching import reaching, reaching_by_change
from circuits.graph import form_span, matching_pursuit
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.near_pairs import lowest_entry, near_pairs, pairs_reaching
from circuits.graph.significance import RotationNull, scored_strongest
from tests.support.small import normal

SCREENS = [None, torch.bfloat16]


def unit_rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(normal(n, d, seed=seed), dim=1).float()


def random_inter(n: int, d: int = 64) -> Interactions:
    factors = [normal(3 * d, d, seed=seed).float() / d**0.5 for seed in (1, 2)]
    layer = BilinearLayer(*factors, normal(d, 3 * d, seed=3).float() / d**0.5)
    return Interactions(layer, Basis.from_decoder(unit_rows(n, d)), Basis.identity(d))


@pytest.fixture(params=SCREENS)
def small_tiles(request, monkeypatch):
    monkeypatch.setattr(pair_search, "screen_dtype", lambda t: request.param or t.dtype)
    monkeypatch.setattr(form_span, "screen_dtype", lambda t: request.param or t.dtype)
    monkeypatch.setattr(pair_search, "ROWS", 16)
    monkeypatch.setattr(pair_search, "COLUMNS", 32)
    monkeypatch.setattr(form_span, "STRIP", 16)


def test_of_most_tiles_few_rows_are_looked_at(monkeypatch):
    inter, rows = random_inter(4096), []
    weights = pair_search.weights_of_rows
    monkeypatch.setattr(
        pair_search,
        "weights_of_rows",
        lambda tile, some, on: rows.append(len(some)) or weights(tile, some, on),
    )
    inter.strongest(16, 0)
    n_tiles = sum(1 for _ in pair_search.tiles(4096))
    assert sum(rows) < 0.1 * n_tiles * pair_search.ROWS


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("decay", [0.0, 2.0])
@pytest.mark.parametrize("most", [0, 5, 60])
def test_the_pairs_that_reach_a_bar_are_those_of_brute_force(decay, most):
    features, d = unit_rows(70, 24), 24
    values = torch.arange(1.0, d + 1) ** -decay * torch.tensor([1.0, -1.0]).repeat(d // 2)
    turn = torch.linalg.qr(normal(d, d, seed=9)).Q.float()
    form = turn @ torch.diag(values) @ turn.mT
    entries = (features @ form @ features.mT).abs().triu(1)
    bar = float(entries.flatten().sort(descending=True).values[most : most + 2].mean())
    found = [tuple(pair) for some in reaching(features, form, bar) for pair in some.tolist()]
    assert sorted(found) == [tuple(pair) for pair in (entries >= bar).nonzero().tolist()]


@pytest.mark.parametrize("layer", ["planted", "random"])
def test_pairs_that_stand_out_are_those_of_the_full_search(layer, monkeypatch):
    inter = random_inter(600) if layer == "random" else plant(Planted(64, 512, 3, 1.0))[0]
    outputs = range(min(inter.n_output, 12))
    fast = [significant_pairs(inter, output) for output in outputs]
    too_many = torch.zeros(10_000, 2, dtype=torch.int64)
    monkeypatch.setattr(matching_pursuit, "pairs_reaching", lambda *_: [too_many])
    for output, table in zip(outputs, fast, strict=True):
        pd.testing.assert_frame_equal(table, significant_pairs(inter, output))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_bar_that_few_reach_is_searched_along_the_first_eigenvectors(spread, monkeypatch):
    """Which are fewer than all, and what may be spare is added to each entry."""
    features, widths, d = unit_rows(300, 64), [], 64
    values = torch.arange(1.0, d + 1) ** -0.7 * torch.tensor([1.0, -1.0]).repeat(d // 2)
    turn = torch.linalg.qr(normal(d, d, seed=9)).Q.float()
    form = turn @ torch.diag(values) @ turn.mT
    spare = spread * features[:, 0].abs()
    entries = ((features @ form @ features.mT).abs() + spare[:, None] * spare).triu(1)
    bar = float(entries.flatten().sort(descending=True).values[6:8].mean())
    screened = pair_search.Factors.screened
    monkeypatch.setattr(
        pair_search.Factors,
        "screened",
        lambda self, *tile: widths.append(self.left.shape[1]) or screened(self, *tile),
    )
    found = [tuple(pair) for some in reaching(features, form, bar, spare) for pair in some.tolist()]
    assert sorted(found) == [tuple(pair) for pair in (entries >= bar).nonzero().tolist()]
    assert max(widths) < d


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_pairs_that_a_change_lets_reach_a_bar_are_among_those_of_brute_force(size):
    features, d = unit_rows(70, 24), 24
    form, (one, two) = size * normal(d, d, seed=9).float(), features[[3, 8]]
    form = form + form.mT
    change = size * (torch.outer(one, two) + torch.outer(two, one))
    entries, changed = ((features @ of @ features.mT).abs().triu(1) for of in (form, change))
    bar, least = float(entries.quantile(0.9)), 0.2 * size
    found = reaching_by_change(features, form, bar, change, least)
    found = [tuple(pair) for some in found for pair in some.tolist()]
    reached = {tuple(pair) for pair in (entries >= bar).nonzero().tolist()}
    needed = {tuple(pair) for pair in ((entries >= bar) & (changed >= least)).nonzero().tolist()}
    assert len(found) == len(set(found))
    assert needed
    assert needed <= set(found) <= reached


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["planted", "random"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_search_for_both_kinds_of_atoms_finds_what_each_alone_finds(layer, seed, monkeypatch):
    planted = plant(Planted(64, 4096, 3, 1.0, seed=seed))[0]
    inter = random_inter(4096) if layer == "random" else planted
    outputs = range(4 * seed, 4 * seed + 4) if layer == "random" else range(1)
    fast = [significant_pairs(inter, output) for output in outputs]
    monkeypatch.setattr(matching_pursuit, "near_pairs", lambda *_: None)
    for output, table in zip(outputs, fast, strict=True):
        pd.testing.assert_frame_equal(table, significant_pairs(inter, output))


@pytest.mark.parametrize("kind", ["written", "readers"])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_pairs_near_the_bar_answer_for_every_later_residual(kind, scale):
    """Also where a fit made others reach it: here the shadows of a product that it took away."""
    inter = random_inter(4096)
    null = RotationNull.of(inter.inputs)
    atoms, whole = getattr(null, kind), scale * inter.form(5).double()
    near, form = near_pairs(null, whole), atoms.inside(null.inside(whole))
    assert near is not None
    one, two = atoms.unit[[10, 2000]]
    bar = lowest_entry(float(form.norm()) / len(form) * 2**0.5, null.n_pairs)
    for size in (0.0, 0.5, 4.0):
        change = size * bar * (torch.outer(one, two) + torch.outer(two, one))
        unit, left, change = atoms.unit.float(), (form - change).float(), change.float()
        entries = (unit @ left @ unit.mT).abs_().triu_(1)
        wanted, close = (
            {tuple(pair) for pair in (entries >= least).nonzero().tolist()}
            for least in (bar, 0.998 * bar)  # what float32 cannot separate may be found too
        )
        found = [
            tuple(pair)
            for some in pairs_reaching(near, unit, left, bar, change)
            for pair in some.tolist()
        ]
        assert len(found) == len(set(found))
        assert wanted <= set(found) <= close
    assert len(wanted) > 100


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("d", [3, 6, 12, 40])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("least", [0.0, 0.95])
def test_the_nearest_lines_are_those_of_brute_force(d, same, least):
    rows = unit_rows(300, d)
    others = rows if same else unit_rows(200, d, seed=4)
    cosines = (rows @ others.mT).abs()
    if same:
        cosines.fill_diagonal_(0)
    largest = cosines.amax(1)
    wanted = {row for row in largest.argsort(descending=True)[:20].tolist() if largest[row] > least}
    found = form_span.nearest_rows(rows, others, same, 20, least).tolist()
    assert wanted <= set(found)
    assert d > 9 or len(found) <= 25


def test_the_bar_of_near_lines_is_the_cosine_that_is_so_surprising():
    z = form_span.cosine_of_normal(4.2, 6.5)
    assert form_span.normal_of_cosine(torch.tensor([z]).numpy(), torch.tensor([6.5]).numpy()) == (
        pytest.approx(4.2, rel=1e-5)
    )


def test_outputs_are_ranked_by_the_energy_of_their_spectra():
    inter = random_inter(300)
    table = gate_likeness(inter).set_index("output")["energy"]
    for output in (0, 7, 63):
        assert table[output] == pytest.approx(inter.spectrum(output).energy(4), rel=1e-5)


class _Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        result = function(*given, **(named or {}))
        tensors = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
        self.numbers = max([self.numbers, *(one.numel() for one in tensors)])
        return result


def test_no_scratch_holds_every_pair_of_features():
    n = 4096
    inter = random_inter(n)
    with _Largest() as largest:
        scored_strongest(inter, 16, range(2))
        for output in range(2):
            significant_pairs(inter, output)
    assert largest.numbers <= n**2 / 7
