"""How a gated model is made bilinear: a small configuration, kept as JSON beside the twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from circuits.arguments import checked_methods
from circuits.corpus.batches import CHUNK
from circuits.errors import PlanError, check_count, check_index, number_faults
from circuits.model.plan import check_fields, cosine_rate, refuse_faults

ORDERS = ("together", "last first")
"""Whether all layers' gates fade at once, or one layer after another from the last."""

_MOST = 100_000  # layers or norms
_NORMS = 0.6  # of the steps without gates: those in which norms fade


@checked_methods
@dataclass(frozen=True)
class TwinPlan:
    """Each MLP's stand-in without a gate is fitted alone, and then the whole model is trained; or
    gates fade in a first part of the steps."""

    n_steps: int = 2000  # training steps, each on one batch
    fit: int = 300  # steps in which each MLP is fitted alone before, unless gates fade
    fade: float = 0.0  # share of the steps over which gates fade; 0 removes them at once
    order: str = "together"  # of the layers whose gates fade: one of ``ORDERS``
    distilled: float = 0.9  # share of the loss that is the divergence from the original's answers
    matched: float = 0.0  # weight of the distance of each MLP's output from the original's
    only_mlps: bool = False  # train the MLPs alone, and freeze everything else
    remove_norms: bool = False  # fade norms into fixed scales too, one by one, once gates are gone
    n_rows: int = 32  # rows in a batch
    window: int = 256  # tokens in a row, at most the model's context
    learning_rate: float = 2e-3  # the peak, reached at the end of the warm-up
    seed: int = 0  # decides the order of the text

    warm_up: ClassVar[int] = 50
    weight_decay: ClassVar[float] = 0.0
    clip: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        whole = {"n_steps": 1, "fit": 0, "n_rows": 1, "window": 3, "seed": 0}
        least = {"fade": 0, "distilled": 0, "matched": 0}
        faults = number_faults(
            vars(self),
            whole,
            least,
            above_zero=("learning_rate",),
            flags=("only_mlps", "remove_norms"),
        )
        if not faults:
            faults += [
                f"{name} is {value}, more than the whole"
                for name in ("fade", "distilled")
                if (value := getattr(self, name)) > 1
            ]
        if not faults and self.fade and self.fit:
            faults.append(
                f"fade is {self.fade} and fit is {self.fit}: gates that fade start as they are, "
                f"and MLPs that were fitted have none. Set one of them to 0"
            )
        if self.order not in ORDERS:
            faults.append(f"order '{self.order}' is not one of {', '.join(ORDERS)}")
        if not faults and self.n_rows > CHUNK:
            faults.append(f"n_rows is {self.n_rows}, more than {CHUNK}")
        refuse_faults("TwinPlan", faults)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        check_index("TwinPlan.rate", step, self.n_steps + 1, "step")
        return cosine_rate(self.learning_rate, self.warm_up, self.n_steps, step)

    def strengths(self, step: int, n_layer: int) -> list[float]:
        """How much of each layer's gate is left at a step, from 1 to 0."""
        check_count("TwinPlan.strengths", n_layer, _MOST, "n_layer")
        check_index("TwinPlan.strengths", step, self.n_steps + 1, "step")
        faded = self._done(step, 0.0, self.fade)
        if self.order == "together":
            return [1 - faded] * n_layer
        return _in_turns(faded, n_layer)[::-1]

    def norm_strengths(self, step: int, n_norm: int) -> list[float]:
        """How much of each norm is left at a step: they fade in order, in the first 60 % of the
        steps that are left when gates are gone."""
        check_count("TwinPlan.norm_strengths", n_norm, _MOST, "n_norm")
        check_index("TwinPlan.norm_strengths", step, self.n_steps + 1, "step")
        if not self.remove_norms:
            return [1.0] * n_norm
        until = self.fade + _NORMS * (1 - self.fade)
        return _in_turns(self._done(step, self.fade, until), n_norm)

    def _done(self, step: int, begin: float, end: float) -> float:
        """How far a step is from one share of the steps to another."""
        if begin >= end:
            return 1.0
        return min(1.0, max(0.0, (step / self.n_steps - begin) / (end - begin)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "plan") -> TwinPlan:
        """The plan with these fields, the others at their defaults; unknown ones are refused."""
        check_fields(where, cls, given)
        try:
            return cls(**given)
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None


def _in_turns(faded: float, n: int) -> list[float]:
    """What is left of each of ``n`` things that fade one after another, each for as long."""
    return [min(1.0, max(0.0, 1 - (faded * n - turn))) for turn in range(n)]
