"""One step of training a TopK autoencoder or transcoder: exact gradients, for active entries only.

With ``z = (x − offset) encoderᵀ + bias``, ``f`` the k largest of ``z`` (cut at zero), and ``x̂ = f
decoder + offset``, the loss is the mean of ``‖x̂ − x‖²``. It is differentiated by hand, because
autograd would spend most of its time on the zeros of ``token x feature`` matrices: ``∂f`` is, at
each active entry, the error times the decoder row, and each feature's gradients are weighted sums
of the errors and inputs of the tokens where it is active. Dead features are trained on what the
others left over (AuxK); then Adam, after the gradient's norm is clipped to one.

The decoder's rows write as if their length were one; their length scales what is read instead, as
in sae-lens' step, which this equals to the last digits. `Coder.unit` is what is saved.

A transcoder's ``x̂`` is compared with another activation ``y``, whose offset it learns; its input is
centred by a fixed ``centre``, since a trained one would do what the bias does.

On processors that multiply bfloat16 quickly, a few more than k are selected in bfloat16 and their
values computed in float32; which entry is the k-th can differ where two are within rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuits.algebra.pair_search import screen_dtype
from sae.sparse import Code, fused, strongest

Activation = Literal["topk", "signed_topk", "batchtopk"]

Measured = dict[str, Tensor]
"""Numbers of one step, before its update; they stay on the device until they are read."""

_TILE = 2**21  # scores that are held at a time: as many as stay in cache
_TILE_OF_GPU = 2**29
_CLIP = 1.0  # the gradient's norm is clipped to this
_SPARE = 8  # candidates beyond k that the bfloat16 screen keeps
_THRESHOLD_RATE = 0.01  # of the running mean of the batches' thresholds


@dataclass(eq=False)
class Coder:
    """The weights of an autoencoder or transcoder in training, with their optimizer."""

    encoder: Float[Tensor, "feature model"]
    bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature model"]
    offset: Float[Tensor, " model"]  # of what is written
    k: int
    centre: Float[Tensor, " model"] | None = None  # of what a transcoder reads
    activation: Activation = "topk"
    auxiliary: float = 1.0
    dead_after: int = 10_000_000  # tokens
    tile: int | None = None  # scores that are held at a time
    record_after: int = 3  # ordinary steps before one is recorded as a CUDA graph
    tokens_since: Int64[Tensor, " feature"] = field(init=False)  # since each feature was active
    threshold: Float[Tensor, ""] = field(init=False)  # for batchtopk: what an entry must exceed

    def __post_init__(self) -> None:
        device, weights = self.decoder.device, list(self.weights.values())
        self.tokens_since = torch.zeros(len(self.decoder), dtype=torch.int64, device=device)
        self.threshold = torch.zeros((), dtype=torch.float64, device=device)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        on_gpu = fused(self.decoder)
        rate = torch.zeros((), device=device) if on_gpu else 0.0
        self.optimizer = torch.optim.Adam(weights, rate, fused=True, capturable=on_gpu)
        self._recorded: dict[torch.Size, tuple[Any, Tensor, Tensor, Measured]] = {}
        self._n_plain = 0

    @property
    def n_feature(self) -> int:
        """How many features there are."""
        return len(self.decoder)

    @property
    def gradients(self) -> list[Tensor]:
        """The weights' gradients, in their order."""
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
        """Random decoder rows of length one; the encoder is the same."""
        decoder = torch.randn(n_feature, d_model, generator=generator).to(offset)
        decoder /= decoder.norm(dim=1, keepdim=True)
        bias = decoder.new_zeros(n_feature)
        return cls(decoder.clone(), bias, decoder, offset.clone(), **fields)

    @property
    def unit(self) -> _Unit:
        """The same autoencoder with decoder rows of length one."""
        norms = torch.linalg.vector_norm(self.decoder, dim=1)
        decoder = self.decoder / norms[:, None]
        return _Unit(self.encoder * norms[:, None], self.bias * norms, decoder, norms)

    def centred(self, x: Float[Tensor, "token model"]) -> Float[Tensor, "token model"]:
        """What the encoder multiplies."""
        return x - (self.offset if self.centre is None else self.centre)

    @torch.no_grad()
    def fit_length(
        self, x: Float[Tensor, "token model"], y: Float[Tensor, "token model"] | None = None
    ) -> None:
        """Scale the encoder to reconstruct some tokens best: k random features that each read a
        token in full would write it several times. A transcoder's features first write what each
        alone would write best."""
        centred, unit = self.centred(x), self.unit
        wanted = centred if y is None else y - self.offset
        code = self.encode(centred, unit)
        if y is not None:
            best = code.by_feature.times(code.values, wanted)
            size = torch.linalg.vector_norm(best, dim=1, keepdim=True)
            self.decoder.copy_(torch.where(size > 0, best / size.clamp(min=1e-30), self.decoder))
        written = code.times(self.decoder)
        length = (written * wanted).sum() / written.square().sum().clamp(min=1e-30)
        if bool(length > 0):
            self.encoder *= length

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {name: getattr(self, name) for name in ("encoder", "bias", "decoder", "offset")}

    def settled_threshold(self, n_steps: int) -> Float[Tensor, ""]:
        """The threshold, corrected for its start at zero (as Adam corrects its averages)."""
        return self.threshold / (1 - (1 - _THRESHOLD_RATE) ** max(1, n_steps))

    @property
    def dead(self) -> Int64[Tensor, " dead"]:
        """The features that have been inactive for too long."""
        return (self.tokens_since > self.dead_after).nonzero()[:, 0]

    @torch.no_grad()
    def step(
        self,
        x: Float[Tensor, "token model"],
        rate: float,
        y: Float[Tensor, "token model"] | None = None,
    ) -> Measured:
        """Train on one batch, a transcoder to write ``y``; returns the loss, the fraction of
        variance unexplained, active features a token (``l0``), whether the batch was finite, and
        the number of dead features."""
        (group,) = self.optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        dead = self.dead
        revived = dead if self.auxiliary else dead[:0]
        recorded = fused(x) and not len(revived) and self.activation != "batchtopk"
        y = x if y is None else y
        measured = self._graph_step(x, y, revived) if recorded else self._plain_step(x, y, revived)
        return measured | {"n_dead": torch.tensor(len(dead))}

    def _plain_step(
        self,
        x: Float[Tensor, "token model"],
        y: Float[Tensor, "token model"],
        revived: Int64[Tensor, " dead"],
    ) -> Measured:
        centred, unit = self.centred(x), self.unit
        code = self.encode(centred, unit)
        if self.activation == "batchtopk" and len(code.values):
            self.threshold.lerp_(code.values.min().double(), _THRESHOLD_RATE)
        error = code.times(unit.decoder) - (centred if y is x else y - self.offset)
        summed = error.square().sum()
        self._gradients(unit, code, centred, error * (2 / len(x)))
        if len(revived):
            self._add_auxiliary(unit, revived, centred, error)
        self._to_weights(unit)
        counts = code.counts
        self.tokens_since += len(x)
        self.tokens_since.masked_fill_(counts > 0, 0)
        self._move()
        return {
            "loss": summed / len(x),
            "fvu": summed / (y - y.mean(0)).square().sum(),
            "l0": counts.sum() / len(x),
            "finite": torch.isfinite(x.sum()) & torch.isfinite(y.sum()),
        }

    def _graph_step(
        self,
        x: Float[Tensor, "token model"],
        y: Float[Tensor, "token model"],
        none: Int64[Tensor, " dead"],
    ) -> Measured:
        """The same step as a CUDA graph: its kernels are too short to launch one by one."""
        if x.shape not in self._recorded:
            self._n_plain += 1
            if self._n_plain <= self.record_after:  # libraries and allocator warm up
                return self._plain_step(x, y, none)
            graph, read = torch.cuda.CUDAGraph(), x.clone()
            wanted = read if y is x else y.clone()
            # another thread may be filling the next buffer
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                measured = self._plain_step(read, wanted, none)
            self._recorded[x.shape] = graph, read, wanted, measured
        graph, read, wanted, measured = self._recorded[x.shape]
        read.copy_(x)
        if wanted is not read:
            wanted.copy_(y)
        graph.replay()
        return {name: number.clone() for name, number in measured.items()}

    def encode(self, centred: Float[Tensor, "token model"], unit: _Unit) -> Code:
        """The active features of some tokens, given without the offset."""
        if self.activation == "batchtopk":
            return self._encode_together(centred, unit)
        screen = torch.bfloat16 if fused(unit.encoder) else screen_dtype(unit.encoder)
        screened = screen != unit.encoder.dtype
        n_kept = min(self.k + _SPARE * screened, self.n_feature)
        encoder, bias = unit.encoder.to(screen), unit.bias.to(screen)
        tiles = [
            strongest(torch.addmm(bias, rows, encoder.mT), n_kept)
            for rows in centred.to(screen).split(self._n_rows)
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

    def _encode_together(self, centred: Float[Tensor, "token model"], unit: _Unit) -> Code:
        """The ``k · token`` largest of a whole batch."""
        wanted = self.k * len(centred)
        floor = 0.5 * float(self.threshold)  # a guess; everything positive if it is too high
        rows, features, values = self._above(centred, unit, floor)
        if len(values) < wanted and floor > 0:
            rows, features, values = self._above(centred, unit, 0.0)
        if len(values) > wanted:
            kept = values.topk(wanted, sorted=False).indices.sort().values
            rows, features, values = rows[kept], features[kept], values[kept]
        counts = torch.bincount(rows, minlength=len(centred))
        return Code.of_counts(counts, features, values, self.n_feature)

    def _above(
        self, centred: Float[Tensor, "token model"], unit: _Unit, floor: float
    ) -> tuple[Int64[Tensor, " entry"], Int64[Tensor, " entry"], Float[Tensor, " entry"]]:
        rows, features, values = [], [], []
        for i, tile in enumerate(centred.split(self._n_rows)):
            scores = torch.addmm(unit.bias, tile, unit.encoder.mT)
            row, feature = (scores > floor).nonzero(as_tuple=True)
            rows.append(row + i * self._n_rows)
            features.append(feature)
            values.append(scores[row, feature])
        return torch.cat(rows), torch.cat(features), torch.cat(values)

    def _gradients(
        self,
        unit: _Unit,
        code: Code,
        centred: Float[Tensor, "token model"],
        slope: Float[Tensor, "token model"],
    ) -> None:
        """Of the loss with respect to ``unit``, given its gradient at each reconstruction."""
        of_values = code.products(slope, unit.decoder)
        if self.activation != "signed_topk":
            of_values = of_values * code.active
        by = code.by_feature
        encoder, bias, decoder, offset = self.gradients
        if fused(slope):
            from sae.kernels import gradients

            sums = (encoder, bias, decoder)
            where = (by.starts, by.rows, by.entries)
            gradients(*where, code.values, of_values, centred, slope, sums)
        else:
            ones = torch.ones_like(slope[:, :1])
            encoder.copy_(by.times(of_values, centred))
            bias.copy_(by.times(of_values, ones)[:, 0])
            decoder.copy_(by.times(code.values, slope))
        offset.copy_(slope.sum(0))
        if self.centre is None:
            offset -= bias @ unit.encoder

    def _add_auxiliary(
        self,
        unit: _Unit,
        dead: Int64[Tensor, " dead"],
        centred: Float[Tensor, "token model"],
        error: Float[Tensor, "token model"],
    ) -> None:
        """AuxK: dead features learn to reconstruct the error, a fixed target. Each token uses its
        ``model / 2`` largest dead scores; fewer dead features weigh less."""
        encoder, bias, decoder = unit.encoder[dead], unit.bias[dead], unit.decoder[dead]
        most = max(1, len(self.offset) // 2)
        weight = self.auxiliary * min(len(dead) / most, 1) * 2 / len(centred)
        sums = [torch.zeros_like(part) for part in (encoder, bias, decoder)]
        of_encoder, of_bias, of_decoder = sums
        for rows, left in zip(centred.split(self._n_rows), error.split(self._n_rows), strict=True):
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
        if self.centre is None:
            of_offset -= of_bias @ encoder

    def _to_weights(self, unit: _Unit) -> None:
        """From the gradients of ``unit`` to those of the weights."""
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
    def _n_rows(self) -> int:
        """Tokens whose scores are held at a time."""
        held = _TILE if self.decoder.device.type == "cpu" else _TILE_OF_GPU
        return max(1, (self.tile or held) // self.n_feature)


class _Unit(NamedTuple):
    """An autoencoder whose decoder rows have length one, and the former lengths."""

    encoder: Float[Tensor, "feature model"]
    bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature model"]
    norms: Float[Tensor, " feature"]
