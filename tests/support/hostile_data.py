"""Images, texts, tables and files of runs made by a stranger; many unpack to 1 GB or more."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.behaviour.cases import Behaviour
from analysis.studies.images.data import open_images
from analysis.validation.record import Validation
from circuits import Circuit
from circuits.corpus import open_corpus
from circuits.errors import RunError
from circuits.model import ModelPlan
from circuits.storage.files import read_json
from circuits.storage.manifest import read_manifest
from circuits.storage.shards import merge_shards
from circuits.storage.tables import COUNT, NUMBER, read_table
from tests.support import hostile_files as files
from tests.support.hostile_inputs import Hostile, Runs

MANY = 2**30  # bytes that a small file unpacks to
IDX = ("train-images", "train-labels", "t10k-images", "t10k-labels")
ZEROS = bytes(2**24)
PACKED = r"unpacks to more than \d+ MiB"
INDEX = json.dumps({
    "index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 2**62, "step": 1}],
    "columns": [], "column_indexes": [], "pandas_version": "2.2.0",
})  # fmt: skip
"""Of a table for pandas, with more rows than it has."""

PICKLED = "not a readable .npz"


def arrays() -> dict[str, np.ndarray]:
    x = np.linspace(0, 1, 160, dtype=np.float32).reshape(10, 4, 4)
    return {"x_train": x, "y_train": np.arange(10) % 3, "x_test": x, "y_test": np.arange(10) % 3}


def bytes_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: str, dtype: str = "<f4") -> bytes:
    """Of an array of any shape, without the array."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def archive(*, packed: int = zipfile.ZIP_STORED, **changed: bytes) -> Callable[[Path], Path]:
    """A good archive of images with other bytes for some of its arrays."""

    def make(folder: Path) -> Path:
        path = folder / "images.npz"
        with zipfile.ZipFile(path, "w", packed) as file:
            for name, array in arrays().items():
                file.writestr(f"{name}.npy", changed.pop(name, None) or bytes_of(array))
            for name, content in changed.items():
                file.writestr(name.replace("__", "/"), content)
        return path

    return make


def of_objects(folder: Path) -> Path:
    objects = np.array([Runs(folder)] * 3, dtype=object)
    return archive(x_train=bytes_of(objects))(folder)


def array_bomb(folder: Path) -> Path:
    """1 GB of zeros that zip packs into 1 MB."""
    path = folder / "images.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays().items():
            if name != "x_train":
                file.writestr(f"{name}.npy", bytes_of(array))
        with file.open("x_train.npy", "w", force_zip64=True) as part:
            part.write(header(f"({MANY // 2**10}, 32, 32)", "|u1"))
            for _ in range(MANY // len(ZEROS)):
                part.write(ZEROS)
    return path


def idx(**changed: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, array in zip(IDX, arrays().values(), strict=True):
            start = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            content = start + array.astype(np.uint8).tobytes()
            (folder / f"{name}-ubyte.gz").write_bytes(
                changed.get(name.replace("-", "_"), gzip.compress(content))
            )
        return folder

    return make


def gz_bomb() -> bytes:
    """1 GB of zeros as the rest of a file of images, in parts that are the same."""
    start = struct.pack(">HBB3I", 0, 8, 3, MANY // 2**10, 32, 32)
    return gzip.compress(start) + gzip.compress(ZEROS, 1) * (MANY // len(ZEROS))


def gz_bomb_in_one() -> bytes:
    pack = zlib.compressobj(1, wbits=31)
    part = pack.compress(ZEROS) + pack.flush(zlib.Z_FULL_FLUSH)
    again = pack.compress(ZEROS) + pack.flush(zlib.Z_FULL_FLUSH)
    return part + again * (MANY // len(ZEROS))


def named(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        files.put(name, content)(folder)
        return folder / name

    return make


def at(name: str, make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        make(folder)
        return folder / name

    return made


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in ('{"text": "one day"}', *rows))


def parquet(table: pa.Table, times: int = 1, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "text.parquet"
        with pq.ParquetWriter(path, table.schema, compression="zstd", **options) as writer:
            for _ in range(times):
                writer.write_table(table)
        return path

    return make


def same_text(n_bytes: int) -> Callable[[Path], Path]:
    """One text that every row of a column repeats, which is stored once in each part."""
    return lambda f: parquet(pa.table({"text": ["x" * n_bytes] * (2**25 // n_bytes)}), 2**5)(f)


def pandas_notes() -> dict[str, Any]:
    """What a table for pandas says of itself, as pandas would not."""
    notes = json.loads(
        pa.table({"text": [0.0]}).to_pandas().pipe(pa.Table.from_pandas).schema.metadata[b"pandas"]
    )
    one = {"name": None, "field_name": None, "metadata": None}
    return {
        **{f"columns {c}": {**notes, "columns": c} for c in ("x", [5], [None], [[]], ["output"])},
        "a decimal": {**notes, "column_indexes": [{**one, "pandas_type": "decimal",
                                                   "numpy_type": "object"}]},
        "intervals": {**notes, "columns": [{**one, "name": "text", "field_name": "text",
                      "pandas_type": "float64", "numpy_type": "interval[int64]"}]},
    }  # fmt: skip


def noted(text: str) -> Callable[[Path], Path]:
    return parquet(pa.table({"text": [0.0]}).replace_schema_metadata({"pandas": text}))


def same_number(folder: Path) -> Path:
    return parquet(pa.table({"text": np.zeros(2**20, np.int64)}), 2**7)(folder)


def plain(path: Path) -> list[str]:
    return open_corpus(path).documents(0, 5)


def saved(change: Callable[[Path], object], **options: Any) -> Callable[[Path], Path]:
    """A folder of `save_to_disk`, and a change of it."""

    def make(folder: Path) -> Path:
        from datasets import Dataset

        path = folder / "saved"
        Dataset.from_dict({"text": [f"one {i}" for i in range(30)]}).save_to_disk(path)
        change(path)
        return path

    return make


def arrow_bomb(path: Path) -> None:
    """Texts that the folder's own file holds packed."""
    (file,) = path.glob("*.arrow")
    table = pa.table({"text": pa.array(["x" * 2**20] * 64)})
    with pa.OSFile(str(file), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            for _ in range(MANY // 2**26):
                writer.write_table(table)


def state(**fields: Any) -> Callable[[Path], object]:
    return files.in_file("state.json", **fields)


def cases(path: Path) -> Behaviour:
    return Behaviour.load(path)


def table(path: Path) -> object:
    return read_table(path, {"text": NUMBER}, RunError)


def counted(path: Path) -> object:
    return read_table(path, {"text": COUNT}, RunError)


def shards(path: Path) -> object:
    return merge_shards(path.parent, range(1))


def as_shard(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: make(folder).rename(folder / "outputs-0000000-0000001.parquet")


def warm_up(folder: Path) -> None:
    open_images(archive()(folder.parent))
    plain(parquet(pa.table({"text": ["one day", "two days"]}))(folder.parent))
    folder.mkdir()
    open_images(idx()(folder))
    plain(saved(lambda path: None)(folder))


DEEP, DIGITS = f'{{"text": {files.DEEP}}}', f'{{"text": {"9" * 10**7}}}'
IMAGES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "npz: an array of objects": (of_objects, PICKLED),
    "npz: a pickle": (at("x.npz", files.pickled("x.npz")), PICKLED),
    "npz: an archive of torch": (at("x.npz", files.torch_pickled("x.npz")), "no x_train"),
    "npz: one array, of objects": (
        lambda f: named("x.npz", bytes_of(np.array([Runs(f)], dtype=object)))(f), PICKLED
    ),
    "npz: 1 GB of zeros": (array_bomb, PACKED),
    "npz: an array of 2 ** 60 numbers": (archive(x_train=header(f"({2**60},)")), PICKLED),
    "npz: an array of 2 ** 33 numbers": (archive(x_train=header(f"({2**33},)")), PICKLED),
    "npz: an array of negative size": (archive(x_train=header("(-1, 4, 4)")), PICKLED),
    "npz: a shape that is code": (archive(x_train=header("__import__('os').getpid()")), PICKLED),
    "npz: a header of 100,000 brackets": (archive(x_train=header("(" * 30_000)), PICKLED),
    "npz: an npz in an npz": (archive(x_train=b"PK\3\4" + bytes(100)), PICKLED),
    "npz: files outside": (archive(**{"..__..__x.npy": b"x", "__x.npy": b"x"}), None),
    "npz: an array of texts": (archive(x_train=bytes_of(np.array([["x" * 1000]]))), "has shape"),
    "npz: labels of 2 ** 62": (
        archive(y_train=bytes_of(np.full(10, 2**62))), "no training image has class"
    ),
    "npz: negative labels": (archive(y_test=bytes_of(np.full(10, -1))), "labels must run"),
    "npz: NaN": (archive(x_train=bytes_of(np.full((10, 4, 4), np.nan, np.float32))), "floats from"),
    "npz: a FIFO": (at("x.npz", files.fifo("x.npz")), "no such|regular"),
    "npz: a link to a FIFO": (
        at("y.npz", files.each(files.fifo("x.npz"), files.link("y.npz", "x.npz"))), "no such"
    ),
    "idx: 1 GB of zeros": (lambda f: idx(train_images=gz_bomb())(f), PACKED),
    "idx: 1 GB of zeros in one part": (lambda f: idx(train_images=gz_bomb_in_one())(f), PACKED),
    "idx: gzip in gzip": (
        idx(train_images=gzip.compress(gzip.compress(ZEROS))), "not a readable IDX"
    ),
    "idx: cut short": (idx(train_images=gzip.compress(ZEROS)[:99]), "not a readable IDX"),
    "idx: a giant shape": (
        idx(train_images=gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3))),
        "not a readable IDX",
    ),
    "idx: 255 axes": (
        idx(train_images=gzip.compress(struct.pack(">HBB", 0, 8, 255) + bytes(4 * 255))),
        "not a readable IDX",
    ),
    "idx: a FIFO": (
        lambda f: files.fifo("train-images-ubyte.gz")(idx()(f)), files.FILE
    ),
    "idx: /dev/zero": (
        lambda f: files.link("train-images-ubyte.gz", "/dev/zero")(idx()(f)), files.FILE
    ),
}  # fmt: skip
TEXTS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "jsonl: gzip": (named("x.jsonl", gzip.compress(b"{}")), "not UTF-8"),
    "jsonl: tar": (named("x.jsonl", b"../../x" + bytes(505)), "not UTF-8"),
    "jsonl: a pickle": (at("x.jsonl", files.pickled("x.jsonl")), "not UTF-8|not JSON"),
    "jsonl: nested 100,000 deep": (named("x.jsonl", lines(DEEP)), "line 2: not JSON"),
    "jsonl: 10 ** 7 digits": (named("x.jsonl", lines(DIGITS)), "line 2: not JSON"),
    "jsonl: NaN": (named("x.jsonl", lines('{"text": NaN}')), "holds nan"),
    "jsonl: Infinity": (named("x.jsonl", lines('{"text": Infinity}')), "holds inf"),
    "jsonl: 100,000 fields": (
        named("x.jsonl", lines(json.dumps({f"x{i}": i for i in range(100_000)}))), "holds None"
    ),
    "jsonl: a FIFO": (at("x.jsonl", files.fifo("x.jsonl")), files.FILE),
    "txt: /dev/zero": (at("x.txt", files.link("x.txt", "/dev/zero")), files.FILE),
    "txt: a FIFO": (at("x.txt", files.fifo("x.txt")), files.FILE),
    "txt: a pickle": (at("x.txt", files.pickled("x.txt")), "not UTF-8"),
    "txt: a hole of 2 ** 43 bytes": (at("x.txt", files.sparse("x.txt", 2**43)), "memory"),
    "txt: two million blank lines": (named("x.txt", "a" + "\n \t" * 2_000_000 + "b"), None),
    "pkl: a pickle": (at("x.pkl", files.pickled("x.pkl")), "a pickle can run any code"),
    "a folder of FIFOs": (
        at(".", files.each(files.fifo("x.txt"), files.fifo("x.jsonl"))), "a folder without"
    ),
    "parquet: texts of 1 MB": (same_text(2**20), PACKED),
    "parquet: texts of 1 kB": (same_text(2**10), PACKED),
    "parquet: texts of 64 MB": (
        lambda f: parquet(pa.table({"text": ["x" * 2**26]}), 8)(f), PACKED
    ),
    "parquet: a pickle": (at("x.parquet", files.pickled("x.parquet")), "not a readable Parquet"),
    "parquet: a FIFO": (at("x.parquet", files.fifo("x.parquet")), files.FILE),
    "parquet: a footer of 2 ** 31": (
        named("x.parquet", b"PAR1" + bytes(64) + struct.pack("<I", 2**31) + b"PAR1"),
        "not a readable Parquet",
    ),
    "saved: a file outside": (
        saved(state(_data_files=[{"filename": "../../../../etc/passwd"}])), "no file of this"
    ),
    "saved: a format by name": (saved(state(_format_type="mine.Mine")), "cannot be read|None"),
    "saved: a FIFO": (saved(files.fifo("state.json")), files.FILE),
    "saved: nested": (saved(files.put("dataset_info.json", files.DEEP)), "cannot be read"),
    "saved: packed texts of 1 GB": (saved(arrow_bomb), "packed"),
}  # fmt: skip
JSONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nested 100,000 deep": (named("x.json", f'{{"x": {files.DEEP}}}'), "JSON"),
    "10 ** 7 digits": (named("x.json", '{"schema": ' + "9" * 10**7 + "}"), "JSON"),
    "a pickle": (at("x.json", files.pickled("x.json")), "JSON|cannot be read"),
    "a FIFO": (at("x.json", files.fifo("x.json")), files.FILE),
    "/dev/zero": (at("x.json", files.link("x.json", "/dev/zero")), files.FILE),
}
READERS: dict[str, Callable[[Path], object]] = {
    "a circuit": Circuit.load,
    "a validation": Validation.load,
    "cases": cases,
    "a plan": lambda path: ModelPlan.from_dict(read_json(path, RunError), str(path)),
}
TABLES: dict[str, Hostile] = {
    "a table: 1 GB of zeros": Hostile(same_number, table, PACKED),
    "a table: lists of 1 GB": Hostile(
        lambda f: parquet(pa.table({"text": [np.zeros(2**20)]}), 2**7)(f), table, "holds lists"
    ),
    "a table: lists of texts": Hostile(
        parquet(pa.table({"text": [["x"] * 2**10] * 64})), table, "holds lists"
    ),
    "a table: an index of 2 ** 62": Hostile(
        parquet(pa.table({"text": [0.0]}).replace_schema_metadata({"pandas": INDEX})), table, None
    ),
    **{f"a table: pandas notes {name}": Hostile(noted(json.dumps(notes)), table, None)
       for name, notes in pandas_notes().items()},
    "a table: pandas notes nested": Hostile(noted("[" * 100_000), table, None),
    "a table: 2 ** 27 nulls": Hostile(
        lambda f: parquet(pa.table({"text": pa.nulls(2**22)}), 2**5)(f), table, PACKED
    ),
    "a table: 2 ** 27 truths": Hostile(
        lambda f: parquet(pa.table({"text": np.ones(2**22, bool)}), 2**5)(f), table, PACKED
    ),
    "a table: whole numbers, one missing": Hostile(
        lambda f: at("x.parquet", lambda g: pd.DataFrame(
            {"text": pd.array([1, None], "Int64")}).to_parquet(g / "x.parquet"))(f), counted,
        "whole numbers",
    ),
    "a table: a FIFO": Hostile(at("x.parquet", files.fifo("x.parquet")), table, files.FILE),
    "a shard: 1 GB of zeros": Hostile(as_shard(same_number), shards, PACKED),
    "a manifest: a FIFO": Hostile(files.fifo("manifest.json"), read_manifest, files.FILE),
    "a manifest: 10 ** 7 digits": Hostile(
        files.put("manifest.json", "[" + "9" * 10**7 + "]"), read_manifest, "not a list of steps"
    ),
}  # fmt: skip
INPUTS = {
    **{name: Hostile(make, open_images, said) for name, (make, said) in IMAGES.items()},
    **{name: Hostile(make, plain, said) for name, (make, said) in TEXTS.items()},
    **{f"{what}: {name}": Hostile(make, read, said)
       for what, read in READERS.items() for name, (make, said) in JSONS.items()},
    **TABLES,
}  # fmt: skip
