"""What is replaced is there until the new is in its place, and only what is ours is replaced."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from analysis.studies.images.png import MARK, encoded
from circuits.errors import GraphError, RunError
from circuits.storage import replacing
from circuits.storage.files import folder_written_whole
from circuits.storage.lock import locked
from circuits.storage.replacing import (
    PLACING,
    check_file,
    finish,
    put_files,
    put_folder,
    restore,
    same_kind,
)


class Killed(BaseException):
    """The process ends here: after it, nothing is done on the disk."""


class Disk:
    """Every operation on files, counted; from one on, all of them fail."""

    NAMES = ("replace", "rename", "link", "unlink", "rmdir", "mkdir")

    def __init__(self, monkeypatch, last: int, error: BaseException, once: bool = False):
        self.done, self.last, self.error, self.once = 0, last, error, once
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self.counting_calls(getattr(os, name)))
        monkeypatch.setattr(shutil, "rmtree", self.counting_calls(shutil.rmtree))
        monkeypatch.setattr(replacing, "exchanged", self.counting_calls(replacing.exchanged))

    def counting_calls(self, work):
        def counting(*given, **named):
            self.done += 1
            if self.done == self.last or (self.done > self.last and not self.once):
                raise self.error
            return work(*given, **named)

        return counting


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


OLD = {"index": "old", "only old": "old", "mine/notes": "kept"}
NEW = {"index": "new", "only new": "new", "mine/notes": "kept"}


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def replaced_folder(out):
    keep = [(out / name).relative_to(out) for name in ("mine", "mine/notes")]
    put = (lambda new, old: put_folder(new, old, keep)) if out.exists() else None
    with folder_written_whole(out, put) as folder:
        written(folder, {"index": "new", "only new": "new"})


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("kills", [True, False])
def test_a_folder_is_the_old_or_the_new_one_at_every_moment(
    tmp_path, monkeypatch, exchanges, kills
):
    if not exchanges:
        monkeypatch.setattr(replacing, "exchanged", lambda *_: False)
    for last in range(1, 40):
        out = tmp_path / str(last) / "out"
        written(out, OLD)
        with monkeypatch.context() as patched:
            disk = Disk(patched, last, Killed() if kills else OSError("full"), once=not kills)
            try:
                replaced_folder(out)
            except (Killed, OSError):
                assert disk.done >= last
        if exchanges or not kills:
            assert contents(out) in (OLD, NEW), last
        restore(out, lambda _: True)
        assert contents(out) in (OLD, NEW), last
        if disk.done < last:
            break
    else:
        raise AssertionError("the last operation was not reached")
    assert contents(out) == NEW
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_rights_of_a_private_folder_stay(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(replacing, "exchanged", lambda *_: False)
    written(tmp_path / "out", OLD)
    (tmp_path / "out").chmod(0o700)
    replaced_folder(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_a_folder_aside_that_is_not_ours_is_left_alone(tmp_path):
    aside = tmp_path / ".out.replaced"
    written(aside, OLD)
    restore(tmp_path / "out", lambda _: False)
    assert contents(aside) == OLD


@pytest.mark.parametrize("kills", [True, False])
def test_files_are_put_in_place_all_or_none(tmp_path, monkeypatch, kills):
    old, new = {"a": "1", "b": "1", "in/proof": "1"}, {"a": "2", "b": "2", "in/new/c": "2"}
    for last in range(1, 40):
        root = tmp_path / str(last)
        written(root, old)
        with monkeypatch.context() as patched:
            disk = Disk(patched, last, Killed() if kills else OSError("full"), once=not kills)
            try:
                put = lambda staged, _: put_files(staged, root, ["in/proof"])  # noqa: B023, E731
                with folder_written_whole(root / PLACING, put) as folder:
                    written(folder, new)
            except (Killed, OSError):
                assert disk.done >= last
        with locked(root, "the next command"):
            left = contents(root)
        found = {name: text for name, text in left.items() if not name.startswith(".")}
        assert found in (old, new), last
        with folder_written_whole(root / PLACING, put) as folder:
            written(folder, new)
        assert contents(root) == new, last
        assert [path.name for path in sorted(root.iterdir())] == ["a", "b", "in"]
        if disk.done < last:
            break
    else:
        raise AssertionError("the last operation was not reached")


def test_files_are_not_put_over_a_folder(tmp_path):
    written(tmp_path / "root", {"a": "1", "b/mine": "1"})
    written(tmp_path / "new", {"a": "2", "b": "2"})
    with pytest.raises(IsADirectoryError):
        put_files(tmp_path / "new", tmp_path / "root")
    assert contents(tmp_path / "root") == {"a": "1", "b/mine": "1"}


def test_files_without_hard_links_are_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    written(tmp_path / "out", OLD)
    replaced_folder(tmp_path / "out")
    assert contents(tmp_path / "out") == NEW


def test_a_file_of_another_kind_is_not_written_over(tmp_path):
    def check(**how):
        check_file(tmp_path / "file", "a circuit", lambda head: head[:1] == b"{", GraphError, **how)

    check()
    (tmp_path / "file").touch()
    check()
    (tmp_path / "file").write_text("{}")
    check()
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(GraphError, match=r"is not a circuit, so it would be lost.*--force"):
        check()
    check(force=True)
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    with pytest.raises(GraphError, match="is a folder"):
        check(force=True)


@pytest.mark.parametrize(
    ("new", "old", "same"),
    [
        ('{"schema": "ours/a", "n": 1}', '{\n "schema": "ours/a", "m": 2}', True),
        ('{"schema": "ours/a", "n": 1}', '{"schema": "ours/b", "n": 1}', False),
        ('{"about": 1, "figures": 2}', '{"figures": 3,\n "about": 4}', True),
        ('{"about": 1, "figures": 2}', '{"about": "my life"}', False),
        ('{"schema": 2, "about": 1}', '{"schema": 1, "about": 1}', False),
        ('{"text": "a", "label": "x"}\n', '{"text": "b", "label": "y"}\n{"text": "c"}\n', True),
        ('{"text": "a", "label": "x"}\n', '{"text": "of a corpus"}\n{"text": "more"}\n', False),
        ("<a>\n<!-- ours -->\n1", "<a>\n<!-- ours -->\n2", True),
        ("<a>\n<!-- ours -->\n1", "<a>\n<b>\n1", False),
    ],
)
def test_a_file_is_of_the_same_kind_if_its_schema_or_its_keys_are(tmp_path, new, old, same):
    (tmp_path / "new").write_text(new)
    (tmp_path / "old").write_text(old)
    assert same_kind(tmp_path / "new", tmp_path / "old") is same


def left_by_a_kill(run, decided, **files):
    """What lies in a folder as if a command that was killed had decided to put it in place."""
    written(run / PLACING, files)
    (run / PLACING).mkdir(parents=True, exist_ok=True)
    (run / PLACING / ".decided").write_text(decided)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "decided",
    [
        json.dumps({"../home/thesis.txt": [sha256("years of work"), None]}),
        json.dumps({"/nowhere/thesis.txt": [None, None]}),
        json.dumps({"a\0b": [None, None]}), json.dumps({"\ud800": [None, None]}),
        json.dumps({"x" * 5000: [None, None]}), json.dumps({"": [None, None]}),
        json.dumps({"mine": [None, None]}), json.dumps({"thesis.txt": [sha256("other"), None]}),
        '["thesis.txt"]', '{"thesis.txt": 1}', '{"a": 1', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_folder_that_was_not_left_by_us_removes_nothing(decided, tmp_path):
    run, home = tmp_path / "run", tmp_path / "home"
    written(home, {"thesis.txt": "years of work"})
    written(run, {"thesis.txt": "years of work", "mine/notes": "mine"})
    left_by_a_kill(run, decided)
    with pytest.raises(RunError):
        finish(run)
    assert (home / "thesis.txt").read_text() == "years of work"
    assert (run / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "decided",
    [{}, {"notes": [None, sha256("evil")]}, {"notes": [sha256("x"), sha256("evil")]},
     {"notes": [sha256("mine"), sha256("x")]}],
)  # fmt: skip
def test_only_what_was_decided_is_put_over_a_file(decided, tmp_path):
    written(tmp_path, {"notes": "mine"})
    left_by_a_kill(tmp_path, json.dumps(decided), notes="evil")
    with pytest.raises(RunError, match=r"\.placing: not what a killed command.*Move or remove"):
        finish(tmp_path)
    assert contents(tmp_path)["notes"] == "mine"
    left_by_a_kill(tmp_path, json.dumps({"notes": [sha256("mine"), sha256("evil")]}))
    finish(tmp_path)
    assert contents(tmp_path) == {"notes": "evil"}


def test_a_folder_of_that_name_with_files_of_the_users_is_kept(tmp_path):
    written(tmp_path / PLACING, {"mine": "years of work"})
    with pytest.raises(RunError, match="not what a killed command left"):
        finish(tmp_path)
    assert contents(tmp_path / PLACING) == {"mine": "years of work"}


@pytest.mark.parametrize("name", [".decided", "a"])
def test_a_fifo_among_what_was_left_is_refused(tmp_path, name):
    left_by_a_kill(tmp_path, json.dumps({"a": [None, sha256("")]}))
    (tmp_path / PLACING / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / PLACING / name)
    with pytest.raises(RunError, match="FIFO"):
        finish(tmp_path)


def test_nothing_is_placed_through_a_link_out_of_the_folder(tmp_path):
    run, home = tmp_path / "run", tmp_path / "home"
    written(home, {"keep.txt": "mine"})
    decided = {"circuits/keep.txt": [sha256("mine"), sha256("not mine")]}
    left_by_a_kill(run, json.dumps(decided), **{"circuits/keep.txt": "not mine"})
    (run / "circuits").symlink_to(home)
    with pytest.raises(RunError, match="leads out of"):
        finish(run)
    assert (home / "keep.txt").read_text() == "mine"


def test_a_picture_is_of_the_same_kind_only_if_the_toolkit_wrote_it(tmp_path):
    pixels, name = np.zeros((2, 3), np.uint8), MARK
    (tmp_path / "new").write_bytes(encoded(pixels))
    for old, same in (
        (encoded(np.zeros((3000, 30), np.uint8)), True),
        (encoded(pixels).replace(name, b"x" * len(name)), False),
        (b"\x89PNG\r\n\x1a\n", False),
    ):
        (tmp_path / "old").write_bytes(old)
        assert same_kind(tmp_path / "new", tmp_path / "old") is same
    (tmp_path / "new").write_bytes(b"\0ours")
    (tmp_path / "old").write_bytes(b"\0ours\nand mine")
    assert not same_kind(tmp_path / "new", tmp_path / "old")
