"""Where each feature is strongest in a corpus, with the tokens around it: one streaming pass.

Of equally strong tokens the earlier one comes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from jaxtyping import Float, Int, Int64

from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import FeatureRangeError, check_count, check_index, check_indices
from circuits.model.model import Model
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, Reading, readings
from sae.sparse import Code

_MOST = 10_000  # tokens of a feature


@dataclass(frozen=True, eq=False)
class Examples:
    """The strongest tokens of some features, strongest first, in the middle of their windows;
    ``-1`` where there are fewer, and outside the row."""

    features: Int64[np.ndarray, " chosen"]
    values: Float[np.ndarray, "chosen n"]
    document: Int64[np.ndarray, "chosen n"]  # number of the document in the corpus
    position: Int64[np.ndarray, "chosen n"]  # in the document, <bos> not counted
    tokens: Int[np.ndarray, "chosen n window"]
    activations: Float[np.ndarray, "chosen n window"]  # of the feature on each token of the window
    words: dict[int, str]  # the tokenizer's string for each token that occurs

    def table(self) -> pd.DataFrame:
        """One row per example; ``place`` is the index of the strongest one in ``tokens``."""
        rows = []
        for i, rank in np.argwhere(self.document >= 0):
            window = self.tokens[i, rank]
            there = window >= 0
            numbers = (part[i, rank] for part in (self.values, self.document, self.position))
            words = [self.words[token] for token in window[there].tolist()]
            shades, place = self.activations[i, rank][there], there[: len(window) // 2].sum()
            rows.append((self.features[i], rank, *numbers, words, shades.tolist(), place))
        columns = ["feature", "rank", "value", "document", "position"]
        return pd.DataFrame(rows, columns=[*columns, "tokens", "activations", "place"])


@checked
def examples(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    features: Iterable[int] | None = None,
    *,
    n: int = 10,
    context: int = 10,
    n_documents: int = N_DOCUMENTS,
    window: int | None = None,
) -> Examples:
    """For each feature (all of them unless named) its ``n`` strongest tokens in a corpus, with
    ``context`` tokens on both sides; the model reads rows of ``window`` tokens."""
    site = dictionary.site_in(model, "examples")
    n = check_count("examples", n, _MOST, "n")
    chosen = range(dictionary.n_feature) if features is None else features
    listed = dict.fromkeys(check_indices("examples", chosen, dictionary.n_feature, "feature"))
    if not listed:
        raise FeatureRangeError("examples: no features were named. Name one.")
    context = check_index("examples", context, model.n_context, "context")
    dictionary = dictionary.to(model.device)
    best = _Best(dictionary.n_feature, np.array([*listed], np.int64), n, context)
    for reading in readings(model, corpus, [site], n_documents=n_documents, window=window):
        best.look(reading, dictionary.active(reading.activations[site]))
    return best.result(model)


class _Best:
    """The best so far: one slot for each requested feature."""

    def __init__(
        self, n_feature: int, features: Int64[np.ndarray, " chosen"], n: int, context: int
    ) -> None:
        self._features, self._n, self._context = features, n, context
        self._slot = np.full(n_feature, -1, np.int64)
        self._slot[features] = np.arange(len(features))
        shape, wide = (len(features), n), (len(features), n, 2 * context + 1)
        self._kept: dict[str, np.ndarray] = {
            "values": np.full(shape, -np.inf, np.float32),
            "document": np.full(shape, -1, np.int64),
            "position": np.full(shape, -1, np.int64),
            "tokens": np.full(wide, -1, np.int32),
            "activations": np.zeros(wide, np.float32),
        }

    def look(self, reading: Reading, code: Code) -> None:
        """Keep the tokens of a batch that are stronger than those kept so far."""
        active = code.active
        feature = code.features[active].cpu().numpy()
        value = code.values[active].float().cpu().numpy()
        token = code.rows[active].cpu().numpy()
        slot = self._slot[feature]
        # strictly: of equals the earlier one stays
        better = (slot >= 0) & (value > self._kept["values"][slot, -1])
        first = _first(slot[better], value[better], token[better], self._n)
        new = np.flatnonzero(better)[first]
        if len(new) == 0:
            return
        size = (code.n_row, code.n_feature)
        activations = scipy.sparse.csr_matrix((value, (token, feature)), shape=size)
        around = _windows(reading, activations, token[new], feature[new], self._context)
        self._merge(slot[new], {"values": value[new], **around})

    def _merge(self, slot: Int64[np.ndarray, " new"], new: dict[str, np.ndarray]) -> None:
        touched = np.unique(slot)
        slots = np.concatenate([np.repeat(touched, self._n), slot])
        both = {
            name: np.concatenate([kept[touched].reshape(-1, *kept.shape[2:]), new[name]])
            for name, kept in self._kept.items()
        }
        chosen = _first(slots, both["values"], np.arange(len(slots)), self._n)
        for name, kept in self._kept.items():
            kept[touched] = both[name][chosen].reshape(len(touched), *kept.shape[1:])

    def result(self, model: Model) -> Examples:
        used = np.setdiff1d(self._kept["tokens"], [-1])
        numbers = used.tolist()
        words = dict(zip(numbers, model.token_texts(numbers), strict=True))
        kept = dict(self._kept)
        kept["values"] = np.where(kept["document"] >= 0, kept["values"], 0).astype(np.float32)
        return Examples(features=self._features, words=words, **kept)


def _first(
    slot: Int64[np.ndarray, " entry"],
    value: Float[np.ndarray, " entry"],
    time: Int64[np.ndarray, " entry"],
    n: int,
) -> Int64[np.ndarray, " chosen"]:
    """The n largest entries of each slot, largest first, the earlier of equals first."""
    order = np.lexsort((time, -value, slot))
    slots = slot[order]
    begins = np.searchsorted(slots, slots)  # where the slot of each begins
    return order[np.arange(len(order)) - begins < n]


def _windows(
    reading: Reading,
    activations: scipy.sparse.csr_matrix,  # counted token x feature
    token: Int64[np.ndarray, " new"],
    feature: Int64[np.ndarray, " new"],
    context: int,
) -> dict[str, np.ndarray]:
    """Tokens and activations around some counted tokens of a batch, and their positions."""
    batch, counted = reading.batch, reading.counted.numpy()
    row, place = (part[token] for part in np.nonzero(counted))
    number = np.cumsum(counted).reshape(counted.shape) - 1  # of each counted token
    around = place[:, None] + np.arange(-context, context + 1)
    inside = (around >= 0) & (around < counted.shape[1])
    around = np.where(inside, around, 0)  # <bos>, which is not counted
    there = counted[row[:, None], around]
    values = activations[np.where(there, number[row[:, None], around], 0), feature[:, None]]
    return {
        "document": batch.document.numpy()[row],
        "position": reading.position.numpy()[token],
        "tokens": np.where(there, batch.tokens.numpy()[row[:, None], around], -1),
        "activations": np.where(there, values.toarray(), 0),
    }
