"""dictionary_learning's folders: ``config.json``, ``ae.safetensors`` and that project's ``ae.pt``.

``ae.pt`` is a pickle: written for that project's tools, never opened.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuits.errors import DictionaryError
from circuits.model.formats.weights import read_tensors
from circuits.model.site import POINTS, Site
from circuits.storage.files import read_json
from sae.formats.checks import Names, checked_count, refuse_layout, write_config
from sae.formats.record import Stored

_WEIGHTS = Names(
    {
        "encoder": "encoder.weight",
        "bias": "encoder.bias",
        "decoder": "decoder.weight",
        "offset": "b_dec",
    },
    transposed="decoder",
)
_BY_THRESHOLD = {"AutoEncoderTopK": False, "BatchTopKSAE": True}


def read(folder: Path) -> Stored:
    """A top-k of each token, or a batch top-k with its final threshold."""
    where, file = folder / "config.json", folder / "ae.safetensors"
    trainer = _trainer(folder)
    d_model = checked_count(where, trainer, "activation_dim")
    n_feature = checked_count(where, trainer, "dict_size")
    k = checked_count(where, trainer, "k", n_feature)
    state = read_tensors(file)
    by_threshold = _BY_THRESHOLD[trainer["dict_class"]]
    scalars: dict[str, tuple[int, ...]] = {"k": ()}
    if by_threshold or "threshold" in state:
        scalars["threshold"] = ()
    weights = _WEIGHTS.read(file, state, where.name, (n_feature, d_model), **scalars)
    if int(state["k"]) != k:
        raise DictionaryError(f"{file}: k is {int(state['k'])}, but config.json says {k}.")
    threshold = torch.ones(n_feature) * state["threshold"] if by_threshold else None
    shaping = {"activation_dim", "dict_size"} | (set() if by_threshold else {"k"})
    return Stored(
        **weights,
        k=None if by_threshold else k,
        threshold=threshold,
        site=_site(trainer.get("submodule_name"), trainer.get("layer")),
        notes={name: value for name, value in trainer.items() if name not in shaping},
    )


def _trainer(folder: Path) -> dict[str, Any]:
    where = folder / "config.json"
    if not (folder / "ae.safetensors").exists():
        raise DictionaryError(
            f"{folder}: has ae.pt but no ae.safetensors. ae.pt is a pickle, and opening one can "
            f"run any code, so it is not opened. If you trust it, write the other file beside it: "
            f"state = torch.load('ae.pt', weights_only=True, map_location='cpu'); "
            f"safetensors.torch.save_file({{n: t.contiguous() for n, t in state.items()}}, "
            f"'ae.safetensors')"
        )
    config = read_json(where, DictionaryError)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise DictionaryError(f"{where}: field 'trainer' is {trainer!r:.40}, not an object.")
    kind = trainer.get("dict_class")
    if not isinstance(kind, str) or kind not in _BY_THRESHOLD:
        raise DictionaryError(
            f"{where}: dict_class is {kind!r:.80}, not one of {', '.join(_BY_THRESHOLD)}. Load it "
            f"with dictionary_learning and save it as one of these."
        )
    return trainer


def write(stored: Stored, folder: Path) -> None:
    """For our reader and, as a pickle, for that project's tools."""
    faults = [] if stored.relu else ["it keeps negative values, and this layout cuts them"]
    k, threshold = stored.k, stored.threshold
    if threshold is not None:
        k = stored.notes.get("k")
        if not bool((threshold == threshold[0]).all()):
            faults.append("its features have different thresholds, and this layout has only one")
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            faults.append("notes['k'] is missing: how many features are active on average")
    refuse_layout(stored, "dictionary_learning", faults, any_rule=True)
    least = torch.tensor(-1.0) if threshold is None else threshold[0].clone()
    state = {
        **_WEIGHTS.written(stored),
        "k": torch.tensor(k, dtype=torch.int32),
        "threshold": least.to(torch.float32),
    }
    state = {name: tensor.cpu() for name, tensor in state.items()}
    save_file(state, folder / "ae.safetensors")
    torch.save(state, folder / "ae.pt")
    made = {
        "dict_class": "AutoEncoderTopK" if threshold is None else "BatchTopKSAE",
        "activation_dim": stored.d_model,
        "dict_size": stored.n_feature,
        "k": k,
    }
    if (site := stored.site) is not None:
        made |= {"layer": site.layer, "submodule_name": f"{site.point}_layer_{site.layer}"}
    write_config(folder / "config.json", {"trainer": {**stored.notes, **made}})


def _site(name: Any, layer: Any) -> Site | None:
    """The site of a name like ``resid_post_layer_3``, as dictionary_learning's scripts write."""
    written = re.fullmatch(rf"({'|'.join(POINTS)})(_layer_(\d+))?", str(name))
    if written is None or isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None
    return Site(written[1], layer) if written[3] in (None, str(layer)) else None
