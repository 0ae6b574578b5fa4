"""Text to train a twin on that its original writes: as much as is wanted, in its own words.

The same original, seed and number give the same texts, which are kept beside the twin: writing them
takes about as long as training on them once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from circuits.corpus.documents import Corpus, open_corpus
from circuits.errors import CorpusError, check_count
from circuits.model.model import Model
from circuits.storage.progress import counted
from circuits.storage.shards import check_kept, kept_table

_ROWS = 128  # texts that are written side by side


def self_written(original: Model, n_documents: int, window: int, place: Path, seed: int) -> Corpus:
    """Different texts of at most ``window`` tokens, drawn from the original's own chances."""
    check_count("self_written", n_documents, None, "self-written texts")
    made_of = {"original": original.fingerprint, "n": n_documents, "window": window, "seed": seed}

    def write() -> pd.DataFrame:
        texts = dict.fromkeys(_texts(original, n_documents, window, seed))
        if len(texts) < n_documents // 2:
            raise CorpusError(
                f"{original.path}: of {n_documents} texts that it wrote only {len(texts)} are "
                f"different, too few to learn from. Give text of your own with --text."
            )
        return pd.DataFrame({"text": list(texts)})

    check_kept(place, "texts that an original wrote", CorpusError)
    kept_table(place, json.dumps(made_of), write)
    return open_corpus(place)


def _texts(original: Model, n_documents: int, window: int, seed: int) -> Iterator[str]:
    tokenizer: Any = original.tokenizer
    generator = torch.Generator().manual_seed(seed)
    with counted(n_documents, "writing", "text") as bar:
        for first in range(0, n_documents, _ROWS):
            n_rows = min(_ROWS, n_documents - first)
            for row in drawn(original, n_rows, window, generator).tolist():
                yield tokenizer.decode(row, skip_special_tokens=True).strip()
            bar.update(n_rows)


@torch.no_grad()
def drawn(
    original: Model, n_rows: int, window: int, generator: torch.Generator
) -> Int64[Tensor, "row pos"]:
    """Rows from the mark of a start to that of an end, which is repeated up to the longest."""
    tokenizer: Any = original.tokenizer
    marks = [n for n in (tokenizer.bos_token_id, tokenizer.eos_token_id) if n is not None]
    if not marks:
        raise CorpusError(
            f"{original.path}: its tokenizer has neither bos_token nor eos_token, so a text has no "
            f"first token to be written from. Give text of your own with --text."
        )
    known, ends = original.known_tokens, torch.tensor(marks)
    tokens, ended = torch.full((n_rows, 1), marks[0]), torch.zeros(n_rows, dtype=torch.bool)
    cache = None
    for _ in range(window - 1):
        last = tokens[:, -1:].to(original.device)
        out = original.network(last, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        chances = out.logits[:, -1, known].float().softmax(-1).cpu()
        new = known.cpu()[torch.multinomial(chances, 1, generator=generator)[:, 0]]
        new = torch.where(ended, marks[-1], new)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
        ended |= torch.isin(new, ends)
        if bool(ended.all()):
            break
    return tokens


@dataclass(frozen=True, eq=False)
class Joined(Corpus):
    """The documents of two corpora one after the other; of the first the number is known."""

    first: Corpus
    second: Corpus

    @property
    def n_documents(self) -> int | None:
        """How many both hold; None where the second has no known end."""
        n = self.second.n_documents
        return None if n is None else self._n_first + n

    @property
    def _n_first(self) -> int:
        n = self.first.n_documents
        assert n is not None  # whoever joins them looked
        return n

    @property
    def fingerprint(self) -> str:
        """Of both."""
        return f"{self.first.fingerprint}+{self.second.fingerprint}"

    def documents(self, start: int, stop: int) -> list[str]:
        """The texts of documents ``start`` to ``stop``."""
        n_first = self._n_first
        own = self.first.documents(start, min(stop, n_first)) if start < n_first else []
        if stop <= n_first:
            return own
        return own + self.second.documents(max(start - n_first, 0), stop - n_first)
