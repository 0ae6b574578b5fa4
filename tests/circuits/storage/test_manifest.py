import json
import subprocess
import sys

import pytest

from circuits.errors import RunError
from circuits.storage.manifest import (
    State,
    read_manifest,
    record,
    state_of,
    states,
    step_written,
)
from tests.support import ROOT


def made(run, name: str, content: str):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(content)
    return run / name


def test_steps_stay_in_their_order_and_a_repeated_one_keeps_its_place(tmp_path):
    record(tmp_path, "model", {"seed": 0}, [made(tmp_path, "model/weights", "a")])
    record(tmp_path, "saes", {"k": 8}, [made(tmp_path, "saes/weights", "b")])
    record(tmp_path, "model", {"seed": 1}, [made(tmp_path, "model/weights", "c")])
    entries = read_manifest(tmp_path)
    assert [entry["step"] for entry in entries] == ["model", "saes"]
    assert entries[0]["made_of"] == {"seed": 1}


def test_the_same_run_has_the_same_manifest_wherever_it_lies(tmp_path):
    for run in (tmp_path / "one", tmp_path / "other"):
        record(run, "model", {"seed": 0}, [made(run, "model/weights", "a")])
    one, other = ((tmp_path / name / "manifest.json").read_bytes() for name in ("one", "other"))
    assert one == other
    assert str(tmp_path).encode() not in one
    changed = tmp_path / "changed"
    record(changed, "model", {"seed": 0}, [made(changed, "model/weights", "b")])
    assert (changed / "manifest.json").read_bytes() != one


def test_a_manifest_that_cannot_be_read_is_named(tmp_path):
    assert read_manifest(tmp_path) == []
    step = {"step": "model", "made_of": {}, "versions": {}, "made": {}}
    for content in (
        "{", "[1]", "3", "[" * 100_000, json.dumps([{"no": "step"}]), json.dumps([step, step]),
        json.dumps([step | {"step": "\ud800"}]),
        json.dumps([step | {"made": {"../x": {"bytes": 1, "sha256": "0"}}}]),
        json.dumps([step | {"made": {"/etc/x": {"bytes": 1, "sha256": "0"}}}]),
        json.dumps([step | {"made": {"model/x": "0" * 64}}]), json.dumps([step | {"made": None}]),
    ):  # fmt: skip
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(RunError, match=r"manifest\.json: not a list of steps"):
            read_manifest(tmp_path)


def test_a_step_that_made_nothing_new_keeps_the_versions_that_made_it(tmp_path, monkeypatch):
    weights = made(tmp_path, "model/weights", "a")
    record(tmp_path, "model", {"seed": 0}, [weights])
    before = (tmp_path / "manifest.json").read_bytes()
    monkeypatch.setattr("circuits.storage.manifest.version", lambda _name: "99")
    record(tmp_path, "model", {"seed": 0}, [weights])
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_the_state_of_a_file_is_told_from_its_bytes(tmp_path):
    text = made(tmp_path, "circuits/a.json", "{}")
    table = made(tmp_path, "rank/layer-0.parquet", "abc")
    record(tmp_path, "rank", {}, [text, table])
    assert {state for _, state in states(tmp_path).values()} == {State.SAME}
    text.write_text("[]")
    table.write_text("abd")
    assert states(tmp_path) == {
        "circuits/a.json": ("rank", State.EDITED),
        "rank/layer-0.parquet": ("rank", State.DAMAGED),
    }
    table.unlink()
    assert state_of(tmp_path, table) == ("rank", State.MISSING)
    assert state_of(tmp_path, made(tmp_path, "circuits/b.json", "{}")) == ("", State.UNKNOWN)


RECORD = """
import sys
from pathlib import Path
from circuits.storage.manifest import record
run, name = Path(sys.argv[1]), sys.argv[2]
for number in range(25):
    (run / f"{name}-{number}").write_text(name)
    record(run, f"{name} {number}", {}, [run / f"{name}-{number}"])
"""


def test_four_that_record_at_once_lose_no_entry(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", RECORD, str(tmp_path), name], cwd=ROOT)
        for name in "abcd"
    ]
    assert [process.wait() for process in started] == [0] * 4
    assert len(read_manifest(tmp_path)) == 100


def test_what_a_step_makes_no_more_is_removed_unless_it_was_edited(tmp_path):
    for names in (("a", "b", "c"), ("c",)):
        with step_written(tmp_path, "proposals") as making:
            for name in names:
                making.place(tmp_path / "circuits" / f"{name}.json").write_text(name)
        if len(names) == 3:
            made(tmp_path, "circuits/a.json", "edited")
    assert sorted(path.name for path in (tmp_path / "circuits").iterdir()) == ["a.json", "c.json"]
    assert states(tmp_path) == {"circuits/c.json": ("proposals", State.SAME)}
    assert state_of(tmp_path, tmp_path / "circuits" / "a.json") == ("", State.UNKNOWN)


@pytest.mark.parametrize(
    ("name", "mine", "ours"),
    [
        ("circuits/one.json", "years of work", '{"schema": "ours", "version": 1}'),
        ("circuits/one.json", '{"thesis": 1}', '{"schema": "ours", "version": 1}'),
        ("circuits/one.json", '{"schema": "mine"}', '{"schema": "ours", "version": 1}'),
        ("circuits/one.graphml", "<xml>\nmine", "<xml>\n<!-- ours -->"),
        ("rank/one.parquet", "years of work", ""),
    ],
)
def test_a_step_is_not_put_over_a_file_of_another_kind_that_no_step_made(
    tmp_path, name, mine, ours
):
    path = made(tmp_path, name, mine)
    with (
        pytest.raises(RunError, match="would be lost"),
        step_written(tmp_path, "circuit one") as making,
    ):
        making.place(path).write_text(ours)
    assert path.read_text() == mine
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_a_step_is_put_over_its_own_file_in_any_state_and_over_one_of_its_kind(tmp_path):
    path = made(tmp_path, "circuits/one.json", '{ "schema":"ours", "version": 0}')
    for before in (None, "edited", ""):
        if before is not None:
            path.write_text(before)
        with step_written(tmp_path, "circuit one") as making:
            making.place(path).write_text('{"schema": "ours", "version": 1}')
        assert json.loads(path.read_text())["version"] == 1


def test_a_manifest_that_knows_a_file_twice_is_refused(tmp_path):
    record(tmp_path, "circuit one", {}, [made(tmp_path, "circuits/one.json", "{}")])
    path = tmp_path / "manifest.json"
    name = '"circuits/one.json": {'
    path.write_text(path.read_text().replace(name, f'{name}"bytes": 1, "sha256": ""}}, {name}'))
    json.loads(path.read_text())  # JSON it is
    with pytest.raises(RunError, match="not a list of steps"):
        read_manifest(tmp_path)
