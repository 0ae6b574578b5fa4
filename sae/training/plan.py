"""What dictionaries are to be trained: a dozen values that, with model and text, decide them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from circuits.errors import PlanError
from circuits.model.plan import is_whole
from sae.training.step import Activation

_WARM_UP, _COOL_DOWN = 0.05, 0.2  # shares of the steps in which the rate rises and falls


@dataclass(frozen=True)
class TrainingPlan:
    """How several sites' dictionaries are trained together."""

    sites: tuple[str, ...] = ("resid_mid@0", "mlp_in@0", "mlp_out@0")
    """Where, as ``point@layer``; one dictionary each."""

    n_features: int | None = None
    """Of each dictionary; None: twice the width of its site, and once at ``mlp_in``: a wider one
    splits what an MLP combines into features that are combinations already."""

    k: int = 10
    """Features active on a token (on average, where ``activation`` is "batchtopk")."""

    activation: Activation = "topk"
    """"topk" cuts the k largest at zero; "signed_topk" keeps them as they are, as the paper does;
    "batchtopk" takes the largest of a whole batch, and saves the threshold that this comes to."""

    n_tokens: int = 1_000_000
    """To train on, counted again where the text is passed over again."""

    n_batch: int = 2048
    """Tokens in a step."""

    learning_rate: float = 4e-3
    """Of Adam, after a warm-up over the first twentieth and before a decay over the last fifth."""

    auxiliary: float = 2.0
    """Weight of the loss that teaches dead features what the living ones leave over; 0: none."""

    normalise: bool = True
    """Train on activations scaled to a mean square of one; it is undone in what is saved."""

    seed: int = 0
    """Of everything: the text's order, the buffer's shuffle, the start."""

    n_buffer: int = 2**16
    """Tokens that are shuffled together; each takes 4 bytes a dimension and site. What is left of
    them after whole batches is not trained on."""

    outlier: float | None = None
    """Leave out tokens whose norm is so many times the median at any site; None: keep all."""

    def __post_init__(self) -> None:
        least = {"n_tokens": 1, "n_batch": 2, "k": 1, "seed": 0, "n_buffer": 2}
        faults = [
            f"{name} is {getattr(self, name)!r}, not a whole number from {low}"
            for name, low in least.items()
            if not is_whole(getattr(self, name), low)
        ]
        if self.n_features is not None and not is_whole(self.n_features, 1):
            faults.append(f"n_features is {self.n_features!r}, not a whole number from 1")
        elif self.n_features is not None and is_whole(self.k, 1) and self.k > self.n_features:
            faults.append(f"k is {self.k}, more than the {self.n_features} features there are")
        if self.activation not in get_args(Activation):
            faults.append(f"activation is {self.activation!r}, none of {get_args(Activation)}")
        for name, low in (("learning_rate", 0), ("auxiliary", 0), ("outlier", 1)):
            value = getattr(self, name)
            if value is None and name == "outlier":
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not low <= value < float("inf")
            ):
                faults.append(f"{name} is {value!r}, not a number from {low}")
        listed = isinstance(self.sites, tuple) and all(isinstance(s, str) for s in self.sites)
        if not isinstance(self.normalise, bool):
            faults.append(f"normalise is {self.normalise!r}, neither true nor false")
        if is_whole(self.seed, 0) and self.seed >= 2**63:
            faults.append(f"seed is {self.seed}, not below 2^63")
        if not self.sites or not listed:
            faults.append(f"sites are {self.sites!r}, not a tuple of names such as 'mlp_in@0'")
        if not faults and self.n_buffer < self.n_batch:
            faults.append(f"n_buffer {self.n_buffer} does not hold a batch of {self.n_batch}")
        if faults:
            raise PlanError("TrainingPlan: " + "; ".join(faults) + ".")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "plan") -> TrainingPlan:
        """The plan of some fields; unknown ones are refused."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise PlanError(
                f"{where}: unknown field {', '.join(unknown)}. The fields of a training plan are "
                f"{', '.join(sorted(known))}."
            )
        sites = given.get("sites", cls.sites)
        if isinstance(sites, str | list):
            sites = (sites,) if isinstance(sites, str) else tuple(sites)
        try:
            return cls(**{**given, "sites": sites})
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "sites": list(self.sites)}

    @property
    def n_steps(self) -> int:
        """Steps that the tokens come to."""
        return -(-self.n_tokens // self.n_batch)

    def features_of(self, width: int, point: str | None = None) -> int:
        """How many features a site of some width, at a point of a layer, is given."""
        wide = width if point == "mlp_in" else 2 * width
        n_features = wide if self.n_features is None else self.n_features
        if self.k > n_features:
            raise PlanError(
                f"TrainingPlan: k is {self.k}, more than the {n_features} features there are. Make "
                f"k smaller or n_features larger."
            )
        return n_features

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        risen = (step + 1) / max(1, _WARM_UP * self.n_steps)
        left = (self.n_steps - step) / max(1, _COOL_DOWN * self.n_steps)
        return self.learning_rate * min(1.0, risen, left)
