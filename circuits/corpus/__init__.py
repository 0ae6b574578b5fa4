"""Text to train on and to measure with: documents, tokenizers, batches, the built-in stories."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.corpus.documents import Corpus, built_in, open_corpus, split_corpus

__all__ = [
    "Corpus",
    "built_in",
    "open_corpus",
    "split_corpus",
]

__getattr__, __dir__ = lazy(__name__)
