"""The built-in corpus: little stories whose every token has a known cause."""

from circuits.stories.grammar import Grammar
from circuits.stories.lexicon import Lexicon
from circuits.stories.prompts import BEHAVIOURS, MinimalPair, minimal_pairs
from circuits.stories.teller import Stories, Storyteller, Truth

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
