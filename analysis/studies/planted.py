"""Layers with known gates: a test of what graphs find, before they are applied to a real layer.

Features are many more than dimensions, so every gate gives small weights to pairs of other features
too; they are random directions, of one of the shapes of ``geometries``, or a dictionary of your
own. A gate is a set of products between groups of features, with loadings between 0.75 and 1.25;
each feature is in one group. To the gates' form a noise form is added, whose norm is theirs over
``snr``: half of its energy is spread evenly, half is in a few products of directions that are not
features (distractors), or in a space that features share.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import pandas as pd
import torch
from torch import Tensor

from analysis.studies.geometries import GEOMETRIES, directions, without_pairs
from circuits.algebra.basis import Basis, rotated, shuffled
from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.interactions import Interactions
from circuits.arguments import checked
from circuits.errors import PlanError, check_count, number_faults
from circuits.graph.build import interaction_graph
from circuits.graph.matching_pursuit import known_pairs
from circuits.graph.significance import RotationNull
from circuits.groups.clusters import Clusters, clusters
from circuits.storage.progress import progress

KINDS = ("AND", "XOR", "OR", "inhibition", "three-way")
"""Gates that can be planted; "three-way" is three groups, each an AND with the other two."""


@dataclass(frozen=True)
class Planted:
    """What is planted in each output of a layer."""

    d_model: int = 64
    """Dimensions of the activation."""
    n_feature: int = 512
    """Features in them."""
    n_gates: int = 3
    """Gates of each output, of the kinds in turn; 0: noise alone."""
    snr: float = 3.0
    """Norm of the gates' form over the norm of the noise."""
    n_output: int = 1
    """Outputs, each with gates of its own."""
    largest: int = 4
    """Groups have from two to this many features."""
    n_distractors: int = 2
    """Products of random directions that hold half of the noise."""
    kinds: tuple[str, ...] = KINDS
    """The gates to plant, in turn."""
    geometry: str = "even"
    """The shape of the dictionary: one of ``GEOMETRIES``."""
    made_of: str = "written"
    """What gates are products of: the features' directions, or their "readers", the rows of the
    pseudoinverse."""
    noise: str = "even"
    """"even": spread and distractors; "shared": nine tenths in a space that features share."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        # features of one direction are all the same; groups have two features or more
        whole = {"d_model": 2, "n_feature": 1, "n_output": 1, "largest": 2}
        whole |= {"n_gates": 0, "n_distractors": 0}
        faults = number_faults(vars(self), whole, above_zero=["snr"])
        choices = {"geometry": GEOMETRIES, "made_of": ("written", "readers")}
        for name, known in (choices | {"noise": ("even", "shared")}).items():
            if (value := getattr(self, name)) not in known:
                faults.append(f"unknown {name} {value!r}; choose from {', '.join(known)}")
        if not self.kinds:
            faults.append("kinds is empty")
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            faults.append(f"unknown gate {', '.join(unknown)}; choose from {', '.join(KINDS)}")
        if not faults and self.n_gates * 3 * self.largest > self.n_feature:
            faults.append(
                f"{self.n_gates} gates of up to {3 * self.largest} features need more than the "
                f"{self.n_feature} there are"
            )
        if faults:
            raise PlanError(f"Planted: {'; '.join(faults)}. Change the sizes.")


@dataclass(eq=False)
class Truth:
    """The gates of one output."""

    weights: dict[tuple[int, int], float] = field(default_factory=dict)  # first ≤ second
    groups: list[list[int]] = field(default_factory=list)
    gates: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)  # kind, its groups


@checked
def plant(sizes: Planted, features: Basis | None = None) -> tuple[Interactions, list[Truth]]:
    """A layer with its dictionary, and the gates planted in each of its outputs. ``features`` are
    yours, in place of those that ``sizes`` describes."""
    generator = torch.Generator().manual_seed(sizes.seed)
    if features is None:
        shape = sizes.n_feature, sizes.d_model
        drawn = directions(sizes.geometry, *shape, generator)
        features = Basis.from_decoder(drawn.float(), least_squares=True)
    else:
        features = features.without_offset()
        sizes = replace(sizes, d_model=features.d_model, n_feature=features.n_feature)
    null = RotationNull.of(features)
    atoms = null.white * (null.sizes if sizes.made_of == "written" else 1 / null.sizes)
    atoms = atoms @ null.directions
    truths, forms = [], []
    for _ in range(sizes.n_output):
        truth = _gates(sizes, generator)
        form = _form(atoms, truth)
        noise = _noise(sizes, generator)
        if sizes.noise == "shared":
            noise = 0.1 * noise + 0.9 * without_pairs(null, generator)
            noise = noise / noise.norm()
        forms.append(form + noise * (float(form.norm()) / sizes.snr if sizes.n_gates else 1.0))
        truths.append(truth)
    values, vectors = torch.linalg.eigh(torch.stack(forms))
    factor = vectors.mT.flatten(0, 1).float()
    layer = BilinearLayer(factor, factor, torch.block_diag(*values[:, None]).float())
    outputs = Basis.identity(sizes.n_output)
    return Interactions(layer, features, outputs), truths


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _gates(sizes: Planted, generator: torch.Generator) -> Truth:
    truth = Truth()
    free = torch.randperm(sizes.n_feature, generator=generator).tolist()
    loading: dict[int, float] = {}

    def group() -> int:
        n = int(torch.randint(2, sizes.largest + 1, (1,), generator=generator))
        members = [free.pop() for _ in range(n)]
        drawn = 0.75 + 0.5 * torch.rand(n, dtype=torch.float64, generator=generator)
        loading.update(zip(members, drawn.tolist(), strict=True))
        truth.groups.append(members)
        return len(truth.groups) - 1

    parts = {
        "AND": (2, [(0, 1, 1)]),
        "inhibition": (2, [(0, 1, -1)]),
        "OR": (1, [(0, 0, 1)]),
        "XOR": (2, [(0, 0, 1), (1, 1, 1), (0, 1, -1)]),
        "three-way": (3, [(0, 1, 1), (0, 2, 1), (1, 2, 1)]),
    }
    for place in range(sizes.n_gates):
        kind = sizes.kinds[place % len(sizes.kinds)]
        n_groups, products = parts[kind]
        named = tuple(group() for _ in range(n_groups))
        for one, two, sign in products:
            # sign (Σ aᵢ fᵢ)(Σ bⱼ fⱼ), twice where the groups differ, as in (a + b)²
            for i, j in product(truth.groups[named[one]], truth.groups[named[two]]):
                if one != two or i <= j:
                    weight = sign * loading[i] * loading[j] * (1 if i == j else 2)
                    truth.weights[min(i, j), max(i, j)] = weight
        truth.gates.append((kind, named))
    return truth


def _form(write: Tensor, truth: Truth) -> Tensor:
    first, second = torch.tensor(list(truth.weights)).reshape(-1, 2).long().unbind(1)
    weight = torch.tensor(list(truth.weights.values()), dtype=torch.float64)
    built = (write[first] * weight[:, None]).mT @ write[second]
    return (built + built.mT) / 2


def _noise(sizes: Planted, generator: torch.Generator) -> Tensor:
    """A form of norm one."""
    spread = _normal(generator, sizes.d_model, sizes.d_model)
    spread = spread + spread.mT
    noise = spread / spread.norm()
    if sizes.n_distractors:
        one, two = _normal(generator, 2, sizes.n_distractors, sizes.d_model)
        distractors = one.mT @ two
        distractors = distractors + distractors.mT
        noise = noise + distractors / distractors.norm()
    return noise / noise.norm()


@checked
def edge_scores(
    found: Iterable[tuple[int, int]], planted: Iterable[tuple[int, int]]
) -> dict[str, float]:
    """Precision, recall and F1; precision is 1 if no edge is found, recall if none is planted."""
    found = {(min(i, j), max(i, j)) for i, j in found}
    planted = {(min(i, j), max(i, j)) for i, j in planted}
    correct = len(found & planted)
    both = len(found) + len(planted)
    return {
        "precision": correct / len(found) if found else 1.0,
        "recall": correct / len(planted) if planted else 1.0,
        "f1": 2 * correct / both if both else 1.0,
    }


@checked
def group_score(found: Clusters, planted: Sequence[Sequence[int]]) -> float:
    """The adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score

    truth = {node: name for name, members in enumerate(planted) for node in members}
    nodes = sorted({*truth, *(int(str(node)) for node in found)})
    # a node that one side lacks is a group of its own there
    sides = ([side.get(node, -1 - node) for node in nodes] for side in (truth, found))
    return float(adjusted_rand_score(*sides))


def _gates_named(found: Clusters, truth: Truth) -> float:
    """The share of planted gates whose groups were found and whose blocks have the gate's name."""
    table = found.gates
    named = {
        frozenset(row[:2]): row[2]
        for row in zip(*(table[c] for c in ("first", "second", "gate")), strict=True)
    }
    n_named = 0
    for kind, groups in truth.gates:
        wanted = "AND" if kind == "three-way" else kind
        places = [{found.get(node, -1) for node in truth.groups[group]} for group in groups]
        if all(len(place) == 1 for place in places):
            at = [place.pop() for place in places]
            blocks = [*combinations(at, 2)] or [(at[0], at[0])]
            n_named += all(named.get(frozenset(block)) == wanted for block in blocks)
    return n_named / len(truth.gates) if truth.gates else 1.0


@checked
def score(inter: Interactions, output: int, truth: Truth, q: float = 0.05) -> dict[str, float]:
    """How well one output's graph and groups match those that were planted. ``named`` is the share
    of the planted pairs that pass the test if they are named: what no search can exceed."""
    graph = interaction_graph(inter, output, significant=q)
    found = clusters(graph)
    scores = edge_scores(graph.edges, truth.weights)
    return {
        "n_planted": float(len(truth.weights)),
        "n_found": float(graph.number_of_edges()),
        **scores,
        "false": 1 - scores["precision"],
        "named": float((known_pairs(inter, output, truth.weights)["q"] <= q).mean())
        if truth.weights
        else 1.0,
        "ari": group_score(found, truth.groups) if truth.groups else float(not len(found)),
        "gates": _gates_named(found, truth),
    }


@checked
def calibrate(
    sizes: Planted,
    snrs: Sequence[float] = (1.0, 2.0, 3.0, 5.0),
    n_seeds: int = 5,
    q: float = 0.05,
    features: Basis | None = None,
) -> pd.DataFrame:
    """A row of scores for each SNR, means over seeds, then controls: noise alone, spread or in a
    space that features share, and the layer of the largest SNR with its dictionary rotated or its
    features shuffled. In them ``any``, the share of outputs with an edge, should be at most ``q``.
    ``features`` are a dictionary of yours."""
    check_count("calibrate", n_seeds, 10_000, "n_seeds")
    if not snrs:
        raise PlanError("calibrate: snrs is empty. Pass at least one, such as 3.")
    runs = [(snr, sizes.seed + seed) for snr in snrs for seed in range(n_seeds)]
    rows = []
    for snr, seed in progress(runs, "calibrating", "layer"):
        inter, truths = plant(replace(sizes, snr=snr, seed=seed), features)
        for output, truth in enumerate(truths):
            rows.append({"layer": f"snr {snr:g}", **score(inter, output, truth, q)})
    largest = max(snrs)
    for seed in progress(range(n_seeds), "controls", "layer"):
        here = replace(sizes, seed=sizes.seed + seed)
        planted, _ = plant(replace(here, snr=largest), features)
        inputs = planted.inputs
        controls = {
            "noise alone": plant(replace(here, n_gates=0, noise="even"), features)[0],
            "noise in a shared space": plant(replace(here, n_gates=0, noise="shared"), features)[0],
            "rotated": Interactions(planted.layer, rotated(inputs, seed), planted.outputs),
            "shuffled": Interactions(planted.layer, shuffled(inputs, seed), planted.outputs),
        }
        for name, inter in controls.items():
            for output in range(sizes.n_output):
                rows.append({"layer": name, **score(inter, output, Truth(), q)})
    table = pd.DataFrame(rows)
    by_layer = table.assign(any=table["n_found"] > 0).groupby("layer", sort=False)
    means = by_layer.mean()
    means.insert(0, "n", by_layer.size())
    return means.reset_index()
