"""The gated original of a twin: is a behaviour that features carry in the twin lost there too?

A gated MLP has no pairs, so what is removed is the circuit's input features themselves, ``x - Σ zᵢ
dᵢ`` with the dictionary's own code of each input, in both models alike. The control is as many
other features that are active on the cases.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.behaviour.bounds import TOGETHER
from analysis.behaviour.in_model import ModelCases
from analysis.validation.controls import not_shown
from analysis.validation.edits import EditKind
from analysis.validation.harness import Harness
from circuits.errors import GraphError, ModelError
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.storage.progress import progress
from circuits.twin.original import load_original


def original_of(model: Model, original: Model | str | Path) -> Model:
    """The original of a twin, loaded where it is not yet, with the tokenizer of the twin; refused
    where the model is no twin."""
    if model.label is None:
        raise ModelError(
            f"{model.path}: an original was given, and this model is no twin: it was not made of a "
            f"gated model. Leave the original out, or make its twin: circuits model twin."
        )
    if isinstance(original, Model):
        return original
    return load_original(original, tokenizer=model.path, device=model.device)


def checked_original(original: Model | str | Path, cases: ModelCases) -> Model:
    """`original_of` the cases' model; refused where it is not the one that the twin was made of,
    or reads other tokens."""
    model = cases.model
    original = original_of(model, original)
    label, words = model.label, original.words("validate")
    assert label is not None  # of `original_of`
    texts = [case.text for case in cases.behaviour.cases]
    both = (each(texts)["input_ids"] for each in (words, model.words("validate")))
    different = sum(a != b for a, b in zip(*both, strict=True))
    if different:
        raise ModelError(
            f"{original.path}: its tokenizer makes other tokens than the twin's of {different} of "
            f"{len(texts)} cases, so both would not read the same. Pass it with the twin's: "
            f"load_original(…, tokenizer=…)."
        )
    if original.fingerprint != label.original_fingerprint:
        raise ModelError(
            f"{original.path} has the hash {original.fingerprint[:12]}…, and {model.path} is the "
            f"twin of {label.original} with {label.original_fingerprint[:12]}…, so this says "
            f"nothing of that. Pass the original that the twin was made of."
        )
    return original


def with_features(
    edits: pd.DataFrame, harness: Harness, circuit: Circuit, original: Model, n_draws: int
) -> pd.DataFrame:
    """The edits, and the circuit's features removed from the twin and from its original, each
    beside the draw of as many other features that removes most there."""
    label = harness.model.label
    assert label is not None  # of `original_of`
    own = features_of(circuit, harness.into.n_feature)
    draws = _other_features(harness, own, n_draws)
    into = harness.into.to(original.device)
    there = Harness(
        replace(harness.cases, model=original, kept={}), harness.layer, into, harness.seed
    )
    name = f"{label.original}, {label.activation} gates"
    plain = there.row(EditKind.ORIGINAL, there.plain, 0, name) | {"n_features": 0}
    kinds = (EditKind.ORIGINAL_FEATURES, EditKind.ORIGINAL_OTHER_FEATURES)
    rows = [
        *_removed(harness, own, draws, EditKind.FEATURES, EditKind.OTHER_FEATURES),
        *not_shown(there, [plain, *_removed(there, own, draws, *kinds)]),
    ]
    table = pd.concat([edits.assign(n_features=0), pd.DataFrame(rows)], ignore_index=True)
    table.insert(table.columns.get_loc("n_pairs") + 1, "n_features", table.pop("n_features"))
    return table


def features_of(circuit: Circuit, constant: int) -> list[int]:
    """The input features in a circuit's pairs, without the constant."""
    ends = {end for pair in circuit.interactions for end in (pair.first, pair.second)}
    return sorted(ends - {constant})


def _removed(
    harness: Harness, own: list[int], draws: list[list[int]], kind: EditKind, control: EditKind
) -> list[dict[str, Any]]:
    others = [
        harness.without_features(some)
        for some in progress(draws, str(control).replace("_", " "), "draw")
    ]
    margins = {kind: harness.without_features(own), control: min(others, key=harness.affected)}
    return [harness.row(k, m, 0) | {"n_features": len(own)} for k, m in margins.items()]


def _other_features(harness: Harness, own: list[int], n_draws: int) -> list[list[int]]:
    """Draws of as many features that are active on some of the affected cases."""
    inside = harness.cases.affected[harness.cases.label] > 0
    x = harness.x[inside.to(harness.x.device)].to(harness.into.dtype)
    often = harness.into.active(x).counts >= TOGETHER * len(x)
    free = sorted(set(torch.nonzero(often)[:, 0].tolist()) - set(own))
    if len(free) < len(own):
        raise GraphError(
            f"validate: only {len(free)} features are active on the cases outside of the circuit's "
            f"{len(own)}, too few for a control in the original. Pass more cases, or leave the "
            f"original out."
        )
    rng = np.random.default_rng(harness.seed)
    return [sorted(rng.choice(free, len(own), replace=False).tolist()) for _ in range(n_draws)]
