"""Circuits, graphs, traces and shards made by a stranger, each with a part that no step wrote."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from analysis import attribution_graph
from analysis.attribution.page.trace_page import trace_page
from analysis.attribution.traced import AttributionGraph
from circuits import Circuit, Interactions
from circuits.algebra.output_statistics import output_statistics
from circuits.graph.export import read_graph
from circuits.storage.shards import kept_table
from tests.support import hostile_files as files
from tests.support.hostile_inputs import Hostile
from tests.support.planted_path import ANSWER, TEXT, planted_path
from tests.support.small import basis, small_layer

GRAPHML = '<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">{}</graphml>'
GEXF = '<?xml version="1.0"?><gexf xmlns="http://www.gexf.net/1.2draft" version="1.2">{}</gexf>'
OLD = Path(__file__).parent / "files_of_0_1" / "negation.json"
HUGE = 10**400
NESTED = "[" * 100_000


@cache
def _trace() -> str:
    path = Path(mkdtemp()) / "trace.json"
    return attribution_graph(*planted_path(), TEXT, [ANSWER]).save(path).read_text()


@cache
def _circuit() -> str:
    path = Path(mkdtemp()) / "circuit.json"
    Circuit.load(OLD).save(path)
    return path.read_text()


def changed(whole: Callable[[], str], change: Callable[[Any], object]) -> Callable[[Path], Path]:
    """A JSON file with one change."""

    def make(folder: Path) -> Path:
        content = json.loads(whole())
        change(content)
        path = folder / "x.json"
        path.write_text(json.dumps(content))
        return path

    return make


def graph_of(name: str, form: str, inside: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        files.put(name, form.format(inside))(folder)
        return folder / name

    return make


def typed(kind: str, value: str) -> Callable[[Path], Path]:
    """A node with an attribute of this type."""
    key = f'<key id="d0" for="node" attr.name="a" attr.type="{kind}"/>'
    node = f'<node id="x"><data key="d0">{value}</data></node>'
    return graph_of("x.graphml", GRAPHML, f'{key}<graph edgedefault="undirected">{node}</graph>')


def named(name: str) -> Callable[[Path], Path]:
    node = f'<graph edgedefault="undirected"><node id="{name}"/></graph>'
    return graph_of("x.graphml", GRAPHML, node)


def in_gexf(attribute: str, value: str, mode: str = "static") -> Callable[[Path], Path]:
    inside = (
        f'<graph defaultedgetype="undirected" mode="{mode}"><attributes class="node" mode="{mode}">'
        f'<attribute id="0" title="a" type="{attribute}"/></attributes><nodes><node id="0">'
        f'<attvalues><attvalue for="0" {value}/></attvalues></node></nodes></graph>'
    )
    return graph_of("x.gexf", GEXF, inside)


def _layer() -> Interactions:
    return Interactions(small_layer(), basis(20), basis(6, seed=2))


def statistics(folder: Path) -> None:
    output_statistics(_layer(), folder=folder)


def shard(
    change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table, **about: bytes
) -> Callable[[Path], None]:
    """The shard of a layer's statistics with other content, which is written as its own."""

    def make(folder: Path) -> None:
        [path] = folder.glob("*.parquet")
        old = pq.read_table(path)
        known = old.schema.metadata
        new = change(old.replace_schema_metadata(None).to_pandas())
        path.unlink()
        kept_table(path, known[b"circuits.fingerprint"].decode(), lambda: new)
        table = pq.read_table(path)
        lists = {b"circuits.lists": known[b"circuits.lists"]}
        further = {f"circuits.{name}".encode(): value for name, value in about.items()}
        pq.write_table(
            table.replace_schema_metadata({**table.schema.metadata, **lists, **further}), path
        )

    return make


def filled(name: str, value: object) -> Callable[[Path], None]:
    return shard(lambda table: table.assign(**{name: value}))


def trace_used(path: Path) -> None:
    graph = AttributionGraph.load(path)
    graph.attribution()
    trace_page(graph.as_dict())


def circuit_used(path: Path) -> None:
    circuit = Circuit.load(path)
    for name, table in circuit.tables().items():
        table.to_parquet(path.with_name(f"{name}.parquet"))


def warm_up(folder: Path) -> None:
    folder.mkdir()
    trace_used(changed(_trace, lambda c: None)(folder))
    circuit_used(changed(_circuit, lambda c: None)(folder))
    read_graph(named("x")(folder))
    statistics(folder / "statistics")


TRACES: dict[str, tuple[Callable[[Any], object], str | None]] = {
    "whole": (lambda c: None, None),
    "a gate of the rest": (lambda c: c["gates"][0].update(first="rest"), "rest, which is no node"),
    "a gate with the rest": (lambda c: c["gates"][0].update(second="rest"), "which is no node"),
    "no gates": (lambda c: c.update(gates=[]), "no gate"),
    "no edges": (lambda c: c.update(edges=[]), "no edge"),
}
CIRCUITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a feature": (lambda c: c["features"][0].update(feature=HUGE), "below 2"),
    "an output": (lambda c: c["outputs"][0].update(feature=2**63), "below 2"),
    "a group": (lambda c: c["features"][0].update(group=-HUGE), "below 2"),
}
OF_2: dict[str, dict[str, Any]] = {
    "a coverage of 10 ** 400": {"coverage": HUGE},
    "no number as a coverage": {"coverage": "a"},
    "a list as a coverage": {"coverage": [1]},
}
PLAIN: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "whole": (typed("string", "v"), None),
    "a character beyond the last": (named("\\x{110000}"), "no graph can be read"),
    "a character of 20 digits": (named("\\x{" + "f" * 20 + "}"), "no graph can be read"),
    "an unknown type": (typed("weird", "v"), "no graph can be read"),
    "a bool that is none": (typed("boolean", "v"), "no graph can be read"),
    "an unknown type of GEXF": (in_gexf("zz", 'value="1"'), "no graph can be read"),
    "a bool of GEXF that is none": (in_gexf("boolean", 'value="v"'), "no graph can be read"),
    "times of GEXF": (in_gexf("float", 'value="1" start="a"', "dynamic"), "no graph can be read"),
}
SHARDS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "whole": (shard(), None),
    "a fingerprint that is no text": (shard(fingerprint=b"\xff\xfe"), "made from another layer"),
    "nested names of lists": (shard(lists=NESTED.encode()), "damaged"),
    "names of lists that are no text": (shard(lists=b"\xff"), "damaged"),
    **{f"a histogram {text[:6]}": (filled("self_histogram", text), "damaged")
       for text in (NESTED, "{}", '["a"]', "null", "[[1], [1, 2]]")},
    "a short histogram": (filled("self_histogram", "[1]"), "no statistics .* self_histogram"),
    "a histogram below 0": (
        filled("self_histogram", json.dumps([-1] * 66)), "no statistics .* self_histogram"
    ),
    "no outputs": (shard(lambda table: table.drop(columns="output")), "no column of outputs"),
    "texts as outputs": (filled("output", "a"), "no column of outputs"),
    "texts as energies": (filled("energy", "a"), "no statistics .* energy"),
    "nothing as energies": (filled("energy", None), "no statistics .* energy"),
    "infinite ranks": (filled("effective_rank", float("inf")), "no statistics .* effective_rank"),
    "a feature beyond the last": (filled("strongest_first", 99), "no statistics .* strongest_fir"),
}  # fmt: skip
INPUTS = {
    **{f"a trace: {name}": Hostile(changed(_trace, change), trace_used, said)
       for name, (change, said) in TRACES.items()},
    **{f"a circuit: {name} of 10 ** 400": Hostile(changed(_circuit, change), circuit_used, said)
       for name, (change, said) in CIRCUITS.items()},
    **{f"a circuit of version 2: {name}": Hostile(
        changed(OLD.read_text, lambda c, new=new: c["thresholds"].update(new)), circuit_used,
        "is not whole",
    ) for name, new in OF_2.items()},
    **{f"a graph: {name}": Hostile(make, read_graph, said) for name, (make, said) in PLAIN.items()},
    **{f"a shard: {name}": Hostile(make, statistics, said, statistics)
       for name, (make, said) in SHARDS.items()},
}  # fmt: skip
