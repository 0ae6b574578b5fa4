"""What a dictionary is made of, in memory and in every layout: weights, rule, site, notes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.bilinear import computing_dtype
from circuits.arguments import check_argument
from circuits.errors import (
    BasisError,
    DictionaryError,
    ModelError,
    check_count,
    check_tensors,
)
from circuits.model.site import Site
from sae.statistics import Statistics

WEIGHTS = {
    "encoder": "feature model",
    "decoder": "feature target",
    "bias": "feature",
    "offset": "target",
    "threshold": "feature",
    "skip": "target model",
}
"""The fields that are tensors, and their axes; an autoencoder's target is what it reads."""

_OPTIONAL = ("threshold", "skip")


@dataclass(frozen=True, eq=False)
class Stored:
    """The parts of a sparse autoencoder, or of a transcoder, that are written to and read from
    disk. A transcoder has a ``target``; its ``offset`` is added there, and nothing is subtracted
    from what it reads."""

    encoder: Float[Tensor, "feature model"]
    decoder: Float[Tensor, "feature target"]
    bias: Float[Tensor, " feature"]
    offset: Float[Tensor, " target"]
    k: int | None  # active on each token; None where thresholds decide
    threshold: Float[Tensor, " feature"] | None = None
    relu: bool = True
    site: Site | None = None
    notes: dict[str, Any] = field(default_factory=dict)  # where it came from; saved with it
    statistics: Statistics | None = None  # of its features, where they were measured
    target: Site | None = None  # where a transcoder writes
    skip: Float[Tensor, "target model"] | None = None  # what a transcoder adds past its features

    def __post_init__(self) -> None:
        given = self.weights()
        same = {name: axes.replace("target", "model") for name, axes in WEIGHTS.items()}
        check_tensors("Dictionary", given, same if self.target is None else WEIGHTS)
        check_argument("Dictionary", "relu", self.relu, bool)
        check_argument("Dictionary", "site", self.site, Site | None)
        check_argument("Dictionary", "target", self.target, Site | None)
        self._check_target()
        if (self.k is None) == (self.threshold is None):
            raise BasisError(
                f"Dictionary: k is {self.k} and threshold is "
                f"{'missing' if self.threshold is None else 'given'}: a feature is active because "
                f"it is among the k strongest, or because it exceeds its threshold. Give one."
            )
        if self.k is not None:
            check_count("Dictionary", self.k, len(self.decoder), "k")
        dtype = computing_dtype(*given.values())
        for name, tensor in given.items():
            object.__setattr__(self, name, tensor.detach().to(dtype).contiguous())

    def weights(self) -> dict[str, Tensor]:
        """Its tensors by name, without the threshold or skip connection where there is none."""
        held = {name: getattr(self, name) for name in WEIGHTS}
        return {n: w for n, w in held.items() if w is not None or n not in _OPTIONAL}

    def _check_target(self) -> None:
        site, target = self.site, self.target
        if target is None:
            if self.skip is not None:
                raise BasisError(
                    "Dictionary: skip is given without a target: a connection past the features is "
                    "a transcoder's. Give the target too, such as Site('mlp_out', 0)."
                )
        elif site is not None and (site.layer != target.layer or site.order >= target.order):
            raise BasisError(
                f"Dictionary: target {target} is not computed after site {site} in the same "
                f"layer, so features that read the one cannot write the other. Give a later point "
                f"of layer {site.layer}, or no target: an autoencoder writes what it reads."
            )

    @property
    def n_feature(self) -> int:
        """How many features there are."""
        return self.decoder.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activation that it reads."""
        return self.encoder.shape[1]

    @property
    def d_target(self) -> int:
        """Width of the activation that it writes: the same for an autoencoder."""
        return self.decoder.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype everything is computed in."""
        return self.decoder.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.decoder.device

    @property
    def cuts_at_zero(self) -> bool:
        """Whether active features are never negative."""
        return self.relu or (self.threshold is not None and bool((self.threshold >= 0).all()))

    def check_autoencoder(self, needed_by: str) -> None:
        """Refuse a transcoder where what is read must be what is written."""
        check_argument("Dictionary.check_autoencoder", "needed_by", needed_by, str)
        if self.target is not None:
            raise DictionaryError(
                f"{needed_by}: {self} is a transcoder, which writes {self.target} and does not "
                f"reconstruct what it reads. Use an autoencoder here, trained without a target."
            )

    def known_site(self, needed_by: str) -> Site:
        """The site that an autoencoder was trained at; an error where that is unknown, or where
        this is a transcoder."""
        self.check_autoencoder(needed_by)
        return self.read_site(needed_by)

    def read_site(self, needed_by: str) -> Site:
        """The site whose activation it reads; an error where that is unknown."""
        check_argument("Dictionary.read_site", "needed_by", needed_by, str)
        if self.site is None:
            hook = self.notes.get("hook_name")
            named = f", and its hook '{hook}' is not one of our sites" if hook else ""
            raise ModelError(
                f"{needed_by}: the site that this dictionary was trained at is unknown{named}. "
                f"Set it: dataclasses.replace(dictionary, site=Site.parse('mlp_in@0'))."
            )
        return self.site

    def __repr__(self) -> str:
        rule = "thresholds" if self.k is None else f"top {self.k}{'' if self.relu else ', signed'}"
        where = "" if self.site is None else f" at {self.site}"
        if self.target is not None:
            where = f" from {self.site or 'an unknown site'} to {self.target}"
            rule += "" if self.skip is None else ", a skip connection"
        return f"Dictionary({self.n_feature} features of {self.d_model}{where}, {rule})"
