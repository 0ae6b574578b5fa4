"""Is a circuit through several layers the cause? Its edits, with attention frozen and free.

Each edit is made twice: with the attention patterns and norm scales of the unedited run, where
removing one pair has an effect that follows from the weights (``predicted``); and free, as the
network really runs, where attention may look elsewhere. Claims are of the free network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.flow.flow import Flow, aligned, shapes
from analysis.attribution.flow.pairs import FlowPairs
from analysis.attribution.flow.prediction import Prediction
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour import bounds
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.behaviour.strata import strata
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.validation.controls import as_much
from analysis.validation.criteria import CRITERIA, Criterion, Measure
from analysis.validation.edits import Change, DrawKind, EditKind, edited, removing
from analysis.validation.harness import counterparts
from analysis.validation.layered_record import MEASURES, LayeredValidation, pair_name
from circuits.attention.frozen_run import FrozenRun
from circuits.errors import GraphError
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_N_PREDICTED = 8  # cases of each class
_N_CANDIDATES = 4096  # pairs of a layer that random ones are chosen of

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
    if cases.pair is not None:
        rows.append(editor.row(EditKind.PATCH, editor.patched, len(editor)))
    rows.append(editor.row(EditKind.MEAN, editor.mean, 0))
    rows += editor.single_pairs()
    rows += _untrained(editor, dictionaries, seed)
    random = editor.random(n_draws, seed)
    table = editor.strata_table()
    criteria = editor.criteria(table, random, whole)
    return LayeredValidation(circuit.name, pd.DataFrame(rows), table, random, criteria, len(cases),
                             seed)  # fmt: skip


class _Editor:
    """The cases, to be run with one edit after another."""

    def __init__(
        self, cases: ModelCases, circuit: LayeredCircuit, dictionaries: Mapping[Site, Dictionary]
    ) -> None:
        self.cases, self.model, self.circuit = cases, cases.model, circuit
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

    def __len__(self) -> int:
        return sum(map(len, self.terms.values()))

    def affected(self, margins: Float[Tensor, " case"]) -> float:
        """The mean margin of the affected classes."""
        return float((self.cases.weights(self.cases.affected) * self.cases.side * margins).sum())

    def side_effect(self, margins: Float[Tensor, " case"]) -> float:
        """The largest relative change of a class that is not affected; NaN where all are."""
        other = self.cases.affected == 0
        means, plain = (self.cases.class_means(m)[other] for m in (margins, self.plain))
        return float(((means - plain).abs() / plain.abs()).max()) if len(plain) else float("nan")

    def margins(self, changes: Changes, *, free: bool = True) -> Float[Tensor, " case"]:
        """Of the network with some MLPs' outputs changed."""
        held = nullcontext() if free else self.run.held()
        with held, _all_edited(self.model, changes()):
            return self.cases.margins()

    def row(
        self, kind: EditKind, changes: Changes, n_pairs: int, target: str = "", **more: Any
    ) -> dict[str, Any]:
        """One line of the table."""
        freely, held = (self.margins(changes, free=free) for free in (True, False))
        return {
            "kind": kind.value,
            "target": target,
            "n_pairs": n_pairs,
            "frozen": 1 - self.affected(held) / self.base,
            "free": 1 - self.affected(freely) / self.base,
            "frozen_side_effect": self.side_effect(held),
            "side_effect": self.side_effect(freely),
            **dict.fromkeys(("predicted", "measured", "off_by"), float("nan")),
        } | more

    def without(self, terms: Terms) -> Changes:
        """Pairs removed at every token, by the activations of the edited run itself."""
        return lambda: {layer: removing(some) for layer, some in terms.items()}

    def keeping(self) -> Mapping[int, Change]:
        """All but the circuit at its mean over the cases, token by token from the answer back."""

        def kept(layer: int) -> Change:
            into, out = (self.seen[site] for site in mlp_sites(layer))
            terms = self.terms[layer]
            rest = self._mean(out - terms(into).to(out))
            return self._counted(lambda x, y, rows: rest[rows] + terms(x).to(y))

        return {layer: kept(layer) for layer in self.terms}

    def mean(self) -> Mapping[int, Change]:
        """The outputs of the circuit's layers at their mean."""

        def at_mean(layer: int) -> Change:
            mean = self._mean(self.seen[mlp_sites(layer)[1]])
            return self._counted(lambda x, y, rows: mean[rows])

        return {layer: at_mean(layer) for layer in self.terms}

    def patched(self) -> Mapping[int, Change]:
        """What the circuit's pairs wrote in the case of the same minimal pair that asks for the
        other answer, token by token from the answer back."""
        source = counterparts(self.cases)

        def swapped(layer: int) -> Change:
            given = self.terms[layer](self.seen[mlp_sites(layer)[0]])
            taken = self._unaligned(aligned(self.cases, given)[source])
            return self._counted(lambda x, y, rows: y - self.terms[layer](x) + taken[rows])

        return {layer: swapped(layer) for layer in self.terms}

    def _counted(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Change:
        """A change that knows which cases run; up to the answer's token, the rest stays."""
        place = 0

        def change(x: Tensor, y: Tensor) -> Tensor:
            nonlocal place
            rows = torch.arange(place, place + len(y))
            place += len(y)
            upto = torch.arange(y.shape[1]) <= self.cases.position[rows, None]
            new = function(x, y, rows.to(y.device)).to(y)
            return torch.where(upto[..., None].to(y.device), new, y)

        return change

    def _mean(self, values: Float[Tensor, "case pos model"]) -> Float[Tensor, "case pos model"]:
        """At each token the mean over the cases of its shape, each class alike."""
        back = aligned(self.cases, values.cpu())
        mean = torch.zeros_like(back)
        for rows in shapes(self.cases):
            labels = self.cases.label[rows]
            each = [back[rows[labels == label]].mean(0) for label in labels.unique()]
            mean[rows] = torch.stack(each).mean(0)
        return self._unaligned(mean).to(values)

    def _unaligned(self, back: Float[Tensor, "case at width"]) -> Float[Tensor, "case pos width"]:
        return aligned(self.cases, back)  # the same turn again

    def single_pairs(self) -> list[dict[str, Any]]:
        """Each pair alone, removed and predicted."""
        classes = range(len(self.cases.signs))
        some = torch.cat([(self.cases.label == c).nonzero()[:_N_PREDICTED, 0] for c in classes])
        predicted = Prediction(self.cases, some.tolist())
        rows = []
        for layer, number in progress(
            [(layer, n) for layer, terms in self.terms.items() for n in range(len(terms))],
            "each pair",
            "pair",
        ):
            one = self.terms[layer].subset(torch.tensor([number]))
            changes = self.without({layer: one})
            margins = self.margins(changes, free=False)
            lost = predicted.without(layer, one)
            measured = margins[some] - self.plain[some]
            off_by = float((lost - measured).abs().max() / self.plain.abs().max())
            foretold, seen = (
                -float((self._weights(some) * change).sum()) / self.base
                for change in (lost, measured)
            )
            pair = pair_name(layer, int(one.first), int(one.second))
            rows.append(self.row(EditKind.REMOVE_GATE, changes, 1, pair, predicted=foretold,
                                 measured=seen, off_by=off_by))  # fmt: skip
        return rows

    def _weights(self, some: Tensor) -> Float[Tensor, " some"]:
        """Of some cases, so that a sum of margins is their mean over the affected classes."""
        label, affected = self.cases.label[some], self.cases.affected.double()
        counts = torch.bincount(label, minlength=len(affected))
        return (affected / affected.sum() / counts)[label]

    def strata_table(self) -> pd.DataFrame:
        """What removing the circuit leaves, and keeping it alone keeps, in each stratum."""
        without = self.margins(self.without(self.terms))
        kept, floor = self.margins(self.keeping), self.margins(self.mean)
        rows = []
        for affected in (True, False):
            for each in strata(self.cases, affected):
                plain, left, alone, low = (
                    float(margins[each.rows].mean())
                    for margins in (self.plain, without, kept, floor)
                )
                there = plain > 0 if affected else plain != 0
                share = (alone - low) / (plain - low) if plain > low else float("nan")
                rows.append((each.kind, each.value, affected, len(each.rows), each.judged, plain,
                             left / plain if there else float("nan"), share))  # fmt: skip
        names = ["kind", "value", "affected", "n", "judged", "margin", "left", "kept"]
        return pd.DataFrame(rows, columns=names)

    def random(self, n_draws: int, seed: int) -> pd.DataFrame:
        """Pairs of the same layers that are active and not the circuit's: as many of each layer,
        any of them; and as many as write as much. ``size``: relative to what the circuit writes."""
        rng = np.random.default_rng(seed)
        flow = Flow.of(self.cases)
        free, inputs, wrote = dict[int, PairTerms](), dict[int, Tensor](), dict[int, float]()
        inside = self.cases.affected[self.cases.label] > 0
        for layer, terms in self.terms.items():
            found = FlowPairs(flow, layer, self.into[layer])
            own = set(zip(terms.first.tolist(), terms.second.tolist(), strict=True))
            often = found.active_together(bounds.TOGETHER)
            others = [pair for pair in often if pair not in own]
            if len(others) < len(terms):
                raise GraphError(
                    f"validate: only {len(others)} pairs are active together in layer {layer} "
                    f"outside of the circuit, too few for a control. Pass more cases."
                )
            if len(others) > _N_CANDIDATES:
                chosen = sorted(rng.choice(len(others), _N_CANDIDATES, replace=False).tolist())
                others = [others[n] for n in chosen]
            free[layer] = PairTerms.of(self.model, layer, self.into[layer], others)
            x = self.seen[mlp_sites(layer)[0]][inside]
            upto = torch.arange(x.shape[1]) <= self.cases.position[inside, None]
            inputs[layer] = x[upto.to(x.device)]
            wrote[layer] = float(terms(inputs[layer]).norm(dim=1).mean())
        rows = []
        for kind in DrawKind:
            for draw in progress(range(n_draws), f"random pairs, {kind}", "draw"):
                some = dict[int, PairTerms]()
                for layer, terms in self.terms.items():
                    pool = free[layer]
                    if kind is DrawKind.SAME_NUMBER:
                        places = rng.choice(len(pool), len(terms), replace=False).tolist()
                    else:
                        places = as_much(rng, pool, inputs[layer], wrote[layer])
                    some[layer] = pool.subset(torch.tensor(places))
                size = sum(float(t(inputs[n]).norm(dim=1).mean()) for n, t in some.items())
                row = self.row(EditKind.REMOVE, self.without(some), sum(map(len, some.values())))
                rows.append({"kind": kind.value, "draw": draw, "n_pairs": row["n_pairs"],
                             "size": size / max(sum(wrote.values()), 1e-12), "free": row["free"],
                             "frozen": row["frozen"]})  # fmt: skip
        return pd.DataFrame(rows)

    def criteria(
        self, table: pd.DataFrame, random: pd.DataFrame, whole: Mapping[str, Any]
    ) -> tuple[Criterion, ...]:
        """Of the free network, with the bounds of one layer's circuits."""
        judged = table[table["judged"]]
        inside, outside = judged[judged["affected"]], judged[~judged["affected"]]
        kinds = {kind: random[random["kind"] == kind.value] for kind in DrawKind}
        loud, removed = kinds[DrawKind.SAME_SIZE], float(whole["free"])
        enough = len(loud) >= bounds.DRAWS and removed > 0
        each = loud["free"] / loud["size"] / (removed if enough else float("nan"))
        cases = self.cases
        values = {
            Measure.CASES: float(torch.bincount(cases.label, minlength=len(cases.signs)).min()),
            Measure.SHOWN: float(cases.shown(self.plain).min()),
            Measure.REMOVED: removed,
            Measure.LEFT: float(inside["left"].max(skipna=False)),
            Measure.KEPT: float(inside["kept"].min(skipna=False)),
            Measure.SIDE_EFFECT: float((outside["left"] - 1).abs().max(skipna=False)),
            Measure.RANDOM: float(kinds[DrawKind.SAME_NUMBER]["free"].abs().median()),
            Measure.EQUAL: float(each.median(skipna=False)),
            Measure.EQUAL_WORST: float(each.max(skipna=False)),
        }
        return tuple(
            replace(one, value=values[one.name] if np.isfinite(values[one.name]) else None)
            for one in CRITERIA
            if one.name in MEASURES and (len(outside) or one.name is not Measure.SIDE_EFFECT)
        )


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
