"""Where a model runs: the GPU where there is one, unless a device is named."""

from __future__ import annotations

import torch

from circuits.errors import DeviceError, first_line


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The device that is named, or the best one here; refused if this machine has no such one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()  # a device that only knows shapes computes nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        raise DeviceError(
            f"device '{device}' cannot be used here ({first_line(error)}). Name cpu, or a GPU that "
            f"torch.cuda.is_available() knows."
        ) from error
    return chosen
