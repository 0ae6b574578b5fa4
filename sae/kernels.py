"""Two GPU kernels that read each vector once and add in a fixed order: the same bits each time.

Triton comes with torch on machines with a GPU; import this module only there.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor


@triton.jit
def _products(
    starts, features, rows, vectors, out, d,
    AT_ONCE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program per row; its entries in blocks of AT_ONCE, their vectors in blocks of WIDTH."""
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(starts + row), tl.load(starts + row + 1)
    for entry in range(first, last, AT_ONCE):
        entries = entry + tl.arange(0, AT_ONCE)
        there = entries < last
        feature = tl.load(features + entries, mask=there, other=0)
        total = tl.zeros((AT_ONCE,), tl.float32)
        for start in range(0, d, WIDTH):
            place = start + tl.arange(0, WIDTH)
            x = tl.load(rows + row * d + place, mask=place < d, other=0.0)
            inside = there[:, None] & (place < d)[None, :]
            y = tl.load(vectors + feature[:, None] * d + place[None, :], mask=inside, other=0.0)
            total += tl.sum(y * x[None, :], axis=1)
        tl.store(out + entries, total, mask=there)


def products(
    starts: Int64[Tensor, " row_and_end"],
    features: Int64[Tensor, " entry"],
    rows: Float[Tensor, "row model"],
    vectors: Float[Tensor, "feature model"],
) -> Float[Tensor, " entry"]:
    """For each entry, the product of its row's and its feature's vector."""
    out = torch.empty(len(features), dtype=rows.dtype, device=rows.device)
    d = rows.shape[1]
    width = min(256, triton.next_power_of_2(d))
    grid = (len(starts) - 1,)
    rows, vectors = rows.contiguous(), vectors.contiguous()
    _products[grid](starts, features, rows, vectors, out, d, AT_ONCE=16, WIDTH=width)
    return out


@triton.jit
def _gradients(
    starts, rows, entries, values, of_values, centred, slope,
    encoder, bias, decoder, d,
    AT_ONCE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program per feature and block of WIDTH dimensions; tokens in blocks of AT_ONCE."""
    feature = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first, last = tl.load(starts + feature), tl.load(starts + feature + 1)
    of_encoder = tl.zeros((WIDTH,), tl.float32)
    of_decoder = tl.zeros((WIDTH,), tl.float32)
    of_bias = tl.zeros((AT_ONCE,), tl.float32)
    for token in range(first, last, AT_ONCE):
        places = token + tl.arange(0, AT_ONCE)
        there = places < last
        row = tl.load(rows + places, mask=there, other=0)
        entry = tl.load(entries + places, mask=there, other=0)
        value = tl.load(values + entry, mask=there, other=0.0)
        of_value = tl.load(of_values + entry, mask=there, other=0.0)
        inside = there[:, None] & (place < d)[None, :]
        at = row[:, None] * d + place[None, :]
        of_encoder += tl.sum(
            of_value[:, None] * tl.load(centred + at, mask=inside, other=0.0), axis=0
        )
        of_decoder += tl.sum(value[:, None] * tl.load(slope + at, mask=inside, other=0.0), axis=0)
        of_bias += of_value
    tl.store(encoder + feature * d + place, of_encoder, mask=place < d)
    tl.store(decoder + feature * d + place, of_decoder, mask=place < d)
    if tl.program_id(1) == 0:
        tl.store(bias + feature, tl.sum(of_bias, axis=0))


def gradients(
    starts: Int64[Tensor, " feature_and_end"],
    rows: Int64[Tensor, " entry"],
    entries: Int64[Tensor, " entry"],
    values: Float[Tensor, " entry"],
    of_values: Float[Tensor, " entry"],
    centred: Float[Tensor, "row model"],
    slope: Float[Tensor, "row model"],
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """The gradients of encoder, bias and decoder, written ``into`` them."""
    d = centred.shape[1]
    width = min(128, triton.next_power_of_2(d))
    grid = (len(starts) - 1, triton.cdiv(d, width))
    _gradients[grid](
        starts, rows, entries, values.contiguous(), of_values.contiguous(), centred.contiguous(),
        slope.contiguous(), *into, d, AT_ONCE=16, WIDTH=width,
    )  # fmt: skip
