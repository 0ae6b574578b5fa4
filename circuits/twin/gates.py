"""The activation of a gate, faded until only its straight part is left.

``silu(s · x) / s`` is SiLU at s = 1 and nears ``x / 2`` as s goes to 0; so do other smooth gates
that are 0 at 0. ReLU looks the same at every scale and a sigmoid is not 0 at 0, so both are mixed
with their straight part instead: ``s · f(x) + (1 - s) · (slope · x + offset)``. In the end the
gate's weights take up the slope, and its bias takes up the offset, which only a sigmoid has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from circuits.errors import ModelError


@dataclass(frozen=True)
class Gate:
    """An activation and its straight part at 0."""

    function: Callable[[Tensor], Tensor]
    slope: float = 0.5
    offset: float = 0.0
    shrinks: bool = True  # fades by ``f(s · x) / s``; if not, by a mixture


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


GATES = {
    "silu": Gate(functional.silu),
    "swish": Gate(functional.silu),
    "gelu": Gate(functional.gelu),
    "gelu_new": Gate(_gelu_tanh),
    "gelu_fast": Gate(_gelu_tanh),
    "gelu_pytorch_tanh": Gate(_gelu_tanh),
    "quick_gelu": Gate(_quick_gelu),
    "tanh": Gate(torch.tanh, slope=1.0),
    "relu": Gate(functional.relu, shrinks=False),
    "sigmoid": Gate(torch.sigmoid, slope=0.25, offset=0.5, shrinks=False),
}
"""The gates that fade, by their names in a configuration."""


class FadingGate(nn.Module):
    """A gate's activation at a strength from 1, whole, to 0, straight."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate, self.strength = gate, 1.0

    def forward(self, x: Tensor) -> Tensor:
        """The activation, as far as it is still there."""
        gate, strength = self.gate, self.strength
        if strength == 1:
            return gate.function(x)
        if strength > 0 and gate.shrinks:
            return gate.function(strength * x) / strength
        straight = gate.slope * x + gate.offset
        return straight if strength == 0 else straight.lerp(gate.function(x), strength)


def fading_gates(network: Any) -> list[FadingGate]:
    """Put a fading gate into every MLP of a network, in place of its activation."""
    gate = GATES[network.config.hidden_act]
    gates = [FadingGate(gate) for _ in network.model.layers]
    for block, fading in zip(network.model.layers, gates, strict=True):
        block.mlp.act_fn = fading
    return gates


@torch.no_grad()
def made_linear(network: Any) -> None:
    """Replace a network's activation by its straight part, which its gate's weights take up."""
    gate = GATES[network.config.hidden_act]
    if gate.offset and not getattr(network.config, "mlp_bias", None):
        check_offset(network)
        network.config.mlp_bias = True
        for block in network.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(block.mlp, name, _with_bias(getattr(block.mlp, name)))
    for block in network.model.layers:
        left = block.mlp.gate_proj
        left.weight *= gate.slope
        if left.bias is not None:
            left.bias.mul_(gate.slope).add_(gate.offset)
        block.mlp.act_fn = nn.Identity()
    network.config.hidden_act = "linear"


def check_offset(network: Any) -> None:
    """Refuse a gate that leaves a constant where the format has no bias to hold it."""
    config = network.config
    if GATES[config.hidden_act].offset and not hasattr(config, "mlp_bias"):
        raise ModelError(
            f"the gate {config.hidden_act} leaves a constant when it fades, and the MLPs of "
            f"{type(network).__name__} have no biases to hold it. Save the model as a Llama "
            f"(model_type 'llama', mlp_bias true, biases of zero) and pass that."
        )


def _with_bias(linear: nn.Linear) -> nn.Linear:
    new = nn.Linear(linear.in_features, linear.out_features)
    new.weight, new.bias = linear.weight, nn.Parameter(linear.weight.new_zeros(len(linear.weight)))
    return new
