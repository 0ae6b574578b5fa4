"""What the project promises about itself: imports, order, pins, and that its checks can fail."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis.cli import commands, options
from analysis.cli.main import function_name
from circuits import BilinearLayer
from tests.support import ROOT
from tests.support.commands import command, command_process

MODULES = [
    path
    for package in ("circuits", "sae", "analysis")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_opens_with_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_only_the_model_family_knows_the_libraries_of_models():
    family = {"circuits/model/", "circuits/corpus/", "circuits/storage/hub.py"}
    libraries = {"transformers", "transformer_lens", "tokenizers", "datasets", "huggingface_hub"}
    for path in MODULES:
        name = str(path.relative_to(ROOT))
        if imports_of(path) & libraries:
            assert any(name.startswith(member) for member in family), name


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_packages_loads_no_library():
    assert not loaded_by("import circuits, sae, analysis") & {"torch", "numpy", "pandas"}


def test_loading_every_public_name_loads_nothing_heavy():
    """Libraries of models, of their training and of figures wait for a call that needs them."""
    names = "circuits sae analysis circuits.graph circuits.model circuits.corpus circuits.attention"
    loaded = loaded_by(
        f"from importlib import import_module\nfor package in {names.split()}:\n"
        "    module = import_module(package)\n"
        "    for name in module.__all__:\n        getattr(module, name)"
    )
    assert "torch" in loaded
    assert not loaded & {
        "transformer_lens", "transformers", "tokenizers", "datasets", "huggingface_hub",
        "sae_lens", "sklearn", "plotly", "wandb", "tensorboard",
    }  # fmt: skip


def test_help_answers_before_anything_heavy_is_loaded():
    statement = (
        "import contextlib, analysis.cli\n"
        "with contextlib.suppress(SystemExit):\n    analysis.cli.main(['--help'])"
    )
    assert not loaded_by(statement) & {"torch", "numpy", "pandas"}


def test_a_wrong_command_is_one_line_and_exit_2():
    done = command_process("demmo")
    assert done.returncode == 2
    assert "invalid choice: 'demmo'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_seed_that_no_generator_takes_is_one_line_and_exit_2():
    for seed in ("9" * 25, "-1", "x"):
        done = command("gates", "--seed", seed)
        assert done.returncode == 2
        assert "is not a whole number" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_one_line_and_exit_2(tmp_path):
    (tmp_path / "file").touch()
    done = command("model", "train", str(tmp_path / "file"), "--steps", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_a_reader_that_stops_early_is_no_error():
    program = "import sys; from analysis.cli import main; sys.exit(main(['completion', 'bash']))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=environment,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_help_with_an_example():
    listed = re.findall(r"^    (\w+)\b", command("--help").stdout, flags=re.M)
    assert set(listed) == {name.split("_")[0] for name in commands.__all__}
    for name in listed:
        done = command(name, "--help")
        assert done.returncode == 0
        assert "example: circuits " + name in done.stdout


def test_every_example_names_a_command_that_is_there():
    found = [each.epilog for each in options.with_all_below(options.parser())]
    assert len(found) > 10
    for example in found:
        words = shlex.split(example.removeprefix("example: circuits "))
        given = options.parser().parse_args(words)
        function = getattr(commands, function_name(given))
        assert list(inspect.signature(function).parameters) == ["options"]


def test_the_test_run_checks_shapes(request):
    """The checks must be able to fail: a wrong shape reaches them past every other refusal."""
    if not request.config.getoption("--jaxtyping-packages"):
        checked = re.search(r"^test-all:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
        assert "--jaxtyping-packages=circuits,sae,analysis," in checked[0]
        pytest.skip("shapes are checked by `make test-all`")
    layer = BilinearLayer(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, 3))
    object.__setattr__(layer, "down", torch.ones(2, 3, 1).mT)
    with pytest.raises(Exception, match="type") as refused:
        layer(torch.ones(2))
    assert "jaxtyping" in type(refused.value).__module__


def test_pins_cover_every_dependency():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {re.split(r"[<>=!\[ ;]", line)[0].lower() for line in wanted}
    assert names - pinned - {"bilinear-circuits"} == set()
    assert pyproject["tool"]["uv"]["constraint-dependencies"] == ["torch==2.13.0"]
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
