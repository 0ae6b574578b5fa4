import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Basis
from circuits.algebra import directions
from circuits.algebra.directions import coherence, repeated_rows, span, zero_rows
from circuits.errors import BasisError, DirectionWarning
from tests.support.small import basis, normal, relative_error


@given(d_model=st.integers(2, 9), extra=st.integers(0, 12), offset=st.booleans())
def test_writing_what_was_read_gives_the_activation_back(d_model, extra, offset):
    into = basis(d_model + extra, d_model, offset=offset)
    x = normal(4, d_model, seed=5)
    condition = float(into.span.sizes[0] / into.span.sizes[-1])
    error = relative_error(into.compose(into.coordinates(x)), x)
    assert error < 1e-10 + 1e-15 * condition


@given(n_feature=st.integers(1, 7))
def test_independent_features_are_read_as_they_were_written(n_feature):
    few = basis(n_feature, 8)
    features = normal(4, n_feature, seed=5)
    assert relative_error(few.coordinates(few.compose(features)), features) < 1e-10


@pytest.mark.parametrize(("n", "d", "rank"), [(30, 8, 8), (5, 8, 5), (30, 8, 3), (8, 8, 8)])
def test_the_pseudoinverse_is_torchs(n, d, rank):
    into = basis(n, d, rank=rank)
    wanted = torch.linalg.pinv(into.write, rtol=1e-10).mT
    assert relative_error(into.read, wanted) < 1e-10


def test_the_pseudoinverse_keeps_its_digits_on_an_ill_conditioned_dictionary():
    left, right = torch.linalg.qr(normal(40, 8)).Q, torch.linalg.qr(normal(8, 8, seed=1)).Q
    sizes = torch.logspace(0, -5, 8, dtype=torch.float64)
    into = Basis.from_decoder(left * sizes @ right)
    identity = into.write.mT @ into.read
    assert relative_error(identity, torch.eye(8).double()) < 1e-10


def test_the_span_does_not_depend_on_the_blocks_it_is_made_from(monkeypatch):
    write = normal(57, 6)
    whole = span(write)
    monkeypatch.setattr(directions, "ROWS", 1)
    blocks = span(write)
    assert relative_error(blocks.sizes, whole.sizes) < 1e-12
    assert relative_error(whole.sizes, torch.linalg.svdvals(write)) < 1e-12
    products = (blocks.directions @ whole.directions.mT).abs()
    assert relative_error(products, torch.eye(6).double()) < 1e-10


def test_float32_rounding_does_not_hide_a_deficient_rank():
    low = (normal(4000, 20) @ normal(20, 64, seed=1)).float()
    assert len(Basis.from_decoder(low).span.sizes) == 20


def test_float32_and_bfloat16_decoders_read_exactly_to_five_digits():
    for dtype in (torch.float32, torch.bfloat16):
        into = Basis.from_decoder(normal(200, 32, dtype=dtype))
        assert into.dtype == torch.float32
        assert relative_error(into.write.mT @ into.read, torch.eye(32)) < 1e-5


def test_a_deficient_decoder_is_refused_as_a_reader_but_not_as_inputs():
    deficient = normal(20, 3) @ normal(3, 8, seed=1)
    into = Basis.from_decoder(deficient)
    assert into.write.shape == (20, 8)
    with pytest.raises(BasisError, match=r"rank 3: its features cannot write 5 directions"):
        _ = into.read


def test_the_least_squares_reader_projects_onto_what_can_be_written():
    into = basis(20, 8, rank=3)
    x = normal(8, seed=4)
    projector = into.span.directions.mT @ into.span.directions
    assert relative_error(into.compose(into.coordinates(x)), projector @ x) < 1e-10


def test_an_encoder_reads_by_its_own_rows():
    decoder, encoder, offset = normal(9, 4), normal(9, 4, seed=1), normal(4, seed=2)
    into = Basis.from_encoder(decoder, encoder, offset)
    x = normal(4, seed=3)
    assert into.reader == "encoder"
    torch.testing.assert_close(into.coordinates(x), encoder @ (x - offset))


def test_principal_components_read_themselves():
    components = torch.linalg.qr(normal(8, 3)).Q.mT
    into = Basis.orthonormal(components, normal(8, seed=1))
    assert into.reader == "transpose"
    features = normal(3, seed=2)
    torch.testing.assert_close(into.coordinates(into.compose(features)), features)
    with pytest.raises(BasisError, match="not orthonormal"):
        Basis.orthonormal(components * 1.01)


def test_the_identity_is_the_activation_itself():
    x = normal(5)
    torch.testing.assert_close(Basis.identity(5, torch.float64).coordinates(x), x)


def test_a_subset_is_read_as_in_the_whole_dictionary():
    into = basis(20, offset=True)
    some = into.subset(torch.tensor([7, 3]))
    x = normal(8, seed=6)
    torch.testing.assert_close(some.coordinates(x), into.coordinates(x)[[7, 3]])
    torch.testing.assert_close(some.write, into.write[[7, 3]])


def test_a_subset_reports_its_own_reader_and_is_controlled_by_a_subset():
    into = basis(20)
    some = into.subset(range(10))
    identity = torch.eye(8).double()
    wanted = float((some.write.mT @ some.read - identity).norm())
    assert wanted > 0.1
    assert some.report().iloc[0].identity_error == pytest.approx(wanted)
    torch.testing.assert_close(some.control(3).read, into.control(3).read[:10])
    deficient = Basis.from_decoder(normal(20, 3) @ normal(3, 8, seed=1)).subset([0, 1])
    assert deficient.to(torch.float32).write.shape == (2, 8)
    with pytest.raises(BasisError, match="has rank 3"):
        _ = deficient.read


def test_a_basis_does_not_change():
    into = basis(20)
    with pytest.raises(AttributeError, match="make another one"):
        into.write = into.write * 2


def test_a_wider_dtype_reads_to_its_own_precision():
    into = Basis.from_decoder(normal(40, 8, dtype=torch.float32)).to(torch.float64)
    assert relative_error(into.write.mT @ into.read, torch.eye(8).double()) < 1e-12


def test_directions_are_repeats_only_up_to_rounding():
    rows = normal(50, 6)
    rows[20] = rows[3] * (1 + 1e-15)
    rows[21] = rows[4] + 1e-4 * normal(6, seed=9)
    assert repeated_rows(rows) == [20]


def test_tiny_rows_are_zero_only_beside_longer_ones():
    assert zero_rows(normal(5, 4, dtype=torch.float32) * 1e-25) == []


@pytest.mark.parametrize("reader", ["pinv", "encoder", "transpose"])
def test_a_control_has_the_same_shape_and_norms_and_other_directions(reader):
    into = {
        "pinv": lambda: basis(20, offset=True),
        "encoder": lambda: Basis.from_encoder(normal(20, 8), normal(20, 8, seed=1)),
        "transpose": lambda: Basis.orthonormal(torch.linalg.qr(normal(8, 5)).Q.mT),
    }[reader]()
    control = into.control(seed=3)
    assert control.reader == reader
    torch.testing.assert_close(control.write.norm(dim=1), into.write.norm(dim=1))
    assert torch.equal(control.write, into.control(seed=3).write)
    assert not torch.allclose(control.write, into.control(seed=4).write)
    assert not torch.allclose(control.write, into.write)
    assert control.read.shape == into.read.shape
    assert (control.offset is None) == (into.offset is None)


def test_zero_and_repeated_rows_are_named_and_results_stay_finite():
    decoder = normal(12, 4)
    decoder[5] = 0
    decoder[9] = decoder[2] * 3
    with pytest.warns(DirectionWarning, match=r"features 5 write nothing.*features 9 repeat"):
        into = Basis.from_decoder(decoder)
    assert zero_rows(decoder) == [5]
    assert repeated_rows(decoder) == [9]
    assert bool(torch.isfinite(into.read).all())
    assert float(into.read[5].norm()) == 0


def test_repeated_rows_are_found_among_thousands_and_opposite_rows_are_not_repeats():
    rows = normal(5000, 16, dtype=torch.float32)
    rows[4000] = rows[17] * 0.3
    rows[4001] = rows[17]
    rows[4002] = -rows[18]
    assert repeated_rows(rows) == [4000, 4001]


def test_coherence_is_the_largest_cosine_and_does_not_depend_on_the_blocks(monkeypatch):
    rows = normal(40, 5)
    unit = rows / rows.norm(dim=1, keepdim=True)
    wanted = float((unit @ unit.mT - torch.eye(40)).abs().max())
    assert math.isclose(coherence(rows), wanted, rel_tol=1e-12)
    monkeypatch.setattr(directions, "ROWS", 7)
    assert math.isclose(coherence(rows), wanted, rel_tol=1e-12)


def test_the_report_is_one_row_of_what_is_true():
    report = basis(20, 8, rank=3, offset=True).report()
    assert len(report) == 1
    row = report.iloc[0]
    assert (row.n_feature, row.d_model, row["rank"]) == (20, 8, 3)
    assert math.isclose(row.identity_error, math.sqrt(8 - 3), rel_tol=1e-9)
    assert row.offset_norm > 0
    good = basis(20, 8).report().iloc[0]
    assert good.identity_error < 1e-10
    assert good.condition >= 1
    assert 0 < good.coherence <= 1
    assert 0 < good.coherence_control <= 1


def test_a_basis_moves_between_dtypes():
    into = basis(20, offset=True)
    there = into.to(torch.float32)
    assert there.dtype == torch.float32
    assert there.read.dtype == torch.float32
    assert relative_error(there.read, into.read) < 1e-5


@pytest.mark.parametrize("n_feature", [12, 300_000])
@pytest.mark.parametrize("feature", [0, 7])
def test_a_basis_over_memory_that_something_else_changes_is_the_changed_one(n_feature, feature):
    """torch counts no change of such memory."""
    memory = normal(n_feature, 4, seed=1).numpy()
    basis = Basis.from_decoder(torch.from_numpy(memory))
    before = basis.span.sizes
    if n_feature > 1000:
        memory[:, feature % 4] *= 2  # one column, of a tensor of which a part is looked at
    else:
        memory[feature, 1] += 3
    fresh = Basis.from_decoder(torch.from_numpy(memory.copy()))
    assert not torch.allclose(basis.span.sizes, before)
    torch.testing.assert_close(basis.span.sizes, fresh.span.sizes)
    torch.testing.assert_close(basis.read, fresh.read)
