"""How well the top eigenvectors stand in for a feature, beside what they would do by chance.

A feature of a dictionary at ``mlp_out`` reads a direction of what the MLP writes, so it is a
quadratic form of what the MLP is given: ``x̂ᵀQx̂`` and a constant that the biases and the
dictionary's offset make, both exact. Its rank-r approximation keeps r eigenpairs of Q and the
constant, refits nothing, and is held against the feature's activation, which is what the
dictionary makes of ``mlp_out``.

What a reader would get wrong: with ``reader="encoder"`` the form at full rank *is* the activation
before its top-k, so correlation ends at 1 on active tokens. The pseudoinverse reads another number,
which stays below 1 at any rank, and yet needs fewer eigenvectors to come near it: always look at
the full rank beside a rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.lowrank.curve import RankCurve
from analysis.lowrank.layer_forms import Block, Study, blocks
from analysis.lowrank.loss import truncation_loss
from analysis.lowrank.sums import (
    Fit,
    Forms,
    Observed,
    Resampling,
    Seen,
    active_sums,
    fit,
    in_chunks,
    on_active,
    on_all,
    seen,
)
from circuits.corpus.documents import Corpus, built_in
from circuits.errors import CorpusError, RankError, check_count
from circuits.model.evaluation import parted
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.shards import kept_table
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS

LOSS_RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Ranks whose loss is measured, as far as the curve goes."""

LOSS_DOCUMENTS = 200
"""Documents that the loss is measured on: a loss is a pass of the model, and there are many."""

MIN_ACTIVE = 50
"""Tokens that a feature must be active on to be counted: a correlation of fewer says little."""


@torch.no_grad()
def rank_curve(
    model: Model,
    dictionaries: Dictionary | Mapping[Site, Dictionary],
    layer: int | None = None,
    corpus: Corpus | None = None,
    *,
    reader: Literal["pinv", "encoder"] = "pinv",
    n_rank: int = 64,
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    n_bootstrap: int = 200,
    seed: int = 0,
    folder: str | Path | None = None,
) -> RankCurve:
    """The curve of the dictionary at ``mlp_out``, over the first documents of a corpus.

    ``dictionaries`` is that dictionary, or what `load_dictionaries` gives, of which the one at
    ``layer`` (the first there is, unless named) is taken. Without a corpus it is the built-in
    stories that training holds out. ``reader`` decides which row of each feature makes its form
    (of a decoder that does not span the activation, the nearest pseudoinverse); the activation that
    it is compared with is the dictionary's own either way. The controls:

    * ``rotated``: the same eigenvalues along random orthonormal directions, against the same
      activation. (A random symmetric matrix of equal norm would have another spectrum, too.)
    * ``shuffled``: another live feature's form, against the same activation.
    * ``untrained``: how low-rank a layer is that learnt nothing: a model of the same shape with
      fresh weights reads the same text, features read its ``mlp_out`` along the same directions,
      standardised, as many active on a token as in the dictionary. At full rank it is exact.

    Activations are held: ``n_token · d_model`` numbers, twice. ``folder`` keeps what is measured
    block by block, so that the same call goes on where it was stopped.
    """
    n_rank = check_count("rank_curve", n_rank, None, "n_rank")
    check_count("rank_curve", min_active, None, "min_active")
    dictionary = _output_dictionary(model, dictionaries, layer).to(model.device)
    corpus = _held_out(model, seed) if corpus is None else corpus
    study = Study.of(model, dictionary, reader)
    tokens = list(in_chunks(study.observed(corpus, n_documents)))
    about = seen(tokens)
    if not bool((about.n_active >= min_active).any()):
        raise RankError(
            f"rank_curve: no feature of {dictionary} is active on {min_active} of the "
            f"{about.n_token} tokens of {n_documents} documents, so there is nothing to compare. "
            f"Read more documents, or lower min_active (a correlation of few tokens says little)."
        )
    n_rank = max(1, min(n_rank, study.d_input - 1))
    made_of = {**_told(study, corpus, n_documents), "reader": reader, "ranks": n_rank,
               "n_bootstrap": n_bootstrap, "seed": seed,
               "version": version("bilinear-circuits")}  # fmt: skip
    keep = _Keep(None if folder is None else Path(folder), json.dumps(made_of, sort_keys=True))
    table, forms = _table(study, tokens, about, n_rank, Resampling(n_bootstrap, seed), keep)
    table = table.merge(_untrained(study, corpus, n_rank, n_documents, seed, keep), how="left")
    loss = truncation_loss(
        model,
        dictionary,
        forms,
        study.read(corpus, min(n_documents, LOSS_DOCUMENTS)),
        [rank for rank in LOSS_RANKS if rank <= n_rank],
        seed,
    )
    told = {
        **_told(study, corpus, n_documents),
        "reader": reader,
        "min_active": min_active,
        "n_token": about.n_token,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    return RankCurve(table, loss, told)


@dataclass(frozen=True)
class _Keep:
    """Where the blocks of a curve are kept, and what they are made of."""

    folder: Path | None
    made_of: str

    def __call__(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A block that is there already, or made."""
        path = None if self.folder is None else self.folder / f"{name}.parquet"
        return kept_table(path, self.made_of, make)


def _told(study: Study, corpus: Corpus, n_documents: int) -> dict[str, Any]:
    """What was measured on what."""
    there = min(n_documents, corpus.n_documents or n_documents)
    return {
        "site": str(study.site),
        "n_feature": study.dictionary.n_feature,
        "k": study.dictionary.k,
        "n_documents": there,
        "n_loss_documents": min(there, LOSS_DOCUMENTS),
        "corpus": corpus.fingerprint,
        "model": study.model.fingerprint,
        "dictionary": study.dictionary.fingerprint,
    }


def _output_dictionary(
    model: Model, dictionaries: Dictionary | Mapping[Site, Dictionary], layer: int | None
) -> Dictionary:
    """The one to ask about; refused where its activation is not a form of what an MLP is given."""
    if isinstance(dictionaries, Dictionary):
        found = {dictionaries.known_site("rank_curve"): dictionaries}
    else:
        found = {site: each for site, each in dictionaries.items() if site.point == "mlp_out"}
        found = found or dict(dictionaries)
    chosen = {site: each for site, each in found.items() if layer in (None, site.layer)}
    listed = ", ".join(map(str, found)) or "none"
    if not chosen:
        raise RankError(
            f"rank_curve: layer {layer} was asked for, and the dictionaries are at {listed}. Name "
            f"one of their layers, or train one with the site mlp_out@{layer}."
        )
    site, dictionary = min(chosen.items(), key=lambda item: item[0].order)
    if site.point != "mlp_out":
        raise RankError(
            f"rank_curve: the dictionary is at {site}. Only at mlp_out is an activation a form of "
            f"what the MLP is given, and nothing else: the stream also holds what did not pass "
            f"through the MLP. Take a dictionary trained at mlp_out@{site.layer}."
        )
    model.check_sites(site)
    if dictionary.d_model != model.d_model:
        raise RankError(
            f"rank_curve: {dictionary} is for activations of {dictionary.d_model}, and the model's "
            f"have {model.d_model}. Load the model that it was trained on."
        )
    return dictionary


def _held_out(model: Model, seed: int) -> Corpus:
    """The built-in stories that no training on them has seen."""
    stories = built_in(seed)
    if stories.word_numbers(model.words("rank_curve")) is None:
        raise CorpusError(
            f"{model.path}: the model does not know the words of the built-in stories. Pass the "
            f"corpus that it is made for: open_corpus(path)."
        )
    held_out = parted(stories)[1]
    assert held_out is not None  # they are millions
    return held_out


def _table(
    study: Study,
    tokens: list[Observed],
    about: Seen,
    n_rank: int,
    resampling: Resampling,
    keep: _Keep,
) -> tuple[pd.DataFrame, Forms]:
    """The rows of the features that are ever active, but for the untrained control; all forms."""
    rows, held = [], []
    for block in blocks(study):
        made = study.forms(block, n_rank, about)
        measured = partial(_measured, made, tokens, about, block, resampling, study.d_input)
        rows.append(keep(f"own-{block[0]:07d}", measured))
        held.append(made.by_size)
    table = pd.concat(rows, ignore_index=True)
    forms = Forms(
        torch.cat([one.feature for one in held]),
        torch.cat([one.values for one in held]),
        torch.cat([one.vectors for one in held]),
        torch.cat([one.constant for one in held]),
        study.whole(list(range(study.dictionary.n_feature))),
    )
    return table, forms


def _measured(
    made: Block,
    tokens: list[Observed],
    about: Seen,
    block: list[int],
    resampling: Resampling,
    d_input: int,
) -> pd.DataFrame:
    """The rows of one block's features."""
    own = made.by_size
    sums = active_sums(own, tokens, resampling)
    fits = {
        "": fit(*sums.unbind(2)),
        "_all": on_all(own, tokens, about, sums[0]),
        "_by_data": on_active(made.by_data, tokens),
        "_rotated": on_active(own.rotated(resampling.seed + block[0]), tokens),
        "_shuffled": on_active(own.taken_from(_others(about, block, resampling.seed)), tokens),
    }
    return _rows(made, about, fits, d_input)


def _others(about: Seen, block: list[int], seed: int) -> Int64[Tensor, " form"]:
    """For each live feature of a block another live one of it; a lonely one keeps its own."""
    live = np.flatnonzero((about.n_active[block] > 0).cpu().numpy())
    order = np.arange(len(block))
    around = np.random.default_rng((seed, block[0])).permutation(live)
    order[around] = np.roll(around, 1)
    return torch.from_numpy(order).to(about.n_active.device)


def _rows(made: Block, about: Seen, fits: Mapping[str, Fit], d_input: int) -> pd.DataFrame:
    """One block's rows of the table."""
    feature = made.by_size.feature.cpu().numpy()
    n_active = about.n_active.cpu().numpy()[feature]
    n_rank = made.by_size.n_rank
    wide = n_rank + 1
    low, high = _percentiles(fits[""].correlation[1:])
    columns: dict[str, Any] = {
        "feature": np.repeat(feature, wide),
        "n_active": np.repeat(n_active.astype(np.int64), wide),
        "effective_rank": np.repeat(made.effective[:, 0], wide),
        "entropy_rank": np.repeat(made.effective[:, 1], wide),
        "rank": np.tile([*range(1, wide), d_input], len(feature)),
        "energy": made.energy,
        "correlation": fits[""].correlation[0],
        "low": low,
        "high": high,
        "r2": fits[""].r2[0],
        "correlation_all": fits["_all"].correlation,
        "r2_all": fits["_all"].r2,
        "correlation_by_data": fits["_by_data"].correlation[0],
        "r2_by_data": fits["_by_data"].r2[0],
        "correlation_rotated": fits["_rotated"].correlation[0],
        "correlation_shuffled": fits["_shuffled"].correlation[0],
    }
    table = pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})
    return table[table["n_active"] > 0]


def _percentiles(
    replicates: Float[np.ndarray, "replicate form rank"],
) -> tuple[Float[np.ndarray, "form rank"], Float[np.ndarray, "form rank"]]:
    """95 % of the replicates, of those where the correlation is defined."""
    ordered = np.sort(replicates, axis=0)  # NaN last
    there = np.isfinite(ordered).sum(0)
    if not len(replicates):
        nothing = np.full(replicates.shape[1:], np.nan)
        return nothing, nothing

    def quantile(q: float) -> np.ndarray:
        place = np.round(q * (there - 1)).clip(min=0).astype(int)
        return np.take_along_axis(ordered, place[None], axis=0)[0]

    return quantile(0.025), quantile(0.975)


def _untrained(
    study: Study, corpus: Corpus, n_rank: int, n_documents: int, seed: int, keep: _Keep
) -> pd.DataFrame:
    """The same measured on a model that learnt nothing: feature, rank, count, correlation."""
    fresh = replace(study, model=untrained(study.model, seed))
    outputs, held = [], []
    for reading, x in fresh.read(corpus, n_documents):
        outputs.append(reading.activations[study.site])
        held.append((x, reading.batch.document[reading.counted.nonzero()[:, 0]].to(x.device)))
    dictionary = _standardised(study, outputs)
    fresh = Study.of(fresh.model, dictionary, "encoder")
    tokens = list(
        in_chunks(
            Observed(x, dictionary.active(output), document)
            for output, (x, document) in zip(outputs, held, strict=True)
        )
    )
    about = seen(tokens)
    rows = [
        keep(f"untrained-{block[0]:07d}", partial(_plain, fresh, block, n_rank, about, tokens))
        for block in blocks(fresh)
    ]
    return pd.concat(rows, ignore_index=True)


def _plain(
    fresh: Study, block: list[int], n_rank: int, about: Seen, tokens: list[Observed]
) -> pd.DataFrame:
    """The untrained model's rows of one block."""
    found = on_active(fresh.forms(block, n_rank, about).by_size, tokens).correlation[0]
    wide = n_rank + 1
    count = about.n_active[block].cpu().numpy().astype(np.int64)
    columns: dict[str, Any] = {
        "feature": np.repeat(block, wide),
        "rank": np.tile([*range(1, wide), fresh.d_input], len(block)),
        "n_active_untrained": np.repeat(count, wide),
        "correlation_untrained": found.ravel(),
    }
    return pd.DataFrame(columns)


def _standardised(study: Study, outputs: Iterable[Float[Tensor, "_ model"]]) -> Dictionary:
    """The features' directions as a dictionary whose scores all have mean 0 and variance 1."""
    dictionary, read = study.dictionary, study.inter.outputs.read.double()
    x = torch.cat(list(outputs)).double()
    mean = x.mean(0)
    spread = (x - mean).mT @ (x - mean) / len(x)
    size = ((read @ spread) * read).sum(1).clamp(min=0).sqrt()
    # a feature that reads nothing is left to score nothing
    encoder = torch.where(size[:, None] > 0, read / size[:, None], 0.0)
    k = dictionary.k
    if k is None:
        per_token = [dictionary.active(part).active.sum() / len(part) for part in outputs]
        k = max(1, round(float(torch.stack(per_token).mean())))
    return Dictionary(
        encoder.to(dictionary.dtype),
        dictionary.decoder,
        -(encoder @ mean).to(dictionary.dtype),
        torch.zeros_like(dictionary.offset),
        k=min(k, dictionary.n_feature),
        site=study.site,
    )
