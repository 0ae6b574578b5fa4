"""sae-lens' folders: ``cfg.json`` and ``sae_weights.safetensors``, from before version 6 too.

Scales that do not depend on the token are multiplied into the weights; others are refused.
"""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import DictionaryError
from circuits.model.weights import read_tensors
from circuits.storage.files import content_hash, read_json
from circuits.storage.limits import check_readable
from sae.formats.checks import Names, checked_count, refuse, site_of, write_config
from sae.formats.record import Stored


def read(folder: Path) -> Stored:
    """Any of its kinds whose features depend on the weights alone."""
    where = folder / "cfg.json"
    config = _of_version_six(read_json(where, DictionaryError))
    kind, d_model, n_feature = _checked_fields(where, config)
    file = folder / "sae_weights.safetensors"
    check_readable(file, DictionaryError)
    wanted = config.get("weights_sha256")
    # weights of the right shapes can still belong to another dictionary
    if wanted is not None and file.exists() and content_hash(file) != wanted:
        raise DictionaryError(
            f"{file}: not the weights that {where.name} was written with (their SHA-256 "
            f"differs), so they belong to another dictionary or are damaged. Copy both files "
            f"together; if you changed the weights, remove 'weights_sha256' from {where.name}."
        )
    state = read_tensors(file)
    by_kind: dict[str, dict[str, tuple[int, ...]]]
    by_kind = {"jumprelu": {"threshold": (n_feature,)}, "batchtopk": {"topk_threshold": ()}}
    rule = kind.removeprefix("signed_")
    weights = _WEIGHTS.read(file, state, where.name, (n_feature, d_model), **by_kind.get(rule, {}))
    versions = ("sae_lens_version", "sae_lens_training_version")
    metadata = {name: value for name, value in config["metadata"].items() if name not in versions}
    site = site_of(metadata.get("hook_name"))
    if site is not None:
        del metadata["hook_name"]
    threshold = {
        "standard": torch.zeros_like(state["b_enc"]),
        "jumprelu": state.get("threshold"),
        "batchtopk": torch.ones_like(state["b_enc"]) * state.get("topk_threshold", 0),
    }.get(rule)
    return _folded(
        Stored(
            **weights,
            k=None if threshold is not None else checked_count(where, config, "k", n_feature),
            threshold=threshold,
            relu=not kind.startswith("signed_"),
            site=site,
            notes=metadata,
        ),
        scale=_scale(folder, config),
        by_norm=bool(config.get("rescale_acts_by_decoder_norm", kind == "batchtopk")),
        uncentred=not config.get("apply_b_dec_to_input", True),
    )


def write(stored: Stored, folder: Path) -> None:
    """``cfg.json`` and ``sae_weights.safetensors``, which sae-lens itself loads; but not one that
    keeps negative values, which its top-k would silently cut: that architecture it does not know.
    """
    file = folder / "sae_weights.safetensors"
    save_file(_state_dict(stored), file)
    kind = "jumprelu" if stored.k is None else "topk"
    config = {
        **_config(stored),
        "architecture": kind if stored.cuts_at_zero else f"signed_{kind}",
        "weights_sha256": content_hash(file),
    }
    write_config(folder / "cfg.json", config)


def _state_dict(stored: Stored) -> dict[str, Tensor]:
    """The weights under sae-lens' names."""
    rule = {} if stored.threshold is None else {"threshold": stored.threshold}
    return _WEIGHTS.written(stored) | rule


def _config(stored: Stored) -> dict[str, Any]:
    """The fields of sae-lens' configuration; the notes and the site are its metadata."""
    hook = {} if stored.site is None else {"hook_name": stored.site.hook_name}
    top_k = {} if stored.k is None else {"k": stored.k, "rescale_acts_by_decoder_norm": False}
    return {
        "d_in": stored.d_model,
        "d_sae": stored.n_feature,
        "dtype": str(stored.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**stored.notes, **hook, "sae_lens_version": version("sae-lens")},
        **top_k,
    }


def as_sae_lens(stored: Stored) -> Any:
    """A sae-lens object with these weights."""
    if not stored.cuts_at_zero:
        raise DictionaryError(
            f"{stored}: keeps negative values, which sae-lens would cut at zero. Use the "
            f"Dictionary itself: its encode, decode and spliced do the same."
        )
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    kind, config = get_sae_class("jumprelu" if stored.k is None else "topk")
    fields = _config(stored)
    # on "meta" first: otherwise it draws weights from the global generator
    fields |= {"device": "meta", "metadata": SAEMetadata(**fields["metadata"])}
    sae = kind(config(**fields))
    sae.load_state_dict(_state_dict(stored), assign=True)
    return sae.to(device=str(stored.device), dtype=stored.dtype)


_WEIGHTS = Names(
    {"encoder": "W_enc", "decoder": "W_dec", "bias": "b_enc", "offset": "b_dec"}, "encoder"
)
_FIELDS = {
    *("architecture", "d_in", "d_sae", "dtype", "device", "metadata", "weights_sha256", "k"),
    *("apply_b_dec_to_input", "normalize_activations", "reshape_activations"),
    "rescale_acts_by_decoder_norm",
    # used in training only
    *("decoder_init_norm", "use_sparse_activations", "aux_loss_coefficient", "topk_threshold_lr"),
    *("l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps"),
    *("pre_act_loss_coefficient", "jumprelu_init_threshold", "jumprelu_bandwidth"),
    *("jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
}
_BEFORE_SIX = {  # provenance; kept as metadata
    *("model_name", "hook_name", "hook_point", "hook_layer", "hook_point_layer", "prepend_bos"),
    *("hook_head_index", "hook_point_head_index", "dataset_path", "context_size", "neuronpedia_id"),
    *("dataset_trust_remote_code", "sae_lens_training_version", "sae_lens_version", "seqpos_slice"),
    "model_from_pretrained_kwargs",
}
_KINDS = ("topk", "batchtopk", "jumprelu", "standard", "signed_topk", "signed_jumprelu")


def _of_version_six(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration from before sae-lens 6, in today's fields."""
    if "metadata" in config:
        return config
    new = {name: value for name, value in config.items() if name not in _BEFORE_SIX}
    new["metadata"] = {name: value for name, value in config.items() if name in _BEFORE_SIX}
    if "hook_point" in config:
        new["metadata"]["hook_name"] = new["metadata"].pop("hook_point")
    function = new.pop("activation_fn_str", new.pop("activation_fn", "relu"))
    arguments = new.pop("activation_fn_kwargs", None) or {}
    new.setdefault("architecture", "standard")
    if function == "topk":
        new |= {"architecture": "topk", "k": arguments.get("k")}
    elif function != "relu":
        new["architecture"] = f"{new['architecture']} with {function}"
    new["normalize_activations"] = new.get("normalize_activations") or "none"
    if not new.get("finetuning_scaling_factor"):
        new.pop("finetuning_scaling_factor", None)
    return new


def _checked_fields(where: Path, config: dict[str, Any]) -> tuple[str, int, int]:
    """Architecture and sizes; unknown fields and values are errors."""
    kind = config.get("architecture")
    faults = []
    if kind not in _KINDS:
        faults.append(f"architecture is {kind!r}, not one of {', '.join(_KINDS)}")
    if (shape := config.get("reshape_activations", "none")) != "none":
        faults.append(f"reshape_activations is {shape!r}: not one of our sites")
    if not isinstance(config["metadata"], dict):
        faults.append("metadata is not an object")
    normalised = config.get("normalize_activations", "none")
    if normalised not in ("none", "expected_average_only_in"):
        faults.append(
            f"normalize_activations is {normalised!r}: it depends on each token (or on a matrix "
            f"that is not here), so it cannot be multiplied into the weights"
        )
    refuse(where, config, _FIELDS, *faults)
    return str(kind), checked_count(where, config, "d_in"), checked_count(where, config, "d_sae")


def _scale(folder: Path, config: dict[str, Any]) -> float:
    """The factor that activations were multiplied by in training."""
    if config.get("normalize_activations", "none") == "none":
        return 1.0
    where = folder / "activation_scaler.json"
    if not where.exists():
        raise DictionaryError(
            f"{folder / 'cfg.json'}: normalize_activations is 'expected_average_only_in', but the "
            f"factor's file, activation_scaler.json, is missing. Copy that file too, or save the "
            f"trained SAE again, which multiplies the factor into its weights."
        )
    scale = read_json(where, DictionaryError).get("scaling_factor")
    if scale is None:
        return 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e30:
        raise DictionaryError(f"{where}: scaling_factor is {scale!r}, not a positive number.")
    return float(scale)


def _folded(stored: Stored, *, scale: float, by_norm: bool, uncentred: bool) -> Stored:
    """The same features, with scales and centring multiplied into the weights."""
    if scale == 1 and not by_norm and not uncentred:
        return stored
    encoder, decoder = stored.encoder.double() * scale, stored.decoder.double() / scale
    bias, offset = stored.bias.double(), stored.offset.double() / scale
    threshold = stored.threshold
    if by_norm:  # in units of what features write; thresholds are so already
        threshold = None if threshold is None else threshold / scale
        norms = decoder.norm(dim=1).clamp(min=1e-8)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms[:, None]
    if uncentred:
        bias = bias + encoder @ offset
    folded = {"encoder": encoder, "decoder": decoder, "bias": bias, "offset": offset}
    parts: dict[str, Any] = {name: weight.to(stored.dtype) for name, weight in folded.items()}
    return replace(stored, **parts, threshold=threshold)
