"""Documents to token batches: the same bytes for the same corpus, tokenizer, plan and position.

Each row is one document (or one window of a long one) between its own ``<bos>`` and ``<eos>``,
padded on the right, so no attention mask is needed. (A document that fills its last row to the end
has no room for its ``<eos>``.) Rows of similar length are batched together, rather than packed with
several documents: as fast (measured on two cores, tokens a second relative to unsorted rows: 1.42,
packed with a block mask 1.33), and right for models and bridges that take no block mask.

With ``packed``, rows are windows of one long text instead, as most language models were trained:
each document follows the one before it behind a ``<bos>`` (or before an ``<eos>``, where there is
no ``<bos>``), and there is no padding at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from circuits.corpus.documents import Corpus, Tokenizer
from circuits.errors import CorpusError

CHUNK = 4096
"""Documents that are read, and shuffled, together."""

Ints: TypeAlias = Int64[np.ndarray, " _"]

_ROUND = 8  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class BatchPlan:
    """How documents become batches."""

    n_rows: int = 64  # rows in a batch
    window: int = 128  # longest row, with ``<bos>`` and ``<eos>``; longer documents become several
    seed: int = 0  # decides the order
    packed: bool = False  # rows are windows of all documents one after the other

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
    mask: Bool[Tensor, "batch pos"]  # False for what no loss may count: padding, marks in a row
    document: Int64[Tensor, " batch"]  # the number of each row's document in the corpus
    nth: Int64[Tensor, " batch"]  # which of its document's rows it is, from 0
    after: Position  # where the next batch begins

    @property
    def n_predicted(self) -> int:
        """Tokens that the batch asks a model to predict: all but padding and each row's first."""
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
            rows = reader.chunk(chunk, epoch)
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
        self._marks = _Marks.of(tokenizer)
        self._encode = corpus.encoder(tokenizer)
        self._plan = plan
        self._n_documents = corpus.n_documents
        self._read: tuple[tuple[int, int], Any] = ((0, 0), None)  # the last range, and its tokens

    def chunk(self, chunk: int, epoch: int) -> _Rows | None:
        """The rows of a chunk, or None after the last; a short remainder joins the one before."""
        first, stop = chunk * CHUNK, (chunk + 1) * CHUNK
        if self._n_documents is not None:
            n_chunks = max(1, self._n_documents // CHUNK)
            if chunk >= n_chunks:
                return None
            stop = self._n_documents if chunk == n_chunks - 1 else stop
        return self.rows(first, stop, epoch)

    def rows(self, first: int, stop: int, epoch: int = 0) -> _Rows | None:
        """The rows of some documents, or None where there are none."""
        if self._read[0] != (first, stop):  # each epoch reads a small corpus again
            self._read = ((first, stop), self._encode(first, stop))
        ids, offsets = self._read[1]
        if len(offsets) == 1:
            return None
        if self._plan.packed:
            return self._windows(ids, offsets, first, epoch)
        # every document with its <eos> behind it, one after the other
        stream, n_tokens = _with_mark(ids, offsets, self._marks.eos, behind=True)
        begins = np.cumsum(n_tokens) - n_tokens
        body = self._plan.window - 1  # what a row holds besides <bos>
        # counted without <eos>: a row of <eos> alone would teach what no text says
        pieces = np.maximum(-(-(n_tokens - 1) // body), 1)
        document = np.repeat(np.arange(len(n_tokens)), pieces)
        nth = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        length = np.minimum(n_tokens[document] - nth * body, body)
        begin = begins[document] + nth * body
        counted = np.ones(len(stream), dtype=bool)
        return _Rows(stream, counted, begin, length, document + first, nth, self._marks)

    def _windows(self, ids: Ints, offsets: Ints, first: int, epoch: int) -> _Rows:
        """Windows of the documents joined; each epoch cuts them at other places."""
        window, marks = self._plan.window, self._marks
        behind = not marks.own_bos
        stream, n_tokens = _with_mark(ids, offsets, marks.eos if behind else marks.bos, behind)
        ends = np.cumsum(n_tokens)
        counted = np.ones(len(stream), dtype=bool)
        counted[ends - 1 if behind else ends - n_tokens] = False
        skipped = np.random.default_rng([self._plan.seed, epoch]).integers(window) if epoch else 0
        begin = np.arange(skipped, len(stream) - window + 1, window)
        document = np.searchsorted(ends, begin, side="right")
        _, from_, rows_of = np.unique(document, return_index=True, return_counts=True)
        nth = np.arange(len(begin)) - np.repeat(from_, rows_of)
        length = np.full(len(begin), window)
        return _Rows(stream, counted, begin, length, document + first, nth, None)


@dataclass(frozen=True)
class _Marks:
    """The tokens around a row. Where a tokenizer has one mark only it stands at both ends, and
    padding, which is masked by length, may be any token."""

    bos: int
    eos: int
    pad: int
    own_bos: bool  # whether the tokenizer has a mark for the start

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Marks:
        bos, eos, pad = (getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        if bos is None and eos is None:
            raise CorpusError(
                f"{type(tokenizer).__name__} without bos_token and eos_token: nothing marks where "
                f"a text begins or ends. Set one of them, for example tokenizer.bos_token = '<s>', "
                f"to a token that it has."
            )
        start, end = (eos if bos is None else bos), (bos if eos is None else eos)
        return cls(start, end, end if pad is None else pad, bos is not None)


def _with_mark(ids: Ints, offsets: Ints, mark: int, behind: bool) -> tuple[Ints, Ints]:
    """Documents one after the other, each with a mark before or behind it; and their lengths."""
    n_tokens = np.diff(offsets) + 1
    ordinal = np.repeat(np.arange(len(n_tokens)), n_tokens - 1)
    stream = np.full(n_tokens.sum(), mark, dtype=np.int64)
    stream[np.arange(len(ids)) + ordinal + (not behind)] = ids
    return stream, n_tokens


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a chunk: where each lies in a stream of tokens."""

    stream: Int64[np.ndarray, " token"]
    counted: Bool[np.ndarray, " token"]  # whether a loss may ask for it
    begin: Int64[np.ndarray, " row"]
    length: Int64[np.ndarray, " row"]  # without the mark before it
    document: Int64[np.ndarray, " row"]
    nth: Int64[np.ndarray, " row"]
    marks: _Marks | None  # before and behind each row; None for windows, which have neither

    def batch(self, chosen: Int64[np.ndarray, " batch"], after: Position) -> Batch:
        """Some of the rows, padded to the longest of them."""
        length = self.length[chosen, None]
        place = np.arange(length.max())
        at = np.minimum(self.begin[chosen, None] + place, len(self.stream) - 1)
        tokens, mask = self.stream[at], self.counted[at] & (place < length)
        if self.marks is not None:
            tokens = np.where(place < length, tokens, self.marks.pad)
            tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=self.marks.bos)
            mask = np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
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
