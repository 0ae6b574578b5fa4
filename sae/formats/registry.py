"""The four ways in which the field stores a sparse autoencoder, read and written exactly.

Each becomes a `Dictionary` that gives the same features, or is refused with the reason: a factor
or an offset is multiplied into the weights, but nothing that depends on the token can be. What a
reader would get wrong: "top-k" is three things. sae-lens, sparsify and dictionary_learning cut
what they select at zero; the paper's keep negative values; sparsify's ``signed`` (like sae-lens'
``abstopk``) selects by absolute value, which a `Dictionary` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sae.dictionary import Dictionary
from sae.formats import dictionary_learning, published, sae_lens, sparsify
from sae.formats.published import published_name
from sae.formats.sae_lens import as_sae_lens
from sae.formats.sites import site_of

__all__ = ["LAYOUTS", "Layout", "as_sae_lens", "published_name", "site_of"]


@dataclass(frozen=True)
class Layout:
    """A way to store a dictionary in a folder: how it is told by its files, read and written."""

    config: str
    weights: str
    read: Callable[[Path], Dictionary]
    write: Callable[[Dictionary, Path], None]


LAYOUTS = {
    "sae-lens": Layout("cfg.json", "sae_weights.safetensors", sae_lens.read, sae_lens.write),
    "published": Layout("config.json", "model.safetensors", published.read, published.write),
    "sparsify": Layout("cfg.json", "sae.safetensors", sparsify.read, sparsify.write),
    "dictionary_learning": Layout(
        "config.json", "ae.safetensors", dictionary_learning.read, dictionary_learning.write
    ),
}
"""By the name that `Dictionary.save` knows them by."""
