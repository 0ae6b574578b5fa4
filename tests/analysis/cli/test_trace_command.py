"""`circuits trace` finds a planted gate in one text, keeps the graph, and refuses in one line."""

import json
import shlex

import pytest

from analysis.cli.main import main
from circuits.graph import read_graph
from circuits.model import Site
from tests.support.planted_negation import planted_run

TEXT = "the cake was not good so tom felt"
ASKED = ("--targets", "sad", "--against", "glad", "--device", "cpu")


@pytest.fixture
def run(tmp_path):
    return planted_run(tmp_path / "run")


def test_the_planted_gate_is_found_and_kept(run, capsys):
    out = run.parent / "out"
    assert main(["trace", str(run), TEXT, *ASKED, "--name", "one", "--attribution", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "graph-metadata.json").exists()
    assert "hold 100% of the influence on logit sad less glad;" in printed
    lines = printed.splitlines()
    assert [lines[-3], lines[-1]] == [
        str(run / "traces" / f"one.{kind}") for kind in ("json", "html")
    ]
    kept = json.loads((run / "traces" / "one.json").read_text())
    assert kept["tokens"] == ["<bos>", *TEXT.split()]
    pairs = {
        tuple(kept["tokens"][int(gate[end].split("@")[1])] for end in ("first", "second"))
        for gate in kept["gates"]
        if gate["kind"] == "pair"
    }
    assert ("good", "not") in pairs or ("not", "good") in pairs
    graph = read_graph(run / "traces" / "one.graphml")
    assert "logit sad less glad" in graph


def test_scripts_get_the_graph_and_verify_the_command_that_made_it(run, capsys):
    assert main(["trace", str(run), TEXT, *ASKED, "--nodes", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (file,) = (run / "traces").glob("*.json")
    assert found["file"] == str(file)
    assert file.name.startswith("the-cake-was-not-good-so-tom-felt-")
    before = file.read_bytes()
    file.write_text("{}")
    assert main(["verify", str(run), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["files"]
    (again,) = {row["command"] for row in rows if row["command"]}
    assert main([*shlex.split(again)[1:], "--device", "cpu"]) == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((" ".join(["good"] * 40),), "41 tokens"),
        (("the zebra felt",), "does not know 'zebra'"),
        ((TEXT, "--targets", "zebra"), "'zebra' must be a single known token"),
        ((TEXT, *ASKED, "--nodes", "1"), "Allow more nodes"),
        (("good", *ASKED), "nothing in the run adds to 'logit sad less glad'"),
        ((TEXT, *ASKED, "--name", "con"), "no file can have this name"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(run, capsys, words, said):
    assert main(["trace", str(run), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err.splitlines()[-1]
    assert not (run / "traces").exists()


def test_a_run_without_a_dictionary_of_an_mlps_output_is_refused(run, capsys):
    folder = run / "saes" / Site("mlp_out", 0).hook_name
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert main(["trace", str(run), TEXT, *ASKED]) == 2
    assert "no dictionary of mlp_out was given" in capsys.readouterr().err
