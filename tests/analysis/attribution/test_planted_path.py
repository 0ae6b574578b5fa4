"""A graph of a planted network is its path: two gates, the tokens, the heads, and nothing else."""

import pytest

from analysis import attribution_graph
from tests.support.planted_path import (
    ANSWER,
    AT_ASKED,
    AT_FACT,
    AT_PLACE,
    TEXT,
    planted_path,
)

FOUND, ANSWERED = f"f0 L1 @{AT_PLACE}", f"f1 L2 @{AT_ASKED}"
LOGIT = f"logit {ANSWER}"
SHARES = {
    ANSWERED: 1.0,
    FOUND: 1 / 2,
    f"token @{AT_ASKED}": 1 / 2,
    f"token @{AT_FACT}": 1 / 4,
    f"token @{AT_PLACE}": 1 / 4,
}


@pytest.mark.parametrize("heads", [(0, 1), (1, 0)])
def test_the_planted_path_is_found_exactly_and_nothing_else(heads):
    graph = attribution_graph(*planted_path(heads), TEXT, [ANSWER])
    made = graph.nodes[graph.nodes["kind"] != "logit"].set_index("node")["influence"]
    assert dict(made[made > 0.01]) == pytest.approx(SHARES, abs=1e-4)
    assert made[made <= 0.01].sum() < 1e-4

    gates = graph.gates[graph.gates["value"].abs() > 0.01 * graph.gates["value"].abs().max()]
    found = {
        (gate.node, gate.kind, *sorted((gate.first, gate.second))) for gate in gates.itertuples()
    }
    assert found == {
        (LOGIT, "linear", "", ANSWERED),
        (ANSWERED, "pair", FOUND, f"token @{AT_ASKED}"),
        (FOUND, "pair", f"token @{AT_FACT}", f"token @{AT_PLACE}"),
    }

    edges = graph.edges[graph.edges["value"].abs() > 0.01 * graph.edges["value"].abs().max()]
    assert {(edge.source, edge.node, edge.way) for edge in edges.itertuples()} == {
        (f"token @{AT_FACT}", FOUND, f"head 0.{heads[0]}"),
        (f"token @{AT_PLACE}", FOUND, "stream"),
        (FOUND, ANSWERED, f"head 2.{heads[1]}"),
        (f"token @{AT_ASKED}", ANSWERED, "stream"),
        (ANSWERED, LOGIT, "stream"),
    }
    assert (edges["way_value"] - edges["value"]).abs().max() < 1e-4 * edges["value"].max()
    assert graph.nodes["off_by"].max() < 1e-5
