"""Sparse autoencoders: a site of the model in features."""

from sae.dictionary import Dictionary
from sae.formats import load_dictionaries, load_dictionary

__all__ = ["Dictionary", "load_dictionaries", "load_dictionary"]
