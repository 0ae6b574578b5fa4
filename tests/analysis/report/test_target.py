"""A report is written only where nothing else is lost."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from analysis.cli.main import main
from analysis.report import write_report
from circuits.errors import RunError


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_report_replaces_a_report_and_nothing_else(hostile_run, tmp_path, capsys):
    folder, text = hostile_run
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"is not empty and not a report .* would be lost"):
        write_report(folder, mine, text=text, device="cpu")
    with pytest.raises(RunError, match="is a file"):
        write_report(folder, mine / "thesis.tex", text=text, device="cpu")
    with pytest.raises(RunError, match="is a folder"):
        write_report(folder, mine, single_file=True, text=text, device="cpu")
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    assert main(["report", str(folder), "--out", str(mine / "thesis.tex" / "under")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("circuits report: ")
    assert said.count("\n") == 1


def test_a_folder_with_a_file_called_like_the_mark_is_not_a_report(hostile_run, tmp_path, capsys):
    folder, _ = hostile_run
    (tmp_path / "thesis.tex").write_text("years of work")
    for mark in ("", "{}", '{"schema": "bilinear-circuits/report", "version": 1}',
                 '{"schema": "bilinear-circuits/report", "version": 2, "files": '
                 '{"../thesis.tex": "x"}}'):  # fmt: skip
        (tmp_path / "report.json").write_text(mark)
        assert main(["report", str(folder), "--out", str(tmp_path), "--device", "cpu"]) == 2
        assert "is not empty and not a report" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "thesis.tex"]


@pytest.fixture
def report(hostile_run, tmp_path) -> Path:
    """A copy of the report, alone in its folder."""
    return Path(shutil.copytree(hostile_run[0] / "report", tmp_path / "report"))


def again(hostile_run, report, **how):
    write_report(hostile_run[0], report, text=hostile_run[1], device="cpu", **how)


def test_an_older_report_gives_way_to_a_newer_one(hostile_run, report):
    stale = report / "stale.html"
    stale.write_text("a page of a circuit that is gone")
    mark = json.loads((report / "report.json").read_text())
    mark["files"] |= {"stale.html": sha256(stale.read_bytes()).hexdigest()}
    (report / "report.json").write_text(json.dumps(mark))
    again(hostile_run, report)
    assert not stale.exists()
    assert contents_of(report) == contents_of(hostile_run[0] / "report")
    assert [path.name for path in report.parent.iterdir()] == ["report"]


def test_other_files_in_a_report_are_kept(hostile_run, report):
    mine = {"thesis.tex": "years of work", "data/mine.csv": "1", "notes/a/b.txt": "2"}
    for name, text in mine.items():
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).write_text(text)
    before = contents_of(report)
    for force in (False, True):
        again(hostile_run, report, force=force)
        assert contents_of(report) == before
        assert [path.name for path in report.parent.iterdir()] == ["report"]


def test_an_edited_page_is_not_lost(hostile_run, report):
    for page in ("index.html", "data/index.js"):
        was = (report / page).read_text("utf-8")
        (report / page).write_text("with my notes")
        with pytest.raises(RunError, match=rf"{page} was changed .* force=True"):
            again(hostile_run, report)
        assert (report / page).read_text() == "with my notes"
        again(hostile_run, report, force=True)
        assert (report / page).read_text("utf-8") == was


def test_another_file_with_the_name_of_a_new_page_is_not_lost(hostile_run, report):
    mark = json.loads((report / "report.json").read_text())
    del mark["files"]["rank.html"]
    (report / "report.json").write_text(json.dumps(mark))
    (report / "rank.html").write_text("mine")
    with pytest.raises(RunError, match=r"holds rank.html, which is not of the report"):
        again(hostile_run, report)
    assert (report / "rank.html").read_text() == "mine"
    again(hostile_run, report, force=True)
    assert contents_of(report) == contents_of(hostile_run[0] / "report")


def test_one_file_replaces_a_report_as_it_was_written_and_no_other_file(
    hostile_run, tmp_path, capsys
):
    file = tmp_path / "thesis.tex"
    given = ["report", str(hostile_run[0]), "--single-file", "--out", str(file), "--device", "cpu"]
    file.write_text("years of work")
    assert main(given) == 2
    assert capsys.readouterr().err == (
        f"circuits report: {file} is not a report as it was written, so its contents would be "
        f"lost. Name another place, or overwrite it: --force, in Python force=True.\n"
    )
    assert file.read_text() == "years of work"
    assert main([*given, "--force"]) == 0
    page = file.read_text("utf-8")
    assert main(given) == 0
    file.write_text(page.replace("Overview", "My overview"), "utf-8")
    assert main(given) == 2
    assert "My overview" in file.read_text("utf-8")


def test_a_report_through_a_link_goes_where_the_link_points(hostile_run, report):
    link = report.parent / "link"
    link.symlink_to(report)
    again(hostile_run, link)
    assert link.is_symlink()
    assert contents_of(report) == contents_of(hostile_run[0] / "report")


def test_one_file_through_a_link_goes_where_the_link_points(hostile_run, tmp_path):
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    again(hostile_run, tmp_path / "link.html", single_file=True)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_the_root_is_no_place_for_a_report(hostile_run):
    for single_file in (False, True):
        with pytest.raises(RunError, match=r"root of a disk|is a folder"):
            again(hostile_run, Path("/"), single_file=single_file)


@pytest.mark.parametrize("force", [False, True])
def test_no_report_takes_the_place_of_a_fifo(hostile_run, tmp_path, force):
    """Nor of a device: /dev/null would be gone for every program."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="which a new file would take the place of"):
        again(hostile_run, tmp_path / "pipe", single_file=True, force=force)
    assert (tmp_path / "pipe").is_fifo()


def test_a_place_without_the_right_to_write_is_refused_at_once(hostile_run, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.html.target.os.access", lambda *_: False)
    with pytest.raises(RunError, match="is not writable"):
        write_report(hostile_run[0], tmp_path / "out")
