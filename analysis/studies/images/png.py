"""Grey and coloured pictures as PNG, written and read with zlib alone.

Only non-interlaced pictures of 8 bits a channel are read, as in data sets of digits; an imaging
library would be a dependency for this page alone.
"""

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

from circuits.arguments import checked
from circuits.errors import ImageError, first_line

_START = b"\x89PNG\r\n\x1a\n"
MARK = b"Software\0bilinear-circuits"  # in every picture that is written here
_CHANNELS = {0: 1, 2: 3}  # colour type: grey, red-green-blue
_MOST = 2**26  # bytes that a picture may unpack to


@checked
def encoded(picture: UInt8[np.ndarray, "height width *channel"]) -> bytes:
    """The bytes of a PNG file; grey without a last axis, coloured with one of size 3."""
    height, width = picture.shape[:2]
    colour = 0 if picture.ndim == 2 else 2
    rows = np.zeros((height, 1 + width * _CHANNELS[colour]), np.uint8)
    rows[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"tEXt", MARK),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return _START + b"".join(_chunk(*part) for part in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def decoded(content: bytes) -> UInt8[np.ndarray, "height width *channel"]:
    """The picture that the bytes of a PNG file hold; grey without a last axis."""
    try:
        header, packed = _parts(content)
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        if depth != 8 or colour not in _CHANNELS or interlaced:
            raise ImageError(
                f"a PNG of {depth} bits, colour type {colour}{', interlaced' * interlaced}: only "
                f"grey or red-green-blue of 8 bits can be read. Convert it."
            )
        step = _CHANNELS[colour]
        size = height * (1 + width * step)
        unpack = zlib.decompressobj()
        rows = np.frombuffer(unpack.decompress(packed, min(size, _MOST)), np.uint8)
        rows = rows.reshape(height, 1 + width * step)
    except (struct.error, zlib.error, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"a PNG that cannot be read ({first_line(error)}). Download it again."
        ) from error
    picture = np.zeros((height, width * step), np.uint8)
    above = np.zeros(width * step, np.uint8)
    for i, row in enumerate(rows):
        above = picture[i] = _unpredicted(int(row[0]), row[1:], above, step)
    return picture if step == 1 else picture.reshape(height, width, step)


def is_ours(head: bytes) -> bool:
    """Whether a file with these first bytes is a picture that was written here."""
    return head.startswith(_START) and MARK in head


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """The header and the compressed rows."""
    if not content.startswith(_START):
        raise ImageError("an image that is not a PNG. Convert it, or pass an .npz.")
    header, packed, at = b"", b"", len(_START)
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if content[at : at + 12 + length] != _chunk(name, body):
            raise ValueError("cut short or damaged")
        header = body if name == b"IHDR" else header
        packed += body if name == b"IDAT" else b""
        at += length + 12
    return header, packed


def _unpredicted(
    how: int, row: UInt8[np.ndarray, " byte"], above: UInt8[np.ndarray, " byte"], step: int
) -> UInt8[np.ndarray, " byte"]:
    """One row; all sums are modulo 256, as in the type."""
    if how == 0:
        return row
    if how == 2:
        return row + above
    if how not in (1, 3, 4):
        raise ImageError(f"a PNG with a row of unknown filter {how}. Save it again.")
    out, up = [0] * step + row.tolist(), [0] * step + above.tolist()
    for i in range(step, len(out)):
        a, b, c = out[i - step], up[i], up[i - step]
        if how == 4:  # Paeth: whichever of the three is nearest to a + b − c
            guess = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        else:
            guess = a if how == 1 else (a + b) // 2
        out[i] = (out[i] + guess) % 256
    return np.array(out[step:], np.uint8)
