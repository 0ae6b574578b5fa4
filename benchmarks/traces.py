"""What taking one node away changes, as predicted by a trace and by gradients, beside measured.

Nodes are active features of every layer's output dictionary, at every token of some texts; the
target is the likeliest next token's logit less that of the second. Measured: the model runs without
what the node writes, its attention patterns and norm scales fixed as they were (*frozen*) or not
(*free*). Each gradient is of the network that it is compared with.

Integrated gradients start where all features of the node's layer are zero, as is usual, or where
only the node is. Along the second path they are the ablation itself, by the fundamental theorem,
at the price of a pass for each step and node: no prediction, but the best that they can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from analysis.attribution.influence import influence
from analysis.attribution.network import attribution_graph
from analysis.attribution.removal import removal_effects
from analysis.attribution.writers import Writers
from benchmarks.behaviours import READY
from benchmarks.measure import machine, peak_memory, table
from circuits.corpus import Corpus, open_corpus
from circuits.model import Model, Site, load_model
from circuits.model.loading import ready_folder
from sae import Dictionary, load_dictionaries

SEED = 0
N_TRACED = 64  # tokens of the trace that is timed
N_ABLATIONS, N_TEXTS, N_TOKENS, N_STEPS = 500, 10, 24, 10
_FOLLOWED = 512
OURS, SHARES = "effect, of a trace", "influence, of a trace (sizes alone)"
MOVED = "effect, and to first order what it does to patterns and scales"
FROZEN, FREE = "frozen", "free"


def run(device: str, name: str | None = None, data: str | None = None) -> str:
    """The table; takes half a minute of one idle core."""
    name = name or READY
    model = load_model(name, device=device).in_dtype(torch.float64)
    dictionaries = {
        site.layer: dictionary.to(torch.float64)
        for site, dictionary in load_dictionaries(name, device=device).items()
        if site.point == "mlp_out"
    }
    ready = ready_folder(name)
    if data is None and ready is None:
        raise SystemExit("traces: name the model's text: --data TEXT")
    corpus = open_corpus(data or next((ready / "text").iterdir()))  # type: ignore[operator]
    rows = _texts(model, corpus.documents(0, 20 * N_TEXTS))
    draw = np.random.default_rng(SEED)
    each = N_ABLATIONS // len(rows)
    found = pd.concat([_Text.of(model, dictionaries, row, each, draw).table() for row in rows])
    head = (
        f"{machine()}. {model.n_layer} layers, {len(found)} ablations in {len(rows)} texts of "
        f"{N_TOKENS} tokens, seed {SEED}, float64; integrated gradients in {N_STEPS} steps."
    )
    return f"{head}\n\n{_compared(found)}\n\n{_cost(name, device, corpus)}"


def _cost(name: str, device: str, corpus: Corpus) -> str:
    """One trace of a longer text, as the command makes it."""
    model, dictionaries = load_model(name, device=device), load_dictionaries(name, device=device)
    texts = corpus.documents(0, 20 * N_TEXTS)
    text = next(some for one in texts if (some := _cut(model, one)) is not None)
    start = time.perf_counter()
    graph = attribution_graph(model, dictionaries, text)
    seconds, kept = time.perf_counter() - start, graph.kept
    widths = {each.n_feature for each in dictionaries.values()}
    return (
        f"One trace of {len(graph.tokens)} tokens, {model.n_layer} layers of {max(widths)} "
        f"features, in float32: {seconds:.1f} s; at most {peak_memory() / 2**30:.2f} GiB were "
        f"resident in the whole run. {len(graph.nodes)} nodes hold "
        f"{kept['influence of nodes']:.0%} of the influence, and {kept['through nodes alone']:.0%} "
        f"flows through these alone."
    )


def _cut(model: Model, text: str) -> str | None:
    """The beginning of a text that is as long as wanted in tokens, or a little less."""
    words = text.split()
    if model.tokens(text).shape[1] < N_TRACED:
        return None
    n = next(
        n for n in range(len(words)) if model.tokens(" ".join(words[: n + 1])).shape[1] > N_TRACED
    )
    return " ".join(words[:n])


def _texts(model: Model, texts: Any) -> list[Int64[Tensor, " pos"]]:
    """The beginnings of some texts, those that are long enough."""
    long = (row[:N_TOKENS] for row in (model.tokens(text)[0] for text in texts))
    return [row for row in long if len(row) == N_TOKENS][:N_TEXTS]


class _FixedNorm(nn.Module):
    """A norm that divides by what it divided by in one run."""

    def __init__(self, norm: Any, scale: Float[Tensor, " pos"]) -> None:
        super().__init__()
        self.weight, self.scale = norm.weight, scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """The activation over that scale."""
        return self.weight * x / self.scale


class _FixedAttention(nn.Module):
    """Attention that looks where it looked in one run."""

    def __init__(self, attention: Any, pattern: Float[Tensor, "head query key"]) -> None:
        super().__init__()
        self.v_proj, self.o_proj, self.pattern = attention.v_proj, attention.o_proj, pattern

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """What it adds to the stream, and the pattern."""
        n_head, width = len(self.pattern), self.o_proj.in_features // len(self.pattern)
        value = self.v_proj(hidden_states).unflatten(-1, (-1, width)).transpose(1, 2)
        value = value.repeat_interleave(n_head // value.shape[1], dim=1)
        mixed = (self.pattern @ value).transpose(1, 2).flatten(-2)
        return self.o_proj(mixed), self.pattern


def _frozen(model: Model, writers: Writers) -> Model:
    """The model with the patterns and scales of a text, whatever it runs on."""
    network, tokens = deepcopy(model.network), writers.paths.tokens
    sites = [Site(p, i) for i in range(model.n_layer) for p in ("resid_pre", "resid_mid")]
    streams = model.read(tokens[None], sites)
    for index, block in enumerate(network.model.layers):
        before, between = (streams[Site(p, index)][0] for p in ("resid_pre", "resid_mid"))
        block.input_layernorm = _FixedNorm(block.input_layernorm, model.scale(before))
        block.post_attention_layernorm = _FixedNorm(
            block.post_attention_layernorm, model.scale(between)
        )
        block.self_attn = _FixedAttention(block.self_attn, writers.paths.pattern(index))
    network.model.norm = _FixedNorm(network.model.norm, model.scale(writers.last))
    return replace(model, network=network, _replacing=[])


@dataclass(frozen=True)
class _Text:
    """Some nodes of one text, and what their layers write."""

    model: Model
    writers: Writers
    answers: tuple[int, int]
    nodes: pd.DataFrame  # number, layer, position
    vectors: Float[Tensor, "node model"]

    @classmethod
    def of(
        cls, model: Model, dictionaries: dict[int, Dictionary], tokens: Tensor, n: int, draw: Any
    ) -> _Text:
        """So many nodes of a text, those of the last layer only where the target reads them."""
        writers = Writers.of(model, dictionaries, tokens)
        first, second = model.logits(tokens[None])[0, -1].topk(2).indices.tolist()
        known = writers.table
        some = known[(known["kind"] == "feature") & ~known["empty"]]
        last = (some["layer"] == model.n_layer - 1) & (some["position"] < len(tokens) - 1)
        numbers = np.sort(draw.choice(some.index[~last].to_numpy(), n, replace=False))
        nodes = known.loc[numbers, ["layer", "position"]].assign(number=numbers)
        vectors = writers.last.new_zeros(n, model.d_model)
        for _, places, written, _ in writers.vectors(numbers):
            vectors[torch.as_tensor(places)] = written
        return cls(model, writers, (first, second), nodes.reset_index(drop=True), vectors)

    def table(self) -> pd.DataFrame:
        """Each node's measured and predicted effects, of both networks."""
        numbers = self.nodes["number"].to_numpy()
        last = len(self.writers.paths.tokens) - 1
        less = torch.zeros(self.model.n_token).to(self.writers.last)
        less[self.answers[1]] = 1.0
        top = torch.tensor([self.answers[0]], device=less.device)
        reads = self.writers.logits(top, less, last)
        ours = removal_effects(self.writers, reads, numbers)[0]
        shares = influence(self.writers, reads, _FOLLOWED).of[numbers]
        made = {OURS: ours, SHARES: torch.as_tensor(shares)}
        for what, model in ((FROZEN, _frozen(self.model, self.writers)), (FREE, self.model)):
            made[what] = self._measured(model)
            made[f"activation x gradient, {what}"] = self._by_gradient(model)
            made[f"integrated gradients from no feature of the layer, {what}"] = self._integrated(
                model
            )
            made[f"integrated gradients along the removal, {what}"] = self._along_itself(model)
        gradients = [made[f"activation x gradient, {what}"] for what in (FREE, FROZEN)]
        made[MOVED] = ours + gradients[0] - gradients[1]
        return pd.DataFrame({key: value.cpu().numpy() for key, value in made.items()})

    def _target(
        self, model: Model, n_row: int, edits: dict[int, Callable[[Tensor], Tensor]]
    ) -> Tensor:
        """The target in so many rows, each MLP's output edited."""
        tokens = self.writers.paths.tokens.expand(n_row, -1)
        with model.replaced({Site("mlp_out", layer): edit for layer, edit in edits.items()}):
            ends = torch.full((n_row,), tokens.shape[1] - 1)
            logits = model.logits_at(tokens, ends)
        return logits[:, self.answers[0]] - logits[:, self.answers[1]]

    def _by_layer(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The nodes of each layer: their places here and their positions."""
        for layer, rows in self.nodes.groupby("layer"):
            yield int(layer), torch.tensor(rows.index), torch.tensor(rows["position"].to_numpy())

    def _measured(self, model: Model) -> Float[Tensor, " node"]:
        whole, lost = self._target(model, 1, {}), self.vectors.new_zeros(len(self.vectors))
        for layer, places, positions in self._by_layer():
            taken = self._spread(places, positions)
            edits = {layer: lambda y, taken=taken: y - taken}
            lost[places] = whole - self._target(model, len(places), edits)
        return lost

    def _spread(self, places: Tensor, positions: Tensor) -> Float[Tensor, "row pos model"]:
        """What each node writes, as a change of its layer's output."""
        made = self.vectors.new_zeros(len(places), *self.writers.last.shape)
        made[torch.arange(len(places)), positions] = self.vectors[places]
        return made

    def _gradients(
        self, model: Model, layer: int, path: Float[Tensor, "row pos model"]
    ) -> Float[Tensor, "row pos model"]:
        """Of the target, with a layer's output moved so much in each row."""
        moved = path.clone().requires_grad_()
        target = self._target(model, len(path), {layer: lambda y: y + moved})
        (made,) = torch.autograd.grad(target.sum(), moved)
        return made

    def _by_gradient(self, model: Model) -> Float[Tensor, " node"]:
        made = self.vectors.new_zeros(len(self.vectors))
        for layer, places, positions in self._by_layer():
            there = self._gradients(model, layer, torch.zeros_like(self.writers.last)[None])
            made[places] = (there[0, positions] * self.vectors[places]).sum(1)
        return made

    def _integrated(self, model: Model) -> Float[Tensor, " node"]:
        made = self.vectors.new_zeros(len(self.vectors))
        left = 1 - _middles(made)
        for layer, places, positions in self._by_layer():
            block = self.writers.blocks[Site("mlp_out", layer)]
            features = block.vectors[:, :-2].sum(1)  # the last two are the offset and the error
            there = self._gradients(model, layer, -left[:, None, None] * features).mean(0)
            made[places] = (there[positions] * self.vectors[places]).sum(1)
        return made

    def _along_itself(self, model: Model) -> Float[Tensor, " node"]:
        made = self.vectors.new_zeros(len(self.vectors))
        left = 1 - _middles(made)
        for layer, places, positions in self._by_layer():
            taken = self._spread(places, positions)
            path = -(left[:, None, None, None] * taken).flatten(0, 1)
            there = self._gradients(model, layer, path).unflatten(0, (N_STEPS, -1)).mean(0)
            made[places] = (there * taken).sum((1, 2))
        return made


def _middles(like: Tensor) -> Float[Tensor, " step"]:
    """Of the steps from 0 to 1."""
    return ((torch.arange(N_STEPS) + 0.5) / N_STEPS).to(like)


def _compared(found: pd.DataFrame) -> str:
    """How each prediction goes with what was measured, frozen and free."""
    rows = []
    for method in found.drop(columns=[FROZEN, FREE]):
        cells, predicted = list[str](), found[method]
        for what in (FROZEN, FREE):
            measured = found[what].abs() if method == SHARES else found[what]
            error = (predicted - measured).abs().mean() / measured.abs().mean()
            cells += [
                f"{predicted.corr(measured, method=how):.3f}" for how in ("pearson", "spearman")
            ]
            cells.append("-" if method == SHARES else f"{error:.3f}")
        rows.append((method, *cells))
    columns = ("correlation", "of ranks", "error / change")
    header = [f"{what}: {name}" for what in (FROZEN, FREE) for name in columns]
    return table(rows, ("predicted by", *header))
