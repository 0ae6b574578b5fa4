"""Groups of features with the same role, and the gate that each pair of groups forms.

The matrix of an AND gate is bipartite and signed: ``u vᵀ + v uᵀ``, with nothing inside the groups,
so communities, which are dense inside, do not describe it. Two features are in one group where
their rows agree, sign and all: the same partners, to the same effect.

1. Nodes are put in an order that follows from the matrix alone.
2. Seven methods propose groups (``circuits.groups.proposals``).
3. The proposal with the shortest description of the matrix is chosen, and single nodes are moved
   while that shortens it. Where none is shorter than loadings without groups, or no two nodes of
   a dense matrix go together, there are no groups: the method is "none".
4. Stability: the chosen method runs again, each time with a tenth of the edges left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import networkx as nx
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import GraphError, TensorError, check_count, check_index
from circuits.groups.description_length import Blocks
from circuits.groups.gates import gate_table
from circuits.groups.proposals import (
    AGREE,
    METHODS,
    Labels,
    Matrix,
    Method,
    members_of,
    row_cosines,
    tidy,
)

_MOST = 1024  # nodes
_MOST_RUNS = 100_000  # of a method, for the stability


@dataclass(frozen=True, eq=False)
class Clusters(Mapping[Hashable, int]):
    """Node → group, with its stability and the groups' gates; groups count from 0, the largest
    share of the energy first. A node that interacts with nothing is in group −1.

    >>> graph = nx.Graph()
    >>> graph.add_weighted_edges_from((i, j, 1.0) for i in (1, 2) for j in (3, 4, 5))
    >>> found = clusters(graph)
    >>> found[1] == found[2], found[1] == found[3], list(found.gates["gate"])
    (True, False, ['AND'])
    """

    nodes: pd.DataFrame  # node, group, loading, stability
    gates: pd.DataFrame  # first, second (groups), gate, weight, share, coherence
    method: str  # whose groups were chosen
    lengths: Mapping[str, float]  # of the description by each method's groups, in nats
    seed: int

    @property
    def stability(self) -> float:
        """The mean over nodes in groups; 0 where there are none, although the matrix has edges."""
        inside = self.nodes[self.nodes["group"] >= 0]
        return float((inside if len(inside) else self.nodes)["stability"].mean())

    @property
    def groups(self) -> list[list[Hashable]]:
        """The nodes of each group."""
        inside = self.nodes[self.nodes["group"] >= 0]
        return [list(members["node"]) for _, members in inside.groupby("group")]

    def __getitem__(self, node: Hashable) -> int:
        return self._group_of[node]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._group_of)

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def _group_of(self) -> dict[Hashable, int]:
        return dict(zip(self.nodes["node"], self.nodes["group"].tolist(), strict=True))


@checked
def clusters(
    graph: nx.Graph | Tensor | np.ndarray, seed: int = 0, n_resample: int = 10
) -> Clusters:
    """The groups of a signed graph (edge attribute ``weight``, or ``own`` where all edges have it;
    a pair's weight is twice its entry of the matrix) or of a symmetric matrix; they depend on the
    seed, not on the order of the nodes."""
    check_count("clusters", n_resample, _MOST_RUNS, "n_resample")
    check_index("clusters", seed, 2**32, "seed")
    names, given = _matrix_of(graph)
    alive = np.flatnonzero((given != 0).any(1))
    order = alive[_canonical(given[np.ix_(alive, alive)])]
    matrix = given[np.ix_(order, order)]
    if not len(matrix):
        return _result(names, given, np.full(len(names), -1), np.ones(len(names)), "none", {}, seed)
    matrix = matrix / np.abs(matrix).max()
    blocks = Blocks(matrix)
    lengths: dict[str, float] = {}
    best: tuple[float, str, Labels] | None = None
    for method, propose in METHODS.items():
        found = [tidy(labels) for labels in propose(matrix, seed, None)]
        scored = [(blocks.description_length(members_of(labels)), labels) for labels in found]
        length, labels = min(scored, key=lambda pair: pair[0])
        lengths[method] = length
        if best is None or length < best[0] - 1e-9 * abs(best[0]):
            best = (length, method, labels)
    assert best is not None
    _, method, labels = best
    labels = _refine(blocks, labels)
    if not _has_groups(blocks, labels):
        nowhere = np.full(len(names), -1)
        return _result(names, given, nowhere, np.zeros(len(names)), "none", lengths, seed)
    stability = _stability(matrix, labels, METHODS[method], seed, n_resample)
    group, sure = np.full(len(names), -1), np.ones(len(names))
    group[order], sure[order] = labels, stability
    return _result(names, given, group, sure, method, lengths, seed)


def _matrix_of(graph: nx.Graph | Tensor | np.ndarray) -> tuple[list[Hashable], Matrix]:
    if isinstance(graph, nx.Graph):
        if graph.is_directed() or graph.is_multigraph():
            raise GraphError(
                f"clusters: a {type(graph).__name__} was given; weights must be symmetric and one "
                f"for each pair. Pass the graph of one output, or matrix(output)."
            )
        names = list(graph)
        place = {name: i for i, name in enumerate(names)}
        matrix = np.zeros((len(names), len(names)))
        has_own = all("own" in about for *_, about in graph.edges(data=True))
        for i, j, weight in graph.edges(data="own" if has_own else "weight"):
            if not isinstance(weight, Real):
                raise GraphError(
                    f"clusters: the edge {i!r}, {j!r} has the weight {weight!r}. Give each "
                    f"edge a number 'weight'; its sign decides the gate."
                )
            try:
                entry = float(weight) if i == j else float(weight) / 2
            except OverflowError:  # a whole number beyond the largest float
                entry = math.inf
            matrix[place[i], place[j]] = matrix[place[j], place[i]] = entry
    else:
        if isinstance(graph, Tensor) and not (graph.is_complex() or graph.dtype == torch.bool):
            graph = graph.detach().cpu().double().numpy()
        matrix = np.asarray(graph)
        if matrix.dtype.kind not in "fiu":
            raise GraphError(
                f"clusters: a {type(graph).__name__} was given, whose entries are not real "
                f"numbers. Pass a networkx.Graph or a symmetric matrix."
            )
        matrix = matrix.astype(np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise GraphError(
                f"clusters: a matrix of shape {matrix.shape} was given; it must be square, with a "
                f"row and a column for each node."
            )
        names = list(range(len(matrix)))
    if not np.isfinite(matrix).all():
        raise TensorError(
            f"clusters: {int((~np.isfinite(matrix)).sum())} of {matrix.size} weights are NaN or "
            f"infinite, and so would be every group. Look at where they were computed."
        )
    asymmetry = float(np.abs(matrix - matrix.T).max(initial=0.0))
    if asymmetry > 1e-4 * float(np.abs(matrix).max(initial=0.0)):
        raise GraphError(
            f"clusters: the matrix is not symmetric (entries differ from their mirror by up to "
            f"{asymmetry:.3g}), so a pair has two weights. Pass (matrix + matrix.T) / 2."
        )
    if (n_alive := int((matrix != 0).any(1).sum())) > _MOST:
        raise GraphError(
            f"clusters: {n_alive} nodes that interact; so many take too long and "
            f"cannot be read. Pass the graph of an output's strongest or significant "
            f"pairs (at most {_MOST} nodes)."
        )
    return names, (matrix + matrix.T) / 2


def _canonical(matrix: Matrix) -> Int[np.ndarray, " node"]:
    """An order of the nodes that follows from the matrix: by their rows' sorted entries, refined by
    those of their partners. Nodes that this cannot separate keep their order."""
    scale = np.abs(matrix).max(initial=0.0) or 1.0
    rounded = np.round(matrix / scale, 9)
    colour = np.zeros(len(matrix), dtype=np.int64)
    for _ in range(4 if len(matrix) else 0):
        keys = []
        for i, row in enumerate(rounded):
            partners = np.lexsort((colour, row))
            keys.append((rounded[i, i], *row[partners], *colour[partners], colour[i]))
        table = np.array(keys)
        colour = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    return np.argsort(colour, kind="stable")


def _refine(blocks: Blocks, labels: Labels) -> Labels:
    """Move single nodes and merge groups while that shortens the description."""
    cosines = row_cosines(blocks.matrix)
    length = blocks.description_length(members_of(labels))
    for _ in range(4):
        before = length
        for node in range(len(labels)):
            near = cosines[node] > AGREE
            near[node] = False
            for other in np.unique(labels[near]).tolist():
                if other != labels[node]:
                    length, labels = _if_shorter(blocks, length, labels, [node], other)
        for name in range(labels.max(initial=0), 0, -1):
            members = np.flatnonzero(labels == name).tolist()
            near = (cosines[members] > AGREE).any(0) if members else np.zeros(len(labels), bool)
            for other in np.unique(labels[near]).tolist():
                if other != name:
                    length, labels = _if_shorter(blocks, length, labels, members, other)
        if length >= before - 1e-9 * abs(before):
            break
    return tidy(labels)


def _has_groups(blocks: Blocks, labels: Labels) -> bool:
    """Whether the matrix is shorter to describe by these groups than without any."""
    n = len(labels)
    if labels.max() + 1 == n and np.count_nonzero(np.triu(blocks.matrix)) > 2 * n:
        return False
    groups = members_of(labels)
    by_groups = min(blocks.description_length(groups), blocks.one_loading_each(groups))
    return by_groups <= blocks.without_groups()


def _if_shorter(
    blocks: Blocks, length: float, labels: Labels, moved: list[int], to: int
) -> tuple[float, Labels]:
    trial = labels.copy()
    trial[moved] = to
    new = blocks.description_length(members_of(tidy(trial)))
    return (new, trial) if new < length - 1e-9 * abs(length) else (length, labels)


def _stability(
    matrix: Matrix, labels: Labels, method: Method, seed: int, n_resample: int
) -> Float[np.ndarray, " node"]:
    """How much of a node's group is found again (Jaccard) with a tenth of the edges left out."""
    generator = np.random.default_rng(seed)
    n_groups = int(labels.max()) + 1
    together = labels[:, None] == labels
    agreement = np.zeros(len(matrix))
    for _ in range(n_resample):
        drawn = np.triu(generator.random(matrix.shape) >= 0.1)
        again = method(np.where(drawn | drawn.T, matrix, 0.0), seed, n_groups)[-1]
        now = again[:, None] == again
        agreement += (together & now).sum(1) / (together | now).sum(1)
    return agreement / n_resample


def _result(
    names: list[Hashable],
    matrix: Matrix,
    group: Labels,
    stability: Float[np.ndarray, " node"],
    method: str,
    lengths: dict[str, float],
    seed: int,
) -> Clusters:
    """Groups numbered by their share of the energy, with their gates."""
    order: list[int] = []
    if (group >= 0).any():
        energy = (matrix**2).sum(1)
        share = [float(np.sort(energy[group == name]).sum()) for name in range(group.max() + 1)]
        share = [float(f"{one:.9e}") for one in share]
        order = sorted(range(len(share)), key=lambda name: (-share[name], name))
    renamed = np.full(len(group), -1)
    for new, old in enumerate(order):
        renamed[group == old] = new
    gates, loading = gate_table(matrix, renamed)
    nodes = pd.DataFrame(
        {"node": names, "group": renamed, "loading": loading, "stability": stability}
    )
    return Clusters(nodes, gates, method, lengths, seed)
