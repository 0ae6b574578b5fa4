"""What a checkpoint of a model in training holds.

Weights, the optimizer's moments and the noise generator are its tensors; the step, the position in
the text and what the run was made of stand in its header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuits.storage.training_run import (
    optimizer_state,
    restore_optimizer,
    save_state,
    saved_state,
)


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    n_tokens: int = 0  # predicted so far
    seconds: float = 0.0  # of training, over all of its parts
    position: dict[str, int] | None = None  # in the text, where the next batch begins


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
    progress: Progress,
    made_of: dict[str, Any],
) -> None:
    """Write the state of a run."""
    weights = dict(network.named_parameters())
    tensors = {"noise": noise.get_state(), **optimizer_state(weights, optimizer)}
    save_state(path, tensors, {"progress": vars(progress), "made_of": made_of})


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
    made_of: dict[str, Any],
) -> Progress:
    """Bring a run back to where it was saved; refused if it was another one."""
    with saved_state(path, made_of) as (tensors, header):
        restore_optimizer(dict(network.named_parameters()), optimizer, tensors)
        noise.set_state(tensors["noise"].clone())
        return Progress(**header["progress"])
