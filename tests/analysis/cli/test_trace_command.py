"""`circuits trace` finds a planted gate in one text, keeps the graph, and refuses in one line."""

import json
import os
import shlex

import pytest

from analysis.attribution.network import attribution_graph
from analysis.cli.main import main
from analysis.runs.run import Run
from circuits.errors import GraphError
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
    assert "Probability as the next token: sad 0." in printed
    lines = printed.splitlines()
    assert [lines[-4], *lines[-2:]] == [
        str(run / "traces" / f"one.{kind}") for kind in ("json", "graphml", "html")
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


def test_a_text_that_the_tokenizer_cannot_spell_is_refused(run, capsys):
    assert main(["trace", str(run), "从前 有 一个 小女孩", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "of this text 100% of the tokens are unknown to its tokenizer" in said
    assert not (run / "traces").exists()


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
        (("",), "has no word, so there is nothing to trace back to"),
        (("the zebra felt",), "does not know 'zebra'"),
        ((TEXT, "--targets", "zebra"), "'zebra' has no known token after the text"),
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


@pytest.mark.parametrize("ending", [".json", ".graphml"])
def test_a_file_of_ones_own_in_the_place_of_a_trace_is_kept(run, capsys, ending):
    mine = (run / "traces" / "one").with_suffix(ending)
    mine.parent.mkdir()
    mine.write_text('{"years": "of work"}')
    assert main(["trace", str(run), TEXT, *ASKED, "--name", "one"]) == 2
    assert "would be lost" in capsys.readouterr().err
    assert mine.read_text() == '{"years": "of work"}'
    assert [file.name for file in mine.parent.iterdir()] == [mine.name]


def test_no_two_traces_share_a_file(run, capsys):
    for name in ("a b", "a-b", "a_b", "a\nb"):
        assert main(["trace", str(run), TEXT, *ASKED, "--name", name]) == 0
    assert len(list((run / "traces").glob("*.json"))) == 4
    assert main(["trace", str(run), TEXT, *ASKED, "--name", "A-B"]) == 2
    assert "would have the same file" in capsys.readouterr().err


def test_saving_a_graph_keeps_what_is_no_graph(run, tmp_path):
    found = attribution_graph(*_loaded(run), TEXT, ["sad"])
    path = tmp_path / "notes.json"
    path.write_text("years of work")
    with pytest.raises(GraphError, match="would be lost"):
        found.save(path)
    assert path.read_text() == "years of work"
    found.save(path, force=True)
    assert found.save(path) == path


def test_a_manifest_with_junk_in_a_trace_is_still_verified(run, capsys):
    assert main(["trace", str(run), TEXT, *ASKED, "--name", "one"]) == 0
    entries = json.loads((run / "manifest.json").read_text())
    entries[-1]["made_of"] |= {"targets": 5, "against": "x", "text": None}
    (run / "manifest.json").write_text(json.dumps(entries))
    (run / "traces" / "one.json").write_text("{}")
    assert main(["verify", str(run)]) == 1
    assert "circuits trace" in capsys.readouterr().out


def _loaded(folder):
    run = Run(folder, device="cpu")
    return run.model, run.dictionaries


@pytest.mark.parametrize("own", ["layered", "circuits", "saes", "report", "model/deeper"])
def test_no_attribution_graph_is_put_where_the_run_keeps_its_own_files(run, capsys, own):
    given = ["trace", str(run), TEXT, *ASKED, "--attribution", str(run / own)]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert f"{run / own} is where the run {run} keeps its own files" in said
    assert said.count("\n") == 1
    assert not (run / own / "graph-metadata.json").exists()
    assert not (run / "traces").exists()
    assert main([*given[:-1], str(run / "attribution")]) == 0


def test_other_answers_of_a_text_are_other_attribution_graphs_and_an_index_may_not_wait(
    run, capsys
):
    out = run.parent / "out"
    for target in ("sad", "glad"):
        asked = ("--targets", target, "--device", "cpu", "--attribution", str(out))
        assert main(["trace", str(run), TEXT, *asked]) == 0
    assert len(list(out.glob("*.json"))) == 3
    (out / "graph-metadata.json").unlink()
    os.mkfifo(out / "graph-metadata.json")
    assert main(["trace", str(run), TEXT, *asked]) == 2
    assert "not a regular file" in capsys.readouterr().err
