"""Metrics for those who watch them elsewhere; ``metrics.jsonl`` is written whether or not."""

from __future__ import annotations

import atexit
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from circuits.errors import PlanError, first_line
from sae.training.run import Log

Watcher = Literal["tensorboard", "wandb"]


def watched_by(watcher: Watcher, folder: str | Path) -> Log:
    """A ``log`` for `train_saes` that tells TensorBoard or Weights & Biases of every step.

    ``folder`` is where they keep their files: a run's, not its ``saes``, which hold dictionaries.
    """
    if watcher == "wandb":
        wandb = _library("wandb")
        try:
            run = wandb.init(project="bilinear-circuits", dir=str(folder))
        except Exception as error:  # no account, no network: it has many words for it
            raise PlanError(
                f"wandb does not begin ({first_line(error)}). Set WANDB_MODE=offline, or leave the "
                f"option away: metrics.jsonl has every number."
            ) from error
        return lambda site, row: run.log(
            {f"{site}/{n}": v for n, v in row.items() if n != "step"}, step=int(row["step"])
        )
    if watcher == "tensorboard":
        writer = _library("torch.utils.tensorboard").SummaryWriter(str(Path(folder) / "events"))
        atexit.register(writer.close)  # what is told in the last minutes is not on disk before

        def told(site: str, row: dict[str, float | int]) -> None:
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"{site}/{name}", value, int(row["step"]))

        return told
    raise PlanError(f"no watcher '{watcher}': choose tensorboard or wandb.")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise PlanError(
            f"{name.split('.')[-1]} is not installed ({error}). Install it, or leave the option "
            f"away: metrics.jsonl has every number."
        ) from error
