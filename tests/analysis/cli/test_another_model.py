"""After a run's model is exchanged, nothing is measured with the dictionaries of the former one."""

import json
import shutil
from pathlib import Path

import pytest

from circuits.corpus import built_in
from circuits.errors import DictionaryError
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from sae import TrainingPlan, card, load_dictionaries, logit_effects, train_saes
from sae.features.examples import examples
from tests.support.commands import command

SHAPE = ModelShape(d_model=16, d_hidden=24, n_layer=1, n_head=2)
STORIES = built_in(1, 400)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that has one of everything that no behaviour is needed for."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train_model(ModelPlan(SHAPE, n_steps=5, n_rows=8), STORIES, run / "model", device="cpu")
    plan = TrainingPlan(
        ("mlp_in@0", "mlp_out@0"), n_features=24, k=4, n_tokens=2000, n_batch=256, n_buffer=1000
    )
    train_saes(load_model(run / "model", device="cpu"), STORIES, plan, run / "saes", device="cpu")
    for step in (["interactions"], ["find", "--proposals", "1"], ["rank", "--min-active", "10"]):
        few = ["--documents", "30"] if "--proposals" not in step else []
        done = command(step[0], str(run), *step[1:], *few)
        assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def other_weights(run: Path) -> None:
    shutil.rmtree(run / "model")
    plan = ModelPlan(SHAPE, n_steps=1, n_rows=8, seed=9)
    train_model(plan, STORIES, run / "model", device="cpu")


def edited(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def other_epsilon(run: Path) -> None:
    edited(run / "model" / "config.json", rms_norm_eps=1e-2)


def other_numbers(run: Path) -> None:
    path = run / "model" / "tokenizer.json"
    stated = json.loads(path.read_text())
    words = stated["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    path.write_text(json.dumps(stated))


SWAPS = [other_weights, other_epsilon, other_numbers]
COMMANDS = [
    ["interactions"],
    ["find", "--behaviour", "negation"],
    ["find", "--proposals", "1"],
    ["validate"],
    ["rank"],
    ["rank", "--circuit", "layer-0-output-0"],
    ["sae", "quality"],
    ["report"],
]


@pytest.mark.parametrize("swap", SWAPS)
def test_every_command_refuses_the_dictionaries_of_another_model(swap, run):
    swap(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for words in COMMANDS:
        n_name = 2 if words[0] == "sae" else 1
        done = command(*words[:n_name], str(run), *words[n_name:])
        assert done.returncode == 2, words
        assert "dictionaries of another model or site: mlp_in@0 was trained on" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    done = command("calibrate", str(run))
    assert (done.returncode, "another model" in done.stderr) == (2, True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("swap", SWAPS)
def test_every_function_refuses_a_dictionary_of_another_model(swap, run):
    swap(run)
    model = load_model(run / "model", device="cpu")
    (_, dictionary) = load_dictionaries(run, device="cpu").values()
    for ask in (
        lambda: card(dictionary, 0, model),
        lambda: card(dictionary, 0, model, STORIES),
        lambda: logit_effects(dictionary, model),
        lambda: examples(dictionary, model, STORIES),
        lambda: dictionary.spliced(model).__enter__(),
    ):
        with pytest.raises(DictionaryError, match="was trained on a model of hash"):
            ask()


def test_the_dictionaries_of_a_run_say_what_they_were_trained_on(run):
    own = load_model(run / "model", device="cpu").fingerprint
    done = command("sae", "info", str(run))
    assert done.stdout.count(f"model {own[:12]}") == 2


def test_a_model_moved_elsewhere_with_its_run_is_the_same(run, tmp_path):
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    model = load_model(moved / "model", device="cpu")
    shutil.rmtree(moved / "model")
    model.save(moved / "model")
    assert command("report", str(moved)).returncode == 0
