"""What a stranger's tokenizer may make the toolkit write or read: files of its folder, under the
usual names."""

import json
from pathlib import Path

import pytest

from circuits.errors import ModelError
from circuits.model import load_model
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import TwinTraining, bilinear_twin
from tests.support.small_models import gated_folder, small_corpus, small_folder

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PLAN = TwinPlan(n_steps=2, n_rows=4, window=16, fit=0)


def edited(folder: Path, name: str = "tokenizer_config.json", **fields: object) -> Path:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **fields}))
    return folder


TEMPLATES = {
    "a path": lambda at: [{"name": f"{at}/victim", "template": "x"}],
    "a way out": lambda at: [{"name": "../../victim", "template": "x"}],
    "a plain name": lambda at: [{"name": "tool_use", "template": "x"}],
    "a text": lambda at: "{{ messages }}",
    "a number": lambda at: [{"name": "default", "template": 5}],
    "half a character": lambda at: "\ud800",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_chats_are_not_kept(name, tmp_path):
    folder = edited(small_folder(tmp_path / "model"), chat_template=TEMPLATES[name](tmp_path))
    edited(folder, response_template="\ud800", chat_control_tokens=["\ud800"])
    model = load_model(folder, device="cpu")
    assert model.tokenizer.chat_template is None
    copy = model.save(tmp_path / "copy")
    assert {file.name for file in copy.iterdir()} == FILES
    assert "template" not in (copy / "tokenizer_config.json").read_text()
    assert load_model(copy, device="cpu").fingerprint == model.fingerprint
    assert not [*tmp_path.rglob("victim*")]


def test_templates_in_files_are_not_kept(tmp_path):
    folder = small_folder(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    for place in ("chat_template.jinja", "additional_chat_templates/x.jinja"):
        (folder / place).write_text("{{ messages }}")
    copy = load_model(folder, device="cpu").save(tmp_path / "copy")
    assert {file.name for file in copy.iterdir()} == FILES


@pytest.mark.parametrize("field", ["chat_template", "tokenizer_file", "vocab_file"])
def test_special_tokens_are_not_files_or_templates(field, tmp_path):
    """transformers would take them over last, whatever was said before."""
    folder = edited(small_folder(tmp_path / "model"), "special_tokens_map.json", **{field: "/x"})
    with pytest.raises(ModelError, match=rf"special_tokens_map\.json: field '{field}' is no"):
        load_model(folder, device="cpu")


def test_another_version_of_the_tokenizer_is_in_the_folder_too(tmp_path):
    folder, other = small_folder(tmp_path / "model"), small_folder(tmp_path / "other")
    (other / "tokenizer.json").rename(other / "tokenizer.4.0.json")
    edited(folder, fast_tokenizer_files=["../other/tokenizer.4.0.json"])
    with pytest.raises(ModelError, match=r"fast_tokenizer_files names .*outside of this folder"):
        load_model(folder, device="cpu")


def test_files_named_by_the_configuration_are_not_read(tmp_path, monkeypatch):
    """Older versions of transformers read what a field names, unless a caller names it too."""
    from transformers import AutoTokenizer

    asked, read = {}, AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **how: (asked.update(how), read(*a, **how))[1]
    )
    folder = edited(small_folder(tmp_path / "model"), tokenizer_file="/dev/zero", vocab_file="/x")
    load_model(folder, device="cpu")
    assert {name: asked[name] for name in ("tokenizer_file", "vocab_file", "chat_template")} == {
        "tokenizer_file": None, "vocab_file": None, "chat_template": None,
    }  # fmt: skip


UNSAVED = {
    "tokenizer": ("tokenizer_config.json", {"backend_tokenizer": 1}),
    "text": ("tokenizer_config.json", {"note": "\ud800"}),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_cannot_be_saved_is_refused_before_a_twin_is_trained(name, tmp_path, monkeypatch):
    monkeypatch.setattr(TwinTraining, "learn", None)
    file, fields = UNSAVED[name]
    folder = edited(gated_folder(tmp_path / "gated"), file, **fields)
    with pytest.raises(ModelError, match=r"cannot be (saved|read)") as found:
        bilinear_twin(folder, small_corpus(tmp_path, 200), PLAN, tmp_path / "out")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_saved_is_refused_in_one_line(tmp_path):
    folder = edited(small_folder(tmp_path / "model"), backend_tokenizer=1)
    with pytest.raises(ModelError, match=r"its tokenizer cannot be (saved|read)"):
        load_model(folder, device="cpu").save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_tokenizer_of_the_model_s_own_folder_is_read_again_as_the_same(tmp_path):
    folder = edited(gated_folder(tmp_path / "gated"), chat_template="{{ messages }}")
    assert load_original(folder, device="cpu").tokenizer.chat_template is None
