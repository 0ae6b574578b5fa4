"""Train a small transformer on text, so that a run killed at any moment ends in the same bits.

    1. the plan, the text and the tokenizer name the run; a folder never holds two
    2. the network starts from the plan's seed alone
    3. each step: a batch by its position, noise from the run's own generator, AdamW at the rate
       that the step's number gives
    4. every so many steps, and at Ctrl-C or SIGTERM, the whole state goes to one file
    5. the finished model is put in place file by file, and the state is removed last

What a reader would get wrong: the same seed gives the same bits on the same machine with the same
number of threads; sums taken in another order are other numbers. On a GPU, where the order is not
ours to choose, a resumed run continues from the same bits, but no two runs need end in the same.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from circuits.corpus.batches import Batch, BatchPlan, Position, batches, train_tokenizer
from circuits.corpus.documents import BuiltInCorpus, Corpus, Tokenizer
from circuits.errors import PlanError, RunError
from circuits.model.checkpoints import Progress, load_checkpoint, save_checkpoint
from circuits.model.evaluation import HeldOut, exact_entropy, held_out_loss, parted
from circuits.model.llama import write
from circuits.model.loading import chosen_device
from circuits.model.plan import ModelPlan
from circuits.storage.files import read_json, write_json
from circuits.storage.progress import counted
from circuits.storage.training_run import (
    METRICS,
    PLAN,
    RESULT,
    claimed,
    is_run,
    put_in_place,
    stop_requests,
    truncate_metrics,
)

_CHECKPOINT = "checkpoint.safetensors"
_FLUSH = 10  # steps between two writes of metrics: on a GPU, each waits for the steps before


@dataclass(frozen=True)
class Trained:
    """What came of a training run; ``load_model(trained.folder)`` is the model."""

    folder: Path
    n_steps: int
    n_tokens: int  # predicted in training, padding not counted
    n_parameters: int  # that were trained
    seconds: float  # of training alone
    held_out: HeldOut | None  # None: the text was too little to hold some of it out

    @property
    def files(self) -> list[Path]:
        """The model itself: what another tool needs, and what the same run makes again."""
        notes = {PLAN, RESULT, METRICS}
        inside = (path for path in self.folder.iterdir() if path.is_file())
        return [path for path in inside if path.name not in notes]

    @property
    def tokens_per_second(self) -> float:
        """Training throughput."""
        return self.n_tokens / self.seconds


def train_model(
    plan: ModelPlan,
    corpus: Corpus,
    out: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str | None = None,
    checkpoint_every: int = 100,
) -> Trained:
    """Train by a plan into a folder in the Hugging Face Llama format; go on where a run stopped.

    Without a ``tokenizer`` one is learnt from the text: whole words for the built-in stories,
    pieces of words for others. A finished run of the same plan and text is returned as it is.
    """
    if checkpoint_every < 1:
        raise PlanError(f"checkpoint_every is {checkpoint_every}: save every step or less often.")
    out = Path(out)
    training, held_out = parted(corpus)
    tokenizer = tokenizer or train_tokenizer(
        training, "word" if isinstance(corpus, BuiltInCorpus) else "bpe"
    )
    made_of = {
        "plan": plan.as_dict(),
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer_hash(tokenizer),
    }
    if is_run(out, made_of) and (out / RESULT).exists() and not (out / _CHECKPOINT).exists():
        return _finished(out)
    run = Run(plan, tokenizer, device)
    if (out / _CHECKPOINT).exists():
        run.resume(out / _CHECKPOINT, made_of)
    text = batches(training, tokenizer, run.batch_plan, run.position)
    text = chain([next(text)], text)  # what is wrong with the text is told before anything is made
    with claimed([out], made_of):
        truncate_metrics(out / METRICS, run.progress.step)
        with stop_requests() as stop:
            floor = exact_entropy(corpus, tokenizer)
            _train(run, text, out, floor, made_of, checkpoint_every, stop)
        measured = None
        if held_out is not None:
            measured = held_out_loss(run.network, held_out, tokenizer, run.batch_plan)
        return _finish(run, out, measured, made_of)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Of everything that decides how text is cut, where the tokenizer can spell it out."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    spelt = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return sha256(spelt.encode()).hexdigest()


class Run:
    """A network on its way: weights, optimizer, noise and how far they have come."""

    def __init__(
        self, plan: ModelPlan, tokenizer: Tokenizer, device: torch.device | str | None = None
    ) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.device = chosen_device(device)
        self.batch_plan = BatchPlan(plan.n_rows, plan.window, plan.seed)
        self.network = new_network(plan, tokenizer).to(self.device).train()
        weights = [w for w in self.network.parameters() if w.requires_grad]
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
        self.noise = torch.Generator(self.device).manual_seed(plan.seed)
        self.progress = Progress()
        if plan.noise:
            for block in self.network.model.layers:
                block.mlp.register_forward_pre_hook(self._noisy)

    def _noisy(self, module: Any, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if not module.training:
            return None
        (x,) = args
        drawn = torch.randn(x.shape, generator=self.noise, device=x.device, dtype=x.dtype)
        return (x + self.plan.noise * drawn,)

    @property
    def position(self) -> Position:
        """Where in the text the next batch begins."""
        return Position(**(self.progress.position or {}))

    def resume(self, path: Path, made_of: dict[str, Any]) -> None:
        """Take up the state that a checkpoint holds."""
        self.progress = load_checkpoint(path, self.network, self.optimizer, self.noise, made_of)

    def step(self, batch: Batch) -> Tensor:
        """One step; returns the batch's mean loss, which stays on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.progress.step)
        tokens = batch.tokens.to(self.device, non_blocking=True)
        mask = batch.mask[:, 1:].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            hidden = self.network.model(tokens[:, :-1], use_cache=False).last_hidden_state
            logits = self.network.lm_head(hidden[mask])  # padding costs no logits
        loss = functional.cross_entropy(logits.float(), tokens[:, 1:][mask])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(self.network.parameters(), self.plan.clip)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.n_tokens += batch.n_predicted
        self.progress.position = batch.after.as_dict()
        return loss.detach()


def new_network(plan: ModelPlan, tokenizer: Tokenizer) -> Any:
    """An untrained network of the plan's shape and seed, as transformers builds it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = plan.shape
    config: Any = LlamaConfig(
        vocab_size=len(tokenizer),
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


def _train(
    run: Run,
    text: Iterator[Batch],
    out: Path,
    floor: float | None,
    made_of: dict[str, Any],
    checkpoint_every: int,
    stop: Callable[[], int | None],
) -> None:
    progress, n_steps = run.progress, run.plan.n_steps
    kept, began, waiting = (progress.n_tokens, progress.seconds), time.perf_counter(), []
    bar = counted(n_steps, "training", "step", progress.step)
    with (out / METRICS).open("a", encoding="utf-8") as metrics, bar:
        for batch in islice(text, n_steps - progress.step):
            rate = run.plan.rate(progress.step)
            waiting.append((progress.step + 1, rate, run.step(batch)))
            stopped, last = stop(), progress.step == n_steps
            saving = stopped or last or progress.step % checkpoint_every == 0
            if not saving and len(waiting) < _FLUSH:
                continue
            losses = torch.stack([loss for _, _, loss in waiting]).tolist()  # waits for the GPU
            progress.seconds = kept[1] + time.perf_counter() - began
            speed = (progress.n_tokens - kept[0]) / (progress.seconds - kept[1])
            for (step, rate, _), loss in zip(waiting, losses, strict=True):
                row = {"step": step, "loss": loss, "floor": floor, "learning_rate": rate}
                metrics.write(json.dumps({**row, "tokens_per_second": round(speed)}) + "\n")
            metrics.flush()
            bar.set_postfix({"loss": f"{losses[-1]:.3f}", "tok/s": f"{speed:.0f}"}, refresh=False)
            bar.update(len(waiting))
            waiting.clear()
            if saving:
                save_checkpoint(
                    out / _CHECKPOINT, run.network, run.optimizer, run.noise, progress, made_of
                )
            if stopped:
                return


def _finish(run: Run, out: Path, held_out: HeldOut | None, made_of: dict[str, Any]) -> Trained:
    progress = run.progress
    n_trained = sum(w.numel() for w in run.network.parameters() if w.requires_grad)
    trained = Trained(out, progress.step, progress.n_tokens, n_trained, progress.seconds, held_out)
    run.network.eval()
    with put_in_place(out) as files:
        write(run.network, run.tokenizer, files)
    result = {name: value for name, value in asdict(trained).items() if name != "folder"}
    versions = {name: version(name) for name in ("torch", "transformers", "bilinear-circuits")}
    write_json(
        out / RESULT,
        {**result, **made_of, "versions": {**versions, "python": platform.python_version()}},
    )
    (out / _CHECKPOINT).unlink(missing_ok=True)
    return trained


def _finished(out: Path) -> Trained:
    result = read_json(out / RESULT, RunError)
    held_out = result["held_out"] and HeldOut(**result["held_out"])
    if held_out and held_out.reactions:  # null in the file: a case without a reaction
        shares = {case: math.nan if x is None else x for case, x in held_out.reactions.items()}
        held_out = replace(held_out, reactions=shares)
    numbers = {name: result[name] for name in ("n_steps", "n_tokens", "n_parameters", "seconds")}
    return Trained(out, **numbers, held_out=held_out)
