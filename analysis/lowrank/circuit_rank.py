"""How well a circuit's own pairs approximate its output features, and how few eigenvectors suffice.

Beside as many random pairs of features that are active together, and the whole layer. A circuit is
chosen for the contrast of a behaviour, so its pairs need not follow a feature on all of the text.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch

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
    totals_of,
)
from circuits.algebra.bilinear import with_constant
from circuits.algebra.interactions import Interactions
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import check_count
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.records import Word
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, readings

_N_RANK = 8
_PERCENT = (2.5, 97.5)

_Pairs = list[tuple[int, int]]


class Approximation(Word):
    """What is compared with an output's activation; the values are in the column ``form``."""

    CIRCUIT = "circuit"  # its own pairs
    RANDOM_PAIRS = "random pairs"  # as many of features that are active together
    WHOLE_LAYER = "whole layer"  # the layer itself, as the feature reads it


@checked
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
    interval, r2; for outputs active on ``min_active`` tokens. NaN where a form is constant."""
    check_count("circuit_rank", min_active, None, "min_active")
    resampling = Resampling(n_bootstrap, seed)
    sites = mlp_sites(layer_of_circuit(model, circuit, dictionaries))
    into, out = (dictionaries[site].to(model.device) for site in sites)
    read = out.basis(reader, least_squares=reader == "pinv")
    inter = Interactions(model.layer(sites[0].layer), into.basis(), read)
    outputs = [output.feature for output in circuit.outputs]
    own = [(pair.first, pair.second) for pair in circuit.interactions]
    drawn = random_pairs(model, into, own, corpus, seed)
    used = sorted({f for pair in [*own, *drawn] for f in pair} - {into.n_feature})
    features, exact = [], []
    for reading in readings(model, corpus, sites, n_documents=n_documents):
        x, y = (reading.activations[site] for site in sites)
        code, document = out.active(y), documents_of(reading)
        features.append(Observed(with_constant(into.encode(x)[:, used]), code, document))
        exact.append(Observed(read.subset(outputs).coordinates(y), code, document))
    tokens = list(in_chunks(features))
    forms = _forms(
        inter, outputs, {Approximation.CIRCUIT: own, Approximation.RANDOM_PAIRS: drawn}, used
    )
    tables = [
        _rows(name, on_active(form, tokens, resampling), outputs) for name, form in forms.items()
    ]
    # the layer itself: no eigenpairs, only the exact values
    nothing = inter.write.new_zeros(len(outputs), 0)
    layer = Forms(
        next(iter(forms.values())).feature,
        nothing,
        nothing[..., None].expand(-1, -1, len(outputs)),
        nothing.sum(1),
        lambda x: x,
    )
    tables.append(
        _rows(Approximation.WHOLE_LAYER, on_active(layer, in_chunks(exact), resampling), outputs)
    )
    n_active = totals_of(tokens).n_active.long().tolist()
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


def _forms(
    inter: Interactions, outputs: list[int], chosen: Mapping[Approximation, _Pairs], used: list[int]
) -> dict[Approximation, Forms]:
    """Each output's form of the used features and the constant, with only the chosen pairs."""
    place = {feature: i for i, feature in enumerate([*used, inter.inputs.n_feature])}
    constant = inter.write[-1:] if inter.has_constant else torch.zeros_like(inter.write[:1])
    rows = torch.cat([inter.write[used], constant])
    whole = torch.stack([rows @ inter.form(output) @ rows.mT for output in outputs])
    # what the output reads when no input feature is present
    level = whole[:, -1, -1] + whole.new_tensor([inter.bias(output) for output in outputs])
    found = {}
    for name, pairs in chosen.items():
        kept = torch.zeros_like(whole)
        for first, second in pairs:
            i, j = place[first], place[second]
            kept[:, i, j] = kept[:, j, i] = whole[:, i, j]
        found[name] = Forms.of_matrices(kept, outputs, level, min(_N_RANK, len(rows)))
    return found


def _rows(form: Approximation, fit: Fit, outputs: list[int]) -> pd.DataFrame:
    """Ranks from 1, then the whole as rank 0."""
    rows = []
    for i, output in enumerate(outputs):
        for place, value in enumerate(fit.correlation[0, i]):
            replicates = fit.correlation[1:, i, place]
            known = replicates[np.isfinite(replicates)]
            low, high = np.percentile(known, _PERCENT) if len(known) else (np.nan, np.nan)
            rank = (place + 1) % fit.correlation.shape[2]
            rows.append((output, form.value, rank, value, low, high, fit.r2[0, i, place]))
    names = ["output", "form", "rank", "correlation", "low", "high", "r2"]
    return pd.DataFrame(rows, columns=names)
