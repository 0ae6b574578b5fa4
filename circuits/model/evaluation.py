"""How well a language model predicts text that it was not trained on.

For the built-in stories the loss has an exact floor, the stories' own surprisal, and a behaviour
to be right about: whether the reaction fits the *effective* sentiment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from circuits.corpus.batches import Batch, BatchPlan, in_order
from circuits.corpus.documents import BuiltInCorpus, Corpus, Tokenizer
from circuits.storage.progress import progress

N_HELD_OUT = 2000
"""Documents at the beginning of a corpus that are kept from training; of few, every twentieth."""

CASES = {"good": (1, False), "not good": (1, True), "bad": (-1, False), "not bad": (-1, True)}
"""Polarity of the adjective, and whether it is negated."""


@dataclass(frozen=True)
class HeldOut:
    """Losses in nats a predicted token, and the share of reactions that are right."""

    loss: float
    n_tokens: int
    floor: float | None = None  # of these very documents, where their probability is known
    reactions: dict[str, float] | None = None  # by case, where the corpus has them
    n_reactions: int = 0

    @property
    def gap(self) -> float | None:
        """What the model loses to the best that any could do."""
        return None if self.floor is None else self.loss - self.floor


def parted(corpus: Corpus) -> tuple[Corpus, Corpus | None]:
    """What to train on and what to hold out; nothing is held out of less than 20 documents."""
    n_documents = corpus.n_documents
    n_held_out = N_HELD_OUT if n_documents is None else min(N_HELD_OUT, n_documents // 20)
    if n_held_out == 0:
        return corpus, None
    return corpus.part(n_held_out), corpus.part(0, n_held_out)


def exact_entropy(corpus: Corpus, tokenizer: Tokenizer) -> float | None:
    """Nats a token that no model can go below: known where each word of the stories is a token."""
    if isinstance(corpus, BuiltInCorpus) and corpus.word_numbers(tokenizer) is None:
        return None
    return corpus.entropy


@torch.no_grad()
def held_out_loss(network: Any, corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan) -> HeldOut:
    """The loss on every document of a corpus, and the reactions where it tells them."""
    n_documents = corpus.n_documents
    assert n_documents is not None  # a part has its length
    training, device = network.training, network.lm_head.weight.device
    network.eval()
    told = None
    if isinstance(corpus, BuiltInCorpus) and corpus.word_numbers(tokenizer) is not None:
        told = corpus.stories(0, n_documents)
    judge = None if told is None else _Judge(corpus, tokenizer, told.reactions)
    total, n_tokens = 0.0, 0
    for batch in progress(in_order(corpus, tokenizer, plan, n_documents), "held out", "batch"):
        logits = network(batch.tokens.to(device), use_cache=False).logits.float().cpu()
        mask = batch.mask[:, 1:]
        losses = functional.cross_entropy(logits[:, :-1][mask], batch.tokens[:, 1:][mask])
        total += float(losses) * batch.n_predicted
        n_tokens += batch.n_predicted
        if judge is not None:
            judge.look(batch, logits)
    network.train(training)
    if told is None or judge is None:
        return HeldOut(total / n_tokens, n_tokens, exact_entropy(corpus, tokenizer))
    # where a story did not fit into a row, what its rows predict is not what it is made of
    whole = n_tokens == len(told.tokens) + len(told)
    floor = float(told.surprisal.sum()) / n_tokens if whole else None
    return HeldOut(total / n_tokens, n_tokens, floor, judge.shares(), judge.n_judged)


class _Judge:
    """Whether glad or sad words are the likelier ones where a reaction is due."""

    def __init__(self, corpus: Any, tokenizer: Tokenizer, reactions: pd.DataFrame) -> None:
        lexicon = corpus.generator.grammar.lexicon
        self._glad, self._sad = (
            tokenizer.convert_tokens_to_ids([*words])
            for words in ((*lexicon.glad, *lexicon.cheers), (*lexicon.sad, *lexicon.tears))
        )
        self._reactions = reactions.assign(right=np.nan)

    def look(self, batch: Batch, logits: Tensor) -> None:
        """Judge the reactions in a batch; those beyond the first row of a document are left out."""
        rows_of = zip(batch.document.tolist(), batch.nth.tolist(), strict=True)
        first_row = {document: row for row, (document, nth) in enumerate(rows_of) if nth == 0}
        due = self._reactions[self._reactions["document"].isin(first_row)]
        rows = torch.tensor([first_row[d] for d in due["document"]], dtype=torch.int64)
        # the word at position p of the story is at p + 1 in its row, and is predicted at p
        position = torch.tensor(due["position"].to_numpy(), dtype=torch.int64)
        there = position + 1 < batch.mask.sum(1)[rows]
        chances = logits[rows[there], position[there]].softmax(-1)
        more_glad = chances[:, self._glad].sum(-1) > chances[:, self._sad].sum(-1)
        asked = due.index[there.numpy()]
        wanted = self._reactions.loc[asked, "sentiment"].to_numpy() > 0
        self._reactions.loc[asked, "right"] = (more_glad.numpy() == wanted).astype(float)

    @property
    def n_judged(self) -> int:
        return int(self._reactions["right"].notna().sum())

    def shares(self) -> dict[str, float]:
        table = self._reactions
        return {
            name: float(
                table.loc[
                    (table["polarity"] == sign) & (table["negated"] == negated), "right"
                ].mean()
            )
            for name, (sign, negated) in CASES.items()
        }
