"""Metrics to TensorBoard or Weights & Biases; ``metrics.jsonl`` is written in any case."""

import atexit
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from circuits.errors import PlanError, first_line
from sae.training.run import Log


def log_to(service: Literal["tensorboard", "wandb"], folder: str | Path) -> Log:
    """A ``log`` for `train_saes` that sends every step to TensorBoard or Weights & Biases, with
    their files in ``folder``: the run's, not its ``saes``, which hold dictionaries."""
    if service == "wandb":
        wandb = _library("wandb")
        try:
            run = wandb.init(project="bilinear-circuits", dir=str(folder))
        except Exception as error:  # no account, no network: many classes
            raise PlanError(
                f"wandb does not start ({first_line(error)}). Set WANDB_MODE=offline, or omit the "
                f"option: metrics.jsonl has every number."
            ) from error
        return lambda site, row: run.log(
            {f"{site}/{n}": v for n, v in row.items() if n != "step"}, step=int(row["step"])
        )
    if service == "tensorboard":
        writer = _library("torch.utils.tensorboard").SummaryWriter(str(Path(folder) / "events"))
        atexit.register(writer.close)  # otherwise the last minutes are lost

        def write(site: str, row: dict[str, float | int]) -> None:
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"{site}/{name}", value, int(row["step"]))

        return write
    raise PlanError(f"no logger '{service}': choose tensorboard or wandb.")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise PlanError(
            f"{name.split('.')[-1]} is not installed ({error}). Install it, or omit the "
            f"option: metrics.jsonl has every number."
        ) from error
