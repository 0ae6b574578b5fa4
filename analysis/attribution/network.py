"""The circuit of one text through the whole network, from the answers' logits to the tokens.

1. What is written in the run is split into pieces (`writers`): tokens, active features of each
   MLP's output dictionary, its errors, biases.
2. Influence flows back from the targets, layer by layer (`influence`).
3. The pieces of most influence stay, and between them the gates of most influence. What is left
   out is one row, ``rest``, of each node: every node's gates and edges still sum to its value.

Attention patterns and norm scales are data of this run. So a graph says how this run made its
answer, not what would have been without a node: then patterns and scales would change too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from analysis.attribution.influence import Influence, features_of, influence
from analysis.attribution.node_gates import Carried
from analysis.attribution.traced import AttributionGraph
from analysis.attribution.writers import Readings, Writers
from analysis.behaviour.in_model import single_tokens
from circuits.arguments import checked
from circuits.corpus.tokenizer import unknown_words
from circuits.errors import DictionaryError, ModelError, check_count, shorten
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary

N_NODES, N_GATES, N_FOLLOWED = 200, 500, 512
_ALIKE = 0.7  # mean cosine of what the nodes of a group add to others
_LEAST = 0.005  # of what a node reads, in sizes: smaller edges go into its rest


@checked
@torch.no_grad()
def attribution_graph(
    model: Model,
    dictionaries: Mapping[Site, Dictionary] | Sequence[Dictionary],
    text: str,
    targets: Sequence[str] | None = None,
    *,
    against: Sequence[str] = (),
    n_nodes: int = N_NODES,
    n_gates: int = N_GATES,
    n_followed: int = N_FOLLOWED,
) -> AttributionGraph:
    """How one text's answer is made: from the targets' logits after its last token to its tokens.

    ``targets`` are words, each a single token (without them the likeliest), with the same share of
    the influence each; the mean logit of ``against`` is subtracted from each. ``n_nodes`` and
    ``n_gates`` are kept; in each layer ``n_followed`` features are traced further back. A layer
    without a dictionary of ``mlp_out`` has its MLP as one node at each position, traced no further.
    """
    check_count("attribution_graph", n_nodes, None, "n_nodes")
    check_count("attribution_graph", n_gates, None, "n_gates")
    check_count("attribution_graph", n_followed, None, "n_followed")
    chosen, notes = _by_layer(model, dictionaries)
    tokens = _tokens(model, text)
    names, answers, less = _answers(model, text, tokens, targets, against)
    writers = Writers.of(model, chosen, tokens)
    last = len(tokens) - 1
    reads = writers.logits(answers, less, last)
    _check_ledger(writers, reads, answers, less)
    flow = influence(writers, reads, n_followed)
    kept = _kept(flow, names, n_nodes)
    traced = _Traced.of(flow, reads, names, kept)
    gates, edges = traced.gates(n_gates), traced.edges()
    shares, layers = _ends(flow), _layers(flow)
    spread = flow.through(kept)
    about = {
        "model": model.fingerprint,
        "dictionaries": {f"mlp_out@{i}": d.fingerprint for i, d in chosen.items()},
        "targets": names,
        "against": list(against),
        "n_nodes": n_nodes,
        "n_gates": n_gates,
        "n_followed": n_followed,
    }
    return AttributionGraph(
        text,
        tuple(model.token_texts(tokens.tolist())),
        traced.nodes(gates, edges),
        gates.drop(columns="weight"),
        edges,
        layers,
        shares,
        {
            "influence of nodes": float(flow.of[kept].sum() / flow.of.sum()),
            "through nodes alone": float(spread[kept & flow.ends].sum()),
            "influence of gates": float(gates["weight"][gates["kind"] != "rest"].sum())
            / max(float(gates["weight"].sum()), 1e-300),
        },
        tuple(notes),
        about,
    )


def _by_layer(
    model: Model, dictionaries: Mapping[Site, Dictionary] | Sequence[Dictionary]
) -> tuple[dict[int, Dictionary], list[str]]:
    """The dictionaries of mlp_out by layer, and what is to be said of the other layers."""
    given = dictionaries.values() if isinstance(dictionaries, Mapping) else dictionaries
    found: dict[int, Dictionary] = {}
    others: dict[int, list[str]] = {}
    for dictionary in given:
        site = dictionary.site_in(model, "attribution_graph")
        if site.point != "mlp_out":
            others.setdefault(site.layer, []).append(str(site))
            continue
        dictionary.check_autoencoder("attribution_graph")
        if site.layer in found:
            raise DictionaryError(
                f"attribution_graph: two dictionaries of {site} were given, and what an MLP writes "
                f"can be split in one way only. Pass one of them."
            )
        found[site.layer] = dictionary
    notes = []
    for layer in range(model.n_layer):
        if layer not in found:
            there = f"it has those of {', '.join(others[layer])}" if layer in others else "none"
            notes.append(
                f"layer {layer} has no dictionary of mlp_out@{layer} ({there}): its MLP is one "
                f"node at each position, and is traced no further back"
            )
    return found, notes


def _tokens(model: Model, text: str) -> Int64[Tensor, " pos"]:
    """The tokens of a text that the model knows and has the context for."""
    tokenizer = model.words("attribution_graph")
    tokens = model.tokens(text)[0]
    if len(tokens) > model.n_context:
        raise ModelError(
            f"attribution_graph: the text has {len(tokens)} tokens, and the model was trained on "
            f"at most {model.n_context}. Shorten the text."
        )
    if tokenizer.unk_token_id is not None and bool((tokens == tokenizer.unk_token_id).any()):
        words = unknown_words(tokenizer, text) or [text]
        raise ModelError(
            f"attribution_graph: the model does not know {shorten(f'{w!r:.40}' for w in words)}, "
            f"and an unknown token stands for any word. Use words of its training text."
        )
    return tokens


def _answers(
    model: Model,
    text: str,
    tokens: Int64[Tensor, " pos"],
    targets: Sequence[str] | None,
    against: Sequence[str],
) -> tuple[list[str], Int64[Tensor, " target"], Tensor | None]:
    """The targets' names and tokens, and the mixture of logits that is subtracted."""
    tokenizer = model.words("attribution_graph")
    wanted = list(targets or ())
    known = single_tokens(tokenizer, text, [*wanted, *against])
    if lost := [word for word in (*wanted, *against) if word not in known]:
        raise ModelError(
            f"attribution_graph: {shorten(map(repr, lost))} must be a single known token after the "
            f"text. Take another word, or its first piece."
        )
    numbers = [known[word] for word in dict.fromkeys(wanted)]
    if not wanted:
        last = torch.tensor([len(tokens) - 1])
        logits = model.logits_at(tokens[None], last)[0]
        numbers = [int(model.known_tokens[logits[model.known_tokens].argmax()])]
        wanted = [text.strip() or text for text in model.token_texts(numbers)]
    less = None
    if against:
        less = torch.zeros(model.n_token, device=model.device)
        for word in against:
            less[known[word]] += 1 / len(against)
        if set(against) == {wanted[0]}:
            raise ModelError(
                f"attribution_graph: {wanted[0]!r} against itself is always 0. Name other words "
                f"with against."
            )
    names = [f"logit {word}" for word in dict.fromkeys(wanted)]
    return names, torch.tensor(numbers, device=model.device), less


def _check_ledger(writers: Writers, reads: Readings, answers: Tensor, less: Tensor | None) -> None:
    """Refuse a model whose logits are not what its last stream adds up to."""
    logits = writers.model.logits_of(writers.last[reads.position]).to(writers.last)
    wanted = logits[answers] if less is None else logits[answers] - less.to(logits) @ logits
    made = reads.directions @ writers.last[reads.position]
    error = float((wanted - made).abs().max() / logits.abs().max())
    if not error < 1e-3:
        raise ModelError(
            f"attribution_graph: the logits are not linear in the last stream over its scale "
            f"(relative error {error:.2g}), so the graph would not add up. Look at the model's "
            f"last norm and its head."
        )


def _kept(flow: Influence, names: Sequence[str], n_nodes: int) -> Bool[np.ndarray, " writer"]:
    """The pieces of most influence; refused where they reach a target from nowhere."""
    eligible = np.flatnonzero((flow.ends | flow.followed) & (flow.of > 0))
    order = eligible[np.argsort(-flow.of[eligible], kind="stable")]
    kept = np.zeros(len(flow.of), dtype=bool)
    kept[order[: max(n_nodes - len(names), 0)]] = True
    for number, name in enumerate(names):
        one = Influence(flow.writers, flow.targets[number : number + 1], flow.layers, flow.of)
        if not one.through(kept)[kept & flow.ends].sum() > 0:
            raise ModelError(
                f"attribution_graph: {n_nodes} nodes do not lead from {name!r} back to a token or "
                f"any other start. Allow more nodes."
            )
    return kept


def _ends(flow: Influence) -> dict[str, float]:
    """Where influence ends, by kind of piece."""
    table = flow.writers.table
    open_ = (table["kind"] == "feature").to_numpy() & ~flow.followed
    shares = {}
    for kind in ("token", "error", "bias", "whole MLP"):
        shares[kind] = float(flow.of[(table["kind"] == kind).to_numpy()].sum())
    return {**shares, "not followed": float(flow.of[open_].sum())}


def _layers(flow: Influence) -> pd.DataFrame:
    """What reaches each layer, and where it goes."""
    table = flow.writers.table
    kind, layer, known = table["kind"].to_numpy(), table["layer"].to_numpy(), flow.followed
    rows = []
    for number in range(flow.writers.model.n_layer):
        sums = {"features": float(flow.of[(layer == number) & known].sum())}
        for name in ("error", "bias", "whole MLP"):
            sums[name] = float(flow.of[(layer == number) & (kind == name)].sum())
        left = (layer == number) & (kind == "feature") & ~known
        sums["not followed"] = float(flow.of[left].sum())
        rows.append({"layer": number, **sums})
    made = pd.DataFrame(rows)
    reached = made["features"] + made["not followed"] + made["error"]
    made["error share"] = made["error"] / reached.where(reached > 0, 1.0)
    return made


@dataclass(frozen=True, eq=False)
class _Traced:
    """The nodes that were kept, and what they are made of."""

    flow: Influence
    reads: Readings
    targets: Sequence[str]
    numbers: Int64[np.ndarray, " piece"]
    carried: Carried
    names: dict[int, str]

    @classmethod
    def of(
        cls, flow: Influence, reads: Readings, targets: Sequence[str], kept: np.ndarray
    ) -> _Traced:
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
        named = table["kind"] != "rest"
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
        kinds = np.where(firsts == seconds, "square", np.where(seconds == n, "linear", "pair"))
        kinds[firsts == n] = "constant"
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
        table = (
            writers.table.iloc[self.numbers]
            .drop(columns="empty")
            .assign(
                node=[self.names[number] for number in self.numbers.tolist()],
                influence=self.flow.of[self.numbers],
            )
        )
        values = (self.reads.directions @ writers.last[at]).tolist()
        tops = {"kind": "logit", "layer": writers.model.n_layer, "position": at, "feature": -1}
        top = pd.DataFrame(
            {**tops, "value": values, "node": list(self.targets), "influence": 1 / n}
        )
        table = table.sort_values("influence", ascending=False, kind="stable")
        made = pd.concat([top, table], ignore_index=True)
        texts = writers.model.token_texts(writers.paths.tokens.tolist())
        made["token"] = [texts[at] if at >= 0 else "" for at in made["position"]]
        sums, sizes = gates.groupby("node")["value"].sum(), gates["value"].abs()
        largest = sizes.groupby(gates["node"]).max()
        off = (made["node"].map(sums) - made["value"]).abs() / made["node"].map(largest)
        made["off_by"] = off
        made["group"] = _groups(list(made["node"]), edges)
        order = ["node", "kind", "layer", "position", "token", "feature", "value", "influence"]
        return made[[*order, "group", "off_by"]]


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
