"""The nodes of a pruned graph as tables: their gates, their edges, and what was left out of each.

Of each node the gates and edges that are not listed are summed in a row ``rest``, so that either
table adds up to the node's value whatever the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from analysis.attribution.influence import Influence, features_of
from analysis.attribution.node_gates import Carried
from analysis.attribution.removal import removal_effects
from analysis.attribution.writers import Readings
from sae.features.effects import logit_effects

_N_PROMOTED = 3  # tokens of each feature
_ALIKE = 0.7  # mean cosine of what the nodes of a group add to others
_LEAST = 0.005  # of what a node reads, in sizes: smaller edges go into its rest


@dataclass(frozen=True, eq=False)
class KeptNodes:
    """The nodes of a pruned graph, and what they are made of."""

    flow: Influence
    reads: Readings
    targets: Sequence[str]
    numbers: Int64[np.ndarray, " piece"]
    carried: Carried
    names: dict[int, str]

    @classmethod
    def of(
        cls, flow: Influence, reads: Readings, targets: Sequence[str], kept: np.ndarray
    ) -> KeptNodes:
        """Of the pieces that are kept."""
        numbers = np.flatnonzero(kept)
        names = {int(number): flow.writers.name(int(number)) for number in numbers}
        return cls(flow, reads, targets, numbers, Carried(flow.writers, numbers), names)

    def _features(self) -> Iterable[tuple[int, int, Int64[np.ndarray, " node"]]]:
        """The kept features by layer and position."""
        table = self.flow.writers.table.iloc[self.numbers]
        for (layer, at), rows in table[table["kind"] == "feature"].groupby(["layer", "position"]):
            yield int(layer), int(at), rows.index.to_numpy()

    def gates(self, most: int) -> pd.DataFrame:
        """The gates of most influence, and of each node the sum of its others."""
        tables = [self._linear_gates()]
        writers = self.flow.writers
        for layer, at, numbers in self._features():
            features = features_of(writers, writers.table.iloc[numbers])
            levels = writers.level(layer, features).tolist()
            products = writers.gates(layer, features)
            for number, gates, level in zip(numbers.tolist(), products, levels, strict=True):
                form = self.carried.pairs(layer, at, gates).double().cpu().numpy()
                tables.append(self._pair_gates(number, form, level, most))
        table = pd.concat(tables, ignore_index=True)
        named = (table["kind"] != "rest") & (table["value"] != 0)
        weight = table["weight"].where(named, -1.0).to_numpy()
        chosen = np.zeros(len(table), dtype=bool)
        chosen[np.argsort(-weight, kind="stable")[:most]] = True
        chosen &= named.to_numpy()
        left = table[~chosen].groupby("node", sort=False)[["value", "weight"]].sum().reset_index()
        left = left.assign(kind="rest", first="", second="")
        made = pd.concat([table[chosen], left[table.columns]], ignore_index=True)
        return made.sort_values("weight", ascending=False, kind="stable", ignore_index=True)

    def _linear_gates(self) -> pd.DataFrame:
        """What each kept piece adds to each target."""
        names = [self.names[number] for number in self.numbers.tolist()]
        tables = []
        for name, row in zip(self.targets, self.flow.targets.double().cpu().numpy(), strict=True):
            scale = 1 / (len(self.targets) * max(np.abs(row).sum(), 1e-300))
            other = np.delete(row, self.numbers)
            values = np.append(row[self.numbers], other.sum())
            weights = np.append(np.abs(row[self.numbers]), np.abs(other).sum()) * scale
            kinds = ["linear"] * len(names) + ["rest"]
            columns = {"node": name, "kind": kinds, "first": [*names, ""], "second": "",
                       "value": values, "weight": weights}  # fmt: skip
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def _pair_gates(self, number: int, form: np.ndarray, level: float, most: int) -> pd.DataFrame:
        """The strongest gates of one feature, and the sum of its others."""
        n = len(self.numbers)
        first, second = np.triu_indices(len(form))
        values = form[first, second] * np.where(first == second, 1.0, 2.0)
        inside = second <= n  # the last part is all that is not kept
        sizes = np.abs(values)
        scale = self.flow.of[number] / max(sizes.sum() + abs(level), 1e-300)
        order = np.flatnonzero(inside & (sizes > 0))
        order = order[np.argsort(-sizes[order], kind="stable")[:most]]
        others = np.ones(len(values), dtype=bool)
        others[order] = False
        names = [self.names[i] for i in self.numbers.tolist()] + [""]
        firsts, seconds = first[order], second[order]
        kinds = np.where(seconds == n, "linear", np.where(firsts == seconds, "square", "pair"))
        kinds = np.where(firsts == n, "constant", kinds)  # of two constants
        columns: dict[str, Any] = {
            "node": self.names[number],
            "kind": [*kinds.tolist(), "constant", "rest"],
            "first": [*(names[i] for i in firsts), "", ""],
            "second": [*(names[i] for i in seconds), "", ""],
            "value": [*values[order], level, values[others].sum()],
            "weight": [*(sizes[order] * scale), abs(level) * scale, sizes[others].sum() * scale],
        }
        return pd.DataFrame(columns)

    def edges(self) -> pd.DataFrame:
        """What each kept piece adds to each node, with the head that moved most of it last."""
        rows = list(self._edges_of(self.reads, self.flow.targets, list(self.targets)))
        writers = self.flow.writers
        for layer, at, numbers in self._features():
            reads = writers.features(layer, at, features_of(writers, writers.table.iloc[numbers]))
            known = self.flow.layers[layer]
            places = torch.as_tensor(np.searchsorted(known.numbers, numbers))
            nodes = [self.names[number] for number in numbers.tolist()]
            rows += self._edges_of(reads, known.contributions[places], nodes)
        return pd.DataFrame(rows, columns=["source", "node", "value", "way", "way_value"])

    def _edges_of(
        self, reads: Readings, contributions: Tensor, nodes: Sequence[str]
    ) -> Iterable[tuple[str, str, float, str, float]]:
        ways, moved = self.carried.ways(reads)
        values = contributions.double().cpu().numpy()
        most = moved.abs().argmax(2).cpu().numpy()
        moved_ = moved.double().cpu().numpy()
        for row, node in enumerate(nodes):
            sizes = np.abs(values[row])
            shown = sizes[self.numbers] >= _LEAST * sizes.sum()
            for place in np.flatnonzero(shown & (sizes[self.numbers] > 0)).tolist():
                number, way = int(self.numbers[place]), int(most[row, place])
                constant = number >= self.flow.writers.constant(0)
                yield (
                    self.names[number],
                    node,
                    float(values[row, number]),
                    "constant" if constant else ways[way],
                    float(values[row, number] if constant else moved_[row, place, way]),
                )
            rest = np.delete(values[row], self.numbers[shown]).sum()
            yield "rest", node, float(rest), "", 0.0

    def nodes(self, gates: pd.DataFrame, edges: pd.DataFrame) -> pd.DataFrame:
        """The kept nodes, those of most influence first after the targets."""
        writers, n = self.flow.writers, len(self.targets)
        at = self.reads.position
        effects = removal_effects(writers, self.reads, self.numbers).mean(0)
        table = (
            writers.table.iloc[self.numbers]
            .drop(columns="empty")
            .assign(
                node=[self.names[number] for number in self.numbers.tolist()],
                influence=self.flow.of[self.numbers],
                effect=effects.double().cpu().numpy(),
                net=self.flow.net[self.numbers],
            )
        )
        values = (self.reads.directions @ writers.last[at]).tolist()
        tops = {"kind": "logit", "layer": writers.model.n_layer, "position": at, "feature": -1}
        top = pd.DataFrame(
            {
                **tops,
                "value": values,
                "node": list(self.targets),
                "influence": 1 / n,
                "net": 1 / n,
            }
        )
        table = table.sort_values("influence", ascending=False, kind="stable")
        made = pd.concat([top, table], ignore_index=True)
        texts = writers.model.token_texts(writers.paths.tokens.tolist())
        made["token"] = [texts[at] if at >= 0 else "" for at in made["position"]]
        sums, sizes = gates.groupby("node")["value"].sum(), gates["value"].abs()
        largest = sizes.groupby(gates["node"]).max()
        off = (made["node"].map(sums) - made["value"]).abs() / made["node"].map(largest)
        made["off_by"] = off
        weights = gates["weight"].groupby(gates["node"]).sum()
        named = gates["weight"].where(gates["kind"] != "rest", 0.0).groupby(gates["node"]).sum()
        made["kept"] = made["node"].map(named / weights)
        made["group"] = _groups(list(made["node"]), edges)
        order = ["node", "kind", "layer", "position", "token", "feature", "value", "influence"]
        made["promotes"] = self._promotes(made)
        return made[[*order, "effect", "net", "kept", "promotes", "group", "off_by"]]

    def _promotes(self, nodes: pd.DataFrame) -> list[str]:
        """The tokens whose logits each feature raises most by its direct path, as it is here."""
        writers = self.flow.writers
        n = min(_N_PROMOTED, len(writers.model.known_tokens))
        found = {}
        for layer, rows in nodes[nodes["kind"] == "feature"].groupby("layer"):
            dictionary = writers.dictionaries[int(layer)]
            table = logit_effects(dictionary, writers.model, sorted(set(rows["feature"])), n)
            for (feature, side), tokens in table.groupby(["feature", "side"])["token"]:
                found[layer, feature, side] = " ".join(tokens)
        sides = np.where(nodes["value"] < 0, "bottom", "top")
        places = zip(nodes["layer"], nodes["feature"], sides, strict=True)
        return [found.get(place, "") for place in places]


def _groups(nodes: Sequence[str], edges: pd.DataFrame) -> list[int]:
    """Nodes that add to the same nodes in the same proportions, sign and all; −1: alone."""
    place = {node: number for number, node in enumerate(nodes)}
    inside = edges[edges["source"].isin(place)]
    adds = np.zeros((len(nodes), len(nodes)))
    adds[inside["source"].map(place), inside["node"].map(place)] = inside["value"]
    adds /= np.maximum(np.abs(adds).max(0), 1e-300)  # every reader counts alike
    some = np.flatnonzero((adds != 0).any(1))
    group = np.full(len(nodes), -1)
    if len(some) > 1:
        tree = linkage(adds[some], "average", metric="cosine")
        found = fcluster(tree, 1 - _ALIKE, "distance")
        _, first, members = np.unique(found, return_index=True, return_counts=True)
        several = [found[at] for at in np.sort(first[members > 1])]
        numbers = {label: number for number, label in enumerate(several)}
        group[some] = [numbers.get(label, -1) for label in found]
    return [int(number) for number in group]
