"""Features that a form is made of, seen from the space it spans.

The form of a few gates spans few dimensions, and a group's vector, a sum of a few features, lies in
them. So what these features have *outside* that space cancels: two by two their remainders point
along one line. No search among pairs is needed to see this, and it works where features are so
crowded that no pair stands out alone. (In many dimensions, a form that spans few of them has few
pairs for its many entries, and they do stand out.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special
from scipy.spatial import cKDTree
from torch import Tensor

from circuits.algebra.pair_search import ROWS, rounded, row_maxima, screen_dtype
from circuits.graph.frames import chance
from circuits.graph.significance import Atoms, normal_of_cosine, sphere_tail

_GAPS = 4  # places tried where the form's space may end
_MOST = 128  # dimensions
_HOLDS = 8  # dimensions, at least
_STEEP = 1.5  # an eigenvalue is this much larger than the next one there
STRIP = 128  # rows whose cosines with all others are screened at once, in cache
_FLAT = 9  # dimensions in which a tree finds near neighbours sooner than products do


def features_in_span(
    atoms: Atoms, form: Float[Tensor, "rank rank"], most: int
) -> Iterator[Int[Tensor, " some"]]:
    """For each place where the form's space may end: the features whose remainder outside it has
    the direction of another's, more exactly than chance among all features allows, but no more than
    the likeliest so many."""
    if not 6 < len(form) <= _MOST:
        return
    values, vectors = torch.linalg.eigh(form)
    values, order = values.abs().sort(descending=True)
    drops = values[1:-4] / values[2:-3].clamp(min=max(1e-12 * float(values[0]), 1e-300))
    steepest = np.argsort([-float(drop) for drop in drops], kind="stable")[:_GAPS].tolist()
    for end in (place + 2 for place in steepest if float(drops[place]) > _STEEP):
        rest = torch.nn.functional.normalize(atoms.unit @ vectors[:, order[end:]], dim=1)
        z = torch.from_numpy(_nearest_line(rest.float(), atoms.spaces, most))
        likely = z.argsort(descending=True, stable=True)[: int((z > chance(len(z))).sum())]
        yield likely[:most].sort().values.to(order)


def _nearest_line(
    rest: Float[Tensor, "feature rank"], spaces: Int[Tensor, " feature"], most: int
) -> Float[np.ndarray, " feature"]:
    """How surprising each feature's largest |cosine| with another is, as a normal value. How many
    dimensions they have for it follows from how they spread, in each shared space on its own. What
    is not among the ``most`` likeliest, or is no more than chance, may be 0."""
    names = spaces.unique().tolist()
    of_space = [(spaces == name).nonzero()[:, 0] for name in names]
    spread = [rest[rows].mT @ rest[rows] / len(rows) for rows in of_space]
    z = np.zeros(len(rest))
    for one, rows_of in enumerate(of_space):
        for two, others in enumerate(of_space):
            alike = max(float((spread[one] * spread[two]).sum()), 1e-9)
            freedom = float(min(1 / alike, rest.shape[1]) - 1)
            least = cosine_of_normal(chance(len(rest)), freedom) - 1e-4
            near = rows_of[nearest_rows(rest[rows_of], rest[others], one == two, most, least)]
            for rows in near.split(ROWS):
                cosines = (rest[rows] @ rest[others].mT).abs_()
                if one == two:  # not with itself
                    cosines[rows[:, None] == others] = 0
                largest = cosines.amax(1).double().clamp(max=1).cpu().numpy()
                here = rows.cpu().numpy()
                found = normal_of_cosine(largest, np.full(len(here), freedom))
                z[here] = np.maximum(z[here], found)
    return z


def cosine_of_normal(z: float, freedom: float) -> float:
    """The inverse of ``normal_of_cosine``; 1 where no cosine is surprising."""
    if freedom < 1:
        return 1.0
    t = float(special.stdtrit(freedom, special.ndtr(-z)))
    return abs(t) / math.sqrt(freedom + t**2)


def nearest_rows(
    rows: Float[Tensor, "row rank"],
    others: Float[Tensor, "other rank"],
    same: bool,
    most: int,
    least: float,
) -> Int[Tensor, " some"]:
    """The rows that may be among the ``most`` of largest |cosine| with another, if it is at least
    ``least``: all that are, and those that rounding cannot separate from them."""
    if rows.shape[1] <= _FLAT:
        largest, error = _largest_by_tree(rows, others, same, most, least)
    else:
        largest, error = _largest_by_screen(rows, others, same)
    lower, upper = largest * (1 - error) - error, largest * (1 + error) + error
    bar = float(lower.topk(min(most, len(rows))).values[-1])
    return (upper >= max(bar, least)).nonzero()[:, 0]


def _largest_by_tree(
    rows: Tensor, others: Tensor, same: bool, most: int, least: float
) -> tuple[Float[Tensor, " row"], float]:
    """Each row's largest |cosine| where it is at least ``least`` and among the ``most`` largest,
    else it may be 0; and its error."""
    points, tree = rows.double().cpu().numpy(), cKDTree(others.double().cpu().numpy())
    reach = math.sqrt(max(2 - 2 * least, 0)) + 1e-4
    for near in (0.7 * reach, reach):  # mostly there are enough
        nearest = np.minimum(
            tree.query(points, [2 if same else 1], distance_upper_bound=near)[0],  # not itself
            tree.query(-points, [1], distance_upper_bound=near)[0],
        )[:, 0]
        if np.isfinite(nearest).sum() >= most:
            break
    cosines = np.where(np.isfinite(nearest), 1 - nearest**2 / 2, 0.0)
    return torch.from_numpy(cosines).to(rows.device), 1e-6


def _largest_by_screen(
    rows: Tensor, others: Tensor, same: bool
) -> tuple[Float[Tensor, " row"], float]:
    """Each row's largest |cosine|, from products in the screen's precision, and its error."""
    screen = screen_dtype(rows)
    left, right = rows.to(screen), others.to(screen)
    maxima = []
    for start in range(0, len(rows), STRIP):
        cosines = (left[start : start + STRIP] @ right.mT).abs_()
        if same:  # not with itself
            cosines.diagonal(start).zero_()
        maxima.append(row_maxima(cosines))
    (_, left_lost), (_, right_lost) = rounded(rows, left), rounded(others, right)
    lost = float(left_lost.max()), float(right_lost.max())
    summing = 2 * rows.shape[1] * torch.finfo(torch.float32).eps
    absolute = lost[0] + (1 + lost[0]) * lost[1] + 2 * summing
    return torch.cat(maxima).double(), absolute + torch.finfo(screen).eps


def turned_within(
    atoms: Atoms,
    left: Float[Tensor, "rank rank"],
    pairs: Int[Tensor, "pair two"],
    share: Float[Tensor, " pair"],
) -> Float[np.ndarray, " pair"]:
    """How unlikely each pair is if the form is turned within the space that holds it, as a normal
    value. ``left`` is what a fit of all pairs leaves; each pair's own share is put back."""
    if not len(pairs):
        return np.zeros(0)
    values, vectors = torch.linalg.eigh(left)
    order = values.abs().argsort(descending=True)
    values, vectors = values[order], vectors[:, order]
    squares, fourths = float(values.square().sum()), float(values.pow(4).sum())
    z = np.zeros(len(pairs))
    for place, (i, j) in enumerate(pairs.tolist()):
        one, two = atoms.unit[i], atoms.unit[j]
        half, cosine = share[place] / 2, one @ two
        own = torch.stack([half * (cosine + 1), half * (cosine - 1)])
        n_held = (squares + float(own.square().sum())) ** 2
        n_held /= max(fourths + float(own.pow(4).sum()), 1e-300)
        k = min(max(_HOLDS, math.ceil(1.5 * n_held)), len(left))
        space = torch.cat([one[:, None], two[:, None], vectors[:, : max(k - 2, 0)]], dim=1)
        space = torch.linalg.qr(space).Q[:, :k]
        here = torch.stack([one, two]) @ space
        form = space.mT @ left @ space + half * (
            torch.outer(here[0], here[1]) + torch.outer(here[1], here[0])
        )
        ends = []
        for still, moving in ((here[0], here[1]), (here[1], here[0])):
            image = still @ form
            axis = still / still.norm().clamp(min=1e-300)
            image, moving = (part - (part @ axis) * axis for part in (image, moving))
            norm = (image.norm() * moving.norm()).clamp(min=1e-300)
            ends.append(float((image @ moving / norm).clamp(-1, 1)))
        smaller = min(ends, key=abs)
        if i == j:
            spread = torch.linalg.eigvalsh(form).cpu().numpy()[None]
            z[place] = sphere_tail(spread, np.array([float(here[0] @ form @ here[0])]))[0]
        else:
            z[place] = normal_of_cosine(np.array([smaller]), np.array([k - 2.0]))[0]
    return z
