"""Exports into one folder do not lose each other's, nor another program's, and wait for no FIFO."""

import json
import os
import threading

import pytest

from circuits.errors import GraphError
from circuits.graph import export, read_graph, write_attribution
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Interaction, Output


def named(name: str) -> Circuit:
    features = (Feature(0, "a", group=0), Feature(1, "b", group=0))
    return Circuit(name, (Output(3, "c"),), features, (Interaction(0, 1, 1.5),), energy=0.5)


def test_two_that_export_at_once_lose_no_entry(tmp_path, monkeypatch):
    other = threading.Thread(target=write_attribution, args=(named("two"), tmp_path))
    write = export.written_whole

    def in_the_middle(path):
        if other.ident is None:  # this one has read the index, and has not written it
            other.start()
            other.join(0.5)
        return write(path)

    monkeypatch.setattr(export, "written_whole", in_the_middle)
    write_attribution(named("one"), tmp_path)
    other.join()
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert [graph["slug"] for graph in index["graphs"]] == ["one", "two"]
    assert len(list(tmp_path.iterdir())) == 3


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
