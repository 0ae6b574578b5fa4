"""A training run in a folder: it belongs to one plan, stops cleanly, and goes on after any kill.

A run has four files: ``plan.json`` says what it is made of and comes first, so that a folder never
holds two runs; ``metrics.jsonl`` grows line by line; a checkpoint holds the whole state, and is
there whole or not at all; ``training.json`` says how it ended. What a reader would get wrong: a
checkpoint is no model. It is removed when the finished files are in place, and as long as it is
there the run is not over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import RunError
from circuits.storage.files import folder_written_whole, held, read_json, write_json, written_whole

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

PLAN, RESULT, METRICS = "plan.json", "training.json", "metrics.jsonl"


def is_run(out: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether the folder is this run's already; refused if it is something else's."""
    if (out / PLAN).exists():
        check_made_of(out / PLAN, read_json(out / PLAN, RunError), made_of)
        return True
    if out.exists() and (not out.is_dir() or any(not _is_part(path) for path in out.iterdir())):
        raise RunError(
            f"{out}: is there already, and is no training run (it has no {PLAN}). Name a new or "
            f"empty folder."
        )
    return False


def check_made_of(where: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was made of something else, naming what differs."""
    differing = [name for name in given if kept.get(name) != given[name]]
    if differing:
        listed = "; ".join(_difference(n, kept.get(n), given[n]) for n in differing)
        raise RunError(
            f"{where}: belongs to another run, which differs in {', '.join(differing)} ({listed}). "
            f"Use another folder, or remove this one."
        )


def _difference(name: str, kept: Any, given: Any) -> str:
    """Of two records, only the fields that differ."""
    if isinstance(kept, dict) and isinstance(given, dict):
        fields = [field for field in given if kept.get(field) != given[field]]
        kept, given = ({f: record.get(f) for f in fields} for record in (kept, given))
    return f"{name}: {kept!r:.300}, now {given!r:.300}"


@contextmanager
def claimed(folders: list[Path], made_of: Mapping[str, Any]) -> Iterator[None]:
    """The folders are this run's and this process's alone for the length of the block."""
    with ExitStack() as alone:
        for out in folders:
            if not (out / PLAN).exists():
                write_json(out / PLAN, made_of)
            if not alone.enter_context(held(out / PLAN)):
                raise RunError(f"{out}: another process trains there now. Wait for it, or stop it.")
            # another run may have come and gone since the folder was looked at
            check_made_of(out / PLAN, read_json(out / PLAN, RunError), made_of)
            for path in filter(_is_part, out.iterdir()):
                shutil.rmtree(path)
        yield


def _is_part(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".part")


def truncate_metrics(metrics: Path, step: int) -> None:
    """Drop what was noted after the checkpoint, and a line that a kill cut short."""
    kept = []
    if metrics.exists():
        for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
    with written_whole(metrics) as file:
        file.write_text("".join(kept), encoding="utf-8")


@contextmanager
def put_in_place(out: Path) -> Iterator[Path]:
    """A folder to fill; at the end each of its files takes its place in ``out``."""
    finished = out / "finished"
    shutil.rmtree(finished, ignore_errors=True)  # of a run that was killed just here
    with folder_written_whole(finished) as files:
        yield files
        written = sorted(path.name for path in files.iterdir())
    for name in written:
        os.replace(finished / name, out / name)
    finished.rmdir()


def save_state(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a checkpoint: tensors, and what else is to be kept as JSON in their file's header."""
    try:
        with written_whole(path) as file:
            metadata = {name: json.dumps(value) for name, value in header.items()}
            save_file({n: t.contiguous() for n, t in tensors.items()}, file, metadata=metadata)
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    except OSError as error:
        reason = (
            error.__cause__ or error
        )  # safetensors' own words, if `written_whole` has read them
        raise RunError(
            f"{path}: cannot be written ({reason}). Make room; the checkpoint before is whole, and "
            f"the same call goes on from there."
        ) from error


@contextmanager
def saved_state(
    path: Path, made_of: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """A checkpoint's tensors by name, and its header; refused if it was another run's."""
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(value) for name, value in file.metadata().items()}
            check_made_of(path, header["made_of"], made_of)
            yield {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{path}: no readable checkpoint of this run ({error}). Remove it to start afresh."
        ) from error


def optimizer_state(
    weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Weights by name, and what the optimizer remembers of each."""
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


@contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Ctrl-C and SIGTERM wait for the step to end; then they do what they did before."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread is told of signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _frame: asked.append(number)) for n in numbers}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        signal.raise_signal(asked[0])
