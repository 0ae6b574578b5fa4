"""`circuits find` and `circuits validate`: what they print, keep, forget and refuse."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from analysis.behaviour.cases import Behaviour
from analysis.cli.main import main
from analysis.report.circuit.circuit_page import circuit_page
from analysis.report.circuit.mechanism import Mechanism
from analysis.runs.circuits import run_find, run_validate
from analysis.runs.run import Run
from analysis.runs.verification import verify
from analysis.validation import record
from analysis.validation.edits import EditKind
from analysis.validation.record import Validation
from circuits.corpus import open_corpus
from circuits.corpus.documents import split_corpus
from circuits.errors import MarkWarning, RunError
from circuits.graph.circuit import Circuit
from circuits.storage.files import content_hash
from circuits.storage.manifest import read_manifest
from tests.support.planted_negation import (
    BAD,
    GOOD,
    NEGATOR,
    WORDS,
    planted_behaviour,
    planted_model,
    planted_run,
    planted_text,
    sentiment,
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A run of the planted model, and its behaviour's cases in a file."""
    folder = tmp_path_factory.mktemp("runs") / "planted"
    write_run(folder, "computed")
    return folder


def write_run(folder: Path, kind: str) -> None:
    planted_behaviour().save(planted_run(folder, kind) / "negated or not.jsonl")


@pytest.fixture
def run(planted, tmp_path) -> Path:
    return Path(shutil.copytree(planted, tmp_path / "run"))


def called(capsys, *arguments: object) -> str:
    assert main([*map(str, arguments), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def find(capsys, run: Path, *arguments: object) -> str:
    behaviour = run / "negated or not.jsonl"
    return called(capsys, "find", run, "--behaviour", behaviour, *arguments)


def kept(run: Path) -> list[str]:
    folder = run / "circuits"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


NAMES = [f"negated-or-not.{end}" for end in ("behaviour.jsonl", "graphml", "json")]


def test_a_circuit_is_printed_for_a_person_and_kept(run, capsys):
    said = find(capsys, run)
    assert said.startswith("negated or not: found in layer 0, computed in this MLP (computed 1.00")
    for words in ("negated & positive", "negated & not positive", "2 pairs of features carry 100%"):
        assert words in said
    file = Path(said.splitlines()[-1])
    assert file == run / "circuits" / "negated-or-not.json"
    assert kept(run) == NAMES
    circuit = Circuit.load(file)
    assert {(p.first, p.second) for p in circuit.interactions} == {(NEGATOR, GOOD), (NEGATOR, BAD)}
    assert nx.read_graphml(file.with_suffix(".graphml")).number_of_edges() == 2
    cases = Behaviour.load(file.with_name(NAMES[0]), name="negated or not")
    assert cases == Behaviour.load(run / "negated or not.jsonl")
    (entry,) = read_manifest(run)
    assert entry["step"] == "circuit negated or not"
    assert set(entry["made"]) == {f"circuits/{name}" for name in NAMES}


def test_scripts_are_told_in_json(run, capsys):
    answer = json.loads(find(capsys, run, "--json"))
    assert answer["found"]
    assert answer["verdict"].startswith("computed in this MLP")
    assert Path(answer["file"]).exists()
    assert answer["shares"]["computed"] == pytest.approx(1)
    assert [row["contrast"] > 1 for row in answer["interactions"]] == [True, True]


def test_how_the_held_out_half_differs_is_printed(run, capsys):
    """Of every second pair the thing is another one."""
    assert "Held-out half: other pairs." in find(capsys, run)
    cases = [
        replace(case, pair=2 * case.pair - 15 * (case.pair > 7),
                strata={"thing": case.text.split()[3]})
        for case in planted_behaviour().cases
    ]  # fmt: skip
    cases.sort(key=lambda case: case.pair)
    planted_behaviour(cases=tuple(cases)).save(run / "negated or not.jsonl")
    assert "Held-out half: other words (thing)." in find(capsys, run)
    answer = json.loads(find(capsys, run, "--json"))
    assert answer["source"]["held-out half"] == "other words (thing)"


def test_finding_again_writes_the_same_bytes(run, capsys):
    find(capsys, run)
    before = {name: (run / "circuits" / name).read_bytes() for name in kept(run)}
    manifest = (run / "manifest.json").read_bytes()
    find(capsys, run)
    assert {name: (run / "circuits" / name).read_bytes() for name in kept(run)} == before
    assert (run / "manifest.json").read_bytes() == manifest


def test_a_found_circuit_is_validated_on_the_other_half(run, capsys):
    find(capsys, run)
    said = called(capsys, "validate", run, "--text", planted_text(run), "--draws", 2)
    few = "8 held-out cases of each class, and 16 are needed: write at least 32 of each"
    assert said.startswith(f"negated or not: nothing can be claimed: {few}\n")
    for words in ("remove the circuit", "control: untrained model", "same size",
                  "On other text, where no answer", "n = 32 cases, seed 0"):  # fmt: skip
        assert words in said
    proof = Validation.load(run / "circuits" / "negated-or-not.validation.json")
    assert (proof.circuit, proof.behaviour, proof.n) == ("negated or not", "negated or not", 32)
    assert [entry["step"] for entry in read_manifest(run)] == [
        "circuit negated or not",
        "validation of negated or not",
    ]
    answer = json.loads(
        called(capsys, "validate", run, "--text", planted_text(run), "--draws", 5, "--json",
               "--circuit", "negated or not")
    )  # fmt: skip
    (one,) = answer["validations"]
    assert one["claims"] == dict.fromkeys(("causal", "computed here", "specific"), False)
    assert [row["met"] for row in one["criteria"]] == [False] + [True] * 11


def test_a_circuit_that_is_not_there_is_refused_with_those_that_are(run, capsys):
    find(capsys, run)
    assert main(["validate", str(run), "--circuit", "nosuch", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == (
        f"circuits validate: {run} has no circuit of a behaviour 'nosuch'. Name one that it has: "
        "negated-or-not\n"
    )


def test_circuits_of_one_run_are_each_others_controls(run, capsys):
    find(capsys, run)
    planted_behaviour(8).save(run / "few.jsonl")
    called(capsys, "find", run, "--behaviour", run / "few.jsonl")
    said = called(
        capsys, "validate", run, "--text", planted_text(run), "--draws", 1, "--circuit", "few"
    )
    assert "control: circuit of negated or not" in said
    assert "control: circuit of few" not in said


def test_a_validation_is_marked_when_its_controls_are_other_circuits(run, capsys):
    find(capsys, run)
    planted_behaviour(8).save(run / "few.jsonl")
    called(capsys, "find", run, "--behaviour", run / "few.jsonl")
    text = planted_text(run)
    called(capsys, "validate", run, "--text", text, "--draws", 1)
    (entry,) = [e for e in read_manifest(run) if e["step"] == "validation of few"]
    control = run / "circuits" / "negated-or-not.json"
    assert entry["made_of"]["controls"] == {"negated-or-not": content_hash(control)}
    held_out = split_corpus(open_corpus(text))[1]
    assert entry["made_of"]["text"] == held_out.fingerprint
    assert Run(run, device="cpu").checked().marks == {}
    before = control.read_bytes()

    find(capsys, run, "--pairs", 1)
    assert control.read_bytes() != before
    with pytest.warns(MarkWarning, match="of its controls, negated-or-not was changed or found"):
        marks = Run(run, device="cpu").checked().marks
    assert set(marks) == {"circuits/few.validation.json"}
    assert "Validate it again: circuits validate RUN --circuit few" in marks.popitem()[1]
    rows = verify(run).set_index("file")
    row = rows.loc["circuits/few.validation.json"]
    assert row["state"] == "of its controls, negated-or-not was changed or found again"
    assert row["command"] == f"circuits validate {run} --circuit few"
    control.unlink()
    with pytest.warns(MarkWarning, match="of its controls, negated-or-not was removed"):
        _ = Run(run, device="cpu").found

    find(capsys, run)
    assert control.read_bytes() == before
    assert Run(run, device="cpu").checked().marks == {}


def whole(run: Path) -> dict[str, bytes]:
    """The circuits' files, and the manifest."""
    files = [*(run / "circuits").iterdir(), run / "manifest.json"]
    return {file.name: file.read_bytes() for file in sorted(files)}


def wrong_answers(run: Path) -> None:
    """Of the cases in the run: nothing is found for them."""
    cases = (replace(c, right=c.wrong, wrong=c.right) for c in planted_behaviour().cases)
    planted_behaviour(cases=tuple(cases)).save(run / "negated or not.jsonl")


def test_what_was_found_before_stays_where_nothing_is_found(run, capsys):
    find(capsys, run)
    called(capsys, "validate", run, "--text", planted_text(run), "--draws", 1)
    assert len(kept(run)) == 4
    before = whole(run)
    wrong_answers(run)
    said = find(capsys, run)
    assert said.startswith("not found: the model does not show this behaviour")
    sentence = (
        f"The circuit of this name that was found before is kept: "
        f"{run}/circuits/negated-or-not.json"
    )
    assert said.endswith(f"\n\n{sentence}\n")
    assert json.loads(find(capsys, run, "--json"))["kept"] == sentence
    assert whole(run) == before
    assert list(Run(run, device="cpu").validations) == ["negated-or-not"]


def test_the_same_circuit_found_again_keeps_its_validation(run, capsys):
    find(capsys, run)
    called(capsys, "validate", run, "--text", planted_text(run), "--draws", 1)
    before = whole(run)
    (run / "circuits" / "negated-or-not.graphml").unlink()
    said = find(capsys, run)
    wanted = "negated or not was found before, and is the same; its validation is kept"
    assert said.splitlines()[-3] == wanted
    assert whole(run) == before


def test_the_same_circuit_of_other_cases_has_no_old_validation(run, capsys):
    find(capsys, run)
    called(capsys, "validate", run, "--text", planted_text(run), "--draws", 1)
    cases = run / "circuits" / "negated-or-not.behaviour.jsonl"
    cases.write_text(cases.read_text().replace("\n", " \n", 1))
    assert "its validation no longer fits and was removed" in find(capsys, run)
    assert kept(run) == NAMES


def test_a_validation_that_no_step_made_is_not_removed(run, capsys):
    find(capsys, run)
    proof = run / "circuits" / "negated-or-not.validation.json"
    proof.write_text('{"mine": 1}')
    before = whole(run)
    words = ["find", run, "--behaviour", run / "negated or not.jsonl", "--pairs", 3]
    assert main(list(map(str, words))) == 2
    said = capsys.readouterr().err
    assert f"{proof} is of the circuit that is to be replaced, and no step of this run" in said
    assert whole(run) == before


def test_a_full_disk_loses_neither_the_old_results_nor_the_new(run, capsys, monkeypatch):
    """Each rename, link and removal fails once, and each file once as it is written."""
    find(capsys, run)
    called(capsys, "validate", run, "--text", planted_text(run), "--draws", 1)
    old = {file.name: file.read_bytes() for file in (run / "circuits").iterdir()}
    noted = (run / "manifest.json").read_bytes()
    opened = Run(run, device="cpu")
    circuit = replace(opened.circuits["negated or not"], energy=0.125)
    behaviour = planted_behaviour(name="negated or not")
    monkeypatch.setattr("analysis.runs.circuits.find_circuit", lambda *_, **__: circuit)
    n_failed = 0
    for last in range(1, 200):
        shutil.rmtree(run / "circuits")
        (run / "circuits").mkdir()
        for name, content in old.items():
            (run / "circuits" / name).write_bytes(content)
        (run / "manifest.json").write_bytes(noted)
        with monkeypatch.context() as patched:
            done = fails_once(patched, last)
            try:
                run_find(opened, behaviour)
            except OSError as error:
                assert "disk" in str(error)  # noqa: PT017
                n_failed += 1
        there = [path for path in (run / "circuits").iterdir() if path.is_file()]
        left = {file.name: file.read_bytes() for file in there}
        found = {k: v for k, v in left.items() if k in old}
        if found != old:
            assert sorted(left) == NAMES, last
            assert Circuit.load(run / "circuits" / NAMES[2]) == circuit
        if len(done) < last:
            break
    else:
        raise AssertionError("the last operation was not reached")
    assert n_failed > 10
    assert sorted(left) == NAMES


def fails_once(patched, last: int) -> list[str]:
    """Let one operation on files fail, the one of this number; what was done so far."""
    done: list[str] = []

    def counted(owner, name):
        work = getattr(owner, name)

        def counting(*given, **named):
            done.append(name)
            if len(done) == last:
                raise OSError(28, "no space left on this disk")
            return work(*given, **named)

        patched.setattr(owner, name, counting)

    for name in ("replace", "link", "unlink", "mkdir"):
        counted(os, name)
    counted(Path, "write_text")
    return done


def test_another_behaviour_of_the_same_file_name_is_refused(run, capsys):
    find(capsys, run)
    before = {name: (run / "circuits" / name).read_bytes() for name in kept(run)}
    twin = run / "negated-or not.jsonl"
    shutil.copy(run / "negated or not.jsonl", twin)
    assert main(["find", str(run), "--behaviour", str(twin), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == (
        f"circuits find: {run}/circuits/negated-or-not.json holds the circuit 'negated or not', "
        f"and 'negated-or not' would have the same file. Rename the behaviour, or remove the "
        f"file.\n"
    )
    assert before == {name: (run / "circuits" / name).read_bytes() for name in kept(run)}


def test_no_two_names_share_a_file(run, capsys):
    """Names that differ in what files cannot hold, or in case, or that end as a file does."""
    opened = Run(run, device="cpu")
    for name in ("negated", "negated.validation", "否定", "代名詞", "négation", "x.behaviour"):
        run_find(opened, planted_behaviour(name=name))
        assert opened.circuits[name].name == name
        run_validate(opened, name, n_draws=1)
    assert sorted(opened.circuits) == sorted(
        ["negated", "negated-validation", "否定", "代名詞", "négation", "x-behaviour"]
    )
    assert len(opened.validations) == 6
    before = whole(run)
    for name in ("Negated", "NEGATED", "negated-validation", "ne\u0301gation", "negated "):
        with pytest.raises(RunError, match=r"Rename the behaviour, or remove the file\.$"):
            run_find(opened, planted_behaviour(name=name))
    assert whole(run) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("con", "Windows has no files of this name"),
        ("NUL.a", "Windows has no files of this name"),
        ("lpt1", "Windows has no files of this name"),
        ("n" * 121, "longer than the 120 bytes"),
        ("否" * 41, "longer than the 120 bytes"),
        ("...", "no letter or digit"),
    ],
)
def test_names_that_no_file_can_have_everywhere_are_refused(run, name, said):
    with pytest.raises(RunError, match=said):
        run_find(Run(run, device="cpu"), planted_behaviour(name=name))
    assert kept(run) == []


def test_a_long_name_can_be_saved(run):
    opened = Run(run, device="cpu")
    run_find(opened, planted_behaviour(name="否" * 40))
    run_validate(opened, "否" * 40, n_draws=1)
    assert list(opened.validations) == ["否" * 40]


def test_what_is_not_there_is_refused_with_a_command_that_works(run, capsys):
    opened = Run(run, device="cpu")
    for there in (opened.circuits, opened.behaviours, opened.validations):
        with pytest.raises(KeyError, match=r"'nosuch' \(it has none\).* --behaviour negation"):
            there["nosuch"]
        with pytest.raises(KeyError, match=r"Make it: circuits find \S+ --behaviour pronoun$"):
            there["pronoun"]
    find(capsys, run)
    with pytest.raises(KeyError, match=r"Name one that it has, or find one"):
        opened.validations["nosuch"]
    with pytest.raises(KeyError, match=r"Make it: (.*)$") as refused:
        opened.validations["negated or not"]
    program, *words = str(refused.value).split("Make it: ")[1].split()
    assert program == "circuits"
    assert main([*words, "--device", "cpu", "--draws", "1", "--text", str(planted_text(run))]) == 0


def test_a_circuit_found_anew_has_no_old_validation(run, capsys):
    find(capsys, run)
    called(capsys, "validate", run, "--text", planted_text(run), "--draws", 1)
    said = find(capsys, run, "--pairs", 3)
    wanted = "replaces negated or not; its validation no longer fits and was removed"
    assert said.splitlines()[-3] == wanted
    assert kept(run) == NAMES
    again = json.loads(find(capsys, run, "--json"))
    assert again["replaced"] == "replaces negated or not"
    again = json.loads(find(capsys, run, "--json"))
    assert again["replaced"] == "negated or not was found before, and is the same"
    assert [entry["step"] for entry in read_manifest(run)] == ["circuit negated or not"]


def test_not_found_is_an_answer_and_exits_0(tmp_path, capsys):
    run = tmp_path / "read"
    write_run(run, "read")
    sentiment(planted_behaviour()).save(run / "sentiment.jsonl")
    said = called(capsys, "find", run, "--behaviour", run / "sentiment.jsonl")
    assert said.startswith("not found: in layer 0, the MLP adds 0.00 of the ")
    said = find(capsys, run)
    assert said.startswith("not found: the model does not show this behaviour")
    answer = json.loads(find(capsys, run, "--json"))
    assert answer == {"found": False, "why": said.strip(), "kept": None}
    assert kept(run) == []


def test_an_inherited_contrast_is_said_to_be(tmp_path, capsys):
    write_run(tmp_path / "run", "inherited")
    said = find(capsys, tmp_path / "run")
    assert "found in layer 1, inherited from attention or earlier layers" in said


def test_the_probability_metric_of_a_circuit_is_that_of_its_validation(run, capsys):
    behaviour = planted_behaviour(metric="probability", name="likely / not")
    opened = Run(run, device="cpu")
    run_find(opened, behaviour, coverage=0.9, n_pairs=4)
    assert "likely-not.json" in kept(run)
    found = run_validate(opened, "likely / not", n_draws=1)
    plain = found.edit(EditKind.NONE)
    assert 0 < plain["not good"] < 1  # a difference of chances, not of logits
    assert found.behaviour == "likely / not"
    given = (
        "validate",
        run,
        "--circuit",
        "likely / not",
        "--draws",
        1,
        "--text",
        planted_text(run),
    )
    said = called(capsys, *given)
    assert "contrast: mean margin of the affected classes, in probability;" in said
    (row,) = json.loads(called(capsys, *given, "--json"))["validations"]
    assert row["metric"] == "probability"
    again = Run(run, device="cpu")
    [found] = [each for each in again.found if each.stem == "likely-not"]
    page = circuit_page(again, found, "likely-not", None, Mechanism.of(again, found), {}, 0)
    [edits] = [table for table in page.tables if table.key == "edits"]
    assert "the affected classes, in probability." in edits.caption


def test_proposals_are_printed_and_kept(run, capsys):
    """Outputs 4 and 5 are the two signs of thing x child, which the planted MLP multiplies."""
    head, first, second, *_, folder = called(capsys, "find", run, "--proposals", 2).splitlines()
    assert head.split()[:4] == ["circuit", "pairs", "groups", "gates"]
    assert first.split() == ["layer", "0", "output", "4", "4", "4", "XOR", "1", "1", "1", "5"]
    assert second.split() == ["layer", "0", "output", "5", "4", "4", "XOR", "1", "1", "1", "4"]
    assert Path(folder) == run / "circuits"
    names = [f"layer-0-output-{output}" for output in (4, 5)]
    assert kept(run) == [f"{name}.{end}" for name in names for end in ("graphml", "json")]
    answer = json.loads(called(capsys, "find", run, "--proposals", 2, "--json"))
    assert [row["name"] for row in answer["proposals"]] == ["layer 0 output 4", "layer 0 output 5"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["find", "RUN", "--behaviour", "irony"], "behaviour 'irony' is neither built in (negatio"),
        (["find", "RUN", "--behaviour", "RUN/none.jsonl"], "none.jsonl cannot be read"),
        (["find", "RUN", "--behaviour", "RUN"], "not a regular file (a folder)"),
        (["find", "RUN", "--behaviour", "negation"], "fewer than two of those for"),
        (["find", "RUN", "--behaviour", "CASES", "--layer", "4"], "no dictionaries of mlp_in and"),
        (
            ["find", "RUN", "--behaviour", "CASES", "--coverage", "2"],
            "must lie between 0 and 1",
        ),
        (["find", "RUN", "--behaviour", "CASES", "--pairs", "0"], "n_pairs = 0. Ask for at least"),
        (
            ["find", "RUN", "--behaviour", "CASES", "--cases", "9"],
            "a number of cases (9) is for bu",
        ),
        (["find", "RUN", "--behaviour", "CASES", "--fresh-words"], "fresh words are for built-in"),
        (["find", "RUN", "--layer", "4"], "no dictionaries of mlp_in and mlp_out for layer 4"),
        (["find", "RUN", "--proposals", "0"], "n = 0. Ask for at least 1"),
        (["find", "RUN/none", "--behaviour", "CASES"], "none: there is no such run. Make one"),
        (
            ["validate", "RUN"],
            "has no circuit of a behaviour. Its model does not know the words of the built-in "
            "behaviours: write cases of your own as JSON lines (text, label, right, wrong; "
            "docs/guide.md describes them under 'Cases of your own'), then: "
            "circuits find RUN --behaviour CASES.jsonl",
        ),
        (["validate", "RUN", "--circuit", "x", "--text", "RUN/text.txt"], "no circuit of a behavi"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, capsys, arguments, said):
    planted_text(run)
    given = [
        a.replace("RUN", str(run)).replace("CASES", str(run / "negated or not.jsonl"))
        for a in arguments
    ]
    assert main([*given, "--device", "cpu"]) == 2
    answer = capsys.readouterr()
    assert answer.err.startswith(f"circuits {arguments[0]}: ")
    assert answer.err.count("\n") == 1
    assert said.replace("RUN", str(run)) in answer.err
    assert answer.out == ""
    assert kept(run) == []


def test_dictionaries_of_another_model_are_refused_by_their_hashes(run, capsys):
    shutil.rmtree(run / "model")
    other = planted_model()
    other.network.lm_head.weight.data[WORDS.index("glad"), 0] = 0.5
    other.save(run / "model")
    arguments = ["find", str(run), "--behaviour", str(run / "negated or not.jsonl")]
    assert main([*arguments, "--device", "cpu"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("circuits find: dictionaries of another model or site: mlp_in@0 was tr")
    assert kept(run) == []


def test_a_circuit_of_another_run_is_refused(run, capsys, tmp_path):
    find(capsys, run)
    path = run / "circuits" / "negated-or-not.json"
    circuit = Circuit.load(path)
    replace(circuit, source=replace(circuit.source, inputs="0" * 64)).save(path)
    assert main(["validate", str(run), "--text", str(planted_text(run)), "--device", "cpu"]) == 2
    assert "is of another run: the hash of its inputs is 000000000000…" in capsys.readouterr().err
    assert kept(run) == NAMES


def test_a_failure_half_way_leaves_nothing_half_written(run, capsys, monkeypatch):
    find(capsys, run)

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(record, "write_json", broken)
    assert main(["validate", str(run), "--text", str(planted_text(run)), "--draws", "1",
                 "--device", "cpu"]) == 2  # fmt: skip
    assert "no space left on device" in capsys.readouterr().err
    assert kept(run) == NAMES


def test_a_circuit_is_exported_at_its_own_layer(tmp_path, capsys):
    write_run(tmp_path / "run", "inherited")
    find(capsys, tmp_path / "run")
    file = tmp_path / "run" / "circuits" / "negated-or-not.json"
    export = ["export", str(file), "--format", "attribution", "--json"]
    assert main(export) == 0
    written = json.loads(capsys.readouterr().out)["file"]
    layers = {node["layer"] for node in json.loads(Path(written).read_text())["nodes"]}
    assert layers == {"1", "2", "3"}  # inputs, pairs, output
    assert main([*export, "--layer", "1"]) == 0
    capsys.readouterr()
    assert main([*export, "--out", str(tmp_path / "run" / "layered")]) == 2
    assert "keeps its own files" in capsys.readouterr().err
    assert main([*export, "--layer", "0"]) == 2
    assert "--layer 0, but " in (said := capsys.readouterr().err)
    assert "is of layer 1. Leave --layer out." in said
    content = json.loads(file.read_text())
    content["source"]["layer"] = None
    file.write_text(json.dumps(content))
    assert main(export) == 2
    assert "names no layer, which this format needs: pass --layer" in capsys.readouterr().err
