"""The four ways in which the field stores a sparse autoencoder, read and written exactly.

Each becomes a `Dictionary` that gives the same features, or is refused with the reason: a factor
or an offset is multiplied into the weights, but nothing that depends on the token can be. What a
reader would get wrong: "top-k" is three things. sae-lens, sparsify and dictionary_learning cut
what they select at zero; the paper's keep negative values; sparsify's ``signed`` (like sae-lens'
``abstopk``) selects by absolute value, which a `Dictionary` does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.errors import DictionaryError, SiteError, first_line
from circuits.files import content_hash, read_json
from circuits.model import POINTS, Site
from circuits.model.weights import check_state, read_tensors
from sae.dictionary import Dictionary


@dataclass(frozen=True)
class Layout:
    """A way to store a dictionary in a folder: how it is told by its files, read and written."""

    config: str
    weights: str
    read: Callable[[Path], Dictionary]
    write: Callable[[Dictionary, Path], None]


def _read_sae_lens(folder: Path) -> Dictionary:
    where, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    config = _of_version_six(read_json(where, DictionaryError))
    kind, d_model, n_feature = _checked_sae_lens(where, config)
    _check_hash(where, config.get("weights_sha256"), weights)
    state = read_tensors(weights)
    extra: dict[str, dict[str, tuple[int, ...]]] = {
        "jumprelu": {"threshold": (n_feature,)},
        "batchtopk": {"topk_threshold": ()},
    }
    _check(
        weights,
        state,
        "cfg.json",
        W_enc=(d_model, n_feature),
        W_dec=(n_feature, d_model),
        b_enc=(n_feature,),
        b_dec=(d_model,),
        **extra.get(kind.removeprefix("signed_"), {}),
    )
    metadata = dict(config["metadata"])
    for name in ("sae_lens_version", "sae_lens_training_version"):
        metadata.pop(name, None)
    site = site_of(metadata.get("hook_name"))
    if site is not None:
        del metadata["hook_name"]
    threshold = {
        "standard": torch.zeros_like(state["b_enc"]),
        "jumprelu": state.get("threshold"),
        "batchtopk": torch.ones_like(state["b_enc"]) * state.get("topk_threshold", 0),
    }.get(kind.removeprefix("signed_"))
    return _folded(
        Dictionary(
            encoder=state["W_enc"].mT,
            decoder=state["W_dec"],
            bias=state["b_enc"],
            offset=state["b_dec"],
            k=None if threshold is not None else _count(where, config, "k", n_feature),
            threshold=threshold,
            relu=not kind.startswith("signed_"),
            site=site,
            notes=metadata,
        ),
        scale=_scale(folder, config),
        by_norm=bool(config.get("rescale_acts_by_decoder_norm", kind == "batchtopk")),
        uncentred=not config.get("apply_b_dec_to_input", True),
    )


def write_sae_lens(dictionary: Dictionary, folder: Path) -> None:
    """``cfg.json`` and ``sae_weights.safetensors``, which plain sae-lens loads.

    A dictionary that keeps negative values has an architecture that sae-lens does not know: its
    own top-k would cut them at zero without a word.
    """
    weights = folder / "sae_weights.safetensors"
    save_file(sae_lens_state(dictionary), weights)
    kind = "jumprelu" if dictionary.k is None else "topk"
    config = {
        "architecture": kind if dictionary.cuts_at_zero else f"signed_{kind}",
        **sae_lens_fields(dictionary),
        "device": "cpu",
        "metadata": sae_lens_metadata(dictionary),
        "weights_sha256": content_hash(weights),
    }
    _write_json(folder / "cfg.json", config)


def sae_lens_state(dictionary: Dictionary) -> dict[str, Tensor]:
    """The weights under sae-lens' names."""
    state = {
        "W_enc": dictionary.encoder.mT.contiguous(),
        "W_dec": dictionary.decoder,
        "b_enc": dictionary.bias,
        "b_dec": dictionary.offset,
    }
    if dictionary.threshold is not None:
        state["threshold"] = dictionary.threshold
    return state


def sae_lens_fields(dictionary: Dictionary) -> dict[str, Any]:
    """What sae-lens' configuration says besides architecture, device and metadata."""
    fields: dict[str, Any] = {
        "d_in": dictionary.d_model,
        "d_sae": dictionary.n_feature,
        "dtype": str(dictionary.dtype).removeprefix("torch."),
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if dictionary.k is not None:
        fields |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    return fields


def sae_lens_metadata(dictionary: Dictionary) -> dict[str, Any]:
    """The notes and the site, as sae-lens' metadata."""
    named = {} if dictionary.site is None else {"hook_name": dictionary.site.hook_name}
    return {**dictionary.notes, **named, "sae_lens_version": version("sae-lens")}


def as_sae_lens(dictionary: Dictionary) -> Any:
    """sae-lens' own object of these weights."""
    if not dictionary.cuts_at_zero:
        raise DictionaryError(
            f"{dictionary}: keeps negative values, which sae-lens would cut at zero. Use the "
            f"Dictionary itself: encode, decode and spliced do what sae-lens' object would."
        )
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    by_rule: Any = (JumpReLUSAE, JumpReLUSAEConfig)
    kind, config = by_rule if dictionary.k is None else (TopKSAE, TopKSAEConfig)
    fields, metadata = sae_lens_fields(dictionary), SAEMetadata(**sae_lens_metadata(dictionary))
    # without memory first: it would draw weights from the global generator
    sae = kind(config(**fields, device="meta", metadata=metadata))
    sae.load_state_dict(sae_lens_state(dictionary), assign=True)
    return sae.to(device=str(dictionary.device), dtype=dictionary.dtype)


_SAE_LENS_FIELDS = {
    *("architecture", "d_in", "d_sae", "dtype", "device", "metadata", "weights_sha256", "k"),
    *("apply_b_dec_to_input", "normalize_activations", "reshape_activations"),
    "rescale_acts_by_decoder_norm",
    # of training alone: they change no feature of the trained weights
    *("decoder_init_norm", "use_sparse_activations", "aux_loss_coefficient", "topk_threshold_lr"),
    *("l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps"),
    *("pre_act_loss_coefficient", "jumprelu_init_threshold", "jumprelu_bandwidth"),
    *("jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
}
_BEFORE_SIX = {  # where they came from; kept as metadata
    *("model_name", "hook_name", "hook_point", "hook_layer", "hook_point_layer", "prepend_bos"),
    *("hook_head_index", "hook_point_head_index", "dataset_path", "context_size", "neuronpedia_id"),
    *("dataset_trust_remote_code", "sae_lens_training_version", "sae_lens_version", "seqpos_slice"),
    "model_from_pretrained_kwargs",
}
_SAE_LENS_KINDS = ("topk", "batchtopk", "jumprelu", "standard", "signed_topk", "signed_jumprelu")


def _of_version_six(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of sae-lens before version 6 in today's words."""
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
    if new.get("normalize_activations") in (None, False):
        new["normalize_activations"] = "none"
    if not new.get("finetuning_scaling_factor"):
        new.pop("finetuning_scaling_factor", None)
    return new


def _checked_sae_lens(where: Path, config: dict[str, Any]) -> tuple[str, int, int]:
    """Architecture and sizes, of a configuration that says nothing else."""
    kind = config.get("architecture")
    faults = [f"unknown field '{name}'" for name in config if name not in _SAE_LENS_FIELDS]
    if kind not in _SAE_LENS_KINDS:
        known = ", ".join(_SAE_LENS_KINDS)
        faults.append(f"architecture is {kind!r}, which is none of {known}")
    if config.get("reshape_activations", "none") != "none":
        faults.append(f"reshape_activations is {config['reshape_activations']!r}: no site of ours")
    if not isinstance(config["metadata"], dict):
        faults.append("metadata is no object")
    normalised = config.get("normalize_activations", "none")
    if normalised not in ("none", "expected_average_only_in"):
        faults.append(
            f"normalize_activations is {normalised!r}: it depends on each token (or on a matrix "
            f"that is not in these weights), so that no weights can hold it"
        )
    _refuse(where, faults)
    return str(kind), _count(where, config, "d_in"), _count(where, config, "d_sae")


def _scale(folder: Path, config: dict[str, Any]) -> float:
    """What activations were multiplied by in training."""
    if config.get("normalize_activations", "none") == "none":
        return 1.0
    if not (folder / "activation_scaler.json").exists():
        raise DictionaryError(
            f"{folder / 'cfg.json'}: normalize_activations is 'expected_average_only_in', and the "
            f"factor is not there: it stands in activation_scaler.json. Copy that file too, or "
            f"save the trained SAE again, which multiplies the factor into its weights."
        )
    scale = read_json(folder / "activation_scaler.json", DictionaryError).get("scaling_factor")
    if scale is None:
        return 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e30:
        raise DictionaryError(
            f"{folder / 'activation_scaler.json'}: scaling_factor is {scale!r}, no positive number."
        )
    return float(scale)


def _folded(dictionary: Dictionary, *, scale: float, by_norm: bool, uncentred: bool) -> Dictionary:
    """The same features without what was done to activations and features around the weights."""
    if scale == 1 and not by_norm and not uncentred:
        return dictionary
    encoder, decoder = dictionary.encoder.double() * scale, dictionary.decoder.double() / scale
    bias, offset = dictionary.bias.double(), dictionary.offset.double() / scale
    threshold = dictionary.threshold
    if by_norm:  # features in units of what they write; thresholds are so already
        threshold = None if threshold is None else threshold / scale
        norms = decoder.norm(dim=1).clamp(min=1e-8)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms[:, None]
    if uncentred:
        bias = bias + encoder @ offset
    dtype = dictionary.dtype
    return replace(
        dictionary,
        encoder=encoder.to(dtype),
        decoder=decoder.to(dtype),
        bias=bias.to(dtype),
        offset=offset.to(dtype),
        threshold=threshold,
    )


_PUBLISHED_FIELDS = {
    *("point", "target", "lr", "in_batch", "out_batch", "n_buffers", "n_batches", "d_model"),
    *("n_ctx", "k", "expansion", "val_steps", "dead_thresh", "normalize", "init_scale", "tag"),
    *("bilinear_encoder", "encoder_bias", "token_lookup", "decoder_decay", "normalize_decoder"),
    *("passthrough", "kwargs"),
}


def _read_published(folder: Path) -> Dictionary:
    where, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(where, DictionaryError)
    faults = [f"unknown field '{name}'" for name in config if name not in _PUBLISHED_FIELDS]
    for name in ("bilinear_encoder", "token_lookup", "passthrough"):
        if config.get(name):
            faults.append(f"{name} is {config[name]!r}: features are then not linear in the site")
    point, target = config.get("point"), config.get("target")
    if target is not None and target != point:
        faults.append(f"target {target} is not point {point}: it transcodes from one to the other")
    _refuse(where, faults)
    d_model = _count(where, config, "d_model")
    n_feature = d_model * _count(where, config, "expansion")
    k = _count(where, config, "k", n_feature)
    state = read_tensors(weights)
    shapes = {
        "w_enc.weight": (n_feature, d_model),
        "w_dec.weight": (d_model, n_feature),
        "b_dec": (d_model,),
    }
    if config.get("encoder_bias"):
        shapes["w_enc.bias"] = (n_feature,)
    _check(weights, state, "config.json", **shapes)
    site = _published_site(point)
    shaping = {"k", "d_model", "expansion", "encoder_bias", "bilinear_encoder", "token_lookup"}
    if site is not None:
        shaping |= {"point", "target"}
    return Dictionary(
        encoder=state["w_enc.weight"],
        decoder=state["w_dec.weight"].mT,
        bias=state.get("w_enc.bias", torch.zeros(n_feature)),
        offset=state["b_dec"],
        k=k,
        relu=False,
        site=site,
        notes={name: value for name, value in config.items() if name not in shaping},
    )


def _published_site(point: Any) -> Site | None:
    """Of ``[name, layer]``; None where it is no point of ours."""
    try:
        name, layer = point
        return Site(str(name).replace("-", "_"), int(layer))
    except (TypeError, ValueError):  # a SiteError is one too
        return None


def published_name(dictionary: Dictionary) -> str:
    """What the paper's own code calls the folder, such as ``18-mlp-in-x8-k30`` (and a tag)."""
    site = dictionary.known_site("published_name")
    expansion = dictionary.n_feature // dictionary.d_model
    name = f"{site.layer}-{site.point}-x{expansion}-k{dictionary.k}".replace("_", "-")
    return f"{name}-{tag}" if (tag := dictionary.notes.get("tag")) else name


def _write_published(dictionary: Dictionary, folder: Path) -> None:
    site, expansion = dictionary.known_site("save"), dictionary.n_feature / dictionary.d_model
    faults = []
    if dictionary.relu:
        faults.append("its negative values are cut at zero, and this layout keeps them")
    if expansion % 1:
        faults.append(f"its {dictionary.n_feature} features are no multiple of its width")
    _refuse_layout(dictionary, "published", faults)
    biased = bool(dictionary.bias.any())
    state = {
        "w_enc.weight": dictionary.encoder,
        "w_dec.weight": dictionary.decoder.mT.contiguous(),
        "b_dec": dictionary.offset,
    }
    save_file(
        {**state, "w_enc.bias": dictionary.bias} if biased else state,
        folder / "model.safetensors",
    )
    kept = {k: v for k, v in dictionary.notes.items() if k in _PUBLISHED_FIELDS}
    made = {
        "point": [site.point.replace("_", "-"), site.layer],
        "expansion": int(expansion),
        "k": dictionary.k,
        "d_model": dictionary.d_model,
        "bilinear_encoder": False,
        "encoder_bias": biased,
    }
    _write_json(folder / "config.json", {"normalize": None, **kept, **made})


_SPARSIFY_FIELDS = {
    *("activation", "d_in", "expansion_factor", "normalize_decoder", "num_latents", "k"),
    *("multi_topk", "skip_connection", "transcode", "signed", "embed_skip", "gram_lookup"),
    *("lookup_max_order", "gram_table_hash"),
}


def _read_sparsify(folder: Path) -> Dictionary:
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
    _refuse(where, faults)
    d_model = _count(where, config, "d_in")
    if config.get("num_latents"):
        n_feature = _count(where, config, "num_latents")
    else:
        n_feature = d_model * _count(where, config, "expansion_factor")
    state = read_tensors(weights)
    _check(
        weights,
        state,
        "cfg.json",
        **{"encoder.weight": (n_feature, d_model), "encoder.bias": (n_feature,)},
        W_dec=(n_feature, d_model),
        b_dec=(d_model,),
    )
    shaping = {"k", "d_in", "num_latents", "expansion_factor"}
    return Dictionary(
        encoder=state["encoder.weight"],
        decoder=state["W_dec"],
        bias=state["encoder.bias"],
        offset=state["b_dec"],
        k=_count(where, config, "k", n_feature),
        site=site_of(folder.name),
        notes={name: value for name, value in config.items() if name not in shaping},
    )


def _write_sparsify(dictionary: Dictionary, folder: Path) -> None:
    faults = [] if dictionary.relu else ["it keeps negative values, and this layout cuts them"]
    _refuse_layout(dictionary, "sparsify", faults)
    state = {
        "encoder.weight": dictionary.encoder,
        "encoder.bias": dictionary.bias,
        "W_dec": dictionary.decoder,
        "b_dec": dictionary.offset,
    }
    save_file(state, folder / "sae.safetensors")
    kept = {k: v for k, v in dictionary.notes.items() if k in _SPARSIFY_FIELDS}
    made = {
        "activation": "topk",
        "num_latents": dictionary.n_feature,
        "k": dictionary.k,
        "d_in": dictionary.d_model,
    }
    plain = {"normalize_decoder": True, "skip_connection": False, "transcode": False}
    _write_json(folder / "cfg.json", {**plain, **kept, **made})


_BY_THRESHOLD = {"AutoEncoderTopK": False, "BatchTopKSAE": True}


def _read_dictionary_learning(folder: Path) -> Dictionary:
    where, weights = folder / "config.json", folder / "ae.safetensors"
    if not weights.exists():
        raise DictionaryError(
            f"{folder}: holds ae.pt but no ae.safetensors. The first is a pickle, and opening one "
            f"can run any code, so it is not opened. Where you trust it, write the second beside "
            f"it: state = torch.load('ae.pt', weights_only=True, map_location='cpu'); "
            f"safetensors.torch.save_file({{n: t.contiguous() for n, t in state.items()}}, "
            f"'ae.safetensors')"
        )
    config = read_json(where, DictionaryError)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise DictionaryError(f"{where}: field 'trainer' is {trainer!r:.40}, no object.")
    kind = trainer.get("dict_class")
    if kind not in _BY_THRESHOLD:
        raise DictionaryError(
            f"{where}: dict_class is {kind!r}, which is none of {', '.join(_BY_THRESHOLD)}. "
            f"Load it with dictionary_learning and save it as one of these."
        )
    d_model = _count(where, trainer, "activation_dim")
    n_feature = _count(where, trainer, "dict_size")
    k = _count(where, trainer, "k", n_feature)
    state = read_tensors(weights)
    shapes = {
        "encoder.weight": (n_feature, d_model),
        "encoder.bias": (n_feature,),
        "decoder.weight": (d_model, n_feature),
        "b_dec": (d_model,),
        "k": (),
    }
    if _BY_THRESHOLD[kind] or "threshold" in state:
        shapes["threshold"] = ()
    _check(weights, state, "config.json", **shapes)
    if int(state["k"]) != k:
        raise DictionaryError(f"{weights}: k is {int(state['k'])}, but config.json says {k}.")
    threshold = torch.ones(n_feature) * state["threshold"] if _BY_THRESHOLD[kind] else None
    shaping = {"activation_dim", "dict_size", *(() if threshold is not None else ("k",))}
    return Dictionary(
        encoder=state["encoder.weight"],
        decoder=state["decoder.weight"].mT,
        bias=state["encoder.bias"],
        offset=state["b_dec"],
        k=k if threshold is None else None,
        threshold=threshold,
        site=_submodule_site(trainer.get("submodule_name"), trainer.get("layer")),
        notes={name: value for name, value in trainer.items() if name not in shaping},
    )


def _submodule_site(name: Any, layer: Any) -> Site | None:
    """Of a name like ``resid_post_layer_3``, which is what that project's own scripts write."""
    written = re.fullmatch(rf"({'|'.join(POINTS)})(_layer_(\d+))?", str(name))
    if written is None or isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None
    return Site(written[1], layer) if written[3] in (None, str(layer)) else None


def _write_dictionary_learning(dictionary: Dictionary, folder: Path) -> None:
    faults = [] if dictionary.relu else ["it keeps negative values, and this layout cuts them"]
    k, threshold = dictionary.k, dictionary.threshold
    if threshold is not None:
        k = dictionary.notes.get("k")
        if not bool((threshold == threshold[0]).all()):
            faults.append("its features have thresholds of their own, and this layout has one")
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            faults.append("notes['k'] does not say how many features a batch had on average")
    _refuse_layout(dictionary, "dictionary_learning", faults, any_rule=True)
    least = torch.tensor(-1.0) if threshold is None else threshold[0].clone()
    state = {
        "encoder.weight": dictionary.encoder,
        "encoder.bias": dictionary.bias,
        "decoder.weight": dictionary.decoder.mT.contiguous(),
        "b_dec": dictionary.offset,
        "k": torch.tensor(k, dtype=torch.int32),
        "threshold": least.to(torch.float32),
    }
    state = {name: tensor.cpu() for name, tensor in state.items()}
    save_file(state, folder / "ae.safetensors")
    torch.save(state, folder / "ae.pt")  # what that project's own tools open
    site = dictionary.site
    made = {
        "dict_class": "AutoEncoderTopK" if threshold is None else "BatchTopKSAE",
        "activation_dim": dictionary.d_model,
        "dict_size": dictionary.n_feature,
        "k": k,
    }
    if site is not None:
        made |= {"layer": site.layer, "submodule_name": f"{site.point}_layer_{site.layer}"}
    _write_json(folder / "config.json", {"trainer": {**dictionary.notes, **made}})


LAYOUTS = {
    "sae-lens": Layout("cfg.json", "sae_weights.safetensors", _read_sae_lens, write_sae_lens),
    "published": Layout("config.json", "model.safetensors", _read_published, _write_published),
    "sparsify": Layout("cfg.json", "sae.safetensors", _read_sparsify, _write_sparsify),
    "dictionary_learning": Layout(
        "config.json", "ae.safetensors", _read_dictionary_learning, _write_dictionary_learning
    ),
}
"""By the name that `Dictionary.save` knows them by."""

_MODULES = {"": "resid_post", ".mlp": "mlp_out", ".self_attn": "attn_out"}


def site_of(name: object) -> Site | None:
    """The site that a hook is, by TransformerLens' name or by that of transformers' module.

    A module's hook sees what the module returns. A name that is not known is no site: nothing is
    guessed.
    """
    try:
        return Site.parse(str(name))
    except SiteError:
        pass
    module = re.fullmatch(r"(?:model\.)?layers\.(\d+)(|\.mlp|\.self_attn)", str(name))
    return Site(_MODULES[module[2]], int(module[1])) if module else None


def _check(
    where: Path, state: Mapping[str, Tensor], config: str, **shapes: tuple[int, ...]
) -> None:
    wanted = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    check_state(where, state, wanted, config)


def _check_hash(where: Path, wanted: object, weights: Path) -> None:
    """Weights of the right shapes can still be another dictionary's."""
    if wanted is not None and weights.exists() and content_hash(weights) != wanted:
        raise DictionaryError(
            f"{weights}: not the weights that {where.name} was written with (their SHA-256 is "
            f"another), so they are another dictionary's, or damaged. Copy both files together; "
            f"if you changed the weights yourself, remove 'weights_sha256' from {where.name}."
        )


def _count(where: Path, config: Mapping[str, Any], name: str, most: int | None = None) -> int:
    number = config.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DictionaryError(f"{where}: {name} is {number!r}, not a positive whole number.")
    if most is not None and number > most:
        raise DictionaryError(
            f"{where}: {name} is {number}, but there are only {most} features. The configuration "
            f"is not that of these weights."
        )
    return number


def _refuse(where: Path, faults: list[str]) -> None:
    if faults:
        raise DictionaryError(
            f"{where}: " + "; ".join(faults) + ". It cannot be read without changing its features."
        )


def _refuse_layout(
    dictionary: Dictionary, layout: str, faults: list[str], any_rule: bool = False
) -> None:
    if dictionary.k is None and not any_rule:
        faults = [*faults, "its features have thresholds, and this layout has top-k alone"]
    if faults:
        raise DictionaryError(
            f"{dictionary}: cannot be written in the {layout} layout: "
            + "; ".join(faults)
            + ". Save it in the sae-lens layout, which holds every dictionary."
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        text = json.dumps(content, indent=2, sort_keys=True)
    except TypeError as error:
        raise DictionaryError(
            f"Dictionary.save: its notes cannot be written as JSON ({first_line(error)}). Keep "
            f"numbers, texts, lists and dictionaries with texts for keys in them."
        ) from error
    path.write_text(text + "\n", encoding="utf-8")
