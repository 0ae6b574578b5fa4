"""Statistics over the outputs of a layer, for its page; kept in the run, so that they resume.

What a reader would get wrong: each output's every pair is looked at, which of wide dictionaries are
billions; so of a wide layer the first outputs are measured. Features of a dictionary stand in no
order, so those are a fair sample; the page says how many there were.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.runs.run import Run
from circuits.algebra.interactions import Interactions
from circuits.algebra.output_statistics import output_statistics
from circuits.model.site import Site

_MOST, _LEAST = 1024, 16  # outputs that are measured
_PAIRS = 5e9  # of all of them together that are looked at: about a minute on two cores
_CONTROL = 4  # so many times fewer of the control


@dataclass(frozen=True, eq=False)
class LayerTable:
    """A row an output, and the same of random directions in place of the input features."""

    layer: int
    rows: pd.DataFrame
    control: pd.DataFrame
    n_output: int
    reader: str
    seed: int

    @classmethod
    def of(cls, run: Run, layer: int, seed: int) -> LayerTable:
        """Of a layer with dictionaries; the shards are in ``RUN/statistics``."""
        into, out = (run.dictionaries[Site(point, layer)] for point in ("mlp_in", "mlp_out"))
        inter = Interactions(run.model.layer(layer), into.basis(), out.basis("encoder"))
        n = inter.n_output
        random = Interactions(inter.layer, inter.inputs.control(seed), inter.outputs)
        most = most_outputs(inter.n_input)
        tables = []
        for name, some, at_most in (("own", inter, most), ("control", random, most // _CONTROL)):
            folder = run.folder.statistics(layer, name, some.fingerprint)
            tables.append(output_statistics(some, range(min(n, at_most)), folder))
        return cls(layer, tables[0], tables[1], n, "encoder", seed)


def most_outputs(n_input: int) -> int:
    """How many outputs are measured in features of which there are so many."""
    return int(min(max(_PAIRS / n_input**2, _LEAST), _MOST))
