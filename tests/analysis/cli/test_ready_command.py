"""`circuits model ready`: the user's files stay the user's, and what is damaged is made anew; a
folder that lies in a run is known by the run, also where it is named by itself."""

import hashlib
import json

import pandas as pd
import pytest
from safetensors import safe_open

from analysis.cli.main import main

NAME = "stories260K-bilinear"


@pytest.fixture
def run(tmp_path, capsys):
    assert main(["model", "ready", NAME, str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def weight_names(path):
    with safe_open(path, "pt") as file:
        return list(file.keys())


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 64
    path.write_bytes(content)


def test_what_the_user_put_beside_a_ready_model_is_not_of_the_run(run):
    before = (run / "manifest.json").read_bytes()
    (run / "model" / "plots").mkdir()
    (run / "model" / "notes.txt").write_text("mine")
    (run / "saes" / "notes.txt").write_text("mine")
    (run / "saes" / "other").mkdir()
    assert main(["model", "ready", NAME, str(run)]) == 0
    assert (run / "manifest.json").read_bytes() == before
    assert (run / "saes" / "notes.txt").read_text() == "mine"


def test_damaged_files_name_the_command_that_makes_them_anew(run, capsys):
    files = [run / "model" / "model.safetensors",
             run / "saes" / "blocks.0.hook_mlp_out" / "stats.safetensors"]  # fmt: skip
    was = [file.read_bytes() for file in files]
    for file in files:
        flipped(file)
    again = f"circuits model ready {NAME} {run}"
    assert main(["model", "info", str(run)]) == 2
    assert again in capsys.readouterr().err
    assert main(["verify", str(run), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["files"]
    assert {row["command"] for row in rows if row["state"] != "as it was made"} == {again}
    assert main(again.split()[1:]) == 0
    assert [file.read_bytes() for file in files] == was
    assert main(["verify", str(run)]) == 0


def test_a_folder_in_a_run_is_refused_or_marked_by_its_own_path_too(run, capsys):
    flipped(run / "saes" / "blocks.0.hook_mlp_out" / "stats.safetensors")
    for place in ("saes", "saes/blocks.0.hook_mlp_out"):
        assert main(["sae", "info", str(run / place)]) == 2
        assert "is damaged or another file" in capsys.readouterr().err
    label = run / "model" / "twin.json"
    label.write_text(json.dumps(json.loads(label.read_text()) | {"loss": 1.5}))
    assert main(["model", "info", str(run / "model")]) == 0
    assert "edited after the step 'model' made it" in capsys.readouterr().out
    flipped(run / "model" / "model.safetensors")
    assert main(["model", "info", str(run / "model")]) == 2
    assert "is damaged or another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed",
    [
        {"agreement": 40.0},
        {"n_held_out": -3},
        {"loss": -1e300},
        {"seed": 10**400, "tokens": 10**400},
        {"mlp_fvu": [0.5] * 3},
        {"kl": -1.0},
    ],
)
def test_a_label_with_numbers_that_nothing_measures_is_refused(run, capsys, changed):
    label = run / "model" / "twin.json"
    label.write_text(json.dumps(json.loads(label.read_text()) | changed))
    assert main(["model", "info", str(run)]) == 2
    assert "not the label of a twin" in capsys.readouterr().err


def test_a_label_without_its_weights_is_refused_in_our_words(run, capsys):
    shard = "model-00001-of-00001.safetensors"
    (run / "model" / "model.safetensors").rename(run / "model" / shard)
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(weight_names(run / "model" / shard), shard),
    }
    (run / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    (run / "manifest.json").unlink()
    assert main(["model", "info", str(run / "model")]) == 2
    assert "the label of other weights" in capsys.readouterr().err


def test_half_a_character_is_refused_and_a_terminal_is_not_commanded(run, capsys):
    for asked in (["generate", str(run), "\udcff x"],):
        assert main(["model", *asked, "--tokens", "1"]) == 2
        assert "half of a character" in capsys.readouterr().err
    label = run / "model" / "twin.json"
    known = json.loads(label.read_text())
    label.write_text(json.dumps(known | {"original": "\x1b[2J\u202ex"}))
    assert main(["model", "info", str(run)]) == 0
    assert "⟨U+001B⟩[2J⟨U+202E⟩x" in capsys.readouterr().out
    label.write_text(json.dumps(known | {"original": "\ud800"}))
    assert main(["model", "info", str(run)]) == 2
    assert "is not text" in capsys.readouterr().err


def test_what_the_user_changed_is_kept_aside_and_what_is_damaged_is_not(run, capsys):
    text, config = run / "text" / "stories.parquet", run / "model" / "config.json"
    was = {text: text.read_bytes(), config: config.read_bytes()}
    mine = pd.DataFrame({"text": ["my own"]})
    mine.to_parquet(text)
    config.write_text("{")
    assert main(["model", "ready", NAME, str(run)]) == 0
    aside = text.with_name("stories.parquet.changed-1")
    assert capsys.readouterr().err == (
        f"{text} was changed since it was written, and is made anew: kept as {aside}\n"
    )
    pd.testing.assert_frame_equal(pd.read_parquet(aside), mine)
    assert {path: path.read_bytes() for path in was} == was
    assert [path.name for path in run.rglob("*.changed-*")] == [aside.name]
    mine.to_parquet(text)
    assert main(["model", "ready", NAME, str(run)]) == 0
    assert aside.with_name("stories.parquet.changed-2").is_file()


def test_what_an_earlier_version_brought_is_replaced_by_the_file_of_this_one(run, capsys):
    text, manifest = run / "text" / "stories.parquet", run / "manifest.json"
    was = text.read_bytes()
    pd.DataFrame({"text": ["of an earlier version"]}).to_parquet(text)
    noted = manifest.read_text().replace(
        hashlib.sha256(was).hexdigest(), hashlib.sha256(text.read_bytes()).hexdigest()
    )
    manifest.write_text(noted)
    assert main(["model", "ready", NAME, str(run)]) == 0
    assert capsys.readouterr().err == ""
    assert text.read_bytes() == was
    assert not list(run.rglob("*.changed-*"))
