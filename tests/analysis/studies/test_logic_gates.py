import json

import pytest
import torch

from analysis.cli.main import main
from analysis.studies.logic_gates import (
    GATES,
    TruthTable,
    gate_report,
    random_layer,
    read_polynomials,
    train_gates,
)
from circuits import BilinearLayer, Spectrum
from circuits.errors import TensorError


def test_a_gate_written_by_hand_is_read_back_exactly():
    """a xor b = (a − b)², one product of (1, −1) with itself; a and b = a · b."""
    xor, both = [1.0, -1.0], [1.0, 0.0]
    left = torch.tensor([xor, both], dtype=torch.float64)
    right = torch.tensor([xor, [0.0, 1.0]], dtype=torch.float64)
    layer = BilinearLayer(left, right, torch.eye(2).double(), torch.zeros(2).double())
    got = read_polynomials(layer, ("xor", "and"))
    assert got["xor"].to_dict() == {"1": 0, "a": 1, "b": 1, "ab": -2}
    assert got["and"].to_dict() == {"1": 0, "a": 0, "b": 0, "ab": 1}
    spectrum = Spectrum.of(layer.interaction(torch.tensor([1.0, 0.0]).double()))
    assert spectrum.effective_rank == pytest.approx(1), "an xor is one square"


@pytest.mark.parametrize("seed", range(5))
def test_a_trained_layer_is_its_truth_table(seed):
    _, report = gate_report(seed=seed)
    assert (report["off_by"] < 1e-5).all()
    assert (report["control"] > 0.1).all(), "an untrained layer is not"
    assert (report["error"] - report["error_floor"]).abs().max() < 1e-8
    possible = report["error_floor"] < 1e-20
    assert possible.sum() == 6
    assert (report["rows_right"] == report["rows"])[possible].all()


def test_a_product_of_three_bits_has_its_known_error():
    table = TruthTable.of({"all": lambda a, b, c: a and b and c, "a": lambda a, b, c: a}, 3)
    _, floor = table.polynomials()
    assert float(floor[0]) == pytest.approx(1 / 64)  # the Walsh coefficient of abc, squared
    assert float(floor[1]) < 1e-20


def test_training_is_the_same_for_a_seed():
    table = TruthTable.of(GATES, 3)
    assert torch.equal(train_gates(table, seed=1).down, train_gates(table, seed=1).down)
    assert not torch.equal(random_layer(table, seed=1).down, random_layer(table, seed=2).down)


def test_a_gate_of_other_bits_is_refused():
    with pytest.raises(TensorError, match="every gate must take 2 bits"):
        TruthTable.of({"three": lambda a, b, c: a}, 2)
    with pytest.raises(TensorError, match="1 to 12 bits"):
        TruthTable.of(GATES, 0)


def test_a_table_that_no_polynomial_could_show_is_refused():
    bits, answers = torch.eye(2).double(), torch.eye(2).double()
    with pytest.raises(TensorError, match="2 bits and 1 different names of 2"):
        TruthTable(("same", "same"), bits, answers)
    with pytest.raises(TensorError, match="Pass at most 12 bits"):
        TruthTable(("one", "two"), torch.zeros(2, 13).double(), answers)
    with pytest.raises(TensorError, match="bits other than 0 and 1"):
        TruthTable(("one", "two"), bits / 2, answers)
    with pytest.raises(TensorError, match=r"float64.*float32.*\.double\(\) first"):
        TruthTable(("one", "two"), bits.float(), answers)
    layer = random_layer(TruthTable(("one", "two"), bits, answers))
    with pytest.raises(TensorError, match="2 bits and 1 different names of 2"):
        read_polynomials(layer, ("same", "same"))


def test_the_demo_prints_what_it_found(capsys):
    assert main(["gates", "--seed", "2"]) == 0
    printed = capsys.readouterr().out
    assert "a + b − 2ab" in printed
    assert "seed 2" in printed
    assert main(["gates", "--json"]) == 0
    gates = json.loads(capsys.readouterr().out)["gates"]
    assert [gate["gate"] for gate in gates] == list(GATES)
