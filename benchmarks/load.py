"""What every command's work costs as dictionaries grow: time, memory, and how fast both rise.

One layer, 64 dimensions, 172 hidden units, features random unit rows: the worst case, since no form
decays and no output has a gate that ends a search early. Where all outputs would take too long, the
first few are timed and the time of all follows; cells say how many. The *slope* is the power of the
number of features that time rises by from each size to the next; the ideal one is that of the
arithmetic operations.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from analysis.discovery.propose import RANKED, gate_likeness
from analysis.lowrank.measure import rank_curve
from analysis.report.pages.layer import most_outputs
from analysis.studies.planted import Planted, plant
from benchmarks.core import extra_memory_of_one
from benchmarks.measure import machine, table
from circuits.algebra.interactions import Interactions
from circuits.algebra.output_statistics import output_statistics
from circuits.corpus import built_in
from circuits.graph import clusters, interaction_graph
from circuits.graph.significance import scored_strongest
from circuits.model import ModelPlan, Site, load_model, train_model
from circuits.model.model import Model
from circuits.model.plan import ModelShape
from sae import Dictionary
from sae.features.card import card_tables

SIZES = (1024, 4096, 16_384)
D_MODEL, D_HIDDEN = 64, 172
_FEW = {1024: 64, 4096: 32, 16_384: 8}  # outputs that are timed
_DOCUMENTS = 200


@dataclass(frozen=True)
class _Work:
    """What a command does, for some of the outputs; ``once`` is what it does before."""

    name: str
    some: Callable[[range], object]
    n_all: int
    n_operations: float  # up to a factor
    once: Callable[[], object] = lambda: None


def run() -> str:
    """The table; takes ten minutes where other jobs leave a third of a core."""
    with tempfile.TemporaryDirectory() as folder:
        shape = ModelShape(d_model=D_MODEL, d_hidden=D_HIDDEN)
        train_model(ModelPlan(shape, n_steps=1, warm_up=0), built_in(0), Path(folder) / "model")
        model = load_model(Path(folder) / "model")
        measured = [[_measured(work, n) for work in _works(model, n)] for n in SIZES]
    rows = []
    for of_work in zip(*measured, strict=True):
        seconds = [one[1] for one in of_work]
        operations = [one[2] for one in of_work]
        cells = [one[3] for one in of_work]
        rows.append((of_work[0][0], *cells, _slopes(seconds), _slopes(operations)))
    head = (
        f"One layer, d = {D_MODEL}, hidden = {D_HIDDEN}, random unit rows. Memory is above what "
        f"was resident before. {machine()}."
    )
    sizes = (f"{n:,} features" for n in SIZES)
    return f"{head}\n\n{table(rows, ('work', *sizes, 'slope', 'ideal'))}"


def _works(model: Model, n: int) -> Iterator[_Work]:
    into, out = (_dictionary(n, point, seed) for seed, point in enumerate(("mlp_in", "mlp_out")))
    corpus = built_in(0)

    def inter() -> Interactions:  # with nothing known yet about the dictionaries
        return Interactions(model.layer(0), into.basis(), out.basis("encoder"))

    own = inter()
    yield _Work(
        "`interactions`: 16 pairs of each output, z and q",
        lambda outputs: scored_strongest(own, 16, outputs),
        n,
        n**3,
    )
    proposed = inter()
    yield _Work(
        "`find --propose`: outputs ranked, graphs of all",
        lambda outputs: [interaction_graph(proposed, o, significant=0.05) for o in outputs],
        min(n, RANKED),
        min(n, RANKED) * n**2,
        lambda: gate_likeness(proposed),
    )
    yield _Work(
        f"`rank`: {_DOCUMENTS} documents",
        lambda _: rank_curve(model, out, corpus=corpus, n_documents=_DOCUMENTS, min_active=1),
        1,
        n,
    )
    layer = inter()
    yield _Work(
        "`report`: layer statistics",
        lambda outputs: output_statistics(layer, outputs),
        min(n, most_outputs(n)),
        min(n, most_outputs(n)) * n**2,
    )
    yield _Work(
        f"`report`: cards of all features, {_DOCUMENTS} documents",
        lambda _: card_tables(out, model, corpus, n_documents=_DOCUMENTS),
        1,
        n**2,
    )
    planted, _ = plant(Planted(D_MODEL, n, 3, 3.0))
    yield _Work(
        "graph and clusters, one output with 3 planted gates",
        lambda _: clusters(interaction_graph(planted, 0, significant=0.05)),
        1,
        n**2,
    )


def _dictionary(n: int, point: str, seed: int) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n, D_MODEL, generator=generator), dim=1)
    bias, offset = torch.zeros(n), torch.zeros(D_MODEL)
    return Dictionary(
        encoder=rows, decoder=rows, bias=bias, offset=offset, k=16, site=Site(point, 0)
    )


def _measured(work: _Work, n: int) -> tuple[str, float, float, str]:
    """Name, seconds, operations, and a cell that says them."""
    few = min(_FEW[n], work.n_all - 1)
    seconds = 0.0

    def all_of_it() -> None:
        nonlocal seconds
        start = time.perf_counter()
        work.once()
        work.some(range(1))  # and whatever is made once for all outputs
        seconds = time.perf_counter() - start
        if few:
            start = time.perf_counter()
            work.some(range(1, 1 + few))
            seconds += (time.perf_counter() - start) / few * (work.n_all - 1)

    grown = extra_memory_of_one(all_of_it)
    of = f" ({1 + few} of {work.n_all:,})" if few + 1 < work.n_all else ""
    cell = f"{seconds:.3g} s{of}, {max(grown, 0) / 2**20:.0f} MiB"
    return work.name, seconds, work.n_operations, cell


def _slopes(numbers: list[float]) -> str:
    """The power of the size between each two sizes."""
    steps = pairwise(zip(SIZES, numbers, strict=True))
    return ", ".join(f"{math.log(b / a) / math.log(m / n):.1f}" for (n, a), (m, b) in steps)
