"""A checkpoint whose checksum is right, and whose content no training writes, is refused."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from circuits.corpus import built_in
from circuits.errors import RunError
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from circuits.model.network_training import NetworkTraining
from circuits.model.site import Site
from circuits.storage.checkpoint import read_checkpoint, save_checkpoint
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin
from sae.training.plan import TrainingPlan
from sae.training.run import DictionaryTraining, train_saes

SHAPE = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
MODEL = ModelPlan(SHAPE, n_steps=6, n_rows=8, noise=0.1, warm_up=2)
TWIN = TwinPlan(n_steps=6, n_rows=4, window=16, fit=1)


def corpus():
    return built_in(1, 400)


def model(out):
    train_model(MODEL, corpus(), out, device="cpu", checkpoint_every=2)


def twin(out):
    bilinear_twin(out.parent / "gated", corpus(), TWIN, out, device="cpu", checkpoint_every=2)


def saes(out):
    plan = TrainingPlan(("mlp_in@0",), n_tokens=2048, n_batch=256, n_buffer=1024, n_features=32)
    own = load_model(out.parent / "own", device="cpu")
    train_saes(own, corpus(), plan, out, device="cpu", checkpoint_every=2)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Trainings that stopped at a checkpoint: of a model, a twin and a dictionary."""
    place = tmp_path_factory.mktemp("stopped")
    train_model(MODEL, corpus(), place / "own", device="cpu")
    gated = ModelPlan(ModelShape(2, 16, 24, 2, activation="silu"), n_steps=2, n_rows=8)
    train_model(gated, corpus(), place / "gated", device="cpu")
    for train, kind in (
        (model, NetworkTraining),
        (twin, NetworkTraining),
        (saes, DictionaryTraining),
    ):
        whole = kind.learn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "learn", lambda r, b, w=whole: 1 / 0 if r.step == 4 else w(r, b))
            with pytest.raises(ZeroDivisionError):
                train(place / train.__name__)
    return place


def crafted(stopped, place, train, change):
    shutil.copytree(stopped, place)
    (path,) = (place / train.__name__).glob("checkpoint*")
    tensors, header = read_checkpoint(path)
    change(tensors, header)
    save_checkpoint(path, tensors, header)
    return place / train.__name__


def refused(stopped, tmp_path, train, change):
    out = crafted(stopped, tmp_path / "place", train, change)
    with pytest.raises(RunError, match="not a readable checkpoint of this run"):
        train(out)


@pytest.mark.parametrize("train", [model, twin, saes])
def test_a_checkpoint_that_is_written_again_is_resumed_from(train, stopped, tmp_path):
    out = crafted(stopped, tmp_path / "place", train, lambda *_: None)
    train(out)
    assert not list(out.glob("checkpoint*"))


def a_moment(tensors, name):
    """The name of one, of a matrix."""
    return next(key for key in tensors if (key.startswith(f"{name}/") and tensors[key].numel() > 16)
                or (key.startswith("step/") and name == "step"))  # fmt: skip


@pytest.mark.parametrize("train", [model, twin, saes])
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step", "weight"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: torch.zeros(3), lambda t: t.double(), lambda t: t.half(), lambda t: t.long(),
        lambda t: torch.tensor(1) if t.ndim == 0 else torch.tensor(1.0), lambda t: t * torch.nan,
    ],
)  # fmt: skip
def test_tensors_of_another_shape_or_dtype_are_refused(train, name, change, stopped, tmp_path):
    def changed(tensors, _):
        key = a_moment(tensors, name)
        tensors[key] = change(tensors[key])

    refused(stopped, tmp_path, train, changed)


@pytest.mark.parametrize("train", [model, twin, saes])
@pytest.mark.parametrize(
    ("name", "value"),
    [*(("step", value) for value in ("a", 1.5, 7_000_000, 10**30, None, -1, True, 1e5)),
     *(("n_tokens", value) for value in ("a", 10**30, None, -1)),
     *(("seconds", value) for value in ("a", float("nan"), -1.0)),
     *(("values", value) for value in (None, [], "a")), ("made_of", [1])],
)  # fmt: skip
def test_counts_that_no_training_has_are_refused(train, name, value, stopped, tmp_path):
    refused(stopped, tmp_path, train, lambda _, header: header.update({name: value}))


@pytest.mark.parametrize("train", [model, twin])
@pytest.mark.parametrize(
    "change",
    [
        *({"position": {"epoch": 0, "chunk": 0, "batch": 0, **wrong}} for wrong in
          ({"epoch": 1.5}, {"batch": 1.5}, {"batch": -1}, {"chunk": "a"}, {"chunk": 10**30},
           {"x": 1})),
        {"position": 5}, *({"rows_at_once": value} for value in (-1, "a", 0.5, 0)),
        {"bfloat16": "a"},
    ],
)  # fmt: skip
def test_places_that_no_text_has_are_refused(train, change, stopped, tmp_path):
    refused(stopped, tmp_path, train, lambda _, header: header["values"].update(change))


@pytest.mark.parametrize("change", [{"constants": [1.0]}, {"constants": 5}, {"fitted": ["a", 1.0]},
                                    {"fitted": [1.0]}, {"fitted": 5}])  # fmt: skip
def test_what_no_twin_has_is_refused(change, stopped, tmp_path):
    refused(stopped, tmp_path, twin, lambda _, header: header["values"].update(change))


@pytest.mark.parametrize(
    "change",
    [
        *({"scales": {"mlp_in@0": value}} for value in ("x", 0.0, -1.0, None)), {"scales": 5},
        {"summaries": 5}, {"summaries": {"mlp_in@0": {"rank": "a"}}}, {"place": 5},
        *({"place": wrong} for wrong in (
            {"block": "a"}, {"block": -1}, {"batch": -3}, {"at": [1]}, {"at": {"x": 1}},
            {"at": {"epoch": "a", "chunk": 0, "batch": 0}}, {"at": "a"}, {"n_masked": "a"},
            {"limits": 5}, {"limits": {"mlp_in@0": "a"}},
        )),
    ],
)  # fmt: skip
def test_what_no_training_of_dictionaries_has_is_refused(change, stopped, tmp_path):
    def changed(_, header):
        values = header["values"]
        for name, value in change.items():
            both = isinstance(value, dict) and name == "place"
            values[name] = {**values[name], **value} if both else value

    refused(stopped, tmp_path, saes, changed)


@pytest.mark.parametrize("name", ["tokens_since", "threshold"])
def test_counters_of_another_shape_are_refused(name, stopped, tmp_path):
    def changed(tensors, _):
        tensors[f"{name}/{Site.parse('mlp_in@0')}"] = torch.zeros(7)

    refused(stopped, tmp_path, saes, changed)


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoint.safetensors"])
def test_a_fifo_beside_a_checkpoint_is_refused(name, stopped, tmp_path):
    out: Path = crafted(stopped, tmp_path / "place", model, lambda *_: None)
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    with pytest.raises(RunError, match="FIFO"):
        model(out)
