"""The gate that a pair of groups computes, from the signs and sizes of the blocks of the matrix.

On features that are present or absent, ``a·b`` is AND. ``(a − b)² = a + b − 2ab`` is XOR: both
groups with themselves one way, the cross block the other way, and each of the three about as strong
as the others (in ``a² + b² − 0.3ab`` they are not: it is largest where both are present). So is a
checkerboard, ``(a − a')(b − b')``, where *not* is a feature of its own. A negative cross block
inhibits if the groups' own blocks are weaker; a block of a group with itself is OR-like, ``(Σ
fᵢ)²``: one feature suffices.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from circuits.groups.description_length import block

_COLUMNS = ("first", "second", "gate", "weight", "share", "coherence")
_ALIKE = 1 / 3  # blocks of one gate differ in strength by at most this factor
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
    strengths: dict[tuple[int, int], float] = {}
    for i, one in enumerate(members):
        for j, two in enumerate(members[i:], start=i):
            part = matrix[np.ix_(one, two)]
            inside = float((part**2).sum())
            if inside <= _FAINT * min(of_group[i], of_group[j]):
                continue
            strength, left, right = block(part)
            strengths[i, j] = strengths[j, i] = strength
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
    rows = [{**row, "gate": _gate(pair, strengths)} for pair, row in found.items()]
    rows.sort(key=lambda row: (-float(f"{row['share']:.9e}"), row["first"], row["second"]))
    return pd.DataFrame(rows, columns=list(_COLUMNS)), loading


def _gate(pair: tuple[int, int], strengths: dict[tuple[int, int], float]) -> str:
    i, j = pair
    strength = strengths[pair]
    if i == j:
        return "OR" if strength > 0 else "NOR"
    # (αa − βb)² has blocks of α², −αβ and β²; it is XOR where α and β are about as large
    selves = [-np.sign(strength) * strengths.get((one, one), 0.0) for one in pair]
    if all(_alike(own, abs(strength)) for own in selves):
        return "XOR"
    if _on_checkerboard(i, j, strengths):
        return "XOR"
    return "AND" if strength > 0 else "inhibition"


def _on_checkerboard(i: int, j: int, strengths: dict[tuple[int, int], float]) -> bool:
    """Whether two more groups complete these to a square of alternating signs."""
    strength = strengths[i, j]

    def opposite(one: int) -> set[int]:
        """Groups whose block with this one is as strong, the other way."""
        return {
            b for (a, b), other in strengths.items()
            if a == one and b not in pair and _alike(-other, strength)
        }  # fmt: skip

    pair = (i, j)
    return any(
        a != b and _alike(strengths.get((a, b), 0.0), strength)
        for a in opposite(j)
        for b in opposite(i)
    )


def _alike(one: float, two: float) -> bool:
    return bool(one * two > 0 and min(abs(one), abs(two)) >= _ALIKE * max(abs(one), abs(two)))
