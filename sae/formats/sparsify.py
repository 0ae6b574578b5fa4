"""sparsify's folders: ``cfg.json`` and ``sae.safetensors``, the folder named after the module."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from circuits.errors import DictionaryError
from circuits.model.weights import read_tensors
from circuits.storage.files import read_json
from sae.formats.checks import (
    check_shapes,
    checked_count,
    refuse,
    refuse_layout,
    site_of,
    write_config,
)
from sae.formats.record import Stored

_SPARSIFY_FIELDS = {
    *("activation", "d_in", "expansion_factor", "normalize_decoder", "num_latents", "k"),
    *("multi_topk", "skip_connection", "transcode", "signed", "embed_skip", "gram_lookup"),
    *("lookup_max_order", "gram_table_hash"),
}


def read(folder: Path) -> Stored:
    """A plain top-k; one with connections past the features is refused."""
    where, weights = folder / "cfg.json", folder / "sae.safetensors"
    config = read_json(where, DictionaryError)
    faults = [f"unknown field '{name}'" for name in config if name not in _SPARSIFY_FIELDS]
    if config.get("activation", "topk") != "topk":
        faults.append(f"activation is {config['activation']!r}, not 'topk'")
    if config.get("signed"):
        faults.append("signed is true: it selects by absolute value, a Dictionary by value")
    for name in ("transcode", "skip_connection", "embed_skip", "gram_lookup"):
        if config.get(name):
            faults.append(f"{name} is {config[name]!r}: its output is not decoded from features")
    refuse(where, faults)
    d_model = checked_count(where, config, "d_in")
    if config.get("num_latents"):
        n_feature = checked_count(where, config, "num_latents")
    else:
        n_feature = d_model * checked_count(where, config, "expansion_factor")
    state = read_tensors(weights)
    check_shapes(
        weights,
        state,
        "cfg.json",
        **{"encoder.weight": (n_feature, d_model), "encoder.bias": (n_feature,)},
        W_dec=(n_feature, d_model),
        b_dec=(d_model,),
    )
    shaping = {"k", "d_in", "num_latents", "expansion_factor"}
    return Stored(
        encoder=state["encoder.weight"],
        decoder=state["W_dec"],
        bias=state["encoder.bias"],
        offset=state["b_dec"],
        k=checked_count(where, config, "k", n_feature),
        site=site_of(folder.name),
        notes={name: value for name, value in config.items() if name not in shaping},
    )


def write(stored: Stored, folder: Path) -> None:
    """Write a top-k dictionary without negative values."""
    faults = [] if stored.relu else ["it keeps negative values, and this layout cuts them"]
    refuse_layout(stored, "sparsify", faults)
    state = {
        "encoder.weight": stored.encoder,
        "encoder.bias": stored.bias,
        "W_dec": stored.decoder,
        "b_dec": stored.offset,
    }
    save_file(state, folder / "sae.safetensors")
    kept = {k: v for k, v in stored.notes.items() if k in _SPARSIFY_FIELDS}
    made = {
        "activation": "topk",
        "num_latents": stored.n_feature,
        "k": stored.k,
        "d_in": stored.d_model,
    }
    plain = {"normalize_decoder": True, "skip_connection": False, "transcode": False}
    write_config(folder / "cfg.json", {**plain, **kept, **made})
