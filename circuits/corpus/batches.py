"""Documents to token batches: the same bytes for the same corpus, tokenizer, plan and position.

Each row is one document (or one window of a long one) between its own ``<bos>`` and ``<eos>``,
padded on the right, so no attention mask is needed. (A document that fills its last row to the end
has no room for its ``<eos>``.) Rows of similar length are batched together, rather than packed with
several documents: as fast (measured on two cores, tokens a second relative to unsorted rows: 1.42,
packed with a block mask 1.33), and right for models and bridges that take no block mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from circuits.corpus.documents import Corpus, Tokenizer
from circuits.errors import CorpusError

CHUNK = 4096
"""Documents that are read, and shuffled, together."""

_ROUND = 8  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class BatchPlan:
    """How documents become batches."""

    n_rows: int = 64  # rows in a batch
    window: int = 128  # longest row, with ``<bos>`` and ``<eos>``; longer documents become several
    seed: int = 0  # decides the order

    def __post_init__(self) -> None:
        if self.n_rows < 1 or self.window < 3 or self.seed < 0:
            raise CorpusError(
                f"{self}: rows must hold <bos>, a token and what comes after it. Want n_rows >= 1, "
                f"window >= 3, seed >= 0."
            )


@dataclass(frozen=True)
class Position:
    """Where in a corpus the next batch comes from; plain numbers, to be kept as JSON."""

    epoch: int = 0
    chunk: int = 0
    batch: int = 0

    def __post_init__(self) -> None:
        if min(self.epoch, self.chunk, self.batch) < 0:
            raise CorpusError(f"{self}: none of its numbers may be negative.")

    def as_dict(self) -> dict[str, int]:
        """For a checkpoint; ``Position(**kept)`` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, and which of them are not padding."""

    tokens: Int64[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]  # False for padding, which no loss may count
    document: Int64[Tensor, " batch"]  # the number of each row's document in the corpus
    nth: Int64[Tensor, " batch"]  # which of its document's rows it is, from 0
    after: Position  # where the next batch begins

    @property
    def n_predicted(self) -> int:
        """Tokens that the batch asks a model to predict: all but padding and ``<bos>``."""
        return int(self.mask[:, 1:].sum())


def batches(
    corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan, start: Position | None = None
) -> Iterator[Batch]:
    """Endless shuffled batches, from a position: to resume, the ``after`` of the last one used.

    Rows left over at the end of a chunk are not used in that epoch; each epoch shuffles anew. A
    position means the same only with the same corpus, tokenizer and plan.
    """
    reader = _Reader(corpus, tokenizer, plan)
    start = start or Position()
    for epoch in count(start.epoch):
        found = epoch == start.epoch and (start.chunk, start.batch) != (0, 0)
        for chunk in count(start.chunk if epoch == start.epoch else 0):
            rows = reader.chunk(chunk)
            if rows is None:
                break
            first = start.batch if (epoch, chunk) == (start.epoch, start.chunk) else 0
            order = _shuffled(rows.length, plan, (epoch, chunk))
            found = found or len(order) > 0
            for batch in range(first, len(order)):
                last = batch + 1 == len(order)
                after = Position(epoch, chunk + last, 0 if last else batch + 1)
                yield rows.batch(order[batch], after)
        if not found:
            raise CorpusError(
                f"corpus of {corpus.n_documents} documents: too few for one batch of "
                f"{plan.n_rows} rows of up to {plan.window} tokens. Make n_rows smaller or give "
                f"more text."
            )


def in_order(
    corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan, n_documents: int
) -> Iterator[Batch]:
    """Every row of the first documents once, in order: for measuring, not for training."""
    reader = _Reader(corpus, tokenizer, plan)
    for chunk in range(-(-n_documents // CHUNK)):
        rows = reader.rows(chunk * CHUNK, min((chunk + 1) * CHUNK, n_documents))
        if rows is None:
            return
        for first in range(0, len(rows.length), plan.n_rows):
            chosen = np.arange(first, min(first + plan.n_rows, len(rows.length)))
            yield rows.batch(chosen, Position(0, chunk, first // plan.n_rows + 1))


class _Reader:
    """Chunks of a corpus as rows."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan) -> None:
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        missing = [f"{name}_token" for name, number in special.items() if number is None]
        if missing:
            raise CorpusError(
                f"{type(tokenizer).__name__} without {' and '.join(missing)}: rows begin with bos, "
                f"end with eos and are filled up with pad. Set it, for example "
                f"tokenizer.{missing[0]} = tokenizer.eos_token if it has one."
            )
        self._special = special
        self._encode = corpus.encoder(tokenizer)
        self._window = plan.window
        self._n_documents = corpus.n_documents

    def chunk(self, chunk: int) -> _Rows | None:
        """The rows of a chunk, or None after the last; a short remainder joins the one before."""
        first, stop = chunk * CHUNK, (chunk + 1) * CHUNK
        if self._n_documents is not None:
            n_chunks = max(1, self._n_documents // CHUNK)
            if chunk >= n_chunks:
                return None
            stop = self._n_documents if chunk == n_chunks - 1 else stop
        return self.rows(first, stop)

    def rows(self, first: int, stop: int) -> _Rows | None:
        """The rows of some documents, or None where there are none."""
        ids, offsets = self._encode(first, stop)
        if len(offsets) == 1:
            return None
        # every document with its <eos> behind it, one after the other
        n_tokens = np.diff(offsets) + 1
        begins = np.cumsum(n_tokens) - n_tokens
        stream = np.full(n_tokens.sum(), self._special["eos"], dtype=np.int64)
        stream[np.arange(len(ids)) + np.repeat(np.arange(len(n_tokens)), n_tokens - 1)] = ids
        body = self._window - 1  # what a row holds besides <bos>
        # counted without <eos>: a row of <eos> alone would teach what no text says
        pieces = np.maximum(-(-(n_tokens - 1) // body), 1)
        document = np.repeat(np.arange(len(n_tokens)), pieces)
        nth = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        length = np.minimum(n_tokens[document] - nth * body, body)
        begin = begins[document] + nth * body
        return _Rows(stream, begin, length, document + first, nth, self._special)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a chunk: where each lies in a stream of tokens."""

    stream: Int64[np.ndarray, " token"]
    begin: Int64[np.ndarray, " row"]
    length: Int64[np.ndarray, " row"]  # without <bos>
    document: Int64[np.ndarray, " row"]
    nth: Int64[np.ndarray, " row"]
    special: dict[str, int]

    def batch(self, chosen: Int64[np.ndarray, " batch"], after: Position) -> Batch:
        """Some of the rows, padded to the longest of them."""
        length = self.length[chosen, None]
        place = np.arange(length.max())
        at = np.minimum(self.begin[chosen, None] + place, len(self.stream) - 1)
        tokens = np.full((len(chosen), len(place) + 1), self.special["bos"], dtype=np.int64)
        tokens[:, 1:] = np.where(place < length, self.stream[at], self.special["pad"])
        mask = np.arange(len(place) + 1) <= length
        document, nth = self.document[chosen], self.nth[chosen]
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(mask),
            torch.from_numpy(document.astype(np.int64)),
            torch.from_numpy(nth.astype(np.int64)),
            after,
        )


def _shuffled(
    length: Int64[np.ndarray, " row"], plan: BatchPlan, where: tuple[int, int]
) -> Int64[np.ndarray, "batches batch"]:
    """Rows of each batch of a chunk: shuffled, then sorted by length within a few batches (only a
    few, so that batches of one length do not bias single steps)."""
    rng = np.random.default_rng([plan.seed, *where])
    n_batches = len(length) // plan.n_rows
    order = np.argsort(rng.random(len(length)), kind="stable")[: n_batches * plan.n_rows]
    rounds = [
        some[np.argsort(length[some], kind="stable")].reshape(-1, plan.n_rows)
        for some in np.split(order, range(_ROUND * plan.n_rows, len(order), _ROUND * plan.n_rows))
    ]
    shuffled = [some[np.argsort(rng.random(len(some)), kind="stable")] for some in rounds]
    return np.concatenate(shuffled).astype(np.int64)
