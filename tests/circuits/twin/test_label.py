"""A twin's label is of the whole model that was measured: weights, configuration, tokenizer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.cli.main import main
from analysis.runs.training import run_brought, run_ready
from circuits.errors import MarkWarning, ModelError, RunError
from circuits.model import load_model
from circuits.model.loading import ready_folder

NAME = "stories260K-bilinear"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(ready_folder(NAME) / "model", tmp_path / "model"))


def edited(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def exchanged(folder: Path) -> None:
    """Two tokens that stand for each other's number."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = [word for word in vocab if word.isalpha()][:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))


EDITS = {
    "the norm's epsilon": lambda folder: edited(folder / "config.json", rms_norm_eps=0.5),
    "the rotary angles": lambda folder: edited(
        folder / "config.json", rope_parameters={"rope_theta": 500.0, "rope_type": "default"}
    ),
    "two tokens": exchanged,
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_label_beside_a_changed_model_is_refused(name, folder):
    EDITS[name](folder)
    with pytest.raises(ModelError, match=r"twin\.json: the label of another model than the one"):
        load_model(folder, device="cpu")
    (folder / "twin.json").unlink()
    assert load_model(folder, device="cpu").label is None


def test_with_another_tokenizer_a_twin_has_no_label(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    assert load_model(folder, tokenizer=other, device="cpu").label is not None
    exchanged(other)
    with pytest.warns(MarkWarning, match="this is another model, so its label is left out"):
        model = load_model(folder, tokenizer=other, device="cpu")
    assert model.label is None


def test_a_label_is_not_saved_with_another_tokenizer(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    exchanged(other)
    (other / "twin.json").unlink()
    words = load_model(other, device="cpu").tokenizer
    changed = replace(load_model(folder, device="cpu"), tokenizer=words)
    assert load_model(changed.save(tmp_path / "saved"), device="cpu").label is None


def test_an_earlier_label_is_compared_by_its_weights(folder, tmp_path):
    label = json.loads((folder / "twin.json").read_text())
    label.pop("fingerprint", None)
    (folder / "twin.json").write_text(json.dumps(label))
    model = load_model(folder, device="cpu")
    assert model.label.fingerprint is None
    assert load_model(model.save(tmp_path / "copy"), device="cpu").label == model.label


def test_the_label_of_the_ready_model_is_of_it():
    model = load_model(NAME, device="cpu")
    assert model.label.fingerprint == model.fingerprint


@pytest.fixture
def run(tmp_path) -> Path:
    run_ready(tmp_path / "run", NAME)
    edited(tmp_path / "run" / "model" / "twin.json", loss=0.1, kl=0.0)
    return tmp_path / "run"


def test_a_label_that_was_edited_in_its_run_is_not_copied_to_another(run, tmp_path):
    with pytest.warns(MarkWarning, match="edited after the step 'model' made it"):
        model = run_brought(tmp_path / "new", run / "model", "cpu")
    assert model.label.loss == 0.1
    assert load_model(tmp_path / "new" / "model", device="cpu").label is None


@pytest.mark.parametrize("origin", [NAME, "run/model"])
@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_label_that_was_edited_is_not_noted_as_the_run_s(origin, run, tmp_path):
    before = (run / "manifest.json").read_bytes()
    with pytest.raises(RunError, match=r"twin\.json: not the label of"):
        run_brought(run, tmp_path / origin if "/" in origin else origin, "cpu")
    assert (run / "manifest.json").read_bytes() == before
    assert main(["verify", str(run)]) == 1


def test_an_earlier_label_of_the_same_twin_stays(tmp_path):
    run_brought(tmp_path / "run", NAME, "cpu")
    place = tmp_path / "run" / "model" / "twin.json"
    edited(place, fingerprint=None)
    (tmp_path / "run" / "manifest.json").unlink()
    run_brought(tmp_path / "run", NAME, "cpu")
    assert main(["verify", str(tmp_path / "run")]) == 0
