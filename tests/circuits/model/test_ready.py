"""A real model comes with the package: loaded by its name, with its dictionaries, offline."""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from circuits.errors import ModelError
from circuits.model import load_model
from circuits.model.loading import ready_folder, ready_models
from circuits.model.site import Site
from sae import load_dictionaries
from tests.support import ROOT

NAME = "stories260K-bilinear"


@pytest.fixture(scope="module")
def model():
    return load_model(NAME, device="cpu")


def test_it_is_loaded_by_its_name_and_says_what_it_cost(model):
    assert ready_models() == [NAME]
    assert (model.n_layer, model.d_model) == (5, 64)
    assert model.label.original == "stories260K"
    assert model.label.loss < model.label.removed_loss / 2
    assert model.generate("Once upon a time", 20).startswith("Once upon a time, there was")


def test_plain_transformers_computes_the_same(model):
    from transformers import AutoModelForCausalLM

    tokens = model.tokens("One day, Lily and Ben went to the park")
    theirs = AutoModelForCausalLM.from_pretrained(model.path)
    assert theirs.config.hidden_act == "linear"
    torch.testing.assert_close(theirs(tokens).logits, model.logits(tokens), rtol=1e-5, atol=1e-5)


def test_each_mlp_has_dictionaries_before_and_after_it_that_stand_in(model):
    found = load_dictionaries(NAME, device="cpu")
    assert [*found] == [Site(p, i) for i in range(5) for p in ("mlp_in", "mlp_out")]
    tokens = model.tokens("Once upon a time, there was a little girl named Lily.")
    clean = float(model.loss(tokens))
    for dictionary in found.values():
        with dictionary.spliced(model) as spliced:
            assert float(spliced.loss(tokens)) < clean + 0.3


def test_a_folder_of_that_name_comes_first_and_a_misspelt_name_is_told_what_there_is(
    tmp_path, monkeypatch
):
    with pytest.raises(ModelError, match=rf"no such folder\. .*comes with this package: {NAME}"):
        load_model("stories260k-bilinear")
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    with pytest.raises(ModelError, match=r"a folder without config.json"):
        load_model(NAME)


def test_the_wheel_holds_every_file_of_it_and_where_it_is_from():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["circuits"]
    folder = ready_folder(NAME)
    files = [f for f in folder.rglob("*") if f.is_file()]
    for file in files:
        path = file.relative_to(ROOT / "circuits").as_posix()
        assert any(path.count("/") == p.count("/") and fnmatch(path, p) for p in patterns), path
    assert sum(file.stat().st_size for file in files) < 10e6
    origin = (folder / "ORIGIN.md").read_text()
    assert "MIT" in origin
    assert "TinyStories" in origin
