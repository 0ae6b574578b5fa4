"""A pretrained gated model made bilinear, layer by layer: what the weights alone show of it.

Its bilinear twin is trained; then one dictionary before and one after every MLP; outputs with a
significant pair, beside features turned at random; proposals; and low rank, beside directions that
are no features.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from analysis import propose_circuits, rank_curve
from analysis.lowrank.curve import RankCurve
from benchmarks.measure import machine, table
from circuits import Interactions
from circuits.algebra.basis import rotated
from circuits.corpus import open_corpus
from circuits.corpus.documents import split_corpus
from circuits.graph.matching_pursuit import significant_pairs
from circuits.graph.significance import RotationNull
from circuits.model import Model, Site
from circuits.model.site import mlp_sites
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin
from sae import Dictionary, TrainingPlan, train_saes

PLAN = TwinPlan(n_steps=800)
N_FEATURES, K, N_TOKENS = 512, 12, 2_000_000
N_PROPOSALS = 10
_DOCUMENTS = 1000  # held out, that low rank and losses are measured on
Q = 0.05


def run(device: str, model: str | None, text: str | None) -> str:
    """The tables; takes about ten minutes on two cores for a model of width 64."""
    if model is None or text is None:
        raise SystemExit("pretrained: name a model and its text: --model FOLDER --data TEXT")
    corpus = open_corpus(text)
    train, held_out = split_corpus(corpus)
    held_out = held_out or train
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        twin = bilinear_twin(model, corpus, PLAN, folder / "twin", device=device)
        sites = [site for layer in range(twin.n_layer) for site in mlp_sites(layer)]
        plan = TrainingPlan(
            sites=tuple(map(str, sites)), n_features=N_FEATURES, k=K, n_tokens=N_TOKENS
        )
        dictionaries = train_saes(twin, corpus, plan, folder / "saes", device=device)
        rows = [_layer(twin, dictionaries, layer) for layer in range(twin.n_layer)]
        ranks = [
            _rank(layer, reader, rank_curve(twin, dictionaries, layer, held_out, reader=reader,
                                            n_documents=_DOCUMENTS))
            for layer in range(twin.n_layer) for reader in ("encoder", "pinv")
        ]  # fmt: skip
    label = twin.label
    assert label is not None  # it is a twin
    head = (
        f"{machine()}, seed 0. {twin.n_layer} layers, width {twin.d_model}; {PLAN.n_steps} steps "
        f"of {PLAN.n_rows} rows of {PLAN.window}; {N_FEATURES} features, k = {K}, {N_TOKENS} "
        f"tokens. Loss on held-out text: {label.original_loss:.3f} as it came, {label.loss:.3f} "
        f"bilinear."
    )
    return "\n\n".join([head, table(rows, _HEAD), table(ranks, _RANK_HEAD)])


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


_RANK_HEAD = ("layer", "reader", "compared", "above .75 with two", "random directions",
              "tokens' outputs", "rotated / shuffled", "median", "median R²",
              "R², random directions / tokens' outputs",
              "rank for R² .9: features / random / tokens")  # fmt: skip


def _rank(layer: int, reader: str, curve: RankCurve) -> tuple[str, ...]:
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
