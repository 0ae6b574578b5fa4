"""The built-in corpus: little stories whose every token has a known cause."""
