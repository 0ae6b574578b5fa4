"""Exact edits of a running model: pairs of features removed from an MLP's output, or added.

What some pairs write is ``Σ zᵢ zⱼ P[(W dᵢ)*(V dⱼ) + (W dⱼ)*(V dᵢ)]``, at every token from its own
activations, with nothing projected or averaged; a pair of a feature with itself counts once. An
edit changes every output feature that the pairs feed, not only the ones that a circuit names. The
first token of each row is left alone, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from analysis.attribution.pair_terms import PairTerms
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.records import Word


class EditKind(Word):
    """What was done to the model."""

    NONE = "none"
    REMOVE = "remove"
    KEEP = "keep"
    REMOVE_GATE = "remove_gate"
    PATCH = "patch"
    MEAN = "mean"
    OTHER_CIRCUIT = "other_circuit"
    UNTRAINED = "untrained"
    UNTRAINED_REMOVE = "untrained_remove"
    FEATURES = "features"  # of a twin; what follows needs its original
    OTHER_FEATURES = "other_features"
    ORIGINAL = "original"
    ORIGINAL_FEATURES = "original_features"
    ORIGINAL_OTHER_FEATURES = "original_other_features"


class DrawKind(Word):
    """In what random pairs are like the circuit's."""

    SAME_NUMBER = "same_number"
    SAME_SIZE = "same_size"  # as many as write as much together


_EDITS = {
    EditKind.NONE: "none",
    EditKind.REMOVE: "remove the circuit",
    EditKind.KEEP: "keep only the circuit",
    EditKind.REMOVE_GATE: "remove gate {}",
    EditKind.PATCH: "patch from the other answer",
    EditKind.MEAN: "replace the MLP by its mean",
    EditKind.OTHER_CIRCUIT: "control: circuit of {}",
    EditKind.UNTRAINED: "control: untrained model",
    EditKind.UNTRAINED_REMOVE: "control: untrained model, circuit removed",
    EditKind.FEATURES: "remove the circuit's features",
    EditKind.OTHER_FEATURES: "control: as many other features, the draw that removes most",
    EditKind.ORIGINAL: "original ({}): none",
    EditKind.ORIGINAL_FEATURES: "original: remove the same features",
    EditKind.ORIGINAL_OTHER_FEATURES: (
        "control: original, as many other features, the draw that removes most"
    ),
}


def edit_label(kind: str, target: str = "") -> str:
    """An edit in words; ``target`` names the gate, the other circuit or the original."""
    return _EDITS[EditKind(kind)].replace("{}", target)


Change = Callable[[Tensor, Tensor], Tensor]
"""Of an MLP's input and output (``batch pos model``), the new output."""


@contextmanager
def edited(model: Model, layer: int, change: Change) -> Iterator[Model]:
    """Within the block an MLP's output is what ``change`` makes of its input and output."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen[:] = [x]
        return x

    def function(y: Tensor) -> Tensor:
        new = change(seen[0], y).to(y)
        return torch.cat([y[:, :1], new[:, 1:]], dim=1)

    with model.replaced({Site("mlp_in", layer): keep, Site("mlp_out", layer): function}):
        yield model


def removing(terms: PairTerms) -> Change:
    """The output without the pairs, at every token."""
    return lambda x, y: y - terms(x)
