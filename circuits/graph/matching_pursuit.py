"""The pairs that an output's form is made of, found together and each tested given the others.

In superposition a gate of two features also gives weight to all features that are not orthogonal to
them (its *shadows*), and the shadows of twenty gates hide their own pairs. So pairs are searched by
orthogonal matching pursuit in stages (after StOMP, Donoho and others):

1. add the strongest pairs of the residual that stand out from it more than chance among all pairs
   allows; and pairs that would complete a block (their features are already joined by a path over
   two others) that stand out more than chance among the features found so far allows;
2. fit all pairs at once, ``Q ≈ Σ wᵢⱼ sym(dᵢ dⱼᵀ)``, and drop those that the others explain;
3. repeat both while what a new pair explains exceeds the cost of naming it;
4. test what remains by the rotation null, each pair against the form less the *other* pairs, and
   drop the weakest until all are discoveries at the rate ``q`` among all pairs.

A shadow is not an edge here, even if its weight is large, and a random form has no edges.

The limit is the search, not the test: a pair has to stand out from the shadows of the others, by
about the root of the number of entries per pair, ``d (d + 1) / 2 / pairs``. On planted gates with
noise of a third of their norm it finds nearly all pairs from about 15 entries per pair, and none
under 10; nine in ten of the missed pairs would pass the test if named (``known_pairs``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.algebra.interactions import Interactions
from circuits.algebra.pair_search import Search
from circuits.errors import GraphError, check_index, check_indices
from circuits.graph.significance import RotationNull, q_values

_ROUNDS = 60
_MOST = 1024  # pairs fitted at once: an output of more is hard to read, and the fit is slow


def significant_pairs(
    inter: Interactions, output: int, q: float = 0.05, null: RotationNull | None = None
) -> pd.DataFrame:
    """The pairs of features that are discoveries for one output: first, second, weight, own, z, q.

    ``weight`` is the pair's in ``matrix(output)``, ``own`` what it would be without the shadows of
    the other pairs; ``z`` and ``q`` are given those others. Strongest first. ``null`` is
    ``RotationNull.of(inter.inputs)``. ``.attrs["explained"]`` is the share of the form's squared
    norm that the pairs build together.
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
    return _table(_prune(_pursue(_Fit(null, form, nothing)), q))


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
    return _table(_Fit(null, form, torch.unique(named, dim=0)))


def _table(fit: _Fit) -> pd.DataFrame:
    """Strongest pairs first."""
    null, form = fit.null, fit.form
    first, second = fit.pairs.unbind(1)
    dots = ((null.write[first] @ form) * null.write[second]).sum(1)
    weight = torch.where(first == second, dots, 2 * dots).cpu().numpy()
    z = fit.z_values() if len(weight) else np.zeros(0)
    table = pd.DataFrame(
        {
            "first": first.cpu().numpy(),
            "second": second.cpu().numpy(),
            "weight": weight,
            "own": fit.own.cpu().numpy(),
            "z": z,
            "q": q_values(z, null.n_pairs),
        }
    )
    order = np.lexsort((table["second"], table["first"], -table["weight"].abs()))
    table = table.iloc[order].reset_index(drop=True)
    whole = float(form.norm()) ** 2
    table.attrs["explained"] = 1 - float(fit.left.norm()) ** 2 / whole if whole > 0 else 0.0
    return table


class _Fit:
    """The form as a sum of some pairs' shares, by least squares, and the residual."""

    def __init__(
        self,
        null: RotationNull,
        form: Float[Tensor, "model model"],
        pairs: Int[Tensor, "pair two"],
    ) -> None:
        self.null, self.form, self.pairs = null, form, pairs
        freedom = max(len(form) * (len(form) + 1) // 2 - len(pairs), 1)
        one, two = null.write[pairs[:, 0]], null.write[pairs[:, 1]]
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
        self.noise = float(self.left.norm()) / math.sqrt(freedom)
        error = inverse.diagonal().sqrt() / size * max(self.noise, 1e-12 * float(form.norm()))
        self.standing = self.share.abs() / error

    @property
    def own(self) -> Float[Tensor, " pair"]:
        """What each pair's share alone adds to its weight."""
        one, two = self.null.write[self.pairs[:, 0]], self.null.write[self.pairs[:, 1]]
        squares = one.square().sum(1) * two.square().sum(1) + (one * two).sum(1).square()
        return self.share * torch.where(self.pairs[:, 0] == self.pairs[:, 1], squares / 2, squares)

    def keep(self, kept: Tensor) -> _Fit:
        return _Fit(self.null, self.form, self.pairs[kept])

    def z_values(self) -> np.ndarray:
        first, second = self.pairs.unbind(1)
        partners = torch.bincount(first, minlength=len(self.null.write))
        partners += torch.bincount(second[first != second], minlength=len(self.null.write))
        return self.null.z_values(self.left, first, second, self.share, partners)


def _pursue(fit: _Fit) -> _Fit:
    """Stages 1 to 3."""
    size = fit.null.write.norm(dim=1, keepdim=True)
    unit = fit.null.write / size.clamp(min=1e-12 * float(size.max()))
    n_numbers = len(fit.form) * (len(fit.form) + 1) // 2
    most = min(_MOST, n_numbers // 3)
    nothing = 1e-10 * float(fit.form.norm()) / len(fit.form)  # a smaller residual is rounding
    worth, best = math.log(fit.null.n_pairs), fit
    seen, in_vain = set[frozenset[tuple[int, int]]](), 0
    for _ in range(_ROUNDS):
        if fit.noise <= nothing:
            break
        new = torch.cat([_standing_out(fit, unit), _completing(fit, unit)])
        n = len(unit)
        new = new[~torch.isin(new[:, 0] * n + new[:, 1], fit.pairs[:, 0] * n + fit.pairs[:, 1])]
        new = torch.unique(new, dim=0)
        if not len(new) or len(fit.pairs) + len(new) > most:
            break
        fit = _Fit(fit.null, fit.form, torch.cat([fit.pairs, new]))
        while (weak := fit.standing < _bars(fit)).any():
            fit = fit.keep(_without_worst(fit.standing, weak))
        now = frozenset((i, j) for i, j in fit.pairs.tolist())
        if now in seen:
            break
        seen.add(now)
        # what a pair explains must exceed the cost of naming it among all pairs
        gain = n_numbers * math.log(best.noise / max(fit.noise, nothing))
        if gain > worth * (len(fit.pairs) - len(best.pairs)):
            best, in_vain = fit, 0
        elif in_vain == 2:
            break
        else:
            in_vain += 1
    return best


def _bar(n_pairs: int) -> float:
    """About the largest normal value of so many by chance."""
    return math.sqrt(2 * math.log(max(n_pairs, 2)))


def _standing_out(fit: _Fit, unit: Tensor) -> Int[Tensor, "pair two"]:
    """Pairs that stand out most from the residual, a few at a time."""
    search = Search(unit.float(), None, 8 + len(fit.pairs))
    search.look(0, lambda: fit.left.float(), math.inf)
    pairs = torch.tensor(search.table()[["first", "second"]].to_numpy()).to(fit.pairs)
    one, two = unit[pairs[:, 0]], unit[pairs[:, 1]]
    dots = ((one @ fit.left) * two).sum(1).abs()
    sizes = ((1 + (one * two).sum(1).square()) / 2).sqrt()
    return pairs[dots / sizes > _bar(fit.null.n_pairs) * fit.noise]


def _completing(fit: _Fit, unit: Tensor) -> Int[Tensor, "pair two"]:
    """Pairs that would complete a block and stand out from the residual."""
    if not len(fit.pairs):
        return fit.pairs
    nodes, _, paths = _paths(fit.pairs)
    one, two = torch.triu(paths > 0).nonzero(as_tuple=True)
    touched = unit[nodes]
    dots = (touched @ fit.left @ touched.mT)[one, two].abs()
    sizes = ((1 + (touched @ touched.mT)[one, two].square()) / 2).sqrt()
    out = dots / sizes > _bar(len(nodes) ** 2) * fit.noise
    return torch.stack([nodes[one[out]], nodes[two[out]]], dim=1)


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
    bars = torch.full_like(fit.standing, _bar(fit.null.n_pairs))
    bars[in_block] = _bar(len(nodes) ** 2)
    return bars


def _prune(fit: _Fit, q: float) -> _Fit:
    """Stage 4."""
    while len(fit.pairs):
        z = fit.z_values()
        weak = q_values(z, fit.null.n_pairs) > q
        if not weak.any():
            break
        fit = fit.keep(_without_worst(torch.tensor(np.abs(z)), torch.tensor(weak)))
    return fit


def _without_worst(standing: Tensor, weak: Tensor) -> Tensor:
    """Which to keep when the weaker half of the weak are dropped: the others may pass then."""
    n_gone = max(int(weak.sum()) // 2, 1)
    standing = torch.where(weak, standing, torch.inf)
    kept = torch.ones(len(weak), dtype=torch.bool, device=standing.device)
    kept[standing.argsort(stable=True)[:n_gone]] = False
    return kept
