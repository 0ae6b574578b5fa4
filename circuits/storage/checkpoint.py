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

from circuits.errors import RunError, first_line, number_faults, shorten
from circuits.storage.files import written_whole
from circuits.storage.limits import check_readable

UNREADABLE = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError,
    RuntimeError, ArithmeticError,
)  # fmt: skip
"""What a file of junk, or of another version, raises when it is read as a checkpoint."""


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
    check_readable(path, RunError)
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = header.pop("sha256")
        if known != _hash(tensors, header):
            raise ValueError("its content differs from its checksum")
        if lost := not_finite(tensors):
            raise ValueError(f"{shorten(lost, 2)} hold NaN or infinity")
        return tensors, {name: json.loads(value) for name, value in header.items()}
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinity."""
    floats = {name: t for name, t in tensors.items() if t.is_floating_point()}
    return [name for name, t in floats.items() if not bool(torch.isfinite(t).all())]


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
        weight.copy_(fitting(tensors, f"weight/{name}", weight))
        if f"step/{name}" in tensors:  # a weight that is not trained has no moments
            like = {"exp_avg": weight, "exp_avg_sq": weight, "step": torch.zeros(())}
            optimizer.state[weight] = {
                # a copy lies aligned in memory, as the optimizer's own would
                moment: fitting(tensors, f"{moment}/{name}", its).to(weight.device, copy=True)
                for moment, its in like.items()
            }


def check_numbers(
    given: Mapping[str, Any], whole: Mapping[str, int] | None = None, **how: Any
) -> None:
    """Refuse plain values of a checkpoint that no training writes, as `number_faults` does."""
    if faults := number_faults(given, whole or {}, **how):
        raise ValueError("; ".join(faults))


def fitting(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of a checkpoint; refused unless it has the shape and dtype of the one that it is
    for, since an optimizer takes its own state on trust."""
    kept = tensors[name]
    if (kept.shape, kept.dtype) != (like.shape, like.dtype):
        raise ValueError(
            f"{name} is {kept.dtype} of shape {tuple(kept.shape)}, not {like.dtype} of "
            f"{tuple(like.shape)}"
        )
    return kept
