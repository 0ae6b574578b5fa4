"""The demonstration does a step once, and again where its inputs or its files have changed."""

import json

import pytest

from analysis.cli import main
from analysis.demo import _Memory
from circuits.errors import RunError


@pytest.fixture
def made(tmp_path):
    file = tmp_path / "made.json"
    file.write_text("one")
    memory = _Memory(tmp_path, 0, print)
    memory.keep("step", {"model": "a"}, [file])
    return tmp_path, file


def test_a_step_that_was_done_is_remembered_by_another_process(made):
    run, file = made
    again = _Memory(run, 0, print)
    assert again.holds("step", {"model": "a"}, [file])
    assert not again.holds("other", {"model": "a"}, [file])


def test_a_step_of_other_inputs_or_changed_files_is_done_again(made):
    run, file = made
    again = _Memory(run, 0, print)
    assert not again.holds("step", {"model": "b"}, [file])
    file.write_text("two")
    assert not again.holds("step", {"model": "a"}, [file])
    file.unlink()
    assert not again.holds("step", {"model": "a"}, [file])


def test_a_memory_that_was_cut_short_is_refused(made):
    run, _ = made
    (run / "demo.json").write_text("{")
    with pytest.raises(RunError, match=r"demo\.json: no readable JSON"):
        _Memory(run, 0, print)


@pytest.mark.slow
def test_the_demonstration_finds_and_proves_negation_and_reads_it_the_second_time(tmp_path, capsys):
    told = []
    for _ in range(2):
        assert main(["demo", str(tmp_path / "run"), "--json"]) == 0
        said = capsys.readouterr()
        told.append((json.loads(said.out), said.err))
    (first, work), (second, reading) = told
    assert first == second
    assert first["circuits"]["negation"].startswith("computed in this MLP")
    assert first["proofs"]["negation"].startswith("proven")
    assert "validate" in work
    assert "validate" not in reading
