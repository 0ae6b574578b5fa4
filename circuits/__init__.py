"""Circuits between dictionary features, exactly and straight from a bilinear model's weights."""

from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.interactions import Interactions
from circuits.algebra.spectrum import HOSVD, Spectrum, hosvd

__version__ = "0.1.0"

__all__ = ["HOSVD", "Basis", "BilinearLayer", "Interactions", "Spectrum", "hosvd"]
