"""The four layouts in which autoencoders are stored, each read and written exactly.

Each is read as a `Stored` that gives the same features, or refused with the reason: a factor or an
offset is multiplied into the weights, but nothing that depends on the token can be. "Top-k" means
three things: sae-lens, sparsify and dictionary_learning cut the selected values at zero; the
paper's format keeps negative ones; sparsify's ``signed`` (like sae-lens' ``abstopk``) selects by
absolute value, which we do not support.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sae.formats import dictionary_learning, published, sae_lens, sparsify
from sae.formats.record import Stored


@dataclass(frozen=True)
class Layout:
    """A way to store a dictionary: the files that show it, and how they are read and written."""

    config: str
    weights: str
    read: Callable[[Path], Stored]
    write: Callable[[Stored, Path], None]


LAYOUTS = {
    "sae-lens": Layout("cfg.json", "sae_weights.safetensors", sae_lens.read, sae_lens.write),
    "published": Layout("config.json", "model.safetensors", published.read, published.write),
    "sparsify": Layout("cfg.json", "sae.safetensors", sparsify.read, sparsify.write),
    "dictionary_learning": Layout(
        "config.json", "ae.safetensors", dictionary_learning.read, dictionary_learning.write
    ),
}
"""By the names that `Dictionary.save` takes."""
