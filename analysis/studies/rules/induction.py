"""Induction, from the weights alone: a head that looks back by one, and one that looks for a match.

The token after an earlier occurrence of the present one is copied. The first head must take to each
token what stands before it; a later head compares that with the present token. Both are read from
scores of token embeddings at a distance, with everything else zero, and proven by setting exactly
these scores to zero in the running model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.studies.rules.known import KnownRules
from analysis.studies.rules.paths import OTHER, SplitPass, check_is_polynomial
from analysis.studies.rules.removal import MOST_DRAWS, first_answers
from circuits.arguments import checked
from circuits.errors import (
    FeatureRangeError,
    NotFoundError,
    check_count,
    check_index,
    check_indices,
    check_some,
)
from circuits.model.model import Model

_MOST_PAIRS = 10**6
_FAR = (3, 6, 10, 20)
_BACK = 9  # distances that looking back is compared over


@checked
@dataclass(frozen=True, eq=False)
class Induction:
    """Which head looks back by one, which looks for a match, and the scores that say so."""

    looks_back: int  # the layer of that head
    matches: int  # the layer of the later head
    back: pd.DataFrame  # layer, distance, mean, median (of |score|) over pairs of tokens
    match: pd.DataFrame  # layer, distance, same, different (mean scores), sd (of different)
    copied: pd.DataFrame  # distance, same, different: how often the copied token comes first


@checked
@torch.no_grad()
def find_induction(
    model: Model,
    tokens: Sequence[int] | None = None,
    distances: Sequence[int] | None = None,
    n: int = 2000,
    seed: int = 0,
) -> Induction:
    """Induction among ``tokens`` (all), in float64. Looking back: ``n`` pairs of tokens, up to 8
    apart. A match: a token, the one after it and, so far behind the first, the same token again or
    a different one; the score is from the last to the one after the first. ``distances``: those of
    3, 6, 10 and 20 that fit."""
    owner = "find_induction"
    check_is_polynomial(owner, model)
    check_count(owner, n, _MOST_PAIRS, "n")
    check_index(owner, seed, 2**63, "seed")
    everything = range(model.n_token) if tokens is None else tokens
    listed = check_some(owner, everything, "tokens")
    known = sorted(set(check_indices(owner, listed, model.n_token, "token")))
    usual = [distance for distance in _FAR if distance < model.n_context]
    far = check_some(owner, usual if distances is None else distances, "distances")
    far = [check_count(owner, one, model.n_context - 1, "distance") for one in far]
    if min(far) < 2:
        raise FeatureRangeError(
            f"{owner}: distance 1 leaves no place for the token after the first. Pass 2 or more."
        )
    generator, exact = torch.Generator().manual_seed(seed), model.in_dtype(torch.float64)
    if len(known) < 2:
        raise NotFoundError(f"{owner}: one token alone has no other to differ from. Pass two.")
    drawn = torch.randint(len(known), (3, n), generator=generator)
    other = (drawn[0] + 1 + drawn[2] % (len(known) - 1)) % len(known)  # never the first again
    drawn = torch.tensor(known)[torch.stack([drawn[0], drawn[1], other])]
    back = pd.DataFrame(_looking_back(exact, drawn[0], drawn[1]))
    match, copied = _matching(exact, drawn, far)
    return Induction(*_named(back, match), back, match, copied)


def _looking_back(exact: Model, earlier: Tensor, later: Tensor) -> Iterable[dict[str, float]]:
    for distance in range(min(_BACK, exact.n_context)):
        places = [(0, earlier), (distance, later)] if distance else [(0, later)]
        for layer, scores in enumerate(_sparse(exact, places).scores):
            size = scores[:, -1, 0].abs()
            yield {"layer": layer, "distance": distance, "mean": float(size.mean()),
                   "median": float(size.median())}  # fmt: skip


def _matching(
    exact: Model, drawn: Int64[Tensor, "three pair"], distances: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    token, after, other = drawn
    scores, copied = [], []
    for distance in distances:
        same, different = (
            _sparse(exact, [(0, token), (1, after), (distance, last)]) for last in (token, other)
        )
        for layer in range(exact.n_layer):
            one, two = (run.scores[layer][:, -1, 1] for run in (same, different))
            scores.append({"layer": layer, "distance": distance, "same": float(one.mean()),
                           "different": float(two.mean()),
                           "sd": float(two.std(correction=0))})  # fmt: skip
        first = [exact.logits_of(run.stream[:, -1]).argmax(-1) for run in (same, different)]
        shares = [float((one.cpu() == after).double().mean()) for one in first]
        copied.append({"distance": distance, "same": shares[0], "different": shares[1]})
    return pd.DataFrame(scores), pd.DataFrame(copied)


def _named(back: pd.DataFrame, match: pd.DataFrame) -> tuple[int, int]:
    """The layers of both heads: the one whose scores separate the same token from others best, and
    the one before it that prefers the token before to tokens farther back most."""
    gap = (match["same"] - match["different"]).abs() / match["sd"].clip(lower=1e-12)
    separation = gap.groupby(match["layer"]).mean()
    matches = int(separation.to_numpy().argmax())
    if matches == 0 or separation.max() < 1:
        raise NotFoundError(
            f"find_induction: no head after the first layer gives the same token another score "
            f"than different ones (at most {separation.max():.2g} standard deviations, in layer "
            f"{matches}; at least 1 is needed). There is no induction to name."
        )
    earlier = back[back["layer"] < matches]
    by = earlier.pivot_table(index="layer", columns="distance", values="median")
    preference = by[1] / by.drop(columns=[0, 1]).max(axis=1).clip(lower=1e-12)
    return int(preference.to_numpy().argmax()), matches


def _sparse(exact: Model, places: Iterable[tuple[int, Int64[Tensor, " row"]]]) -> SplitPass:
    """Rows with these tokens' embeddings at some places, and zeros everywhere else."""
    embedding = exact.network.get_input_embeddings().weight
    at, tokens = zip(*places, strict=True)
    x = embedding[torch.stack(tokens, 1).to(embedding.device)]
    everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return SplitPass(exact, x, {OTHER: everything}, places=at)


@checked
def induction_removal(
    model: Model, known: KnownRules, found: Induction, n_draws: int = 5, seed: int = 0
) -> pd.DataFrame:
    """How often the first answer is right, by rule, without the scores of induction: those of the
    first head to the token before, or those of the second to tokens after an earlier occurrence.
    Controls cut as many scores of the same head: to a token farther back, or at the places of
    another row's matches; and the same scores of the other head."""
    check_count("induction_removal", n_draws, MOST_DRAWS, "n_draws")
    tokens, generator = known.tokens, torch.Generator().manual_seed(seed)
    n_row, n_pos = tokens.shape
    one_back = _at_distance(n_row, n_pos, 1)
    match = after_match(tokens)
    back, later = found.looks_back, found.matches
    rows = [("intact", "", {}), ("looks back by one", f"head {back}", {back: one_back}),
            ("looks for a match", f"head {later}", {later: match}),
            ("both", f"heads {back} and {later}", {back: one_back, later: match}),
            ("other head", f"head {later}, one back", {later: one_back}),
            ("other head", f"head {back}, match", {back: match})]  # fmt: skip
    for draw in range(min(n_draws, n_pos - 2)):
        cells = _at_distance(n_row, n_pos, draw + 2)
        rows.append(("other distance", f"head {back}, {draw + 2} back", {back: cells}))
    for draw in range(n_draws):
        order = torch.randperm(n_row, generator=generator)
        rows.append(("another row's matches", f"head {later}, draw {draw}", {later: match[order]}))
    return pd.DataFrame([
        {"removed": kind, "which": which, **known.top_1(first_answers(model, tokens, cut=cut))}
        for kind, which, cut in rows
    ])  # fmt: skip


def after_match(tokens: Int64[Tensor, "row pos"]) -> Bool[Tensor, "row query key"]:
    """Where the token before the key is the query's own."""
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)
    return (tokens[:, :, None] == before[:, None, :]).tril()


def _at_distance(n_row: int, n_pos: int, distance: int) -> Bool[Tensor, "row query key"]:
    ones: Float[Tensor, "query key"] = torch.ones(n_pos - distance, dtype=torch.bool)
    return torch.diag_embed(ones, -distance).expand(n_row, -1, -1)
