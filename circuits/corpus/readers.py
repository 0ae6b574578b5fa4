"""Texts from files, ``save_to_disk`` folders and the hub, or one clear line about why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from circuits.errors import CorpusError, first_line
from circuits.storage.files import parsed_json
from circuits.storage.hub import hub_revision
from circuits.storage.limits import check_arrow, check_parquet, check_readable
from circuits.storage.records import HALF

_END_OF_TEXT = "<|endoftext|>"
_PASSAGE = 2000  # characters of running text that make a document
_ENDINGS = (".txt", ".jsonl", ".parquet")
_CODE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz")


def data_files(path: Path) -> tuple[Path, ...]:
    """The data files that a file or a folder stands for, in order of their paths."""
    if path.is_dir():
        inside = (f for f in path.rglob("*") if f.suffix.lower() in _ENDINGS and f.is_file())
        shown = (f for f in inside if not any(p[0] == "." for p in f.relative_to(path).parts))
        files = tuple(sorted(shown))
        if not files:
            raise CorpusError(
                f"{path}: a folder without a {', '.join(_ENDINGS)} file, so it has no text to "
                f"read. Pass the folder that holds them."
            )
        return files
    if path.suffix.lower() in _CODE:
        raise CorpusError(
            f"{path}: a pickle can run any code when it is read, so it is refused. Save the texts "
            f"as {', '.join(_ENDINGS)} instead."
        )
    if path.suffix.lower() not in _ENDINGS:
        raise CorpusError(
            f"{path}: ending '{path.suffix}' does not say how documents are separated. Use one "
            f"of {', '.join(_ENDINGS)}, or a save_to_disk folder."
        )
    return (path,)


def read_texts(
    files: Sequence[Path], column: str | None, *, alone: bool
) -> tuple[pa.ChunkedArray, tuple[str | None, ...]]:
    """The documents of the files, one after the other, and the column that holds them in each;
    ``alone`` says that a single file was named."""
    chunks, columns = [], []
    for path in files:
        check_readable(path, CorpusError)
        if path.suffix.lower() == ".txt":
            texts, chosen = _from_txt(path), None
        elif path.suffix.lower() == ".jsonl":
            texts, chosen = _from_jsonl(path, column)
        else:
            texts, chosen = _from_parquet(path, column)
        chunks.extend(texts.chunks)
        columns.append(chosen)
    documents = pa.chunked_array(chunks, type=pa.large_string())
    name = files[0] if alone else files[0].parent
    if column is not None and not any(columns):
        raise CorpusError(
            f"{name}: a column '{column}' was named, but plain text has none. Leave it out, or "
            f"name a file with columns: .jsonl or .parquet."
        )
    _check_some_text(name, documents)
    if len(documents) == 1 and "\n" not in documents[0].as_py():
        raise CorpusError(
            f"{name}: one document of one line, too little to learn from. Separate the documents "
            f"of a .txt file by '{_END_OF_TEXT}'."
        )
    return documents, tuple(columns)


def is_saved(path: Path) -> bool:
    """Whether this is a folder written by ``save_to_disk``."""
    return path.is_dir() and any(
        (path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")
    )


def read_saved(
    path: Path, column: str | None, split: str
) -> tuple[pa.ChunkedArray, tuple[Path, ...], tuple[str, ...]]:
    """The documents of a ``save_to_disk`` folder, its files, and the column of each."""
    from datasets import Dataset

    for file in sorted(path.rglob("*")):
        if not file.is_dir():
            check_readable(file, CorpusError)
    try:
        folder = _saved_split(path, split)
        for file in _named_files(folder, path):
            check_arrow(file, CorpusError)
        saved = Dataset.load_from_disk(str(folder))
    except CorpusError:
        raise
    except Exception as error:  # datasets uses its JSON unchecked, so anything may be raised
        raise CorpusError(
            f"{path}: a save_to_disk folder that cannot be read ({first_line(error)}). Save it "
            f"again."
        ) from error
    text = _choose_column(path, saved.data.schema, column)
    texts = saved.data.column(text)
    _check_no_nulls(path, text, texts)
    _check_some_text(path, texts)
    files = tuple(Path(file["filename"]) for file in saved.cache_files)
    return texts, files, (text,) * len(files)


def _saved_split(path: Path, split: str) -> Path:
    """The folder that holds a split: the folder itself where it has none."""
    if all((path / name).is_file() for name in ("dataset_info.json", "state.json")):
        return path
    splits = _plain_names(path, path / "dataset_dict.json", "splits")
    if split not in splits:
        raise CorpusError(
            f"{path}: no split '{split}'; it has {sorted(splits)}. Pass one of them as split."
        )
    _check_inside(path, path / split)
    return path / split


def _named_files(folder: Path, path: Path) -> list[Path]:
    """The files that the state of a split names; each lies in its folder, which is in the path."""
    state = folder / "state.json"
    files = [folder / name for name in _plain_names(path, state, "_data_files", "filename")]
    for file in files:
        _check_inside(path, file)
        check_readable(file, CorpusError)
    return files


def _check_inside(path: Path, file: Path) -> None:
    if file.resolve() != path.resolve() / file.relative_to(path):
        raise CorpusError(
            f"{file}: a link that leads out of this folder, to documents that may be somebody "
            f"else's. Put a copy there instead."
        )


def _plain_names(path: Path, file: Path, field: str, part: str | None = None) -> list[str]:
    """The names in a field of a JSON file; refused if they may lead out of its folder."""
    listed = parsed_json(file.read_text(encoding="utf-8"))[field]
    if not isinstance(listed, list):
        raise ValueError(f"{file.name} has no list '{field}'")
    names = dict[str, None]()
    for each in listed:
        name = each.get(part) if part and isinstance(each, dict) else each
        plain = isinstance(name, str) and name.isprintable() and not {*name} & {*"/\\:"}
        if not plain or name in ("", ".", "..") or name in names:
            raise CorpusError(
                f"{file}: '{field}' names {name!r:.80}, which is no file of this folder, or is "
                f"named twice. Save it again, or copy the files into the folder."
            )
        names[str(name)] = None
    return list(names)


def hub_stream(name: str, column: str | None, split: str) -> tuple[str, str, Any]:
    """The revision of a data set of the hub, the column that holds the text, and its rows."""
    revision = hub_revision(name, "dataset")
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True, revision=revision)
        first = next(iter(rows))
    except (OSError, ValueError, StopIteration) as error:
        raise CorpusError(
            f"data set '{name}', split '{split}', cannot be read from the hub: "
            f"{first_line(error)}. Check the split, or download it and pass the folder."
        ) from error
    schema = pa.schema({key: pa.infer_type([value]) for key, value in first.items()})
    return revision, _choose_column(name, schema, column), rows


def _check_no_nulls(path: Path, column: str, texts: pa.ChunkedArray) -> None:
    if texts.null_count:
        row = texts.is_null().to_pylist().index(True)
        raise CorpusError(
            f"{path}: column '{column}' has {texts.null_count} rows without text, the first is row "
            f"{row}. Filter them out."
        )


def _check_some_text(name: Path, documents: pa.ChunkedArray) -> None:
    """Refuse documents none of which has any text."""
    if not any(text.as_py().strip() for text in documents):
        n = len(documents)
        what = f"none of its {n} documents has any text" if n else "empty"
        raise CorpusError(
            f"{name}: {what}, so there is nothing to train on. Pass a file with text."
        )


def _choose_column(name: Path | str, schema: pa.Schema, column: str | None) -> str:
    """The column that holds the text: the one named, ``text``, or the only one with strings."""
    strings = [
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    if column is None:
        column = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    if column in strings:
        return str(column)
    there = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    wanted = "one column of text to choose" if column is None else f"a text column '{column}'"
    raise CorpusError(
        f"{name}: want {wanted}; the columns there are: {there}. Pass column= with the one that "
        f"holds the text."
    )


def _from_txt(path: Path) -> pa.ChunkedArray:
    text = _decoded(path)
    parts = text.split(_END_OF_TEXT) if _END_OF_TEXT in text else _passages(text)
    return _chunked([part.strip() for part in parts if part.strip()])


def _passages(text: str) -> Iterator[str]:
    """Running text cut into documents at blank lines, or at a line's end where there are none: a
    paragraph alone has lost what came before it, which a language model would read. A short text
    is cut more finely, so that some of it can be held out."""
    passage, size = list[str](), 0
    enough = min(_PASSAGE, len(text) // 100)
    for part in re.split(r"(\n[^\S\n]*\n\s*|\n)", text):
        passage.append(part)
        size += len(part)
        blank = part.count("\n") > 1
        if size >= (enough if blank else 4 * _PASSAGE) and part.startswith("\n"):
            yield "".join(passage)
            passage, size = [], 0
    yield "".join(passage)


def _from_jsonl(path: Path, column: str | None) -> tuple[pa.ChunkedArray, str | None]:
    texts: list[str] = []
    # not splitlines(): that also breaks at separators which JSON allows inside a string
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = _record(path, number, line)
        if not texts:
            types = {
                key: pa.string() if isinstance(value, str) else pa.null()
                for key, value in record.items()
            }
            column = _choose_column(path, pa.schema(types), column)
        text = record.get(str(column))
        if not isinstance(text, str):
            raise CorpusError(
                f"{path}: line {number}: field '{column}' holds {text!r:.40}, not text; the fields "
                f"there are {sorted(record)}. Give every line its text."
            )
        if lone := HALF.search(text):
            raise CorpusError(
                f"{path}: line {number}: field '{column}' holds {lone[0]!a}, half of a character, "
                f"so it is not text. Repair or remove this line."
            )
        texts.append(text)
    return _chunked(texts), column


def _record(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        record = parsed_json(line)
    except (ValueError, RecursionError) as error:  # bad JSON; a number of too many digits
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise CorpusError(
            f"{path}: line {number}: not JSON ({getattr(error, 'msg', error)}{where}). Each line "
            f"must be one JSON object; repair or remove this one."
        ) from error
    if not isinstance(record, dict):
        raise CorpusError(
            f"{path}: line {number}: a JSON {type(record).__name__}, not an object, so it has no "
            f'text field. Write lines like {{"text": "…"}}.'
        )
    return record


def _from_parquet(path: Path, column: str | None) -> tuple[pa.ChunkedArray, str]:
    try:
        column = _choose_column(path, pq.read_schema(path), column)
        check_parquet(path, CorpusError, [column])
        texts = pq.read_table(path, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path}: not a readable Parquet file ({first_line(error)}). It may be cut "
            f"short: download or write it again."
        ) from error
    _check_no_nulls(path, column, texts)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise CorpusError(
            f"{path}: column '{column}' holds bytes that are not UTF-8 text. Write it again from "
            f"texts in UTF-8."
        ) from error
    return texts.cast(pa.large_string()), column


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
        offset = raw.find(b"\0")  # UTF-16 without a mark passes as UTF-8, full of zero bytes
    except UnicodeDecodeError as error:
        offset = error.start + 3 * raw.startswith(b"\xef\xbb\xbf")
    if offset >= 0:
        raise CorpusError(
            f"{path}: byte {offset} (0x{raw[offset]:02x}) is not UTF-8 text, so its words would "
            f"come out wrong. Convert the file to UTF-8 (for example with iconv)."
        )
    return text.replace("\r\n", "\n")


def _chunked(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, type=pa.large_string())])
