"""Graphs hold the pairs they say they hold; several outputs share one; bad choices are refused."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from analysis.studies.planted import Planted, plant
from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra.similarity import form_cosines, nearest_outputs, output_groups
from circuits.errors import CircuitsError
from circuits.graph import clusters, interaction_graph
from circuits.graph.build import joint_graph, projection
from circuits.graph.coactivation import coactivation
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
    assert "of 820 pairs none stands out" in graph.graph["empty"]
    dead = BilinearLayer(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(1, 2))
    nothing = Interactions(dead, Basis.identity(3), Basis.identity(1))
    for choice in ({"n_edges": 3}, {"coverage": 0.5}, {"significant": 0.05}):
        graph = interaction_graph(nothing, 0, **choice)
        assert graph.graph["empty"] == "every weight of this output is zero"
        assert clusters(graph).groups == []


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({}, "edges are chosen one way, but none was given"),
        ({"n_edges": 3, "coverage": 0.5}, "but n_edges, coverage was given"),
        ({"n_edges": 232}, "n_edges = 232. Ask for 1 to 231"),
        ({"n_edges": 0}, "n_edges = 0"),
        ({"coverage": 1.5}, "coverage = 1.5 is no share"),
        ({"significant": 2.0}, "no share of false discoveries"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(choice, said):
    with pytest.raises(CircuitsError, match=said):
        interaction_graph(small(), 0, **choice)
    with pytest.raises(CircuitsError, match="there is no output 9"):
        interaction_graph(small(), 9, **choice)


# --- several outputs ---


def test_in_a_joint_graph_an_interaction_has_two_causes_and_one_effect():
    inter = small(biases="", offset=False)
    joint = joint_graph(inter, [1, 4], n_edges=12, output_labels={4: "sad"})
    pairs = [node for node, kind in joint.nodes(data="kind") if kind == "interaction"]
    assert len(pairs) == 24
    for pair in pairs:
        _, output, first, second = pair
        assert set(joint.predecessors(pair)) == {("in", first), ("in", second)}
        assert list(joint.successors(pair)) == [("out", output)]
    assert joint.nodes["out", 4]["label"] == "sad"


@pytest.mark.parametrize("ending", ["graphml", "gexf"])
def test_a_joint_graph_is_written_and_read(tmp_path, ending):
    joint = joint_graph(small(), [1, 4], n_edges=12, labels={3: '"<not>"\n'})
    again = read_graph(write_graph(joint, tmp_path / f"joint.{ending}"))
    assert {node: about["label"] for node, about in again.nodes(data=True)} == {
        str(node): about["label"] for node, about in joint.nodes(data=True)
    }
    assert again.number_of_edges() == joint.number_of_edges()
    assert again.is_directed()


def test_frequencies_that_are_given_are_on_the_nodes():
    graph = interaction_graph(small(), 3, n_edges=30, frequency=np.linspace(0, 1, 20))
    assert graph.nodes[19]["frequency"] == 1
    assert "frequency" not in graph.nodes[20]  # the constant
    joint = joint_graph(small(), [3], n_edges=30, frequency=np.linspace(0, 1, 20))
    assert joint.nodes["in", 19]["frequency"] == 1
    with pytest.raises(CircuitsError, match="2 frequencies were given for 20 features"):
        interaction_graph(small(), 3, n_edges=30, frequency=[0.5, 0.5])


def test_labels_are_given_by_number_or_in_their_order():
    listed = [f"word {i}" for i in range(20)]
    graphs = [
        interaction_graph(small(), 3, 30, labels=labels)
        for labels in (listed, dict(enumerate(listed)))
    ]
    assert graphs[0].nodes[19]["label"] == "word 19"
    assert graphs[0].nodes[20]["label"] == "constant"
    assert dict(graphs[0].nodes(data=True)) == dict(graphs[1].nodes(data=True))


def test_projections_add_up():
    inter = small(biases="", offset=False)
    all_pairs = 20 * 21 // 2
    joint = joint_graph(inter, [1, 4], n_edges=all_pairs)
    features = projection(joint)
    total = inter.matrix(1) + inter.matrix(4)
    for i, j, about in features.edges(data=True):
        assert about["weight"] == pytest.approx(float(total[i, j]) * (1 if i == j else 2))
        assert about["n_outputs"] == 2
    outputs = projection(joint, "outputs")
    one, four = (torch.triu(2 * inter.matrix(o)).fill_diagonal_(0) for o in (1, 4))
    selves = (inter.matrix(1).diagonal() * inter.matrix(4).diagonal()).sum()
    assert outputs.edges[1, 4]["weight"] == pytest.approx(float((one * four).sum() + selves))
    assert outputs.edges[1, 4]["n_pairs"] == all_pairs
    with pytest.raises(CircuitsError, match='no side "up"'):
        projection(joint, "up")
    with pytest.raises(CircuitsError, match="made by joint_graph"):
        projection(nx.DiGraph([(1, 2)]))


# --- likeness of outputs ---


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


def test_opposite_ends_of_one_direction_are_one_group():
    layer = small_layer(8, 13, 3)
    down = torch.stack([layer.down[0], -2 * layer.down[0], layer.down[1], 0 * layer.down[0]])
    inter = Interactions(
        BilinearLayer(layer.left, layer.right, down), basis(20), Basis.identity(4, torch.float64)
    )
    table = output_groups(inter, least=0.95)
    assert table["group"][0] == table["group"][1] == 0
    assert table["side"][0] == -table["side"][1]
    assert table["side"][1] == 1  # the larger form is at the end +1
    assert table["group"].nunique() == 3
    assert form_cosines(inter, [3]).abs().max() == 0
    with pytest.raises(CircuitsError, match=r"least = 1\.5"):
        output_groups(inter, least=1.5)


def test_outputs_are_told_once_and_none_is_refused():
    assert nearest_outputs(small(), 3, [2, 4, 2])["output"].tolist() == [2, 4]
    assert output_groups(small(), [3, 3])["output"].tolist() == [3]
    for ask in (nearest_outputs, output_groups):
        with pytest.raises(CircuitsError, match="no outputs were named"):
            ask(small(), outputs=[])


# --- data ---


def dense_batches(n_feature: int) -> torch.Tensor:
    rows = []
    for indices, values in batches(n_feature):
        rows.append(torch.zeros(50, n_feature).double().scatter_(1, indices, values))
    return torch.cat(rows)


def test_coactivation_is_the_mean_over_dense_activations():
    inter = small()
    pairs = inter.strongest(60, 3)
    counted = coactivation(batches(20), pairs, 20, constant=True, write=inter.write)
    f = torch.cat([dense_batches(20), torch.ones(150, 1).double()], dim=1)
    table = counted.of(pairs)
    i, j = table["first"].tolist(), table["second"].tolist()
    np.testing.assert_allclose(table["coactivation"], (f[:, i] * f[:, j]).mean(0))
    np.testing.assert_allclose(table["together"], (f[:, i] * f[:, j] != 0).double().mean(0))
    np.testing.assert_allclose(table["data_weight"], table["weight"] * table["coactivation"])
    np.testing.assert_allclose(counted.frequency, (f != 0).double().mean(0))
    whole = torch.einsum("ti,ij,tj->t", f, inter.matrix(3), f).mean()
    assert counted.mean_of(inter.form(3)) == pytest.approx(float(whole))
    assert counted.n_tokens == 150


def test_data_weights_of_all_pairs_are_the_mean_activation():
    inter = small(biases="", offset=False)
    pairs = inter.strongest(210, 3)
    counted = coactivation(batches(20), pairs, 20, write=inter.write)
    graph = interaction_graph(inter, 3, n_edges=210, coactivation=counted)
    total = sum(graph.edges[pair]["data_weight"] for pair in graph.edges)
    assert total == pytest.approx(counted.mean_of(inter.form(3)))
    assert graph.nodes[4]["frequency"] == counted.frequency[4]
    pd.testing.assert_frame_equal(counted.of(counted.of(pairs)), counted.of(pairs))


def test_pairs_of_active_features_are_looked_up_in_bounded_pieces(monkeypatch):
    pairs = pd.DataFrame({"first": [0, 5, 3], "second": [7, 5, 19]})
    whole = coactivation(batches(20), pairs, 20).pairs
    monkeypatch.setattr("circuits.graph.coactivation.LOOKUPS", 64)
    pd.testing.assert_frame_equal(coactivation(batches(20), pairs, 20).pairs, whole)


@pytest.mark.parametrize(
    ("indices", "values", "said"),
    [
        (torch.tensor([[25]]), torch.ones(1, 1), "active feature 25 of a dictionary of 20"),
        (torch.tensor([[2]]), torch.tensor([[np.nan]]), "1 activations are NaN"),
        (torch.tensor([[2, 3]]), torch.ones(1, 1), "both must be"),
    ],
)
def test_activations_that_are_none_are_refused(indices, values, said):
    pairs = pd.DataFrame({"first": [0], "second": [7]})
    with pytest.raises((CircuitsError, Exception), match=f"{said}|type"):
        coactivation([(indices, values)], pairs, 20)


def test_pairs_that_were_not_counted_are_told():
    pairs = pd.DataFrame({"first": [0], "second": [7], "weight": [1.0]})
    counted = coactivation(batches(20), pairs, 20)
    with pytest.raises(CircuitsError, match="1 of 1 pairs were not counted"):
        counted.of(pairs.assign(second=8))
    with pytest.raises(CircuitsError, match="the dictionary has 0 to 6"):
        coactivation(batches(20), pairs, 7)


def test_padding_is_not_active():
    indices, values = torch.tensor([[3, 0], [0, 3]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    pairs = pd.DataFrame({"first": [0, 3], "second": [3, 3]})
    counted = coactivation([(indices, values)], pairs, 4)
    assert counted.frequency.tolist() == [0.5, 0, 0, 1]
    assert counted.pairs["together"].tolist() == [0.5, 1]
    assert counted.pairs["coactivation"].tolist() == [0.5, 2.5]
