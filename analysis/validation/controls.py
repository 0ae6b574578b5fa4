"""Controls of a circuit: random pairs, an untrained model, and text where no answer is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from analysis.attribution.contrast import PairAccount
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour.bounds import SHOWN, TOGETHER
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.validation.edits import DrawKind, EditKind, edited, removing
from analysis.validation.harness import Harness
from circuits.corpus.batches import BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import GraphError
from circuits.graph.circuit import Circuit
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.storage.progress import progress

_N_CANDIDATES = 4096  # pairs that random ones are chosen of


def random_pairs(
    harness: Harness, circuit: Circuit, terms: PairTerms, n_draws: int, seed: int
) -> pd.DataFrame:
    """Draws of pairs that are active together and not the circuit's: as many, any of them; and
    as many as write as much together (or half of what all such pairs write, where that is less:
    all of them are but one draw), each as likely as it writes much.
    """
    rng = np.random.default_rng(seed)
    pairs = PairAccount.of(harness.cases, harness.layer, harness.into).pairs
    own = {(pair.first, pair.second) for pair in circuit.interactions}
    named = list(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True))
    free = [n for n, t in enumerate(pairs["together"]) if t >= TOGETHER and named[n] not in own]
    if len(free) > _N_CANDIDATES:
        free = sorted(rng.choice(free, _N_CANDIDATES, replace=False).tolist())
    if len(free) < len(terms):
        raise GraphError(
            f"validate: only {len(free)} pairs are active together outside of the circuit of "
            f"{len(terms)}, too few for a control. Pass more cases."
        )
    candidates = PairTerms.of(harness.model, harness.layer, harness.into, [named[n] for n in free])
    inside = harness.cases.affected[harness.cases.label] > 0
    x = harness.x[inside.to(harness.x.device)]
    wrote = size_of(terms, terms.products(x))
    pool = PairPool(candidates, candidates.products(x), len(terms), wrote)

    def effect(drawn: Mapping[int, PairTerms]) -> dict[str, float]:
        margins = harness.without(drawn[harness.layer])
        removed = 1 - harness.affected(margins) / harness.base
        return {"removed": removed, "side_effect": harness.side_effect(margins)}

    return random_draws({harness.layer: pool}, n_draws, rng, effect)


def random_draws(
    pools: Mapping[int, PairPool],
    n_draws: int,
    rng: np.random.Generator,
    effect: Callable[[Mapping[int, PairTerms]], dict[str, float]],
) -> pd.DataFrame:
    """A row for each draw of pairs of some layers, of each kind as many, with their effect.

    ``size`` is how much the draw writes on the affected cases, relative to the circuit; ``set`` the
    first draw of the same pairs, ``there`` how many pairs are drawn from.
    """
    wrote = max(sum(pool.wrote for pool in pools.values()), 1e-12)
    there = sum(len(pool.terms) for pool in pools.values())
    rows, first = [], dict[tuple[Any, ...], int]()
    for kind in DrawKind:
        title = f"random pairs, {str(kind).replace('_', ' ')}"
        for draw in progress(range(n_draws), title, "draw"):
            places = {layer: pool.drawn(kind, rng) for layer, pool in pools.items()}
            some = {n: pool.terms.subset(torch.tensor(places[n], dtype=torch.int64))
                    for n, pool in pools.items()}  # fmt: skip
            own = first.setdefault((kind, *map(frozenset, places.values())), draw)
            size = sum(pool.size(places[n]) for n, pool in pools.items()) / wrote
            rows.append({"kind": kind.value, "draw": draw, "set": own, "there": there,
                         "n_pairs": sum(map(len, some.values())), "size": size,
                         **effect(some)})  # fmt: skip
    return pd.DataFrame(rows)


def as_much(
    rng: np.random.Generator,
    candidates: PairTerms,
    products: Float[Tensor, "case pair"],
    written: float,
) -> list[int]:
    """Pairs one after another, until they together write so much on average; of each the product of
    its activations is given."""
    sizes = (products.abs().mean(0) * candidates.sizes).double().cpu().numpy() + 1e-12
    order = rng.choice(len(sizes), len(sizes), replace=False, p=sizes / sizes.sum())
    total = candidates.written.new_zeros(len(products), candidates.written.shape[1])
    for n, pair in enumerate(order.tolist()):
        total = total + products[:, pair, None] * candidates.written[pair]
        if float(total.norm(dim=1).mean()) >= written:
            return order[: n + 1].tolist()
    return order.tolist()


@dataclass(frozen=True, eq=False)
class PairPool:
    """Pairs of a layer, not the circuit's, that random ones are drawn from, with the product of the
    activations of each at some tokens."""

    terms: PairTerms
    products: Float[Tensor, "token pair"]
    n_pairs: int  # of the circuit in this layer
    wrote: float  # how much those write

    @cached_property
    def aim(self) -> float:
        """How much pairs that write as much are to write."""
        return min(self.wrote, size_of(self.terms, self.products) / 2)

    def drawn(self, kind: DrawKind, rng: np.random.Generator) -> list[int]:
        """The places of as many pairs (of all, where there are fewer), or of as many as write as
        much."""
        if not len(self.terms):
            return []
        if kind is DrawKind.SAME_NUMBER:
            n = min(self.n_pairs, len(self.terms))
            return rng.choice(len(self.terms), n, replace=False).tolist()
        return as_much(rng, self.terms, self.products, self.aim)

    def size(self, places: list[int]) -> float:
        """How much some of the pairs write."""
        some = torch.tensor(places, dtype=torch.int64)
        return size_of(self.terms.subset(some), self.products[:, some])


def size_of(terms: PairTerms, products: Float[Tensor, "token pair"]) -> float:
    """How much some pairs write, on average over tokens."""
    return float((products @ terms.written.to(products)).norm(dim=1).mean())


def untrained_rows(harness: Harness, terms: PairTerms) -> list[dict[str, Any]]:
    """The behaviour in a model of random weights, and the same pairs removed from it."""
    model = untrained(harness.model, harness.seed)
    cases = in_model(harness.cases.behaviour, model)
    control = Harness(cases, harness.layer, harness.into, harness.seed)
    pairs = list(zip(terms.first.tolist(), terms.second.tolist(), strict=True))
    same = PairTerms.of(model, harness.layer, harness.into, pairs)
    rows = [
        control.row(EditKind.UNTRAINED, control.plain, 0),
        control.row(EditKind.UNTRAINED_REMOVE, control.without(same), len(same)),
    ]
    return not_shown(control, rows)


def not_shown(harness: Harness, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, without shares where the model does not show the behaviour: they would be noise."""
    if bool((harness.cases.shown(harness.plain) < SHOWN).any()):
        shares = ("removed", "low", "high", "side_effect", "faithfulness")
        rows = [row | dict.fromkeys(shares, float("nan")) for row in rows]
    return rows


def text_effects(
    model: Model,
    layer: int,
    terms: PairTerms,
    cases: ModelCases,
    text: Corpus | None,
    n_documents: int,
) -> pd.DataFrame:
    """On tokens that are not followed by an answer: loss, and KL from the model before edits."""
    names = ["kind", "loss", "added", "kl", "n_token"]
    if text is None:
        return pd.DataFrame(columns=names)
    answers = torch.tensor(sorted({t for pair in cases.answers for side in pair for t in side}))
    plan = BatchPlan(window=min(128, model.n_context), n_rows=16)
    before = after = kl = 0.0
    n_token = 0
    batches = in_order(text, model.words("validate"), plan, n_documents)
    for batch in progress(batches, "other text", "batch"):
        following = batch.tokens[:, 1:]
        counted = batch.mask[:, 1:] & ~torch.isin(following, answers)
        target = following[counted]
        n_token += len(target)
        here = counted.to(model.device)
        plain = model.logits(batch.tokens)[:, :-1][here].log_softmax(-1).cpu()
        with edited(model, layer, removing(terms)):
            changed = model.logits(batch.tokens)[:, :-1][here].log_softmax(-1).cpu()
        before += float(functional.nll_loss(plain, target, reduction="sum"))
        after += float(functional.nll_loss(changed, target, reduction="sum"))
        kl += float((plain.exp() * (plain - changed)).sum())
    plain_loss, loss = before / n_token, after / n_token
    rows = [
        (EditKind.NONE.value, plain_loss, 0.0, 0.0, n_token),
        (EditKind.REMOVE.value, loss, loss - plain_loss, kl / n_token, n_token),
    ]
    return pd.DataFrame(rows, columns=names)
