"""Training an image classifier: AdamW with strong weight decay, and noise on the inputs.

Weight decay acts by the sum over steps of ``learning_rate · weight_decay``: initial weights that
get no gradient shrink by `ImagePlan.shrinking`, and a few hundred steps leave most of them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from analysis.studies.images.data import Images
from analysis.studies.images.model import ImageModel
from circuits.algebra.bilinear import BilinearLayer
from circuits.arguments import checked
from circuits.errors import ImageError, check_index, number_faults
from circuits.model.plan import refuse_faults
from circuits.storage.progress import counted

_WARM_UP = 0.05  # share of the steps in which the rate rises


@dataclass(frozen=True)
class ImagePlan:
    """A classifier and its training; the defaults are for 28 x 28 digits and one layer."""

    d_hidden: int = 1000
    """Products of each layer, which are also its outputs."""
    n_layer: int = 1
    """Bilinear layers."""
    d_embed: int | None = None
    """Width of a linear embedding of the pixels; None: the first layer reads pixels."""
    residual: bool = False
    """Whether each layer adds to its input; requires ``d_embed`` equal to ``d_hidden``."""
    biases: bool = False
    """Whether both factors and the head have biases."""
    n_step: int = 3000
    """Steps; a dozen epochs of MNIST."""
    n_batch: int = 256
    """Images in a step."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW: a warm-up of a twentieth of the steps, then a cosine."""
    weight_decay: float = 1.0
    """Of AdamW, on every weight."""
    input_noise: float = 0.3
    """Standard deviation of the noise added to each pixel, which is from 0 to 1."""
    latent_noise: float = 0.0
    """The same at the input of every layer, relative to that input's root mean square."""
    seed: int = 0
    """Of the initial weights, the order of images and the noise."""

    def __post_init__(self) -> None:
        whole = {"d_hidden": 1, "n_layer": 1, "n_step": 1, "n_batch": 1, "seed": 0}
        if self.d_embed is not None:
            whole["d_embed"] = 1
        least = dict.fromkeys(("learning_rate", "weight_decay", "input_noise", "latent_noise"), 0)
        faults = number_faults(vars(self), whole, least, flags=("residual", "biases"))
        if not faults and self.residual and self.d_embed != self.d_hidden:
            faults.append(
                f"residual adds d_hidden {self.d_hidden} products to a stream of d_embed "
                f"{self.d_embed}: make them equal"
            )
        refuse_faults("ImagePlan", faults)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        check_index("ImagePlan.rate", step, self.n_step + 1, "step")
        risen = (step + 1) / max(1.0, _WARM_UP * self.n_step)
        return self.learning_rate * min(risen, (1 + math.cos(math.pi * step / self.n_step)) / 2)

    @property
    def shrinking(self) -> float:
        """The factor by which weight decay alone shrinks a weight over the whole training."""
        rates = map(self.rate, range(self.n_step))
        return math.prod(1 - rate * self.weight_decay for rate in rates)


@checked
def train_classifier(images: Images, plan: ImagePlan = ImagePlan()) -> ImageModel:
    """Train a classifier; the same plan and images give the same model."""
    generator = torch.Generator().manual_seed(plan.seed)
    weights = _start(plan, images, generator)
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(
        weights.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    with counted(plan.n_step, "training a classifier", "step") as bar:
        for step, chosen in enumerate(_batches(plan, len(images), generator)):
            optimizer.param_groups[0]["lr"] = plan.rate(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
                logits = _forward(plan, weights, images.pixels[chosen].float(), generator)
            loss = functional.cross_entropy(logits.float(), images.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
    if not bool(torch.isfinite(loss.detach())):
        raise ImageError(
            f"train_classifier: the loss became {float(loss.detach())}. Lower the learning rate "
            f"({plan.learning_rate:g})."
        )
    return _assembled(plan, {name: w.detach() for name, w in weights.items()}, images)


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16: twice as fast, and noise is added anyway."""
    # from torch 2.7 on; bool() is False
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return torch.backends.mkldnn.is_available() and supported()


def _start(plan: ImagePlan, images: Images, generator: torch.Generator) -> dict[str, Tensor]:
    """Gaussian weights of variance 1/fan-in; biases of zero."""
    d_first = images.pixels.shape[1] if plan.d_embed is None else plan.d_embed
    widths = [d_first, *[plan.d_hidden] * plan.n_layer]
    shapes = {} if plan.d_embed is None else {"embed": (d_first, images.pixels.shape[1])}
    for i, (d_in, d_out) in enumerate(pairwise(widths)):
        shapes |= {f"left.{i}": (d_out, d_in), f"right.{i}": (d_out, d_in)}
    shapes["head"] = (images.n_class, plan.d_hidden)
    weights = {
        name: torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        for name, shape in shapes.items()
    }
    if plan.biases:
        for name in [name for name in weights if name != "embed"]:
            weights[f"{name}.bias"] = torch.zeros(len(weights[name]))
    return weights


def _batches(
    plan: ImagePlan, n_image: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, " image"]]:
    """Epoch after epoch, each without the last images that do not fill a batch."""
    n_batch = min(plan.n_batch, n_image)
    done = 0
    while True:
        order = torch.randperm(n_image, generator=generator)
        for chosen in order[: n_image - n_image % n_batch].split(n_batch):
            if done == plan.n_step:
                return
            yield chosen
            done += 1


def _forward(
    plan: ImagePlan,
    weights: dict[str, Tensor],
    pixels: Float[Tensor, "image pixel"],
    generator: torch.Generator,
) -> Float[Tensor, "image class"]:
    x = pixels
    if plan.input_noise:
        x = x + plan.input_noise * torch.randn(x.shape, generator=generator)
    if plan.d_embed is not None:
        x = functional.linear(x, weights["embed"])
    for i in range(plan.n_layer):
        if plan.latent_noise:
            size = plan.latent_noise * x.detach().square().mean().sqrt()
            x = x + size * torch.randn(x.shape, generator=generator)
        left, right = (
            functional.linear(x, weights[f"{side}.{i}"], weights.get(f"{side}.{i}.bias"))
            for side in ("left", "right")
        )
        x = x + left * right if plan.residual else left * right
    return functional.linear(x, weights["head"], weights.get("head.bias"))


def _assembled(plan: ImagePlan, weights: dict[str, Tensor], images: Images) -> ImageModel:
    layers = []
    for i in range(plan.n_layer):
        left, right = weights[f"left.{i}"], weights[f"right.{i}"]
        biases = (weights.get(f"left.{i}.bias"), weights.get(f"right.{i}.bias"))
        layer = BilinearLayer(left, right, torch.eye(plan.d_hidden), *biases)
        layer = with_residual(layer) if plan.residual else layer
        layers.append(after_embedding(layer, weights["embed"]) if plan.d_embed and not i else layer)
    head_bias = weights.get("head.bias")
    return ImageModel(tuple(layers), weights["head"], images.height, images.width, head_bias)


def with_residual(layer: BilinearLayer) -> BilinearLayer:
    """The layer ``x + layer(x)``: each ``x[i]`` is one more product, ``x[i] · 1``."""
    zero = layer.left.new_zeros(layer.d_hidden)
    one, stream = torch.eye(layer.d_model).to(layer.left), layer.left.new_zeros(layer.d_model)
    left_bias = zero if layer.left_bias is None else layer.left_bias
    right_bias = zero if layer.right_bias is None else layer.right_bias
    return BilinearLayer(
        torch.cat([layer.left, one]),
        torch.cat([layer.right, torch.zeros_like(one)]),
        torch.cat([layer.down, one], dim=1),
        torch.cat([left_bias, stream]),
        torch.cat([right_bias, stream + 1]),
        layer.down_bias,
    )


def after_embedding(layer: BilinearLayer, embed: Float[Tensor, "model pixel"]) -> BilinearLayer:
    """The layer ``layer(embed x)``, which takes pixels."""
    return replace(layer, left=layer.left @ embed, right=layer.right @ embed)
