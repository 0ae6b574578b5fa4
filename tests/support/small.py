"""Layers and dictionaries small enough to be exact, and the dense tensor to compare them with."""

import torch
from torch import Tensor

from circuits import Basis, BilinearLayer


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed)).to(dtype)


BIASES = ("", "left", "right", "down", "left right", "left right down")


def small_layer(
    d_model: int = 8,
    d_hidden: int = 13,
    d_out: int | None = None,
    biases: str = "",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> BilinearLayer:
    d_out = d_model if d_out is None else d_out
    sizes = {"left": d_hidden, "right": d_hidden, "down": d_out}
    return BilinearLayer(
        normal(d_hidden, d_model, seed=seed, dtype=dtype),
        normal(d_hidden, d_model, seed=seed + 100, dtype=dtype),
        normal(d_out, d_hidden, seed=seed + 200, dtype=dtype),
        **{
            f"{name}_bias": normal(sizes[name], seed=seed + 300 + len(name), dtype=dtype)
            for name in biases.split()
        },
    )


def dense_tensor(layer: BilinearLayer) -> Tensor:
    """``B`` itself, symmetrised over its inputs: the oracle."""
    left, right = layer.factors
    tensor = torch.einsum("oh,hi,hj->oij", layer.down, left, right)
    return (tensor + tensor.mT) / 2


def basis(
    n_feature: int, d_model: int = 8, seed: int = 1, offset: bool = False, rank: int | None = None
) -> Basis:
    """A dictionary with its pseudoinverse reader; of lower rank where asked."""
    decoder = normal(n_feature, d_model, seed=seed)
    if rank is not None:
        decoder = normal(n_feature, rank, seed=seed) @ normal(rank, d_model, seed=seed + 50)
    shift = normal(d_model, seed=seed + 70) if offset else None
    return Basis.from_decoder(decoder, shift, least_squares=True)


def lifted(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, against the largest number wanted."""
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    scale = wanted.double().abs().max()
    return float((got.double() - wanted.double()).abs().max() / scale)
