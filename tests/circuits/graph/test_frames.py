"""Spaces that features share, small and large, and forms that live in one of them."""

import numpy as np
import pytest
import torch

from analysis.studies.geometries import directions
from circuits import Basis, BilinearLayer, Interactions
from circuits.graph.frames import shared_spaces
from circuits.graph.matching_pursuit import significant_pairs


def normal(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def in_parts(n: int, d: int, parts: int, seed: int = 0, overlap: float = 0.0) -> torch.Tensor:
    """Unit features, each in one of some equal spaces, and a little outside it."""
    rows, width = normal(n, d, seed=seed), d // parts
    inside = torch.arange(d) // width == torch.arange(n)[:, None] % parts
    rows = torch.nn.functional.normalize(rows * inside, dim=1)
    rows = rows + overlap * normal(n, d, seed=seed + 1000) / d**0.5
    return torch.nn.functional.normalize(rows, dim=1)


def whitened(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(rows, full_matrices=False).U


def edges(rows: torch.Tensor, form: torch.Tensor) -> int:
    values, vectors = torch.linalg.eigh((form + form.mT) / 2)
    layer = BilinearLayer(
        vectors.mT * values[:, None], vectors.mT, torch.ones(1, len(values)).double()
    )
    inter = Interactions(layer, Basis.from_decoder(rows), Basis.identity(1, torch.float64))
    return len(significant_pairs(inter, 0))


@pytest.mark.parametrize(
    ("n", "d", "parts"), [(256, 64, 2), (192, 63, 3), (256, 64, 4), (512, 64, 8)]
)
@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_spaces_are_those_that_features_were_made_in(n, d, parts, overlap):
    spaces = shared_spaces(whitened(in_parts(n, d, parts, overlap=overlap)))
    for part in range(parts):
        (name,) = spaces[part::parts].unique().tolist()
        assert name > 0
        assert int((spaces == name).sum()) == n // parts


@pytest.mark.parametrize("geometry", ["even", "falling", "steep", "common direction", "low rank"])
def test_features_in_no_space_of_their_own_share_none(geometry):
    rows = directions(geometry, 512, 64, torch.Generator().manual_seed(0))
    u, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
    assert int(shared_spaces(u[:, sizes > 1e-9 * sizes[0]]).max()) == 0


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_a_form_in_a_large_space_that_features_share_has_no_pairs(parts, noise):
    """It is the same for features turned within the space, so none of its pairs is special; a null
    that turns them in all dimensions takes nearly all for discoveries."""
    found = []
    for seed in range(4):
        d = 63 if parts == 3 else 64
        form, width = torch.zeros(d, d, dtype=torch.float64), d // parts
        form[:width, :width] = normal(width, width, seed=seed + 50)
        form = form / form.norm() + noise * normal(d, d, seed=seed + 90) / d
        found.append(edges(in_parts(4 * d, d, parts, seed), form))
    assert np.mean([n > 0 for n in found]) == 0, found


def test_a_form_between_two_spaces_has_no_pairs_either():
    for seed in range(3):
        form = torch.zeros(64, 64, dtype=torch.float64)
        form[:32, 32:] = normal(32, 32, seed=seed)
        assert edges(in_parts(256, 64, 2, seed), form) == 0


def test_a_form_of_deficient_rank_is_searched_as_well():
    """In float32 its eigenvalues may not converge."""
    for seed in range(6):
        form = torch.zeros(64, 64, dtype=torch.float64)
        form[:16, :16] = normal(16, 16, seed=seed)
        assert edges(in_parts(256, 64, 4, seed), form) == 0
