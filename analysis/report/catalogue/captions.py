"""A feature's caption: the words on which, or after which, it is active, with a correlation.

1. Three kinds of conditions: the token is one of some words; the token before it is; one of the
   few tokens before it is.
2. For each kind, words are added one by one while the correlation of the condition with the
   feature's activation grows.
3. The kind with the highest correlation is the caption; of equally good kinds the simplest.

A caption is the best of *these* conditions, not what the feature means. Its correlation shows how
good it is: near 1 the words are the whole feature, near 0 they are a poor hint. A feature that
follows the sense of a sentence has no good caption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float, Int64

from circuits.corpus.documents import Corpus
from circuits.model.model import Model
from sae.dictionary import Dictionary
from sae.reading import readings

_N_TOKENS = 20_000  # that captions are fitted on, rounded up to whole batches
_SOON = "soon after "  # a word in the few tokens before
_MOST = 4  # words of a caption
_CANDIDATES = 8  # words of each kind that are combined: those that do best alone
_GAIN = 0.02  # of correlation that another word, or a less simple kind, must add

_KINDS = {"": (0, 0), "after ": (1, 1), _SOON: (1, 8)}  # kind: how many tokens back


@dataclass(frozen=True)
class Caption:
    """Words, and how well they predict when a feature is active."""

    kind: str = ""
    words: tuple[str, ...] = ()
    correlation: float | None = None  # None: never active

    @property
    def text(self) -> str:
        """The full caption."""
        return self.kind + " · ".join(self.words)

    @property
    def short(self) -> str:
        """For a picture: "soon after jack" is "jack …"."""
        words = " · ".join(self.words)
        return f"{words} …" if self.kind == _SOON else self.kind + words


@dataclass(frozen=True, eq=False)
class Captions:
    """Of every feature of a dictionary, on the tokens of a text."""

    of: list[Caption]
    n_token: int

    @classmethod
    def fitted(
        cls, dictionary: Dictionary, model: Model, corpus: Corpus, named: Callable[[int], str]
    ) -> Captions:
        """Fit them on the first tokens of a corpus; ``named`` gives the name of a token."""
        site = dictionary.known_site("captions")
        dictionary = dictionary.to(model.device)
        rows: list[Int64[np.ndarray, " _"]] = []
        blocks: list[Any] = []
        for reading in readings(model, corpus, [site], n_documents=_N_TOKENS):
            tokens = reading.batch.tokens
            rows += [tokens[r, on].cpu().numpy() for r, on in enumerate(reading.counted)]
            blocks.append(_sparse(dictionary, reading.activations[site]))
            if sum(block.shape[0] for block in blocks) >= _N_TOKENS:
                break
        return cls.of_activations(rows, sparse.vstack(blocks), named)

    @classmethod
    def of_activations(
        cls, rows: list[Int64[np.ndarray, " _"]], activations: Any, named: Callable[[int], str]
    ) -> Captions:
        """Fit them on rows of tokens and each token's activations, a sparse matrix."""
        activations = activations.tocsc()
        conditions = {kind: _Condition(rows, *back) for kind, back in _KINDS.items()}
        found = [
            _caption(activations[:, f].toarray()[:, 0], conditions, named)
            for f in range(activations.shape[1])
        ]
        return cls(found, activations.shape[0])


def _sparse(dictionary: Dictionary, x: Float[torch.Tensor, "token model"]) -> Any:
    """The absolute activation of each feature."""
    code = dictionary.active(x.to(dictionary.dtype))
    entries = (code.rows.cpu().numpy(), code.features.cpu().numpy())
    values = code.values.double().abs().cpu().numpy()
    return sparse.csr_matrix((values, entries), shape=(code.n_row, dictionary.n_feature))


class _Condition:
    """Which tokens have each word between ``nearest`` and ``furthest`` tokens back in their row."""

    def __init__(self, rows: list[Int64[np.ndarray, " _"]], nearest: int, furthest: int) -> None:
        place, word, start = [], [], 0
        for row in rows:
            for back in range(nearest, min(furthest + 1, len(row))):
                place.append(np.arange(start + back, start + len(row)))
                word.append(row[: len(row) - back])
            start += len(row)
        at = (np.concatenate([*place, []]).astype(int), np.concatenate([*word, []]).astype(int))
        n_word = 1 + max((int(row.max()) for row in rows if len(row)), default=0)
        # a word that occurs twice counts once
        self.held = sparse.csr_matrix((np.ones(len(at[0]), bool), at), shape=(start, n_word))
        self.by_word = self.held.T.tocsr()
        self.n = self.held.getnnz(axis=0)

    def words(self, dense: Float[np.ndarray, " token"]) -> tuple[list[int], float]:
        """The words whose presence correlates most with an activation."""
        on = dense.nonzero()[0]
        alone = _correlation(self.held[on].T @ dense[on], self.n, dense)
        best = np.argsort(-alone, kind="stable")[:_CANDIDATES]
        there = self.by_word[best].toarray()
        chosen: list[int] = []
        any_of, reached = np.zeros(len(dense), bool), -np.inf
        while len(chosen) < _MOST:
            wider = there | any_of
            found = _correlation(wider[:, on] @ dense[on], np.count_nonzero(wider, axis=1), dense)
            found[chosen] = -np.inf
            place = int(found.argmax())
            if found[place] < reached + _GAIN:
                break
            chosen.append(place)
            any_of, reached = wider[place], float(found[place])
        return [int(best[place]) for place in chosen], reached


def _correlation(
    total: Float[np.ndarray, " word"], n: Any, activation: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " word"]:
    """Of an activation with membership in ``n`` tokens, over which it sums to ``total``."""
    share = n / len(activation)
    together = total / len(activation) - share * activation.mean()
    spread = np.sqrt(share * (1 - share)) * activation.std()
    return np.divide(
        together, spread, out=np.zeros_like(together), where=spread > 1e-12 * activation.max()
    )


def _caption(
    activation: Float[np.ndarray, " token"],
    conditions: dict[str, _Condition],
    named: Callable[[int], str],
) -> Caption:
    if not activation.any():
        return Caption()
    kind, reached = "", -np.inf
    words: list[int] = []
    for name, condition in conditions.items():
        found, correlation = condition.words(activation)
        if correlation > reached + (_GAIN if words else 0):
            kind, words, reached = name, found, correlation
    names = tuple(named(word) for word in words) if reached >= _GAIN else ()
    return Caption(kind if names else "", names, reached)
