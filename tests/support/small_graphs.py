"""A layer between two small dictionaries, and batches of which features are active."""

import torch

from circuits import Interactions
from tests.support.small import basis, generator, small_layer


def small(biases: str = "left", offset: bool = True) -> Interactions:
    return Interactions(
        small_layer(biases=biases), basis(20, offset=offset), basis(9, seed=2, offset=True)
    )


def batches(n_feature: int, n_batches: int = 3, width: int = 4):
    for seed in range(n_batches):
        random = generator(seed)
        indices = torch.stack([torch.randperm(n_feature, generator=random)[:width]
                               for _ in range(50)])  # fmt: skip
        values = torch.rand(50, width, dtype=torch.float64, generator=random)
        yield indices, values.masked_fill(values < 0.2, 0)
