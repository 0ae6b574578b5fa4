"""A model's folder may hold Python; none of it is run, and nobody is asked whether it may be."""

import ast
import builtins
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from circuits.errors import ModelError
from circuits.model import load_model
from tests.support import ROOT
from tests.support.small_models import small_folder

CALLS = ("from_pretrained", "from_config", "boot_transformers")
CODE = "import pathlib\npathlib.Path({!r}).touch()\n"
CLASSES = "class Mine:\n    pass\nMineConfig = MineModel = MineTokenizer = Mine\n"
NAMES = {
    "AutoConfig": "mine.MineConfig",
    "AutoModelForCausalLM": "mine.MineModel",
    "AutoTokenizer": ["mine.MineTokenizer", "mine.MineTokenizer"],
    "AutoProcessor": "mine.Mine",
}

EDITS = {
    "config": {"config.json": {"auto_map": NAMES}},
    "model of its own type": {"config.json": {"auto_map": NAMES, "model_type": "mine"}},
    "nested": {"config.json": {"text_config": {"auto_map": NAMES}}},
    "pipeline": {"config.json": {"custom_pipelines": {"mine": {"impl": "mine.Mine"}}}},
    "tokenizer": {"tokenizer_config.json": {"auto_map": NAMES, "tokenizer_class": "MineTokenizer"}},
    "legacy tokenizer": {
        "tokenizer_config.json": {"auto_map": NAMES["AutoTokenizer"], "tokenizer_class": "Mine"}
    },
    "known tokenizer": {"tokenizer_config.json": {"auto_map": NAMES}},
    "elsewhere": {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": "a/b--mine.Mine"}}},
    "processor": {"processor_config.json": {"auto_map": NAMES}},
    "preprocessor": {"preprocessor_config.json": {"auto_map": NAMES}},
    "generation": {"generation_config.json": {"auto_map": NAMES}},
}


def hostile(folder: Path, edits: dict[str, dict]) -> tuple[Path, Path]:
    """A good model's folder with code beside it, and the file that the code would make."""
    small_folder(folder)
    ran = folder.parent / "ran"
    for place in (folder, folder / "custom_generate"):
        place.mkdir(exist_ok=True)
        for name in ("mine", "generate", "modeling", "__init__", "tokenization", "setup"):
            (place / f"{name}.py").write_text(CODE.format(str(ran)) + CLASSES)
    for name, fields in edits.items():
        path = folder / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **fields}))
    return folder, ran


@pytest.fixture
def nobody_asked(monkeypatch):
    def ask(prompt=""):
        raise AssertionError(f"asked: {prompt}")

    monkeypatch.setattr(builtins, "input", ask)


@pytest.mark.parametrize("name", EDITS)
def test_a_configuration_that_names_code_is_refused_by_its_field(name, tmp_path, nobody_asked):
    folder, ran = hostile(tmp_path / "model", EDITS[name])
    with pytest.raises(ModelError, match=r"names code in this folder, which is never run") as found:
        load_model(folder, device="cpu")
    assert next(iter(EDITS[name])) in str(found.value)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["tokenizer", "known tokenizer", "processor"])
def test_a_tokenizer_from_elsewhere_that_names_code_is_refused(name, tmp_path, nobody_asked):
    folder, ran = hostile(tmp_path / "words", EDITS[name])
    with pytest.raises(ModelError, match=r"names code in this folder, which is never run"):
        load_model(small_folder(tmp_path / "model"), tokenizer=folder, device="cpu")
    assert not ran.exists()


def test_code_that_no_configuration_names_is_not_run(tmp_path, nobody_asked):
    folder, ran = hostile(tmp_path / "model", {})
    model = load_model(folder, device="cpu")
    model.generate("w5 w6", 2)
    model.hooked.run_with_cache(model.tokens("w5"))
    model.save(tmp_path / "copy")
    assert not ran.exists()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_how_a_layer_is_run_is_not_for_the_folder_to_say(field, tmp_path, monkeypatch):
    """A name with a slash there is code on the hub, which transformers would fetch."""
    from transformers.modeling_utils import PreTrainedModel

    asked = []
    check = PreTrainedModel._check_and_adjust_attn_implementation
    monkeypatch.setattr(
        PreTrainedModel,
        "_check_and_adjust_attn_implementation",
        lambda self, name, *a, **k: asked.append(name) or check(self, name, *a, **k),
    )
    folder, ran = hostile(tmp_path / "model", {"config.json": {field: "owner/kernel:mine"}})
    load_model(folder, device="cpu")
    assert "owner/kernel:mine" not in asked
    assert not ran.exists()


@pytest.mark.parametrize("name", ["config", "tokenizer"])
@pytest.mark.parametrize("answer", ["y\n", ""])
def test_the_command_refuses_at_once_whatever_is_typed(name, answer, tmp_path):
    folder, ran = hostile(tmp_path / "model", EDITS[name])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "model", "info", str(folder)],
        input=answer, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "names code in this folder" in done.stderr
    assert "y/N" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not ran.exists()
    assert time.monotonic() - began < 60


def test_every_call_that_could_run_a_folders_code_forbids_it():
    """In all packages, and in the benchmarks, by their syntax trees."""
    loose, found = [], 0
    for package in ("circuits", "sae", "analysis", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if not isinstance(call, ast.Call):
                    continue
                options = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
                if getattr(call.func, "attr", "") in CALLS:
                    found += 1
                    loose += [path.name] * (options.get("trust_remote_code") is not False)
    assert found == 3
    assert not loose
