"""Is a circuit through several layers the cause? Its edits, with attention frozen and free.

Pairs are removed by putting what they write at its mean over the classes, token by token: most
pairs of a deep circuit also write something in every class alike, and without that the network
would favour one answer whatever the text says.

Each edit is made twice: with the attention patterns and norm scales of the unedited run, where
removing one pair has an effect that follows from the weights (``predicted``); and free, as the
network really runs, where attention may look elsewhere. Claims are of the free network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.across.active_pairs import ActivePairs
from analysis.attribution.across.prediction import Prediction
from analysis.attribution.across.recorded import aligned, mean_over_classes
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour import bounds
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.discovery.layer_records import pair_name
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.validation.controls import PairPool, random_draws, size_of
from analysis.validation.criteria import Criterion, Whole, measured_across
from analysis.validation.edits import Change, EditKind, edited
from analysis.validation.harness import (
    affected_margin,
    counterparts,
    effects_by_stratum,
    have_counterparts,
    largest_side_effect,
    some_cases,
)
from analysis.validation.layered_record import LayeredValidation
from circuits.attention.frozen_run import FrozenRun
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_N_ALONE = 8  # cases of each class that single pairs are removed in
_N_PREDICTED = 4  # of those, for which the removal is predicted
_N_CANDIDATES = 2048  # pairs of a layer that random ones are chosen of
_NOTHING = 1e-6  # of what the circuit writes: rounding
_PAIRS_AT_A_TIME = 256

Terms = Mapping[int, PairTerms]  # by layer
Changes = Callable[[], Mapping[int, Change]]
"""New ones for each run over the cases, which they may count."""


def validate_layered(
    cases: ModelCases,
    circuit: LayeredCircuit,
    dictionaries: Mapping[Site, Dictionary],
    n_draws: int,
    seed: int,
) -> LayeredValidation:
    """The edits and their controls."""
    editor = _Editor(cases, circuit, dictionaries)
    terms = editor.terms
    whole = editor.row(EditKind.REMOVE, editor.without(terms), len(editor))
    rows = [editor.row(EditKind.NONE, dict, 0), whole]
    for layer, some in terms.items():
        if len(terms) > 1:
            rows.append(editor.row(EditKind.REMOVE, editor.without({layer: some}), len(some),
                                   f"layer {layer}"))  # fmt: skip
    rows.append(editor.row(EditKind.KEEP, editor.keeping, len(editor)))
    rows += editor.patch_row()
    rows.append(editor.row(EditKind.MEAN, editor.mean, 0))
    rows += editor.single_pairs()
    rows += _untrained(editor, dictionaries, seed)
    random = editor.random(n_draws, seed)
    table = editor.strata_table()
    return LayeredValidation(
        circuit.name,
        cases.behaviour.name,
        pd.DataFrame(rows),
        table,
        random,
        editor.criteria(table, random, whole),
        len(cases),
        seed,
    )


class _Editor:
    """The cases, to be run with one edit after another."""

    def __init__(
        self, cases: ModelCases, circuit: LayeredCircuit, dictionaries: Mapping[Site, Dictionary]
    ) -> None:
        self.cases, self.model, self.circuit = cases, cases.model, circuit
        self.running = cases  # those that are run, of which rows are known by their places
        self.rows = torch.arange(len(cases))
        self.into = {
            layer: dictionaries[mlp_sites(layer)[0]].to(cases.model.device)
            for layer in circuit.layers
        }
        self.terms: Terms = {
            layer: PairTerms.of(self.model, layer, self.into[layer],
                                [(pair.first, pair.second) for pair in stage.interactions])
            for layer, stage in zip(circuit.layers, circuit.stages, strict=True)
        }  # fmt: skip
        self.run = FrozenRun.of(self.model, cases.tiles)
        self.plain = cases.margins()
        self.base = self.affected(self.plain)
        sites = [site for layer in circuit.layers for site in mlp_sites(layer)]
        read = [cases.model.read(rows, sites) for rows in cases.tiles]
        self.seen = {site: torch.cat([tile[site] for tile in read]) for site in sites}
        self.codes = {
            layer: into.active(self.seen[mlp_sites(layer)[0]].flatten(0, 1).to(into.dtype))
            for layer, into in self.into.items()
        }

    def __len__(self) -> int:
        return sum(map(len, self.terms.values()))

    def among(self, rows: Int64[Tensor, " row"]) -> _Editor:
        """The same edits of some of the cases; means are still those over all."""
        few = copy(self)
        few.rows, few.running = rows, some_cases(self.cases, rows)
        few.run = FrozenRun.of(self.model, few.running.tiles)
        few.plain = few.running.margins()
        few.base = few.affected(few.plain)
        return few

    def affected(self, margins: Float[Tensor, " case"]) -> float:
        """The mean margin of the affected classes."""
        return affected_margin(self.running, margins)

    def side_effect(self, margins: Float[Tensor, " case"]) -> float:
        """The largest relative change of a class that is not affected; NaN where all are."""
        return largest_side_effect(self.running, margins, self.plain)

    def margins(self, changes: Changes, *, free: bool = True) -> Float[Tensor, " case"]:
        """Of the network with some MLPs' outputs changed."""
        held = nullcontext() if free else self.run.held()
        with held, _all_edited(self.model, changes()):
            return self.running.margins()

    def row(
        self, kind: EditKind, changes: Changes, n_pairs: int, target: str = "", **more: Any
    ) -> dict[str, Any]:
        """One line of the table."""
        freely, held = (self.margins(changes, free=free) for free in (True, False))
        return {
            "kind": kind.value,
            "target": target,
            "n_pairs": n_pairs,
            "n_cases": len(self.running),
            "frozen": 1 - self.affected(held) / self.base,
            "free": 1 - self.affected(freely) / self.base,
            "frozen_side_effect": self.side_effect(held),
            "side_effect": self.side_effect(freely),
            **dict.fromkeys(("predicted", "measured", "off_by"), float("nan")),
        } | more

    def without(self, terms: Terms) -> Changes:
        """What pairs write put at its mean, at every token; what they write is that of the edited
        run itself."""
        means = {layer: self.mean_of(layer, some) for layer, some in terms.items()}

        def removed(layer: int) -> Change:
            some, mean = terms[layer], means[layer]
            return self._counted(lambda x, y, rows: y - some(x).to(y) + mean[rows].to(y))

        return lambda: {layer: removed(layer) for layer in terms}

    def mean_of(self, layer: int, terms: PairTerms) -> Float[Tensor, "case pos model"]:
        """Of what some pairs write, over the classes of the unedited run."""
        written = self._products(layer, terms) @ terms.written
        return mean_over_classes(self.cases, written)

    def _products(self, layer: int, terms: PairTerms) -> Float[Tensor, "case pos pair"]:
        """Of the activations of each pair, in the unedited run."""
        shape = self.seen[mlp_sites(layer)[0]].shape
        return terms.products_of(self.codes[layer]).view(*shape[:2], len(terms))

    def keeping(self) -> Mapping[int, Change]:
        """All but the circuit at its mean over the cases, token by token from the answer back."""

        def kept(layer: int) -> Change:
            into, out = (self.seen[site] for site in mlp_sites(layer))
            terms = self.terms[layer]
            rest = mean_over_classes(self.cases, out - terms(into).to(out))
            return self._counted(lambda x, y, rows: rest[rows] + terms(x).to(y))

        return {layer: kept(layer) for layer in self.terms}

    def mean(self) -> Mapping[int, Change]:
        """The outputs of the circuit's layers at their mean."""

        def at_mean(layer: int) -> Change:
            mean = mean_over_classes(self.cases, self.seen[mlp_sites(layer)[1]])
            return self._counted(lambda x, y, rows: mean[rows])

        return {layer: at_mean(layer) for layer in self.terms}

    def patch_row(self) -> list[dict[str, Any]]:
        """The patch in the cases that have a counterpart, where each class has enough of them."""
        if self.cases.pair is None:
            return []
        rows = have_counterparts(self.cases).nonzero()[:, 0]
        counts = torch.bincount(self.cases.label[rows], minlength=len(self.cases.signs))
        if int(counts.min()) < bounds.LEAST:
            return []
        few = self if len(rows) == len(self.cases) else self.among(rows)
        return [few.row(EditKind.PATCH, few.patched, len(self))]

    def patched(self) -> Mapping[int, Change]:
        """What the circuit's pairs wrote in the case of the same minimal pair that asks for the
        other answer, token by token from the answer back."""
        source = counterparts(self.cases)

        def swapped(layer: int) -> Change:
            given = self.terms[layer](self.seen[mlp_sites(layer)[0]])
            taken = aligned(self.cases, aligned(self.cases, given)[source])  # turned back
            return self._counted(lambda x, y, rows: y - self.terms[layer](x) + taken[rows])

        return {layer: swapped(layer) for layer in self.terms}

    def _counted(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Change:
        """A change that knows which cases run; up to the answer's token, the rest stays."""
        place = 0

        def change(x: Tensor, y: Tensor) -> Tensor:
            nonlocal place
            rows = self.rows[place : place + len(y)]
            place += len(y)
            upto = torch.arange(y.shape[1]) <= self.cases.position[rows, None]
            new = function(x, y, rows.to(y.device)).to(y)
            return torch.where(upto[..., None].to(y.device), new, y)

        return change

    def single_pairs(self) -> list[dict[str, Any]]:
        """Each pair alone, removed in some cases, and of a few of those predicted."""
        few = self.among(self._first(_N_ALONE))
        some = self._first(_N_PREDICTED)
        place = torch.searchsorted(few.rows, some)
        predicted = Prediction(self.cases, some.tolist())
        rows = []
        for layer, number in progress(
            [(layer, n) for layer, terms in self.terms.items() for n in range(len(terms))],
            "each pair",
            "pair",
        ):
            one = self.terms[layer].subset(torch.tensor([number]))
            changes = few.without({layer: one})
            margins = few.margins(changes, free=False)
            lost = predicted.without(layer, one, few.mean_of(layer, one)[some])
            measured = (margins - few.plain)[place]
            off_by = float((lost - measured).abs().max() / self.plain.abs().max())
            expected, seen = (
                -float((self._weights(some) * change).sum()) / self.base
                for change in (lost, measured)
            )
            pair = pair_name(layer, int(one.first), int(one.second))
            rows.append(few.row(EditKind.REMOVE_GATE, changes, 1, pair, predicted=expected,
                                measured=seen, off_by=off_by))  # fmt: skip
        return rows

    def _first(self, n: int) -> Int64[Tensor, " row"]:
        """The first cases of each class, in order."""
        classes = range(len(self.cases.signs))
        each = [(self.cases.label == number).nonzero()[:n, 0] for number in classes]
        return torch.cat(each).sort().values

    def _weights(self, some: Tensor) -> Float[Tensor, " some"]:
        """Of some cases, so that a sum of margins is their mean over the affected classes."""
        label, affected = self.cases.label[some], self.cases.affected.double()
        counts = torch.bincount(label, minlength=len(affected))
        return (affected / affected.sum() / counts)[label]

    def strata_table(self) -> pd.DataFrame:
        """What removing the circuit leaves, and keeping it alone keeps, in each stratum. Where a
        class is not affected, it is not judged where the model is wrong, or these MLPs add less
        than a tenth of the margin: a share of that would be noise."""
        without = self.margins(self.without(self.terms))
        kept, floor = self.margins(self.keeping), self.margins(self.mean)
        table = effects_by_stratum(self.cases, self.plain, without, kept, floor)
        at_mean = effects_by_stratum(self.cases, self.plain, floor, kept, floor)["left"]
        shown = (table["margin"] > 0) & (1 - at_mean >= bounds.DIRECT)
        return table.assign(judged=table["judged"] & (table["affected"] | shown))

    def random(self, n_draws: int, seed: int) -> pd.DataFrame:
        """Pairs of the same layers that are active and not the circuit's: as many of each layer,
        any of them; and as many as write as much. ``size``: relative to what the circuit writes."""
        rng = np.random.default_rng(seed)
        pools = {layer: self._pool(layer, terms, rng) for layer, terms in self.terms.items()}

        def effect(drawn: Terms) -> dict[str, float]:
            changes = self.without(drawn)
            free, held = (self.margins(changes, free=free) for free in (True, False))
            return {"free": 1 - self.affected(free) / self.base,
                    "frozen": 1 - self.affected(held) / self.base}  # fmt: skip

        return random_draws(pools, n_draws, rng, effect)

    def _pool(self, layer: int, terms: PairTerms, rng: np.random.Generator) -> PairPool:
        """The pairs outside of the circuit that write anything beyond its mean."""
        active = ActivePairs(self.cases, self.seen[mlp_sites(layer)[0]].cpu(), self.into[layer])
        own = set(zip(terms.first.tolist(), terms.second.tolist(), strict=True))
        others = [pair for pair in active.together(bounds.TOGETHER) if pair not in own]
        if len(others) > _N_CANDIDATES:
            chosen = sorted(rng.choice(len(others), _N_CANDIDATES, replace=False).tolist())
            others = [others[n] for n in chosen]
        free = PairTerms.of(self.model, layer, self.into[layer], others)
        wrote, products = size_of(terms, self._apart(layer, terms)), self._apart(layer, free)
        sizes = products.abs().mean(0) * free.sizes.to(products)
        writing = (sizes > _NOTHING * wrote).nonzero()[:, 0]
        return PairPool(free.subset(writing.cpu()), products[:, writing], len(terms), wrote)

    def _apart(self, layer: int, terms: PairTerms) -> Float[Tensor, "token pair"]:
        """The product of the activations of each pair beyond its mean, at the tokens of the
        affected cases."""
        cases = self.cases
        at = torch.arange(cases.tokens.shape[1])
        inside = (at <= cases.position[:, None]) & (cases.affected[cases.label] > 0)[:, None]
        inside = inside.to(self.model.device)
        parts = []
        for places in torch.arange(len(terms)).split(_PAIRS_AT_A_TIME):
            products = self._products(layer, terms.subset(places))
            parts.append((products - mean_over_classes(cases, products))[inside])
        return torch.cat(parts, dim=1)

    def criteria(
        self, table: pd.DataFrame, random: pd.DataFrame, whole: Mapping[str, Any]
    ) -> tuple[Criterion, ...]:
        """Of the free network, with the bounds of one layer's circuits."""
        cases = self.cases
        n_least = int(torch.bincount(cases.label, minlength=len(cases.signs)).min())
        found = Whole(n_least, float(cases.shown(self.plain).min()), float(whole["free"]))
        free = random.rename(columns={"free": "removed"})
        return measured_across(found, len(self), table, free)


@contextmanager
def _all_edited(model: Model, changes: Mapping[int, Change]) -> Iterator[None]:
    with ExitStack() as edits:
        for layer, change in changes.items():
            edits.enter_context(edited(model, layer, change))
        yield


def _untrained(
    editor: _Editor, dictionaries: Mapping[Site, Dictionary], seed: int
) -> list[dict[str, Any]]:
    """The behaviour in a model of random weights; no shares where it is not shown."""
    model = untrained(editor.model, seed)
    other = _Editor(in_model(editor.cases.behaviour, model), editor.circuit, dictionaries)
    row = other.row(EditKind.UNTRAINED_REMOVE, other.without(other.terms), len(other))
    if bool((other.cases.shown(other.plain) < bounds.SHOWN).any()):
        shares = ("frozen", "free", "frozen_side_effect", "side_effect")
        row |= dict.fromkeys(shares, float("nan"))
    return [row]
