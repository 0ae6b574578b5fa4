"""Which features of an MLP's input a behaviour hangs on: by weights and data, and by gradients.

Each method puts the active features in an order, on the half of the cases that circuits are chosen
on; the other half measures it. *Kept*: only the first features of the order are left in the MLP's
input, and of what all of them do together this share is there. *Removed*: without the first ones,
this share is gone. Both are at most 1 and at least 0, and averaged over sizes from 1 to 256, each
twice the one before. The dictionary's error and its offset stay in every edit.

A gradient of a feature is that of the logit difference along its decoder row, times its activation,
summed over tokens; integrated, it is averaged on the way from none of the features to all of them.
By weights and data, the layer's pairs are exact, and what reads the layer is averaged on that same
way. *Whole* is all that is gone with a feature (all its pairs); *halves* shares each pair between
its two, which is what integrated gradients come to; *pair by pair* adds the feature that brings
most with those that are there, which no score of single features can see.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import hessian, vmap

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.built_in import built_in_behaviour
from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.behaviour.kinds import KINDS
from analysis.behaviour.lexicon import behaviour_from_lexicon
from analysis.runs.circuits import N_CASES
from analysis.validation.harness import Harness
from benchmarks.behaviours import N_PAIRS
from benchmarks.circuits import trained
from benchmarks.measure import machine, side_by_side, table
from circuits.algebra.bilinear import computing_dtype
from circuits.model import Model, Site, load_model
from circuits.model.site import mlp_sites
from sae import Dictionary, load_dictionaries
from sae.sparse import Code

SEEDS = range(10)
SIZES = tuple(2**n for n in range(9))
N_STEPS = 10  # of integrated gradients
N_DRAWS = 5  # random orders
_N_BOOTSTRAP = 500
_AT_A_TIME = 100  # cases whose Hessians are held
_TOKENS = 512  # whose pairs are held
_HEAD = ["seed", "order by", "seconds", "rank correlation with single removals", "kept", "removed"]
_Scores = Float[Tensor, " feature"]


def run(device: str, folder: str | None = None, seeds: Iterable[int] = SEEDS) -> str:
    """Negation in the built-in stories, one layer: nodes of each seed, then pairs of the first."""
    rows, law = list[tuple[str, ...]](), ""
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        for seed in seeds:
            model, dictionaries = trained(seed, where, device)
            behaviour = built_in_behaviour("negation", model, N_CASES, seed=seed)
            setting = Setting.of(model, dictionaries[Site("mlp_in", 0)], behaviour)
            rows += [(str(seed), *row) for row in setting.rows(seed)]
            law = law or setting.pairs_law()
    head = (
        f"{machine()}. Negation in the built-in stories, one layer; {N_CASES} minimal pairs, half "
        f"to order on and half to measure on; 95 % of {_N_BOOTSTRAP} bootstrap draws of pairs in "
        f"brackets; integrated gradients in {N_STEPS} steps; {N_DRAWS} random orders."
    )
    return "\n\n".join([head, table(rows, _HEAD), law])


def in_words_of_its_own(device: str, name: str, seeds: Iterable[int]) -> str:
    """Each kind of behaviour that a model of several layers shows, in every layer."""
    model = load_model(name, device=device)
    dictionaries = load_dictionaries(name, device=device)
    rows = list[tuple[str, ...]]()
    for seed in seeds:
        for kind in KINDS:
            shown = behaviour_from_lexicon(model, kind, n=N_PAIRS, seed=seed).behaviour
            for layer in range(model.n_layer) if shown is not None else ():
                setting = Setting.of(model, dictionaries[Site("mlp_in", layer)], shown)
                rows += [(kind, str(layer), str(seed), *row) for row in setting.rows(seed)]
    head = (
        f"{machine()}. {name}; {N_PAIRS} minimal pairs, half of the words to order on and half to "
        f"measure on; 95 % of {_N_BOOTSTRAP} bootstrap draws of pairs in brackets; integrated "
        f"gradients in {N_STEPS} steps; {N_DRAWS} random orders."
    )
    return f"{head}\n\n{table(rows, ['behaviour', 'layer', *_HEAD])}"


@dataclass(frozen=True, eq=False)
class Setting:
    """A model, one MLP's dictionary, and the two halves of a behaviour's cases."""

    model: Model
    dictionary: Dictionary
    chosen: ModelCases
    measured: ModelCases

    @classmethod
    def of(cls, model: Model, dictionary: Dictionary, behaviour: Behaviour) -> Setting:
        """The halves in the model's tokens."""
        one, other = (in_model(half, model) for half in behaviour.halves())
        return cls(model, dictionary, one, other)

    @property
    def layer(self) -> int:
        """The number of the layer."""
        return self.dictionary.site_in(self.model, "rivals").layer

    def rows(self, seed: int) -> Iterator[tuple[str, ...]]:
        """A row for each method: seconds, rank correlation, areas with their intervals."""
        exact, seconds = _timed(self.removed_alone)
        curves = Curves(self, seed)
        there = exact != 0
        pairs, seconds_of_pairs = _timed(lambda: self.pairs)
        orders: dict[str, tuple[list[_Scores], float]] = {
            "removing each alone": ([exact], seconds),
            "activation x gradient": _scored(lambda: self.by_gradient([1.0])),
            "integrated gradients": _scored(lambda: self.by_gradient(_midpoints(N_STEPS))),
        }
        for name, found in {"whole": _whole(pairs), "halves": _halves(pairs),
                            "pair by pair": _pair_by_pair(pairs)}.items():  # fmt: skip
            orders[f"weights and data, {name}"] = [found], seconds_of_pairs
        rng = np.random.default_rng(seed)
        orders["chance"] = (
            [torch.from_numpy(rng.random(len(exact))) * there for _ in range(N_DRAWS)],
            0.0,
        )
        for name, (scores, taken) in orders.items():
            alike = np.mean([_rank_correlation(each[there], exact[there]) for each in scores])
            areas = curves.areas([_order(each, there) for each in scores])
            yield (name, f"{taken:.2f}", f"{alike:.3f}", *areas)

    @cached_property
    def on_chosen(self) -> Harness:
        """The half that is ordered on, to be run with features removed."""
        return Harness(self.chosen, self.layer, self.dictionary, 0)

    @cached_property
    def on_measured(self) -> Harness:
        """The half that measures."""
        return Harness(self.measured, self.layer, self.dictionary, 0)

    @torch.no_grad()
    def removed_alone(self) -> _Scores:
        """How much of the affected classes' margin is gone with each feature that is active."""
        run, gone = self.on_chosen, torch.zeros(self.dictionary.n_feature, dtype=torch.float64)
        for feature in self.active:
            gone[feature] = run.base - run.affected(run.without_features([feature]))
        return gone

    @cached_property
    def active(self) -> list[int]:
        """The features that are active on the half that is ordered on."""
        codes = self.on_chosen.codes
        return sorted({int(n) for code in codes for n in code.features[code.active].unique()})

    def _slopes(self, share: float, site: Site) -> list[Tensor]:
        """How the affected classes' margin rises along a site's activations, with all features at
        this share at every token but the first; of each tile of cases."""
        seen: list[Tensor] = []

        def scaled(x: Tensor) -> Tensor:
            new = x.detach() - (1 - share) * _written(self.dictionary, x.detach())
            return torch.cat([x[:, :1].detach(), new[:, 1:]], dim=1)

        def kept(values: Tensor) -> Tensor:
            seen.append(values.detach().requires_grad_())
            return seen[-1]

        into = mlp_sites(self.layer)[0]
        changes = {into: scaled, site: kept} if site != into else {into: lambda x: kept(scaled(x))}
        position = self.chosen.position.split(len(self.chosen.tiles[0]))
        with torch.enable_grad(), self.model.replaced(changes):
            each = zip(self.chosen.tiles, position, strict=True)
            logits = torch.cat([self.model.logits_at(rows, at) for rows, at in each]).cpu()
            made = self.chosen.difference(logits.to(computing_dtype(logits)))
            (self.chosen.weights(self.chosen.affected) * made).sum().backward()
        for leaf in seen:
            leaf.grad[:, 0] = 0  # what is at a text's first token is no feature's
        return [leaf.grad for leaf in seen]

    def by_gradient(self, shares: list[float]) -> _Scores:
        """Activation times gradient, the gradient averaged over these shares of all features."""
        total = torch.zeros(self.dictionary.n_feature, dtype=torch.float64)
        for share in shares:
            slopes = self._slopes(share, mlp_sites(self.layer)[0])
            for x, slope in zip(self._inputs, slopes, strict=True):
                total += _along(self.dictionary, x, slope) / len(shares)
        return total

    @cached_property
    def _inputs(self) -> list[Tensor]:
        """The MLP's, of each tile of cases."""
        site = mlp_sites(self.layer)[0]
        with torch.no_grad():
            return [self.model.read(rows, [site])[site] for rows in self.chosen.tiles]

    @cached_property
    def pairs(self) -> Float[Tensor, "feature_and_constant feature_and_constant"]:
        """What each pair adds to the affected classes' margin, each once, above the diagonal, on
        the way from none of the features to all of them: the layer's own pairs, and what reads
        them averaged on that way. A pair grows with the square of the share of features, a feature
        with the constant evenly."""
        shares, out = _midpoints(N_STEPS), mlp_sites(self.layer)[1]
        slopes = [self._slopes(share, out) for share in shares]
        of_pairs = _weighed(slopes, [2 * share for share in shares])
        of_singles = _weighed(slopes, [1.0] * N_STEPS)
        total = torch.zeros(self.dictionary.n_feature + 1, self.dictionary.n_feature + 1,
                            dtype=torch.float64)  # fmt: skip
        for x, pairs, singles in zip(self._inputs, of_pairs, of_singles, strict=True):
            self._add_pairs(total, x, pairs.cpu(), singles.cpu())
        whole = (total + total.mT).triu()
        whole[:-1, :-1] /= 2
        return whole

    def _add_pairs(self, total: Tensor, x: Tensor, of_pairs: Tensor, of_singles: Tensor) -> None:
        """Add what the pairs of each token's active features do, each twice but squares once; and
        each feature with the constant, the dictionary's error and its offset, once."""
        layer = self.model.layer(self.layer).to("cpu", torch.float64)
        dictionary, n = self.dictionary.to("cpu"), self.dictionary.n_feature
        rest = (x - _written(self.dictionary, x)).cpu().double().flatten(0, 1)
        features, values = _padded(dictionary.active(x.to(dictionary.dtype).cpu().flatten(0, 1)))
        gates = [(each @ layer.down).flatten(0, 1) for each in (of_pairs, of_singles)]
        decoder = layer.lift(dictionary.decoder.double(), 0.0)
        for some in torch.arange(len(rest)).split(_TOKENS):
            on, held = features[some], values[some][..., None].double()
            sides = [(decoder @ factor.mT)[on] * held for factor in layer.factors]
            rests = [layer.lift(rest[some], 1.0) @ factor.mT for factor in layer.factors]
            made = (sides[0] * gates[0][some, None]) @ sides[1].mT
            made = made + made.mT - torch.diag_embed(made.diagonal(dim1=1, dim2=2))
            total.index_put_((on[:, :, None], on[:, None]), made, accumulate=True)
            alone = sides[0] * rests[1][:, None] + sides[1] * rests[0][:, None]
            alone = (alone * gates[1][some, None]).sum(2)
            total.index_put_((on, torch.full_like(on, n)), alone, accumulate=True)

    def pairs_law(self) -> str:
        """That a pair is the Hessian times both activations, and the seconds of either way."""
        account = PairAccount.of(self.chosen, self.layer, self.dictionary)
        by_hessian = _hessian_pairs(account)
        added = account.added()
        ours = torch.tensordot(
            account.cases.affected.double() / account.cases.affected.sum(), added.triu(), dims=1
        )[:-1, :-1]
        off = float((by_hessian - ours).abs().max() / ours.abs().max())
        seconds = side_by_side(
            {"ours": account.added, "hessian": lambda: _hessian_pairs(account)}, times=3
        )
        return (
            f"Pairs, {len(ours)} features of {len(self.chosen)} cases: Hessian x activations is "
            f"what the weights give to {off:.1e} of the largest; {seconds['hessian']:.3f} s beside "
            f"{seconds['ours']:.3f} s, {seconds['hessian'] / seconds['ours']:.0f} times as long."
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """What is kept and removed on the half that measures, at each size of an order's beginning."""

    setting: Setting
    seed: int

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Class means of bootstrap draws, the first of all cases: with all features and without."""
        run, every = self.setting.on_measured, range(self.setting.dictionary.n_feature)
        return self._draws(run.plain), self._draws(run.without_features(list(every)))

    def _draws(self, margins: Tensor) -> Tensor:
        """The affected classes' mean margin: over all cases, then over each draw."""
        cases = self.setting.measured
        inside = cases.affected.double() / cases.affected.sum()
        whole = cases.class_means(margins.double()) @ inside
        return torch.cat([whole[None], cases.resampled(margins, _N_BOOTSTRAP, self.seed) @ inside])

    def areas(self, orders: list[list[int]]) -> tuple[str, str]:
        """Of several orders the mean area of each curve, with its interval."""
        full, none = self._ends
        run, every = self.setting.on_measured, set(range(self.setting.dictionary.n_feature))
        kept, gone = [], []
        for order in orders:
            for size in SIZES:
                first = order[:size]
                alone, without = (
                    self._draws(run.without_features(sorted(some)))
                    for some in (every.difference(first), first)
                )
                kept.append(((alone - none) / (full - none)).clamp(0, 1))
                gone.append(((full - without) / (full - none)).clamp(0, 1))
        return _said(torch.stack(kept).mean(0)), _said(torch.stack(gone).mean(0))


def _said(areas: Tensor) -> str:
    low, high = (float(areas[1:].quantile(q)) for q in (0.025, 0.975))
    return f"{float(areas[0]):.3f} [{low:.3f}, {high:.3f}]"


def _written(dictionary: Dictionary, x: Tensor) -> Tensor:
    """What the features write."""
    code = dictionary.active(x.to(dictionary.dtype).flatten(0, -2))
    return code.times(dictionary.decoder).view(x.shape).to(x)


def _weighed(slopes: list[list[Tensor]], weights: list[float]) -> list[Tensor]:
    """Of each tile the mean over steps, weighed."""
    each = zip(*slopes, strict=True)
    return [
        torch.stack([w * one.double() for w, one in zip(weights, tile, strict=True)]).mean(0)
        for tile in each
    ]


def _padded(code: Code) -> tuple[Tensor, Tensor]:
    """The active features of each row and their values; where a row has fewer, features of value
    zero."""
    dense = torch.zeros(code.n_row, code.n_feature, dtype=code.values.dtype)
    dense[code.rows, code.features.long()] = code.values
    most = int((dense != 0).sum(1).max())
    features = (dense != 0).double().topk(most, dim=1).indices
    return features, dense.gather(1, features)


def _along(dictionary: Dictionary, x: Tensor, gradient: Tensor) -> _Scores:
    """Each feature's activation times the gradient along its decoder row, summed over tokens."""
    code = dictionary.active(x.to(dictionary.dtype).flatten(0, -2))
    slopes = (gradient.flatten(0, -2)[code.rows] * dictionary.decoder[code.features.long()]).sum(1)
    total = torch.zeros(dictionary.n_feature, dtype=torch.float64)
    return total.index_add_(0, code.features.long().cpu(), (code.values * slopes).double().cpu())


def _hessian_pairs(account: PairAccount) -> Float[Tensor, "feature feature"]:
    """Second derivatives of what each case's answers read, times both activations, of the features
    that are active; a square counts half."""
    written, (left, right) = account.written[:-1], account.layer.factors
    rest = account.values[:, -1:] * account.written[-1] + account.error
    gates = account.reads @ account.layer.down

    def output(z: Tensor, of: Tensor, rest: Tensor, gate: Tensor) -> Tensor:
        lifted = z @ of + rest
        return (gate * (left @ lifted) * (right @ lifted)).sum()

    active = account.values[:, :-1]
    most = int((active != 0).sum(1).max())
    on = (active != 0).double().topk(most, dim=1).indices  # of a case with fewer, some are zero
    z = active.gather(1, on)
    each = vmap(hessian(output), chunk_size=_AT_A_TIME)(z, written[on], rest, gates)
    weights = account.cases.weights(account.cases.affected)
    added = torch.einsum("cij, ci, cj, c -> cij", each, z, z, weights)
    total = torch.zeros(active.shape[1], active.shape[1], dtype=torch.float64)
    total.index_put_((on[:, :, None], on[:, None]), added, accumulate=True)
    total.diagonal().div_(2)
    return total.triu()


def _whole(pairs: Tensor) -> _Scores:
    """All that is gone with each feature."""
    both = pairs + pairs.mT
    both.diagonal().div_(2)
    return both.sum(1)[:-1]


def _halves(pairs: Tensor) -> _Scores:
    """Half of each pair, but all of one with the constant."""
    both = (pairs + pairs.mT) / 2
    both[:, -1] *= 2
    return both.sum(1)[:-1]


def _pair_by_pair(pairs: Tensor) -> _Scores:
    """The order in which each next feature brings most with those that are there; the first two
    are the pair that brings most."""
    both = pairs + pairs.mT
    both.diagonal().div_(2)
    alone = both.diagonal()[:-1] + both[:-1, -1]
    both = both[:-1, :-1] - torch.diag(both.diagonal()[:-1])
    together = alone[:, None] + alone + both
    start = divmod(int(together.argmax()), len(alone))
    order, gains = list(dict.fromkeys(start)), alone.clone()
    for one in order:
        gains += both[one]
    scores = torch.zeros_like(alone)
    while len(order) < len(alone):
        open_ones = gains.clone()
        open_ones[order] = -torch.inf
        best = int(open_ones.argmax())
        order.append(best)
        gains += both[best]
    scores[order] = torch.arange(len(alone), 0, -1, dtype=torch.float64)
    return scores


def _order(scores: _Scores, there: Tensor) -> list[int]:
    """The active features, highest first."""
    order = scores.argsort(descending=True, stable=True)
    return [n for n in order.tolist() if there[n]]


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    return float(pd.Series(one.numpy()).corr(pd.Series(other.numpy()), method="spearman"))


def _midpoints(n: int) -> list[float]:
    return [(step + 0.5) / n for step in range(n)]


def _timed(compute: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    return compute(), time.perf_counter() - start


def _scored(compute: Callable[[], Tensor]) -> tuple[list[Tensor], float]:
    found, seconds = _timed(compute)
    return [found], seconds
