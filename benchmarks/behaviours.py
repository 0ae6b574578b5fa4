"""Which kinds of behaviour a model shows in words of its own, and how much the choice flatters.

Of each kind and seed: frames are tried on one half of the words and kept where the model is right
in every class; their cases of the other half of the words are held out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from analysis.behaviour.bounds import SHOWN
from analysis.behaviour.kinds import KINDS
from analysis.behaviour.lexicon import LexiconBehaviour, behaviour_from_lexicon
from benchmarks.measure import machine, table
from benchmarks.proofs import HEAD, cells, proof
from circuits.model import Model, load_model
from circuits.model.formats.weights import read_config
from circuits.model.loading import ready_folder, without_gates
from circuits.twin.original import load_original
from sae import load_dictionaries

READY = "stories260K-bilinear"
N_PAIRS = 64  # minimal ones, of which circuits are found
N_OF_LAYER = 256  # feature pairs, at most
ENOUGH, RIGHT = 64, 0.8
"""Held-out cases, and the share right in all of them, that are wanted of a kind."""

_HEAD = ("kind", "frames kept", "held-out cases", "right, words chosen on", "its worst class",
         "right, held-out words", "its worst class", "best frame's worst class, words chosen on",
         f"seeds with {ENOUGH} held-out cases and {RIGHT:.0%} right")  # fmt: skip


def run(device: str, name: str | None, seeds: range) -> str:
    """The table; takes a few seconds for each kind and seed of a small model."""
    model = _loaded(name or READY, device)
    rows = []
    for kind in KINDS:
        rows.append(_row(kind, [behaviour_from_lexicon(model, kind, seed=s) for s in seeds]))
    head = (
        f"{machine()}. {name or READY}: {model.n_layer} layers, width {model.d_model}, "
        f"{model.n_token} tokens; seeds {seeds[0]} to {seeds[-1]}, as median (least to most). A "
        f"frame is kept with {SHOWN:.0%} right in every class."
    )
    return f"{head}\n\n{table(rows, _HEAD)}"


def circuits(device: str, name: str | None, seeds: range) -> str:
    """The circuit through all layers of each kind that is shown, and its proof."""
    model = load_model(name or READY, device=device)
    dictionaries = load_dictionaries(name or READY, device=device)
    rows = list[tuple[str, ...]]()
    for kind in KINDS:
        for seed in seeds:
            shown = behaviour_from_lexicon(model, kind, n=N_PAIRS, seed=seed)
            if shown.behaviour is not None:
                held_out = shown.classes.set_index("class").loc["all"]
                right = f"{held_out['held-out right']:.2f} of {held_out['held-out cases']:.0f}"
                found = proof(model, dictionaries, shown.behaviour, seed, N_OF_LAYER)
                rows.append((kind, str(seed), right, *cells(found)))
    head = (
        f"{machine()}. {name or READY}, {N_PAIRS} minimal pairs, half of the words to choose on "
        f"and half to measure on; at most {N_OF_LAYER} pairs of a layer."
    )
    return f"{head}\n\n{table(rows, ['kind', 'seed', 'right, held-out words', *HEAD])}"


def _loaded(name: str, device: str) -> Model:
    """A bilinear model, or a gated one as it is."""
    known = ready_folder(name) is not None
    bilinear = known or without_gates(read_config(Path(name)))
    return (load_model if bilinear else load_original)(name, device=device)


def _row(kind: str, found: Sequence[LexiconBehaviour]) -> tuple[str, ...]:
    shown = [each.classes.set_index("class") for each in found if each.behaviour is not None]
    enough = [rows for rows in shown if rows.loc["all", "held-out cases"] >= ENOUGH
              and rows.loc["all", "held-out right"] >= RIGHT]  # fmt: skip
    return (
        kind,
        f"{_spread([each.n_kept for each in found], 0)} of {found[0].n_tried}",
        _spread([int(rows.loc["all", "held-out cases"]) for rows in shown], 0),
        _spread([float(rows.loc["all", "right"]) for rows in shown]),
        _spread([float(rows["right"].min()) for rows in shown]),
        _spread([float(rows.loc["all", "held-out right"]) for rows in shown]),
        _spread([float(rows["held-out right"].min()) for rows in shown]),
        _spread([float(each.trials["worst"].max()) for each in found]),
        f"{len(enough)} of {len(found)}",
    )


def _spread(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
