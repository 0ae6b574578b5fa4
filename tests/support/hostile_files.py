"""Files made by a stranger, each as a function that puts it into a folder."""

import json
import os
import pickle
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.hostile_inputs import Runs

JSON = "not readable JSON"
FILE = "not a regular file"
SAFE = "not a readable safetensors file"


def edit(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **fields}))


def in_file(name: str, **fields: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, name, **fields)


def put(name: str, content: bytes | str) -> Callable[[Path], object]:
    """A file of this content, in place of what is there."""

    def make(folder: Path) -> None:
        path = removed(folder / name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def removed(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def pickled(name: str) -> Callable[[Path], object]:
    return lambda folder: removed(folder / name).write_bytes(pickle.dumps(Runs(folder)))


def torch_pickled(name: str) -> Callable[[Path], object]:
    return lambda folder: torch.save({"x": Runs(folder)}, removed(folder / name))


def fifo(name: str) -> Callable[[Path], object]:
    return lambda folder: os.mkfifo(removed(folder / name))


def link(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: removed(folder / name).symlink_to(to)


def directory(name: str) -> Callable[[Path], object]:
    return lambda folder: removed(folder / name).mkdir()


def listening(name: str) -> Callable[[Path], object]:
    """A socket's file."""

    def make(folder: Path) -> None:
        removed(folder / name)
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have a hundred letters
        socket.socket(socket.AF_UNIX).bind(name)
        os.chdir(here)

    return make


def sparse(name: str, n_bytes: int, start: bytes = b"") -> Callable[[Path], object]:
    """A file of holes, which takes no room on the disk."""

    def make(folder: Path) -> None:
        path = removed(folder / name)
        path.write_bytes(start)
        os.truncate(path, n_bytes)

    return make


def each(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of this header."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + body


def one(**fields: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


DEEP = "[" * 100_000 + "]" * 100_000
TWICE = (
    b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
)
HEADERS: dict[str, bytes] = {
    "a length of 2 ** 60": tensors(one(), bytes(8), 2**60),
    "a length of 2 ** 64 - 1": tensors(one(), bytes(8), 2**64 - 1),
    "a length beyond its end": tensors(one(), bytes(8), 10_000),
    "overlapping offsets": tensors(
        {**one(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)
    ),
    "a hole between offsets": tensors(
        {**one(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}, bytes(24)
    ),
    "offsets that run back": tensors(one(data_offsets=[8, 0]), bytes(8)),
    "negative shapes": tensors(one(shape=[-2]), bytes(8)),
    "fractions as shapes": tensors(one(shape=[2.5]), bytes(8)),
    "giant sizes of little": tensors(one(shape=[2**40, 2**20]), bytes(8)),
    "sizes whose product overflows": tensors(one(shape=[2**32, 2**32, 2]), bytes(8)),
    "giant sizes of nothing": tensors(one(shape=[2**62, 0], data_offsets=[0, 0])),
    "an unknown type": tensors(one(dtype="OBJECT"), bytes(8)),
    "nested 100,000 deep": tensors(DEEP.encode()),
    "keys that come twice": tensors(TWICE, bytes(8)),
    "no object": tensors([1, 2], bytes(8)),
    "bytes that are no text": tensors(b'{"\xff\xfe": 1}', bytes(8)),
    "more behind it": tensors(one(), bytes(8) + b"PK\3\4"),
    "nothing": b"",
}
