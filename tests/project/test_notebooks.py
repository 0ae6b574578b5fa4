"""Every notebook runs from top to bottom, and the outputs kept in it are those of such a run."""

import ast
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from tests.support import ROOT
from tests.support.notebooks import check_shows_what_it_keeps, code_cells, execute, executed

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STORIES = ("2_features", "3_negation", "4_low_rank")  # of one run, which the first trains


@pytest.fixture(scope="module")
def first_of_stories(tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """The first notebook about the built-in stories, and the run that it trains."""
    run = tmp_path_factory.mktemp("stories")
    return executed(ROOT / f"notebooks/{STORIES[0]}.ipynb", run), run


def notebooks() -> list:
    """Each in a test; the first one is quick."""
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem[:2] != "1_"))
        for path in NOTEBOOKS
        if path.stem != "10_two_layers"  # with the demonstration that it reads: test_demo
    ]


@pytest.mark.filterwarnings("ignore")  # the kernel's own, in another process
@pytest.mark.parametrize("path", notebooks())
def test_a_notebook_runs_and_shows_what_it_keeps(path, request, tmp_path):
    if path.stem in STORIES:
        made, run = request.getfixturevalue("first_of_stories")
        if path.stem != STORIES[0]:  # it asks for the same run, which is there
            shutil.copytree(run, tmp_path, dirs_exist_ok=True)
            weights = {file: file.stat().st_mtime for file in tmp_path.rglob("*.safetensors")}
            made = executed(path, tmp_path)
            assert {file: file.stat().st_mtime for file in weights} == weights, "it trained again"
    else:
        made = executed(path, tmp_path)
    check_shows_what_it_keeps(made, path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_kept_after_one_whole_run(path):
    code = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asserts_things_about_what_it_computed(path):
    """At least two assertions compare something that an earlier line assigned."""
    computed, checked = set(), 0
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                computed.add(node.id)
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assert):
                names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                checked += bool(names & computed)
    assert checked >= 2


@pytest.mark.filterwarnings("ignore")
def test_an_assertion_that_fails_fails_its_notebook():
    source = "total = 1 + 1\nassert total == 3"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute(notebook)


PLOTS = """
import torch
from circuits import Basis, BilinearLayer, Interactions

layer = BilinearLayer(torch.randn(5, 4), torch.randn(5, 4), torch.randn(4, 5))
inter = Interactions(layer, Basis.identity(4), Basis.identity(4))
"""


@pytest.mark.filterwarnings("ignore")
def test_plots_stand_in_the_pages_that_nbconvert_makes():
    """With the renderer that README names: drawn by a script in the page, none from elsewhere."""
    cells = [PLOTS, "inter.plot(0)", "inter.spectrum(0)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    execute(notebook, PLOTLY_RENDERER="plotly_mimetype+notebook")
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "Interaction matrix, ordered by group" in page  # in the script that draws it alone
    assert "energy kept" in page
    assert "cdn.plot.ly" not in re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'<script[^>]*src="[^"]*plotly', page)
