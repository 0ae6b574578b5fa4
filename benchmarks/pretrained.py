"""A pretrained gated model made bilinear, layer by layer: what the weights alone show of it.

Its bilinear twin is trained (a model that is bilinear already is taken as it is); then one
dictionary before and one after every MLP, and a transcoder over it. Tables: how well these stand
in; outputs with a significant pair, beside features turned at random; proposals; and low rank,
beside directions that are no features.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from analysis import propose_circuits, rank_curve
from analysis.dictionary_quality import quality
from analysis.lowrank.curve import RankCurve
from analysis.transcoder_quality import transcoder_table
from benchmarks.measure import cell, machine, table
from circuits import Interactions
from circuits.algebra.basis import rotated
from circuits.corpus import open_corpus
from circuits.corpus.documents import Corpus, split_corpus
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import RotationNull
from circuits.model import Model, Site, load_model
from circuits.model.formats.weights import read_config
from circuits.model.site import mlp_sites
from circuits.twin.training import bilinear_twin
from sae import Dictionary, TrainingPlan, train_saes

N_FEATURES, K, N_TOKENS = 1024, 16, 2_000_000
N_PROPOSALS = 10
_DOCUMENTS = 300  # held out, that everything is measured on
Q = 0.05
PUBLISHED = 0.69  # of output features, in a model of the paper: correlation above .75 with two


def run(device: str, model: str | None, text: str | None, kept: str | None) -> str:
    """The tables; what is trained stays in the folder ``kept``, if there is one."""
    if model is None or text is None:
        raise SystemExit("pretrained: name a model and its text: --model FOLDER --data TEXT")
    corpus = open_corpus(text)
    train, held_out = split_corpus(corpus)
    held_out = held_out or train
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary)
        if read_config(Path(model)).get("hidden_act") == "linear":
            twin = load_model(model, device=device)
        else:
            twin = bilinear_twin(model, corpus, None, folder / "model", device=device)
        sites = [mlp_sites(layer) for layer in range(twin.n_layer)]
        plan = TrainingPlan(
            sites=tuple(str(site) for pair in sites for site in pair),
            n_features=N_FEATURES, k=K, n_tokens=N_TOKENS,
        )  # fmt: skip
        dictionaries = train_saes(twin, corpus, plan, folder / "dictionaries", device=device)
        over = replace(plan, sites=tuple(str(into) for into, _ in sites), target="mlp_out")
        transcoders = train_saes(twin, corpus, over, folder / "transcoders", device=device)
    stand_in = [_stands_in(each, twin, held_out) for each in dictionaries.values()]
    beside = [_beside(transcoders[into], dictionaries, twin, held_out) for into, _ in sites]
    rows = [_layer(twin, dictionaries, layer) for layer in range(twin.n_layer)]
    ranks = [
        rank_cells(layer, reader, rank_curve(twin, dictionaries, layer, held_out, reader=reader,
                                        n_documents=_DOCUMENTS))
        for layer in range(twin.n_layer) for reader in ("encoder", "pinv")
    ]  # fmt: skip
    head = (
        f"{machine()}, seed 0. {twin.n_layer} layers, width {twin.d_model}; {N_FEATURES} features, "
        f"k = {K}, {N_TOKENS / 1e6:g} M tokens; {_DOCUMENTS} held-out documents. "
        f"{twin.label.in_words if twin.label else 'A bilinear model'}."
    )
    tables = (
        table(stand_in, _STAND_IN_HEAD),
        table([row for rows in beside for row in rows], _BESIDE_HEAD),
        table(rows, _HEAD),
        table(ranks, RANK_HEAD),
        f"Published for a model of the paper: {PUBLISHED} of the output features above .75.",
    )
    return "\n\n".join([head, *tables])


_STAND_IN_HEAD = ("site", "FVU", "active", "dead", "loss recovered from zero", "from the mean",
                  "random directions", "loss added")  # fmt: skip


def _stands_in(dictionary: Dictionary, model: Model, held_out: Corpus) -> tuple[str, ...]:
    one = quality(dictionary, model, held_out, n_documents=_DOCUMENTS).iloc[0]
    spread = one["loss_zero"] - one["loss_clean"]
    return (
        str(dictionary.site),
        f"{one['fvu']:.3f}",
        f"{one['l0']:.1f}",
        f"{one['dead']:.2f}",
        f"{one['recovered']:.4f}",
        f"{one['recovered_from_mean']:.4f}",
        f"{(one['loss_zero'] - one['loss_random']) / spread:.2f}",
        f"{one['added']:.4f}",
    )


_BESIDE_HEAD = ("layer", "in place of the MLP", "FVU", "loss recovered", "features", "active",
                "terms for 90 % of a reading", "active features for 90 %")  # fmt: skip


def _beside(
    transcoder: Dictionary, dictionaries: dict[Site, Dictionary], model: Model, held_out: Corpus
) -> list[tuple[str, ...]]:
    """A transcoder beside the autoencoders before and after the layer."""
    layer = transcoder.read_site("pretrained").layer
    pair = (dictionaries[site] for site in mlp_sites(layer))
    found = transcoder_table(transcoder, *pair, model, held_out, n_documents=_DOCUMENTS)
    return [
        (str(layer), name, *(cell(found.loc[name, column]) for column in (
            "fvu", "recovered", "n_feature", "k", "terms_90", "energy_90"
        )))
        for name in ("transcoder", "autoencoders and layer")
    ]  # fmt: skip


_HEAD = ("layer", "outputs with a significant pair", "the features turned", "pairs of those",
         "what they build of the form", "proposals", "pairs of a proposal",
         "what they build")  # fmt: skip


def _layer(model: Model, dictionaries: dict[Site, Dictionary], layer: int) -> tuple[str, ...]:
    into, out = (dictionaries[site] for site in mlp_sites(layer))
    read = out.basis("encoder")
    inter = Interactions(model.layer(layer), into.basis(), read)
    turned = Interactions(model.layer(layer), rotated(into.basis()), read)
    own, control = _significant(inter), _significant(turned)
    proposals = propose_circuits(model, dictionaries, layer, N_PROPOSALS)
    return (
        str(layer),
        f"{len(own)} of {inter.n_output}",
        f"{len(control)} of {inter.n_output}",
        _spread([len(pairs) for pairs in own], 0),
        _spread([float(pairs.attrs["explained"]) for pairs in own], 2),
        str(len(proposals)),
        _spread([len(one.interactions) for one in proposals], 0),
        _spread([one.explained or 0.0 for one in proposals], 2),
    )


def _significant(inter: Interactions) -> list[Any]:
    null = RotationNull.of(inter.inputs)
    found = [significant_pairs(inter, o, Q, null) for o in range(inter.n_output)]
    return [pairs for pairs in found if len(pairs)]


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, middle, high = (
        torch.tensor(values).double().quantile(torch.tensor([0.0, 0.5, 1.0]).double())
    )
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


RANK_HEAD = ("layer", "reader", "compared", "above .75 with two", "random directions",
              "tokens' outputs", "rotated / shuffled", "median", "median R²",
              "R², random directions / tokens' outputs",
              "rank for R² .9: features / random / tokens")  # fmt: skip


def rank_cells(layer: int, reader: str, curve: RankCurve) -> tuple[str, ...]:
    """The cells under `RANK_HEAD`."""
    one = curve.summary()
    needed = (one["needed"], one["needed_random"], one["needed_tokens"])
    return (
        str(layer),
        reader,
        str(one["n_compared"]),
        f"{one['share_above']:.2f} ({one['share_low']:.2f} to {one['share_high']:.2f})",
        f"{one['share_above_random']:.2f}",
        f"{one['share_above_tokens']:.2f}",
        f"{one['share_above_rotated']:.2f} / {one['share_above_shuffled']:.2f}",
        f"{one['median']:.2f}",
        f"{one['median_r2']:.2f}",
        f"{one['median_r2_random']:.2f} / {one['median_r2_tokens']:.2f}",
        " / ".join("-" if n is None else f"{n:g}" for n in needed),
    )
