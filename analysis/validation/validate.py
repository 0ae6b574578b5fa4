"""Is a circuit the cause? Exact edits of the running model, with their controls in the same table.

1. Remove the circuit's pairs at every token; keep only them (all else of the MLP's output at the
   position replaced by its mean over the cases); remove one gate; patch the pairs' contribution
   from the case of the same minimal pair that asks for the other answer; replace the whole output
   by its mean.
2. Controls: random pairs that are active together, as many, and as many that each write about as
   much; circuits of other behaviours; the same pairs in a model whose weights are random.
3. Side effects: loss and KL on text, where no answer of the behaviour is due.
4. Each pair by itself: what it should change of each output feature, against a second difference of
   the model's MLP with the two features taken out of its *input*.

What a reader would get wrong: means are from data, never zeros, and effects are margins, class by
class. What is *taken* is the share of the affected classes' mean margin that an edit removes; it
exceeds one where the edit turns answers round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.nn import functional

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.discovery.find import SHOWN
from analysis.discovery.provenance import layer_of_circuit
from analysis.validation.edits import PairTerms, edited, removing, terms_of
from analysis.validation.harness import Harness, Swap
from analysis.validation.pair_checks import checked_pairs
from circuits.corpus.batches import BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import CircuitFileError, check_count
from circuits.graph.circuit import Circuit
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import html_of
from circuits.storage.files import read_json, write_json
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

WANTED = {
    "removal takes at least": 0.6,
    "removal leaves of any affected class at most": 0.5,
    "removal moves other classes at most": 0.2,
    "keeping only the circuit keeps at least": 0.8,
    "as many random pairs take at most (median)": 0.05,
    "cases of each affected class at least": 8,
}
"""What a circuit must reach to be called proven; shares of the margins before any edit."""

_N_CANDIDATES = 4096  # pairs that random ones are chosen of
_TOGETHER = 0.05  # share of affected cases that such a pair must be active on
_N_NEAREST = 32  # candidates of about a pair's size, of which one is drawn


@dataclass(frozen=True, eq=False)
class Validation:
    """What the edits did, each beside its controls."""

    circuit: str
    behaviour: str
    edits: pd.DataFrame  # a row an edit: margins by class, taken, low, high, moved, faithfulness
    random: pd.DataFrame  # a row a draw: kind, size, taken, moved
    parts: pd.DataFrame  # a row a pair: faithfulness lost without it
    checks: pd.DataFrame  # a row a pair and output feature: predicted, measured, off_by
    side_effects: pd.DataFrame  # a row an edit: loss, added, kl on text
    criteria: pd.DataFrame  # criterion, value, wanted, met
    n: int  # cases
    seed: int

    @property
    def proven(self) -> bool:
        """Whether every criterion is met."""
        return bool(self.criteria["met"].all())

    @property
    def verdict(self) -> str:
        """Proven, or what falls short."""
        if self.proven:
            return "proven: every criterion is met"
        short = [
            f"{row.criterion} {row.wanted:g}, measured {row.value:.3g}"
            for row in self.criteria.itertuples()
            if not row.met
        ]
        return "not proven: " + "; ".join(short)

    def save(self, path: str | Path) -> Path:
        """Write everything as one JSON file."""
        told = {name: _columns(value) for name, value in vars(self).items()}
        write_json(Path(path), {"schema": "bilinear-circuits/validation", "version": 1} | told)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Validation:
        """Read what `save` wrote."""
        told = read_json(Path(path), CircuitFileError)
        if (
            told.pop("schema", None) != "bilinear-circuits/validation"
            or told.pop("version", 0) != 1
        ):
            raise CircuitFileError(
                f"{path} is no validation of this version. Make it: circuits validate RUN."
            )
        wanted = {f for f in cls.__dataclass_fields__}
        if set(told) != wanted:
            raise CircuitFileError(
                f"{path} lacks {sorted(wanted - set(told)) or 'nothing'} and has the unknown "
                f"{sorted(set(told) - wanted) or 'nothing'}. Make it again: circuits validate RUN."
            )
        kinds = {"n": int, "seed": int, "circuit": str, "behaviour": str}
        wrong = [k for k, v in told.items() if not isinstance(v, kinds.get(k, dict))]
        try:
            tables = {k: _table(v) for k, v in told.items() if k not in kinds and k not in wrong}
        except (ValueError, TypeError) as error:  # columns of unequal length, or none at all
            wrong.append(str(error))
        if wrong:
            raise CircuitFileError(
                f"{path} is not whole: {', '.join(wrong)}. Make it again: circuits validate RUN."
            )
        return cls(**(told | tables))

    def _repr_html_(self) -> str:
        return html_of(repr(self), criteria=self.criteria, edits=self.edits)

    def __repr__(self) -> str:
        return f"Validation({self.circuit}: {self.verdict}; n {self.n}, seed {self.seed})"


def _columns(value: Any) -> Any:
    """A table as its columns, so that one without rows keeps its names."""
    return value.to_dict("list") if isinstance(value, pd.DataFrame) else value


def _table(columns: dict[str, list[Any]]) -> pd.DataFrame:
    known = {name: [np.nan if x is None else x for x in column] for name, column in columns.items()}
    return pd.DataFrame(known)


@torch.no_grad()
def validate(
    model: Model,
    circuit: Circuit,
    behaviour: Behaviour,
    dictionaries: Mapping[Site, Dictionary],
    *,
    others: Sequence[Circuit] = (),
    text: Corpus | None = None,
    n_documents: int = 100,
    n_draws: int = 10,
    seed: int = 0,
) -> Validation:
    """Edit the running model by a circuit, and measure what a behaviour makes of it.

    Pass cases that the circuit was not found on. ``others`` are circuits of other behaviours, as
    controls; ``text`` is where side effects are measured, by default nowhere.
    """
    check_count("validate", n_draws, None, "n_draws")
    layer = layer_of_circuit(model, circuit, dictionaries)
    for other in others:
        if (its := layer_of_circuit(model, other, dictionaries)) != layer:
            raise CircuitFileError(
                f"validate: circuit {other.name!r} is of layer {its}, {circuit.name!r} of layer "
                f"{layer}. As controls pass circuits of the same layer."
            )
    into = dictionaries[mlp_sites(layer)[0]].to(model.device)
    cases = in_model(behaviour, model)
    harness = Harness(cases, layer, into, seed)
    terms = terms_of(model, layer, into, circuit.interactions)
    random = _random_pairs(harness, circuit, terms, n_draws, seed)
    edits = _edit_table(harness, circuit, terms, others)
    sides = _side_effects(model, layer, circuit, terms, behaviour, text, n_documents)
    return Validation(
        circuit.name,
        behaviour.name,
        edits,
        random,
        _parts(harness, circuit, terms),
        checked_pairs(harness, circuit, dictionaries[mlp_sites(layer)[1]]),
        sides,
        _criteria(cases, edits, random),
        len(cases),
        seed,
    )


def _edit_table(
    harness: Harness,
    circuit: Circuit,
    terms: PairTerms,
    others: Sequence[Circuit],
) -> pd.DataFrame:
    rows = [harness.row("none", harness.plain, 0)]
    rows.append(harness.row("remove the circuit", harness.without(terms), len(terms)))
    rows.append(
        harness.row("keep only the circuit", harness.swapped(_keeping(harness, terms)), len(terms))
    )
    for name, some in _gates(circuit, terms):
        rows.append(harness.row(f"remove gate {name}", harness.without(some), len(some)))
    patched = _patched(harness, terms)
    if patched is not None:
        rows.append(
            harness.row("patch from the other answer", harness.swapped(patched), len(terms))
        )
    mean = harness.mean(harness.y)
    margins = harness.swapped(lambda x, y, cases: mean.expand_as(y))
    rows.append(harness.row("replace the MLP by its mean", margins, 0))
    for other in others:
        its = terms_of(harness.model, harness.layer, harness.into, other.interactions)
        rows.append(
            harness.row(f"control: circuit of {other.name}", harness.without(its), len(its))
        )
    rows += _untrained(harness, terms)
    return pd.DataFrame(rows)


def _keeping(harness: Harness, terms: PairTerms) -> Swap:
    rest = harness.mean(harness.y - terms(harness.x))
    return lambda x, y, cases: rest + terms(x)


def _gates(circuit: Circuit, terms: PairTerms) -> list[tuple[str, PairTerms]]:
    """The pairs of each gate, by the names of its two groups."""
    group = {feature.feature: feature.group for feature in circuit.features}
    found = []
    for gate in circuit.gates:
        ends = {gate.first, gate.second}
        chosen = [
            place
            for place, pair in enumerate(circuit.interactions)
            if {group[pair.first], group[pair.second]} == ends
        ]
        names = [circuit.group_name(end) for end in (gate.first, gate.second)]
        found.append((" & ".join(names), terms.subset(torch.tensor(chosen))))
    return found


def _patched(harness: Harness, terms: PairTerms) -> Swap | None:
    """Each case's contribution from that of its pair which asks for the other answer, and differs
    in nothing but the last factor where there are two."""
    cases = harness.cases
    if cases.pair is None:
        return None
    behaviour, partner = cases.behaviour, {}
    alike = [
        behaviour.value_of(case, behaviour.factors[0]) if len(behaviour.factors) == 2 else None
        for case in behaviour.cases
    ]
    for number, case in enumerate(behaviour.cases):
        partner[case.pair, alike[number], float(cases.side[number])] = number
    source = [
        partner.get((case.pair, alike[number], -float(cases.side[number])), number)
        for number, case in enumerate(behaviour.cases)
    ]
    given = terms(harness.x)
    swapped = given[torch.tensor(source).to(given.device)]
    return lambda x, y, rows: y - given[rows] + swapped[rows]


def _untrained(harness: Harness, terms: PairTerms) -> list[dict[str, Any]]:
    """The behaviour in a model of random weights, and the same pairs removed from it."""
    model = untrained(harness.model, harness.seed)
    cases = in_model(harness.cases.behaviour, model)
    control = Harness(cases, harness.layer, harness.into, harness.seed)
    pairs = list(zip(terms.first.tolist(), terms.second.tolist(), strict=True))
    its = PairTerms.of(model, harness.layer, harness.into, pairs)
    rows = [
        control.row("control: untrained model", control.plain, 0),
        control.row("control: untrained model, remove", control.without(its), len(its)),
    ]
    if bool((cases.shown(control.plain) < SHOWN).any()):  # shares of what is not there are noise
        unknown = dict.fromkeys(("taken", "low", "high", "moved", "faithfulness"), float("nan"))
        rows = [row | unknown for row in rows]
    return rows


def _random_pairs(
    harness: Harness, circuit: Circuit, terms: PairTerms, n_draws: int, seed: int
) -> pd.DataFrame:
    """Draws of pairs that are active together and not the circuit's: *as many*, any of them; and
    *as large*, each drawn of those that write about as much as one of the circuit's. ``size`` is
    how much the draw writes on the affected cases, relative to the circuit."""
    dice = np.random.default_rng(seed)
    pairs = PairAccount.of(harness.cases, harness.layer, harness.into).pairs
    own = {(pair.first, pair.second) for pair in circuit.interactions}
    named = list(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True))
    free = [n for n, t in enumerate(pairs["together"]) if t >= _TOGETHER and named[n] not in own]
    if len(free) > _N_CANDIDATES:
        free = sorted(dice.choice(free, _N_CANDIDATES, replace=False).tolist())
    if len(free) < len(terms):
        raise CircuitFileError(
            f"validate: only {len(free)} pairs are active together outside of the circuit of "
            f"{len(terms)}, too few for a control. Pass more cases."
        )
    candidates = PairTerms.of(harness.model, harness.layer, harness.into, [named[n] for n in free])
    inside = harness.cases.affected[harness.cases.label] > 0
    x = harness.x[inside.to(harness.x.device)]
    theirs, own_sizes = (
        (some.products(x).abs().mean(0) * some.sizes).cpu().numpy() for some in (candidates, terms)
    )
    written = float(terms(x).norm(dim=1).mean())
    rows = []
    for kind in ("as many", "as large"):
        for draw in progress(range(n_draws), f"random pairs, {kind}", "draw"):
            if kind == "as many":
                chosen = dice.choice(len(free), len(terms), replace=False).tolist()
            else:
                chosen = _as_large(dice, theirs, own_sizes)
            some = candidates.subset(torch.tensor(chosen))
            margins = harness.without(some)
            size = float(some(x).norm(dim=1).mean()) / max(written, 1e-12)
            taken = 1 - harness.affected(margins) / harness.base
            rows.append((kind, draw, len(some), size, taken, harness.moved(margins)))
    return pd.DataFrame(rows, columns=["kind", "draw", "n_pairs", "size", "taken", "moved"])


def _as_large(
    dice: np.random.Generator,
    theirs: Float[np.ndarray, " candidate"],
    own: Float[np.ndarray, " pair"],
) -> list[int]:
    """One of the nearest in size for each pair, none twice."""
    chosen: list[int] = []
    for size in own:
        order = np.argsort(np.abs(np.log((theirs + 1e-12) / (size + 1e-12))), kind="stable")
        near = [int(n) for n in order[: _N_NEAREST + len(chosen)] if int(n) not in chosen]
        chosen.append(near[int(dice.integers(len(near)))])
    return chosen


def _parts(harness: Harness, circuit: Circuit, terms: PairTerms) -> pd.DataFrame:
    """Minimality: what keeping only the circuit loses without each of its pairs."""
    spread = harness.base - harness.floor
    whole = harness.affected(harness.swapped(_keeping(harness, terms)))
    rows = []
    for place, pair in enumerate(progress(circuit.interactions, "each pair", "pair")):
        rest = [n for n in range(len(terms)) if n != place]
        kept = harness.affected(
            harness.swapped(_keeping(harness, terms.subset(torch.tensor(rest).long())))
        )
        lost = (whole - kept) / spread if spread else float("nan")
        rows.append((pair.first, pair.second, lost))
    return pd.DataFrame(rows, columns=["first", "second", "faithfulness lost"])


def _side_effects(
    model: Model,
    layer: int,
    circuit: Circuit,
    terms: PairTerms,
    behaviour: Behaviour,
    text: Corpus | None,
    n_documents: int,
) -> pd.DataFrame:
    """On tokens whose next one is no answer of the behaviour: loss, and KL from the plain model."""
    columns = ["edit", "loss", "added", "kl", "n_token"]
    if text is None:
        return pd.DataFrame(columns=columns)
    cases = in_model(behaviour, model)
    answers = torch.tensor(sorted({t for pair in cases.answers for side in pair for t in side}))
    plan = BatchPlan(window=min(128, model.n_context), n_rows=16)
    edits = {"none": None, "remove the circuit": terms}
    sums = {name: [0.0, 0.0] for name in edits}
    n_token = 0
    batches = in_order(text, model.words("validate"), plan, n_documents)
    for batch in progress(batches, "other text", "batch"):
        following = batch.tokens[:, 1:]
        counted = batch.mask[:, 1:] & ~torch.isin(following, answers)
        target = following[counted]
        n_token += len(target)
        plain = model.logits(batch.tokens)[:, :-1][counted.to(model.device)].log_softmax(-1).cpu()
        for name, some in edits.items():
            told = plain
            if some is not None:
                with edited(model, layer, removing(some)):
                    raw = model.logits(batch.tokens)[:, :-1][counted.to(model.device)]
                told = raw.log_softmax(-1).cpu()
            sums[name][0] += float(functional.nll_loss(told, target, reduction="sum"))
            sums[name][1] += float((plain.exp() * (plain - told)).sum())
    loss = {name: total / n_token for name, (total, _) in sums.items()}
    rows = [
        (name, loss[name], loss[name] - loss["none"], sums[name][1] / n_token, n_token)
        for name in edits
    ]
    return pd.DataFrame(rows, columns=columns)


def _criteria(cases: ModelCases, edits: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    table = edits.set_index("edit")
    removed, kept = table.loc["remove the circuit"], table.loc["keep only the circuit"]
    plain = table.loc["none"]
    left = max(float(removed[label] / plain[label]) for label in cases.behaviour.affected)
    values = [
        float(removed["taken"]),
        left,
        float(removed["moved"]),
        float(kept["faithfulness"]),
        float(random.loc[random["kind"] == "as many", "taken"].abs().median()),
        float(torch.bincount(cases.label)[cases.affected > 0].min()),
    ]
    rows = []
    for (criterion, wanted), value in zip(WANTED.items(), values, strict=True):
        if np.isnan(value) and not (cases.affected == 0).any():
            continue  # there are no other classes, so nothing is said of them
        met = value >= wanted if "at least" in criterion else value <= wanted
        rows.append((criterion, value, wanted, bool(met)))
    return pd.DataFrame(rows, columns=["criterion", "value", "wanted", "met"])
