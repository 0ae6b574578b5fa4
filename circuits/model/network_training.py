"""One network in training on text: AdamW, where the text stands, and the arithmetic of a step.

Matrices are multiplied in bfloat16 where that is faster: on a GPU, and on a processor that shows it
in a few milliseconds before the first step. Weights, their gradients and the loss stay in float32,
and so does attention on a processor, whose gradients take it four times as long in bfloat16.
What was chosen is noted in the run, and a run that resumes goes on with it.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from circuits.corpus.batches import Batch, BatchPlan, Position, batches
from circuits.corpus.documents import Corpus, Tokenizer
from circuits.errors import ModelError, PlanError
from circuits.model.formats.heads import attending
from circuits.storage.checkpoint import check_numbers, optimizer_state, restore_optimizer
from circuits.storage.training_run import Row, TrainingRun

Precision = Literal["auto", "float32", "bfloat16"]

_WIDE = 192  # narrower networks spend their time elsewhere than in products
_FASTER = 1.3  # what a processor must gain; it gains 2 and more, or loses


@runtime_checkable
class Optimisation(Protocol):
    """What a step needs to know of a plan."""

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""

    @property
    def seed(self) -> int:
        """Decides the order of the text, and whatever is drawn."""

    @property
    def weight_decay(self) -> float:
        """Of matrices; norms and biases are not decayed."""

    @property
    def clip(self) -> float:
        """What the gradient's norm is clipped to."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""


class NetworkTraining(TrainingRun):
    """A network in training: its weights, its optimizer, and the position in the text."""

    doing, shown, fault = "training", "loss", ModelError
    measures: ClassVar[tuple[str, ...]] = ("loss",)  # what `loss` gives, each in the metrics
    slower = "Lower the plan's learning_rate, and train in a new folder."
    packages = ("torch", "transformers", "bilinear-circuits")
    plan: Optimisation

    def __init__(
        self,
        plan: Optimisation,
        network: Any,
        tokenizer: Tokenizer,
        text: Corpus,
        held_out: Corpus | None,
        batch_plan: BatchPlan,
        precision: Precision = "auto",
        rows_at_once: int | None = None,
    ) -> None:
        super().__init__(plan)
        check_precision(precision, rows_at_once)
        self.tokenizer, self.network = tokenizer, network.train()
        self.device = network.lm_head.weight.device
        self._text, self._held_out = text, held_out
        self._batch_plan, self._rows_at_once = batch_plan, rows_at_once
        self._position = Position()  # in the text, where the next batch begins
        self._half = in_bfloat16(network, precision)
        weights = [w for w in self.network.parameters() if w.requires_grad]
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and moments; the position in the text, and how its steps are computed."""
        tensors = optimizer_state(dict(self.network.named_parameters()), self._optimizer)
        values = {"position": self._position.as_dict(), "bfloat16": self._half}
        return tensors, {**values, "rows_at_once": self._rows_at_once}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The way back from `state`."""
        place, rows = values["position"], values["rows_at_once"]
        check_numbers(place, dict.fromkeys(Position().as_dict(), 0))
        check_numbers(values, {} if rows is None else {"rows_at_once": 1}, flags=["bfloat16"])
        self._position, self._half, self._rows_at_once = Position(**place), values["bfloat16"], rows
        restore_optimizer(dict(self.network.named_parameters()), self._optimizer, tensors)

    def batches(self) -> Iterator[Batch]:
        """Batches of text; bad text is refused at once."""
        text = batches(self._text, self.tokenizer, self._batch_plan, self._position)
        return chain([next(text)], text)

    @abstractmethod
    def loss(
        self, tokens: Int64[Tensor, "batch pos"], asked: Bool[Tensor, "batch next"]
    ) -> Float[Tensor, " measure"]:
        """The mean loss over what is asked for (``next`` is one less than ``pos``), and whatever
        else is measured."""

    def learn(self, batch: Batch) -> Tensor:
        """One step; returns what was measured on the batch, which stays on the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        n_rows, total = self._rows_at_once or len(batch.tokens), []
        for tokens, mask in zip(batch.tokens.split(n_rows), batch.mask.split(n_rows), strict=True):
            asked = mask[:, 1:]
            share = int(asked.sum()) / batch.n_predicted
            if share == 0:
                continue
            with self._arithmetic():
                measured = self.loss(tokens.to(self.device), asked.to(self.device))
            if share < 1:
                measured = measured * share
            measured[0].backward()
            total.append(measured.detach())
        clip_grad_norm_(self.network.parameters(), self.plan.clip)
        self._optimizer.step()
        self.n_tokens += batch.n_predicted
        self._position = batch.after
        return total[0] if len(total) == 1 else torch.stack(total).sum(0)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Within the block, products are in bfloat16, if they are to be."""
        usual = self.network.config._attn_implementation
        apart = self._half and self.device.type == "cpu" and usual == "sdpa"
        with (
            torch.autocast(self.device.type, torch.bfloat16, self._half),
            attending(self.network, _attention_in_float32() if apart else usual),
        ):
            yield

    def rows(self, measured: Tensor) -> list[Row]:
        """What each step measured."""
        return [dict(zip(self.measures, measured.tolist(), strict=True))]

    def check(self, row: Row, nth: int, checkpoint: Path) -> None:
        """Stop before anything that is not finite is saved."""
        if not math.isfinite(row["loss"]):
            self.stop(f"step {row['step']}", "the loss is NaN or infinite", self.slower, checkpoint)

    def ended(self) -> dict[str, Any]:
        """How the training ended, for ``training.json``."""
        return {
            "n_steps": self.step,
            "n_tokens": self.n_tokens,
            "n_parameters": sum(w.numel() for w in self.network.parameters() if w.requires_grad),
            "seconds": self.seconds,
            "precision": "bfloat16" if self._half else "float32",
        }


@cache
def _attention_in_float32() -> str:
    """The name of an attention that transformers then knows: its usual one, kept from bfloat16."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
    ) -> tuple[Tensor, None]:
        wide, wide_key, wide_value = query.float(), key.float(), value.float()
        with torch.autocast(query.device.type, enabled=False):
            attended, _ = sdpa_attention_forward(module, wide, wide_key, wide_value, mask, **how)
        return attended.to(query.dtype), None

    name = "sdpa in float32"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def check_precision(precision: str, rows_at_once: int | None) -> None:
    """Refuse what no step can be computed in."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise PlanError(f"precision is '{precision}': choose auto, float32 or bfloat16.")
    if rows_at_once is not None and rows_at_once < 1:
        raise PlanError(f"rows_at_once is {rows_at_once}: a step needs one row at least at a time.")


def in_bfloat16(network: Any, precision: Precision) -> bool:
    """Whether to multiply in bfloat16: as asked, or where it is faster."""
    if precision != "auto":
        return precision == "bfloat16"
    device, config = network.lm_head.weight.device, network.config
    if device.type != "cpu":
        return device.type == "cuda"
    if config.hidden_size < _WIDE:
        return False
    return bfloat16_gain(config.hidden_size, config.intermediate_size) > _FASTER


def bfloat16_gain(d_model: int, d_hidden: int) -> float:
    """How many times faster this processor multiplies in bfloat16 than in float32."""

    def seconds(dtype: torch.dtype) -> float:
        x, w = torch.ones(1024, d_model, dtype=dtype), torch.ones(d_model, d_hidden, dtype=dtype)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            x @ w
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.float32) / seconds(torch.bfloat16)
