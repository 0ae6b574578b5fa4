"""Another package where ours should be: one line says which file that is, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bilinear_circuits import check_packages
from tests.support import ROOT

PACKAGES = ("circuits", "sae", "analysis")
COMMAND = "import sys; from bilinear_circuits import main; sys.exit(main())"
MODULE = "import runpy; runpy.run_module('analysis.cli', run_name='__main__')"


def started(code: str, first: Path, rest: Path = ROOT, *arguments: str):
    """Python in another folder than the project's, with one place before it on its path."""
    path = os.pathsep.join([str(first), str(rest)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=first,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def a_package(folder: Path) -> Path:
    folder.mkdir()
    (folder / "__init__.py").write_text("'''Somebody else's.'''\n")
    return folder / "__init__.py"


def a_module(file: Path) -> Path:
    file.write_text("VALUE = 1\n")
    return file


def named(said: str, file: Path, package: str) -> None:
    line = said.strip().splitlines()[-1]
    assert f"{file} stands where the package '{package}' of bilinear-circuits should." in line
    assert "rename it or start in another folder" in line
    assert line.endswith("pip install --force-reinstall --no-deps bilinear-circuits")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("make", ["package", "module"])
def test_a_local_file_or_folder_that_comes_first_is_named(tmp_path, package, make):
    file = (
        a_package(tmp_path / package) if make == "package" else a_module(tmp_path / f"{package}.py")
    )
    done = started(COMMAND, tmp_path, ROOT, "--version")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("circuits: ")
    assert done.stderr.count("\n") == 1
    named(done.stderr, file, package)
    for importing in PACKAGES[PACKAGES.index(package) + 1 :]:
        done = started(f"import {importing}", tmp_path)
        assert done.returncode == 1
        named(done.stderr, file, package)


def test_a_module_that_is_loaded_already_is_named(tmp_path):
    file = a_module(tmp_path / "sae.py")
    named(started("import sae, analysis", tmp_path).stderr, file, "sae")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Our packages as pip puts them, side by side with others."""
    site = tmp_path_factory.mktemp("site-packages")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, site / package)
    shutil.copy(ROOT / "bilinear_circuits.py", site)
    return site


def test_a_first_file_that_another_distribution_overwrote_or_removed_is_named(installed):
    file = installed / "circuits" / "__init__.py"
    assert started(COMMAND, installed, installed, "--version").returncode == 0
    file.write_text("from circuits.six import u\n__version__ = '3.2.3'\n")  # as PyPI's circuits
    for code in (COMMAND, "import analysis", "import sae", MODULE):
        named(started(code, installed, installed, "--version").stderr, file, "circuits")
    file.unlink()
    for code in (COMMAND, "import analysis", "import sae", MODULE):
        named(started(code, installed, installed, "--version").stderr, file.parent, "circuits")


def test_our_own_packages_pass(tmp_path):
    check_packages(*PACKAGES)
    assert started("import circuits, sae, analysis", tmp_path).stderr == ""
    done = started(COMMAND, tmp_path, ROOT, "--version")
    assert (done.returncode, done.stdout) == (0, "0.1.0\n")


def test_the_command_begins_where_nothing_can_be_in_its_place():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["scripts"] == {"circuits": "bilinear_circuits:main"}
    assert pyproject["tool"]["setuptools"]["py-modules"] == ["bilinear_circuits"]
