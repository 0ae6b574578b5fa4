"""A folder of weights and configuration: safetensors and JSON, and never a pickle (``.bin``,
``.pt``) or Python of its own, because either would run whatever code its author put there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.errors import ModelError, shorten
from circuits.storage.files import read_json
from circuits.storage.limits import check_readable

_CODE = ("auto_map", "custom_pipelines")  # fields that name Python files to import
_MOST = 2**16  # layers, heads, experts, labels
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model's folder."""
    if folder.is_file():
        _refuse_pickle(folder)
        raise ModelError(f"{folder}: a file. Pass the folder with its config.json and weights.")
    if not (folder / "config.json").exists():
        unfinished = all((folder / name).exists() for name in ("plan.json", "metrics.jsonl"))
        reason = (
            "training has not finished there. Run train_model with the same plan, corpus and "
            "folder again: it resumes."
            if unfinished
            else "a folder without config.json is not a model. Pass the folder that "
            "save_pretrained, train_model or a download wrote."
        )
        raise ModelError(f"{folder}: {reason}")
    refuse_code(folder)
    return read_json(folder / "config.json", ModelError)


def refuse_code(folder: Path) -> None:
    """Refuse a folder whose configurations name code of its own, before a library reads them: it
    would run that code, or ask whether it may. So are files that it might read without end."""
    for path in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if not path.is_dir():
            check_readable(path, ModelError)
    for path in sorted(folder.glob("*config*.json")):
        parts: list[Any] = [read_json(path, ModelError)]
        while parts:
            part = parts.pop()
            if isinstance(part, dict) and (named := [name for name in _CODE if part.get(name)]):
                raise ModelError(
                    f"{path}: field '{named[0]}' names code in this folder, which is never run, so "
                    f"what it would compute is unknown. Save the model without it, in the Hugging "
                    f"Face Llama format."
                )
            _check_counts(path, part)
            parts += _inside(part)


def _inside(part: object) -> list[Any]:
    """The values of a JSON object or list."""
    return list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []


def _check_counts(where: Path, part: object) -> None:
    """Refuse counts for which a library would make a list, or layers, until the memory is full."""
    for name, value in part.items() if isinstance(part, dict) else ():
        counts = name.startswith(("num_", "n_layer")) or name.endswith("_layers")
        if counts and isinstance(value, int | float) and value > _MOST:
            raise ModelError(
                f"{where}: {name} is {value:.3g}, and no model has more than {_MOST:,}. The file "
                f"is damaged or of something else: copy it again."
            )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files, copied into memory."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index, ModelError).get("weight_map")
        files_named = isinstance(shards, dict) and all(isinstance(s, str) for s in shards.values())
        if not shards or not files_named:
            raise ModelError(
                f"{index}: field 'weight_map' does not say which file holds which weights."
            )
        names = sorted(set(shards.values()))
        if beyond := [n for n in names if not n or not n.isprintable() or {*n} & {*"/\\:"}]:
            raise ModelError(
                f"{index}: field 'weight_map' names {beyond[0][:80]!r}, a file outside of this "
                f"folder. Copy all shards into the folder, under plain names."
            )
        files = [folder / name for name in names]
    else:
        files = [path] if (path := folder / "model.safetensors").exists() else []
    if not files:
        for path in sorted(folder.iterdir()):
            _refuse_pickle(path)
        raise ModelError(
            f"{folder}: holds no model.safetensors (nor an index of its parts), so there are no "
            f"weights to read. Copy the whole folder."
        )
    state: dict[str, Tensor] = {}
    for path in files:
        part = read_tensors(path)
        if twice := sorted(state.keys() & part.keys()):
            raise ModelError(
                f"{path}: holds {shorten(twice, 3)}, which an earlier shard holds too, so it is "
                f"unknown which are the model's. Copy the whole folder again."
            )
        state |= part
    return state


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file."""
    check_readable(path, ModelError)
    try:
        with safe_open(path, framework="pt") as file:
            # a copy: a tensor on a mapped file is not aligned, and changes with the file
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file. Copy the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a readable safetensors file ({error}). It may be cut short: copy or "
            f"write it again."
        ) from error


def check_state(
    where: Path,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    config: str = "config.json",
) -> None:
    """Refuse weights that are missing, unknown or of another shape, naming every one."""
    faults = []
    for word, names in (
        ("lacks", [name for name in wanted if name not in state]),
        ("holds the unknown", [name for name in state if name not in wanted]),
    ):
        if names:
            faults.append(f"{word} {shorten(names, 3)}")
    for name, shape in wanted.items():
        if name in state and state[name].shape != shape:
            got = tuple(state[name].shape)
            faults.append(f"{name} has shape {got}, where {config} asks for {tuple(shape)}")
        elif name in state and state[name].is_complex():
            faults.append(f"{name} holds complex numbers")
        elif name in state and not bool(torch.isfinite(state[name].float()).all()):
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        raise ModelError(f"{where}: " + "; ".join(faults) + f". They do not fit its {config}.")


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            f"{path}: a pickle, and opening one can run any code, so it is refused. Convert it to "
            f"safetensors where you trust it: torch.load(path, weights_only=True), then "
            f"safetensors.torch.save_file(state, 'model.safetensors')."
        )
