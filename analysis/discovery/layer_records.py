"""What a circuit through several layers says of the choice of its layers and pairs, and what a pair
is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chosen:
    """How the pairs of a layer were chosen."""

    layer: int
    missing: float  # of the margin, in the stratum that lacks most; more than is allowed or not
    stratum: str  # which one that is
    at_limit: bool  # there are as many pairs as were asked for at most, and too much is missing
    off_by: float  # of shares from what was measured, in the worst case, of the largest margin


@dataclass(frozen=True)
class LeftOut:
    """A layer that has no stage, and why."""

    layer: int
    depends: float | None  # on it, of the contrast; None: it has no dictionaries to look with
    n_pairs: int = 0  # the best
    carried: float | None = None  # by these, of that; None where too little depends on the layer


def pair_name(layer: int, first: int, second: int) -> str:
    """A pair of a layer in tables, and the target of the edit that removes it alone."""
    return f"{first} & {second} in layer {layer}"
