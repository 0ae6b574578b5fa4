"""Train a gated model on until its gates are gone: its bilinear twin, with the price on a label.

1. in a copy of the original each MLP, with a straight line in place of its gate, is fitted alone
   to what the original's MLP gives (`circuits.twin.fitting`); or gates fade to that line while the
   copy trains (`circuits.twin.gates`)
2. the copy trains, taught by the original's own answers
3. what is left of the gates goes into the weights, and the copy is a model that every tool for
   bilinear models takes
4. it is measured beside the original and beside the original with its gates simply removed
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.arguments import checked
from circuits.corpus.batches import CHUNK, Batch, BatchPlan, batches, in_order
from circuits.corpus.documents import Corpus, split_corpus
from circuits.errors import CorpusError, ModelError, PlanError
from circuits.model.formats.llama import write
from circuits.model.loading import model_in
from circuits.model.model import Model
from circuits.model.network_training import NetworkTraining, Precision
from circuits.storage.checkpoint import check_numbers
from circuits.storage.training_run import RunFiles
from circuits.twin.fitting import above_zero, fit_layers
from circuits.twin.gates import fading_gates, made_linear
from circuits.twin.measurement import check_fits, measured
from circuits.twin.norms import fading_norms, fit_constants, made_fixed
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.writing import Joined
from circuits.twin.writing import self_written as self_written_texts

_BATCHES = 8  # of text, that the scales of norms are fitted on
_DOCUMENTS = 2000  # at most


@checked
def bilinear_twin(
    path: str | Path,
    corpus: Corpus | None,
    plan: TwinPlan | None = None,
    out: str | Path = "twin",
    *,
    self_written: int = 0,
    tokenizer: str | Path | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    rows_at_once: int | None = None,
    checkpoint_every: int = 100,
) -> Model:
    """Train the bilinear twin of a gated model into a folder; an interrupted run resumes.

    ``path`` is a folder or ``hub:owner/name`` of a Llama-like model whose gate is SiLU, GELU, ReLU
    or the like. It trains on the corpus, and on as many texts as are ``self_written`` by the
    original, or on those alone. What the twin cost is its ``label``.
    """
    out, plan = Path(out), plan or TwinPlan()
    original = load_original(path, tokenizer=tokenizer, device=device)
    if plan.window > original.n_context:
        raise PlanError(
            f"window is {plan.window}, but {path} has a context of {original.n_context}. Make the "
            f'plan\'s window at most that: --plan FILE with {{"window": {original.n_context}}}.'
        )
    made_of: dict[str, Any] = {"plan": plan.as_dict(), "original": original.fingerprint}
    if self_written:
        made_of["self_written"] = self_written
    if precision != "auto":
        made_of["precision"] = precision
    files = RunFiles((out,), out / "checkpoint.safetensors", made_of)
    _ = files.finished  # another run's folder is refused before its texts are written over
    text, held_out = training_text(original, corpus, plan, self_written, out)
    files = replace(files, made_of={**made_of, "corpus": text.fingerprint})
    if not files.finished:
        training = TwinTraining(plan, original, text, held_out, precision, rows_at_once)
        training.run(files, checkpoint_every)
    return model_in(out, device=device)


def training_text(
    original: Model, corpus: Corpus | None, plan: TwinPlan, n_written: int, out: Path
) -> tuple[Corpus, Corpus]:
    """What to train on, and what to measure on: of the text that was given, where one was."""
    if corpus is None and not n_written:
        raise CorpusError(
            "bilinear_twin: there is no text to train on. Pass a corpus of text like the model's "
            "own, or let the original write some, as with self_written=2000."
        )
    written = None
    if n_written:
        place = self_written_place(out)
        written = self_written_texts(original, n_written, plan.window, place, plan.seed)
    given = corpus or written
    assert given is not None  # one of the two
    text, held_out = split_corpus(given)
    if held_out is None:
        raise CorpusError(
            f"{given.n_documents} documents are too few to hold any out, and what a twin costs is "
            f"measured on text that it was not trained on. Give more text."
        )
    return (text if given is written or written is None else Joined(written, text)), held_out


def self_written_place(out: Path) -> Path:
    """Where the texts that the original wrote for a twin are kept: beside its folder."""
    return out.with_name(f"{out.name}-self-written.parquet")


class TwinTraining(NetworkTraining):
    """A copy of the original in training, while its gates fade."""

    measures: ClassVar = ("loss", "nats", "kl")
    plan: TwinPlan

    def __init__(
        self,
        plan: TwinPlan,
        original: Model,
        text: Corpus,
        held_out: Corpus,
        precision: Precision = "auto",
        rows_at_once: int | None = None,
    ) -> None:
        self.original, self._unseen = original, held_out
        network = deepcopy(original.network)
        self._gates = fading_gates(network)
        self._norms = fading_norms(network) if plan.remove_norms else []
        self._fitted: tuple[float, ...] | None = None  # what each fitted MLP misses
        network.requires_grad_(not plan.only_mlps)
        for block in network.model.layers:
            block.mlp.requires_grad_(True)
        self._outputs = _Outputs(original.network, network) if plan.matched else None
        batch_plan = BatchPlan(plan.n_rows, plan.window, plan.seed, packed=True)
        super().__init__(
            plan, network, original.tokenizer, text, held_out, batch_plan, precision, rows_at_once
        )
        network.eval()  # without dropout, whose draws no seed decides

    def begin(self) -> None:
        """Refuse a text that the original itself cannot read; fit each MLP alone."""
        check_fits(self.original, self._unseen, self._rows_measured)
        if self.plan.fit:
            began = time.perf_counter()
            self._set_strengths()
            self._fitted = fit_layers(
                self.original.network, self.network, self._in_another_order(), self.plan.fit
            )
            self.n_tokens += self.plan.fit * self.plan.n_rows * (self.plan.window - 1)
            self.seconds += time.perf_counter() - began
        if self._norms:
            text = in_order(self._text, self.tokenizer, self._batch_plan, _DOCUMENTS)
            fit_constants(
                self.network, self._norms,
                [batch.tokens.to(self.device) for batch in islice(text, _BATCHES)],
            )  # fmt: skip

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What norms fade to, and how near fitted MLPs came, too."""
        tensors, values = super().state()
        values |= {"constants": [norm.constant for norm in self._norms], "fitted": self._fitted}
        return tensors, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The way back from `state`."""
        super().restore(tensors, values)
        constants, fitted = values["constants"], values["fitted"]
        check_numbers(scales := _numbered("constant", constants), above_zero=scales)
        check_numbers(missed := _numbered("fitted", fitted or []), least=dict.fromkeys(missed, 0))
        if fitted is not None and len(fitted) != len(self.network.model.layers):
            raise ValueError(f"{len(fitted)} layers were fitted")
        for norm, constant in zip(self._norms, constants, strict=True):
            norm.constant = constant
        self._fitted = None if fitted is None else tuple(fitted)

    def loss(
        self, tokens: Int64[Tensor, "batch pos"], asked: Bool[Tensor, "batch next"]
    ) -> Float[Tensor, " measure"]:
        """What is minimised: the divergence from the original's answers, nats per token, and the
        distance of the MLPs' outputs, each by its weight; then the first two alone."""
        plan = self.plan
        self._set_strengths()
        if self._outputs is not None:
            self._outputs.clear()
        given, wanted = tokens[:, :-1], tokens[:, 1:][asked]
        logits = self.network(given, use_cache=False).logits
        with torch.no_grad():
            taught = self.original.network(given, use_cache=False).logits
        answers = logits.float().log_softmax(-1).flatten(0, 1)
        taught = taught.float().log_softmax(-1).flatten(0, 1)
        # marks between documents are answered as the original does, and are no part of the loss
        kl = functional.kl_div(answers, taught, reduction="batchmean", log_target=True)
        nats = functional.nll_loss(answers[asked.flatten()], wanted)
        loss = plan.distilled * kl + (1 - plan.distilled) * nats
        if self._outputs is not None:
            loss = loss + plan.matched * self._outputs.distance()
        return torch.stack([loss, nats.detach(), kl.detach()])

    def _set_strengths(self) -> None:
        """How much is left of each gate and norm at this step."""
        plan, gates, norms = self.plan, self._gates, self._norms
        for gate, strength in zip(gates, plan.strengths(self.step, len(gates)), strict=True):
            gate.strength = strength
        if norms:
            left = plan.norm_strengths(self.step, len(norms))
            for norm, strength in zip(norms, left, strict=True):
                norm.strength = strength

    def _in_another_order(self) -> Iterator[Batch]:
        """The training text from its beginning, in another order."""
        plan = replace(self._batch_plan, seed=self._batch_plan.seed + 1)
        return batches(self._text, self.tokenizer, plan)

    @property
    def _rows_measured(self) -> BatchPlan:
        """As many rows of held-out text at a time as a training step computes together."""
        n_rows = min(self._batch_plan.n_rows, self._rows_at_once or CHUNK)
        return replace(self._batch_plan, n_rows=n_rows)

    def results(self) -> Iterator[tuple[Callable[[Path], None], dict[str, Any]]]:
        """The twin with its tokenizer and its label."""
        if self._outputs is not None:
            self._outputs.remove()
        network = self.network.eval().requires_grad_(False)
        made_linear(network)
        for norm in self._norms:
            norm.strength = 0.0
        made_fixed(network, self._norms)
        about: dict[str, Any] = {"tokens": self.n_tokens, "seed": self.plan.seed}
        about |= {"norms_removed": self.plan.remove_norms, "fitted_fvu": self._fitted}
        label = measured(self.original, network, self._unseen, self._rows_measured, about)
        if not math.isfinite(label.loss):
            raise ModelError(
                f"after step {self.step}, the last, the twin's loss on held-out text is "
                f"{label.loss}. {self.slower}"
            )

        def write_twin(folder: Path) -> None:
            write(network, self.tokenizer, folder)
            # as it is read again, before there is a label: so its reader will find it
            label.write_first(folder, model_in(folder, device="cpu").fingerprint)

        yield write_twin, self.ended()


def _numbered(name: str, values: list[Any]) -> dict[str, Any]:
    return {f"{name} {nth}": value for nth, value in enumerate(values)}


class _Outputs:
    """The outputs of both networks' MLPs in one forward pass each."""

    def __init__(self, *networks: Any) -> None:
        self._seen: tuple[list[Tensor], ...] = tuple([] for _ in networks)
        self._handles = [
            block.mlp.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
            for network, seen in zip(networks, self._seen, strict=True)
            for block in network.model.layers
        ]

    def distance(self) -> Tensor:
        """The mean squared distance, relative to the original's mean square, over the layers."""
        taught, learned = self._seen
        pairs = zip(taught, learned, strict=True)
        parts = [functional.mse_loss(x.float(), y.float()) / above_zero(y.float().square().mean())
                 for y, x in pairs]  # fmt: skip
        return torch.stack(parts).mean()

    def clear(self) -> None:
        """Forget what other passes left."""
        for seen in self._seen:
            seen.clear()

    def remove(self) -> None:
        """Leave both networks as they were."""
        for handle in self._handles:
            handle.remove()
