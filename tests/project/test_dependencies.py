"""The packages that an installation brings: bounded, pinned with hashes, licensed, and few for the
mathematics."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

DIRECT = [Requirement(line) for line in requires("bilinear-circuits") if "extra ==" not in line]


def licences():
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared() -> list[Requirement]:
    """The dependencies as the checkout has them."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def pins(file: str) -> list[tuple[str, str, str]]:
    """Name, version and marker of each pin, in a fixed order."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    lines = [re.sub(r"\s+--hash=\S+", "", line).strip() for line in text.splitlines()]
    found = [re.fullmatch(r"(\S+?)==(\S+)(?: ; (.*))?", line) for line in lines]
    return sorted((each[1], each[2], each[3] or "") for each in found)


def test_no_dependency_can_reach_a_major_version_that_nobody_tried():
    for requirement in declared():
        assert any(each.operator in ("<", "<=") for each in requirement.specifier), requirement


def test_every_pin_is_within_the_bounds():
    versions = {}
    for name, version, _ in pins("constraints.txt"):
        versions.setdefault(name, []).append(version)
    for requirement in declared():
        for version in versions[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), (requirement, version)


def test_the_lock_has_the_pins_each_with_the_hashes_of_its_files():
    one, other = pins("constraints.txt"), pins("requirements.lock")
    assert [pin[:2] for pin in one] == [pin[:2] for pin in other]
    assert ("torch", "2.13.0", "") in other
    for entry in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.split()[0]


@pytest.mark.slow  # asks the package index
def test_pip_takes_what_the_lock_names_and_nothing_else(tmp_path):
    lock = (ROOT / "requirements.lock").read_text()
    entry = re.search(r"^einops==.*(?:\n .*)*", lock, flags=re.MULTILINE)[0]
    for name, text in (("good", entry), ("bad", re.sub("sha256:.{8}", "sha256:00000000", entry))):
        (tmp_path / name).write_text(text + "\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet",
             "--dest", str(tmp_path), "-r", str(tmp_path / name)], capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode == 0) == (name == "good"), done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_table_of_licences_has_every_package_that_is_imported():
    page = (ROOT / "docs" / "licences.md").read_text()
    rows = dict(re.findall(r"^\| (\S+) \| (.*?) \|", page, flags=re.MULTILINE))
    names = {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert names <= set(rows)
    assert {name for name in names if rows[name].startswith("not named")} == set()
    module = licences()
    for name, package in module.needed("bilinear-circuits").items():
        pinned = {version for pin, version, _ in pins("constraints.txt") if pin == name}
        if package.version.split("+")[0] in pinned and sys.version_info[:2] == (3, 11):
            assert rows[name] == module.licence(package), name
    assert module.table().startswith(page[: page.index("| accelerate")])


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An environment of the packages that README names for the mathematics, and what they need."""
    (line,) = re.findall(
        r'^pip install ("torch.*)$', (ROOT / "README.md").read_text(), re.MULTILINE
    )
    site = tmp_path_factory.mktemp("site-packages")
    needed = {}
    for requirement in map(Requirement, shlex.split(line)):
        name = canonicalize_name(requirement.name)
        needed |= {name: distribution(name), **licences().needed(name)}
    for package in needed.values():
        for file in package.files:
            top = Path(str(file)).parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    for name in ("circuits", "sae", "analysis", "bilinear_circuits.py"):
        (site / name).symlink_to(ROOT / name)
    own = site / "bilinear_circuits-0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text(str(metadata.metadata("bilinear-circuits")))
    return site


def in_bare(site: Path, code: str, *arguments: str):
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments], capture_output=True, text=True, cwd=site,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


LEFT_OUT = {"datasets", "plotly", "sae_lens", "sklearn", "shtab", "tokenizers",
            "transformer_lens", "transformers"}  # fmt: skip


def test_nothing_else_is_in_the_bare_environment(bare):
    assert not LEFT_OUT & {path.name for path in bare.iterdir()}
    n, n_all = len(list(bare.glob("*.dist-info"))) - 1, len(licences().needed("bilinear-circuits"))
    assert n_all > 4 * n
    if (sys.platform, sys.version_info[:2]) == ("linux", (3, 11)):  # others need a few more
        assert f" {n} of the {n_all} packages " in (ROOT / "README.md").read_text()
    done = in_bare(bare, "import plotly")
    assert "No module named 'plotly'" in done.stderr


def test_the_mathematics_needs_a_fifth_of_the_packages(bare):
    code = """
import torch
from importlib import import_module
for name in ("circuits", "sae", "analysis", "circuits.graph"):
    for each in (module := import_module(name)).__all__:
        getattr(module, each)
from circuits import Basis, BilinearLayer, Circuit, Interactions
random = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=random)
layer = BilinearLayer(draw(6, 4), draw(6, 4), draw(4, 6))
inter = Interactions(layer, Basis.from_decoder(draw(7, 4)), Basis.from_decoder(draw(5, 4)))
x = draw(7)
wanted = inter.outputs.read[0] @ layer(x @ inter.inputs.write)
print(torch.allclose(x @ inter.matrix(0) @ x, wanted))
print(len(inter.strongest(3)), len(inter.spectrum(0).values))
"""
    done = in_bare(bare, code)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "True"
    assert second.split() == ["3", "4"]


def test_a_command_that_needs_more_names_the_package(bare):
    program = "import sys; from bilinear_circuits import main; sys.exit(main())"
    done = in_bare(bare, program, "completion", "bash")
    assert (done.returncode, done.stderr) == (
        2, "circuits completion: this needs the package shtab, which is not installed: pip "
        "install shtab\n",
    )  # fmt: skip
    done = in_bare(bare, program, "digits")
    assert done.returncode == 2
    assert "this needs the package scikit-learn" in done.stderr
