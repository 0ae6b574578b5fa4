"""`circuits behaviour`: cases to keep where the model shows a kind, and always what was tried."""

import json
import os

import pytest

from analysis import Behaviour
from circuits.model.loading import ready_folder
from tests.support.commands import command

MODEL = str(ready_folder("stories260K-bilinear") / "model")
DEVICE = ("--device", "cpu")


def refused(*words: str) -> str:
    done = command("behaviour", MODEL, *words, *DEVICE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_cases_are_written_that_another_command_reads(tmp_path):
    path = tmp_path / "cases.jsonl"
    done = command("behaviour", MODEL, "number", "--out", str(path), *DEVICE)
    assert done.returncode == 0
    held_out = Behaviour.load(path).halves()[1]
    assert len(held_out.cases) >= 64
    assert f"of {len(held_out.cases)} held-out cases" in done.stdout
    assert "frames kept, of seed 0" in done.stdout
    assert "singular: " in done.stdout
    assert "Not tried:\n  no token for is: " in done.stdout
    assert "note: answers are compared by their first token: were by we." in done.stdout
    assert f"circuits find RUN --across --behaviour {path}" in done.stdout


def test_json_has_every_frame_that_was_tried(tmp_path):
    done = command("behaviour", MODEL, "pronoun", "--cases", "32", "--json", *DEVICE)
    answer = json.loads(done.stdout)
    assert answer["file"] is None
    assert answer["tried"] == len(answer["trials"]) >= 12
    assert answer["kept"] == sum(row["kept"] for row in answer["trials"]) > 0
    assert answer["classes"][0]["held-out cases"] == 32


def test_a_model_that_shows_nothing_has_no_file_and_a_table(tmp_path):
    path = tmp_path / "cases.jsonl"
    done = command("behaviour", MODEL, "opposites", "--out", str(path), *DEVICE)
    assert done.returncode == 0
    assert "0 of 14 frames kept: the model does not show opposites" in done.stdout
    assert "The {thing} was not {quality}. It was {opposite}" in done.stdout
    assert not path.exists()


def test_frames_and_words_come_from_files(tmp_path):
    (tmp_path / "frames.txt").write_text("{name} saw the {thing}. {She}\n\n")
    words = {"girls": ["Lily", "Sue", "Amy"], "boys": ["Tim", "Tom", "Max"]}
    (tmp_path / "words.json").write_text(json.dumps(words))
    given = ("--frames", str(tmp_path / "frames.txt"), "--words", str(tmp_path / "words.json"))
    done = command("behaviour", MODEL, "pronoun", *given, "--json", *DEVICE)
    answer = json.loads(done.stdout)
    assert [row["frame"] for row in answer["trials"]] == ["{name} saw the {thing}. {She}"]
    used = {row["list"]: set(row["words"].split()) for row in answer["words"]}
    assert used["girls"] <= {*words["girls"]}
    assert used["boys"] <= {*words["boys"]}


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--frames", "\n", "has no frames. Write one a line"),
        ("--frames", "{name} had a ball.", "does not end with the slot of its answer"),
        ("--words", "[1]", "holds a JSON list, not an object"),
        ("--words", '{"girls": "Lily"}', "is no JSON of lists of words"),
        ("--words", '{"girl": ["Lily"]}', "'pronoun' has no list"),
        ("--words", "{", "not readable JSON"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, option, content, said):
    path = tmp_path / "given"
    path.write_text(content)
    assert said in refused("pronoun", option, str(path))


def test_missing_files_and_files_of_another_kind_are_refused(tmp_path):
    assert "cannot be read" in refused("pronoun", "--frames", str(tmp_path / "none"))
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    assert "notes.txt" in refused("number", "--out", str(path))
    assert path.read_text() == "mine"
    assert "31 pairs, where a claim needs 32" in refused("number", "--cases", "31")


def test_frames_are_not_read_from_what_never_ends(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "/dev/zero"):
        assert "not a regular file" in refused("pronoun", "--frames", path)
