"""What a dictionary is made of, in memory and in every layout: weights, rule, site, notes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.bilinear import computing_dtype
from circuits.arguments import check_argument
from circuits.errors import BasisError, ModelError, check_count, check_tensors
from circuits.model.site import Site
from sae.statistics import Statistics

WEIGHTS = {
    "encoder": "feature model",
    "decoder": "feature model",
    "bias": "feature",
    "offset": "model",
    "threshold": "feature",
}
"""The fields that are tensors, and their axes."""


@dataclass(frozen=True, eq=False)
class Stored:
    """The parts of a sparse autoencoder that are written to and read from disk."""

    encoder: Float[Tensor, "feature model"]
    decoder: Float[Tensor, "feature model"]
    bias: Float[Tensor, " feature"]
    offset: Float[Tensor, " model"]
    k: int | None  # active on each token; None where thresholds decide
    threshold: Float[Tensor, " feature"] | None = None
    relu: bool = True
    site: Site | None = None
    notes: dict[str, Any] = field(default_factory=dict)  # where it came from; saved with it
    statistics: Statistics | None = None  # of its features, where they were measured

    def __post_init__(self) -> None:
        given = self.weights()
        check_tensors("Dictionary", given, WEIGHTS)
        check_argument("Dictionary", "relu", self.relu, bool)
        check_argument("Dictionary", "site", self.site, Site | None)
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
        """Its tensors by name, without the threshold where there is none."""
        held = {name: getattr(self, name) for name in WEIGHTS}
        return {n: w for n, w in held.items() if w is not None or n != "threshold"}

    @property
    def n_feature(self) -> int:
        """How many features there are."""
        return self.decoder.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activation."""
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

    def known_site(self, needed_by: str) -> Site:
        """The site it was trained at; an error where that is unknown."""
        check_argument("Dictionary.known_site", "needed_by", needed_by, str)
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
        return f"Dictionary({self.n_feature} features of {self.d_model}{where}, {rule})"
