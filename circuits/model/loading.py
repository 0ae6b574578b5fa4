"""Models from a folder, from the hub, or freshly initialised with the same shape."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from circuits.arguments import checked
from circuits.errors import ModelError, check_device
from circuits.model.formats.llama import build, check_activation, check_bilinear
from circuits.model.formats.polynomial import is_polynomial
from circuits.model.formats.published import check_published, convert, is_published
from circuits.model.formats.tokenizer import read_tokenizer
from circuits.model.formats.weights import read_config, read_weights
from circuits.model.identity import TwinLabel
from circuits.model.model import Model
from circuits.storage.hub import how_to_ask, hub_place, model_folder
from circuits.storage.limits import is_there
from circuits.storage.manifest import check_made

READY = Path(__file__).with_name("ready")
"""Where the models are that come with this package."""


@checked
def load_model(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Model:
    """The model in a folder or on the hub (``hub:owner/name``), in the Hugging Face Llama format,
    the layout of the paper's checkpoints or that of transformers that are polynomials; refused if
    it is not bilinear or needs code of its own.
    A name of `ready_models` is the one that comes with this package.

    ``tokenizer`` is a folder or ``hub:owner/name`` to use instead of the model's own. Without
    ``device`` the model goes to the GPU where there is one.
    """
    if not dtype.is_floating_point:
        raise ModelError(f"load_model: a model of {dtype} computes nothing. Pass torch.float32.")
    folder = local_folder(path)
    check_made(folder)
    return model_in(folder, tokenizer, dtype, device)


def model_in(
    folder: Path,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Model:
    """The model in a folder, whatever a run knows of its files."""
    config, short_name = read_config(folder), None
    if is_polynomial(config):
        from circuits.model.formats.polynomial_network import load

        network = load(folder, config, read_weights(folder))
    elif is_published(config):
        check_published(folder / "config.json", config)
        short_name = config.get("tokenizer")
        network = build(folder, *convert(folder, config, read_weights(folder)))
    else:
        check_activation(folder / "config.json", config)
        network = build(folder, config, read_weights(folder))
    words_at = folder if tokenizer is None else local_folder(tokenizer)
    words = read_tokenizer(words_at, network.config.vocab_size, required=tokenizer is not None)
    label = TwinLabel.read(folder, network, words, own=tokenizer is None)
    network = network.to(chosen_device(device))
    for weight in network.parameters():  # weights alone: rotary angles stay in float32
        weight.data = weight.data.to(dtype)
        if not bool(weight.isfinite().all()):
            raise ModelError(
                f"{folder}: its weights go beyond what {dtype} can hold. Load it in float32 or "
                f"bfloat16."
            )
    check_bilinear(folder, network)
    return Model(network, words, folder, short_name, label)


def is_bilinear(path: str | Path) -> bool:
    """Whether the configuration of a model, in a folder or on the hub, is of one without gates."""
    return without_gates(read_config(local_folder(path)))


def without_gates(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a bilinear model."""
    return config.get("hidden_act") == "linear" or is_published(config) or is_polynomial(config)


def untrained(model: Model, seed: int = 0) -> Model:
    """A freshly initialised model of the same shape, tokenizer, dtype and device: the control for
    claims about weights. Norms and biases are initial values too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(model.network)(model.network.config)
    network = network.to(model.device).eval().requires_grad_(False)
    for weight in network.parameters():  # weights alone: rotary angles stay in float32
        weight.data = weight.data.to(model.dtype)
    return Model(network, model.tokenizer, model.path)


def shuffled_weights(model: Model, seed: int = 0) -> Model:
    """The model with the numbers of each weight in another order: every size is as it was trained,
    and nothing of what it learned is left."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(model.network)
    for weight in network.parameters():
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.data = weight.data.flatten()[order].view_as(weight)
    return Model(network, model.tokenizer, model.path)


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The device named, or else the GPU where there is one; refused if it cannot be used here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return check_device(device)


def local_folder(path: str | Path) -> Path:
    """The folder of a path, or of a name on the hub once it is fetched."""
    if (place := hub_place(path)) is not None:
        return model_folder(*place)
    folder = Path(path).expanduser()
    if is_there(folder, ModelError):
        return folder
    if (ready := ready_folder(path)) is not None:
        return ready / "model"
    raise ModelError(
        f"{folder}: no such folder. {how_to_ask(path)} What comes with this package: "
        f"{', '.join(ready_models())}."
    )


def ready_models() -> list[str]:
    """Names of the models that come with this package, for `load_model` and `load_dictionaries`."""
    return sorted(folder.name for folder in READY.iterdir() if folder.is_dir())


def ready_folder(name: str | Path) -> Path | None:
    """The run folder of a model that comes with this package; None if there is none of the name."""
    return READY / str(name) if str(name) in ready_models() else None
