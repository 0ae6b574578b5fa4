"""What to train and how: two small configurations, kept as JSON beside the model.

``activation`` acts on one factor of a gated MLP. With ``gated=False`` there is one factor only, and
the MLP has ``3 · d_hidden / 2`` units, so that its two matrices have as many weights as three had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from circuits.arguments import checked_methods
from circuits.corpus.batches import CHUNK
from circuits.errors import PlanError, check_index, number_faults

ACTIVATIONS = ("linear", "silu", "gelu", "relu")
"""``linear`` is bilinear, ``silu`` is SwiGLU, ``gelu`` GEGLU, ``relu`` ReGLU."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer."""

    n_layer: int = 1  # number of layers
    d_model: int = 128  # width of the residual stream
    d_hidden: int = 256  # products in each MLP, before the width of an ungated one is adjusted
    n_head: int = 1  # one head can weigh a word but not flip its sign: that is left to the MLP
    activation: str = "linear"  # on the left factor of the MLP: one of ``ACTIVATIONS``
    gated: bool = True  # whether the MLP multiplies two factors; if not, it is a plain one
    biases: bool = False  # whether the MLP's three matrices have biases
    tied_head: bool = False  # whether the head is the embedding

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("n_layer", "d_model", "d_hidden", "n_head"), 1)
        faults = number_faults(vars(self), sizes, flags=("gated", "biases", "tied_head"))
        if self.activation not in ACTIVATIONS:
            faults.append(f"activation '{self.activation}' is not one of {', '.join(ACTIVATIONS)}")
        if not faults and self.d_model % (2 * self.n_head):
            faults.append(
                f"d_model {self.d_model} cannot be split into {self.n_head} heads of even width"
            )
        if not self.gated and self.activation == "linear":
            faults.append("an ungated MLP with a linear activation is only a matrix")
        if not self.gated and not faults and self.d_hidden % 2:
            faults.append(f"d_hidden {self.d_hidden} is odd: 3 · d_hidden / 2 must be whole")
        refuse_faults("ModelShape", faults)

    @property
    def width(self) -> int:
        """Hidden units of the MLP: each kind has equally many weights."""
        return self.d_hidden if self.gated else 3 * self.d_hidden // 2

    @property
    def n_bytes(self) -> int:
        """Memory that training takes at least: layers' weights, gradients and two moments."""
        attention, mlp = 4 * self.d_model**2, (2 + self.gated) * self.d_model * self.width
        return 16 * self.n_layer * (attention + mlp)


@checked_methods
@dataclass(frozen=True)
class ModelPlan:
    """How a language model is trained: AdamW, warm-up and then a cosine down to 2 %."""

    shape: ModelShape = field(default_factory=ModelShape)  # what is trained
    n_steps: int = 700  # training steps, each on one batch
    n_rows: int = 64  # rows in a batch
    window: int = 128  # longest row in tokens, and the model's context
    learning_rate: float = 4e-3  # the peak, reached at the end of the warm-up
    warm_up: int = 50  # steps of the warm-up
    weight_decay: float = 0.1  # of matrices; norms and biases are not decayed
    clip: float = 1.0  # the gradient's norm is clipped to this
    noise: float = 0.0  # standard deviation of that on every MLP's input, whose entries are about 1
    seed: int = 0  # decides everything: initial weights, the order of the text, the noise

    def __post_init__(self) -> None:
        whole = {"n_steps": 1, "n_rows": 1, "window": 3, "warm_up": 0, "seed": 0}
        least = {"weight_decay": 0, "noise": 0}
        faults = number_faults(vars(self), whole, least, above_zero=("learning_rate", "clip"))
        if not isinstance(self.shape, ModelShape):
            faults.insert(0, f"shape is {self.shape!r:.40}, not a ModelShape")
        if not faults and self.n_rows > CHUNK:
            faults.append(
                f"n_rows is {self.n_rows}, but rows are made from {CHUNK} documents at a time"
            )
        refuse_faults("ModelPlan", faults)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        check_index("ModelPlan.rate", step, self.n_steps + 1, "step")
        return cosine_rate(self.learning_rate, self.warm_up, self.n_steps, step)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "plan") -> ModelPlan:
        """The plan with these fields, the others at their defaults; unknown ones are refused."""
        plan, shape = dict(given), given.get("shape", {})
        if not isinstance(shape, Mapping):
            raise PlanError(f"{where}: shape is {shape!r:.40}, not an object with its own fields.")
        check_fields(where, cls, plan)
        check_fields(where, ModelShape, shape, "shape.")
        try:
            return cls(**{**plan, "shape": ModelShape(**shape)})
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None


def cosine_rate(peak: float, warm_up: int, n_steps: int, step: int) -> float:
    """Up to the peak in a straight line, then a cosine down to 2 % of it."""
    warm = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * step / n_steps))
    return peak * max(0.02, warm * cosine)


def check_fields(where: str, kind: type, given: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse fields that a plan of this kind does not have."""
    known = [field.name for field in fields(kind)]
    if unknown := [f"'{prefix}{name}'" for name in given if name not in known]:
        raise PlanError(
            f"{where}: unknown field {', '.join(unknown)}; the fields are "
            f"{', '.join(prefix + name for name in known)}."
        )


def refuse_faults(owner: str, faults: list[str]) -> None:
    """Refuse a plan with faults."""
    if faults:
        raise PlanError(f"{owner}: " + "; ".join(faults) + ".")
