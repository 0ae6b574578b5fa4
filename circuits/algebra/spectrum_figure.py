"""The picture of a form's eigenvalues beside those of controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from circuits.errors import SpectrumError
from circuits.plotting.figure import Figure, eigenvalues

_Values = Float[np.ndarray, " place"]


def spectrum_figure(
    values: _Values,
    controls: Mapping[str, _Values],
    energy_kept: float | None,
    effective_rank: float | None,
) -> Figure:
    """Eigenvalues from the largest to the smallest, beside controls.

    ``energy_kept`` is their share of the energy where they are only the first few. Where they are
    all (``None``), the figure adds Wigner's semicircle: the eigenvalues of a symmetric matrix of
    independent entries with the same energy. It ignores the number of hidden units, unequal input
    lengths, and the constant; controls take them into account.
    """
    n = len(values)
    columns: dict[str, Any] = {"place": np.arange(1, n + 1), "eigenvalue": values}
    note = f"{n} eigenvalues"
    if energy_kept is not None:
        note += f", the largest by size: {energy_kept:.1%} of the energy"
        note += "; places are among these, and a random form is drawn only beside all eigenvalues"
    elif n > 1:
        radius = 2 * np.sqrt(np.square(values).sum() / n)
        columns["a random form"] = radius * _semicircle(n)
        note += f", effective rank {effective_rank:.3g}. A random form: independent "
        note += "entries, as much energy (Wigner's semicircle)"
        if not controls:
            note += ". An untrained layer differs from it too: see spectrum.plot(random=…)"
    for name, control in controls.items():
        if len(control) != n:
            raise SpectrumError(
                f"Spectrum.plot: {name!r} holds {len(control)} eigenvalues, the spectrum beside it "
                f"{n}. Compute both with the same rank."
            )
        columns[name] = control
    return eigenvalues(pd.DataFrame(columns), note + ".")


def _semicircle(n: int) -> _Values:
    """The n values that divide the semicircle of radius 1 into equal areas, the largest first."""
    grid = np.linspace(-1, 1, 4001)
    below = 0.5 + (grid * np.sqrt(1 - grid**2) + np.arcsin(grid)) / np.pi
    return np.interp(1 - (np.arange(n) + 0.5) / n, below, grid)
