"""`circuits sae` trains, describes and measures, and says in one line what is wrong."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from analysis.cli.main import main
from circuits.corpus import built_in
from circuits.model import ModelPlan, ModelShape, train_model
from circuits.storage.manifest import read_manifest
from sae.training.run import DictionaryTraining

TRAIN = ("--features", "40", "--k", "4", "--tokens", "6000", "--device", "cpu")
SITES = ("--sites", "resid_mid@0", "mlp_out@1")


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps({"n_batch": 256, "n_buffer": 1000}))
    return str(path)


@pytest.fixture
def run(tmp_path):
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    plan = ModelPlan(shape, n_steps=5, n_rows=8)
    train_model(plan, built_in(1, 400), tmp_path / "run" / "model", device="cpu")
    return str(tmp_path / "run")


def test_training_telling_and_measuring(run, plan_file, capsys):
    assert main(["sae", "train", run, *SITES, *TRAIN, "--plan", plan_file, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = answer["dictionaries"]
    assert [row["site"] for row in rows] == ["resid_mid@0", "mlp_out@1"]
    assert all(row["features"] == 40 and row["steps"] == 24 for row in rows)
    steps = {entry["step"]: entry for entry in read_manifest(run)}
    assert set(steps) == {"saes/blocks.0.hook_resid_mid", "saes/blocks.1.hook_mlp_out"}
    made = steps["saes/blocks.1.hook_mlp_out"]["made"]
    assert "saes/blocks.1.hook_mlp_out/sae_weights.safetensors" in made

    assert main(["sae", "info", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    assert main(["sae", "info", f"{run}/saes/blocks.1.hook_mlp_out"]) == 0
    assert "mlp_out@1" in capsys.readouterr().out

    quality = ["sae", "quality", run, "--documents", "40", "--device", "cpu"]
    assert main([*quality, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert set(rows) == {"resid_mid@0", "mlp_out@1"}
    assert rows["mlp_out@1"]["l0"] == pytest.approx(4, abs=0.1)
    assert main(quality) == 0
    table, note = capsys.readouterr().out.split("\n\n", 1)
    assert "pinv_active" in table
    for name in ("fvu", "l0", "dead", "dense", "added", "recovered", "pinv_on_active",
                 "pinv_largest", "pinv_exact", "pinv_active"):  # fmt: skip
        assert name in note


def test_what_is_wrong_is_one_line_and_exit_2(run, plan_file, capsys, tmp_path):
    def refused(*arguments: str) -> str:
        assert main(["sae", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("circuits sae: ")
        assert said.count("\n") == 1
        return said

    assert "has no layer 9" in refused("train", run, "--sites", "mlp_in@9")
    assert "'mlp' is not a point of a layer" in refused("train", run, "--sites", "mlp@0")
    assert "k is 50, more than the 40 features" in refused(
        "train", run, "--features", "40", "--k", "50"
    )
    assert "no such file" in refused("train", run, "--plan", str(tmp_path / "no.json"))
    assert "no dictionaries in it" in refused("info", run)
    assert "there is no such run" in refused("quality", str(tmp_path / "nowhere"))
    assert not (tmp_path / "run" / "saes").exists()


def test_what_is_there_is_refused_with_what_the_command_can_do_about_it(run, plan_file, capsys):
    """Its folders are named after their sites, so no new one can be asked for."""
    place = Path(run) / "saes" / "blocks.0.hook_resid_mid"
    place.mkdir(parents=True)
    (place / "cfg.json").write_text("{}")
    command = ["sae", "train", run, "--sites", "resid_mid@0", *TRAIN, "--plan", plan_file]
    assert main(command) == 2
    assert (
        f"{place}: exists already and is not a training run (it has no plan.json). Move or remove "
        f"it, or leave its site out (--sites), or train in another run."
    ) in capsys.readouterr().err
    shutil.rmtree(place)
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--seed", "3"]) == 2
    assert (
        f"Give the same options and text as then to resume or reuse that run, or remove {place}, "
        f"or leave its site out (--sites), or train in another run."
    ) in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "quality"])
def test_a_text_that_the_tokenizer_cannot_spell_is_refused(verb, run, plan_file, capsys, tmp_path):
    command = ["sae", "train", run, "--sites", "resid_mid@0", *TRAIN, "--plan", plan_file]
    assert main(command) == 0
    (tmp_path / "texts.txt").write_text("\n\n".join(["从前 有 一个 小女孩"] * 99), encoding="utf-8")
    command = command if verb == "train" else ["sae", "quality", run, "--device", "cpu"]
    assert main([*command, "--text", str(tmp_path / "texts.txt")]) == 2
    said = capsys.readouterr().err
    assert "of this text 100% of the tokens are unknown to its tokenizer" in said
    assert said.count("\n") == 1


def test_ctrl_c_saves_and_the_same_command_goes_on(run, plan_file, capsys, monkeypatch):
    learn = DictionaryTraining.learn

    def interrupted(self, *given):
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self, *given)

    command = ["sae", "train", run, *SITES, *TRAIN, "--plan", plan_file]
    monkeypatch.setattr(DictionaryTraining, "learn", interrupted)
    assert main(command) == 130
    said = capsys.readouterr().err
    assert "saved; run the same command to resume" in said
    assert "interrupted" in said
    monkeypatch.setattr(DictionaryTraining, "learn", learn)
    assert main(command) == 0
    assert "fvu" in capsys.readouterr().out


def test_stories_are_no_text_for_a_model_of_other_words(tmp_path, capsys):
    from tests.support.small_models import small_folder

    small_folder(tmp_path / "run" / "model")
    assert main(["sae", "train", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "does not know the words of the built-in stories" in capsys.readouterr().err


def test_metrics_go_where_they_are_asked_to(run, plan_file, monkeypatch, capsys):
    import sys
    from types import SimpleNamespace

    answer = []
    begun = SimpleNamespace(log=lambda row, step: answer.append(row))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: begun))
    command = ["sae", "train", run, *SITES, *TRAIN, "--plan", plan_file, "--log", "wandb"]
    assert main(command) == 0
    assert len(answer) == 2 * 24
    assert "mlp_out@1/fvu" in answer[-1]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*command[:-1], "tensorboard"]) == 2
    assert "tensorboard is not installed" in capsys.readouterr().err


def test_transcoders_are_trained_described_and_measured_beside_the_layer(run, plan_file, capsys):
    sites = ["--sites", "mlp_in@0", "mlp_out@0"]
    assert main(["sae", "train", run, *sites, *TRAIN, "--plan", plan_file]) == 0
    transcode = ["sae", "train", run, "--sites", "mlp_in@0", "--target", "mlp_out"]
    capsys.readouterr()
    assert main([*transcode, *TRAIN, "--plan", plan_file, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["dictionaries"]
    assert (row["site"], row["target"], row["steps"]) == ("mlp_in@0", "mlp_out@0", 24)
    assert row["folder"] == f"{run}/transcoders/blocks.0.mlp.hook_in"
    steps = {entry["step"] for entry in read_manifest(run)}
    assert "transcoders/blocks.0.mlp.hook_in" in steps

    assert main(["sae", "info", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dictionaries"][-1] == row

    quality = ["sae", "quality", run, "--documents", "20", "--device", "cpu"]
    assert main([*quality, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert set(rows) == {"mlp_in@0", "mlp_out@0", "mlp_in@0 to mlp_out@0"}
    beside = rows["mlp_in@0 to mlp_out@0"]["beside"]
    assert beside["transcoder"]["fvu"] == pytest.approx(rows["mlp_in@0 to mlp_out@0"]["fvu"])
    assert main(quality) == 0
    said = capsys.readouterr().out
    assert "pairs, exact" in said
    assert "Which pairs make a feature active is not in it" in said


def test_target_alone_reads_the_first_layers_mlp(run, capsys):
    few = ["--tokens", "2048", "--features", "20", "--k", "2"]
    assert main(["sae", "train", run, "--target", "resid_post", *few, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["dictionaries"]
    assert (row["site"], row["target"]) == ("mlp_in@0", "resid_post@0")
    # a run of transcoders alone is measured without autoencoders
    assert main(["sae", "quality", run, "--documents", "9", "--device", "cpu", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"mlp_in@0 to resid_post@0"}
    assert main(["sae", "train", run, "--target", "resid_pre", *few]) == 2
    assert "target resid_pre is not computed after mlp_in@0" in capsys.readouterr().err


def test_metrics_that_were_edited_are_shown_with_a_mark(run, plan_file, capsys):
    assert main(["sae", "train", run, *SITES, *TRAIN, "--plan", plan_file]) == 0
    assert "note:" not in capsys.readouterr().out
    folder = Path(run) / "saes" / "blocks.1.hook_mlp_out"
    metrics, result = folder / "metrics.jsonl", folder / "training.json"
    metrics.write_text(metrics.read_text() + '{"step": 24, "fvu": 0.01}\n')
    assert main(["sae", "info", run]) == 0
    said = capsys.readouterr().out
    assert f"note: {metrics}: edited after its training: its numbers may not be those mea" in said
    assert main(["sae", "info", run, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first, second = answer["dictionaries"]
    assert "marks" not in first
    assert answer["marks"] == second["marks"]
    assert (second["fvu"], len(second["marks"])) == (0.01, 1)
    assert second["marks"][0].startswith(f"{metrics}: edited after")

    known = json.loads(result.read_text())
    del known["metrics_sha256"]  # of an older version
    result.write_text(json.dumps(known))
    assert main(["sae", "info", str(folder)]) == 0
    assert f"note: {metrics}: its training did not note its hash" in capsys.readouterr().out
    result.unlink()
    (folder / "plan.json").unlink()
    assert main(["sae", "info", str(folder)]) == 0
    assert f"note: {metrics}: no training.json is beside it" in capsys.readouterr().out


def test_transcoders_read_mlp_in_unless_sites_are_named(run, plan_file, capsys):
    in_plan = json.loads(Path(plan_file).read_text()) | {"target": "mlp_out"}
    (Path(run) / "with-target.json").write_text(json.dumps(in_plan))
    train, target = ["sae", "train", run, *TRAIN, "--json"], ["--target", "mlp_out"]
    for extra in (target, [*target, "--plan", plan_file], ["--plan", f"{run}/with-target.json"]):
        assert main([*train, *extra]) == 0, capsys.readouterr().err
        (row,) = json.loads(capsys.readouterr().out)["dictionaries"]
        assert (row["site"], row["target"]) == ("mlp_in@0", "mlp_out@0")
        shutil.rmtree(f"{run}/transcoders")
