"""Ways to propose groups of a matrix's rows. Communities are dense inside, so each is also split by
the signs and loadings of its own eigenpairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage

from circuits.groups.description_length import Blocks

_CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # cosine distances to cut a tree at

AGREE = 0.3
"""Rows of a smaller cosine have no reason to be in one group."""

Matrix = Float[np.ndarray, "node node"]
Labels = Int[np.ndarray, " node"]
Method = Callable[[Matrix, int, int | None], list[Labels]]


def tidy(labels: Labels) -> Labels:
    """The same groups, named in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def members_of(labels: Labels) -> list[tuple[int, ...]]:
    """The nodes of each group."""
    return [tuple(np.flatnonzero(labels == name).tolist()) for name in range(labels.max() + 1)]


def row_cosines(rows: Float[np.ndarray, "node axis"]) -> Matrix:
    """Between all rows."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(norms, 1e-12 * norms.max(initial=1e-300))
    return np.clip(unit @ unit.T, -1, 1)


def _tree_cuts(cosines: Matrix, n_groups: int | None) -> list[Labels]:
    """Average-linkage groups of rows that point the same way."""
    if len(cosines) == 1:
        return [np.zeros(1, dtype=np.int64)]
    above = np.triu_indices(len(cosines), 1)
    tree = linkage(np.maximum(1 - cosines[above], 0.0), method="average")
    found = [fcluster(tree, cut, criterion="distance").astype(np.int64) for cut in _CUTS]
    if n_groups is None:
        return found
    return [min(found, key=lambda labels: abs(len(np.unique(labels)) - n_groups))]


def _loadings(matrix: Matrix) -> Float[np.ndarray, "node rank"]:
    """Each node's loadings on the eigenpairs that hold 95 % of the energy."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-np.abs(values), kind="stable")
    shares = np.cumsum(values[order] ** 2) / max(float((values**2).sum()), 1e-300)
    kept = order[: int(np.searchsorted(shares, 0.95)) + 1]
    return vectors[:, kept] * np.abs(values[kept])


def _communities(weights: Matrix, find: Callable[[nx.Graph], Any]) -> Labels:
    graph = nx.from_numpy_array(weights)
    labels = np.arange(len(weights))
    for name, members in enumerate(find(graph) if graph.number_of_edges() else []):
        labels[list(members)] = len(weights) + name
    return tidy(labels)


def _similarity(matrix: Matrix) -> Matrix:
    cosines = row_cosines(matrix)
    np.fill_diagonal(cosines, 0.0)
    return np.where(cosines > AGREE, cosines, 0.0)


def _louvain(seed: int) -> Callable[[nx.Graph], Any]:
    return lambda graph: nx.community.louvain_communities(graph, weight="weight", seed=seed)


def _greedy(graph: nx.Graph) -> Any:
    return nx.community.greedy_modularity_communities(graph, weight="weight")


def _split(matrix: Matrix, communities: Labels) -> list[Labels]:
    """Communities as they are, and each split by the signs and loadings of its own eigenpairs."""
    labels, n_named = np.zeros(len(matrix), dtype=np.int64), 0
    for members in members_of(communities):
        inside = matrix[np.ix_(members, members)]
        parts = [tidy(part) for part in _tree_cuts(row_cosines(_loadings(inside)), None)]
        if inside.any():
            blocks = Blocks(inside)
            best = min(parts, key=lambda part: blocks.description_length(members_of(part)))
        else:
            best = np.arange(len(members))
        labels[list(members)] = best + n_named
        n_named += len(members)
    return [communities, labels]


def _by_coclustering(matrix: Matrix, seed: int, n_groups: int | None) -> list[Labels]:
    from sklearn.cluster import SpectralCoclustering
    from sklearn.exceptions import ConvergenceWarning

    if len(matrix) < 3:
        return [np.arange(len(matrix))]
    if n_groups is None:
        tried = {len(np.unique(labels)) for labels in _tree_cuts(row_cosines(matrix), None)}
        counts = sorted(tried & set(range(2, len(matrix) // 2 + 1)))[:4] or [2]
    else:
        counts = [min(max(n_groups, 2), len(matrix) - 1)]
    found = []
    for count in counts:
        model = SpectralCoclustering(count, random_state=seed, n_init=3)
        with warnings.catch_warnings():  # it may find fewer clusters than requested
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(model.fit(np.abs(matrix)).row_labels_.astype(np.int64))
    return found


METHODS: Mapping[str, Method] = {
    "no groups": lambda matrix, seed, n: [np.arange(len(matrix))],
    "eigenpairs": lambda matrix, seed, n: _tree_cuts(row_cosines(_loadings(matrix)), n),
    "rows": lambda matrix, seed, n: _tree_cuts(row_cosines(matrix), n),
    "louvain of rows": lambda matrix, seed, n: [_communities(_similarity(matrix), _louvain(seed))],
    "greedy modularity of rows": lambda matrix, seed, n: [
        _communities(_similarity(matrix), _greedy)
    ],
    "louvain": lambda matrix, seed, n: _split(matrix, _communities(np.abs(matrix), _louvain(seed))),
    "greedy modularity": lambda matrix, seed, n: _split(
        matrix, _communities(np.abs(matrix), _greedy)
    ),
    "spectral co-clustering": _by_coclustering,
}
