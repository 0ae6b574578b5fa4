"""Text to train on and to measure with: documents, tokenizers, batches, the built-in stories."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.corpus.documents import Corpus as Corpus
    from circuits.corpus.documents import built_in as built_in
    from circuits.corpus.documents import open_corpus as open_corpus
    from circuits.corpus.documents import split_corpus as split_corpus

__getattr__, __dir__, __all__ = lazy(__name__)
