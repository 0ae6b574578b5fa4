"""A report has a page for each trace of its run; what is no trace is not listed as one."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.attribution.page.trace_page import trace_page
from analysis.cli.main import main
from analysis.html.writing import script_json
from analysis.report import report_of, write_report
from analysis.runs.run import Run
from circuits.errors import GraphError, MarkWarning, RunError
from tests.support.planted_negation import planted_run
from tests.support.reports import page_data, page_text
from tests.support.small_runs import TRACED

TEXT = "the cake was not good so tom felt"
OTHER = "the film was very bad so mia felt"


def trace(run: Path, text: str, *more: str) -> int:
    asked = ("--targets", "sad", "--against", "glad", "--device", "cpu", "--quiet")
    return main(["trace", str(run), text, *asked, *more])


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Path:
    """A run with traces of two texts."""
    run = planted_run(tmp_path_factory.mktemp("traced") / "run")
    assert trace(run, TEXT, "--name", "one") == 0
    assert trace(run, OTHER, "--name", "two") == 0
    return run


@pytest.fixture
def run(traced, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(traced, tmp_path / "run"))


def overview(run: Path) -> list[dict]:
    """What the first page lists of the traces."""
    return report_of(Run(run, device="cpu").checked()).pages[0].context["traces"]


def test_each_trace_is_the_page_that_stands_beside_its_file_linked_with_its_text(run):
    index = write_report(run, device="cpu")
    report = Path(shutil.move(run / "report", run.parent / "sent"))  # it needs nothing of the run
    for name, text in (("one", TEXT), ("two", OTHER)):
        content = json.loads((run / "traces" / f"{name}.json").read_text())
        wanted = json.loads(script_json(trace_page(content).content))
        assert page_data(report, f"trace-{name}") == wanted
        link = f'<q><a href="trace-{name}.html">{text}</a></q>'
        assert link in (report / "index.html").read_text()
        page = page_text(report, f"trace-{name}")
        assert f"How the model gets to “sad” rather than “glad” {text}" in page
        for other in ("one", "two"):  # the list of pages
            assert f'<a href="trace-{other}.html"' in (report / f"trace-{name}.html").read_text()
    assert index.name == "index.html"
    html = write_report(run, single_file=True, device="cpu").read_text()
    assert f'<q><a href="#/trace-one">{TEXT}</a></q>' in html
    assert 'id="data-trace-two"' in html


def test_a_page_of_one_trace_alone_has_no_list_of_pages(run):
    assert 'chooser">' not in (run / "traces" / "one.html").read_text()


def test_a_hostile_text_is_no_markup_and_breaks_no_line(hostile_run, tmp_path):
    folder, text = hostile_run
    assert all(part in TRACED for part in ("<script>", "</script>", "\u2028"))
    single = write_report(folder, tmp_path / "one.html", single_file=True, text=text, device="cpu")
    files = [single, *(folder / "report").glob("*.html"), *(folder / "report" / "data").iterdir()]
    for path in files:
        written = path.read_text("utf-8")
        assert "<script>alert" not in written
        assert "<img/src=x" not in written
        assert "\u2028" not in written
    said = "&lt;script&gt;alert(1)&lt;/script&gt; &lt;/script&gt;&lt;img/src=x/onerror=alert(2)&gt;"
    index = (folder / "report" / "index.html").read_text("utf-8")
    assert f'<q><a href="trace-hostile.html">{said}' in index
    assert "⟨U+2028⟩w30" in page_text(folder / "report", "trace-hostile")


def test_a_damaged_trace_is_refused_and_an_edited_one_marked(run):
    path = run / "traces" / "one.json"
    whole = path.read_text()
    for damaged, said in [
        (whole[: len(whole) // 2], "not readable JSON"),
        ("", "not readable JSON"),
        ("{}", "is not an attribution graph of this version"),
        (
            whole.replace('"version": 2', '"version": 1'),
            "graph of this version.*circuits trace RUN",
        ),
    ]:
        path.write_text(damaged)
        with pytest.raises(GraphError, match=said):
            write_report(run, device="cpu")
    assert not (run / "report").exists()
    path.write_text(whole + " ")
    with pytest.warns(MarkWarning, match="edited after the step 'trace one' made it"):
        write_report(run, device="cpu")
    assert [line.count("edited") for line in badges(run)] == [1, 0]
    assert "Edited after the step 'trace one' made it" in page_text(run / "report", "trace-one")
    assert "edited after" not in page_text(run / "report", "trace-two")


def badges(run: Path) -> list[str]:
    """The lines of the first page that list a trace."""
    lines = (run / "report" / "index.html").read_text().splitlines()
    return [line for line in lines if '<q><a href="trace-' in line]


def test_a_trace_of_another_model_is_refused_and_one_that_no_step_made_is_marked(run, tmp_path):
    other = planted_run(tmp_path / "other", "inherited")
    shutil.copytree(run / "traces", other / "traces")
    with pytest.warns(MarkWarning), pytest.raises(
        RunError,
        match=r"traces/one\.json was made with another model.*: circuits trace .*other TEXT$",
    ):  # fmt: skip
        write_report(other, device="cpu")
    shutil.copy(run / "traces" / "one.json", run / "traces" / "copy.json")
    with pytest.warns(MarkWarning, match="no step of this run made it.*: circuits trace RUN TEXT$"):
        assert [each["page"] for each in overview(run) if each["marked"]] == ["trace-copy"]


def test_a_trace_that_was_made_anew_is_read_anew(run):
    opened = Run(run, device="cpu")
    assert list(opened.traces) == ["one", "two"]
    assert trace(run, OTHER, "--name", "one") == 0
    page = write_report(opened)
    assert page.read_text().count(f">{OTHER}</a></q>") == 2


@pytest.mark.parametrize("place", ["x.json", "."], ids=["a folder of that name", "traces itself"])
def test_an_export_for_another_tool_is_no_trace_of_the_run(run, place):
    assert trace(run, TEXT, "--name", "one", "--attribution", str(run / "traces" / place)) == 0
    assert len(list((run / "traces").glob("*.json"))) > 2
    (run / "traces" / "mine.json").write_text('{"years": "of work"}')
    assert [each["page"] for each in overview(run)] == ["trace-one", "trace-two"]
    assert "\n  traces        one, two\n" in repr(Run(run))
