"""Is it the dictionary? Other bases of the same activations, searched in the same way.

Any complete basis writes an MLP's output exactly as a sum over pairs, so some pairs of principal
axes, or of random ones, carry a contrast as well. What a dictionary must win by is how few pairs it
needs. The MLP's own products are a basis too: one product for each hidden unit.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.attribution.pair_terms import PairTerms
from analysis.behaviour import bounds
from analysis.discovery.selection import covering, fewest, shares_of_strata, sought_pairs
from analysis.validation.edits import Change, removing
from analysis.validation.harness import Harness
from sae.dictionary import Dictionary

ENOUGH = 0.8
"""Share of the contrast, in every stratum, that the pairs are counted for."""

_MOST = 512  # pairs that are counted at most


def bases_table(harness: Harness, n_pairs: int) -> pd.DataFrame:
    """For each basis how many pairs carry four fifths of the contrast in every stratum, and what
    at most ``n_pairs`` do that are chosen as those of a circuit are; all on the same cases.

    ``needed`` is NaN where as many pairs as are tried do not reach it; ``carried`` is the share
    that the chosen ones carry in the worst stratum.
    """
    here = harness.x.to(harness.into.dtype)
    noise = torch.randn(here.shape[1], here.shape[1],
                        generator=torch.Generator().manual_seed(harness.seed))  # fmt: skip
    others = {
        "principal axes of the texts": _axes(harness.tokens_read),
        "principal axes at the answers": _axes(here),
        "random axes": (torch.linalg.qr(noise.to(here)).Q, here.mean(0)),
    }
    bases = {"dictionary": harness.into, **{n: _complete(*of) for n, of in others.items()}}
    rows = [_of_dictionary(harness, name, into, n_pairs) for name, into in bases.items()]
    return pd.DataFrame([*rows, _of_units(harness, n_pairs)])


def _axes(x: Float[Tensor, "row model"]) -> tuple[Tensor, Tensor]:
    """The principal axes of some activations, and their mean."""
    mean = x.mean(0)
    return torch.linalg.eigh((x - mean).mT @ (x - mean)).eigenvectors.mT, mean


def _of_dictionary(
    harness: Harness, name: str, into: Dictionary, n_pairs: int
) -> dict[str, str | float]:
    account = PairAccount.of(harness.cases, harness.layer, into)
    sought = sought_pairs(account)

    def removed(chosen: list[int]) -> Change:
        some = sought.iloc[chosen]
        ends = zip(some["first"].tolist(), some["second"].tolist(), strict=True)
        return removing(PairTerms.of(harness.model, harness.layer, into, ends))

    added = account.added_to_cases(sought)
    return _row(harness, name, len(account.pairs), added, account.case_totals, n_pairs, removed)


def _of_units(harness: Harness, n_pairs: int) -> dict[str, str | float]:
    """The layer's own products, one for each hidden unit."""
    account = PairAccount.of(harness.cases, harness.layer, harness.into)
    layer = account.layer
    left, right = layer.factors

    def products(x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch hidden"]:
        lifted = layer.lift(x.cpu().double())
        return (lifted @ left.mT) * (lifted @ right.mT)

    def removed(chosen: list[int]) -> Change:
        return lambda x, y: y - (products(x)[..., chosen] @ layer.down[:, chosen].mT).to(y)

    added = products(account.x) * (account.reads @ layer.down)
    added = added * harness.cases.side.double()[:, None]
    return _row(
        harness, "hidden units", layer.d_hidden, added, account.case_totals, n_pairs, removed
    )


def _row(
    harness: Harness,
    name: str,
    n_there: int,
    added: Float[Tensor, "case pair"],
    totals: Float[Tensor, " case"],
    n_pairs: int,
    removed: Callable[[list[int]], Change],
) -> dict[str, str | float]:
    shares = shares_of_strata(harness.cases, added, totals)
    chosen = covering(shares, ENOUGH, _MOST, 0.0)
    reached = float(shares[chosen].sum(0).min()) >= ENOUGH
    some = fewest(harness.cases, added, totals, bounds.COVERAGE, n_pairs)
    margins = harness.everywhere(removed(some))
    return {
        "basis": name,
        "there": n_there,
        "needed": float(len(chosen)) if reached else float("nan"),
        "n_pairs": len(some),
        "carried": float(shares[some].sum(0).min()),
        "removed": 1 - harness.affected(margins) / harness.base,
        "side_effect": harness.side_effect(margins),
    }


def _complete(axes: Float[Tensor, "axis model"], mean: Float[Tensor, " model"]) -> Dictionary:
    """Orthonormal axes as a dictionary whose features are all active, of either sign."""
    return Dictionary(
        encoder=axes, decoder=axes, bias=axes.new_zeros(len(axes)), offset=mean, k=len(axes),
        relu=False,
    )  # fmt: skip
