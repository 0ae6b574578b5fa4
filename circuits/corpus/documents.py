"""Documents to train on: the built-in stories, files on disk, or a data set of the hub.

A `Corpus` is a numbered run of documents that gives the same text for the same number every time;
shuffling and resuming build on that (``circuits.corpus.batches``). The network is used only for a
name that is written ``hub:owner/name``.

>>> built_in(seed=0).documents(0, 1)[0].split(" . ")[0]
'one afternoon mia ran around the forest'
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias
from warnings import warn

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from circuits.arguments import checked
from circuits.corpus.readers import data_files, hub_stream, is_saved, read_saved, read_texts
from circuits.corpus.stories.generator import BLOCK, Stories, StoryGenerator
from circuits.corpus.stories.grammar import Grammar
from circuits.errors import ArgumentError, CorpusError, MarkWarning
from circuits.storage.files import content_hash
from circuits.storage.hub import how_to_ask, hub_name

N_HELD_OUT = 2000
"""Documents at the start of a corpus that are held out: this many, or 5 % of a small corpus."""

Tokenizer: TypeAlias = Any
"""A tokenizer of transformers; not named in the type, because importing it takes seconds."""

_Encoder: TypeAlias = Callable[
    [int, int],
    tuple[Int64[np.ndarray, " token"], Int64[np.ndarray, " document_and_end"]],
]
"""Tokens of documents start to stop, one after the other, and where each begins (and ends)."""


@checked
class Corpus(ABC):
    """A numbered run of documents."""

    @property
    @abstractmethod
    def n_documents(self) -> int | None:
        """How many there are; None where that is not known before the end of a stream."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content: two corpora with the same one give the same documents."""

    @abstractmethod
    def documents(self, start: int, stop: int) -> list[str]:
        """The texts of documents ``start`` to ``stop``; fewer at the end of the corpus."""

    @property
    def entropy(self) -> float | None:
        """Exact nats a predicted token (the end counted as one), where it is known."""
        return None

    def encoder(self, tokenizer: Tokenizer) -> _Encoder:
        """A function from a range of documents to their tokens, without special tokens."""
        _check_tokenizer(tokenizer)

        def encode(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            texts = self.documents(start, stop)
            if not texts:
                return np.zeros(0, np.int64), np.zeros(1, np.int64)
            # verbose=False: rows are split later, so a long document is no reason to warn
            rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            offsets = np.cumsum([0, *map(len, rows)])
            return np.concatenate([np.asarray(row, np.int64) for row in rows]), offsets

        return encode

    def part(self, start: int, stop: int | None = None) -> Corpus:
        """Documents ``start`` to ``stop`` as a corpus, to hold some out from training."""
        end = self.n_documents if stop is None else stop
        beyond = end is not None and self.n_documents is not None and end > self.n_documents
        if start < 0 or beyond or (end is not None and end <= start):
            raise CorpusError(
                f"part({start}, {stop}) of a corpus of {self.n_documents} documents: the part "
                f"would be empty or reach beyond the end. Choose a range within it."
            )
        return self._between(start, end)

    def _between(self, start: int, stop: int | None) -> Corpus:
        return _Part(self, start, stop)


@checked
@dataclass(frozen=True)
class _Part(Corpus):
    whole: Corpus
    start: int
    stop: int | None

    @property
    def n_documents(self) -> int | None:
        return None if self.stop is None else self.stop - self.start

    @property
    def fingerprint(self) -> str:
        return _digest(self.whole.fingerprint, self.start, self.stop)

    @property
    def entropy(self) -> float | None:
        return self.whole.entropy

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        first, last = self.start + start, self.start + stop
        return first, last if self.stop is None else max(first, min(last, self.stop))

    def documents(self, start: int, stop: int) -> list[str]:
        return self.whole.documents(*self._range(start, stop))

    def encoder(self, tokenizer: Tokenizer) -> _Encoder:
        encode = self.whole.encoder(tokenizer)
        return lambda start, stop: encode(*self._range(start, stop))


@checked
@dataclass(frozen=True)
class BuiltInCorpus(Corpus):
    """The little stories of a seed as a corpus; `stories` gives them with their ground truth."""

    generator: StoryGenerator
    n_stories: int
    first: int = 0  # the generator's number of the first one

    @property
    def n_documents(self) -> int:
        """How many stories there are before they repeat."""
        return self.n_stories

    @property
    def entropy(self) -> float:
        """Exact nats a predicted token (the end of a story counted as one)."""
        return self.generator.grammar.entropy

    @property
    def fingerprint(self) -> str:
        """Hash of the seed, the number and a first block of text (so of the grammar)."""
        texts = self.generator.generate(0, BLOCK).texts
        return _digest(self.generator.seed, self.n_stories, self.first, *texts)

    def stories(self, start: int, stop: int, *, truth: bool = True) -> Stories:
        """Stories ``start`` to ``stop`` with the meaning of each token."""
        stop = min(stop, self.n_stories)
        start = min(start, stop)
        return self.generator.generate(self.first + start, self.first + stop, truth=truth)

    def _between(self, start: int, stop: int | None) -> BuiltInCorpus:
        stop = self.n_stories if stop is None else stop
        return BuiltInCorpus(self.generator, stop - start, self.first + start)

    def documents(self, start: int, stop: int) -> list[str]:
        """The texts of stories ``start`` to ``stop``."""
        return self.stories(start, stop, truth=False).texts

    def word_numbers(self, tokenizer: Tokenizer) -> Int64[np.ndarray, " word"] | None:
        """The token of each word of the stories, or None where words are not tokens one to one."""
        _check_tokenizer(tokenizer)
        words = list(self.generator.grammar.words)
        table = tokenizer.convert_tokens_to_ids(words)
        unknown = {None, tokenizer.unk_token_id}
        if len({*table} - unknown) < len(words):
            return None
        numbers = np.array(table, dtype=np.int64)
        sample = self.generator.generate(0, 64)
        rows = tokenizer(sample.texts, add_special_tokens=False, verbose=False)["input_ids"]
        return numbers if np.array_equal(numbers[sample.tokens], np.concatenate(rows)) else None

    def encoder(self, tokenizer: Tokenizer) -> _Encoder:
        """Tokens straight from the word numbers, where each word is one token."""
        numbers = self.word_numbers(tokenizer)
        if numbers is None:
            return super().encoder(tokenizer)

        def encode(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            stories = self.stories(start, stop, truth=False)
            return numbers[stories.tokens], stories.offsets

        return encode


@checked
@dataclass(frozen=True, eq=False)
class TextCorpus(Corpus):
    """Documents from files, held in memory once (memory-mapped for a ``save_to_disk`` folder)."""

    texts: pa.ChunkedArray
    files: tuple[Path, ...]
    columns: tuple[str | None, ...]  # that holds each file's texts; None for .txt

    @property
    def n_documents(self) -> int:
        """How many documents the files hold."""
        return len(self.texts)

    def __post_init__(self) -> None:
        _ = self.fingerprint  # of what was read: a file may change while its texts are used

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' bytes and columns, in order; the files' names do not matter."""
        n_bytes = [file.stat().st_size for file in self.files]  # where one ends and another begins
        return _digest(self.columns, n_bytes, content_hash(*self.files))

    def documents(self, start: int, stop: int) -> list[str]:
        """The texts of documents ``start`` to ``stop``."""
        start = max(0, start)
        return self.texts.slice(start, max(stop - start, 0)).to_pylist()


@dataclass(frozen=True, eq=False)
class HubCorpus(Corpus):
    """A data set of the hub, read as a stream: going forward is cheap, going back starts over."""

    name: str
    revision: str
    split: str
    column: str
    _rows: Any  # datasets.IterableDataset
    _cursor: dict[str, Any] = field(default_factory=dict)  # the open stream, and where it stands

    @property
    def n_documents(self) -> None:
        """Not known before the stream ends."""
        return None

    @property
    def fingerprint(self) -> str:
        """Hash of the name and the exact revision on the hub."""
        return _digest(self.name, self.revision, self.split, self.column)

    def documents(self, start: int, stop: int) -> list[str]:
        """The texts of documents ``start`` to ``stop``."""
        if self._cursor.get("at") != start:
            self._cursor["stream"] = iter(self._rows.skip(start) if start else self._rows)
        stream: Iterator[dict[str, Any]] = self._cursor["stream"]
        texts = [row[self.column] for row in islice(stream, stop - start)]
        self._cursor["at"] = start + len(texts)
        if not all(isinstance(text, str) for text in texts):
            raise CorpusError(
                f"data set '{self.name}', documents {start} to {stop}: column '{self.column}' has "
                f"rows without text. Choose another column, or filter a local copy."
            )
        return texts


def _check_tokenizer(tokenizer: Tokenizer) -> None:
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise ArgumentError(
            f"Corpus: tokenizer is a {type(tokenizer).__name__}, not a tokenizer of transformers. "
            f"Pass model.tokenizer."
        )


@checked
def built_in(seed: int = 0, n_documents: int = 1_000_000, *, lies: bool = False) -> BuiltInCorpus:
    """The little stories of a seed; two are now and then the same, because they are short. With
    ``lies`` some are about what somebody said or pretended, and lied about lies."""
    if n_documents < 1:
        raise CorpusError(f"a corpus of {n_documents} documents: ask for at least one.")
    return BuiltInCorpus(StoryGenerator(seed, Grammar(lies=lies)), n_documents)


@checked
def known_stories(tokenizer: Tokenizer, seed: int = 0) -> BuiltInCorpus | None:
    """The little stories whose words a tokenizer has as single tokens: with lies, without, or
    None."""
    each = (built_in(seed, lies=lies) for lies in (True, False))
    return next((one for one in each if one.word_numbers(tokenizer) is not None), None)


@checked
def split_corpus(corpus: Corpus) -> tuple[Corpus, Corpus | None]:
    """The parts to train on and to hold out; None is held out of fewer than 20 documents."""
    n_documents = corpus.n_documents
    n_held_out = N_HELD_OUT if n_documents is None else min(N_HELD_OUT, n_documents // 20)
    if n_held_out == 0:
        return corpus, None
    return corpus.part(n_held_out), corpus.part(0, n_held_out)


@checked
def to_measure_on(corpus: Corpus) -> Corpus:
    """What `split_corpus` holds out; where that would be nothing, all of it, with a mark."""
    training, held_out = split_corpus(corpus)
    if held_out is not None:
        return held_out
    warn(
        "the text has too few documents to hold any out, so these numbers are of text that may "
        "have been trained on",
        MarkWarning,
        stacklevel=1,
    )
    return training


@checked
def open_corpus(where: str | Path, *, column: str | None = None, split: str = "train") -> Corpus:
    """The documents of a file, a folder, a ``save_to_disk`` folder, or a data set of the hub, which
    is written ``hub:owner/name``.

    Files are .txt (documents separated by ``<|endoftext|>``; without it a file is one running text,
    cut at blank lines into documents of about 2,000 characters, or into about 100 of them), .jsonl
    and .parquet (``column`` holds the text; without it ``text``, or the only column of strings).
    """
    if not str(where):
        raise CorpusError("an empty path: name a file, a folder, or a data set: hub:owner/name.")
    if (name := hub_name(where)) is not None:
        revision, chosen, rows = hub_stream(name, column, split)
        return HubCorpus(name, revision, split, chosen, rows)
    path = Path(where).expanduser()
    if is_saved(path):
        return TextCorpus(*read_saved(path, column, split))
    if not path.exists():
        raise CorpusError(f"'{where}': no such file or folder. {how_to_ask(where)}")
    files = data_files(path)
    texts, columns = read_texts(files, column, alone=not path.is_dir())
    return TextCorpus(texts, files, columns)


def _digest(*parts: object) -> str:
    hashes = hashlib.sha256()
    for part in parts:
        hashes.update(f"{part}\0".encode())
    return hashes.hexdigest()
