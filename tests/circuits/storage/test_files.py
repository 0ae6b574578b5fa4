"""Files that are written whole: what JSON cannot say is null in them."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from circuits.errors import RunError
from circuits.storage.files import (
    folder_written_whole,
    read_json,
    remove_left,
    without_nan,
    write_json,
    written_whole,
)
from tests.support import ROOT


def test_what_is_not_finite_is_null_however_deep_it_lies():
    deep = {"a": [math.nan, {1: math.inf, "b": (0.5, -math.inf)}], "c": "nan", "d": 3, "e": None}
    wanted = {"a": [None, {"1": None, "b": [0.5, None]}], "c": "nan", "d": 3, "e": None}
    assert without_nan(deep) == wanted


def test_a_written_json_file_is_strict_json_and_reads_back(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"loss": math.nan, "step": 1})
    assert read_json(path, RunError) == {"loss": None, "step": 1}
    json.loads(path.read_text(), parse_constant=lambda word: 1 / 0)  # "NaN" is no JSON


def test_an_object_that_has_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"shape": {"n_layer": 1, "d_model": 8, "n_layer": 2}}')
    with pytest.raises(RunError, match="the key 'n_layer' is there twice in one object"):
        read_json(path, RunError)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith(".part"))


WRITE_AND_DIE = """
import os, signal, sys
from circuits.storage.files import written_whole
with written_whole(sys.argv[1]) as file:
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path):
    path = tmp_path / "numbers[1].txt"
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], cwd=ROOT, check=False)
    assert len(parts(tmp_path)) == 1
    (tmp_path / ".numbers[1].txt.killed-before-it-was-marked.part").mkdir()
    with written_whole(path) as file:
        file.write_text("whole")
    assert path.read_text() == "whole"
    assert parts(tmp_path) == []


def test_what_another_still_writes_is_left_alone(tmp_path):
    path = tmp_path / "numbers.txt"
    with written_whole(path) as one:
        one.write_text("one")
        with written_whole(path) as other:  # as a process in a container of the same number would
            other.write_text("other")
        assert path.read_text() == "other"
        assert one.read_text() == "one"
    assert path.read_text() == "one"
    assert parts(tmp_path) == []


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path):
    path, faults = tmp_path / "numbers.txt", []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                with written_whole(path) as file:
                    file.write_text(str(number) * 10_000)
        except OSError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert path.read_text() in [str(number) * 10_000 for number in range(4)]
    assert parts(tmp_path) == []


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("语" * 80 + ".json")
    write_json(path, {"a": 1})
    assert read_json(path, RunError) == {"a": 1}


def test_a_folder_is_put_in_place_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError), folder_written_whole(tmp_path / "out") as folder:
        shutil.copytree(tmp_path / "none", folder / "half")
    assert list(tmp_path.iterdir()) == []
    with folder_written_whole(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_file_of_somebody_else_that_looks_like_one_left_stays(tmp_path):
    (tmp_path / ".mine.part").write_text("kept")
    remove_left(tmp_path)
    assert (tmp_path / ".mine.part").read_text() == "kept"


def test_a_fifo_as_the_owner_of_what_lies_aside_is_not_waited_for(tmp_path):
    (tmp_path / ".x.0123456789abcdef.part").mkdir()
    os.mkfifo(tmp_path / ".x.0123456789abcdef.part" / ".owner")
    remove_left(tmp_path)
    with written_whole(tmp_path / "x") as file:
        file.write_text("new")
    assert (tmp_path / "x").read_text() == "new"
