"""Shards are removed one by one, and what else lies beside them stays; tables come back as made."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from circuits.errors import RunError
from circuits.storage.shards import kept_table, make_shards, remove_shards
from circuits.storage.tables import read_table


def test_removing_shards_leaves_what_is_not_one(tmp_path):
    folder = tmp_path / "shards"
    make_shards(folder / "8-abc", range(40), lambda o: pd.DataFrame({"output": [o]}), "f", "x")
    kept_table(folder / "kept.parquet", "f", lambda: pd.DataFrame({"a": [1]}))
    remove_shards(folder)
    assert not folder.exists()
    make_shards(folder, range(3), lambda o: pd.DataFrame({"output": [o]}), "f", "x")
    (folder / "notes.txt").write_text("mine")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "mine.parquet")
    remove_shards(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "mine.parquet"}


def test_a_file_that_is_only_called_like_a_shard_or_was_changed_since_stays(tmp_path):
    folder = tmp_path / "layer-0"
    [shard, changed] = make_shards(
        folder, range(40), lambda o: pd.DataFrame({"output": [o]}), "f", "x"
    )
    table = pq.read_table(changed)
    pq.write_table(table.slice(1).replace_schema_metadata(table.schema.metadata), changed)
    mine = folder / "mine" / "outputs-0000000-0000032.parquet"
    mine.parent.mkdir()
    pd.DataFrame({"output": [1], "note": ["mine"]}).to_parquet(mine)
    (folder / "outputs-of-mine.parquet").write_text("no table at all")
    (folder / "outputs-linked.parquet").symlink_to(shard.rename(tmp_path / "elsewhere.parquet"))
    before = sorted(folder.rglob("*"))
    remove_shards(folder)
    assert sorted(folder.rglob("*")) == before
    assert (tmp_path / "elsewhere.parquet").exists()


def test_lists_are_kept_as_texts_and_read_as_lists(tmp_path):
    path, made = tmp_path / "kept.parquet", pd.DataFrame({"a": [1, 2], "n": [[1, 2], [3, 4]]})
    kept_table(path, "f", lambda: made)
    assert pd.read_parquet(path)["n"].tolist() == ["[1, 2]", "[3, 4]"]
    again = kept_table(path, "f", lambda: pd.DataFrame())
    assert [row.tolist() for row in again["n"]] == [[1, 2], [3, 4]]


def test_a_column_of_lists_is_refused_whatever_it_unpacks_to(tmp_path):
    path = tmp_path / "lists.parquet"
    pd.DataFrame({"a": [[0] * 10**6]}).to_parquet(path)
    with pytest.raises(RunError, match=r"lists\.parquet: column 'a' holds lists\. Write plain"):
        read_table(path, {}, RunError)
