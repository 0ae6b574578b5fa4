"""sae-lens' folders: ``cfg.json`` and ``sae_weights.safetensors``, from before version 6 too.

sae-lens' transcoders have thresholds or cut at zero; a top-k transcoder has an architecture that it
does not know, and so refuses.

Scales that do not depend on the token are multiplied into the weights; others are refused.
"""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import DictionaryError
from circuits.model.formats.weights import read_tensors
from circuits.storage.files import content_hash, read_json
from circuits.storage.limits import check_readable
from sae.formats.checks import Names, checked_count, refuse, site_of, write_config
from sae.formats.record import Stored


def read(folder: Path) -> Stored:
    """Any of its kinds whose features depend on the weights alone."""
    where = folder / "cfg.json"
    config = _of_version_six(read_json(where, DictionaryError))
    kind, *sizes = _checked_fields(where, config)
    n_feature, rule = sizes[0], kind.rule
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
    names = _WITH_SKIP if kind.skips else _WEIGHTS
    weights = names.read(file, state, where.name, tuple(sizes), **by_kind.get(rule, {}))
    versions = ("sae_lens_version", "sae_lens_training_version")
    metadata = {name: value for name, value in config["metadata"].items() if name not in versions}
    site, target = site_of(metadata.get("hook_name")), None
    if site is not None:
        del metadata["hook_name"]
    if kind.transcodes:
        target = site_of(hook := metadata.pop("hook_name_out", None))
        if target is None:
            raise DictionaryError(
                f"{where}: a transcoder whose hook_name_out is {hook!r}, not one of our sites, so "
                f"it is unknown what it writes. Set it in the metadata, as blocks.0.hook_mlp_out."
            )
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
            relu=not kind.signed,
            site=site,
            notes=metadata,
            target=target,
        ),
        scale=_scale(folder, config),
        by_norm=bool(config.get("rescale_acts_by_decoder_norm", rule == "batchtopk")),
        uncentred=not (config.get("apply_b_dec_to_input", True) or kind.transcodes),
    )


def write(stored: Stored, folder: Path) -> None:
    """``cfg.json`` and ``sae_weights.safetensors``, which sae-lens itself loads; but not one that
    keeps negative values, which its top-k would silently cut, nor a top-k transcoder: these
    architectures it does not know."""
    file = folder / "sae_weights.safetensors"
    save_file(_state_dict(stored), file)
    config = {
        **_config(stored),
        "architecture": _architecture(stored),
        "weights_sha256": content_hash(file),
    }
    write_config(folder / "cfg.json", config)


def _state_dict(stored: Stored) -> dict[str, Tensor]:
    """The weights under sae-lens' names."""
    rule = {} if stored.threshold is None else {"threshold": stored.threshold}
    return (_WEIGHTS if stored.skip is None else _WITH_SKIP).written(stored) | rule


def _architecture(stored: Stored) -> str:
    kind = "jumprelu" if stored.k is None else "topk"
    if stored.target is not None:
        kind += "_transcoder" if stored.skip is None else "_skip_transcoder"
    return kind if stored.cuts_at_zero else f"signed_{kind}"


def _config(stored: Stored) -> dict[str, Any]:
    """The fields of sae-lens' configuration; the notes and the site are its metadata."""
    hook = {} if stored.site is None else {"hook_name": stored.site.hook_name}
    top_k = {} if stored.k is None else {"k": stored.k, "rescale_acts_by_decoder_norm": False}
    written = {}
    if stored.target is not None:
        hook["hook_name_out"], written["d_out"] = stored.target.hook_name, stored.d_target
    return {
        "d_in": stored.d_model,
        "d_sae": stored.n_feature,
        "dtype": str(stored.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": stored.target is None,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**stored.notes, **hook, "sae_lens_version": version("sae-lens")},
        **written,
        **top_k,
    }


def as_sae_lens(stored: Stored) -> Any:
    """A sae-lens object with these weights."""
    if not stored.cuts_at_zero:
        raise DictionaryError(
            f"{stored}: keeps negative values, which sae-lens would cut at zero. Use the "
            f"Dictionary itself: its encode, decode and spliced do the same."
        )
    if stored.target is not None and stored.k is not None:
        raise DictionaryError(
            f"{stored}: sae-lens has no top-k transcoder. Use the Dictionary itself, or train with "
            f"activation='batchtopk': its thresholds are a jumprelu_transcoder there."
        )
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    kind, config = get_sae_class(_architecture(stored))
    fields = _config(stored)
    # on "meta" first: otherwise it draws weights from the global generator
    fields |= {"device": "meta", "metadata": SAEMetadata(**fields["metadata"])}
    sae = kind(config(**fields))
    sae.load_state_dict(_state_dict(stored), assign=True)
    return sae.to(device=str(stored.device), dtype=stored.dtype)


_NAMES = {"encoder": "W_enc", "decoder": "W_dec", "bias": "b_enc", "offset": "b_dec"}
_WEIGHTS = Names(_NAMES, "encoder")
_WITH_SKIP = Names({**_NAMES, "skip": "W_skip"}, "encoder")
_FIELDS = {
    *(
        "architecture",
        "d_in",
        "d_sae",
        "d_out",
        "dtype",
        "device",
        "metadata",
        "weights_sha256",
        "k",
    ),
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


class _Kind(NamedTuple):
    """What an architecture's name says."""

    rule: str
    signed: bool = False
    transcodes: bool = False
    skips: bool = False


def _transcoders(rule: str, start: str) -> dict[str, _Kind]:
    signed = start.startswith("signed")
    return {
        f"{start}transcoder": _Kind(rule, signed, transcodes=True),
        f"{start}skip_transcoder": _Kind(rule, signed, transcodes=True, skips=True),
    }


_KINDS = {
    **{rule: _Kind(rule) for rule in ("topk", "batchtopk", "jumprelu", "standard")},
    **{f"signed_{rule}": _Kind(rule, signed=True) for rule in ("topk", "jumprelu")},
    **_transcoders("standard", ""),
    **_transcoders("jumprelu", "jumprelu_"),
    **_transcoders("jumprelu", "signed_jumprelu_"),
    **_transcoders("topk", "topk_"),
    **_transcoders("topk", "signed_topk_"),
}


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
        new |= {
            "architecture": "topk",
            "k": arguments.get("k") if isinstance(arguments, dict) else None,
        }
    elif function != "relu":
        new["architecture"] = f"{new['architecture']} with {function}"
    new["normalize_activations"] = new.get("normalize_activations") or "none"
    if not new.get("finetuning_scaling_factor"):
        new.pop("finetuning_scaling_factor", None)
    return new


def _checked_fields(where: Path, config: dict[str, Any]) -> tuple[_Kind, int, int, int]:
    """Architecture and sizes (features, read, written); unknown fields and values are errors."""
    name, faults = config.get("architecture"), []
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        faults.append(f"architecture is {name!r}, not one of {', '.join(_KINDS)}")
    transcodes = kind is not None and kind.transcodes
    shaping = ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm")
    faults += [
        f"{field} is true, which a transcoder cannot have"
        for field in shaping
        if transcodes and config.get(field)
    ]
    if (shape := config.get("reshape_activations", "none")) != "none":
        faults.append(f"reshape_activations is {shape!r}: not one of our sites")
    if not isinstance(config["metadata"], dict):
        faults.append("metadata is not an object")
    normalised = config.get("normalize_activations", "none")
    if normalised != "none" and (transcodes or normalised != "expected_average_only_in"):
        faults.append(
            f"normalize_activations is {normalised!r}: it depends on each token (or on a matrix "
            f"that is not here), so it cannot be multiplied into the weights"
        )
    refuse(where, config, _FIELDS, *faults)
    assert kind is not None  # or it was refused
    d_in, n_feature = (checked_count(where, config, field) for field in ("d_in", "d_sae"))
    d_out = checked_count(where, config, "d_out") if transcodes else d_in
    return kind, n_feature, d_in, d_out


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
