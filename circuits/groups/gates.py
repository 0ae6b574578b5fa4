"""The gate that a pair of groups computes, from the signs of the blocks of the matrix.

On features that are present or absent, ``a·b`` is AND. ``(a − b)² = a + b − 2ab`` is XOR: both
groups with themselves one way, the cross block the other way. So is a checkerboard, ``(a − a')(b −
b')``, where *not* is a feature of its own. A negative cross block alone inhibits; a block of a
group with itself is OR-like, ``(Σ fᵢ)²``: one feature suffices.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from circuits.groups.description_length import block

_COLUMNS = ("first", "second", "gate", "weight", "share", "coherence")
_FAINT = 0.02  # share of the energy that the two groups have: a block below it is not a gate


def gate_table(
    matrix: Float[np.ndarray, "node node"], group: Int[np.ndarray, " node"]
) -> tuple[pd.DataFrame, Float[np.ndarray, " node"]]:
    """A row for each pair of groups that forms a gate, strongest first; each node's loading.

    ``weight`` sums the pairs' weights, ``share`` is the block's share of the matrix's energy, and
    ``coherence`` the share of the block's energy that one product of non-negative loadings of one
    sign explains. A node's loading is that in its group's strongest block, the largest being 1.
    """
    n_groups = int(group.max(initial=-1)) + 1
    members = [np.flatnonzero(group == name) for name in range(n_groups)]
    energy = max(float((matrix**2).sum()), 1e-300)
    of_group = [float((matrix[one] ** 2).sum()) for one in members]
    found: dict[tuple[int, int], dict[str, object]] = {}
    loading, strongest = np.zeros(len(matrix)), np.zeros(n_groups)
    signs: dict[tuple[int, int], int] = {}
    for i, one in enumerate(members):
        for j, two in enumerate(members[i:], start=i):
            part = matrix[np.ix_(one, two)]
            inside = float((part**2).sum())
            if inside <= _FAINT * min(of_group[i], of_group[j]):
                continue
            strength, left, right = block(part)
            sign = 1 if strength > 0 else -1
            signs[i, j] = signs[j, i] = sign
            for name, loads, who in ((i, left, one), (j, right, two)):
                if abs(strength) > strongest[name] * (1 + 1e-9):
                    strongest[name] = abs(strength)
                    loading[who] = loads / max(float(loads.max()), 1e-300)
            found[i, j] = {
                "first": i,
                "second": j,
                "weight": float(part.sum()) * (1 if i == j else 2),
                "share": inside * (1 if i == j else 2) / energy,
                "coherence": strength**2 / inside,
            }
    rows = [{**row, "gate": _gate(pair, signs)} for pair, row in found.items()]
    rows.sort(key=lambda row: (-float(f"{row['share']:.9e}"), row["first"], row["second"]))
    return pd.DataFrame(rows, columns=list(_COLUMNS)), loading


def _gate(pair: tuple[int, int], signs: dict[tuple[int, int], int]) -> str:
    i, j = pair
    sign = signs[pair]
    selves = {signs.get((i, i), 0), signs.get((j, j), 0)}
    if i == j:
        return "OR" if sign > 0 else "NOR"
    if selves == {-sign}:
        return "XOR"
    if _on_checkerboard(i, j, signs):
        return "XOR"
    return "AND" if sign > 0 else "inhibition"


def _on_checkerboard(i: int, j: int, signs: dict[tuple[int, int], int]) -> bool:
    """Whether two more groups complete these to a square of alternating signs."""
    sign = signs[i, j]
    across = {b for (a, b), s in signs.items() if a == i and s == -sign and b not in (i, j)}
    below = {a for (a, b), s in signs.items() if b == j and s == -sign and a not in (i, j)}
    return any(signs.get((a, b), 0) == sign for a in below for b in across if a != b)
