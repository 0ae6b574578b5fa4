"""Groups are those that were planted, whatever the order, the seed and the signs."""

import networkx as nx
import numpy as np
import pytest
import torch

from circuits.errors import CircuitsError
from circuits.groups.clusters import clusters
from circuits.groups.gates import gate_table


def blocks(sizes, entries, noise=0.05, seed=0):
    """A symmetric matrix of blocks with loadings; entries[i, j] is the sign and size of a block."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    load = random.uniform(0.75, 1.25, len(group))
    pattern = np.zeros((len(sizes), len(sizes)))
    for (i, j), value in entries.items():
        pattern[i, j] = pattern[j, i] = value
    matrix = pattern[np.ix_(group, group)] * np.outer(load, load)
    error = random.normal(size=matrix.shape) * noise
    return matrix * (1 + (error + error.T) / 2), group


GATES = {
    "AND": ([3, 4], {(0, 1): 1}, {(0, 1): "AND"}),
    "one by one": ([1, 1], {(0, 1): 1}, {(0, 1): "AND"}),
    "inhibition": ([3, 2], {(0, 1): -1}, {(0, 1): "inhibition"}),
    "OR": ([5], {(0, 0): 1}, {(0, 0): "OR"}),
    "XOR": ([3, 4], {(0, 0): 1, (1, 1): 1, (0, 1): -1},
            {(0, 0): "OR", (1, 1): "OR", (0, 1): "XOR"}),
    "checkerboard": ([2, 3, 2, 3], {(0, 2): 1, (1, 2): -1, (0, 3): -1, (1, 3): 1},
                     {(0, 2): "XOR", (1, 2): "XOR", (0, 3): "XOR", (1, 3): "XOR"}),
    "three-way": ([2, 3, 4], {(0, 1): 1, (0, 2): 1, (1, 2): 1},
                  {(0, 1): "AND", (0, 2): "AND", (1, 2): "AND"}),
    "shared group": ([3, 3, 2], {(0, 1): 1, (0, 2): -1}, {(0, 1): "AND", (0, 2): "inhibition"}),
    "two gates": ([2, 3, 4, 2], {(0, 1): 1, (2, 3): 1}, {(0, 1): "AND", (2, 3): "AND"}),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_groups_and_gates_are_those_planted(name):
    sizes, entries, gates = GATES[name]
    matrix, group = blocks(sizes, entries)
    found = clusters(matrix)
    assert partition(found) == {frozenset(np.flatnonzero(group == g)) for g in range(len(sizes))}
    of = [found[int(np.flatnonzero(group == g)[0])] for g in range(len(sizes))]
    named = {frozenset([r.first, r.second]): r.gate for r in found.gates.itertuples()}
    assert named == {frozenset([of[i], of[j]]): gate for (i, j), gate in gates.items()}
    assert found.gates["share"].sum() == pytest.approx(1)
    assert found.gates["coherence"].min() > 0.95
    assert (found.nodes.groupby("group")["loading"].max() == 1).all()
    assert found.stability > 0.7


@pytest.mark.parametrize(
    ("selves", "gate"),
    [((0.07, 0.007), "inhibition"), ((0.21, 0.0), "inhibition"), ((0.2, 0.2), "XOR"),
     ((0.5, 0.1), "XOR"), ((-0.2, -0.2), "inhibition"), ((1.4, 1.4), "inhibition"),
     ((1.9, 0.03), "inhibition")],
)  # fmt: skip
def test_a_gate_is_named_by_the_sizes_of_its_blocks(selves, gate):
    """(αa − βb)² has −αβ across for α² and β² in the blocks; with less in them, b inhibits a, and
    with much more in either the cross block changes little."""
    entries = {(0, 0): selves[0], (1, 1): selves[1], (0, 1): -0.21}
    matrix, group = blocks([3, 4], {pair: size for pair, size in entries.items() if size})
    table, _ = gate_table(matrix, group)
    across = table[(table["first"] == 0) & (table["second"] == 1)]
    assert across["gate"].tolist() == [gate]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("n", [12, 30])
def test_features_that_take_part_by_degrees_have_no_groups(rank, n):
    """A form of a few Gaussian directions was cut into five groups at a stability of 0.77."""
    for seed in range(3):
        loads = np.random.default_rng(seed).normal(size=(n, rank))
        turned = np.diag([1.0, -1.0, 0.7][:rank])
        found = clusters(loads @ turned @ loads.T, n_resample=1)
        assert (found.method, found.groups, found.stability) == ("none", [], 0)
        assert found.gates.empty


def partition(found):
    return {frozenset(members) for members in found.groups}


@pytest.mark.parametrize("name", GATES)
def test_groups_are_the_same_for_any_order_of_the_nodes(name):
    sizes, entries, _ = GATES[name]
    for noise in (0.0, 0.2):
        matrix, _ = blocks(sizes, entries, noise)
        first = clusters(matrix)
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(len(matrix))
            again = clusters(matrix[np.ix_(order, order)])
            assert {
                frozenset(int(order[node]) for node in members) for members in again.groups
            } == (partition(first))
            gates = ["gate", "share"]
            np.testing.assert_allclose(again.gates["share"], first.gates["share"])
            assert list(again.gates[gates[0]]) == list(first.gates[gates[0]])
            assert again.stability == pytest.approx(first.stability, abs=0 if noise else 0.3)


@pytest.mark.parametrize("name", ["XOR", "two gates", "shared group"])
def test_groups_are_the_same_for_twenty_seeds_and_the_bits_for_one(name):
    sizes, entries, _ = GATES[name]
    matrix, _ = blocks(sizes, entries, noise=0.3)
    found = [clusters(matrix, seed=seed, n_resample=1) for seed in range(20)]
    assert len({frozenset(partition(one)) for one in found}) == 1
    again = clusters(matrix, seed=3, n_resample=1)
    assert again.nodes.equals(found[3].nodes)
    assert again.gates.equals(found[3].gates)


def test_a_graph_and_its_matrix_have_the_same_groups():
    matrix, _ = blocks(*GATES["XOR"][:2])
    graph = nx.Graph()
    for i, j in zip(*np.nonzero(np.triu(matrix)), strict=True):
        graph.add_edge(f"node {i}", f"node {j}", weight=matrix[i, j] * (1 if i == j else 2))
    by_graph, by_matrix = clusters(graph), clusters(torch.tensor(matrix))
    assert {node: by_graph[f"node {node}"] for node in by_matrix} == dict(by_matrix)


def test_plain_communities_would_put_both_sides_of_a_gate_together():
    """Why this module is there."""
    matrix, _ = blocks(*GATES["AND"][:2])
    graph = nx.from_numpy_array(np.abs(matrix))
    assert nx.community.louvain_communities(graph, seed=0) != [{0, 1, 2}, {3, 4, 5, 6}]


def test_a_missing_edge_costs_stability_not_the_groups():
    matrix, group = blocks([6, 5], {(0, 1): 1})
    matrix[0, 7] = matrix[7, 0] = 0
    found = clusters(matrix)
    assert partition(found) == {frozenset(np.flatnonzero(group == g)) for g in (0, 1)}
    assert 0.5 < found.stability <= 1


def test_nothing_has_no_groups():
    for empty in (nx.Graph(), np.zeros((4, 4)), np.zeros((0, 0))):
        found = clusters(empty)
        assert found.groups == []
        assert len(found.gates) == 0
        assert set(found.values()) <= {-1}


def test_a_random_matrix_has_no_groups():
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=(16, 16))
        found = clusters(noise + noise.T, n_resample=1)
        assert found.groups == []
        assert found.method == "none"
        assert found.stability == 0
        assert min(found.lengths.values()) > 0.9 * found.lengths["no groups"]


def test_a_constant_matrix_is_one_group():
    found = clusters(np.full((6, 6), 2.5))
    assert found.groups == [[0, 1, 2, 3, 4, 5]]
    assert list(found.gates["gate"]) == ["OR"]


def test_a_node_that_interacts_with_nothing_is_in_no_group():
    matrix = np.zeros((3, 3))
    matrix[0, 2] = matrix[2, 0] = 1
    found = clusters(matrix)
    assert found[1] == -1
    assert {found[0], found[2]} == {0, 1}


WEIGHTLESS = nx.Graph([(1, 2)])
ASYMMETRIC = np.array([[0.0, 1.0], [0.75, 0.0]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.array([[0, np.nan], [np.nan, 0]]), "2 of 4 weights are NaN or infinite"),
        (ASYMMETRIC, "differ from their mirror by up to 0.25"),
        (np.zeros((2, 3)), r"shape \(2, 3\) was given; it must be square"),
        (WEIGHTLESS, "the edge 1, 2 has the weight None"),
        (nx.DiGraph([(1, 2)]), "a DiGraph was given"),
        (np.ones((1025, 1025)), "1025 nodes"),
        (np.array([[0, 1j], [1j, 0]]), "whose entries are not real"),
        (np.array([["a"]]), "whose entries are not real"),
        (nx.Graph([(1, 2, {"weight": 10**400})]), "2 of 4 weights are NaN or infinite"),
    ],
)
def test_what_has_no_groups_is_refused(given, said):
    with pytest.raises(CircuitsError, match=said):
        clusters(given)


def test_a_seed_that_is_none_is_refused():
    with pytest.raises(CircuitsError, match="seed = -1"):
        clusters(np.ones((3, 3)), seed=-1)
