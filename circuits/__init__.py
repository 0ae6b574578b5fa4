"""Circuits between dictionary features, exactly and straight from a bilinear model's weights."""

from circuits.basis import Basis
from circuits.bilinear import BilinearLayer
from circuits.interactions import Interactions
from circuits.spectrum import HOSVD, Spectrum, hosvd

__version__ = "0.1.0"

__all__ = ["HOSVD", "Basis", "BilinearLayer", "Interactions", "Spectrum", "hosvd"]
