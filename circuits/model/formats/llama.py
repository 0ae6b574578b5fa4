"""A Hugging Face causal language model, built strictly from its configuration and weights.

Every weight must be present with the configured shape (``transformers`` would fill a missing one
with noise and only log it), and every layer must have Llama's layout. Its activation named
``linear`` makes a gated MLP bilinear.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits.algebra.bilinear import BilinearLayer
from circuits.errors import ModelError
from circuits.model.formats.weights import check_state
from circuits.model.site import POINTS, Site, attach

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
# unknown to some families' configurations: head_dim is read anyway, the others change nothing
_HARMLESS = {"head_dim", "pretraining_tp", "transformers.js_config", "unsloth_version"}
# how a layer is run, not what it computes; a name with a slash would fetch code from the hub
_HOW_RUN = {f"{_}{part}_implementation" for _ in ("", "_") for part in ("attn", "experts")}
_HOW_RUN |= {f"_{part}_implementation_internal" for part in ("attn", "experts")}
FIXED = 1e12
"""The epsilon of a norm that is only a scale: the mean square of an activation is nothing beside
it, so that every token is divided by the same 1e6, which the norm's weight takes back."""
_TWIN = {"silu": "SwiGLU", "gelu": "GEGLU", "relu": "ReGLU"}


def check_activation(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse, before any weight is read, a configuration whose MLP is not bilinear."""
    if "model_type" not in config:
        raise ModelError(
            f"{where}: field 'model_type' is missing, so this is not a Hugging Face model, and it "
            f"lacks the fields of the published layout (n_layer, d_hidden, …) too."
        )
    found = {k: config[k] for k in ("hidden_act", "hidden_activation") if config.get(k)}
    found |= {"activation_function": a} if (a := config.get("activation_function")) else {}
    wrong = {field: name for field, name in found.items() if name != "linear"}
    if wrong or not found:
        # Llama's default, where the field is missing, is SiLU
        field, name = next(iter(wrong.items())) if wrong else ("hidden_act", "silu (the default)")
        name = f"{name!s:.40}"  # of any type
        kind = f", {_TWIN[name]} where there is a gate" if name in _TWIN else ""
        raise ModelError(
            f"{where}: {field} is {name}{kind}: this MLP is not bilinear, so it has no exact "
            f"interactions. If it is gated, make its bilinear twin: circuits model twin "
            f"{where.parent} RUN --text TEXT (from Python: bilinear_twin)."
        )


def build(where: Path, config: Mapping[str, Any], state: dict[str, Tensor]) -> Any:
    """The network of a configuration with these weights, in float32 and without gradients."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in config.items() if name not in _HOW_RUN}
    auto: Any = AutoModelForCausalLM  # untyped in transformers

    def built(device: str) -> Any:
        # the initial weights are replaced below
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return auto.from_config(parsed, dtype=torch.float32, trust_remote_code=False)

    try:
        kind = fields.pop("model_type")
        parsed, known = AutoConfig.for_model(kind, **fields), AutoConfig.for_model(kind)
        _check_depth(where, fields, len(state))
        network = built("meta")  # no memory is used for weights that the files do not hold
    except ModelError:
        raise
    except Exception as error:  # each library raises its own kind
        raise ModelError(
            f"{where / 'config.json'}: transformers cannot build a language model from it "
            f"({in_short(error)})."
        ) from error
    _check_layout(where, network)
    # a field that the family does not know is kept as an attribute and ignored
    unknown = {name for name in fields if hasattr(parsed, name) and not hasattr(known, name)}
    _check_fields(where / "config.json", parsed, unknown - _HARMLESS)
    state = {k: v for k, v in state.items() if not k.endswith("rotary_emb.inv_freq")}
    _check_floats(where, state)
    state = {name: weight.float() for name, weight in state.items()}
    _settle_head(where, bool(parsed.tie_word_embeddings), state)
    check_state(where, state, {name: w.shape for name, w in network.state_dict().items()})
    network = built("cpu")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _check_depth(where: Path, config: Mapping[str, Any], n_weight: int) -> None:
    """Refuse more layers than there are weights, before each of them is made."""
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        n_layer = config.get(name)
        if isinstance(n_layer, int) and n_layer > n_weight:
            raise ModelError(
                f"{where}: config.json says {name} {n_layer}, but the files hold only {n_weight} "
                f"weights. They are not those of its config.json."
            )


def _check_fields(where: Path, parsed: Any, unknown: set[str]) -> None:
    asking = sorted(n for n in unknown if getattr(parsed, n) is not None)
    if asking:
        raise ModelError(
            f"{where}: unknown field {', '.join(asking)}: {type(parsed).__name__} would ignore it, "
            f"so it may be misspelt, or the model of another kind. Correct or remove it."
        )
    n_context = getattr(parsed, "max_position_embeddings", None)
    if n_context is None or n_context < 1:
        raise ModelError(
            f"{where}: max_position_embeddings is {n_context}, so no row of tokens fits. Set "
            f"it to the longest row that the model was trained on."
        )


def _check_floats(where: Path, state: Mapping[str, Tensor]) -> None:
    if whole := [name for name, weight in state.items() if not weight.is_floating_point()]:
        raise ModelError(
            f"{where}: {whole[0]} holds whole numbers ({state[whole[0]].dtype}): the weights are "
            f"quantised, and their scales are unknown. Save the model without: model.dequantize(), "
            f"then model.save_pretrained."
        )


def _settle_head(where: Path, tied: bool, state: dict[str, Tensor]) -> None:
    """Check tie_word_embeddings against the weights."""
    head, embed = "lm_head.weight", "model.embed_tokens.weight"
    if head not in state and not tied:
        raise ModelError(
            f"{where}: config.json says tie_word_embeddings false, but the weights hold no {head}. "
            f"Set it to true if the head is the embedding; otherwise the file is incomplete."
        )
    if tied and embed in state:
        own = state.setdefault(head, state[embed])
        if not torch.equal(own, state[embed]):
            raise ModelError(
                f"{where}: config.json says tie_word_embeddings true, but {head} differs from "
                f"{embed}. Set it to false, so that the separate head is used."
            )


def _check_layout(where: Path, network: Any) -> None:
    layers = getattr(getattr(network, "model", None), "layers", None)
    if layers is None:
        raise ModelError(
            f"{where}: {type(network).__name__} does not have Llama's layout. If its MLPs are "
            f"gated, convert the weights to the Llama format."
        )
    for layer in layers:
        parts = {name for name, _ in layer.named_children()}
        factors = {name for name, _ in layer.mlp.named_children()} if "mlp" in parts else set()
        if not any("gate" in part for part in parts | factors):
            raise ModelError(
                f"{where}: the MLP of {type(layer).__name__} has no gate "
                f"({', '.join(sorted(factors)) or 'none of its own'}): there is no second factor "
                f"to multiply with. Pass a gated model, such as Llama, Mistral or Qwen2."
            )
        if parts != _LAYER or not {"gate_proj", "up_proj", "down_proj"} <= factors:
            raise ModelError(
                f"{where}: {type(layer).__name__} has parts {', '.join(sorted(parts | factors))}, "
                f"not those of Llama's layer, so its sites are unknown. Convert the weights to the "
                f"Llama format."
            )


def layer_of(mlp: Any) -> BilinearLayer:
    """The factors of a gated MLP whose activation is linear."""
    left, right, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    return BilinearLayer(left.weight, right.weight, down.weight, left.bias, right.bias, down.bias)


def has_softmax(network: Any) -> bool:
    """Whether scores of a query and a key pass a softmax; without, there are two queries."""
    return hasattr(network.model.layers[0].self_attn, "q_proj")


def parts_in_words(network: Any) -> dict[str, str]:
    """What a network's attention and norms compute."""
    epsilon = network.config.rms_norm_eps
    return {
        "attention": "softmax" if has_softmax(network) else "bilinear, no softmax",
        "norm": "none: fixed scales" if epsilon >= FIXED else f"RMSNorm, eps {epsilon:g}",
    }


@torch.no_grad()
def check_bilinear(where: Path, network: Any) -> None:
    """Run the network on random input: does each layer compute what Llama's would, bilinearly?"""
    generator = torch.Generator().manual_seed(0)
    for index, block in enumerate(network.model.layers):
        mlp, seen = block.mlp, dict[str, Tensor]()
        weight = mlp.gate_proj.weight
        x = torch.randn(16, weight.shape[1], generator=generator).to(weight)
        handle = mlp.down_proj.register_forward_pre_hook(lambda _m, a, s=seen: s.update(post=a[0]))
        try:
            out = mlp(x)
        finally:
            handle.remove()
        near = max(1e-5, 8 * torch.finfo(weight.dtype).eps)
        product = mlp.gate_proj(x) * mlp.up_proj(x)
        error = max(distance(seen["post"], product), distance(out, layer_of(mlp)(x)))
        if not error < near:
            activation = getattr(mlp, "act_fn", None)
            raise ModelError(
                f"{where}: the MLP of layer {index} is not the bilinear layer of its weights "
                f"(relative error {error:.2g} on random input); its activation is "
                f"{type(activation).__name__}. Load a model with hidden_act 'linear'."
            )
    check_stream(where, network)


@torch.no_grad()
def check_stream(where: Path, network: Any) -> None:
    """Check that sites add up to the stream, norms follow their weights, and the head is plain."""
    config, embed = network.config, network.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    n_pos = min(8, int(config.max_position_embeddings))
    tokens = torch.randint(len(embed), (2, n_pos), generator=generator).to(embed.device)
    sites = [Site(point, i) for i in range(len(network.model.layers)) for point in POINTS]
    seen, heads = dict[Site, Tensor](), list[Tensor]()

    def keep(site: Site) -> Any:
        return attach(network, site, lambda x: seen.update({site: x.clone()}))

    handles = [keep(site) for site in sites]
    handles += [network.lm_head.register_forward_hook(lambda _m, _a, x: heads.append(x.clone()))]
    try:
        logits = network(tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    near = max(1e-5, 8 * torch.finfo(embed.dtype).eps)
    eps = getattr(config, "rms_norm_eps", float("nan"))
    for index, block in enumerate(network.model.layers):
        at = {point: seen[Site(point, index)].double() for point in POINTS}
        weight = getattr(block.post_attention_layernorm, "weight", torch.tensor(float("nan")))
        rms = (at["resid_mid"].square().mean(-1, keepdim=True) + eps).sqrt()
        wanted = {
            "resid_mid is not resid_pre + attn_out": at["resid_pre"] + at["attn_out"],
            "resid_post is not resid_mid + mlp_out": at["resid_mid"] + at["mlp_out"],
            "mlp_in is not post_attention_layernorm.weight * x / rms(x)": weight
            * (at["resid_mid"] / rms),
        }
        for said, number in wanted.items():
            error = distance(at[said.split()[0]], number)
            if not error < near:
                raise ModelError(
                    f"{where}: in layer {index}, {said} (relative error {error:.2g} on random "
                    f"input), as it is in Llama: {type(network).__name__} computes something "
                    f"else. Convert the weights to the Llama format."
                )
    if not distance(logits, heads[0]) < near:
        raise ModelError(
            f"{where}: the logits are not what lm_head gives, as they are in Llama: "
            f"{type(network).__name__} changes them. Convert the weights to the Llama format."
        )


def distance(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest expected number."""
    scale = wanted.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((got.double() - wanted.double()).abs().max() / scale)


def write(network: Any, tokenizer: Any | None, folder: Path) -> None:
    """Fill a folder as ``save_pretrained`` would, without its progress bar; a network of another
    layout writes its own."""
    if (write_layout := getattr(network, "write_layout", None)) is not None:
        write_layout(folder)
        return
    write_about(network, tokenizer, folder)
    state = {name: weight.detach().contiguous() for name, weight in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes a file that only its owner may read
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def write_about(network: Any, tokenizer: Any | None, folder: Path) -> None:
    """What a folder holds beside the weights: the configuration and the tokenizer."""
    network.config.architectures = [type(network).__name__]
    network.config.dtype = network.dtype
    what, where = "configuration", network.config.name_or_path
    try:
        network.config.save_pretrained(folder)
        if tokenizer is not None:
            what, where = "tokenizer", tokenizer.name_or_path
            tokenizer.save_pretrained(folder)
    except OSError:  # of the disk
        raise
    except Exception as error:  # what is no JSON, or no text, as each library says it
        raise ModelError(
            f"{where or 'the model'}: its {what} cannot be saved ({in_short(error)}). Remove from "
            f"its files what is neither text nor a number."
        ) from error


def in_short(error: BaseException) -> str:
    """The message of a library's error, in one line."""
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
