"""What makes a model the one that it is: its weights, the fields of its configuration that compute,
and its tokenizer. The same model in another folder, or saved and loaded again, is the same. A model
that was made from another one carries a label that says so, and at what price."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from warnings import warn

import torch

from circuits.corpus.tokenizer import tokenizer_hash
from circuits.errors import MarkWarning, ModelError
from circuits.model.formats.llama import parts_in_words
from circuits.model.site import POINTS, Site
from circuits.storage.files import content_hash, read_json, write_json
from circuits.storage.records import LATER, RecordError, record_of

WEIGHTS = "model.safetensors"
TWIN = "twin.json"
"""The file of a twin's label, beside its weights."""

# every other field counts, those of families not yet known among them
_NOT_COMPUTING = {
    # names, and how the model is stored or run
    "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "name_or_path", "id2label", "label2id", "problem_type", "output_attentions",
    "output_hidden_states",
    "return_dict", "use_cache", "is_encoder_decoder", "chunk_size_feed_forward", "pretraining_tp",
    "transformers.js_config", "unsloth_version",
    # of training alone
    "initializer_range", "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop",
    # the tokenizer's numbers count, these are copies for generation
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
}  # fmt: skip


def fingerprint(network: Any, tokenizer: Any | None) -> str:
    """A hash of the weights, by name and in the dtype in use, of what the configuration computes
    with them, and of the tokenizer where there is one."""
    words = None if tokenizer is None else tokenizer_hash(tokenizer)
    stated = json.dumps([computing_fields(network.config), words], sort_keys=True, default=str)
    digest = hashlib.sha256(stated.encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def computing_fields(config: Any) -> dict[str, Any]:
    """The fields that decide what a network computes, where they are not their family's defaults:
    a field that a later transformers adds is at its default in every model made before."""
    default = type(config)().to_dict()
    fields = {
        name: _plain(value)
        for name, value in config.to_dict().items()
        if name not in _NOT_COMPUTING and value != default.get(name)
    }
    return {"model_type": config.model_type, **fields}


def described(model: Any) -> dict[str, Any]:
    """Sizes, norm, activation and hooks of a `Model`, as plain values."""
    config, first = model.network.config, model.layer(0)
    twin = {} if model.label is None else {"twin": model.label.as_dict()}
    factors = ("left", "right", "down")
    return {
        "path": str(model.path),
        "architecture": type(model.network).__name__,
        "layers": model.n_layer,
        "d_model": model.d_model,
        "d_hidden": model.d_hidden,
        "heads": model.n_head,
        "context": model.n_context,
        "vocabulary": model.n_token,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        **parts_in_words(model.network),
        "activation": f"{config.hidden_act} (bilinear: checked on random input)",
        "mlp_biases": [name for name in factors if getattr(first, f"{name}_bias") is not None],
        "tied_head": bool(config.tie_word_embeddings),
        "tokenizer": None if model.tokenizer is None else type(model.tokenizer).__name__,
        "sites": {f"{point}@i": Site(point, 0).hook_name.replace(".0.", ".i.") for point in POINTS},
        **twin,
    }


def _plain(value: Any) -> Any:
    """The same for 10000 and 10000.0, which a file may hold for one another."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole else value


_FAR = 0.25  # of the control's cost: beyond it a twin's distance is remarked on; a heuristic


def _shares(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


@dataclass(frozen=True)
class TwinLabel:
    """Whose bilinear twin a model is, and what it lost: nats a token, on the same held-out text."""

    original: str  # the name of the original's folder
    original_fingerprint: str
    activation: str  # of the original's gates
    original_loss: float
    loss: float  # of the twin
    removed_loss: float  # the control: of the original with its gates simply removed
    gap_error: float | None  # standard error of the difference of the first two, over rows
    kl: float  # from the original's answers to the twin's, nats a token
    agreement: float  # share of tokens at which both have the same first answer
    mlp_fvu: tuple[float, ...]  # by layer: of the original's MLP output, on the same inputs
    n_held_out: int  # tokens that all this was measured on
    tokens: int  # that the twin was trained on
    seed: int
    versions: str
    weights: str = ""  # hash of the file that it is the label of; set when both are written
    # by layer, where each MLP was fitted alone first: what it missed then
    fitted_fvu: tuple[float, ...] | None = field(default=None, metadata=LATER)
    norms_removed: bool = field(default=False, metadata=LATER)  # whether its norms are fixed scales
    # the whole model that it is the label of, in float32; set when both are written
    fingerprint: str | None = field(default=None, metadata=LATER)

    @property
    def gap(self) -> float:
        """How much worse the twin predicts, in nats a token; below 0 where it learned the text that
        it trained on. How far it is from its original is ``kl``."""
        return self.loss - self.original_loss

    @property
    def in_words(self) -> str:
        """Whose twin, and the price."""
        norms = ", norms removed" if self.norms_removed else ""
        return (
            f"bilinear twin of {self.original} ({self.activation} gates{norms}): loss "
            f"{self.loss:.3f} nats a token, the original's {self.original_loss:.3f}, KL "
            f"{self.kl:.3f}"
        )

    @property
    def figures(self) -> dict[str, str]:
        """What it says, for people: by the names of the fields."""
        error = "" if self.gap_error is None else f" ± {self.gap_error:.4f}"
        fitted = {} if self.fitted_fvu is None else {"fitted fvu": _shares(self.fitted_fvu)}
        return {
            "original": f"{self.original} ({self.activation} gates)",
            "loss": f"{self.loss:.4f}",
            "original loss": f"{self.original_loss:.4f}",
            "gap": f"{self.gap:+.4f}{error}",
            "kl": f"{self.kl:.4f}",
            "agreement": f"{self.agreement:.4f}",
            "removed loss": f"{self.removed_loss:.4f}",
            "mlp fvu": _shares(self.mlp_fvu),
            **fitted,
            "norms removed": "yes" if self.norms_removed else "no",
            "measured on": f"{self.n_held_out:,} held-out tokens",
            "trained on": f"{self.tokens:,} tokens, seed {self.seed}",
            "versions": self.versions,
        }

    @property
    def doubts(self) -> list[str]:
        """What of it says that the twin may be too far from its original, each in a sentence."""
        found = []
        if worse := [str(layer) for layer, missed in enumerate(self.mlp_fvu) if missed > 1]:
            found.append(
                f"mlp fvu is above 1 in layer {', '.join(worse)}: on the original's inputs the "
                f"twin's MLP is further from the original's than a constant would be"
            )
        cost = self.removed_loss - self.original_loss
        if max(self.kl, self.gap) > _FAR * cost:
            found.append(
                f"kl or gap is more than {_FAR:.0%} of what removing the gates costs without any "
                f"training ({cost:.2f} nats): train longer, or on text more like the original's"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def _check(self) -> None:
        """Refuse numbers that no measurement gives."""
        fvu = (*self.mlp_fvu, *(self.fitted_fvu or ()))
        sizes = (self.original_loss, self.loss, self.removed_loss, self.gap_error or 0.0, *fvu)
        within = {
            "a loss or an error below 0": min(sizes) >= 0,
            f"an agreement of {self.agreement:.4g}": 0 <= self.agreement <= 1,
            f"a divergence of {self.kl:.4g}": self.kl > -1e-6,
            "a count that is none": all(0 <= n < 2**63 for n in (self.tokens, self.n_held_out)),
            "errors of other layers": len(fvu) in (len(self.mlp_fvu), 2 * len(self.mlp_fvu)),
        }
        if wrong := [what for what, fits in within.items() if not fits]:
            raise RecordError(f"it states {', '.join(wrong)}")

    def is_of(self, folder: Path, whole: str) -> bool:
        """Whether the weights in a folder, and the fingerprint of the ``whole`` model there, are
        those that it was measured on: changed ones, or the same in another precision, are not."""
        return self._is_of_weights(folder) and self.fingerprint in (None, whole)

    def _is_of_weights(self, folder: Path) -> bool:
        return (folder / WEIGHTS).is_file() and content_hash(folder / WEIGHTS) == self.weights

    def write(self, folder: Path) -> None:
        """Put the label into the folder of the model that it is of."""
        write_json(folder / TWIN, self.as_dict())

    def write_first(self, folder: Path, whole: str) -> None:
        """Put the label beside the model that it was just measured on."""
        replace(self, weights=content_hash(folder / WEIGHTS), fingerprint=whole).write(folder)

    @classmethod
    def read(
        cls, folder: Path, network: Any, tokenizer: Any | None, *, own: bool = True
    ) -> TwinLabel | None:
        """The label in a model's folder, if it has one; refused beside another model, and left out
        where the tokenizer is another one that the user named, and not the folder's ``own``."""
        path = folder / TWIN
        if not path.exists():
            return None
        try:
            label: TwinLabel = record_of(cls, read_json(path, ModelError), "the label")
            label._check()
        except RecordError as error:
            raise ModelError(
                f"{path}: not the label of a twin ({error}). Copy the file again, or remove it: "
                f"the model works without."
            ) from error
        # in one file: in parts they are not as the twin was written
        if not label._is_of_weights(folder):
            raise ModelError(
                f"{path}: the label of other weights than those beside it, so what it says is not "
                f"of this model. Copy both again, or remove it: the model works without."
            )
        if label.fingerprint in (None, fingerprint(network, tokenizer)):
            return label
        if own:
            raise ModelError(
                f"{path}: the label of another model than the one beside it: the configuration or "
                f"the tokenizer was changed. Copy the whole folder again, or remove the label: the "
                f"model works without."
            )
        said = "with another tokenizer this is another model, so its label is left out"
        warn(f"{path}: {said}", MarkWarning, stacklevel=4)
        return None
