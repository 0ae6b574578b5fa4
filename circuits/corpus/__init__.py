"""Text to train on and to measure with: documents, tokenizers, batches, the built-in stories."""

from circuits.corpus.documents import Corpus, built_in, open_corpus

__all__ = ["Corpus", "built_in", "open_corpus"]
