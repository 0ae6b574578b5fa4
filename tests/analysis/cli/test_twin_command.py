"""`circuits model twin`: from a gated folder to a run that every other command takes."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from analysis.cli.commands.model import with_label
from circuits.model.identity import TwinLabel
from tests.support.commands import command
from tests.support.small_models import gated_folder, small_corpus, small_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin")
    gated_folder(folder / "gated")
    small_corpus(folder, 200)
    (folder / "plan.json").write_text('{"n_steps": 5, "n_rows": 2, "window": 16}')
    return folder


def twin(place, run, *more):
    words = ("--text", str(place / "texts.txt"), "--plan", str(place / "plan.json"))
    return command(
        "model", "twin", str(place / "gated"), str(run), *words, "--device", "cpu", "--json", *more
    )


def test_a_twin_is_made_described_and_verified(place):
    made = twin(place, place / "run")
    assert made.returncode == 0, made.stderr
    label = json.loads(made.stdout)
    assert label["gap"] == label["loss"] - label["original_loss"]
    info = json.loads(command("model", "info", str(place / "run"), "--json").stdout)
    wanted = {"original_loss", "loss", "removed_loss", "kl", "agreement", "tokens"}
    assert wanted <= set(info["twin"])
    assert info["twin"]["original"] == "gated"
    said = command("model", "info", str(place / "run")).stdout
    assert f"loss           {label['loss']:.4f}\n" in said
    assert "original_loss" not in said
    assert json.loads(twin(place, place / "run").stdout) == label
    assert command("verify", str(place / "run")).returncode == 0
    with (place / "run" / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    again = f"circuits model twin MODEL {place / 'run'} --text PATH --plan FILE"
    assert again in command("verify", str(place / "run")).stdout
    assert again in command("model", "info", str(place / "run" / "model")).stderr
    assert json.loads(twin(place, place / "run").stdout) == label  # made anew
    assert command("verify", str(place / "run")).returncode == 0


def test_in_place_of_a_twin_another_model_is_refused_with_the_command_that_made_the_twin(place):
    run = place / "swapped"
    assert twin(place, run).returncode == 0
    shutil.rmtree(run / "model")
    small_folder(run / "model")
    again = f"circuits model twin MODEL {run} --text PATH --plan FILE"
    for words in (("verify", str(run)), ("model", "info", str(run))):
        done = command(*words)
        assert done.returncode in (1, 2)
        assert again in done.stdout + done.stderr
        assert "model train" not in done.stdout + done.stderr


def test_a_file_of_ones_own_beside_a_twin_is_none_of_the_run_s(place):
    assert twin(place, place / "noted").returncode == 0
    (place / "noted" / "model" / "notes.txt").write_text("mine")
    assert twin(place, place / "noted").returncode == 0  # finished, and noted again
    assert "notes.txt" not in (place / "noted" / "manifest.json").read_text()


def test_a_label_is_explained_and_a_bad_one_is_remarked_on():
    label = TwinLabel(
        "gated", "0", "silu", original_loss=1.0, loss=1.125, removed_loss=3.0, gap_error=0.01,
        kl=0.25, agreement=0.9, mlp_fvu=(0.1, 0.5), n_held_out=4321, tokens=98765, seed=0,
        versions="",
    )  # fmt: skip
    lines = with_label({"folder": "run"}, label).splitlines()
    assert "gap            +0.1250 ± 0.0100" in lines
    assert "mlp fvu        0.1000, 0.5000" in lines
    assert not any("_" in line or line.startswith("note: ") for line in lines)
    explained = " ".join(lines)
    for name in ("loss", "original loss", "gap", "kl", "agreement", "removed loss", "mlp fvu"):
        assert re.search(rf"\b{name}(, original loss)?: ", explained)
    far = replace(label, mlp_fvu=(0.1, 1.5), kl=0.6)
    notes = [line for line in with_label({}, far).splitlines() if line.startswith("note: ")]
    assert "mlp fvu is above 1 in layer 1:" in notes[0]
    assert "more than 25% of what removing the gates costs" in notes[1]


def test_without_text_the_original_writes_it(place, tmp_path):
    plan = str(place / "plan.json")
    words = ("--plan", plan, "--self-written", "100", "--device", "cpu")
    done = command("model", "twin", str(place / "gated"), str(tmp_path / "run"), *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model-self-written.parquet").exists()
    words = ("--plan", plan, "--self-written", "0", "--device", "cpu")
    none = command("model", "twin", str(place / "gated"), str(tmp_path / "none"), *words)
    assert none.returncode == 2
    assert "there is no text to train on" in none.stderr


def test_a_model_that_comes_with_the_package_makes_a_run_in_which_the_other_commands_work(tmp_path):
    run, name = tmp_path / "run", "stories260K-bilinear"
    for _ in range(2):  # what is there already stays
        made = command("model", "ready", name, str(run), "--json")
        assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert answer["layers"] == 5
    assert answer["original"] == "stories260K"
    assert command("verify", str(run)).returncode == 0
    words = ("--layer", "2", "--n", "2", "--documents", "3", "--text", answer["text"])
    done = command("interactions", str(run), *words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    config = run / "model" / "config.json"
    (own := tmp_path / "own" / "model").mkdir(parents=True)
    (own / "config.json").write_text("{}")
    before = config.read_bytes()
    config.write_text("{}")
    assert command("model", "ready", name, str(run)).returncode == 0
    assert config.read_bytes() == before  # it is damaged, and made anew
    done = command("model", "ready", name, str(own.parent))
    assert done.returncode == 2
    assert "its files are other ones than those that come with this package" in done.stderr
    done = command("model", "ready", "stories15M", str(tmp_path / "other"))
    assert done.returncode == 2
    assert f"no model that comes with this package: {name}" in done.stderr
    assert not (tmp_path / "other").exists()
