"""Shards are removed one by one: what else lies beside them stays."""

import pandas as pd

from circuits.storage.shards import kept_table, make_shards, remove_shards


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
