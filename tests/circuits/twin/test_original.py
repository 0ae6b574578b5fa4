"""Originals that have no twin are refused by the right name, and a label names the one it is of."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuits.errors import ModelError
from circuits.model import load_model
from circuits.storage.hub import name_of
from circuits.twin.original import load_original
from tests.support.small_models import polynomial_folder, published_folder, small_folder


def test_every_layout_of_a_bilinear_model_is_its_own_twin(tmp_path):
    folders = (
        polynomial_folder(tmp_path / "polynomial"),
        published_folder(tmp_path / "published"),
        small_folder(tmp_path / "llama"),
    )
    for folder in folders:
        load_model(folder, device="cpu")
        with pytest.raises(ModelError, match="bilinear already, so it is its own twin"):
            load_original(folder)
    gated = published_folder(tmp_path / "gated", bilinear=False, gate="silu")
    with pytest.raises(ModelError, match="gate is 'silu': an activation on one factor"):
        load_original(gated)


@pytest.mark.parametrize(
    ("kind", "act"), [("phi", "gelu_new"), ("starcoder2", "gelu_pytorch_tanh")]
)
def test_a_model_without_a_gate_is_refused_as_that(kind, act, tmp_path):
    folder = small_folder(tmp_path / kind, kind, hidden_act=act)
    with pytest.raises(ModelError, match=r"has no gate \(.*fc.*\): there is no second factor"):
        load_original(folder)
    with pytest.raises(ModelError, match="If it is gated, make its bilinear twin"):
        load_model(folder)


@pytest.mark.parametrize("act", ["silu", "linear"])
def test_whole_numbers_are_refused_as_quantised_weights(act, tmp_path):
    folder = small_folder(tmp_path / "model", hidden_act=act)
    file = folder / "model.safetensors"
    weights = {
        name: (10 * weight).to(torch.int8) if "down_proj" in name else weight
        for name, weight in load_file(file).items()
    }
    save_file(weights, file)
    load = load_model if act == "linear" else load_original
    with pytest.raises(ModelError, match=r"down_proj.weight holds whole numbers .*quantised"):
        load(folder)


def test_a_model_s_name_is_that_of_its_folder_or_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "llama").mkdir()
    monkeypatch.chdir(tmp_path / "llama")
    assert name_of(Path()) == "llama"
    assert name_of(Path("../llama")) == "llama"
    fetched = tmp_path / "hub" / "models--owner--a-name" / "snapshots" / "0123abc"
    (fetched / "inner").mkdir(parents=True)
    assert name_of(fetched) == "owner/a-name"
    assert name_of(fetched / "inner") == "owner/a-name/inner"
    shutil.copytree(fetched, tmp_path / "snapshots" / "kept")
    assert name_of(tmp_path / "snapshots" / "kept") == "kept"
