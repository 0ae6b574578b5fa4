"""A pretrained gated model made bilinear, layer by layer: what the weights alone show of it.

The gate's SiLU is turned into the identity while the model trains on, ``x * sigmoid(b x)`` with b
from 1 to 0, and the half that remains goes into the weights. Then one dictionary before and one
after every MLP; outputs with a significant pair, beside features turned at random; proposals; and
low rank, beside directions that are no features.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from analysis import propose_circuits, rank_curve
from analysis.lowrank.curve import RankCurve
from benchmarks.measure import machine, table
from circuits import Interactions
from circuits.algebra.basis import rotated
from circuits.corpus import open_corpus
from circuits.corpus.batches import BatchPlan, batches
from circuits.corpus.documents import Corpus, split_corpus
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import RotationNull
from circuits.model import Model, Site, load_model
from circuits.model.llama import write
from circuits.model.site import mlp_sites
from sae import Dictionary, TrainingPlan, train_saes

N_STEPS = 800
_FADES = 0.6  # share of the steps in which the gate's SiLU fades
_RATE = 2e-3
PLAN = BatchPlan(n_rows=32, window=256)
N_FEATURES, K, N_TOKENS = 512, 12, 2_000_000
N_PROPOSALS = 10
_DOCUMENTS = 1000  # held out, that low rank and losses are measured on
Q = 0.05


class _Fading(torch.nn.Module):
    """``x * sigmoid(b x)``: SiLU at b = 1, half the identity at b = 0."""

    b = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b * x)


def run(device: str, model: str | None, text: str | None) -> str:
    """The tables; takes about ten minutes on two cores for a model of width 64."""
    if model is None or text is None:
        raise SystemExit("pretrained: name a model and its text: --model FOLDER --data TEXT")
    corpus = open_corpus(text)
    train, held_out = split_corpus(corpus)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        losses = made_bilinear(Path(model), train, held_out or train, folder / "twin", device)
        twin = load_model(folder / "twin", device=device)
        sites = [site for layer in range(twin.n_layer) for site in mlp_sites(layer)]
        plan = TrainingPlan(
            sites=tuple(map(str, sites)), n_features=N_FEATURES, k=K, n_tokens=N_TOKENS
        )
        dictionaries = train_saes(twin, corpus, plan, folder / "saes", device=device)
        rows = [_layer(twin, dictionaries, layer) for layer in range(twin.n_layer)]
        ranks = [
            _rank(layer, reader, rank_curve(twin, dictionaries, layer, held_out, reader=reader,
                                            n_documents=_DOCUMENTS))
            for layer in range(twin.n_layer) for reader in ("encoder", "pinv")
        ]  # fmt: skip
    head = (
        f"{machine()}, seed 0. {twin.n_layer} layers, width {twin.d_model}; {N_STEPS} steps of "
        f"{PLAN.n_rows} rows of {PLAN.window}; {N_FEATURES} features, k = {K}, {N_TOKENS} tokens. "
        f"Loss on held-out text: {losses[0]:.3f} as it came, {losses[1]:.3f} bilinear."
    )
    return "\n\n".join([head, table(rows, _HEAD), table(ranks, _RANK_HEAD)])


def made_bilinear(
    model: Path, train: Corpus, held_out: Corpus, out: Path, device: str
) -> tuple[float, float]:
    """Writes the bilinear model; the held-out losses before and after."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, trust_remote_code=False
    ).to(device)
    tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    before = _loss(network, held_out, tokenizer)
    fading = _Fading()
    for block in network.model.layers:
        block.mlp.act_fn = fading
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, betas=(0.9, 0.95))
    for step, batch in zip(range(N_STEPS), batches(train, tokenizer, PLAN), strict=False):
        fading.b = max(0.0, 1 - step / (_FADES * N_STEPS))
        warm, done = min(1.0, (step + 1) / 50), step / N_STEPS
        for group in optimizer.param_groups:
            group["lr"] = _RATE * warm * 0.5 * (1 + math.cos(math.pi * done))
        loss = _loss_of(network, batch.tokens.to(device), batch.mask.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    fading.b = 0.0
    after = _loss(network, held_out, tokenizer)
    with torch.no_grad():
        for block in network.model.layers:
            block.mlp.up_proj.weight /= 2
    network.config.hidden_act = "linear"
    out.mkdir()
    write(network, tokenizer, out)
    return before, after


def _loss_of(network: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    logits = network(tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits[mask[:, 1:]], tokens[:, 1:][mask[:, 1:]])


@torch.no_grad()
def _loss(network: Any, corpus: Corpus, tokenizer: Any) -> float:
    total = n = 0.0
    for _, batch in zip(range(20), batches(corpus, tokenizer, PLAN), strict=False):
        tokens, mask = (each.to(network.device) for each in (batch.tokens, batch.mask))
        total += float(_loss_of(network, tokens, mask)) * batch.n_predicted
        n += batch.n_predicted
    return total / n


_HEAD = ("layer", "outputs with a significant pair", "the features turned", "pairs of those",
         "what they build of the form", "proposals", "pairs of a proposal",
         "what they build")  # fmt: skip


def _layer(model: Model, dictionaries: dict[Site, Dictionary], layer: int) -> tuple[str, ...]:
    into, out = (dictionaries[site] for site in mlp_sites(layer))
    read = out.basis("encoder")
    inter = Interactions(model.layer(layer), into.basis(), read)
    turned = Interactions(model.layer(layer), rotated(into.basis()), read)
    own, control = _significant(inter), _significant(turned)
    proposals = propose_circuits(model, dictionaries, layer, N_PROPOSALS)
    return (
        str(layer),
        f"{len(own)} of {inter.n_output}",
        f"{len(control)} of {inter.n_output}",
        _spread([len(pairs) for pairs in own], 0),
        _spread([float(pairs.attrs["explained"]) for pairs in own], 2),
        str(len(proposals)),
        _spread([len(one.interactions) for one in proposals], 0),
        _spread([one.explained or 0.0 for one in proposals], 2),
    )


def _significant(inter: Interactions) -> list[Any]:
    null = RotationNull.of(inter.inputs)
    found = [significant_pairs(inter, o, Q, null) for o in range(inter.n_output)]
    return [pairs for pairs in found if len(pairs)]


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, middle, high = (
        torch.tensor(values).double().quantile(torch.tensor([0.0, 0.5, 1.0]).double())
    )
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


_RANK_HEAD = ("layer", "reader", "compared", "above .75 with two", "random directions",
              "tokens' outputs", "rotated / shuffled", "median", "median R²",
              "R², random directions / tokens' outputs",
              "rank for R² .9: features / random / tokens")  # fmt: skip


def _rank(layer: int, reader: str, curve: RankCurve) -> tuple[str, ...]:
    one = curve.summary()
    needed = (one["needed"], one["needed_random"], one["needed_tokens"])
    return (
        str(layer),
        reader,
        str(one["n_compared"]),
        f"{one['share_above']:.2f} ({one['share_low']:.2f} to {one['share_high']:.2f})",
        f"{one['share_above_random']:.2f}",
        f"{one['share_above_tokens']:.2f}",
        f"{one['share_above_rotated']:.2f} / {one['share_above_shuffled']:.2f}",
        f"{one['median']:.2f}",
        f"{one['median_r2']:.2f}",
        f"{one['median_r2_random']:.2f} / {one['median_r2_tokens']:.2f}",
        " / ".join("-" if n is None else f"{n:g}" for n in needed),
    )
