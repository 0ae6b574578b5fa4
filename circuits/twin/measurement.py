"""What a twin costs: it and its original on the same held-out text.

The control is the original with its gates simply removed: what a twin would be without training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from circuits.corpus.batches import Batch, BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import CorpusError
from circuits.model.identity import TwinLabel
from circuits.model.known_text import check_spelt
from circuits.model.model import Model
from circuits.storage.hub import name_of
from circuits.storage.progress import counted
from circuits.twin.fitting import above_zero
from circuits.twin.gates import made_linear

_TOKENS = 100_000  # held-out tokens that are measured, where there are as many
_FIRST_LOOK = 30_000  # of them, on which the original is tried before anything is trained
_PACKAGES = ("torch", "transformers", "bilinear-circuits")


def check_fits(original: Model, held_out: Corpus, plan: BatchPlan) -> None:
    """Refuse a text on which the original does worse than a guess among all tokens."""
    total = n = 0.0
    for batch in _some(held_out, original.tokenizer, plan, _FIRST_LOOK):
        total += float(original.loss(batch.tokens, batch.mask)) * batch.n_predicted
        n += batch.n_predicted
    guess = math.log(len(original.known_tokens))
    if n == 0:
        raise CorpusError(
            f"the held-out text has not one row of {plan.window} tokens. Give more text, or make "
            f"the plan's window smaller."
        )
    check_spelt(original, held_out)
    if not total / n < guess:
        raise CorpusError(
            f"{original.path}: its loss on this text is {total / n:.2f} nats a token, and a guess "
            f"among its {len(original.known_tokens)} tokens has {guess:.2f}: the tokenizer does "
            f"not belong to the model, or the model does not know this language. Pass the model's "
            f"own tokenizer, or other text."
        )


@torch.no_grad()
def measured(
    original: Model, twin: Any, held_out: Corpus, plan: BatchPlan, about: dict[str, Any]
) -> TwinLabel:
    """The label of a twin, whose network has no gates any more."""
    removed = deepcopy(original.network)
    made_linear(removed)
    sums = _Sums(original.n_layer)
    handles = [
        block.mlp.register_forward_hook(sums.layer(index, twin.model.layers[index].mlp))
        for index, block in enumerate(original.network.model.layers)
    ]
    try:
        for batch in _some(held_out, original.tokenizer, plan, _TOKENS):
            tokens, asked = batch.tokens.to(original.device), batch.mask[:, 1:].to(original.device)
            networks = (original.network, twin, removed)
            logits = [each(tokens[:, :-1], use_cache=False).logits for each in networks]
            sums.add(logits, tokens[:, 1:], asked)
    finally:
        for handle in handles:
            handle.remove()
    return TwinLabel(
        original=name_of(original.path),
        original_fingerprint=original.fingerprint,
        activation=str(original.network.config.hidden_act),
        **sums.means(),
        n_held_out=sums.n,
        versions=", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        **about,
    )


def _some(corpus: Corpus, tokenizer: Any, plan: BatchPlan, n_tokens: int) -> Iterator[Batch]:
    """The first rows of a corpus, of about so many tokens; a bar is shown."""
    n_documents = 2**40 if corpus.n_documents is None else corpus.n_documents
    n = 0
    with counted(n_tokens, "measuring", "token") as bar:
        for batch in in_order(corpus, tokenizer, plan, n_documents):
            if n >= n_tokens:
                return
            n += batch.n_predicted
            bar.update(batch.n_predicted)
            yield batch


class _Sums:
    """Sums over tokens, and of each row's difference for its standard error."""

    def __init__(self, n_layer: int) -> None:
        self.n = 0
        self._nats = torch.zeros(3, dtype=torch.float64)
        self._kl = self._agree = 0.0
        self._gaps: list[Tensor] = []
        self._missed = torch.zeros(n_layer, dtype=torch.float64)
        self._outputs = [torch.zeros(2, 1, dtype=torch.float64)] * n_layer
        self._n_given = 0  # positions, of which some are asked for

    def layer(self, index: int, twin: Any) -> Any:
        """A hook on an MLP of the original, which asks the twin's for the same inputs' outputs."""

        def compare(_module: Any, args: tuple[Tensor], out: Tensor) -> None:
            wanted = out.double().flatten(0, 1)
            self._missed[index] += float(
                (twin(*args).double().flatten(0, 1) - wanted).square().sum()
            )
            moments = torch.stack([wanted.sum(0), wanted.square().sum(0)]).cpu()
            self._outputs[index] = self._outputs[index] + moments

        return compare

    def add(self, logits: Sequence[Tensor], wanted: Tensor, asked: Tensor) -> None:
        """Logits of the original, the twin and the control, and the tokens that were wanted."""
        logs = [each.float().log_softmax(-1) for each in logits]
        taught, learned, _ = logs
        nats = torch.stack([-log.gather(-1, wanted[..., None])[..., 0] for log in logs])
        nats = torch.where(asked, nats, 0.0).double()
        self._nats += nats.sum((1, 2)).cpu()
        divergence = functional.kl_div(learned, taught, reduction="none", log_target=True).sum(-1)
        self._kl += float(divergence[asked].double().sum())
        self._agree += float((taught.argmax(-1) == learned.argmax(-1))[asked].sum())
        self._gaps.append(((nats[1] - nats[0]).sum(1) / asked.sum(1).clamp_min(1)).cpu())
        self.n += int(asked.sum())
        self._n_given += asked.numel()

    def means(self) -> dict[str, Any]:
        """The figures of a label."""
        gaps = torch.cat(self._gaps)
        loss = (self._nats / self.n).tolist()
        return {
            "original_loss": loss[0],
            "loss": loss[1],
            "removed_loss": loss[2],
            "gap_error": float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else None,
            "kl": self._kl / self.n,
            "agreement": self._agree / self.n,
            "mlp_fvu": tuple(map(self._fvu, range(len(self._outputs)))),
        }

    def _fvu(self, index: int) -> float:
        total, squares = self._outputs[index]
        variance = above_zero((squares - total.square() / self._n_given).sum())
        return float(self._missed[index] / variance)
