"""How well a circuit's own pairs approximate its output features, and how few eigenvectors suffice.

Each output feature's activation, where it is active, against the sum of the circuit's pairs with
that feature's own weights, at every rank of the matrix of these pairs; beside it as many random
pairs of features that are active together, and the whole layer. A circuit is chosen for the
contrast of a behaviour, so its pairs need not follow a feature on all of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.discovery.provenance import layer_of_circuit
from analysis.lowrank.measure import MIN_ACTIVE
from analysis.lowrank.sums import (
    Fit,
    Forms,
    Observed,
    Resampling,
    documents_of,
    in_chunks,
    on_active,
)
from circuits.algebra.bilinear import with_constant
from circuits.algebra.interactions import Interactions
from circuits.corpus.documents import Corpus
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, readings

_N_RANK = 8
_PERCENT = (2.5, 97.5)

_Pairs = list[tuple[int, int]]


class Approximation(str, Enum):
    """What is compared with an output's activation; the values are in the column ``form``."""

    __str__ = str.__str__

    CIRCUIT = "circuit"  # its own pairs
    RANDOM_PAIRS = "random pairs"  # as many of features that are active together
    WHOLE_LAYER = "whole layer"  # the layer itself, as the feature reads it


@torch.no_grad()
def circuit_rank(
    model: Model,
    circuit: Circuit,
    dictionaries: Mapping[Site, Dictionary],
    corpus: Corpus,
    *,
    reader: Literal["pinv", "encoder"] = "pinv",
    n_documents: int = N_DOCUMENTS,
    min_active: int = MIN_ACTIVE,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows: output, n_active, form (an `Approximation`), rank (0: all of it), correlation with its
    interval, r2; for outputs active on ``min_active`` tokens."""
    layer = layer_of_circuit(model, circuit, dictionaries)
    into, out = (dictionaries[site].to(model.device) for site in mlp_sites(layer))
    inter = Interactions(
        model.layer(layer), into.basis(), out.basis(reader, least_squares=reader == "pinv")
    )
    outputs = [output.feature for output in circuit.outputs]
    own = [(pair.first, pair.second) for pair in circuit.interactions]
    chosen = {
        Approximation.CIRCUIT: own,
        Approximation.RANDOM_PAIRS: random_pairs(model, into, own, corpus, seed),
    }
    used = sorted(
        {f for pairs in chosen.values() for pair in pairs for f in pair} - {into.n_feature}
    )
    tokens = list(in_chunks(_observed(model, layer, into, out, used, corpus, n_documents)))
    resampling = Resampling(n_bootstrap, seed)
    forms = {
        name: Forms.of_matrices(
            torch.stack([_matrix(inter, output, pairs, used) for output in outputs]),
            outputs,
            torch.stack([_constant(inter, output) for output in outputs]),
            min(_N_RANK, len(used) + 1),
        )
        for name, pairs in chosen.items()
    }
    tables = [
        _rows(name, on_active(form, tokens, resampling), outputs, form.n_rank)
        for name, form in forms.items()
    ]
    tables.append(
        _whole(model, layer, inter, outputs, tokens, corpus, n_documents, out, resampling)
    )
    n_active = _counts(tokens, out.n_feature)
    table = pd.concat(tables, ignore_index=True)
    table.insert(1, "n_active", [n_active[feature] for feature in table["output"]])
    return table[table["n_active"] >= min_active].reset_index(drop=True)


def random_pairs(
    model: Model,
    dictionary: Dictionary,
    own: _Pairs,
    corpus: Corpus,
    seed: int,
    n_documents: int = 100,
) -> _Pairs:
    """As many pairs of features that are active together, none of them the circuit's: two active
    features of each randomly drawn token; fewer where the text has no more."""
    draws = np.random.default_rng(seed)
    site = dictionary.known_site("circuit_rank")
    together: list[np.ndarray] = []
    for reading in readings(model, corpus, [site], n_documents=n_documents):
        code = dictionary.active(reading.activations[site])
        features = code.features[code.active].cpu().numpy()
        counts = np.bincount(code.rows[code.active].cpu().numpy(), minlength=code.n_row)
        together += [some for some in np.split(features, np.cumsum(counts)[:-1]) if len(some) > 1]
    found: dict[tuple[int, int], None] = {}
    for token in draws.permutation(len(together)).tolist():
        if len(found) == len(own):
            break
        first, second = sorted(draws.choice(together[token], 2, replace=False).tolist())
        if (first, second) not in own:
            found[first, second] = None
    return list(found)


def _observed(
    model: Model,
    layer: int,
    into: Dictionary,
    out: Dictionary,
    used: list[int],
    corpus: Corpus,
    n_documents: int,
) -> Iterator[Observed]:
    """Tokens as the activations of the used features, the constant last."""
    sites = mlp_sites(layer)
    for reading in readings(model, corpus, sites, n_documents=n_documents):
        x, y = (reading.activations[site] for site in sites)
        lifted = with_constant(into.encode(x)[:, used])
        yield Observed(lifted, out.active(y), documents_of(reading))


def _matrix(
    inter: Interactions, output: int, pairs: _Pairs, used: list[int]
) -> Float[Tensor, "used used"]:
    """One output's matrix among the used features, with the entries of the pairs alone."""
    place = {feature: i for i, feature in enumerate([*used, inter.inputs.n_feature])}
    constant = inter.write[-1:] if inter.has_constant else torch.zeros_like(inter.write[:1])
    rows = torch.cat([inter.write[used], constant])
    whole = rows @ inter.form(output) @ rows.mT
    matrix = torch.zeros_like(whole)
    for first, second in pairs:
        i, j = place[first], place[second]
        matrix[i, j] = matrix[j, i] = whole[i, j]
    return matrix


def _constant(inter: Interactions, output: int) -> Float[Tensor, ""]:
    """What the feature reads when no input feature is present."""
    constant = inter.write.new_tensor(inter.bias(output))
    if inter.has_constant:
        last = inter.write[-1]
        constant = constant + last @ inter.form(output) @ last
    return constant


def _whole(
    model: Model,
    layer: int,
    inter: Interactions,
    outputs: list[int],
    tokens: list[Observed],
    corpus: Corpus,
    n_documents: int,
    out: Dictionary,
    resampling: Resampling,
) -> pd.DataFrame:
    """The layer itself, as the features read it."""
    sites = mlp_sites(layer)
    read = inter.outputs.subset(outputs)

    def observed() -> Iterator[Observed]:
        for reading in readings(model, corpus, sites, n_documents=n_documents):
            y = reading.activations[sites[1]]
            yield Observed(read.coordinates(y), out.active(y), documents_of(reading))

    nothing = inter.write.new_zeros(len(outputs), 1)
    forms = Forms(
        torch.tensor(outputs, device=nothing.device),
        nothing,
        inter.write.new_zeros(len(outputs), 1, len(outputs)),
        nothing[:, 0],
        lambda x: x,
    )
    fit = on_active(forms, in_chunks(observed()), resampling)
    return _rows(Approximation.WHOLE_LAYER, fit, outputs, 0)


def _rows(form: Approximation, fit: Fit, outputs: list[int], n_rank: int) -> pd.DataFrame:
    """Ranks from 1, then the whole as rank 0."""
    ranks = [*range(1, n_rank + 1), 0]
    places = [*range(n_rank), -1]
    rows = []
    for i, output in enumerate(outputs):
        for rank, place in zip(ranks, places, strict=True):
            replicates = fit.correlation[1:, i, place]
            known = replicates[np.isfinite(replicates)]
            low, high = np.percentile(known, _PERCENT) if len(known) else (np.nan, np.nan)
            value, r2 = fit.correlation[0, i, place], fit.r2[0, i, place]
            rows.append(
                (output, form.value, rank, float(value), float(low), float(high), float(r2))
            )
    names = ["output", "form", "rank", "correlation", "low", "high", "r2"]
    return pd.DataFrame(rows, columns=names)


def _counts(tokens: Iterable[Observed], n_feature: int) -> list[int]:
    counts = torch.zeros(n_feature, dtype=torch.int64)
    for part in tokens:
        counts += part.code.counts.cpu()
    return counts.tolist()
