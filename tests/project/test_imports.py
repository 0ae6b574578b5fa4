"""Imports run one way and without cycles, rooms and modules stay small, and the checks can fail."""

import ast
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.imports import Tree

# CONTRIBUTING ("Where things live") says what stands in each; `name.py` is a single module
ORDER = {
    "circuits": (
        "lazy.py", "errors.py", "arguments.py", "plotting", "groups", "storage", "algebra",
        "corpus", "graph", "model", "attention", "twin",
    ),
    "sae": (
        "kernels.py", "sparse.py", "statistics.py", "formats", "dictionary.py", "loading.py",
        "reading.py", "training", "features",
    ),
    "analysis": (
        "html", "behaviour", "attribution", "discovery", "validation", "lowrank", "studies",
        "quality_sums.py", "transcoder_quality.py", "dictionary_quality.py", "runs", "report",
        "opened_run.py", "cli",
    ),
}  # fmt: skip
PROJECT = Tree(ROOT, ORDER)


def test_no_module_imports_itself_by_way_of_others():
    assert PROJECT.cycles() == []


def test_imports_run_from_later_rooms_to_earlier_ones():
    assert PROJECT.order_faults() == []


def test_every_room_has_its_place_in_the_order():
    assert PROJECT.unlisted() == []


def test_packages_have_few_rooms_and_rooms_few_modules():
    assert PROJECT.crowded(most_rooms=10, most_modules=12) == []


def test_names_are_imported_from_the_module_that_defines_them():
    assert PROJECT.indirect() == []


def test_functions_have_at_most_60_lines():
    long = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, path in PROJECT.modules.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_at_most_two_modules_have_more_than_400_lines():
    lines = {name: len(path.read_text().splitlines()) for name, path in PROJECT.modules.items()}
    assert len([name for name, n in lines.items() if n > 400]) <= 2


# --- the checks on small trees: each finds its own fault ---

CLEAN = {
    "one/__init__.py": "",
    "one/base.py": "def f(): ...\n\ndef g(): ...\n",
    "one/room/__init__.py": "",
    "one/room/user.py": "from one.base import f\n",
    "two/__init__.py": "",
    "two/late.py": "from one.room import user\nfrom one.base import g\n",
}


@pytest.fixture
def tree(tmp_path):
    """A project of two packages, with the files given in addition."""

    def make(files: dict[str, str]) -> Tree:
        for name, text in {**CLEAN, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tree(Path(tmp_path), {"one": ("base.py", "room"), "two": ("late.py",)})

    return make


def test_a_project_without_faults_has_none(tree):
    project = tree({})
    assert set(project.imports().edges) == {
        ("one.room.user", "one.base"), ("two.late", "one.room.user"), ("two.late", "one.base"),
    }  # fmt: skip
    assert project.cycles() == project.order_faults() == project.unlisted() == []
    assert project.crowded(1, 1) == project.indirect() == []


@pytest.mark.parametrize(
    "text",
    [
        "import one.room.user\n",
        "def f():\n    from one.room.user import f\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one.room import user\n",
        "from importlib import import_module\nuser = import_module('one.room.user')\n",
        "AT = {'f': 'one.room.user'}\n",
        "def module(name):\n    return f'one.room.{name}'\n",
    ],
    ids=["plain", "in a function", "type checking", "importlib", "lazy table", "f-string"],
)
def test_a_cycle_is_found_wherever_its_import_stands(tree, text):
    project = tree({"one/base.py": text})
    assert project.cycles() == [["one.base", "one.room.user"]]
    assert project.order_faults() == ["one.base imports one.room.user"]


def test_a_cycle_of_three_modules_is_found(tree):
    project = tree({
        "one/room/first.py": "import one.room.second\n",
        "one/room/second.py": "def f():\n    import one.room.third\n",
        "one/room/third.py": "from one.room.first import one\n",
    })  # fmt: skip
    assert project.cycles() == [["one.room.first", "one.room.second", "one.room.third"]]
    assert project.order_faults() == []


def test_an_import_of_a_later_room_or_package_is_found(tree):
    project = tree({
        "one/base.py": "def f():\n    from one.room import other\n",
        "one/room/other.py": "import two.late\n",
    })  # fmt: skip
    assert project.order_faults() == [
        "one.base imports one.room.other", "one.room.other imports two.late",
    ]  # fmt: skip


def test_rooms_and_modules_out_of_the_plan_are_found(tree):
    project = tree({"one/utils.py": "", "two/extra/__init__.py": "", "one/room/more.py": ""})
    assert project.unlisted() == ["one/utils.py", "two/extra"]
    assert project.crowded(most_rooms=0, most_modules=1) == [
        "one: 1 rooms", "one: 2 modules", "one/room: 2 modules",
    ]  # fmt: skip


def test_a_name_that_is_passed_on_is_found(tree):
    project = tree({"two/late.py": "from one.room.user import f\n"})
    assert project.indirect() == ["two.late imports f from one.room.user"]
