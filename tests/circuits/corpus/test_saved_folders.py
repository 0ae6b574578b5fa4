"""A folder of `save_to_disk` from a stranger is read as far as its own files go."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from circuits.corpus import open_corpus
from circuits.errors import CorpusError

ARROW = "data-00000-of-00001.arrow"
PRIVATE = ["my own diary", "and more of it"]
TEXTS = ["once there was a frog .", "it sat by a pond .", "the end ."]


def saved(path: Path, texts: list[str] = TEXTS) -> Path:
    from datasets import Dataset

    Dataset.from_dict({"text": texts}).save_to_disk(path)
    return path


def naming(folder: Path, *names: object) -> Path:
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def packed(path: Path) -> None:
    table = pa.table({"text": pa.array(["x" * 2**16] * 64)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


@pytest.mark.parametrize("name", ["absolute", f"../private/{ARROW}", "..", "", 5, None])
def test_it_names_no_file_outside_of_it(name, tmp_path):
    private = saved(tmp_path / "private", PRIVATE)
    name = str(private / ARROW) if name == "absolute" else name
    with pytest.raises(CorpusError, match="which is no file of this folder"):
        open_corpus(naming(saved(tmp_path / "saved"), name))


def test_a_fifo_outside_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    holder = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)  # a reader gets no bytes
    try:
        with pytest.raises(CorpusError, match="which is no file of this folder"):
            open_corpus(naming(saved(tmp_path / "saved"), "../fifo"))
    finally:
        os.close(holder)


def test_each_file_is_named_once(tmp_path):
    with pytest.raises(CorpusError, match="named twice"):
        open_corpus(naming(saved(tmp_path / "saved"), ARROW, ARROW))


@pytest.mark.parametrize("name", ["x.dat", "x.arrow", "x"])
def test_packed_texts_are_refused_under_every_name(name, tmp_path):
    folder = naming(saved(tmp_path / "saved"), name)
    packed(folder / name)
    with pytest.raises(CorpusError, match="its parts are packed"):
        open_corpus(folder)


def test_a_link_to_a_file_elsewhere_is_not_followed(tmp_path):
    private, folder = saved(tmp_path / "private", PRIVATE), saved(tmp_path / "saved")
    (folder / ARROW).unlink()
    (folder / ARROW).symlink_to(private / ARROW)
    with pytest.raises(CorpusError, match="a link that leads out of this folder"):
        open_corpus(folder)


def test_a_link_to_a_split_elsewhere_is_not_followed(tmp_path):
    private, folder = saved(tmp_path / "private", PRIVATE), tmp_path / "splits"
    folder.mkdir()
    (folder / "train").symlink_to(private)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(CorpusError, match="a link that leads out of this folder"):
        open_corpus(folder)


def test_a_link_to_the_whole_folder_is_the_user_s_own(tmp_path):
    (tmp_path / "link").symlink_to(saved(tmp_path / "mine"))
    assert open_corpus(tmp_path / "link").documents(0, 9) == TEXTS


@pytest.mark.parametrize("split", ["../private", "absolute", "file::x"])
def test_a_split_is_a_folder_in_it(split, tmp_path):
    private, folder = saved(tmp_path / "private", PRIVATE), tmp_path / "splits"
    split = str(private) if split == "absolute" else split
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    with pytest.raises(CorpusError, match="which is no file of this folder"):
        open_corpus(folder, split=split)
