"""`circuits find` and `validate` with `--across`: what they answer, write, keep and refuse."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import open_run
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.report import report_of
from analysis.runs.circuits import run_find_layered, run_validate_layered
from analysis.runs.folder import RunFolder
from analysis.runs.missing import not_found
from analysis.runs.run import Run
from analysis.runs.verification import verify
from circuits.errors import CircuitsError, MarkWarning, RunError
from circuits.storage.manifest import read_manifest
from tests.support.commands import Done, command
from tests.support.planted_negation import planted_behaviour, planted_run, wide_behaviour

NAMES = ["negation.behaviour.jsonl", "negation.json", "negation.validation.json"]


def find(run: Path, *more: str) -> Done:
    given = ("find", str(run), "--behaviour", str(run.parent / "negation.jsonl"), "--across")
    return command(*given, "--device", "cpu", *more)


def validate(run: Path, *more: str) -> Done:
    return command("validate", str(run), "--across", "--draws", "5", "--device", "cpu", *more)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Done, Done]:
    """A run of two layers, its circuit found and validated, and what was answered."""
    folder = tmp_path_factory.mktemp("across")
    wide_behaviour().save(folder / "negation.jsonl")
    planted_run(folder / "run", "moved", both=True)
    return folder / "run", find(folder / "run"), validate(folder / "run")


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of it."""
    shutil.copy(made[0].parent / "negation.jsonl", tmp_path)
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def whole(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*(run / "layered").iterdir(),
                                                      run / "manifest.json"]}  # fmt: skip


def test_the_answer_says_which_layers_what_depends_on_them_and_by_which_heads(made):
    run, found, _ = made
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    fed = lines.pop(5)  # the strongest of several that are alike
    assert fed.startswith(
        "Of what layer 1's pairs add, layer 0's pairs wrote 50 % (each product counts half for "
        "either feature). The strongest link, 12 %, runs from feature 0 (negated) "
    )
    assert lines[:7] == [
        "negation: found in layers 0 and 1",
        "Layer 0: 100 % of the contrast depends on its MLP, and 4 pairs carry 100 % of that; "
        "computed in this MLP (computed 1.00, inherited 0.00).",
        "Layer 1: 100 % of the contrast depends on its MLP, and 4 pairs carry 100 % of that; "
        "inherited from attention or earlier layers, and only read here (computed 0.00, inherited "
        "1.00).",
        "Of what layer 0's pairs add to the contrast, 100 % passes through head 1.0; 2 other ways, "
        "at most 0 %.",
        "Of what layer 1's pairs add to the contrast, 100 % passes through no head; 1 other way, "
        "at most 0 %.",
        "No head makes 10 % of the contrast by looking elsewhere in one class than in another; "
        "head 0.0 makes most, 0 %.",
        "A layer's share is what is gone with its MLP's output at its mean over the classes, norms "
        "dividing as they did. A later layer passes on what an earlier one wrote, so shares "
        "overlap. Chosen on n = 64 cases; held-out half: other pairs.",
    ]
    assert lines[-1] == f"{run}/layered/negation.json"


def test_the_validation_has_frozen_and_free_side_by_side(made):
    _, _, proven = made
    assert proven.returncode == 0, proven.stderr
    assert "negation, across layers: causal; not beyond random pairs: " in proven.stdout
    assert "(without its pairs other classes change by up to 100 %)\n" in proven.stdout
    lines = proven.stdout.splitlines()
    heads = [
        re.split("  +", line.strip()) for line in lines if line.strip()[:4] in ("edit", "rand")
    ]
    assert heads == [
        ["edit", "pairs", "cases", "removed, free", "removed, frozen", "side effect, free",
         "side effect, frozen"],
        ["random pairs", "draws", "distinct", "pairs", "size", "median, free", "range, free",
         "median, frozen", "range, frozen"],
    ]  # fmt: skip
    (removed,) = (line.split() for line in lines if "remove the circuit  " in line)
    assert removed[3:9] == ["8", "64", "100", "%", "100", "%"]
    assert "each of 8 pairs alone does\nwhat its weights predict" in proven.stdout


def test_json_has_all_of_it(run):
    found = json.loads(find(run, "--json").stdout)
    assert (found["found"], found["replaced"]) == (
        True, "negation was found before, and is the same; its validation is kept",
    )  # fmt: skip
    assert [(row["layer"], row["pairs"]) for row in found["layers"]] == [(0, 4), (1, 4)]
    assert {row["way"] for row in found["ways"]} == {
        "1.0", "no head", "where heads look", "what norms divide by",
    }  # fmt: skip
    assert [(row["layer"], row["head"], row["score"]) for row in found["looks"]] == [
        (0, 0, None), (1, 0, None),
    ]  # fmt: skip
    assert [len(stage["interactions"]) for stage in found["stages"]] == [4, 4]
    (proven,) = json.loads(validate(run, "--json").stdout)["validations"]
    assert proven["claims"] == {"causal": True, "beyond random pairs": False}
    assert proven["behaviour"] == "negation"
    assert {"frozen", "free", "predicted", "measured"} <= proven["edits"][1].keys()
    assert proven["off_by"] < 1e-4
    assert {"criteria", "strata", "random", "n", "seed"} <= proven.keys()


def test_what_the_limit_leaves_out_is_said_in_the_answer_in_json_and_on_the_page(run):
    """Three pairs of each layer carry both affected classes and not the others."""
    missing = "stopped at the limit of 3 pairs; in the worst stratum (class: "
    assert find(run, "--pairs", "3").stdout.count(missing) == 2
    again = json.loads(find(run, "--pairs", "1", "--json").stdout)
    assert [(row["layer"], row["at_limit"]) for row in again["chosen"]] == [(1, True)]
    assert [row["layer"] for row in again["layers"]] == [1]
    (left,) = again["left_out"]
    assert (left["layer"], left["n_pairs"]) == (0, 1)
    assert (left["depends"], left["carried"]) == pytest.approx((1, 0), abs=1e-5)
    pages = report_of(Run(run, device="cpu").checked()).pages
    (page,) = (page for page in pages if page.name == "layered-negation")
    said = "Layer 0 is not in the circuit: 100 % of the contrast depends on its MLP, but the best"
    assert any(sentence.startswith(said) for sentence in page.context["sentences"])
    shares = next(table for table in page.tables if table.key == "shares")
    assert {"made later", "within classes", "missing in the worst stratum"} <= set(shares.columns)


def test_a_run_has_it_by_name_with_its_cases_and_its_validation(made):
    run = open_run(made[0], device="cpu")
    assert list(run.layered) == list(run.layered_behaviours) == ["negation"]
    assert list(run.layered_validations) == ["negation"]
    circuit = run.layered["negation"]
    assert circuit.layers == (0, 1)
    assert circuit.stages == LayeredCircuit.load(made[0] / "layered" / "negation.json").stages
    assert run.layered_behaviours["negation"].cases == wide_behaviour().cases
    assert run.layered_validations["negation"].claims == {
        "causal": True, "beyond random pairs": False,
    }  # fmt: skip
    assert "across layers negation (validated)" in repr(run)
    assert "negation (validated)" in run._repr_html_()
    assert len(run.circuits) == 0
    with pytest.raises(RunError, match=r"has no circuit through several layers 'x' .*--across, or"):
        run.layered["x"]


def test_its_page_lists_what_earlier_pairs_feed_later_ones(made):
    run = Run(made[0], device="cpu").checked()
    page = next(page for page in report_of(run).pages if page.name == "layered-negation")
    table = next(table for table in page.tables if table.key == "links")
    circuit = run.layered["negation"]
    assert table.columns == ["pair", "feeds", "logits", "share of what the later pairs add"]
    assert len(table.rows) == len(circuit.links) == 16
    assert {row[0] for row in table.rows} | {row[1] for row in table.rows} == set(
        circuit.pair_labels.values()
    )


def test_a_features_card_links_to_it_from_each_stage_as_input_and_as_output(made):
    run = Run(made[0], device="cpu").checked()
    data, circuit = report_of(run).data, run.layered["negation"]
    for layer in (0, 1):
        stage = circuit.stage(layer)
        for point, used, role in (
            ("mlp_in", stage.features, "input"),
            ("mlp_out", stage.outputs, "output"),
        ):
            cards, numbers = data[f"features-{point}-{layer}-0"], {one.feature for one in used}
            assert numbers
            link = ["layered-negation", "negation, across layers", role]
            assert {n for n, card in enumerate(cards) if link in card["circuits"]} == numbers


def test_a_run_without_one_says_how_to_find_it(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "run", ignore=shutil.ignore_patterns("layered"))
    run = open_run(folder, device="cpu")
    assert "none (circuits find RUN --behaviour NAME --across)" in repr(run)
    with pytest.raises(RunError, match="has no circuit across layers"):
        raise RunError(validate(folder).stderr)
    one = open_run(planted_run(tmp_path / "one"), device="cpu")
    assert "across layers" not in repr(one)


def test_the_manifest_knows_its_files_and_verify_the_commands(run):
    steps = {entry["step"]: sorted(entry["made"]) for entry in read_manifest(run)}
    assert steps == {
        "layered circuit negation": [f"layered/{name}" for name in NAMES[:2]],
        "layered validation of negation": [f"layered/{NAMES[2]}"],
    }
    for name in NAMES:
        (run / "layered" / name).unlink()
    (run / "layered" / "mine.json").write_text("{}")
    table = verify(run)
    circuit = f"circuits find {run} --behaviour negation --across"
    assert {
        file.removeprefix("layered/"): again
        for file, again in zip(table["file"], table["command"], strict=True)
    } == {
        NAMES[0]: circuit,
        NAMES[1]: circuit,
        NAMES[2]: f"circuits validate {run} --circuit negation --across",
        "mine.json": "",
    }


def test_an_edited_file_is_marked(run):
    path = run / "layered" / "negation.json"
    content = json.loads(path.read_text())
    content["ways"]["share"][0] = 0.5
    path.write_text(json.dumps(content))
    with pytest.warns(MarkWarning, match="edited after the step 'layered circuit negation'"):
        opened = Run(run, device="cpu").checked()
    assert "layered/negation.json" in opened.marks
    assert f"note: {path}: edited after the step" in validate(run).stdout


def test_what_is_of_another_model_or_other_dictionaries_is_refused(made, tmp_path):
    other = planted_run(tmp_path / "other", "inherited", both=True)
    shutil.copytree(made[0] / "layered", other / "layered")
    with pytest.warns(MarkWarning), pytest.raises(
        CircuitsError,
        match=r"negation\.json is of another run: the hash of its model.* --behaviour negation "
        "--across",
    ):  # fmt: skip
        Run(other, device="cpu").layered["negation"]


def test_files_that_do_not_belong_together_are_refused(run):
    opened = Run(run, device="cpu")
    proof = run / "layered" / "negation.validation.json"
    content = json.loads(proof.read_text())
    content["edits"]["target"] = [
        target.replace(" in layer 1", " in layer 0") for target in content["edits"]["target"]
    ]
    proof.write_text(json.dumps(content))
    with pytest.warns(MarkWarning), pytest.raises(
        RunError,
        match=r"do not belong together: its validation is of other pairs .*validate .* --across",
    ):  # fmt: skip
        opened.layered_validations["negation"]


def test_the_same_circuit_keeps_its_validation_and_another_does_not(run):
    before = whole(run)
    assert "is the same; its validation is kept" in find(run).stdout
    assert whole(run) == before
    said = find(run, "--coverage", "0.8").stdout
    assert "replaces negation; its validation no longer fits and was removed" in said
    assert sorted(path.name for path in (run / "layered").iterdir()) == NAMES[:2]
    assert "not made yet: validation of negation across layers" in repr(Run(run))


def test_a_validation_that_no_step_made_is_never_removed(run):
    entries = json.loads((run / "manifest.json").read_text())
    kept = [entry for entry in entries if "validation" not in entry["step"]]
    (run / "manifest.json").write_text(json.dumps(kept))
    before = whole(run)
    done = find(run, "--coverage", "0.8")
    assert done.returncode == 2
    assert "no step of this run made it, so it would be lost" in done.stderr
    assert whole(run) == before


def test_where_nothing_is_found_what_was_there_is_kept(run):
    cases = wide_behaviour().cases
    wrong = tuple(replace(case, right=case.wrong, wrong=case.right) for case in cases)
    replace(wide_behaviour(), cases=wrong).save(run.parent / "negation.jsonl")
    before = whole(run)
    done = find(run)
    assert done.returncode == 0
    assert "not found: the model does not show this behaviour" in done.stdout
    assert f"found before is kept: {run}/layered/negation.json" in done.stdout
    assert whole(run) == before


def test_a_search_that_finds_nothing_is_noted_until_one_finds_something(run):
    def searches() -> list[str]:
        steps = [each["step"] for each in read_manifest(run)]
        return [step for step in steps if "search" in step]

    shutil.rmtree(run / "layered")
    cases, right = wide_behaviour().cases, (run.parent / "negation.jsonl").read_bytes()
    wrong = tuple(replace(case, right=case.wrong, wrong=case.right) for case in cases)
    replace(wide_behaviour(), cases=wrong).save(run.parent / "negation.jsonl")
    assert "not found" in find(run).stdout
    assert searches() == ["layered search for negation"]
    assert [one.why[:9] for one in not_found(RunFolder(run))] == ["not found"]
    assert not_found(RunFolder(run), {"model": "another"}) == []
    (run.parent / "negation.jsonl").write_bytes(right)
    assert find(run).returncode == 0
    assert searches() == []


def test_a_run_with_a_circuit_across_layers_does_not_lack_circuits(run):
    opened = Run(run, device="cpu")
    assert "circuits of a behaviour" not in opened.missing
    overview = next(page for page in report_of(opened).pages if page.name == "index")
    assert "circuits of a behaviour" not in overview.context["missing"]


def test_one_asked_for_among_those_of_one_layer_is_pointed_to(run):
    opened = Run(run, device="cpu")
    for one, several in (
        (opened.circuits, "layered"),
        (opened.behaviours, "layered_behaviours"),
        (opened.validations, "layered_validations"),
    ):
        with pytest.raises(KeyError, match=rf"of several layers: run\.{several}\['negation'\]"):
            _ = one["negation"]
    (run / "layered").rename(run / "circuits")
    with pytest.raises(KeyError, match=r"of one layer: run\.circuits\['negation'\] in Python"):
        _ = opened.layered["negation"]
    with pytest.raises(KeyError, match=r"--behaviour negation"):
        _ = opened.layered["other"]


def test_without_across_a_circuit_across_layers_is_refused_with_the_option(run):
    done = command("validate", str(run), "--circuit", "negation", "--device", "cpu")
    assert done.returncode == 2
    assert "negation is one through several layers. To test it, add --across." in done.stderr


def test_no_two_names_share_a_file(run):
    opened = Run(run, device="cpu")
    before = whole(run)
    for name in ("Negation", "negation "):
        with pytest.raises(RunError, match="Rename the behaviour, or remove the file"):
            run_find_layered(opened, planted_behaviour(name=name))
    assert whole(run) == before
    run_find_layered(opened, planted_behaviour(name="negation.validation"))
    run_validate_layered(opened, "negation.validation", n_draws=1)
    assert sorted(opened.layered) == ["negation", "negation-validation"]


WITH_BEHAVIOUR = ("--behaviour", "x.jsonl")
REFUSED = {
    "a layer": (("find", *WITH_BEHAVIOUR, "--layer", "0"), "--across is for all layers and --la"),
    "proposals": (("find", "--proposals", "3"), "--across is for all layers and --proposals 3"),
    "no behaviour": (("find",), "follows the contrast of a behaviour, and none was given"),
    "a text": (("validate", "--text", "x"), "--text x is for circuits of one layer"),
    "an original": (("validate", "--original", "x"), "--original x is for circuits of one layer"),
    "a stranger": (("validate", "--circuit", "no"), "has no circuit across layers 'no'. Name one"),
}


@pytest.mark.parametrize(("given", "why"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_with_it_is_refused_in_one_line(made, given, why):
    name, *more = given
    done = command(name, str(made[0]), "--across", "--device", "cpu", *more)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("computed", "its model has one layer, so no circuit goes across layers"),
        ("moved", "only in layer 1, and a circuit across layers needs those of two. Train them"),
    ],
)
def test_a_run_of_one_layer_is_told_so(tmp_path, kind, why):
    wide_behaviour().save(tmp_path / "negation.jsonl")
    run = planted_run(tmp_path / "run", kind)
    for done in (find(run), validate(run)):
        assert done.returncode == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_circuit_of_one_layer_and_one_across_have_the_same_name_and_each_its_files(run):
    given = ("--behaviour", str(run.parent / "negation.jsonl"), "--device", "cpu")
    assert command("find", str(run), *given).returncode == 0
    opened = Run(run, device="cpu")
    assert list(opened.circuits) == list(opened.layered) == ["negation"]
    pd.testing.assert_frame_equal(
        opened.layered["negation"].ways,
        LayeredCircuit.load(run / "layered" / "negation.json").ways,
    )
