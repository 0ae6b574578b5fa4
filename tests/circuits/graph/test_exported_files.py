"""Exports into one folder do not lose each other's, nor another program's, and wait for no FIFO."""

import json
import os
import subprocess
import sys

import pytest

from circuits.errors import GraphError
from circuits.graph import read_graph, write_attribution
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Interaction, Output
from tests.support import ROOT

EXPORT = """
import sys
from tests.circuits.graph.test_exported_files import named, write_attribution
for number in range(20):
    write_attribution(named(f"{sys.argv[2]} {number}"), sys.argv[1])
"""


def named(name: str) -> Circuit:
    features = (Feature(0, "a", group=0), Feature(1, "b", group=0))
    return Circuit(name, (Output(3, "c"),), features, (Interaction(0, 1, 1.5),), energy=0.5)


def test_two_that_export_at_once_lose_no_entry(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", EXPORT, str(tmp_path), name], cwd=ROOT)
        for name in "ab"
    ]
    assert [process.wait() for process in started] == [0, 0]
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert len(index["graphs"]) == 40
    assert len(list(tmp_path.iterdir())) == 41


@pytest.mark.parametrize("change", [{"path": "elsewhere.json"}, {"transcoder_list": ["theirs"]}])
def test_an_entry_of_another_program_is_replaced_only_by_force(change, tmp_path):
    path = write_attribution(named("one"), tmp_path)
    index = tmp_path / "graph-metadata.json"
    (ours,) = json.loads(index.read_text())["graphs"]
    theirs = {"graphs": [{**ours, **change}]}
    index.write_text(json.dumps(theirs))
    path.unlink()
    with pytest.raises(GraphError, match=r"that the toolkit did not write.*--force"):
        write_attribution(named("one"), tmp_path)
    assert json.loads(index.read_text()) == theirs
    assert not path.exists()
    write_attribution(named("one"), tmp_path, force=True)
    assert json.loads(index.read_text())["graphs"] == [ours]


@pytest.mark.parametrize("name", ["a.graphml", "a.gexf"])
def test_a_graph_is_not_read_from_a_fifo(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(GraphError, match="FIFO"):
        read_graph(tmp_path / name)
