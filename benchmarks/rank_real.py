"""Two eigenvectors in place of each feature of a real model, by the protocol of figures 8 and 9 of
Pearce et al.: dictionaries of three widths, of the model and of an untrained one.

A feature's form is that of its encoder row (or of the pseudoinverse, where that is the reader), and
it is compared with what two of its eigenvectors give, on the tokens where the TopK dictionary has
it active. *Trained on untrained*: a model of the same sizes with initial weights, and dictionaries
of its own. *In the untrained model*: the dictionaries of the trained one, on initial weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analysis.lowrank.measure import rank_curve
from benchmarks.behaviours import READY
from benchmarks.measure import machine, table
from benchmarks.pretrained import PUBLISHED, RANK_HEAD, rank_cells
from circuits.corpus import open_corpus
from circuits.corpus.documents import Corpus, to_measure_on
from circuits.errors import CorpusError
from circuits.model import Model, Site, load_model
from circuits.model.loading import untrained
from sae import Dictionary, TrainingPlan, train_saes

WIDTHS = (256, 512, 1024)
READERS = ("encoder", "pinv")
_PLAN = TrainingPlan(k=12, n_tokens=1_000_000)
_DOCUMENTS = 10  # held out
_HEAD = ["features", "what", *RANK_HEAD]


def run(device: str, name: str | None, text: str | None, kept: str | None) -> str:
    """The table; dictionaries stay in the folder ``kept``, if there is one."""
    if text is None:
        raise CorpusError("rank-real: no text to train and measure on. Name it with --data TEXT.")
    corpus, model = open_corpus(text), load_model(name or READY, device=device)
    other = untrained(model, 0)
    rows = list[tuple[str, ...]]()
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(kept or temporary)
        for width in WIDTHS:
            own, others = (
                _dictionaries(each, corpus, width, where / f"{what}-{width}", device)
                for what, each in (("trained", model), ("untrained", other))
            )
            moved = {site: replace(each, notes={}) for site, each in own.items()}
            held_out = to_measure_on(corpus)
            for what, each, used in (
                ("the model", model, own),
                ("in the untrained model", other, moved),
                ("trained on untrained", other, others),
            ):
                rows += [(str(width), what, *cells) for cells in _rows(each, used, held_out)]
    head = (
        f"{machine()}, seed 0. {name or READY}: {model.n_layer} layers, width {model.d_model}; "
        f"dictionaries after every MLP, k = {_PLAN.k}, {_PLAN.n_tokens / 1e6:g} M tokens; "
        f"{_DOCUMENTS} held-out documents. Published: {PUBLISHED} above .75."
    )
    return f"{head}\n\n{table(rows, _HEAD)}"


def _dictionaries(
    model: Model, corpus: Corpus, width: int, folder: Path, device: str
) -> dict[Site, Dictionary]:
    sites = tuple(f"mlp_out@{layer}" for layer in range(model.n_layer))
    plan = replace(_PLAN, sites=sites, n_features=width)
    return train_saes(model, corpus, plan, folder, device=device)


def _rows(
    model: Model, dictionaries: Mapping[Site, Dictionary], text: Corpus
) -> list[tuple[str, ...]]:
    return [
        rank_cells(
            site.layer,
            reader,
            rank_curve(model, each, corpus=text, reader=reader, n_documents=_DOCUMENTS),
        )
        for site, each in dictionaries.items()
        for reader in READERS
    ]
