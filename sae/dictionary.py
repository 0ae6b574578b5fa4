"""A trained sparse autoencoder at its site: features in, features out, and as a `Basis`.

``encode(x)`` is the ``k`` largest of ``(x − offset) encoderᵀ + bias``, cut at zero unless ``relu``
is False, or those above a ``threshold``; ``decode(f)`` is ``f decoder + offset``.

With a ``target`` it is a transcoder: it reads ``x encoderᵀ + bias`` at its site and writes at the
target, where ``offset`` belongs. What needs an autoencoder refuses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.algebra.unchanged import while_unchanged
from circuits.arguments import checked_methods
from circuits.errors import BasisError, DictionaryError, check_range, check_width, largest, moved
from circuits.model.model import Model
from circuits.model.site import Site
from sae.formats import folders
from sae.formats.record import WEIGHTS, Stored
from sae.formats.sae_lens import as_sae_lens
from sae.sparse import Code, strongest
from sae.statistics import Statistics, statistics  # noqa: F401 - the same

_TILE = 2**24  # scores that are held at a time


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class Dictionary(Stored):
    """Features of one site: how they are found in an activation and what they write to it."""

    @while_unchanged
    def _into(self) -> Float[Tensor, "model feature"]:
        """The encoder as sae-lens lays it out: the same product in the same order of sums."""
        return self.encoder.mT.contiguous()

    def preactivations(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch feature"]:
        """Each feature's score, before the selection."""
        check_width("Dictionary", x, self.d_model, "activations")
        x = x.to(self.dtype)
        x = x - self.offset if self.target is None else x
        self._check_range("Dictionary", {"activations": largest(x)}, "encoder", self.bias)
        return x @ self._into + self.bias

    def active(self, x: Float[Tensor, "row model"]) -> Code:
        """The active features of each row, as a sparse code."""
        tiles = x.split(max(1, _TILE // self.n_feature))
        return Code.joined([self.selected(self.preactivations(tile)) for tile in tiles])

    def selected(self, scores: Float[Tensor, "row feature"]) -> Code:
        """The features that this dictionary's rule selects from any scores."""
        check_width("Dictionary.selected", scores, self.n_feature, "scores")
        if self.k is None:
            assert self.threshold is not None  # one of the two is given
            chosen = scores > self.threshold
            if self.relu:
                chosen &= scores > 0
            rows, features = chosen.nonzero(as_tuple=True)
            return Code.of_counts(chosen.sum(1), features, scores[rows, features], self.n_feature)
        values, features = strongest(scores, self.k)
        values = values.relu() if self.relu else values
        return Code.of_equal_rows(features, values, self.n_feature)

    def encode(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch feature"]:
        """The features of an activation, most of them zero; `active` gives a sparse code."""
        check_width("Dictionary", x, self.d_model, "activations")
        return self.active(x.reshape(-1, x.shape[-1])).dense().view(*x.shape[:-1], self.n_feature)

    def decode(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch target"]:
        """The activation that these features write, offset included; without a transcoder's skip
        connection, which is no function of features."""
        check_width("Dictionary.decode", features, self.n_feature, "features")
        features = features.to(self.dtype)
        self._check_range(
            "Dictionary.decode", {"features": largest(features)}, "decoder", self.offset
        )
        return features @ self.decoder + self.offset

    def reconstruct(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch target"]:
        """The activation as the active features reconstruct it; for a transcoder its target's."""
        check_width("Dictionary", x, self.d_model, "activations")
        rows = x.reshape(-1, x.shape[-1])
        made = self.decoded(self.active(rows))
        if self.skip is not None:
            made = made + rows.to(self.dtype) @ self.skip.mT
        return made.view(*x.shape[:-1], self.d_target)

    def decoded(self, code: Code) -> Float[Tensor, "row target"]:
        """The activation that each row of a code writes, offset included."""
        given = {"values": largest(code.values)}
        self._check_range("Dictionary.decoded", given, "decoder", self.offset)
        return code.times(self.decoder) + self.offset

    def _check_range(self, owner: str, given: dict[str, float], side: str, added: Tensor) -> None:
        sizes, n_terms = {**given, side: self._sizes[side]}, max(self.decoder.shape)
        check_range(owner, self.dtype, sizes, n_terms, largest(added))

    @while_unchanged
    def _sizes(self) -> dict[str, float]:
        return {side: largest(getattr(self, side)) for side in ("encoder", "decoder")}

    def error(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """What the reconstruction misses: ``x = reconstruct(x) + error(x)``."""
        self.check_autoencoder("Dictionary.error")
        return x.to(self.dtype) - self.reconstruct(x)

    def basis(
        self, reader: Literal["pinv", "encoder"] = "pinv", *, least_squares: bool = False
    ) -> Basis:
        """The features as directions, read by the decoder's pseudoinverse or by the encoder.
        ``least_squares`` accepts the nearest reader of a decoder that does not span the activation
        space."""
        self.check_autoencoder("Dictionary.basis")
        if reader == "encoder":
            return Basis.from_encoder(self.decoder, self.encoder, self.offset, self.bias)
        if reader == "pinv":
            return Basis.from_decoder(self.decoder, self.offset, least_squares=least_squares)
        raise BasisError(f"Dictionary.basis: no reader '{reader}'. Ask for 'pinv' or 'encoder'.")

    @property
    def trained_on(self) -> str | None:
        """The hash of the model that it was trained on, where its files say."""
        made_of = self.notes.get("activations")
        model = made_of.get("model") if isinstance(made_of, dict) else None
        return model if isinstance(model, str) else None

    def site_in(self, model: Model, needed_by: str) -> Site:
        """The site that it reads in a model; refused where it was trained on another model, or
        does not fit."""
        if {self.d_model, self.d_target} != {model.d_model}:
            width = self.d_model if self.d_model != model.d_model else self.d_target
            raise DictionaryError(
                f"{needed_by}: {self} is for activations of {width}, and the model's have "
                f"{model.d_model}. Load the model that it was trained on."
            )
        trained_on = self.trained_on
        own = model.unedited_fingerprint  # of several, each is spliced while others are
        if trained_on is not None and trained_on != own:
            raise DictionaryError(
                f"{needed_by}: {self} was trained on a model of hash {trained_on[:12]}…, and "
                f"this one has {own[:12]}…, so it is of other weights, another "
                f"configuration or tokenizer. Load the model that it was trained on, or train a "
                f"dictionary of this one."
            )
        return model.check_sites(self.read_site(needed_by))[0]

    @contextmanager
    def spliced(self, model: Model, *, error: bool = False) -> Iterator[Model]:
        """Within the block the model computes with the reconstruction at the dictionary's site (a
        transcoder's: of its target), and with ``error`` with the reconstruction error too, so that
        nothing changes."""
        site = self.site_in(model, "Dictionary.spliced")
        was_read: dict[Site, Tensor] = {}

        def keep(x: Tensor) -> Tensor:
            was_read[site] = x
            return x

        def function(y: Tensor) -> Tensor:
            made = self.reconstruct(was_read.pop(site, y))
            return made + (y.to(self.dtype) - made) if error else made

        functions: dict[Site | str, Any] = {self.target or site: function}
        if self.target is not None:
            functions[site] = keep
        with model.replaced(functions):
            yield model

    def measured(self, activations: Iterable[Tensor]) -> Dictionary:
        """The same dictionary with statistics over some activations, tensors ``token model``."""
        found = statistics(self.active(x.to(self.device)) for x in activations)
        return replace(self, statistics=found)

    def save(self, folder: str | Path, format: str = "sae-lens") -> Path:
        """Write this dictionary and its statistics to a new folder; whole or not at all.

        ``sae-lens`` holds every dictionary. ``published`` is the paper's layout (whose code expects
        a folder named like ``18-mlp-in-x8-k30``), ``sparsify`` and ``dictionary_learning`` those
        projects'. ``circuit_tracer`` adds a transcoder as one layer to that project's set.
        """
        return folders.save(self, folder, format)

    @property
    def sae_lens(self) -> Any:
        """A new sae-lens object with these weights: a ``TopKSAE``, a ``JumpReLUSAE``, or of a
        transcoder with thresholds a ``JumpReLUTranscoder``."""
        return as_sae_lens(self)

    @while_unchanged
    def fingerprint(self) -> str:
        """A hash of the weights and of the rule that makes a feature active."""
        digest = hashlib.sha256(f"{self.k} {self.relu}".encode())
        if self.target is not None:
            digest.update(f"to {self.target}".encode())
        for name in WEIGHTS:
            tensor = getattr(self, name)
            if name == "skip" and tensor is None:
                continue
            digest.update(f"{name} {None if tensor is None else tuple(tensor.shape)}".encode())
            if tensor is not None:
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, *args: Any, **kwargs: Any) -> Dictionary:
        """The same dictionary on another device or in another dtype; arguments of ``Tensor.to``."""
        return replace(self, **moved("Dictionary.to", self.weights(), *args, **kwargs))
