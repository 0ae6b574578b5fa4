"""One step of training a TopK autoencoder: exact gradients that touch only what is active.

With ``z = (x − offset) encoderᵀ + bias``, ``f`` the k largest of ``z`` (cut at zero), and
``x̂ = f decoder + offset``, the loss is the mean of ``‖x̂ − x‖²``. By hand, because automatic
differentiation spends most of its time on the zeros of ``token x feature`` matrices:

    1. the product ``z`` for some hundred tokens at a time, and the k largest of each row
    2. the reconstruction, a weighted sum of k rows of the decoder for each token
    3. ``∂f``: of each active entry, its error's and its decoder row's product
    4. the entries sorted by feature: each feature's gradients are weighted sums of the errors and
       inputs of the tokens where it is active
    5. dead features are taught what the living ones left over (AuxK)
    6. Adam, after the gradient's norm is cut down to one

The decoder's rows write as if they were of length one; how long they are stretches what is read, so
that a feature can grow in one piece. All of this is sae-lens' step, to the last digits; `unit` is
the same autoencoder with rows of length one, as it is saved.

What a reader would get wrong: where the processor multiplies bfloat16 quickly, step 1 looks for
the largest in it, among a few more than k, and the values come from a second look in float32. The
values are therefore exact; which entry is the k-th can differ where two are within rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.algebra.pair_search import screen_dtype
from sae.sparse import Code, fused, strongest

Activation = Literal["topk", "signed_topk", "batchtopk"]

_TILE = 2**21  # scores that are held at a time
_TILE_OF_GPU = 2**29
_CLIP = 1.0  # the gradient's norm is cut down to this
_PLAIN = 3  # steps before one is recorded
_SPARE = 8  # more than k that the screen lets through
_THRESHOLD_RATE = 0.01  # at which a batch's threshold moves the one that is kept


@dataclass(eq=False)
class Coder:
    """The weights of an autoencoder on their way, with the optimizer that moves them."""

    encoder: Float[Tensor, "feature model"]
    bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature model"]
    offset: Float[Tensor, " model"]
    k: int
    activation: Activation = "topk"
    auxiliary: float = 1.0
    dead_after: int = 10_000_000  # tokens
    tokens_since: Int64[Tensor, " feature"] = field(init=False)  # each feature was active
    threshold: Float[Tensor, ""] = field(init=False)  # of batchtopk: what an entry must exceed

    def __post_init__(self) -> None:
        device = self.decoder.device
        self.tokens_since = torch.zeros(len(self.decoder), dtype=torch.int64, device=device)
        self.threshold = torch.zeros((), dtype=torch.float64, device=device)
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        on_gpu = fused(self.decoder)
        rate = torch.zeros((), device=device) if on_gpu else 0.0
        weights = list(self.weights.values())
        self.optimizer = torch.optim.Adam(weights, rate, fused=True, capturable=on_gpu)
        self._recorded: dict[torch.Size, tuple[Any, Tensor, Measured]] = {}
        self._n_plain = 0

    @property
    def n_feature(self) -> int:
        """How many features there are."""
        return len(self.decoder)

    @property
    def d_model(self) -> int:
        """Width of the activation."""
        return self.decoder.shape[1]

    @property
    def gradients(self) -> list[Tensor]:
        """Of the weights, in their order."""
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    @classmethod
    def start(
        cls,
        d_model: int,
        n_feature: int,
        generator: torch.Generator,
        offset: Float[Tensor, " model"],
        **fields: Any,
    ) -> Coder:
        """Random directions of length one, read by themselves."""
        decoder = torch.randn(n_feature, d_model, generator=generator).to(offset)
        decoder /= decoder.norm(dim=1, keepdim=True)
        bias = decoder.new_zeros(n_feature)
        return cls(decoder.clone(), bias, decoder, offset.clone(), **fields)

    @property
    def unit(self) -> Unit:
        """The same autoencoder with decoder rows of length one."""
        norms = torch.linalg.vector_norm(self.decoder, dim=1)
        decoder = self.decoder / norms[:, None]
        return Unit(self.encoder * norms[:, None], self.bias * norms, decoder, norms)

    @torch.no_grad()
    def fit_length(self, x: Float[Tensor, "token model"]) -> None:
        """Make the encoder as long as reconstructs some tokens best: k random features that each
        read a token whole would write it several times over."""
        centred, unit = x - self.offset, self.unit
        written = self.encode(centred, unit).times(unit.decoder)
        length = (written * centred).sum() / written.square().sum().clamp(min=1e-30)
        if bool(length > 0):
            self.encoder *= length

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is learnt, by name."""
        names = ("encoder", "bias", "decoder", "offset")
        return {name: getattr(self, name) for name in names}

    def settled_threshold(self, n_steps: int) -> Float[Tensor, ""]:
        """The threshold without the zero that it began from, which fades over hundreds of steps."""
        return self.threshold / (1 - (1 - _THRESHOLD_RATE) ** max(1, n_steps))

    @property
    def dead(self) -> Int64[Tensor, " dead"]:
        """The features that have not been active for too long."""
        return (self.tokens_since > self.dead_after).nonzero()[:, 0]

    @torch.no_grad()
    def step(self, x: Float[Tensor, "token model"], rate: float) -> Measured:
        """Learn from one batch at a learning rate; the numbers returned stay on the device."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        dead = self.dead
        taught = dead if self.auxiliary else dead[:0]
        recorded = fused(x) and not len(taught) and self.activation != "batchtopk"
        measured = self._replay(x, taught) if recorded else self._learn(x, taught)
        return replace(measured, n_dead=len(dead))

    def _learn(self, x: Float[Tensor, "token model"], taught: Int64[Tensor, " dead"]) -> Measured:
        centred, unit = x - self.offset, self.unit
        code = self.encode(centred, unit)
        if self.activation == "batchtopk" and len(code.values):
            self.threshold.lerp_(code.values.min().double(), _THRESHOLD_RATE)
        error = code.times(unit.decoder) - centred
        summed = error.square().sum()
        self._gradients(unit, code, centred, error * (2 / len(x)))
        if len(taught):
            self._teach(unit, taught, centred, error)
        self._stretch(unit)
        counts = code.counts
        self.tokens_since += len(x)
        self.tokens_since.masked_fill_(counts > 0, 0)
        self._move()
        return Measured(
            loss=summed / len(x),
            fvu=summed / (x - x.mean(0)).square().sum(),
            n_active=counts.sum() / len(x),
            finite=torch.isfinite(x.sum()),
            n_dead=len(taught),
            n_feature=self.n_feature,
        )

    def _replay(self, x: Float[Tensor, "token model"], none: Int64[Tensor, " dead"]) -> Measured:
        """The same step as one recorded graph: its kernels are too short to start one by one."""
        if x.shape not in self._recorded:
            self._n_plain += 1
            if self._n_plain <= _PLAIN:  # lets libraries and allocator settle
                return self._learn(x, none)
            graph, held = torch.cuda.CUDAGraph(), x.clone()
            # another thread may be making the next buffer meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                measured = self._learn(held, none)
            self._recorded[x.shape] = graph, held, measured
        graph, held, measured = self._recorded[x.shape]
        held.copy_(x)
        graph.replay()
        return measured.copied()

    def encode(self, centred: Float[Tensor, "token model"], unit: Unit) -> Code:
        """The active features of some tokens, their offset already taken off."""
        if self.activation == "batchtopk":
            return self._encode_together(centred, unit)
        screen = _screen(unit.encoder)
        screened = screen != unit.encoder.dtype
        n_kept = min(self.k + _SPARE * screened, self.n_feature)
        encoder, bias = unit.encoder.to(screen), unit.bias.to(screen)
        tiles = [
            strongest(torch.addmm(bias, rows, encoder.mT), n_kept)
            for rows in centred.to(screen).split(self._tile)
        ]
        values, features = (torch.cat(part) for part in zip(*tiles, strict=True))
        if screened:
            seen = Code.of_equal_rows(features, values.to(centred), self.n_feature)
            values = seen.products(centred, unit.encoder) + unit.bias[seen.features]
            values, places = strongest(values.view(-1, n_kept), self.k)
            features = features.gather(1, places)
        if self.activation == "topk":
            values = values.relu()
        return Code.of_equal_rows(features, values, self.n_feature)

    def _encode_together(self, centred: Float[Tensor, "token model"], unit: Unit) -> Code:
        """The ``k · token`` largest of a whole batch, wherever they are."""
        wanted = self.k * len(centred)
        floor = 0.5 * float(self.threshold)  # a guess; too high, and everything positive is taken
        found = self._above(centred, unit, floor)
        if len(found[0]) < wanted and floor > 0:
            found = self._above(centred, unit, 0.0)
        rows, features, values = found
        if len(values) > wanted:
            kept = values.topk(wanted, sorted=False).indices.sort().values
            rows, features, values = rows[kept], features[kept], values[kept]
        counts = torch.bincount(rows, minlength=len(centred))
        return Code(functional.pad(counts.cumsum(0), (1, 0)), features, values, self.n_feature)

    def _above(
        self, centred: Float[Tensor, "token model"], unit: Unit, floor: float
    ) -> tuple[Int64[Tensor, " entry"], Int64[Tensor, " entry"], Float[Tensor, " entry"]]:
        rows, features, values = [], [], []
        for i, tile in enumerate(centred.split(self._tile)):
            scores = torch.addmm(unit.bias, tile, unit.encoder.mT)
            row, feature = (scores > floor).nonzero(as_tuple=True)
            rows.append(row + i * self._tile)
            features.append(feature)
            values.append(scores[row, feature])
        return torch.cat(rows), torch.cat(features), torch.cat(values)

    def _gradients(
        self,
        unit: Unit,
        code: Code,
        centred: Float[Tensor, "token model"],
        slope: Float[Tensor, "token model"],
    ) -> None:
        """Of the loss, whose slope at each reconstruction is given, as if ``unit`` were learnt."""
        of_values = code.products(slope, unit.decoder)
        if self.activation != "signed_topk":
            of_values = of_values * code.active
        entries = code.by_feature
        encoder, bias, decoder, offset = self.gradients
        if fused(slope):
            from sae.kernels import gradients

            sums = (encoder, bias, decoder)
            where = (entries.starts, entries.rows, entries.entries)
            gradients(*where, code.values, of_values, centred, slope, sums)
        else:
            ones = torch.ones_like(slope[:, :1])
            encoder.copy_(entries.times(of_values, centred))
            bias.copy_(entries.times(of_values, ones)[:, 0])
            decoder.copy_(entries.times(code.values, slope))
        offset.copy_(slope.sum(0) - bias @ unit.encoder)

    def _teach(
        self,
        unit: Unit,
        dead: Int64[Tensor, " dead"],
        centred: Float[Tensor, "token model"],
        error: Float[Tensor, "token model"],
    ) -> None:
        """AuxK: the dead features' own gradients of reconstructing what is left over.

        The ``model / 2`` largest dead scores of each token stand for it, less weighted while there
        are fewer of them; its target is fixed, so no living feature is moved by this.
        """
        encoder, bias, decoder = unit.encoder[dead], unit.bias[dead], unit.decoder[dead]
        most = max(1, self.d_model // 2)
        weight = self.auxiliary * min(len(dead) / most, 1) * 2 / len(centred)
        sums = [torch.zeros_like(part) for part in (encoder, bias, decoder)]
        of_encoder, of_bias, of_decoder = sums
        for rows, left in zip(centred.split(self._tile), error.split(self._tile), strict=True):
            values = torch.addmm(bias, rows, encoder.mT)
            if len(dead) > most:
                chosen = strongest(values, most)[1]
                values = torch.zeros_like(values).scatter_(1, chosen, values.gather(1, chosen))
            slope = (values @ decoder + left) * weight
            of_values = (slope @ decoder.mT) * (values != 0)
            of_encoder += of_values.mT @ rows
            of_decoder += values.mT @ slope
            of_bias += of_values.sum(0)
        *own, of_offset = self.gradients
        for gradient, part in zip(own, sums, strict=True):
            gradient[dead] += part
        of_offset -= of_bias @ encoder

    def _stretch(self, unit: Unit) -> None:
        """From the gradients of ``unit`` to those of the weights that it comes from."""
        encoder, bias, decoder, _ = self.gradients
        of_norms = (encoder * self.encoder).sum(1) + bias * self.bias
        encoder *= unit.norms[:, None]
        bias *= unit.norms
        decoder -= (decoder * unit.decoder).sum(1, keepdim=True) * unit.decoder
        decoder /= unit.norms[:, None]
        decoder += of_norms[:, None] * unit.decoder

    def _move(self) -> None:
        squares = [gradient.square().sum() for gradient in self.gradients]
        norm = torch.stack(squares).sum().sqrt()
        for gradient in self.gradients:
            gradient *= (_CLIP / (norm + 1e-6)).clamp(max=1)
        self.optimizer.step()

    @property
    def _tile(self) -> int:
        """Tokens whose scores are held at a time: what stays in cache; all of them on a GPU."""
        held = _TILE if self.decoder.device.type == "cpu" else _TILE_OF_GPU
        return max(1, held // self.n_feature)


def _screen(weights: Tensor) -> torch.dtype:
    """In which a first look is quickest; on a GPU bfloat16, since nothing need be proven of it."""
    return torch.bfloat16 if fused(weights) else screen_dtype(weights)


@dataclass(frozen=True, eq=False)
class Unit:
    """An autoencoder whose decoder rows have length one, and the lengths that were taken off."""

    encoder: Float[Tensor, "feature model"]
    bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature model"]
    norms: Float[Tensor, " feature"]


@dataclass(frozen=True)
class Measured:
    """What a step saw, before it moved; tensors that wait on the device until they are asked."""

    loss: Float[Tensor, ""]
    fvu: Float[Tensor, ""]  # fraction of the batch's variance left unexplained
    n_active: Float[Tensor, ""]  # a token
    finite: Bool[Tensor, ""]  # whether the batch held only finite numbers
    n_dead: int
    n_feature: int

    def copied(self) -> Measured:
        """The same numbers, out of reach of the next step's."""
        tensors: dict[str, Any] = {
            name: value.clone() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)
