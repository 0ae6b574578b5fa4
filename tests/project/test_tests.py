"""Tests stand alone: none imports another, and none reaches for a private name of the packages."""

import ast
import re
from pathlib import Path

from tests.support import ROOT

TESTS = sorted((ROOT / "tests").rglob("*.py"))
PACKAGES = ("circuits", "sae", "analysis")


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z0-9]\w*(?<!_)", name) is not None


def bound_in(tree: ast.Module) -> set[str]:
    """Private names that a module defines, as functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def used_in(tree: ast.Module) -> set[str]:
    """Private names that a module imports, looks up, or passes to `setattr` and its like."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} | set((node.module or "").split("."))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            words = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
            found |= {str(word).rpartition(".")[2] for word in words}
    return {name for name in found if is_private(name)}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_no_test_imports_from_another():
    for path in TESTS:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                assert node.module.startswith("tests.support"), f"{path}: {ast.unparse(node)}"


def test_no_test_uses_a_private_name():
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    private = set().union(*(bound_in(parsed(path)) for path in modules))
    assert len(private) > 50
    used = {str(path.relative_to(ROOT)): used_in(parsed(path)) & private for path in TESTS}
    assert {path: names for path, names in used.items() if names} == {}


def test_private_names_are_found_however_they_are_used():
    ways = {
        "from a.b import _one, two": {"_one"},
        "import a\na.b._one()": {"_one"},
        "patch.setattr(a, '_one', 3)": {"_one"},
        "patch.setattr('a.b._one', 3)": {"_one"},
        "a._repr_html_()\na.__dict__\n_local = 'a_b'": set(),
    }
    assert {code: used_in(ast.parse(code)) for code in ways} == ways
    code = "def _f(self):\n    self._x = _y = 1\n    z = 2\nclass _C: ...\n"
    assert bound_in(ast.parse(code)) == {"_f", "_x", "_y", "_C"}
