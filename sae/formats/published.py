"""The paper's folders: ``config.json`` and ``model.safetensors``; top-k keeps negative values."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuits.errors import DictionaryError
from circuits.model.formats.weights import read_tensors
from circuits.model.site import Site
from circuits.storage.files import read_json
from sae.formats.checks import Names, checked_count, refuse, refuse_layout, site_of, write_config
from sae.formats.record import Stored

_FIELDS = {
    *("point", "target", "lr", "in_batch", "out_batch", "n_buffers", "n_batches", "d_model"),
    *("n_ctx", "k", "expansion", "val_steps", "dead_thresh", "normalize", "init_scale", "tag"),
    *("bilinear_encoder", "encoder_bias", "token_lookup", "decoder_decay", "normalize_decoder"),
    *("passthrough", "kwargs"),
}
_SHAPING = {"k", "d_model", "expansion", "encoder_bias", "bilinear_encoder", "token_lookup"}
_NAMES = {"encoder": "w_enc.weight", "decoder": "w_dec.weight", "offset": "b_dec"}
_UNBIASED = Names(_NAMES, transposed="decoder")
_BIASED = Names({**_NAMES, "bias": "w_enc.bias"}, transposed="decoder")


def read(folder: Path) -> Stored:
    """Read one, unless its features are not linear in the site."""
    where, file = folder / "config.json", folder / "model.safetensors"
    config = read_json(where, DictionaryError)
    faults = [
        f"{name} is {config[name]!r}: features are then not linear in the site"
        for name in ("bilinear_encoder", "token_lookup", "passthrough")
        if config.get(name)
    ]
    point, target = config.get("point"), config.get("target")
    if target is not None and target != point:
        faults.append(f"target {target} is not point {point}: it transcodes between two sites")
    refuse(where, config, _FIELDS, *faults)
    d_model = checked_count(where, config, "d_model")
    n_feature = d_model * checked_count(where, config, "expansion")
    k = checked_count(where, config, "k", n_feature)
    names = _BIASED if config.get("encoder_bias") else _UNBIASED
    weights = names.read(file, read_tensors(file), where.name, (n_feature, d_model))
    site = _site(point)
    shaping = _SHAPING if site is None else _SHAPING | {"point", "target"}
    return Stored(
        **{"bias": torch.zeros(n_feature), **weights},
        k=k,
        relu=False,
        site=site,
        notes={name: value for name, value in config.items() if name not in shaping},
    )


def write(stored: Stored, folder: Path) -> None:
    """Write a dictionary that keeps negative values."""
    site, expansion = stored.read_site("Dictionary.save"), stored.n_feature / stored.d_model
    cut = "its negative values are cut at zero, and this layout keeps them"
    faults = [cut] if stored.relu else []
    if expansion % 1:
        faults.append(f"its {stored.n_feature} features are not a multiple of its width")
    refuse_layout(stored, "published", faults)
    biased = bool(stored.bias.any())
    names = _BIASED if biased else _UNBIASED
    save_file(names.written(stored), folder / "model.safetensors")
    kept = {name: value for name, value in stored.notes.items() if name in _FIELDS}
    made = {
        "point": [site.point.replace("_", "-"), site.layer],
        "expansion": int(expansion),
        "k": stored.k,
        "d_model": stored.d_model,
        "bilinear_encoder": False,
        "encoder_bias": biased,
    }
    write_config(folder / "config.json", {"normalize": None, **kept, **made})


def _site(point: Any) -> Site | None:
    """The site of the paper's ``[name, layer]``."""
    match point:
        case [str(name), int(layer)] if not isinstance(layer, bool):
            return site_of(f"{name.replace('-', '_')}@{layer}")
    return None
