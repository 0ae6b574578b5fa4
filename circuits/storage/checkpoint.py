"""A checkpoint: one file of tensors and plain values, which knows the hash of all that it holds.

A flipped bit in a weight would train on without a word, so a file whose hash differs is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import RunError, first_line
from circuits.storage.files import written_whole

UNREADABLE = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError, ArithmeticError,
)  # fmt: skip
"""What a file of junk, or of another version, raises when it is read as a checkpoint."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors, and plain values as JSON in the file's header; whole or not at all."""
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in values.items()}
    header["sha256"] = _hash(here, header)
    try:
        with written_whole(path) as file:
            save_file(here, file, metadata=header)
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    except OSError as error:
        reason = error.__cause__ or error  # safetensors' own words, by way of `written_whole`
        raise RunError(
            f"{path}: cannot be written ({reason}). Free some space: the previous checkpoint "
            f"is intact, and the same call resumes from it."
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What was saved; a file that is damaged or no checkpoint is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = header.pop("sha256")
        if known != _hash(tensors, header):
            raise ValueError("its content differs from its checksum")
        return tensors, {name: json.loads(value) for name, value in header.items()}
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> RunError:
    """The error for a file that is no checkpoint of the run that reads it."""
    return RunError(
        f"{path}: not a readable checkpoint of this run ({first_line(error)}). Remove it to start "
        f"over."
    )


def _hash(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_state(
    weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Weights by name, and the optimizer's moments of each."""
    tensors = {}
    for name, weight in weights.items():
        tensors[f"weight/{name}"] = weight.detach()
        for moment, value in optimizer.state.get(weight, {}).items():
            tensors[f"{moment}/{name}"] = value
    return tensors


@torch.no_grad()
def restore_optimizer(
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> None:
    """The way back from `optimizer_state`, in place."""
    for name, weight in weights.items():
        weight.copy_(tensors[f"weight/{name}"])
        if f"step/{name}" in tensors:  # a weight that is not trained has no moments
            optimizer.state[weight] = {
                # a copy lies aligned in memory, as the optimizer's own would
                moment: tensors[f"{moment}/{name}"].to(weight.device, copy=True)
                for moment in _MOMENTS
            }
