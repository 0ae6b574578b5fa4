"""Every notebook runs from top to bottom, and the outputs it keeps are whole."""

import os
import re
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # the kernel's own, in another process
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_its_outputs_and_asserts_something(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)
    assert sum("assert " in cell.source for cell in code) >= 2
    kept = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in kept)


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
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype+notebook"})
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "Interaction matrix, ordered by group" in page  # in the script that draws it alone
    assert "energy kept" in page
    assert "cdn.plot.ly" not in re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'<script[^>]*src="[^"]*plotly', page)
