"""How well the top eigenvectors approximate a feature, beside controls.

A feature of a dictionary at ``mlp_out`` is a quadratic form of the MLP's input: ``x̂ᵀQx̂`` plus a
constant, both exact. Its rank-r approximation keeps r eigenpairs of Q and the constant, and is
compared with the feature's activation in the dictionary.

With ``reader="encoder"``, as the paper reads features, the form at full rank *is* the activation
before its top-k. The pseudoinverse reads another number, whose correlation stays below 1 at any
rank and yet needs fewer eigenvectors to come close to it: always read a rank beside the full rank.

A form of few eigenvectors need not come from the dictionary. Any direction of the same layer has a
form, so the controls that matter most are random directions in the *same* model, and the outputs
of random tokens, with as many active on a token. Correlation ignores a wrong scale; R², and the
rank at which it reaches nine tenths, do not.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.lowrank.curve import SCHEMA, RankCurve
from analysis.lowrank.layer_forms import Block, LayerForms
from analysis.lowrank.loss import truncation_loss
from analysis.lowrank.sums import (
    Control,
    Forms,
    Observed,
    Resampling,
    Totals,
    active_sums,
    documents_of,
    fit,
    in_chunks,
    on_active,
    on_all,
    totals_of,
)
from circuits.arguments import checked
from circuits.corpus.documents import Corpus, known_stories, split_corpus
from circuits.errors import CorpusError, DictionaryError, DirectionWarning, check_count
from circuits.model.loading import untrained
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.shards import kept_table
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS

_Keep = Callable[[str, Callable[[], pd.DataFrame]], pd.DataFrame]

LOSS_RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Ranks whose loss is measured, up to the curve's last."""

MIN_ACTIVE = 50
"""Tokens that a feature must be active on to count: a correlation over fewer says little."""

_LOSS_DOCUMENTS = 200  # that the loss is measured on: each loss is a pass of the model


@checked
@torch.no_grad()
def rank_curve(
    model: Model,
    dictionaries: Dictionary | Mapping[Site, Dictionary],
    layer: int | None = None,
    corpus: Corpus | None = None,
    *,
    reader: Literal["pinv", "encoder"] = "encoder",
    n_rank: int = 64,
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    n_bootstrap: int = 200,
    seed: int = 0,
    folder: str | Path | None = None,
) -> RankCurve:
    """The curve of the dictionary at ``mlp_out``, over the first documents of a corpus.

    ``dictionaries`` is that dictionary, or the result of `load_dictionaries`, of which the one at
    ``layer`` (by default the first) is used; the corpus by default the built-in stories that
    training holds out. ``reader`` decides which row of each feature gives its form; the activation
    that it is compared with is the dictionary's own either way. The controls are in `Control`;
    directions that are no features are standardised, with as many active on a token.

    Activations are held in memory. ``folder`` keeps finished blocks, so that the same call resumes.
    """
    n_rank = check_count("rank_curve", n_rank, None, "n_rank")
    check_count("rank_curve", min_active, None, "min_active")
    resampling = Resampling(n_bootstrap, seed)
    dictionary = _output_dictionary(model, dictionaries, layer).to(model.device)
    corpus = _held_out(model, seed) if corpus is None else corpus
    forms = LayerForms.of(model, dictionary, reader)
    tokens = list(in_chunks(forms.observed(corpus, n_documents)))
    totals = totals_of(tokens)
    if not bool((totals.n_active >= min_active).any()):
        raise DictionaryError(
            f"rank_curve: no feature of {dictionary} is active on {min_active} of the "
            f"{totals.n_token} tokens of {n_documents} documents, so there is nothing to compare. "
            f"Read more documents, or lower min_active (a correlation of few tokens says little)."
        )
    n_rank = max(1, min(n_rank, forms.d_input - 1))
    about = {**_about(forms, corpus, n_documents), "reader": reader, "n_bootstrap": n_bootstrap,
             "seed": seed}  # fmt: skip
    settings = {**about, "ranks": n_rank, "schema": SCHEMA, "version": version("bilinear-circuits")}

    def keep(name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        path = None if folder is None else Path(folder) / f"{name}.parquet"
        return kept_table(path, json.dumps(settings, sort_keys=True), make)

    table, by_size = _table(forms, tokens, totals, n_rank, resampling, keep)
    for other in _elsewhere(forms, corpus, n_rank, n_documents, seed, keep):
        table = table.merge(other, how="left")
    loss = truncation_loss(
        model,
        dictionary,
        by_size,
        forms.read(corpus, min(n_documents, _LOSS_DOCUMENTS)),
        [rank for rank in LOSS_RANKS if rank <= n_rank],
        seed,
    )
    return RankCurve(table, loss, about | {"min_active": min_active, "n_token": totals.n_token})


def _about(forms: LayerForms, corpus: Corpus, n_documents: int) -> dict[str, Any]:
    """What was measured, and on which text."""
    there = min(n_documents, corpus.n_documents or n_documents)
    return {
        "site": str(forms.site),
        "n_feature": forms.dictionary.n_feature,
        "k": forms.dictionary.k,
        "n_documents": there,
        "n_loss_documents": min(there, _LOSS_DOCUMENTS),
        "corpus": corpus.fingerprint,
        "model": forms.model.fingerprint,
        "dictionary": forms.dictionary.fingerprint,
    }


def _output_dictionary(
    model: Model, dictionaries: Dictionary | Mapping[Site, Dictionary], layer: int | None
) -> Dictionary:
    """The one to measure; refused where its activation is not a form of the MLP's input."""
    if isinstance(dictionaries, Dictionary):
        found = {dictionaries.known_site("rank_curve"): dictionaries}
    else:
        found = {site: each for site, each in dictionaries.items() if site.point == "mlp_out"}
        found = found or dict(dictionaries)
    chosen = {site: each for site, each in found.items() if layer in (None, site.layer)}
    listed = ", ".join(map(str, found)) or "none"
    if not chosen:
        raise DictionaryError(
            f"rank_curve: there is no dictionary at layer {layer}, only at {listed}. Name one of "
            f"their layers, or train one with the site mlp_out@{layer}."
        )
    site, dictionary = min(chosen.items(), key=lambda item: item[0].order)
    if site.point != "mlp_out":
        raise DictionaryError(
            f"rank_curve: the dictionary is at {site}. Only at mlp_out is an activation a form of "
            f"the MLP's input alone: the stream also holds what did not pass through the MLP. Pass "
            f"a dictionary trained at mlp_out@{site.layer}."
        )
    dictionary.site_in(model, "rank_curve")
    return dictionary


def _held_out(model: Model, seed: int) -> Corpus:
    """The built-in stories that training holds out."""
    stories = known_stories(model.words("rank_curve"), seed)
    if stories is None:
        raise CorpusError(
            f"{model.path}: the model does not know the words of the built-in stories. Pass a "
            f"corpus that it was trained for: open_corpus(path)."
        )
    held_out = split_corpus(stories)[1]
    assert held_out is not None  # there are millions of stories
    return held_out


def _table(
    layer: LayerForms,
    tokens: list[Observed],
    totals: Totals,
    n_rank: int,
    resampling: Resampling,
    keep: _Keep,
) -> tuple[pd.DataFrame, Forms]:
    """The rows of the features that are ever active, without controls of other directions; all
    forms."""
    rows, held = [], []
    for block in layer.blocks():
        made = layer.forms(block, n_rank, totals)
        measured = partial(_measured, made, tokens, totals, block, resampling, layer.d_input)
        rows.append(keep(f"own-{block[0]:07d}", measured))
        held.append(made.by_size)
    table = pd.concat(rows, ignore_index=True)
    forms = Forms(
        torch.cat([one.feature for one in held]),
        torch.cat([one.values for one in held]),
        torch.cat([one.vectors for one in held]),
        torch.cat([one.constant for one in held]),
        layer.whole(list(range(layer.dictionary.n_feature))),
    )
    return table, forms


def _measured(
    made: Block,
    tokens: list[Observed],
    totals: Totals,
    block: list[int],
    resampling: Resampling,
    d_input: int,
) -> pd.DataFrame:
    """The rows of one block's features."""
    own = made.by_size
    sums = active_sums(own, tokens, resampling)
    fits = {
        "": fit(*sums.unbind(2)),
        "_all": on_all(own, tokens, totals, sums[0]),
        "_by_data": on_active(made.by_data, tokens),
        "_by_sign": on_active(made.by_sign, tokens),
        "_rotated": on_active(own.rotated(resampling.seed + block[0]), tokens),
        "_shuffled": on_active(own.shuffled(_others(totals, block, resampling.seed)), tokens),
    }
    feature = made.by_size.feature.cpu().numpy()
    low, high = _percentiles(fits[""].correlation[1:])
    columns: dict[str, Any] = {
        "feature": feature[:, None],
        "n_active": totals.n_active.cpu().numpy()[feature, None].astype(np.int64),
        "effective_rank": made.effective[:, :1],
        "entropy_rank": made.effective[:, 1:],
        "rank": [*range(1, made.by_size.n_rank + 1), d_input],
        "energy": made.energy,
        "correlation": fits[""].correlation[0],
        "low": low,
        "high": high,
        "r2": fits[""].r2[0],
        "correlation_all": fits["_all"].correlation,
        "r2_all": fits["_all"].r2,
        "correlation_by_data": fits["_by_data"].correlation[0],
        "r2_by_data": fits["_by_data"].r2[0],
        "correlation_by_sign": fits["_by_sign"].correlation[0],
        "correlation_rotated": fits["_rotated"].correlation[0],
        "correlation_shuffled": fits["_shuffled"].correlation[0],
    }
    table = _long(columns)
    return table[table["n_active"] > 0]


def _others(totals: Totals, block: list[int], seed: int) -> Int64[Tensor, " form"]:
    """For each live feature of a block another live one; a single one keeps its own."""
    live = np.flatnonzero((totals.n_active[block] > 0).cpu().numpy())
    order = np.arange(len(block))
    around = np.random.default_rng((seed, block[0])).permutation(live)
    order[around] = np.roll(around, 1)
    return torch.from_numpy(order).to(totals.n_active.device)


def _long(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Columns by form and rank, or by one of them, as a row for each form and rank."""
    whole = np.broadcast_arrays(*columns.values())
    return pd.DataFrame({name: part.ravel() for name, part in zip(columns, whole, strict=True)})


def _percentiles(
    replicates: Float[np.ndarray, "replicate form rank"],
) -> tuple[Float[np.ndarray, "form rank"], Float[np.ndarray, "form rank"]]:
    """95 % of the replicates in which the correlation is defined."""
    nothing = np.full((1, *replicates.shape[1:]), np.nan)
    ordered = np.sort(np.concatenate([replicates, nothing]), axis=0)  # NaN last
    last = np.isfinite(ordered).sum(0) - 1
    low, high = (
        np.take_along_axis(ordered, np.round(q * last).clip(min=0).astype(int)[None], axis=0)[0]
        for q in (0.025, 0.975)
    )
    return low, high


def _elsewhere(
    forms: LayerForms, corpus: Corpus, n_rank: int, n_documents: int, seed: int, keep: _Keep
) -> Iterator[pd.DataFrame]:
    """The same of directions that are no features: feature, rank, count, correlation, R²."""
    fresh = replace(forms, model=untrained(forms.model, seed))
    for layer, controls in (
        (forms, (Control.RANDOM, Control.TOKENS)),
        (fresh, (Control.UNTRAINED,)),
    ):
        read = list(layer.read(corpus, n_documents))
        outputs = [reading.activations[forms.site] for reading, _ in read]
        for control in controls:
            dictionary = _standardised(forms, outputs, _directions(forms, control, outputs, seed))
            reader = "encoder" if control is Control.UNTRAINED else forms.reader
            with warnings.catch_warnings():  # some directions are alike, and may be
                warnings.simplefilter("ignore", DirectionWarning)
                other = LayerForms.of(layer.model, dictionary, reader)
            held = (
                Observed(x, dictionary.active(output), documents_of(reading))
                for output, (reading, x) in zip(outputs, read, strict=True)
            )
            tokens = list(in_chunks(held))
            totals = totals_of(tokens)
            made = [
                keep(f"{control}-{block[0]:07d}",
                     partial(_plain, control, other, block, n_rank, totals, tokens))
                for block in other.blocks()
            ]  # fmt: skip
            yield pd.concat(made, ignore_index=True)


def _directions(
    forms: LayerForms, control: Control, outputs: list[Float[Tensor, "_ model"]], seed: int
) -> Float[Tensor, "feature model"]:
    """A control's directions, one in place of each feature."""
    if control is Control.UNTRAINED:
        return forms.inter.outputs.read.double()
    generator, shape = torch.Generator().manual_seed(seed), forms.dictionary.encoder.shape
    if control is Control.RANDOM:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(outputs[0].device)
    every = torch.cat(outputs).double()
    some = torch.randint(len(every), shape[:1], generator=generator).to(every.device)
    return every[some] - every.mean(0)


def _plain(
    control: Control,
    other: LayerForms,
    block: list[int],
    n_rank: int,
    totals: Totals,
    tokens: list[Observed],
) -> pd.DataFrame:
    """A control's rows of one block."""
    found = on_active(other.forms(block, n_rank, totals).by_size, tokens)
    columns = {
        "feature": np.array(block)[:, None],
        "rank": [*range(1, n_rank + 1), other.d_input],
        f"n_active_{control}": totals.n_active[block, None].cpu().numpy().astype(np.int64),
        control.column: found.correlation[0],
        f"r2_{control}": found.r2[0],
    }
    return _long(columns)


def _standardised(
    forms: LayerForms,
    outputs: list[Float[Tensor, "_ model"]],
    read: Float[Tensor, "feature model"],
) -> Dictionary:
    """Directions as a dictionary whose scores all have mean 0 and variance 1."""
    dictionary = forms.dictionary
    x = torch.cat(outputs).double()
    mean = x.mean(0)
    spread = (x - mean).mT @ (x - mean) / len(x)
    size = ((read @ spread) * read).sum(1).clamp(min=0).sqrt()
    # a feature that reads nothing keeps a score of zero
    encoder = torch.where(size[:, None] > 0, read / size[:, None], 0.0)
    k = dictionary.k
    if k is None:
        per_token = [dictionary.active(part).active.sum() / len(part) for part in outputs]
        k = max(1, round(float(torch.stack(per_token).mean())))
    return Dictionary(
        encoder.to(dictionary.dtype),
        encoder.to(dictionary.dtype),
        -(encoder @ mean).to(dictionary.dtype),
        torch.zeros_like(dictionary.offset),
        k=min(k, dictionary.n_feature),
        site=forms.site,
    )
