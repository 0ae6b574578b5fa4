"""The plan of a training run: values that, with model and text, determine its dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from circuits.arguments import checked_methods
from circuits.errors import PlanError, check_index, number_faults
from circuits.model.plan import check_fields, refuse_faults
from circuits.model.site import POINTS, Site, as_sites
from sae.training.step import Activation

_WARM_UP, _COOL_DOWN = 0.05, 0.2  # fractions of the steps in which the rate rises and falls

TRANSCODED = ("mlp_in@0",)
"""The sites that transcoders read where none are named."""


@checked_methods
@dataclass(frozen=True)
class TrainingPlan:
    """How several sites' dictionaries are trained together."""

    sites: tuple[str, ...] = ("resid_mid@0", "mlp_in@0", "mlp_out@0")
    """Where, as ``point@layer``; one dictionary each."""
    target: str | None = None
    """Train transcoders: each site's features write this point of the same layer ("mlp_out"), and
    the loss is there. None: autoencoders, which write what they read."""
    n_features: int | None = None
    """Of each dictionary. None: twice the width of what is written; once at ``mlp_in``, where
    more split."""
    k: int = 10
    """Features active on a token (on average, where ``activation`` is "batchtopk")."""
    activation: Activation = "topk"
    """"topk" cuts the k largest at zero; "signed_topk" keeps their sign, as the paper does;
    "batchtopk" takes the largest of a whole batch and saves the threshold it ends with."""
    n_tokens: int = 1_000_000
    """Tokens to train on; those of a repeated epoch count again."""
    n_batch: int = 2048
    """Tokens in a step."""
    learning_rate: float = 4e-3
    """Of Adam; it rises over the first twentieth of the steps and decays over the last fifth."""
    auxiliary: float = 2.0
    """Weight of the loss that trains dead features on what the others leave; 0: none."""
    seed: int = 0
    """Of everything: the order of the text, the shuffling, the initial weights."""
    n_buffer: int = 2**16
    """Tokens shuffled together; a remainder smaller than a batch is not trained on."""
    outlier: float | None = None
    """Leave out tokens whose norm exceeds this multiple of the median at any site; None: none."""

    def __post_init__(self) -> None:
        whole = {"n_tokens": 1, "n_batch": 2, "k": 1, "seed": 0, "n_buffer": 2}
        least = {"learning_rate": 0, "auxiliary": 0}
        if self.n_features is not None:
            whole["n_features"] = 1
        if self.outlier is not None:
            least["outlier"] = 1
        faults = number_faults(vars(self), whole, least)
        if self.activation not in get_args(Activation):
            faults.append(f"activation is {self.activation!r}, not one of {get_args(Activation)}")
        listed = self.sites and isinstance(self.sites, tuple)
        if not listed or not all(isinstance(site, str) for site in self.sites):
            faults.append(f"sites are {self.sites!r}, not a tuple of names such as 'mlp_in@0'")
        if self.target is not None and not (isinstance(self.target, str) and self.target in POINTS):
            faults.append(f"target is {self.target!r}, not a point of a layer such as 'mlp_out'")
        if not faults and self.n_buffer < self.n_batch:
            faults.append(f"n_buffer {self.n_buffer} does not hold a batch of {self.n_batch}")
        refuse_faults("TrainingPlan", faults)
        if self.n_features is not None:
            self.features_of(self.n_features)
        if self.target is not None:
            for site in as_sites(self.sites):
                self.target_of(site)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "plan") -> TrainingPlan:
        """A plan from its fields; unknown ones are errors."""
        check_fields(where, cls, given)
        sites = given.get("sites", cls.sites if given.get("target") is None else TRANSCODED)
        sites = (sites,) if isinstance(sites, str) else sites
        sites = tuple(sites) if isinstance(sites, list) else sites
        try:
            return cls(**{**given, "sites": sites})
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without a target where there is none."""
        target = {} if self.target is None else {"target": self.target}
        fields = {name: value for name, value in asdict(self).items() if name != "target"}
        return {**fields, "sites": list(self.sites), **target}

    @property
    def n_steps(self) -> int:
        """Number of steps for the plan's tokens."""
        return -(-self.n_tokens // self.n_batch)

    def target_of(self, site: Site) -> Site:
        """Where the dictionary that reads a site writes."""
        target = site if self.target is None else Site(self.target, site.layer)
        if self.target is not None and target.order <= site.order:
            raise PlanError(
                f"TrainingPlan: target {self.target} is not computed after {site}, so what is read "
                f"there cannot predict it. Name earlier sites, such as sites=('mlp_in@0',) with "
                f"target='mlp_out'."
            )
        return target

    def features_of(self, width: int, point: str | None = None) -> int:
        """The number of features that write at some point of a layer, of some width."""
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
        check_index("TrainingPlan.rate", step, self.n_steps + 1, "step")
        risen = (step + 1) / max(1, _WARM_UP * self.n_steps)
        left = (self.n_steps - step) / max(1, _COOL_DOWN * self.n_steps)
        return self.learning_rate * min(1.0, risen, left)
