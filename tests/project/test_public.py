"""The public names are few, each is there, and the documentation imports nothing else."""

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.support import ROOT

AT_MOST = {"circuits": 18, "sae": 14, "analysis": 26}
"""Names of a package: a page of completions. analysis has one for each question that can be asked,
and for each answer that a file is read back as."""
ALLOWED = {*AT_MOST, "circuits.graph", "circuits.model", "circuits.corpus", "circuits.attention"}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("package", AT_MOST)
def test_a_package_lists_few_names_and_has_every_one(package):
    module = import_module(package)
    names = module.__all__
    assert len(set(names)) == len(names) <= AT_MOST[package]
    assert [name for name in names if not hasattr(module, name)] == []
    assert set(names) <= set(dir(module))  # what tab completion offers


def python_blocks(path: Path) -> list[str]:
    """The Python in a document's fenced blocks, or in a notebook's cells."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def own_imports(code: str) -> list[ast.Import | ast.ImportFrom]:
    """Its imports from our packages."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if any(name.split(".")[0] in AT_MOST for name in names):
            found.append(node)
    return found


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_documentation_imports_public_names_and_each_import_runs(path):
    for code in python_blocks(path):
        for node in own_imports(code):
            assert isinstance(node, ast.ImportFrom), ast.unparse(node)
            assert node.module in ALLOWED, ast.unparse(node)
            exec(ast.unparse(node), {})


def test_the_documentation_has_python_to_check():
    assert sum(len(own_imports(code)) for path in DOCUMENTS for code in python_blocks(path)) >= 5
    assert all(any(own_imports(code) for code in python_blocks(path)) for path in NOTEBOOKS)
