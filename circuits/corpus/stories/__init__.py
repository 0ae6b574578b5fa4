"""The built-in corpus: little stories whose every token has a known cause."""

from circuits.corpus.stories.grammar import Grammar
from circuits.corpus.stories.lexicon import Lexicon
from circuits.corpus.stories.prompts import BEHAVIOURS, MinimalPair, minimal_pairs
from circuits.corpus.stories.teller import Stories, Storyteller, Truth

__all__ = [
    "BEHAVIOURS",
    "Grammar",
    "Lexicon",
    "MinimalPair",
    "Stories",
    "Storyteller",
    "Truth",
    "minimal_pairs",
]
