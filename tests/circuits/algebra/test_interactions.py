import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra import interactions as interactions_module
from circuits.algebra import pair_search as strongest_module
from circuits.errors import PlanError, RunError
from tests.support.small import BIASES, basis, lifted, normal, relative_error, small_layer

SHAPES = [(20, None), (8, None), (5, None), (20, 3)]  # wide, square, tall, rank-deficient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("offsets", [(False, False), (True, False), (False, True), (True, True)])
def test_a_matrix_and_its_bias_give_the_output_feature_exactly(shape, biases, offsets):
    layer = small_layer(biases=biases)
    into = basis(shape[0], rank=shape[1], offset=offsets[0])
    out = basis(15, seed=2, offset=offsets[1])
    inter = Interactions(layer, into, out)
    f = normal(4, shape[0], seed=3)
    inputs = lifted(f) if inter.has_constant else f
    wanted = out.coordinates(layer(into.compose(f)))
    got = torch.stack(
        [torch.einsum("bi,ij,bj->b", inputs, inter.matrix(o), inputs) + inter.bias(o)
         for o in range(15)], dim=1
    )  # fmt: skip
    assert relative_error(got, wanted) < 1e-10


def test_interactions_reproduce_the_layer():
    layer, into, out = small_layer(), basis(20, seed=1), basis(15, seed=2)
    f = normal(20, seed=3)
    inter = Interactions(layer, into, out)
    via_features = torch.stack([f @ inter.matrix(o) @ f for o in range(15)])
    torch.testing.assert_close(out.write.mT @ via_features, layer(f @ into.write))


@given(n=st.integers(1, 40), strip=st.integers(1, 41), biases=st.sampled_from(["", "left"]))
def test_a_matrix_is_symmetric_to_the_bit_and_does_not_depend_on_its_strips(n, strip, biases):
    inter = Interactions(small_layer(biases=biases), basis(n, seed=n), basis(9, seed=2))
    dense = inter.write @ inter.form(4) @ inter.write.mT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions_module, "ROWS", strip)
        matrix = inter.matrix(4)
    assert torch.equal(matrix, matrix.mT)
    assert relative_error(matrix, dense) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_matrices_are_float64_matrices_to_five_digits(dtype):
    layer = small_layer(48, 96, biases="left right down", dtype=dtype)
    into = Basis.from_decoder(normal(200, 48, dtype=dtype), normal(48, seed=5, dtype=dtype))
    single = Interactions(layer, into, Basis.identity(48))
    double = Interactions(layer.to(torch.float64), into.to(torch.float64), Basis.identity(48))
    assert single.matrix(0).dtype == torch.float32
    assert relative_error(single.matrix(7), double.matrix(7)) < 1e-5
    assert relative_error(single.spectrum(7).values, double.spectrum(7).values) < 1e-5
    assert relative_error(single.energies, double.energies) < 1e-5


def test_mixed_dtypes_are_computed_in_the_widest():
    inter = Interactions(small_layer(dtype=torch.float32), basis(20), basis(9))
    assert inter.matrix(0).dtype == torch.float64


@pytest.mark.parametrize("biases", ["", "left right"])
@pytest.mark.parametrize("offset", [False, True])
def test_energies_are_the_squared_norms_of_matrices_that_are_not_built(biases, offset):
    inter = Interactions(small_layer(biases=biases), basis(20, offset=offset), basis(9, seed=2))
    wanted = torch.stack([inter.matrix(o).square().sum() for o in range(9)])
    assert relative_error(inter.energies, wanted) < 1e-10


def test_pairs_of_a_subset_are_pairs_of_the_whole():
    layer, into, out = small_layer(biases="left"), basis(20, offset=True), basis(9, seed=2)
    whole = Interactions(layer, into, out).matrix(4)
    part = Interactions(layer, into.subset([2, 11, 5]), out).matrix(4)
    kept = torch.tensor([2, 11, 5, 20])
    assert relative_error(part, whole[kept][:, kept]) < 1e-10


# --- the strongest pairs ---


def brute_force(inter: Interactions, outputs: range, n: int) -> pd.DataFrame:
    rows = []
    for output in outputs:
        matrix = inter.matrix(output)
        for i in range(inter.n_input):
            for j in range(i, inter.n_input):
                weight = float(matrix[i, j]) * (1 if i == j else 2)
                rows.append((output, i, j, weight))
    table = pd.DataFrame(rows, columns=["output", "first", "second", "weight"])
    table["size"] = table["weight"].abs()
    return table.sort_values("size", ascending=False).head(n).drop(columns="size").reset_index(
        drop=True
    )  # fmt: skip


def assert_same_pairs(got: pd.DataFrame, wanted: pd.DataFrame) -> None:
    keys = ["output", "first", "second"]
    pd.testing.assert_frame_equal(got[keys], wanted[keys], check_dtype=False)
    assert (got["weight"] - wanted["weight"]).abs().max() <= 1e-5 * wanted["weight"].abs().max()


def decaying(d_model: int = 24, dtype: torch.dtype = torch.float64) -> BilinearLayer:
    """Every output's form has eigenvalues ±1/i in its own random eigenbasis."""
    values = 1 / torch.arange(1, d_model + 1, dtype=torch.float64)
    values = values * torch.tensor([1.0, -1.0]).repeat(d_model // 2).double()
    bases = [torch.linalg.qr(normal(d_model, d_model, seed=s)).Q for s in range(3)]
    left = torch.cat(bases)
    down = torch.block_diag(*[values[None]] * 3)
    return BilinearLayer(left.to(dtype), left.to(dtype), down.to(dtype))


@pytest.fixture(params=["same dtype", "float32 screen", "bfloat16 screen"])
def screen(request, monkeypatch):
    dtypes = {"float32 screen": torch.float32, "bfloat16 screen": torch.bfloat16}
    choice = dtypes.get(request.param)
    monkeypatch.setattr(strongest_module, "screen_dtype", lambda t: choice or t.dtype)
    monkeypatch.setattr(strongest_module, "ROWS", 8)
    monkeypatch.setattr(strongest_module, "COLUMNS", 13)


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("n", [1, 10, 300, 10_000])
def test_the_strongest_pairs_are_those_of_brute_force(flat, n):
    layer = small_layer(24, 200, 3, biases="left" if flat else "") if flat else decaying()
    into = basis(50, 24, offset=flat)
    inter = Interactions(layer, into, Basis.identity(3, torch.float64))
    assert_same_pairs(inter.strongest(n), brute_force(inter, range(3), n))
    assert_same_pairs(inter.strongest(n, 1), brute_force(inter, range(1, 2), n))
    assert_same_pairs(inter.strongest(n, [2, 0]), brute_force(inter, range(0, 3, 2), n))


@pytest.mark.usefixtures("screen")
def test_the_strongest_pairs_of_each_output_are_those_of_each_output():
    inter = Interactions(decaying(), basis(50, 24), Basis.identity(3, torch.float64))
    got = inter.strongest_of_each(7)
    wanted = pd.concat([brute_force(inter, range(o, o + 1), 7) for o in range(3)])
    assert_same_pairs(got, wanted.reset_index(drop=True))


def test_tiles_that_cannot_hold_a_top_pair_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(strongest_module, "ROWS", 8)
    monkeypatch.setattr(strongest_module, "COLUMNS", 8)
    write = normal(400, 24) * torch.logspace(0, -3, 400, dtype=torch.float64)[:, None]
    inter = Interactions(
        decaying(), Basis.from_decoder(write), Basis.identity(3, torch.float64)
    )  # fmt: skip
    table = inter.strongest(20)
    assert table.attrs["tiles_visited"] < 0.1
    assert_same_pairs(table, brute_force(inter, range(3), 20))
    flat = Interactions(small_layer(24, 400, 3), basis(100, 24), Basis.identity(3, torch.float64))
    assert flat.strongest(20).attrs["tiles_visited"] > 0.5


def test_weak_outputs_are_passed_over_whole(monkeypatch):
    monkeypatch.setattr(strongest_module, "ROWS", 8)
    layer = small_layer(24, 200, 3)
    down = layer.down * torch.tensor([[1e-3], [1.0], [1e-3]]).double()
    inter = Interactions(
        BilinearLayer(layer.left, layer.right, down),
        basis(50, 24),
        Basis.identity(3, torch.float64),
    )
    table = inter.strongest(5)
    assert set(table["output"]) == {1}
    assert table.attrs["tiles_visited"] <= 1 / 3


def test_a_planted_gate_is_the_strongest_pair():
    directions = torch.linalg.qr(normal(32, 32)).Q
    left, right = directions[3], directions[17]  # (f3 · x)(f17 · x) = f3 and f17
    layer = BilinearLayer(left[None], right[None], normal(5, 1))
    inter = Interactions(layer, Basis.orthonormal(directions), Basis.identity(5, torch.float64))
    best = inter.strongest(1, 2).iloc[0]
    assert (best["first"], best["second"]) == (3, 17)
    assert best["weight"] == pytest.approx(float(layer.down[2, 0]))


def test_float32_pairs_on_this_machine_are_the_float64_pairs():
    """With whatever screen this machine has; ties aside, the same pairs in the same order."""
    layer = small_layer(64, 128, 4)
    into = basis(700, 64)
    outputs = Basis.identity(4, torch.float64)
    double = Interactions(layer, into, outputs).strongest(50)
    single = Interactions(
        layer.to(torch.float32), into.to(torch.float32), outputs.to(torch.float32)
    ).strongest(50)
    assert_same_pairs(single, double)


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("seed", range(8))
def test_no_pair_is_missed_where_rounding_is_large(seed):
    """A direction that the form ignores makes every row long, so screens round away the rest."""
    write = normal(60, 12, seed=seed)
    common = torch.linalg.qr(normal(12, 1, seed=seed + 50)).Q[:, 0]
    ignore = torch.eye(12).double() - torch.outer(common, common)
    layer = small_layer(12, 300, 1, seed=seed)
    layer = BilinearLayer(layer.left @ ignore, layer.right @ ignore, layer.down)
    into = Basis.from_decoder(write + 300 * common)
    inter = Interactions(layer, into, Basis.identity(1, torch.float64))
    assert_same_pairs(inter.strongest(10, 0), brute_force(inter, range(1), 10))


def factors_of(left: torch.Tensor, right: torch.Tensor) -> strongest_module.Factors:
    order = torch.arange(len(left))
    reach = left.norm(dim=1), right.norm(dim=1)
    return strongest_module.Factors(left, right, order, *reach, arithmetic=0.0, scale=1.0)


def coarse(*shape: int, seed: int) -> torch.Tensor:
    """Numbers that bfloat16 holds exactly, so that it rounds nothing but results."""
    return normal(*shape, seed=seed).bfloat16().float()


@pytest.mark.parametrize("screen_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("d_model", [1, 3, 200])
@pytest.mark.parametrize("exact", ["left", "right", "both", "neither"])
def test_a_screen_is_never_further_off_than_it_says(monkeypatch, screen_dtype, d_model, exact):
    monkeypatch.setattr(strongest_module, "screen_dtype", lambda t: screen_dtype)
    fine = normal(40, d_model, seed=1).float(), normal(40, d_model, seed=2).float()
    round_ = coarse(40, d_model, seed=1), coarse(40, d_model, seed=2)
    left = round_[0] if exact in ("left", "both") else fine[0]
    right = round_[1] if exact in ("right", "both") else fine[1]
    all_ = slice(0, 40)
    tile, absolute, relative = factors_of(left, right).screened(all_, all_)
    off = (tile.double() - left.double() @ right.double().mT).abs()
    assert bool((off <= absolute + relative * tile.double().abs()).all())
    if screen_dtype == torch.bfloat16 and d_model == 1:
        assert float(off.max()) > 0, "the screen does round"


def test_no_weight_exceeds_its_ceiling():
    directions = torch.linalg.qr(normal(32, 32)).Q
    gate = BilinearLayer(directions[3][None], directions[17][None], normal(5, 1))
    one = Interactions(gate, Basis.orthonormal(directions), Basis.identity(5, torch.float64))
    for output, ceiling in enumerate(one.ceilings(list(range(5)))):
        best = abs(one.strongest(1, output)["weight"][0])
        assert best <= ceiling < best * 1.01, "a single pair has all the energy there is"
    for seed in range(20):  # hidden units that cancel to the last float32 digits
        w, v, r = normal(3, 16, seed=seed)
        layer = BilinearLayer(
            torch.stack([w, w + 1e-6 * r]).float(), torch.stack([v, v]).float(),
            torch.tensor([[1e6, -1e6]]),
        )  # fmt: skip
        into = Basis.from_decoder(normal(40, 16, seed=seed + 100).float())
        inter = Interactions(layer, into, Basis.identity(1))
        assert abs(inter.strongest(1, 0)["weight"][0]) <= inter.ceilings([0])[0]


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("size", [1e-20, 1e20, 1e60])
def test_the_strongest_pairs_do_not_depend_on_the_unit_of_the_features(size):
    layer, out = small_layer(12, 40, 2), Basis.identity(2, torch.float64)
    one = Interactions(layer, Basis.from_decoder(normal(60, 12)), out).strongest(20)
    other = Interactions(layer, Basis.from_decoder(normal(60, 12) * size), out).strongest(20)
    assert_same_pairs(other, one.assign(weight=one["weight"] * size**2))


@pytest.mark.parametrize("pending", [1, 50])
def test_few_pairs_wait_at_a_time_and_the_answer_is_the_same(monkeypatch, pending):
    monkeypatch.setattr(strongest_module, "PENDING", pending)
    monkeypatch.setattr(strongest_module, "ROWS", 8)
    monkeypatch.setattr(strongest_module, "COLUMNS", 8)
    scored = []
    score = strongest_module.scored
    monkeypatch.setattr(
        strongest_module, "scored", lambda *a: scored.append(len(a[3])) or score(*a)
    )
    inter = Interactions(small_layer(24, 200, 3), basis(50, 24), Basis.identity(3, torch.float64))
    assert_same_pairs(inter.strongest(10), brute_force(inter, range(3), 10))
    assert max(scored) <= pending + 4 * 10 + 8 * 8


def test_equal_pairs_come_in_the_order_of_their_indices():
    identity = Basis.identity(40, torch.float64)
    layer = BilinearLayer(
        torch.eye(40).double(), torch.eye(40).double(), torch.ones(1, 40).double()
    )
    table = Interactions(layer, identity, Basis.identity(1, torch.float64)).strongest(45)
    assert table["first"].tolist()[:40] == list(range(40)), "40 squares of weight 1"
    assert (table["weight"][:40] == 1).all()
    assert (table["weight"][40:] == 0).all()
    pairs = list(zip(table["first"][40:], table["second"][40:], strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]


def test_hidden_units_that_cancel_do_not_hide_an_output():
    """Energies are differences of large numbers then, and a ceiling must not believe them."""
    w, v, r = normal(3, 16)
    left = torch.stack([w, w + r * 1e-5, normal(16, seed=2)]).float()
    right = torch.stack([v, v, normal(16, seed=3)]).float()
    down = torch.tensor([[1e5, -1e5, 0.0], [0.0, 0.0, 0.1]])
    inter = Interactions(
        BilinearLayer(left, right, down), Basis.from_decoder(normal(40, 16).float()),
        Basis.identity(2),
    )  # fmt: skip
    alone = pd.concat([inter.strongest(3, o) for o in range(2)])
    best = alone.sort_values("weight", key=abs, ascending=False).head(3)
    assert_same_pairs(inter.strongest(3), best.reset_index(drop=True))


@pytest.mark.parametrize("bias", [1.0, 100.0, 1e4])
def test_a_large_constant_does_not_blur_the_other_pairs(bias):
    layer = small_layer(24, 100, 1)
    biases = {"left_bias": bias * normal(100, seed=8), "right_bias": bias * normal(100, seed=9)}
    exact = BilinearLayer(layer.left, layer.right, layer.down, **biases)
    into, out = basis(40, 24), Basis.identity(1, torch.float64)
    n = 41 * 42 // 2
    double = Interactions(exact, into, out).strongest(n, 0)
    single = Interactions(
        exact.to(torch.float32), into.to(torch.float32), out.to(torch.float32)
    ).strongest(n, 0)
    keys = ["first", "second"]
    both = double.merge(single, on=keys, suffixes=("", "_single"))
    features = both[both["second"] < 40]
    assert len(both) == n
    off = (features["weight"] - features["weight_single"]).abs().max()
    assert off < 1e-5 * features["weight"].abs().max()


def test_outputs_may_be_named_by_whatever_counts():
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    wanted = inter.strongest(3, 2)
    for outputs in (np.int64(2), torch.tensor(2), [2, 2], torch.tensor([2]), range(2, 3)):
        pd.testing.assert_frame_equal(inter.strongest(3, outputs), wanted)


def test_the_strongest_of_each_output_are_kept_in_shards(tmp_path):
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    whole = inter.strongest_of_each(4)
    inter.strongest_of_each(4, range(5, 9), folder=tmp_path)
    kept = inter.strongest_of_each(4, folder=tmp_path)
    pd.testing.assert_frame_equal(kept, whole)
    with pytest.raises(RunError, match="made from another layer"):
        inter.strongest_of_each(5, folder=tmp_path)
    with pytest.raises(RunError, match=r"outputs 2, 4 are not an unbroken range"):
        inter.strongest_of_each(4, [2, 4], folder=tmp_path)


def test_more_pairs_than_there_are_are_all_of_them(tmp_path, monkeypatch):
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    n_pairs = inter.n_input * (inter.n_input + 1) // 2
    each = inter.strongest_of_each(n_pairs, folder=tmp_path)
    assert len(each) == 9 * n_pairs
    # the shards are the same: nothing is made again, and none is of other settings
    pd.testing.assert_frame_equal(inter.strongest_of_each(10**8, folder=tmp_path), each)
    assert len(inter.strongest(10**8)) == 9 * n_pairs
    monkeypatch.setattr("circuits.errors.machine_memory", lambda: 100 * n_pairs)
    for ask in (inter.strongest, inter.strongest_of_each):
        with pytest.raises(PlanError, match=r"GiB of memory.*Ask for fewer pairs \(n\)"):
            ask(10**8)
        ask(5)


def test_a_score_adds_to_the_table_of_each_output():
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    table = inter.strongest_of_each(3, [6, 2], score=lambda rows, o: rows.assign(own=o))
    assert table["own"].tolist() == table["output"].tolist() == [6, 6, 6, 2, 2, 2]


def test_the_fingerprint_changes_with_any_number():
    layer, into, out = small_layer(biases="left"), basis(20, offset=True), basis(9, seed=2)
    first = Interactions(layer, into, out).fingerprint
    assert Interactions(layer, into, out).fingerprint == first
    other = BilinearLayer(layer.left, layer.right, layer.down, layer.left_bias + 1e-9)
    assert Interactions(other, into, out).fingerprint != first
    assert Interactions(layer, into.control(), out).fingerprint != first
    assert Interactions(layer, into, out.subset(range(8))).fingerprint != first
    assert Interactions(layer, into.without_offset(), out).fingerprint != first
    moved = Basis(out.write, out.read, offset=normal(8))
    assert Interactions(layer, into, moved).fingerprint != first
    biased = Basis(out.write, out.read, bias=normal(9))
    assert Interactions(layer, into, biased).fingerprint != first


def test_layers_bases_and_interactions_can_be_sent_to_other_processes():
    inter = Interactions(small_layer(biases="left"), basis(20, offset=True), basis(9, seed=2))
    assert pickle.dumps(inter), "nothing in them is bound to this process"
    sent = copy.deepcopy(inter)
    assert torch.equal(sent.matrix(3), inter.matrix(3))
    assert sent.fingerprint == inter.fingerprint


def test_an_encoders_bias_belongs_to_what_is_read():
    layer, bias = small_layer(), normal(9, seed=7)
    out = Basis.from_encoder(normal(9, 8), normal(9, 8, seed=1), normal(8, seed=2), bias)
    inter = Interactions(layer, basis(20), out)
    f = normal(20, seed=3)
    wanted = out.read @ (layer(f @ inter.inputs.write) - out.offset) + bias
    torch.testing.assert_close(f @ inter.matrix(4) @ f + inter.bias(4), wanted[4])
    torch.testing.assert_close(out.coordinates(layer(f @ inter.inputs.write)), wanted)


@pytest.mark.slow
def test_65536_features_on_each_side_need_no_features_squared_memory():
    import resource

    d_model, d_hidden, n = 1024, 4096, 65_536
    layer = BilinearLayer(
        *(torch.randn(s, generator=torch.Generator().manual_seed(i)) / s[1] ** 0.5
          for i, s in enumerate([(d_hidden, d_model), (d_hidden, d_model), (d_model, d_hidden)]))
    )  # fmt: skip
    write = torch.randn(n, d_model, generator=torch.Generator().manual_seed(5)) / d_model**0.5
    into = Basis.from_decoder(write)
    inter = Interactions(layer, into, into)
    form = inter.form(4321)
    spectrum = inter.spectrum(4321, rank=8)
    image = spectrum.vectors @ write @ form @ write.mT
    assert relative_error(image, spectrum.values[:, None] * spectrum.vectors) < 1e-4
    top = inter.strongest(100, 4321)
    first, second = torch.tensor(top["first"].values), torch.tensor(top["second"].values)
    weights = 2 * ((write[first] @ form) * write[second]).sum(1)
    assert relative_error(weights, torch.tensor(top["weight"].values)) < 1e-4
    others = torch.randint(n, (2, 300_000), generator=torch.Generator().manual_seed(6))
    parts = others.split(20_000, dim=1)
    rest = torch.cat([2 * ((write[i] @ form) * write[j]).sum(1) for i, j in parts])
    assert float(rest.abs().max()) <= float(top["weight"].abs().min()) * (1 + 1e-4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 6 * 2**20  # KiB: 16 GiB if n x n


def test_interactions_of_tensors_that_are_changed_in_place_are_those_of_the_changed_ones():
    layer, decoders = small_layer(), [normal(20, 8, seed=seed) for seed in (1, 2)]
    inter = Interactions(layer, *map(Basis.from_decoder, decoders))
    before = inter.fingerprint, inter.energies, inter.spectrum(0).values
    layer.left.mul_(2)
    decoders[0][:10].mul_(3)
    layer.down.add_(1)
    fresh = Interactions(
        BilinearLayer(layer.left.clone(), layer.right.clone(), layer.down.clone()),
        *(Basis.from_decoder(decoder.clone()) for decoder in decoders),
    )
    assert inter.fingerprint == fresh.fingerprint != before[0]
    torch.testing.assert_close(inter.energies, fresh.energies)
    torch.testing.assert_close(inter.spectrum(0).values, fresh.spectrum(0).values)
    torch.testing.assert_close(inter.inputs.read, fresh.inputs.read)


def test_tables_of_another_score_are_not_taken_for_this_one(tmp_path):
    inter = Interactions(small_layer(), basis(20), basis(9, seed=2))
    for name, value in (("one", 1), ("two", 2)):
        how = {"score": lambda rows, _: rows.assign(own=value), "folder": tmp_path}  # noqa: B023
        with pytest.raises(RunError, match="score_name"):
            inter.strongest_of_each(3, **how)
        if name == "two":
            with pytest.raises(RunError, match="other settings"):
                inter.strongest_of_each(3, **how, score_name=name)
        else:
            assert set(inter.strongest_of_each(3, **how, score_name=name)["own"]) == {value}
