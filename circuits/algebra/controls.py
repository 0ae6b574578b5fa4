"""Controls for what features and eigenvectors seem to show: random ones that keep part of it.

``rotated`` turns all features together, so norms and angles between them stay: what is found with
it does not depend on how the features lie to the layer. ``shuffled`` permutes each feature's
coordinates, which also destroys the angles. ``Spectrum.rotated`` keeps a form's eigenvalues.
"""

from __future__ import annotations

import torch

from circuits.algebra.basis import Basis
from circuits.algebra.directions import random_orthonormal


def rotated(basis: Basis, seed: int = 0) -> Basis:
    """All features turned by one random rotation, read by their pseudoinverse."""
    generator = torch.Generator().manual_seed(seed)
    turn = random_orthonormal(basis.d_model, basis.d_model, generator)
    write = (basis.write.double().cpu() @ turn).to(basis.write)
    return Basis.from_decoder(write, basis.offset, least_squares=True)


def shuffled(basis: Basis, seed: int = 0) -> Basis:
    """Each feature's coordinates in a random order of its own, read by their pseudoinverse."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(basis.write.shape, generator=generator).argsort(dim=1)
    write = basis.write.gather(1, order.to(basis.device))
    return Basis.from_decoder(write, basis.offset, least_squares=True)
