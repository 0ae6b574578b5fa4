"""How well a language model predicts held-out text; of the built-in stories, beside the exact floor
of their own surprisal, and with the reactions that fit the *effective* sentiment."""

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

CASES = {"good": (1, False), "not good": (1, True), "bad": (-1, False), "not bad": (-1, True)}
"""Polarity of the adjective, and whether it is negated."""


@dataclass(frozen=True)
class HeldOut:
    """Losses in nats per predicted token, and the share of correct reactions."""

    loss: float
    n_tokens: int
    floor: float | None = None  # of these documents, where their probability is known
    reactions: dict[str, float] | None = None  # by case, where the corpus has them
    n_reactions: int = 0

    @property
    def gap(self) -> float | None:
        """How far the loss lies above the floor."""
        return None if self.floor is None else self.loss - self.floor


def exact_entropy(corpus: Corpus, tokenizer: Tokenizer) -> float | None:
    """The lowest possible loss per token: known where each word of the stories is one token."""
    if isinstance(corpus, BuiltInCorpus) and corpus.word_numbers(tokenizer) is None:
        return None
    return corpus.entropy


@torch.no_grad()
def held_out_loss(network: Any, corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan) -> HeldOut:
    """The loss on every document of a corpus, and the reactions where it has them."""
    n_documents = corpus.n_documents
    assert n_documents is not None  # a part has its length
    training, device = network.training, network.lm_head.weight.device
    network.eval()
    stories = None
    if isinstance(corpus, BuiltInCorpus) and corpus.word_numbers(tokenizer) is not None:
        stories = corpus.stories(0, n_documents)
    judge = None if stories is None else _Judge(corpus, tokenizer, stories.reactions)
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
    if stories is None or judge is None:
        return HeldOut(total / n_tokens, n_tokens, exact_entropy(corpus, tokenizer))
    # the floor is that of whole stories: none where one was split over several rows
    whole = n_tokens == len(stories.tokens) + len(stories)
    floor = float(stories.surprisal.sum()) / n_tokens if whole else None
    return HeldOut(total / n_tokens, n_tokens, floor, *judge.scores())


class _Judge:
    """Scores reactions: are glad or sad words likelier where one is due?"""

    def __init__(self, corpus: Any, tokenizer: Tokenizer, reactions: pd.DataFrame) -> None:
        lexicon = corpus.generator.grammar.lexicon
        self._glad, self._sad = (
            tokenizer.convert_tokens_to_ids([*words])
            for words in ((*lexicon.glad, *lexicon.cheers), (*lexicon.sad, *lexicon.tears))
        )
        self._reactions = reactions.assign(right=np.nan)

    def look(self, batch: Batch, logits: Tensor) -> None:
        """Score the reactions of a batch, except those beyond the first row of a document."""
        rows_of = zip(batch.document.tolist(), batch.nth.tolist(), strict=True)
        first_row = {document: row for row, (document, nth) in enumerate(rows_of) if nth == 0}
        due = self._reactions[self._reactions["document"].isin(first_row)]
        rows = torch.tensor([first_row[d] for d in due["document"]], dtype=torch.int64)
        # the word at position p of the story is at p + 1 in its row, and is predicted at p
        position = torch.tensor(due["position"].to_numpy(), dtype=torch.int64)
        there = position + 1 < batch.mask.sum(1)[rows]
        chances = logits[rows[there], position[there]].softmax(-1)
        more_glad = chances[:, self._glad].sum(-1) > chances[:, self._sad].sum(-1)
        scored = due.index[there.numpy()]
        wanted = self._reactions.loc[scored, "sentiment"].to_numpy() > 0
        self._reactions.loc[scored, "right"] = (more_glad.numpy() == wanted).astype(float)

    def scores(self) -> tuple[dict[str, float], int]:
        """The share of each case's reactions that are right, and how many were looked at."""
        right = self._reactions.groupby(["polarity", "negated"])["right"]
        means = right.mean().to_dict()
        shares = {name: float(means.get(case, np.nan)) for name, case in CASES.items()}
        return shares, int(right.count().sum())
