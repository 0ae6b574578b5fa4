"""Graphs hold the pairs they say they hold; a layer has one graph; bad choices are refused."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from analysis.studies.planted import Planted, plant
from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra.similarity import form_cosines, nearest_outputs
from circuits.errors import CircuitsError
from circuits.graph import clusters, interaction_graph
from circuits.graph.coactivation import count_coactivation
from circuits.graph.export import read_graph, write_graph
from tests.support.small import basis, small_layer
from tests.support.small_graphs import batches, small


def test_edges_are_the_strongest_pairs_with_their_signs():
    inter = small()
    graph = interaction_graph(inter, 3, n_edges=30)
    matrix = inter.matrix(3)
    assert graph.number_of_edges() == 30
    for i, j, weight in graph.edges(data="weight"):
        assert weight == pytest.approx(float(matrix[i, j]) * (1 if i == j else 2))
    assert graph.nodes[20] == {"feature": 20, "label": "constant"}
    tested = [("z" in about) == (20 not in (i, j)) for i, j, about in graph.edges(data=True)]
    assert all(tested)
    squares = [w**2 / (1 if i == j else 2) for i, j, w in graph.edges(data="weight")]
    assert graph.graph["energy"] == pytest.approx(sum(squares) / float(inter.energies[3]))


def test_all_pairs_make_the_matrix():
    inter = small()
    graph = interaction_graph(inter, 0, n_edges=21 * 22 // 2)
    dense = nx.to_numpy_array(graph, nodelist=range(21))
    dense = (dense + np.diag(np.diag(dense))) / 2
    np.testing.assert_allclose(dense, inter.matrix(0).numpy(), atol=1e-9)


def test_coverage_takes_the_fewest_pairs_that_suffice():
    inter = small()
    graph = interaction_graph(inter, 3, coverage=0.8)
    fewer = interaction_graph(inter, 3, n_edges=graph.number_of_edges() - 1)
    assert fewer.graph["energy"] < 0.8 <= graph.graph["energy"]
    assert interaction_graph(inter, 3, coverage=1.0).graph["energy"] == pytest.approx(1)


def test_a_planted_gate_is_found_named_and_alone():
    inter, (truth,) = plant(Planted(n_gates=2, n_feature=256, kinds=("AND", "inhibition")))
    graph = interaction_graph(inter, 0, significant=0.05, labels={truth.groups[0][0]: "not"})
    assert {tuple(sorted(pair)) for pair in graph.edges} == set(truth.weights)
    assert graph.nodes[truth.groups[0][0]]["label"] == "not"
    found = clusters(graph)
    assert {frozenset(group) for group in found.groups} == {frozenset(g) for g in truth.groups}
    assert set(found.gates["gate"]) == {"AND", "inhibition"}
    assert max(about["q"] for *_, about in graph.edges(data=True)) <= 0.05
    assert graph.graph["explained"] == pytest.approx(0.9, abs=0.03)  # snr 3: 9 parts of 10


def test_an_empty_graph_says_why():
    random = Interactions(
        small_layer(16, 40, 1), basis(40, 16), Basis.identity(1, torch.float64)
    )  # fmt: skip
    graph = interaction_graph(random, 0, significant=0.05)
    assert len(graph) == 0
    assert "none of 820 pairs stands out" in graph.graph["empty"]
    dead = BilinearLayer(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(1, 2))
    nothing = Interactions(dead, Basis.identity(3), Basis.identity(1))
    for choice in ({"n_edges": 3}, {"coverage": 0.5}, {"significant": 0.05}):
        graph = interaction_graph(nothing, 0, **choice)
        assert graph.graph["empty"] == "every weight is zero"
        assert clusters(graph).groups == []


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({}, "edges are chosen in one way, but none was given"),
        ({"n_edges": 3, "coverage": 0.5}, "but n_edges, coverage was given"),
        ({"n_edges": 232}, "n_edges = 232. Ask for 1 to 231"),
        ({"n_edges": 0}, "n_edges = 0"),
        ({"coverage": 1.5}, "coverage = 1.5 is not a share"),
        ({"significant": 2.0}, "not a false-discovery rate"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(choice, said):
    with pytest.raises(CircuitsError, match=said):
        interaction_graph(small(), 0, **choice)
    with pytest.raises(CircuitsError, match="there is no output 9"):
        interaction_graph(small(), 9, **choice)


# --- the whole layer ---


def test_in_the_graph_of_a_layer_an_interaction_has_two_causes_and_one_effect():
    inter = small(biases="", offset=False)
    graph = interaction_graph(inter, n_edges=40, output_labels={4: "sad"})
    table = inter.strongest(40)
    pairs = [node for node, kind in graph.nodes(data="kind") if kind == "interaction"]
    wanted = set(zip(table["output"], table["first"], table["second"], strict=True))
    assert {pair[1:] for pair in pairs} == wanted
    weights = table.set_index(["output", "first", "second"])["weight"]
    for pair in pairs:
        _, output, first, second = pair
        assert set(graph.predecessors(pair)) == {("in", first), ("in", second)}
        assert list(graph.successors(pair)) == [("out", output)]
        assert graph.edges[pair, ("out", output)]["weight"] == weights[pair[1:]]
    assert graph.nodes["out", 4]["label"] == "sad"
    kinds = {node[0]: kind for node, kind in graph.nodes(data="kind")}
    assert kinds == {"in": "input", "pair": "interaction", "out": "output"}


def test_the_graph_of_a_layer_tests_each_pair_as_the_graph_of_its_output():
    inter = small()
    layer = interaction_graph(inter, n_edges=inter.n_output * 231)
    assert layer.graph["energy"] == pytest.approx(1)
    one = interaction_graph(inter, 3, n_edges=231)
    for i, j, about in one.edges(data=True):
        first, second = sorted((i, j))
        assert layer.edges[("pair", 3, first, second), ("out", 3)] == about
    for node, about in one.nodes(data=True):
        assert layer.nodes["in", node] == {"kind": "input", **about}


def test_the_graph_of_a_layer_is_of_its_strongest_pairs_only():
    with pytest.raises(CircuitsError, match="significant chooses among the pairs of one output"):
        interaction_graph(small(), significant=0.05)
    with pytest.raises(CircuitsError, match="Ask for 1 to 2079"):
        interaction_graph(small(), n_edges=2080)
    with pytest.raises(CircuitsError, match="Pass the graph of one output"):
        clusters(interaction_graph(small(), n_edges=5))


@pytest.mark.parametrize("ending", ["graphml", "gexf"])
def test_the_graph_of_a_layer_is_written_and_read(tmp_path, ending):
    graph = interaction_graph(small(), n_edges=24, labels={3: '"<not>"\n'})
    again = read_graph(write_graph(graph, tmp_path / f"layer.{ending}"))
    assert {node: about["label"] for node, about in again.nodes(data=True)} == {
        str(node): about["label"] for node, about in graph.nodes(data=True)
    }
    assert again.number_of_edges() == graph.number_of_edges()
    assert again.is_directed()


def test_labels_are_given_by_number_or_in_their_order():
    listed = [f"word {i}" for i in range(20)]
    graphs = [
        interaction_graph(small(), 3, 30, labels=labels)
        for labels in (listed, dict(enumerate(listed)))
    ]
    assert graphs[0].nodes[19]["label"] == "word 19"
    assert graphs[0].nodes[20]["label"] == "constant"
    assert dict(graphs[0].nodes(data=True)) == dict(graphs[1].nodes(data=True))


# --- similarity of outputs ---


@pytest.mark.parametrize("biases", ["", "left right"])
def test_form_cosines_are_those_of_matrices_that_are_not_built(biases):
    inter = small(biases)
    dense = torch.stack([inter.matrix(o).flatten() for o in range(9)])
    dense = dense / dense.norm(dim=1, keepdim=True)
    torch.testing.assert_close(form_cosines(inter, range(9)), dense @ dense.mT)
    torch.testing.assert_close(form_cosines(inter, [3, 1], [5]), (dense @ dense.mT)[[3, 1]][:, [5]])


def test_nearest_outputs_are_found_by_size_of_the_cosine():
    inter = small()
    cosines = form_cosines(inter, range(9)).fill_diagonal_(0)
    table = nearest_outputs(inter, 2)
    assert len(table) == 18
    for output, rows in table.groupby("output"):
        best = cosines[output].abs().topk(2).indices.tolist()
        assert rows["other"].tolist() == best
        np.testing.assert_allclose(rows["cosine"], cosines[output, best])


def test_opposite_ends_of_one_direction_have_the_cosine_minus_one():
    layer = small_layer(8, 13, 3)
    down = torch.stack([layer.down[0], -2 * layer.down[0], layer.down[1], 0 * layer.down[0]])
    inter = Interactions(
        BilinearLayer(layer.left, layer.right, down), basis(20), Basis.identity(4, torch.float64)
    )
    cosines = form_cosines(inter, [0, 1, 3])
    assert cosines[0, 1] == pytest.approx(-1)
    assert cosines[2].abs().max() == 0  # an output without a form is like no other


def test_outputs_are_listed_once_and_none_is_refused():
    assert nearest_outputs(small(), 3, [2, 4, 2])["output"].tolist() == [2, 4]
    with pytest.raises(CircuitsError, match="no outputs were named"):
        nearest_outputs(small(), outputs=[])


# --- data ---


def dense_batches(n_feature: int) -> torch.Tensor:
    rows = []
    for indices, values in batches(n_feature):
        rows.append(torch.zeros(50, n_feature).double().scatter_(1, indices, values))
    return torch.cat(rows)


def test_coactivation_is_the_mean_over_dense_activations():
    inter = small()
    pairs = inter.strongest(60, 3)
    counted = count_coactivation(batches(20), pairs, 20, constant=True)
    f = torch.cat([dense_batches(20), torch.ones(150, 1).double()], dim=1)
    table = counted.of(pairs)
    i, j = table["first"].tolist(), table["second"].tolist()
    np.testing.assert_allclose(table["coactivation"], (f[:, i] * f[:, j]).mean(0))
    np.testing.assert_allclose(table["together"], (f[:, i] * f[:, j] != 0).double().mean(0))
    np.testing.assert_allclose(table["data_weight"], table["weight"] * table["coactivation"])
    np.testing.assert_allclose(counted.frequency, (f != 0).double().mean(0))
    assert counted.n_tokens == 150


def test_data_weights_of_all_pairs_are_the_mean_activation():
    inter = small(biases="", offset=False)
    pairs = inter.strongest(210, 3)
    counted = count_coactivation(batches(20), pairs, 20)
    graph = interaction_graph(inter, 3, n_edges=210, coactivation=counted)
    total = sum(graph.edges[pair]["data_weight"] for pair in graph.edges)
    f = dense_batches(20)
    mean = torch.einsum("ti,ij,tj->t", f, inter.matrix(3), f).mean()
    assert total == pytest.approx(float(mean))
    assert "frequency" not in interaction_graph(inter, 3, n_edges=210).nodes[4]
    assert graph.nodes[4]["frequency"] == counted.frequency[4]
    pd.testing.assert_frame_equal(counted.of(counted.of(pairs)), counted.of(pairs))


def test_pairs_of_active_features_are_looked_up_in_bounded_pieces(monkeypatch):
    pairs = pd.DataFrame({"first": [0, 5, 3], "second": [7, 5, 19]})
    whole = count_coactivation(batches(20), pairs, 20).pairs
    monkeypatch.setattr("circuits.graph.coactivation.LOOKUPS", 64)
    pd.testing.assert_frame_equal(count_coactivation(batches(20), pairs, 20).pairs, whole)


@pytest.mark.parametrize(
    ("indices", "values", "said"),
    [
        (torch.tensor([[25]]), torch.ones(1, 1), "active feature 25 of a dictionary of 20"),
        (torch.tensor([[2]]), torch.tensor([[np.nan]]), "1 activations are NaN"),
        (torch.tensor([[2, 3]]), torch.ones(1, 1), "both must be"),
    ],
)
def test_invalid_activations_are_refused(indices, values, said):
    pairs = pd.DataFrame({"first": [0], "second": [7]})
    with pytest.raises(Exception, match=f"{said}|type"):
        count_coactivation([(indices, values)], pairs, 20)


def test_pairs_that_were_not_counted_are_refused():
    pairs = pd.DataFrame({"first": [0], "second": [7], "weight": [1.0]})
    counted = count_coactivation(batches(20), pairs, 20)
    with pytest.raises(CircuitsError, match="1 of 1 pairs were not counted"):
        counted.of(pairs.assign(second=8))
    with pytest.raises(CircuitsError, match="the dictionary has 0 to 6"):
        count_coactivation(batches(20), pairs, 7)


def test_padding_is_not_active():
    indices, values = torch.tensor([[3, 0], [0, 3]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    pairs = pd.DataFrame({"first": [0, 3], "second": [3, 3]})
    counted = count_coactivation([(indices, values)], pairs, 4)
    assert counted.frequency.tolist() == [0.5, 0, 0, 1]
    assert counted.pairs["together"].tolist() == [0.5, 1]
    assert counted.pairs["coactivation"].tolist() == [0.5, 2.5]
