"""Tables with rows for every output, made in shards that can stop, resume and merge.

An existing shard is never made again; processes may share one folder by taking different ranges;
and the merged table is the same file to the byte however the work was split. Shards carry a
fingerprint of what they were made from: a folder never mixes two; and a hash of their own content,
so that a damaged one is refused, and made again once it is deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from circuits.errors import CircuitsError, RunError, shorten
from circuits.storage.files import written_whole
from circuits.storage.limits import check_parquet, check_readable
from circuits.storage.progress import progress
from circuits.storage.replacing import check_file

OUTPUTS = 32
"""To a shard: what an interruption can lose."""
_FINGERPRINT, _CONTENT = b"circuits.fingerprint", b"circuits.content"
_LISTS = b"circuits.lists"  # the names of columns that held lists, as JSON


def make_shards(
    folder: str | Path,
    outputs: range,
    rows_of: Callable[[int], pd.DataFrame],
    fingerprint: str,
    doing: str,
) -> list[Path]:
    """Make the missing shards of these outputs; returns the paths of all of them."""
    if outputs.step != 1:
        raise RunError(f"shards are made of contiguous ranges, not {outputs}. Use range(a, b).")
    folder = Path(folder)
    shards = {}
    for start in range(outputs.start - outputs.start % OUTPUTS, outputs.stop, OUTPUTS):
        block = range(max(start, outputs.start), min(start + OUTPUTS, outputs.stop))
        shards[folder / f"outputs-{block.start:07d}-{block.stop:07d}.parquet"] = block
    for path in folder.glob("outputs-*.parquet"):  # of any outputs: none may be stale
        if _fingerprint(path) != fingerprint:
            raise RunError(
                f"{path} was made from another layer, other dictionaries or other settings than "
                f"those given now. Give those again, use another folder, or delete {folder}."
            )
    done = [path for path in shards if path.exists()]
    wanted = [output for path, block in shards.items() if path not in done for output in block]
    rows = (rows_of(output) for output in progress(wanted, doing, "output"))
    for path, block in shards.items():
        if path not in done:
            _write([next(rows) for _ in block], path, fingerprint)
    return list(shards)


def merge_shards(
    folder: str | Path, outputs: range, path: str | Path | None = None
) -> pd.DataFrame:
    """The rows of these outputs from every shard in the folder, in order; written to ``path``."""
    files = sorted(Path(folder).glob("outputs-*.parquet"))
    if not files:
        raise RunError(f"{folder} holds no shards (outputs-*.parquet). Make them first.")
    prints = {file: _fingerprint(file) for file in files}
    if len(set(prints.values())) > 1:
        odd = next(file for file in files if prints[file] != prints[files[0]])
        raise RunError(
            f"{folder} mixes shards made from different layers or dictionaries: {odd.name} and "
            f"{files[0].name} differ. Keep one folder for each, or delete the stale ones."
        )
    parts, taken = [], set[int]()
    for file in files:  # two ranges may overlap; an output's rows are the same in either
        part = _read(file)
        if "output" not in part or part["output"].dtype.kind not in "iu":
            raise RunError(f"{file} has no column of outputs, so it is no shard. Delete it.")
        parts.append(part[part["output"].isin(set(outputs) - taken)])
        taken |= set(part["output"])
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values("output", kind="stable", ignore_index=True)
    missing = sorted(set(outputs) - set(table["output"]))
    if missing:
        raise RunError(
            f"{folder} lacks outputs {shorten(missing)} of {outputs.start} to {outputs.stop - 1}. "
            f"Run the pass again over them; existing shards are kept."
        )
    if path is not None:
        _write([table], Path(path), next(iter(prints.values())))
    return table


def remove_shards(folder: Path) -> None:
    """Remove the tables that were made here from a folder and those within it, and what is empty
    then. Any other file stays, whatever its name; so does a table that was changed since."""
    for path in sorted(folder.rglob("*.parquet")):
        if _is_as_written(path):
            path.unlink(missing_ok=True)
    for inside in sorted([folder, *folder.rglob("*")], reverse=True):
        if inside.is_dir() and not inside.is_symlink():
            with suppress(OSError):  # it holds something
                inside.rmdir()


def kept_table(
    path: Path | None, fingerprint: str, make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """A table that is read if the file has this fingerprint, or else made and kept there.

    Without a path it is only made."""
    if path is not None and path.is_file():
        try:
            if _fingerprint(path) == fingerprint:
                return _read(path)
        except RunError:
            pass  # damaged: made again
    table = make()
    if path is not None:
        _write([table], path, fingerprint)
    return table


def check_kept(path: Path, what: str, error: type[CircuitsError]) -> None:
    """Refuse a file in the place of a kept table that is none."""
    check_file(path, what, lambda _: _is_kept(path), error)


def _is_kept(path: Path) -> bool:
    """Whether a file is a table that was made here."""
    try:
        return path.is_file() and _FINGERPRINT in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _is_as_written(path: Path) -> bool:
    """Whether a file is a table that was made here, and holds the rows that were written."""
    if path.is_symlink() or not _is_kept(path):
        return False
    try:
        _read(path)
    except RunError:
        return False
    return True


def _write(tables: Iterable[pd.DataFrame], path: Path, fingerprint: str) -> None:
    """Lists are written as JSON: of a column of lists, no one can tell how much it unpacks to."""
    whole = pd.concat(tables, ignore_index=True)
    lists = [name for name in whole if len(whole) and isinstance(whole[name].iloc[0], list)]
    for name in lists:
        whole[name] = whole[name].map(json.dumps)
    table = pa.Table.from_pandas(whole, preserve_index=False)
    about = {_FINGERPRINT: fingerprint.encode(), _CONTENT: _hash(table)}
    about[_LISTS] = json.dumps(lists).encode()
    with written_whole(path) as temporary:
        pq.write_table(table.replace_schema_metadata(about), temporary)


def _read(path: Path) -> pd.DataFrame:
    """The table of a file, refused if it is not the one that was written."""
    try:
        check_parquet(path, RunError)
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is not a readable Parquet file ({error}). Delete it.") from error
    about = table.schema.metadata or {}
    try:
        if about.get(_CONTENT) != _hash(table):
            raise ValueError
        found = table.replace_schema_metadata(None).to_pandas()
        for name in json.loads(about.get(_LISTS, b"[]")):
            found[name] = found[name].map(_numbers)
    except Exception as error:  # a reader raises what its conversions raise
        raise RunError(
            f"{path} is damaged: its rows are not those that were written. Delete it, and run the "
            f"pass again: existing shards are kept."
        ) from error
    return found


def _numbers(text: str) -> np.ndarray:
    """The list of numbers that was written as this text."""
    numbers = np.array(json.loads(text))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError("no list of numbers")
    return numbers


def _hash(table: pa.Table) -> bytes:
    """Of the rows, however a file lays them out."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(json.dumps([name, column.to_pylist()]).encode())
    return digest.hexdigest().encode()


def _fingerprint(path: Path) -> str:
    check_readable(path, RunError)
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is not a readable Parquet file ({error}). Delete it.") from error
    return metadata.get(_FINGERPRINT, b"").decode(errors="replace")
