"""Train a small transformer on text, to the same bits however often the run is interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.arguments import checked
from circuits.corpus.batches import BatchPlan
from circuits.corpus.documents import BuiltInCorpus, Corpus, Tokenizer, split_corpus
from circuits.corpus.tokenizer import known_tokens, tokenizer_hash, train_tokenizer
from circuits.errors import (
    MarkWarning,
    ModelError,
    RunError,
    check_count,
    check_memory,
    number_faults,
)
from circuits.model.evaluation import HeldOut, exact_entropy, held_out_loss
from circuits.model.formats.llama import write
from circuits.model.loading import chosen_device
from circuits.model.network_training import NetworkTraining, Precision
from circuits.model.plan import ModelPlan
from circuits.storage.files import RESULT, read_json
from circuits.storage.training_run import Row, RunFiles, edited_notes, trained_files

_MAY_DIFFER = "its numbers may not be those measured"


@dataclass(frozen=True)
class Trained:
    """The result of a training run; ``load_model(trained.folder)`` is the model."""

    folder: Path
    n_steps: int
    n_tokens: int  # predicted in training, padding not counted
    n_parameters: int  # that were trained
    seconds: float  # of training alone
    held_out: HeldOut | None  # None: too little text to hold some out

    @property
    def files(self) -> list[Path]:
        """The model's own files, which the same run reproduces to the byte."""
        return trained_files(self.folder)

    @property
    def tokens_per_second(self) -> float:
        """Training throughput."""
        return self.n_tokens / self.seconds


@checked
def train_model(
    plan: ModelPlan,
    corpus: Corpus,
    out: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    rows_at_once: int | None = None,
    checkpoint_every: int = 100,
) -> Trained:
    """Train by a plan into a folder in the Hugging Face Llama format; an interrupted run resumes.

    Without a ``tokenizer`` one is made from the text: whole words for the built-in stories, pieces
    of words for others. A finished run of the same plan and text is returned as it is, unless its
    files are not those that it wrote: then it is trained anew, and a changed file is kept aside.
    ``rows_at_once`` splits each step's batch, to save memory: its gradients are summed.
    """
    out = Path(out)
    check_count("train_model", checkpoint_every, None, "checkpoint_every")
    check_memory("train_model", plan.shape.n_bytes, "Make the shape smaller.")
    tokenizer = tokenizer or train_tokenizer(
        split_corpus(corpus)[0], "word" if isinstance(corpus, BuiltInCorpus) else "bpe"
    )
    made_of = {
        "plan": plan.as_dict(),
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer_hash(tokenizer),
    }
    if precision != "auto":
        made_of["precision"] = precision
    files = RunFiles((out,), out / "checkpoint.safetensors", made_of)
    if not files.finished:
        training = ModelTraining(plan, corpus, tokenizer, device, precision, rows_at_once)
        training.run(files, checkpoint_every)
    return _trained(out)


class ModelTraining(NetworkTraining):
    """A new network in training, with noise on its MLPs' inputs where the plan has some."""

    plan: ModelPlan

    def __init__(
        self,
        plan: ModelPlan,
        corpus: Corpus,
        tokenizer: Tokenizer,
        device: torch.device | str | None = None,
        precision: Precision = "auto",
        rows_at_once: int | None = None,
    ) -> None:
        network = new_network(plan, tokenizer).to(chosen_device(device))
        batch_plan = BatchPlan(plan.n_rows, plan.window, plan.seed)
        text, held_out = split_corpus(corpus)
        super().__init__(
            plan, network, tokenizer, text, held_out, batch_plan, precision, rows_at_once
        )
        self._floor = exact_entropy(corpus, tokenizer)
        self._noise = torch.Generator(self.device).manual_seed(plan.seed)
        if plan.noise:
            for block in self.network.model.layers:
                block.mlp.register_forward_pre_hook(self._noisy)

    def _noisy(self, module: Any, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if not module.training:
            return None
        (x,) = args
        drawn = torch.randn(x.shape, generator=self._noise, device=x.device, dtype=x.dtype)
        return (x + self.plan.noise * drawn,)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The noise too."""
        tensors, values = super().state()
        return {"noise": self._noise.get_state(), **tensors}, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The way back from `state`."""
        super().restore(tensors, values)
        self._noise.set_state(tensors["noise"].clone())

    def loss(
        self, tokens: Int64[Tensor, "batch pos"], asked: Bool[Tensor, "batch next"]
    ) -> Float[Tensor, " measure"]:
        """Nats per token."""
        hidden = self.network.model(tokens[:, :-1], use_cache=False).last_hidden_state
        logits = self.network.lm_head(hidden[asked])  # padding costs no logits
        return functional.cross_entropy(logits.float(), tokens[:, 1:][asked])[None]

    def rows(self, measured: Tensor) -> list[Row]:
        """The loss beside the floor that no model can go below."""
        return [{**super().rows(measured)[0], "floor": self._floor}]

    def results(self) -> Iterator[tuple[Callable[[Path], None], dict[str, Any]]]:
        """The network with its tokenizer, and its loss on held-out text."""
        measured = None
        if self._held_out is not None:
            measured = held_out_loss(self.network, self._held_out, self.tokenizer, self._batch_plan)
            if not math.isfinite(measured.loss):
                raise ModelError(
                    f"after step {self.step}, the last, the loss on held-out text is "
                    f"{measured.loss}. {self.slower}"
                )
        result = {**self.ended(), "held_out": measured and asdict(measured)}
        self.network.eval()

        yield partial(write, self.network, self.tokenizer), result


def new_network(plan: ModelPlan, tokenizer: Tokenizer) -> Any:
    """An untrained network of the plan's shape and seed, as transformers builds it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = plan.shape
    config: Any = LlamaConfig(
        vocab_size=known_tokens(tokenizer)[-1] + 1,  # numbers may have gaps
        hidden_size=shape.d_model,
        intermediate_size=shape.width,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_head,
        head_dim=shape.d_model // shape.n_head,
        max_position_embeddings=plan.window,
        hidden_act=shape.activation,
        mlp_bias=shape.biases or not shape.gated,
        tie_word_embeddings=shape.tied_head,
        **{f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network: Any = LlamaForCausalLM(config)
    if not shape.gated:
        for block in network.model.layers:
            _ungate(block.mlp, shape.biases)
    return network


def _ungate(mlp: Any, biases: bool) -> None:
    """Fix the right factor at one, which the Llama format can say: no weight, a bias of one."""
    with torch.no_grad():
        mlp.up_proj.weight.zero_()
        mlp.up_proj.bias.fill_(1)
    mlp.up_proj.requires_grad_(False)
    if not biases:
        mlp.gate_proj.bias.requires_grad_(False)
        mlp.down_proj.bias.requires_grad_(False)


def _trained(out: Path) -> Trained:
    result = read_json(out / RESULT, RunError)
    try:
        held_out = result["held_out"] and HeldOut(**result["held_out"])
        if held_out and held_out.reactions:  # null in the file: a case without a reaction
            shares = {case: math.nan if x is None else x for case, x in held_out.reactions.items()}
            held_out = replace(held_out, reactions=shares)
        counts = {name: result[name] for name in ("n_steps", "n_tokens", "n_parameters")}
        seconds = result["seconds"]
    except (LookupError, TypeError, AttributeError) as error:
        raise _damaged(out, f"{type(error).__name__}: {error}") from error
    if faults := number_faults({**counts, "seconds": seconds}, dict.fromkeys(counts, 0),
                               {"seconds": 0}):  # fmt: skip
        raise _damaged(out, "; ".join(faults))
    for path in edited_notes(out):
        warn(f"{path}: edited after the training: {_MAY_DIFFER}", MarkWarning, stacklevel=4)
    return Trained(out, **counts, seconds=seconds, held_out=held_out)


def _damaged(out: Path, what: str) -> RunError:
    return RunError(
        f"{out / RESULT}: does not say how a training ended ({what}). Remove it, and the same "
        f"call trains again."
    )
