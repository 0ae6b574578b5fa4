"""Whatever a command is given: one line that says what is wrong, status 2, nothing half made."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.cli.main import main
from circuits.corpus import built_in
from circuits.model import ModelPlan, ModelShape, Site, train_model
from tests.support.small_dictionaries import small_dictionary

TRAIN = ("--tokens", "3000", "--features", "40", "--k", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run with a model and dictionaries of its layer, and files that are none of the run's."""
    place = tmp_path_factory.mktemp("place")
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=1, n_head=2)
    plan = ModelPlan(shape, n_steps=2, n_rows=8)
    train_model(plan, built_in(1, 400), place / "run" / "model", device="cpu")
    for seed, point in enumerate(("mlp_in", "mlp_out")):
        site = Site(point, 0)
        saved = place / "run" / "saes" / site.hook_name
        small_dictionary(seed, site=site).save(saved)
        (saved / "metrics.jsonl").write_text('{"step": 1, "fvu": 0.5}\n')
    (place / "file").write_text("x")
    (place / "empty.txt").write_text("")
    (place / "cut.json").write_text('{"a": ')
    (place / "deep.json").write_text("[" * 100_000)
    (place / "folder").mkdir()
    return place


@pytest.fixture
def place(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "place"))


def refused(capsys, *words: object) -> str:
    assert main([*map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"circuits {words[0]}: ")
    assert said.err.count("\n") == 1
    return said.err


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model train NEW --device quantum", "device 'quantum' cannot be used here"),
        ("model train NEW --device meta", "device 'meta' cannot be used here"),
        ("model generate RUN x --device hpu", "device 'hpu' cannot be used here"),
        ("sae train RUN --device cuda:99", "device 'cuda:99' cannot be used here"),
        ("interactions RUN --device meta", "device 'meta' cannot be used here"),
        ("demo NEW --device quantum", "device 'quantum' cannot be used here"),
        ("demo AT/file", "Not a directory"),
        ("model train NEW --plan AT/deep.json", "not readable JSON"),
        ("model train NEW --plan AT/cut.json", "not readable JSON"),
        ("model train NEW --column text", "--column text names a part of a text, and no text"),
        ("interactions RUN --column text", "--column text names a part of a text, and no text"),
        ("report RUN --column text", "--column text names a part of a text, and no text"),
        ("model train NEW --text AT/empty.txt", "empty.txt"),
        ("model train NEW --lies --text AT/empty.txt", "--lies is of the built-in stories, and"),
        ("model twin RUN/model NEW", "RUN/model: no such folder"),
        ("model twin NOTHING NEW", "NOTHING: no such folder"),
        ("model twin RUN/model NEW --plan AT/deep.json", "not readable JSON"),
        ("find RUN --behaviour AT/deep.json", "line 1 is not JSON"),
        ("find RUN --behaviour ../x", "behaviour '../x' is neither built in"),
        ("find RUN --behaviour negation --coverage nan", "coverage is nan, not a finite number"),
        ("interactions RUN --q nan", "q = nan must lie between 0 and 1"),
        ("interactions RUN --layer 99", "99"),
        ("validate RUN --circuit ../../../file", "has no circuit of a behaviour '../../../file'"),
        ("rank RUN --circuit ../manifest", "has no circuit '../manifest'"),
        ("export AT/deep.json", "deep.json: not readable JSON"),
        ("export AT/folder", "folder"),
        ("digits --pictures AT/folder", "folder is a folder. Name a file"),
        ("sae train BARE --features 4611686018427387904", "GiB of memory, and this machine has"),
        ("calibrate --features 4611686018427387904 --seeds 1", "not enough memory"),
        ("report RUN --out AT/file", "file is a file, but a report is a folder"),
    ],
)
def test_bad_words_are_one_line_and_make_nothing(place, capsys, words, said):
    shutil.copytree(place / "run" / "model", place / "bare" / "model")
    parts = {"RUN": place / "run", "BARE": place / "bare", "NEW": place / "new" / "run"}
    before = files(place)
    given = [str(parts.get(w, w)).replace("AT", str(place)) for w in words.split()]
    assert said in refused(capsys, *given)
    assert not [name for name in files(place) - before if (place / name).is_file()]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def newer(path: Path) -> None:
    path.write_text(json.dumps({"version": 9, "steps": []}))


OUT = "saes/blocks.0.hook_mlp_out"


@pytest.mark.parametrize(
    ("file", "spoil", "words", "said"),
    [
        ("model/model.safetensors", cut, "model info RUN", "model.safetensors"),
        ("model/config.json", cut, "model info RUN", "config.json"),
        (f"{OUT}/sae_weights.safetensors", cut, "sae info RUN", "sae_weights.safetensors"),
        (f"{OUT}/cfg.json", cut, "sae info RUN", "cfg.json"),
        (f"{OUT}/metrics.jsonl", cut, "sae info RUN", "its last line is not a training step"),
        ("saes", lambda path: (shutil.rmtree(path), path.touch()), "sae info RUN", "is a file"),
        ("manifest.json", newer, "interactions RUN", "manifest.json: not a list of steps"),
    ],
    ids=lambda value: None if callable(value) else value,
)
def test_a_spoilt_file_of_a_run_is_named(
    place, capsys, file: str, spoil: Callable[[Path], object], words, said
):
    spoil(place / "run" / file)
    assert said in refused(capsys, *words.replace("RUN", str(place / "run")).split())


COMMANDS = ("sae train", "sae info", "sae quality", "interactions", "find", "validate", "rank",
            "report", "model info")  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("run", ["none", "file", "folder"])
def test_a_run_that_is_none_is_refused_by_every_command(place, capsys, words, run):
    before = files(place)
    assert run in refused(capsys, *words.split(), place / run)
    assert files(place) == before


@pytest.mark.parametrize(
    "words", ["interactions RUN", "find RUN --proposals 1", "sae train BARE", "model train NEW"]
)
def test_a_folder_that_may_not_be_written_to_is_one_line(place, capsys, monkeypatch, words):
    """Whoever runs the tests may write everywhere, so the system's refusal is a stand-in."""
    shutil.copytree(place / "run" / "model", place / "bare" / "model")
    mkdir = Path.mkdir

    def forbidden(path, *how, **more):
        if place in path.parents and not path.exists():
            raise PermissionError(13, os.strerror(13), str(path))
        mkdir(path, *how, **more)

    before = files(place)
    monkeypatch.setattr(Path, "mkdir", forbidden)
    parts = {"RUN": place / "run", "BARE": place / "bare", "NEW": place / "new"}
    given = [str(parts.get(word, word)) for word in words.split()]
    assert "Permission denied" in refused(capsys, *given)
    assert files(place) == before


def test_a_watcher_that_does_not_begin_is_told(place, capsys, monkeypatch):
    import sys
    from types import SimpleNamespace

    def begin(**_):
        raise RuntimeError("No API key configured.\nMore lines.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=begin))
    run = place / "run"
    shutil.rmtree(run / "saes")
    said = refused(capsys, "sae", "train", run, *TRAIN, "--log", "wandb")
    assert "wandb does not start (No API key configured.). Set WANDB_MODE=offline" in said
    assert not (run / "saes").exists()


def test_a_folder_that_was_removed_is_no_place_to_start_in(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f'rmdir "$PWD" && exec {shlex.quote(sys.executable)} -m analysis.cli verify /run'
    about = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    said = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path / "gone", env=about, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert "circuits verify: the folder that this was started in is gone" in said.stderr
    assert said.stderr.count("\n") == 1
