"""The whole state of a training run in one file, so that it is there whole or not at all.

Weights, the optimizer's moments and the noise generator are the tensors of a safetensors file;
the step, the position in the text and what the run was made of are JSON in its header. The file
is written beside its place, forced to the disk and renamed: a kill leaves the one before.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from circuits.errors import ModelError
from circuits.files import written_whole

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


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
    tensors: dict[str, Tensor] = {"noise": noise.get_state()}
    for name, weight in network.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for moment, value in optimizer.state.get(weight, {}).items():
            tensors[f"{moment}/{name}"] = value
    header = {"progress": json.dumps(vars(progress)), "made_of": json.dumps(made_of)}
    try:
        with written_whole(path) as file:
            save_file({n: t.contiguous() for n, t in tensors.items()}, file, metadata=header)
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: cannot be written ({error}). Make room; the checkpoint before is whole, and "
            f"the same call goes on from there."
        ) from error


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
    made_of: dict[str, Any],
) -> Progress:
    """Bring a run back to where it was saved; refused if it was another one."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            check_made_of(path, json.loads(header["made_of"]), made_of)
            with torch.no_grad():
                for name, weight in network.named_parameters():
                    weight.copy_(file.get_tensor(f"weight/{name}"))
                    if weight.requires_grad:
                        optimizer.state[weight] = {
                            # a copy lies aligned in memory, as the optimizer's own would
                            moment: file.get_tensor(f"{moment}/{name}").to(weight.device, copy=True)
                            for moment in _MOMENTS
                        }
            noise.set_state(file.get_tensor("noise").clone())
            return Progress(**json.loads(header["progress"]))
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{path}: no readable checkpoint of this run ({error}). Remove it to start afresh."
        ) from error


def check_made_of(where: Path, kept: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to go on with a run of another plan, text or tokenizer, naming what differs."""
    differing = [name for name in given if kept.get(name) != given[name]]
    if differing:
        listed = "; ".join(f"{n}: {kept.get(n)!r:.300}, now {given[n]!r:.300}" for n in differing)
        raise ModelError(
            f"{where}: belongs to another run, which differs in {', '.join(differing)} ({listed}). "
            f"Use another folder, or remove this one."
        )
