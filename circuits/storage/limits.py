"""What a file may cost to read: no wait without end, and no more memory than its size accounts for.

Files come from anywhere. A FIFO is never ready, a device never ends, and a packed file of 1 MB may
hold 1 GB of zeros.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import unpack_from
from typing import Any

from circuits.errors import CircuitsError, machine_memory

_UNPACKED = 2**28  # bytes that any file may unpack to
_TIMES = 100  # its own size, that a larger one may
_PIECE = 2**22
_ROWS = 2**14  # at once: fewer would read the repeated texts more often


def check_readable(path: Path, error: type[CircuitsError]) -> None:
    """Refuse what is no regular file, or is larger than the memory; what is not there is for the
    reader to report."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as fault:  # a link to itself; a name that cannot be
        raise error(f"{path}: cannot be read ({getattr(fault, 'strerror', fault)}).") from fault
    if not stat.S_ISREG(about.st_mode):
        raise error(
            f"{path}: not a regular file ({_kind(about.st_mode)}), so it might never end. Put a "
            f"copy of the file itself there."
        )
    if about.st_size > machine_memory():
        raise error(
            f"{path}: {about.st_size / 2**30:,.0f} GiB, more than this machine's memory. It may be "
            f"damaged: copy it again, or read it on a larger machine."
        )


def check_replaceable(path: Path, error: type[CircuitsError]) -> None:
    """Refuse to put a file in the place of a FIFO, a device or a link of the system's own, such as
    /dev/stdout: it would be gone for every program."""
    try:
        mode, link = path.stat().st_mode, path.is_symlink()
    except (OSError, ValueError):  # not there, or not to be reached: for the writer to report
        return
    system = link and path.absolute().parts[:2] in (("/", "dev"), ("/", "proc"))
    if system or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a link of the system" if system else _kind(mode)
        raise error(f"{path}: {what}, which a new file would take the place of. Name a file.")


def is_there(path: Path, error: type[CircuitsError]) -> bool:
    """Whether anything has this path; refused if nothing can have it, such as a name that is too
    long."""
    try:
        return path.exists()
    except (OSError, ValueError) as fault:
        told = getattr(fault, "strerror", None) or fault
        raise error(f"{str(path)[:80]}…: cannot be a path here ({told}).") from fault


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a FIFO": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((kind for kind, is_one in kinds.items() if is_one(mode)), "a device")


def check_unpacked(path: Path, n_bytes: int, error: type[CircuitsError]) -> None:
    """Refuse a packed file whose content is too large for its size."""
    if n_bytes > _most(path):
        raise error(
            f"{path}: unpacks to more than {_most(path) / 2**20:,.0f} MiB, over {_TIMES} times its "
            f"size, which would fill the memory. If that is right, write it without compression."
        )


def _most(path: Path) -> int:
    return max(_UNPACKED, _TIMES * path.stat().st_size)


def gunzipped(path: Path, error: type[CircuitsError]) -> bytes:
    """The content of a gzip file; like `gzip`, raises EOFError and zlib.error for other files."""
    packed, parts, n_bytes = path.read_bytes(), list[bytes](), 0
    while packed.rstrip(b"\0") or not parts:
        unpack = zlib.decompressobj(wbits=31)
        while not unpack.eof:
            part = unpack.decompress(packed, _PIECE)
            packed = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if not (part or packed or unpack.eof):
                raise EOFError("it is cut short")
            parts.append(part)
            n_bytes += len(part)
            check_unpacked(path, n_bytes, error)
    return b"".join(parts)


def check_parquet(
    path: Path, error: type[CircuitsError], columns: Sequence[str] | None = None
) -> None:
    """Refuse a Parquet file whose columns are too large for its size, or hold lists: each value has
    at least eight bytes as it is read. Texts are looked at as they are encoded: one that is
    repeated is stored once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {f.name: f.type for f in pq.read_schema(path) if columns is None or f.name in columns}
    if nested := [name for name, type_ in types.items() if pa.types.is_nested(type_)]:
        raise error(f"{path}: column {nested[0]!r:.80} holds lists. Write plain texts or numbers.")
    widths = [max(8, t.bit_width // 8) if pa.types.is_primitive(t) else 8 for t in types.values()]
    texts = [name for name, type_ in types.items() if not pa.types.is_primitive(type_)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        # of a column's own description none is asked: pyarrow ends the process at a broken one
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        check_unpacked(path, sum(group.total_byte_size for group in groups), error)
        n_row = sum(group.num_rows for group in groups)
        n_bytes = n_row * sum(widths)
        check_unpacked(path, n_bytes, error)
        for batch in file.iter_batches(_ROWS, columns=texts) if texts else ():
            n_bytes += sum(map(_plain_size, batch.columns))
            check_unpacked(path, n_bytes, error)


def _plain_size(column: Any) -> int:
    """Bytes of a column's content once nothing is stored twice."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts, repeats = column, isinstance(column, pa.DictionaryArray)
    if repeats:
        texts = column.dictionary
    kinds = (
        pa.types.is_large_string,
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    if not any(is_kind(texts.type) for is_kind in kinds):
        return int(column.nbytes)
    lengths = pc.binary_length(texts)
    lengths = lengths.take(column.indices) if repeats else lengths
    return pc.sum(lengths).as_py() or 0


def check_arrow(path: Path, error: type[CircuitsError]) -> None:
    """Refuse an Arrow stream whose parts are packed: each is unpacked as a whole, and `datasets`
    writes none."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type in ("record batch", "dictionary") and _is_packed(message):
                raise error(f"{path}: its parts are packed. Write it with save_to_disk.")


def _is_packed(message: Any) -> bool:
    """Whether Arrow's description of a part names a compression, which pyarrow does not show."""
    content = message.metadata.to_pybytes()

    def field(table: int, number: int) -> int | None:
        """Where a table of this format has the field of a number."""
        numbers = table - unpack_from("<i", content, table)[0]
        there = 4 + 2 * number < unpack_from("<H", content, numbers)[0]
        offset = unpack_from("<H", content, numbers + 4 + 2 * number)[0] if there else 0
        return table + offset if offset else None

    def followed(at: int | None) -> int:
        return 0 if at is None else at + unpack_from("<I", content, at)[0]

    part = followed(field(followed(0), 2))
    if message.type == "dictionary":
        part = followed(field(part, 1))
    return field(part, 3) is not None
