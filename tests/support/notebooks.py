"""Notebooks run as a user runs them, and what their cells show."""

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(notebook: nbformat.NotebookNode, **environment: str) -> None:
    """Run it in a kernel of one thread: each of the tests' workers has a core."""
    for cell in code_cells(notebook):
        cell.source = cell.source.replace("torch.set_num_threads(2)", "torch.set_num_threads(1)")
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute(env={**os.environ, **environment})


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell shows, without its numbers: the kinds of its outputs and its tables' heads."""
    found = set()
    for output in cell.outputs:
        if output.output_type == "stream":
            found |= {"printed text"} if output.name == "stdout" else set()
            continue
        data = output.get("data", {})
        found |= {output.output_type, *data}
        for head in re.findall(r"<thead>.*?</thead>", data.get("text/html", ""), flags=re.DOTALL):
            names = re.findall(r"<th[^>]*>(.*?)</th>", head)  # a feature's own is a number too
            found |= {"column " + re.sub(r"\d+", "N", name) for name in names}
    return sorted(found)


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook, run in this folder where it asks for a temporary one."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.source = cell.source.replace("tempfile.mkdtemp()", repr(str(folder)))
    execute(notebook)  # an assertion that fails, or any other error, ends it here
    return notebook


def check_shows_what_it_keeps(made: nbformat.NotebookNode, path: Path) -> None:
    """Each cell shows what the same one shows in the file, but for numbers."""
    kept = code_cells(nbformat.read(path, as_version=4))
    for one, other in zip(code_cells(made), kept, strict=True):
        assert shown(one) == shown(other), other.source
