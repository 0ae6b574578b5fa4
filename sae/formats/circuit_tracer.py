"""circuit-tracer's sets of transcoders: ``config.yaml`` and one ``layer_<i>.safetensors`` a layer.

Its top-k keeps negative values, so a transcoder that cuts them is refused here; one with thresholds
computes the same there. The files have no place for statistics.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuits.errors import DictionaryError, first_line
from circuits.model.formats.weights import read_tensors
from circuits.storage.files import written_whole
from circuits.storage.limits import check_readable
from sae.formats.checks import Names, checked_count, refuse_layout, site_of
from sae.formats.record import Stored

CONFIG, LAYERS = "config.yaml", "layer_*.safetensors"

_NAMES = {"encoder": "W_enc", "decoder": "W_dec", "bias": "b_enc", "offset": "b_dec"}
_THRESHOLD, _SKIP = "activation_function.threshold", "W_skip"
_SHAPING = {"feature_input_hook", "feature_output_hook", "activation", "k", "model_kind"}


def layers(folder: Path) -> list[Path]:
    """The files of a set, by layer; none where the folder is no set."""
    if not (folder / CONFIG).is_file():
        return []
    return sorted(folder.glob(LAYERS), key=lambda file: _layer(file) or 0)


def read(place: Path) -> Stored:
    """A layer of a set: its file, or the set's folder where there is one layer."""
    file = place
    if place.is_dir():
        found = layers(place)
        if len(found) != 1:
            raise DictionaryError(
                f"{place}: a set of {len(found)} transcoders. Pass the file of one, such as "
                f"{found[0]}, or the folder to load_dictionaries."
            )
        (file,) = found
    config, layer = _config(file.with_name(CONFIG)), _layer(file)
    if layer is None:
        raise DictionaryError(
            f"{file}: its name has no layer. Rename it, as in layer_0.safetensors."
        )
    hooks = {name: str(config.get(f"feature_{name}_hook")) for name in ("input", "output")}
    site, target = (site_of(f"blocks.{layer}.{hook}") for hook in hooks.values())
    faults = [] if target else [f"feature_output_hook {hooks['output']} is not one of our sites"]
    if (kind := config.get("model_kind")) != "transcoder_set":
        faults.append(f"model_kind is {kind!r}, not 'transcoder_set': it writes to several layers")
    state = read_tensors(file)
    activation = config.get("activation", "jumprelu" if _THRESHOLD in state else "relu")
    if activation not in ("relu", "jumprelu", "topk"):
        faults.append(f"activation is {activation!r}, not relu, jumprelu or topk")
    if faults:
        raise DictionaryError(f"{file}: {'; '.join(faults)}. It cannot be read as a transcoder.")
    sizes = _sizes(file, state)
    names = Names(_NAMES | ({"skip": _SKIP} if _SKIP in state else {}))
    extra = {_THRESHOLD: (sizes[0],)} if activation == "jumprelu" else {}
    weights = names.read(file, state, CONFIG, sizes, **extra)
    threshold = None if activation == "topk" else state.get(_THRESHOLD, torch.zeros(sizes[0]))
    notes = {name: value for name, value in config.items() if name not in _SHAPING}
    return Stored(
        **weights,
        k=checked_count(file.with_name(CONFIG), config, "k", sizes[0])
        if activation == "topk"
        else None,
        threshold=threshold,
        relu=activation != "topk",
        site=site,
        target=target,
        notes=notes if site else {**notes, "hook_name": f"blocks.{layer}.{hooks['input']}"},
    )


def add(stored: Stored, folder: Path) -> None:
    """Write a transcoder as a layer of a set, which is made if it is not there."""
    site, target = stored.read_site("Dictionary.save"), stored.target
    faults = ["it is an autoencoder, and this layout holds transcoders"] if target is None else []
    if stored.k is not None and stored.relu:
        faults.append(
            "its negative values are cut at zero, and this layout's top-k keeps them (trained "
            "with activation='batchtopk' it would have thresholds, which the layout holds)"
        )
    if not stored.cuts_at_zero and stored.k is None:
        faults.append("it keeps negative values above its thresholds, which are not all positive")
    if stored.d_model != stored.d_target:
        faults.append(f"it reads {stored.d_model} dimensions and writes {stored.d_target}")
    refuse_layout(stored, "circuit_tracer", faults, any_rule=True, transcoders=True)
    assert target is not None  # or it was refused
    rule = {"activation": "jumprelu"} if stored.k is None else {"activation": "topk", "k": stored.k}
    config = {
        **{name: value for name, value in stored.notes.items() if name in ("model_name", "scan")},
        "model_kind": "transcoder_set",
        "feature_input_hook": site.hook_name.split(".", 2)[2],
        "feature_output_hook": target.hook_name.split(".", 2)[2],
        **rule,
    }
    file = folder / f"layer_{site.layer}.safetensors"
    _claim(folder, config, file)
    names = Names(_NAMES | ({} if stored.skip is None else {"skip": _SKIP}))
    limits = {} if stored.threshold is None else {_THRESHOLD: stored.threshold}
    with written_whole(file) as new:
        save_file({name: w.cpu() for name, w in (names.written(stored) | limits).items()}, new)


def _claim(folder: Path, config: dict[str, Any], file: Path) -> None:
    """The set's configuration, written if it is new; refused where another set, or this layer, is
    there already."""
    import yaml

    where = folder / CONFIG
    if file.exists():
        raise DictionaryError(f"{file}: already exists. Name a new folder, or remove this file.")
    if not where.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DictionaryError(
                f"{folder}: already exists and is no set of transcoders. Name a new folder, or "
                f"remove this one."
            )
        with written_whole(where) as new:
            new.write_text(yaml.safe_dump(config), encoding="utf-8")
        return
    there = _config(where)
    differing = [name for name in {**there, **config} if there.get(name) != config.get(name)]
    if differing:
        raise DictionaryError(
            f"{where}: the layers there have another {', '.join(sorted(differing))}, and a set has "
            f"one for all. Name a new folder."
        )


def _config(where: Path) -> dict[str, Any]:
    import yaml

    check_readable(where, DictionaryError)
    try:
        config = yaml.safe_load(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DictionaryError(
            f"{where}: cannot be read ({first_line(error)}). Copy the whole folder."
        ) from error
    if not isinstance(config, dict):
        raise DictionaryError(f"{where}: holds no fields. Copy the whole folder.")
    return {str(name): value for name, value in config.items()}


def _layer(file: Path) -> int | None:
    number = file.stem.removeprefix("layer_")
    return int(number) if number.isdecimal() else None


def _sizes(file: Path, state: dict[str, Any]) -> tuple[int, int, int]:
    """Features, and the widths read and written: the file itself is the only place to say so."""
    try:
        (n_feature, d_model), (_, d_target) = state["W_enc"].shape, state["W_dec"].shape
    except (KeyError, ValueError) as error:
        raise DictionaryError(
            f"{file}: has no matrices W_enc and W_dec. It is not a layer of circuit-tracer's."
        ) from error
    return n_feature, d_model, d_target
