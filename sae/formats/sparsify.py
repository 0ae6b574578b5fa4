"""sparsify's folders: ``cfg.json`` and ``sae.safetensors``, the folder named after the module."""

from pathlib import Path

from safetensors.torch import save_file

from circuits.errors import DictionaryError
from circuits.model.formats.weights import read_tensors
from circuits.storage.files import read_json
from sae.formats.checks import Names, checked_count, refuse, refuse_layout, site_of, write_config
from sae.formats.record import Stored

_FIELDS = {
    *("activation", "d_in", "expansion_factor", "normalize_decoder", "num_latents", "k"),
    *("multi_topk", "skip_connection", "transcode", "signed", "embed_skip", "gram_lookup"),
    *("lookup_max_order", "gram_table_hash"),
}
_SHAPING = {"k", "d_in", "num_latents", "expansion_factor"}
_WEIGHTS = Names(
    {"encoder": "encoder.weight", "bias": "encoder.bias", "decoder": "W_dec", "offset": "b_dec"}
)


def read(folder: Path) -> Stored:
    """A plain top-k; one with connections past the features is refused."""
    where, file = folder / "cfg.json", folder / "sae.safetensors"
    config = read_json(where, DictionaryError)
    faults = [
        f"{name} is {config[name]!r}: its output is not decoded from features"
        for name in ("transcode", "skip_connection", "embed_skip", "gram_lookup")
        if config.get(name)
    ]
    if config.get("activation", "topk") != "topk":
        faults.append(f"activation is {config['activation']!r}, not 'topk'")
    if config.get("signed"):
        faults.append("signed is true: it selects by absolute value, a Dictionary by value")
    refuse(where, config, _FIELDS, *faults)
    d_model = checked_count(where, config, "d_in")
    if config.get("num_latents"):
        n_feature = checked_count(where, config, "num_latents")
    else:
        n_feature = d_model * checked_count(where, config, "expansion_factor")
    return Stored(
        **_WEIGHTS.read(file, read_tensors(file), where.name, (n_feature, d_model)),
        k=checked_count(where, config, "k", n_feature),
        site=site_of(folder.name),
        notes={name: value for name, value in config.items() if name not in _SHAPING},
    )


def write(stored: Stored, folder: Path) -> None:
    """Write a top-k dictionary without negative values."""
    faults = [] if stored.relu else ["it keeps negative values, and this layout cuts them"]
    refuse_layout(stored, "sparsify", faults)
    save_file(_WEIGHTS.written(stored), folder / "sae.safetensors")
    config = {"normalize_decoder": True, "skip_connection": False, "transcode": False}
    config |= {name: value for name, value in stored.notes.items() if name in _FIELDS}
    sizes = {"num_latents": stored.n_feature, "d_in": stored.d_model, "k": stored.k}
    write_config(folder / "cfg.json", {**config, **sizes, "activation": "topk"})
