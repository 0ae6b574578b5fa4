"""`open_run`: one line for a whole run, and the same refusals as the commands."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import open_run
from analysis.cli.main import main
from analysis.lowrank.curve import RankCurve
from analysis.runs.circuits import run_find, run_validate
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run
from analysis.validation.record import Validation
from circuits import Basis, Circuit
from circuits.corpus import open_corpus
from circuits.errors import CircuitsError, DictionaryError, RunError
from circuits.model import Site
from tests.support import planted_negation as negation


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of the planted model in which every step was made."""
    folder = negation.planted_run(tmp_path_factory.mktemp("opened") / "run")
    run, text = Run(folder, device="cpu"), open_corpus(negation.planted_text(folder.parent))
    run_interactions(run, n=4, reader="encoder")
    run_find(run, negation.planted_behaviour(), coverage=0.9, n_pairs=4)
    run_validate(run, "negation", n_draws=1)
    run_rank(run, corpus=text, reader="encoder", n_documents=60, min_active=5)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_everything_in_a_run_is_an_attribute(made):
    run = open_run(made, device="cpu")
    assert isinstance(run, Run)
    assert run.model.n_layer == 1
    assert list(run.dictionaries) == [Site("mlp_in", 0), Site("mlp_out", 0)]
    assert list(run.circuits) == list(run.validations) == list(run.behaviours) == ["negation"]
    circuit = run.circuits["negation"]
    assert {(p.first, p.second) for p in circuit.interactions} == {
        (negation.NEGATOR, negation.GOOD),
        (negation.NEGATOR, negation.BAD),
    }
    assert run.behaviours["negation"] == negation.planted_behaviour()
    assert run.validations["negation"].n == 32
    assert run.rank(0).about["site"] == "mlp_out@0"
    pd.testing.assert_frame_equal(
        run.strongest(0), pd.read_parquet(made / "interactions" / "layer-0.parquet")
    )
    assert [entry["step"] for entry in run.manifest] == [
        "interactions of layer 0", "circuit negation", "validation of negation",
        "rank of layer 0",
    ]  # fmt: skip
    assert run.images is None


def test_the_interactions_of_a_layer_are_those_of_its_dictionaries(made):
    run = open_run(made, device="cpu")
    inter = run.interactions(0, reader="encoder")
    into, out = (run.dictionaries[Site(point, 0)] for point in ("mlp_in", "mlp_out"))
    assert (inter.n_input, inter.n_output) == (into.n_feature + 1, out.n_feature)  # a constant
    torch.testing.assert_close(inter.outputs.read, out.basis("encoder").read)
    for row in run.strongest(0).head(3).to_dict("records"):
        entries = 1 if row["first"] == row["second"] else 2
        entry = inter.matrix(row["output"])[row["first"], row["second"]]
        assert entries * float(entry) == pytest.approx(row["weight"], abs=1e-6)
    assert run.interactions(0).outputs.reader == "pinv"
    plain = run.interactions(0, outputs=Basis.identity(run.model.d_model))
    assert plain.n_output == run.model.d_model


def test_the_report_is_written_and_written_anew(folder):
    run = open_run(folder, device="cpu", text=open_corpus(negation.planted_text(folder)))
    page = run.report()
    assert page == folder / "report" / "index.html"
    assert "negation" in page.read_text("utf-8")
    shutil.rmtree(folder / "circuits")
    assert run.report() == page
    assert "circuit-negation.html" not in {path.name for path in page.parent.iterdir()}
    assert run.report(folder.parent / "one.html", single_file=True) == folder.parent / "one.html"


def test_nothing_is_loaded_to_show_what_there_is(made, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("loaded to be shown")

    monkeypatch.setattr("analysis.runs.run.load_model", loaded)
    monkeypatch.setattr("analysis.runs.run.load_dictionaries", loaded)
    run = open_run(made)
    assert repr(run).splitlines() == [
        f"Run({made})",
        "  model         model",
        "  dictionaries  mlp_in@0, mlp_out@0",
        "  interactions  layer 0",
        "  circuits      negation",
        "  validations   negation",
        "  traces        none (circuits trace RUN TEXT)",
        "  rank          layer 0",
        "  images        none",
        "  report        none",
    ]
    assert "mlp_in@0, mlp_out@0" in run._repr_html_()
    assert "missing" not in run._repr_html_()
    assert repr(run.circuits) == "1: negation"
    assert run.circuits._ipython_key_completions_() == ["negation"]
    parts = {"model", "dictionaries", "circuits", "validations", "behaviours", "interactions",
             "strongest", "rank", "images", "manifest", "report", "folder"}  # fmt: skip
    assert parts <= set(dir(run))


def test_what_is_missing_is_shown_with_the_command_that_makes_it(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "a model (circuits model train" in repr(open_run(tmp_path / "empty"))
    run = open_run(negation.planted_run(tmp_path / "run"))
    shown = repr(run)
    for command in ("interactions", "find", "rank"):
        assert f"(circuits {command} {tmp_path / 'run'}" in shown
    assert "circuits interactions RUN" in run._repr_html_()
    # its model does not know the words of the stories: seen by its files alone, and loaded
    assert f"(circuits find {tmp_path / 'run'} --behaviour CASES.jsonl)" in shown
    assert f"(circuits rank {tmp_path / 'run'} --text PATH)" in shown
    assert run.missing["low rank"] == "circuits rank RUN --text PATH"
    assert run.missing["circuits of a behaviour"] == "circuits find RUN --behaviour CASES.jsonl"


def test_what_is_missing_is_refused_with_the_command_that_makes_it(tmp_path):
    run = open_run(negation.planted_run(tmp_path / "run"), device="cpu")
    place = tmp_path / "run"
    wanted = {
        "circuits": (lambda: run.circuits["negation"], "find {} --behaviour negation"),
        "cases": (lambda: run.behaviours["negation"], "find {} --behaviour negation"),
        "validation": (lambda: run.validations["negation"], "find {} --behaviour negation"),
        "table": (lambda: run.strongest(0), "interactions {} --layer 0"),
        "curve": (lambda: run.rank(3), "rank {} --layer 3"),
    }
    for ask, command in wanted.values():
        with pytest.raises(RunError) as refused:
            ask()
        assert str(refused.value).endswith(f"Make it: circuits {command.format(place)}")
    with pytest.raises(DictionaryError, match=r"for layer 1 \(there are for \[0\]\)\. Train them"):
        run.interactions(1)
    assert run.circuits.get("negation") is None
    assert "negation" not in run.circuits
    assert len(run.circuits) == 0
    shutil.rmtree(place / "saes")
    with pytest.raises(RunError, match=r"has no folder 'saes'\. Make it: circuits sae train"):
        _ = open_run(place).dictionaries
    shutil.rmtree(place / "model")
    with pytest.raises(RunError, match=r"has no folder 'model'\. Make it: circuits model train"):
        _ = open_run(place).model
    with pytest.raises(RunError, match=r"there is no such run\. Make one: circuits model train"):
        open_run(tmp_path / "none")


@pytest.mark.parametrize(
    "name", ["", "/", "../manifest", "..", "a\0b", "negation.validation", "❓"]
)
def test_hostile_names_are_names_that_are_not_there(made, name):
    run = open_run(made, device="cpu")
    assert name not in run.circuits
    with pytest.raises(RunError, match="has no circuit"):
        run.circuits[name]
    assert run.circuits.get(name, "other") == "other"


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_circuit_is_known_by_its_name_and_by_its_files(folder):
    path = folder / "circuits" / "negation.json"
    content = json.loads(path.read_text())
    (folder / "circuits" / "Ünsafe name!.json").write_text(json.dumps({**content, "name": "other"}))
    run = open_run(folder, device="cpu")
    assert list(run.circuits) == ["negation", "Ünsafe name!"]
    assert run.circuits["Ünsafe name!"].name == "other"
    assert isinstance(run.circuits[" negation "], Circuit)  # which has the same file
    (folder / "circuits" / "<b>\x1b[31m\n.json").write_text(path.read_text())
    assert "\x1b" not in repr(run)
    assert "&lt;b&gt;⟨U+001B⟩" in run._repr_html_()


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_files_of_another_run_are_refused(folder):
    path = folder / "circuits" / "negation.json"
    circuit = path.read_text()
    own = open_run(folder, device="cpu").dictionaries[Site("mlp_in", 0)].fingerprint
    path.write_text(circuit.replace(own, "0" * 64))
    run = open_run(folder, device="cpu")
    for ask in (run.circuits, run.behaviours, run.validations):
        with pytest.raises(CircuitsError, match="of another run: the hash of its inputs"):
            ask["negation"]
    path.write_text(circuit)
    summary = folder / "rank" / "layer-0.json"
    summary.write_text(summary.read_text().replace(run.model.fingerprint, "0" * 64))
    with pytest.raises(RunError, match=r"layer-0 was made with another model than .*circuits rank"):
        run.rank(0)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(own, "0" * 64))
    with pytest.raises(RunError, match=r"made with another mlp_in@0 than .*circuits interactions"):
        run.strongest(0)


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
@pytest.mark.parametrize(("step", "column"), [("interactions", "output"), ("rank", "feature")])
def test_a_table_that_names_features_beyond_the_dictionary_is_refused(folder, step, column):
    path = folder / step / "layer-0.parquet"
    table = pd.read_parquet(path)
    table.assign(**{column: table[column] + 10**6}).to_parquet(path, index=False)
    (folder / "manifest.json").unlink()  # or its bytes are not the step's
    run = open_run(folder, device="cpu")
    with pytest.raises(RunError, match=rf"names features .* \({column}\).*circuits {step}"):
        {"interactions": run.strongest, "rank": run.rank}[step](0)


def test_dictionaries_of_another_model_are_refused(folder):
    shutil.rmtree(folder / "model")
    other = negation.planted_model()
    other.network.lm_head.weight.data[negation.WORDS.index("glad"), 0] = 0.5
    other.save(folder / "model")
    with pytest.raises(DictionaryError, match="dictionaries of another model or site: mlp_in@0"):
        _ = open_run(folder, device="cpu").dictionaries
    for measure in (run_interactions, run_rank):
        with pytest.raises(DictionaryError, match="another model or site: mlp_in@0"):
            measure(Run(folder, device="cpu"))


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_damaged_files_are_refused_as_the_commands_refuse_them(folder, capsys):
    (folder / "circuits" / "negation.json").write_text("{")
    with pytest.raises(CircuitsError) as refused:
        open_run(folder, device="cpu").circuits["negation"]
    assert main(["rank", str(folder), "--circuit", "negation", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"circuits rank: {refused.value}\n"
    table = folder / "interactions" / "layer-0.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(RunError, match=r"layer-0\.parquet is damaged .* circuits interactions"):
        open_run(folder, device="cpu").strongest(0)
    (folder / "rank" / "layer-x.json").write_text("{}")
    run = open_run(folder, device="cpu")
    with pytest.raises(RunError, match=r"layer-x\.json: its name has no layer number"):
        run.rank(0)
    assert "its name has no layer number" in repr(run)
    assert "its name has no layer number" in run._repr_html_()


def test_a_training_that_is_not_finished_is_said_to_be(folder):
    (folder / "saes" / "checkpoint.safetensors").touch()
    with pytest.raises(
        RunError, match=r"its training is not finished\. Let it finish: circuits sae"
    ):
        _ = open_run(folder, device="cpu").dictionaries


def test_values_are_what_python_holds(made):
    run = open_run(made, device="cpu")
    assert isinstance(run.validations["negation"], Validation)
    assert isinstance(run.rank(0), RankCurve)
    assert run.model is run.model
    assert run.dictionaries is run.dictionaries
