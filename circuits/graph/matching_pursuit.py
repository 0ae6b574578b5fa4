"""The pairs that an output's form is made of, found together and each tested given the others.

In superposition a gate of two features also gives weight to all features that are not orthogonal to
them (its *shadows*), and the shadows of twenty gates hide their own pairs. So pairs are searched by
orthogonal matching pursuit in stages (after StOMP, Donoho and others):

1. add the strongest pairs of the residual that stand out from it more than chance among all pairs
   allows; and pairs that would complete a block (their features are already joined by a path over
   two others) that stand out more than chance among the features found so far allows. What chance
   allows is measured where the pair is: in the shared spaces and directions of its features;
2. fit all pairs at once, ``Q ≈ Σ wᵢⱼ sym(aᵢ aⱼᵀ)``, and drop those that the others explain;
3. repeat both while what a new pair explains exceeds the cost of naming it;
4. test what remains by the rotation null, each pair against the form less the *other* pairs, and
   drop the weakest until all are discoveries at the rate ``q`` among all pairs.

It starts from pairs of the features that the form's span points to (``features_in_span``): these
are so few that they can be taken one by one, which look-alikes do not lead astray. A layer may read
by the features' written directions or by the pseudoinverse's rows; these differ unless features are
spread evenly, so stages 1 to 3 are done with both as the ``a``, and the shorter description of the
form is tested. A shadow is not an edge here, even if its weight is large, and a random form has no
edges.

The limit is the search, not the test: a pair has to stand out from the shadows of the others, by
about the root of the number of entries per pair, ``d (d + 1) / 2 / pairs``. On planted gates with
noise of a third of their norm, in 64 dimensions and more and with more features than dimensions, it
finds nearly all pairs from about 15 entries per pair, and of groups of two features also with 11;
nearly all missed pairs would pass the test if named (``known_pairs``). In fewer dimensions, or with
as many features as dimensions, it misses more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from operator import attrgetter

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.algebra.interactions import Interactions
from circuits.algebra.pair_search import Search, power_of_two
from circuits.arguments import checked
from circuits.errors import GraphError, check_index, check_indices
from circuits.graph.form_span import features_in_span, turned_within
from circuits.graph.frames import chance
from circuits.graph.near_pairs import Near, lowest_entry, near_pairs, pairs_reaching
from circuits.graph.significance import Atoms, RotationNull, q_values

_ROUNDS = 60
_TRIED = 2  # rounds with each kind of atoms, before one is chosen
_PATIENCE = 8  # pairs taken one by one although the description gets longer
_LENGTH = attrgetter("length")
_MOST = 1024  # pairs fitted at once: an output of more is hard to read, and the fit is slow


@checked
def significant_pairs(
    inter: Interactions, output: int, q: float = 0.05, null: RotationNull | None = None
) -> pd.DataFrame:
    """The pairs of features that are discoveries for one output: first, second, weight, own, z, q
    and q_form, strongest first.

    ``weight`` is the pair's in ``matrix(output)``, ``own`` what it would be without the shadows of
    the other pairs; ``z`` and ``q`` are given those others, against similar features rotated at
    random. ``q_form`` is against the form turned within the space that holds it, which is stricter
    where the form has few dimensions and sees little in noise: no pair is dropped for it.
    ``null`` is ``RotationNull.of(inter.inputs)``. ``.attrs["explained"]`` is the share of the
    form's squared norm that the pairs build together.
    """
    check_index("significant_pairs", output, inter.n_output, "output")
    if not 0 < q < 1:
        raise GraphError(
            f"significant_pairs: q = {q} is not a false-discovery rate. Pass 0 < q < 1, "
            f"such as 0.05."
        )
    null = RotationNull.of(inter.inputs) if null is None else null
    form = inter.without_constant.form(output).double()
    nothing = torch.zeros(0, 2, dtype=torch.int64, device=form.device)
    fits = [_pursue(_start(fit), _TRIED) for fit in _of_both_kinds(null, form, nothing)]
    found = _prune(_pursue(min(fits, key=_LENGTH)), q)
    # what was dropped may have stood for a pair that can be seen now
    while len(found.pairs) and (again := _prune(_pursue(found), q)).length < found.length:
        found = again
    return _table(found, form)


@checked
def known_pairs(
    inter: Interactions,
    output: int,
    pairs: Iterable[tuple[int, int]],
    null: RotationNull | None = None,
) -> pd.DataFrame:
    """Named pairs, such as those of another output, as ``significant_pairs`` gives them: none is
    added or dropped, and ``q`` counts all pairs as tested."""
    check_index("known_pairs", output, inter.n_output, "output")
    n = inter.inputs.n_feature
    listed = [sorted(check_indices("known_pairs", pair, n, "feature")) for pair in pairs]
    if any(len(pair) != 2 for pair in listed):
        raise GraphError(
            "known_pairs: a pair has two features. Pass pairs such as (3, 5) or (3, 3)."
        )
    null = RotationNull.of(inter.inputs) if null is None else null
    form = inter.without_constant.form(output).double()
    named = torch.tensor(listed, dtype=torch.int64, device=form.device).reshape(-1, 2)
    fits = _of_both_kinds(null, form, torch.unique(named, dim=0))
    return _table(min(fits, key=_LENGTH), form)


def _of_both_kinds(null: RotationNull, form: Tensor, pairs: Tensor) -> list[_Fit]:
    """The form made of products of what features write, and of what reads them."""
    form = form / power_of_two(form)  # its squares are in range
    inside, near = null.inside(form), near_pairs(null, form)
    return [
        _Fit(null, atoms, atoms.inside(inside), pairs, near)
        for atoms in (null.written, null.readers)
    ]


def _table(fit: _Fit, form: Float[Tensor, "model model"]) -> pd.DataFrame:
    """Strongest pairs first."""
    null, unit = fit.null, power_of_two(form)
    first, second = fit.pairs.unbind(1)
    one, two = (null.white[end] * null.sizes for end in (first, second))
    dots = ((one @ null.inside(form)) * two).sum(1)
    weight = torch.where(first == second, dots, 2 * dots).cpu().numpy()
    z = fit.z_values() if len(weight) else np.zeros(0)
    turned = turned_within(fit.atoms, fit.left, fit.pairs, fit.share)
    table = pd.DataFrame(
        {
            "first": first.cpu().numpy(),
            "second": second.cpu().numpy(),
            "weight": weight,
            "own": fit.own.cpu().numpy() * unit,
            "z": z,
            "q": q_values(z, null.n_pairs),
            "q_form": q_values(turned, null.n_pairs),
        }
    )
    order = np.lexsort((table["second"], table["first"], -table["weight"].abs()))
    table = table.iloc[order].reset_index(drop=True)
    whole = float((form / unit).norm()) ** 2
    built = float(fit.form.norm()) ** 2 - float(fit.left.norm()) ** 2
    table.attrs["explained"] = built / whole if whole > 0 else 0.0
    return table


class _Fit:
    """The form as a sum of some pairs' shares, by least squares, and the residual."""

    def __init__(
        self,
        null: RotationNull,
        atoms: Atoms,
        form: Float[Tensor, "rank rank"],
        pairs: Int[Tensor, "pair two"],
        near: Near | None,
    ) -> None:
        self.null, self.atoms, self.form, self.pairs, self.near = null, atoms, form, pairs, near
        self.n_numbers = len(form) * (len(form) + 1) // 2
        self.most = min(_MOST, self.n_numbers // 3)  # pairs
        one, two = atoms.unit[pairs[:, 0]], atoms.unit[pairs[:, 1]]
        across = one @ two.mT
        gram = ((one @ one.mT) * (two @ two.mT) + across * across.mT) / 2
        size = gram.diagonal().sqrt()
        # the pairs of a repeated feature are equal: the ridge keeps their fit finite
        gram = gram / size / size[:, None] + 1e-9 * torch.eye(len(pairs)).to(gram)
        inverse = torch.linalg.inv(gram)
        self.share = inverse @ (((one @ form) * two).sum(1) / size) / size
        built = (one * self.share[:, None]).mT @ two
        self.left = form - (built + built.mT) / 2
        # the residual per dimension of symmetric matrices
        self.noise = float(self.left.norm()) / math.sqrt(max(self.n_numbers - len(pairs), 1))
        self.nothing = 1e-10 * float(form.norm()) / max(len(form), 1)  # less is rounding
        self._noise_of_blocks = atoms.noise_of_blocks(form, self.left, pairs)
        self.standing = self.share.abs() / (inverse.diagonal().sqrt() / size * self.noise_at(pairs))

    def with_pairs(self, pairs: Int[Tensor, "pair two"]) -> _Fit:
        return _Fit(self.null, self.atoms, self.form, pairs, self.near)

    @property
    def length(self) -> float:
        """Of a description of the form, in nats: the residual, and the naming of the pairs."""
        noise = max(self.noise, self.nothing, 1e-300)
        return self.n_numbers * math.log(noise) + math.log(self.null.n_pairs) * len(self.pairs)

    def noise_at(self, pairs: Int[Tensor, "pair two"]) -> Float[Tensor, " pair"]:
        """The residual per dimension where these pairs are."""
        one, two = self.atoms.parts[pairs[:, 0]], self.atoms.parts[pairs[:, 1]]
        squares = ((one @ self._noise_of_blocks) * two).sum(1)
        return squares.sqrt().clamp(min=max(1e-12 * float(self.form.norm()), 1e-300))

    def distance(self, pairs: Int[Tensor, "pair two"]) -> Float[Tensor, " pair"]:
        """How far each stands out from the residual."""
        one, two = self.atoms.unit[pairs[:, 0]], self.atoms.unit[pairs[:, 1]]
        dots = ((one @ self.left) * two).sum(1).abs()
        sizes = ((1 + (one * two).sum(1).square()) / 2).sqrt()
        return dots / sizes / self.noise_at(pairs)

    def standing_out(self, pairs: Int[Tensor, "pair two"], n_tried: int) -> Int[Tensor, "some two"]:
        """Those that stand out from the residual more than any of so many does by chance."""
        return pairs[self.distance(pairs) > chance(n_tried)]

    def evenly(self) -> Float[Tensor, "feature rank"]:
        """Unit vectors over the noise where they are, so that the strongest pairs are those that
        stand out most."""
        noise = (self.atoms.parts @ self._noise_of_blocks.diagonal()).sqrt()
        noise = noise.clamp(min=max(1e-3 * float(noise.max()), 1e-300))
        return self.atoms.unit / (noise / noise.max()).sqrt()[:, None]

    @cached_property
    def strongest_left(self) -> Int[Tensor, "pair two"]:
        """Pairs that stand out most from the residual, a few at a time."""
        n = 16 + len(self.pairs)
        unit, left = self.atoms.unit.float(), self.left.float()
        few = self._reaching(unit, left, n)
        if few is None:
            search = Search(self.evenly().float(), None, n)
            search.look(0, lambda: left, math.inf)
            few = torch.tensor(search.table()[["first", "second"]].to_numpy()).to(self.pairs)
        return self.standing_out(few, self.null.n_pairs)

    def _reaching(self, unit: Tensor, left: Tensor, most: int) -> Tensor | None:
        """All pairs that may stand out, where these are the strongest and no more than ``most``, as
        in nearly every form without gates: found faster than the strongest whatever they are."""
        bar = lowest_entry(math.sqrt(float(self._noise_of_blocks.min())), self.null.n_pairs)
        if not bar > 0 or float(((unit @ left) * unit).sum(1).abs().max()) >= bar * math.sqrt(2):
            return None  # a feature with itself
        few, change = self.pairs[:0], self.form.float() - left
        for pairs in pairs_reaching(self.near, unit, left, bar, change):
            few = torch.cat([few, pairs])
            if len(few) > (most if self.atoms.parts.shape[1] == 1 else 0):
                return None
        return few

    @property
    def own(self) -> Float[Tensor, " pair"]:
        """What each pair's share alone adds to its weight."""
        first, second = self.pairs.unbind(1)
        one, two = self.atoms.unit[first], self.atoms.unit[second]
        weigh_one, weigh_two = (
            (self.null.white[end] * self.null.sizes)[:, self.atoms.directions]
            for end in (first, second)
        )
        along = (weigh_one * one).sum(1) * (weigh_two * two).sum(1)
        across = (weigh_one * two).sum(1) * (weigh_two * one).sum(1)
        return self.share * (along + across) / torch.where(first == second, 2, 1)

    def z_values(self) -> Float[np.ndarray, " pair"]:
        first, second = self.pairs.unbind(1)
        return self.atoms.z_values(self.left, first, second, self.share)


def _start(fit: _Fit) -> _Fit:
    """With pairs among the features that the form's span points to, if they explain it."""
    best = fit
    most = math.isqrt(4 * fit.most)  # features, of twice as many pairs as can be fitted
    for features in features_in_span(fit.atoms, fit.form, most):
        one, two = torch.triu_indices(len(features), len(features)).to(features)
        if len(one):
            found = _standing(_grown(fit, torch.stack([features[one], features[two]], dim=1)))
            best = min(best, found, key=_LENGTH)
    return best


def _grown(fit: _Fit, candidates: Int[Tensor, "pair two"]) -> _Fit:
    """With the candidates that shorten the description, taken one by one and dropped again where
    later ones explain them: slower than many at once, and not led astray by look-alikes."""
    while (found := _shrunk(_extended(fit, candidates))).length < fit.length:
        fit = found
    return fit


def _extended(fit: _Fit, candidates: Int[Tensor, "pair two"]) -> _Fit:
    """With the candidate that stands out most from what is left, one after another."""
    best, n, in_vain = fit, len(fit.atoms.unit), 0
    numbers = candidates[:, 0] * n + candidates[:, 1]
    while len(fit.pairs) < min(fit.most, len(candidates)) and in_vain < _PATIENCE:
        distance = fit.distance(candidates)
        distance[torch.isin(numbers, fit.pairs[:, 0] * n + fit.pairs[:, 1])] = -1
        fit = fit.with_pairs(torch.cat([fit.pairs, candidates[distance.argmax()][None]]))
        best, in_vain = (fit, 0) if fit.length < best.length else (best, in_vain + 1)
    return best


def _shrunk(fit: _Fit) -> _Fit:
    """Without the pairs whose names cost more than they explain, the weakest first."""
    while len(fit.pairs):
        kept = torch.arange(len(fit.pairs), device=fit.pairs.device) != fit.standing.argmin()
        less = fit.with_pairs(fit.pairs[kept])
        if less.length > fit.length:
            break
        fit = less
    return fit


def _pursue(fit: _Fit, n_rounds: int = _ROUNDS) -> _Fit:
    """Stages 1 to 3."""
    best, seen, in_vain = fit, set[frozenset[tuple[int, int]]](), 0
    for _ in range(n_rounds):
        if fit.noise <= fit.nothing:
            break
        new = torch.cat([fit.strongest_left, _completing(fit)])
        n = len(fit.atoms.unit)
        new = new[~torch.isin(new[:, 0] * n + new[:, 1], fit.pairs[:, 0] * n + fit.pairs[:, 1])]
        new = torch.unique(new, dim=0)
        if not len(new) or len(fit.pairs) + len(new) > fit.most:
            break
        fit = _standing(fit.with_pairs(torch.cat([fit.pairs, new])))
        now = frozenset((i, j) for i, j in fit.pairs.tolist())
        if now in seen:
            break
        seen.add(now)
        # what a pair explains must exceed the cost of naming it among all pairs
        if fit.length < best.length:
            best, in_vain = fit, 0
        elif in_vain == 2:
            break
        else:
            in_vain += 1
    return best


def _completing(fit: _Fit) -> Int[Tensor, "pair two"]:
    """Pairs that would complete a block and stand out from the residual."""
    if not len(fit.pairs):
        return fit.pairs
    nodes, _, paths = _paths(fit.pairs)
    one, two = torch.triu(paths > 0).nonzero(as_tuple=True)
    return fit.standing_out(torch.stack([nodes[one], nodes[two]], dim=1), len(nodes) ** 2)


def _standing(fit: _Fit) -> _Fit:
    """Without the pairs that the others explain."""
    while (weak := fit.standing < _bars(fit)).any():
        fit = fit.with_pairs(fit.pairs[_without_worst(fit.standing, weak)])
    return fit


def _paths(pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The features of these pairs, each pair's place among them, and for every two of them how
    many paths of three pairs join them."""
    nodes, place = pairs.unique(return_inverse=True)
    joined = torch.zeros(len(nodes), len(nodes), dtype=torch.float32, device=pairs.device)
    joined[place[:, 0], place[:, 1]] = joined[place[:, 1], place[:, 0]] = 1
    return nodes, place, joined @ joined @ joined


def _bars(fit: _Fit) -> Float[Tensor, " pair"]:
    """How far each pair must stand out: less where other pairs make it part of a block."""
    nodes, place, paths = _paths(fit.pairs)
    one, two = place.unbind(1)
    degree = torch.bincount(place.flatten(), minlength=len(nodes))
    through_itself = degree[one] + degree[two] - 1
    in_block = paths[one, two] > through_itself
    bars = torch.full_like(fit.standing, chance(fit.null.n_pairs))
    bars[in_block] = chance(len(nodes) ** 2)
    return bars


def _prune(fit: _Fit, q: float) -> _Fit:
    """Stage 4."""
    while len(fit.pairs):
        z = fit.z_values()
        weak = q_values(z, fit.null.n_pairs) > q
        if not weak.any():
            break
        kept = _without_worst(torch.tensor(np.abs(z)), torch.tensor(weak))
        fit = fit.with_pairs(fit.pairs[kept.to(fit.pairs.device)])
    return fit


def _without_worst(standing: Tensor, weak: Tensor) -> Tensor:
    """Which to keep when the weaker half of the weak are dropped: the others may pass then."""
    n_gone = max(int(weak.sum()) // 2, 1)
    standing = torch.where(weak, standing, torch.inf)
    kept = torch.ones(len(weak), dtype=torch.bool, device=standing.device)
    kept[standing.argsort(stable=True)[:n_gone]] = False
    return kept
