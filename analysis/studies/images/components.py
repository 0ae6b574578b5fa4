"""A layer's tensor decomposed: main output directions, and a layer of few neurons close to it.

`shared_neurons` finds the few hidden units whose tensor is closest to the layer's: a canonical
polyadic decomposition. For given input factors the best outputs are a least-squares solution, so
only the input factors are optimised; the similarity found is a local maximum near the start.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.studies.images.data import Images
from analysis.studies.images.model import ImageModel, accuracy
from circuits.algebra.bilinear import BilinearLayer
from circuits.algebra.spectrum import HOSVD, hosvd
from circuits.arguments import checked
from circuits.errors import NotFoundError, check_count, check_some

_START_NOISE = 0.1  # relative to a factor, so that equal rows can separate


@checked
def component_truncation(
    model: ImageModel, images: Images, counts: Iterable[int], components: HOSVD | None = None
) -> pd.DataFrame:
    """Accuracy when the head reads only the output directions that the last layer writes most to
    over all *pairs of inputs*, by their number; ``control`` is that of random directions."""
    model.check_labels(images)
    components = hosvd(model.last) if components is None else components
    hidden = model.before(images.pixels, len(model.layers)).to(components.outputs.dtype)
    full = accuracy(model.read_out(hidden), images)
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(hidden.shape[1], hidden.shape[1], generator=generator)
    random = torch.linalg.qr(square.double()).Q.to(hidden)
    # the layer's own bias, which no pair writes, is kept whole
    bias = torch.zeros(()) if model.last.down_bias is None else model.last.down_bias
    most = len(components.values)
    rows = []
    for wanted in check_some("component_truncation", counts, "counts"):
        count = min(check_count("component_truncation", wanted, None, "count"), most)
        found, control = (
            accuracy(model.read_out((hidden - bias) @ some.mT @ some + bias), images)
            for some in (components.outputs[:count], random[:count])
        )
        rows.append((count, found, full - found, control, len(images)))
    names = ["components", "accuracy", "lost", "control", "n"]
    return pd.DataFrame(rows, columns=names).drop_duplicates("components")


@dataclass(frozen=True, eq=False)
class SharedNeurons:
    """A layer of few hidden units that approximates a layer of many."""

    layer: BilinearLayer
    similarity: float  # cosine of the two tensors
    start: float  # the same at the start


@checked
def shared_neurons(
    layer: BilinearLayer, rank: int, n_step: int = 100, seed: int = 0
) -> SharedNeurons:
    """The ``rank`` hidden units whose tensor is closest to the layer's by cosine, from the
    strongest eigenvectors of the layer's outputs, with a little noise."""
    # more units than pairs of inputs add nothing
    most = layer.factors[0].shape[1] ** 2 * layer.d_out
    check_count("shared_neurons", rank, most, "rank")
    check_count("shared_neurons", n_step, None, "n_step")
    target = layer.to(torch.float64)
    energy = float(((target.down @ target.pair_gram) * target.down).sum())
    if energy <= 0:
        raise NotFoundError("shared_neurons: the layer computes zero, which no unit is close to.")
    start = _start(target, rank, torch.Generator().manual_seed(seed))
    factors = [start[0].requires_grad_(), start[1].requires_grad_()]
    optimizer = torch.optim.LBFGS(
        factors, max_iter=n_step, history_size=20, line_search_fn="strong_wolfe"
    )
    before = float(_energy_kept(target, *factors)[0].detach()) / energy

    def lost() -> Tensor:
        optimizer.zero_grad()
        share = 1 - _energy_kept(target, *factors)[0] / energy
        share.backward()
        return share

    optimizer.step(lost)
    with torch.no_grad():
        kept, down = _energy_kept(target, *factors)
        left, right = map(_unit, factors)
    # the factors' last columns are biases where the target has a constant
    left_bias, right_bias = (f[:, -1] if target.has_constant else None for f in (left, right))
    left, right = (factor[:, : target.d_model] for factor in (left, right))
    found = BilinearLayer(left, right, down, left_bias, right_bias, target.down_bias)
    return SharedNeurons(found.to(layer.dtype), (float(kept) / energy) ** 0.5, before**0.5)


def _start(layer: BilinearLayer, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Neurons that each hold one positive and one negative eigenvector of an output: ``a² v v − b²
    w w`` is the product of ``a v + b w`` and ``a v − b w``. Missing neurons start at random."""
    d_input = layer.factors[0].shape[1]
    energy, rows = torch.empty(0, dtype=layer.dtype), torch.empty(2, 0, d_input, dtype=layer.dtype)
    for direction in torch.eye(layer.d_out, dtype=layer.dtype):
        values, vectors = torch.linalg.eigh(layer.interaction(direction))  # rising
        up, down = values.flip(0).clamp(min=0), (-values).clamp(min=0)  # the strongest first
        positive = vectors.mT.flip(0) * up.sqrt()[:, None]
        negative = vectors.mT * down.sqrt()[:, None]
        energy = torch.cat([energy, up.square() + down.square()])
        rows = torch.cat([rows, torch.stack([positive + negative, positive - negative])], dim=1)
        strongest = energy.argsort(descending=True, stable=True)[:rank]
        energy, rows = energy[strongest], rows[:, strongest]
    rows = rows[:, energy > 0]
    extra = torch.randn(2, rank - rows.shape[1], d_input, generator=generator).to(rows)
    rows = torch.cat([rows / rows.norm(dim=2, keepdim=True), extra], dim=1)
    noise = torch.randn(rows.shape, generator=generator).to(rows)
    left, right = rows + noise * _START_NOISE / d_input**0.5
    return left, right


def _energy_kept(
    target: BilinearLayer, left: Tensor, right: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, "out rank"]]:
    """``⟨B, B'⟩² / |B'|²`` with the outputs that maximise it, and these outputs."""
    left, right = _unit(left), _unit(right)
    gram = pair_products((left, right), (left, right))
    gram = gram + 1e-9 * torch.eye(len(gram), dtype=gram.dtype)
    across = pair_products((left, right), target.factors) @ target.down.mT  # rank out
    down = torch.linalg.solve(gram, across)
    return (down * across).sum(), down.mT.detach()


def pair_products(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Inner products of the hidden units of two layers' factors, each as its symmetric form."""
    (left, right), (other_left, other_right) = first, second
    straight = (left @ other_left.mT) * (right @ other_right.mT)
    crossed = (left @ other_right.mT) * (right @ other_left.mT)
    return (straight + crossed) / 2


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
