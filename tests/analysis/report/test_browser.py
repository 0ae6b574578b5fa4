"""The report in a real browser, without a window: pages open from disk, and nothing leaves them."""

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest

from analysis.report import write_report
from analysis.runs.run import Run
from analysis.runs.traces import run_trace
from circuits.graph.circuit import Circuit
from circuits.graph.records import Feature, Interaction
from tests.support import ROOT
from tests.support.planted_negation import planted_run
from tests.support.small_runs import HOSTILE

CHROMIUM = next(
    (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if p.exists()), None
)
pytestmark = [
    pytest.mark.skipif(
        find_spec("playwright") is None,
        reason="Playwright drives the browser: pip install playwright",
    ),
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
    ),
]

FAULTS = (ROOT / "tests/support/faults.js").read_text("utf-8")
PAGES = ("index", "circuit-hostile", "circuit-nsafe-name", "layered-hostile", "rank", "features",
         "layer-0", "images", "trace-hostile")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser, hostile_run):
    """A function that opens a page; what it said and what it asked for is looked at in the end."""
    faults, contexts = [], []

    def open_page(name: str, report: Path | None = None, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: faults.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: (
                None if re.match(r"(file|data|blob):", asked.url) else faults.append(asked.url)
            ),
        )
        page.on("requestfailed", lambda asked: faults.append(f"not there: {asked.url}"))
        page.goto((report or hostile_run[0] / "report").as_uri() + name)
        page.wait_for_selector("main[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def drawn(page) -> int:
    """Scroll through the page until every figure is drawn; how many there are."""
    n = page.locator("[data-figure]").count()
    for place in range(n):
        figure = page.locator("[data-figure]").nth(place)
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
    return n


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_and_draws_all_its_figures(opened, name):
    page = opened(f"/{name}.html")
    wanted = {"circuit-hostile": 5, "circuit-nsafe-name": 4, "layered-hostile": 1, "rank": 6,
              "layer-0": 5, "images": 3}  # fmt: skip
    assert drawn(page) == wanted.get(name, 0)
    assert page.locator("h1").count() == 1
    assert page.evaluate(FAULTS) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_a_phone_and_is_readable_in_the_dark(opened, name):
    page = opened(f"/{name}.html", width=390, scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(FAULTS) == []


def test_a_click_on_a_node_shows_its_card_and_on_an_edge_its_pair(opened):
    page = opened("/circuit-hostile.html")
    card = page.locator("[data-card]")
    page.locator('[data-feature="8"] circle').click()
    page.locator('[data-shown="mlp_in@0:8"]').wait_for()
    assert "feature 8 of mlp_in@0" in card.inner_text()
    assert page.evaluate(FAULTS) == []
    assert HOSTILE[0] in card.locator("ul").first.inner_text()
    page.locator('[data-output="7"] rect').click()
    page.locator('[data-shown="mlp_out@0:7"]').wait_for()
    page.locator('[data-pair="3-8"]').dispatch_event("click")
    page.get_by_text("added to the contrast, logits").wait_for()
    assert "1.5" in card.inner_text()


def test_all_parts_of_the_picture_are_reached_and_chosen_by_keys(opened):
    page = opened("/circuit-hostile.html")
    parts = page.locator("[data-graph] [role=button]")
    assert parts.count() == 4 + 5 + 3 + 2  # edges, features in them, gates, outputs
    page.locator("[data-graph]").focus()
    names = []
    for _ in range(parts.count()):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert len(set(names)) == len(names)
    assert all(names)
    page.locator('[data-feature="5"]').focus()
    page.keyboard.press("Enter")
    page.locator('[data-shown="mlp_in@0:5"]').wait_for()


def test_search_finds_features_by_number_and_by_token(opened):
    page = opened("/features.html")
    page.locator("[data-open]").first.wait_for()
    assert page.locator("[data-open]").count() == 48
    page.get_by_label("Search").fill("17")
    page.wait_for_function("document.querySelectorAll('[data-open]').length === 1")
    page.locator("[data-open]").click()
    page.locator('[data-shown="mlp_in@0:17"]').wait_for()
    page.get_by_label("Dictionary").select_option(index=1)
    page.get_by_label("Search").fill("<script>alert")
    page.wait_for_function("document.querySelector('[data-count]').textContent.includes('mlp_out')")
    found = page.locator("[data-found] tr")
    assert 0 < found.count() < 48
    assert all("<script>alert" in row for row in found.all_inner_texts())


def test_an_address_may_name_a_feature(opened):
    page = opened("/features.html#mlp_out@0:30")
    page.locator('[data-shown="mlp_out@0:30"]').wait_for()
    assert page.get_by_label("Dictionary").input_value() == "features-mlp_out-0"


def test_a_table_is_sorted_by_a_click_on_a_column(opened):
    page = opened("/layer-0.html")
    page.get_by_role("button", name="effective rank", exact=True).click()
    column = page.locator("table.sortable thead button").all_inner_texts().index("effective rank")
    shown = [float(text) for text in page.locator(
        f"table.sortable tbody td:nth-child({column + 1})").all_inner_texts()]  # fmt: skip
    assert len(shown) == 48
    assert shown == sorted(shown, reverse=True)


def test_a_figure_gives_its_data_away(opened, hostile_run):
    page = opened("/circuit-hostile.html")
    figure = page.locator('[data-figure="matrix"]')
    with page.expect_download() as saved:
        figure.get_by_text("JSON").click()
    rows = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert len(rows) == 36
    assert set(rows[0]) == {"first", "second", "weight"}
    with page.expect_download() as saved:
        page.locator('[data-table="inputs"] [data-save="csv"]').dispatch_event("click")
    import pandas as pd

    table = pd.read_csv(saved.value.path())
    assert list(table["feature"]) == [3, 5, 8, 13, 21, 48]
    assert table["label"][0].startswith(HOSTILE[0])


def test_a_cell_that_a_spreadsheet_would_run_is_text(opened):
    page = opened("/index.html")
    table = {"columns": ["a", "b"], "rows": [["=1+1", -2], ['say "hi", there', None]]}
    assert page.evaluate("table => Figures.csv(table)", table) == (
        'a,b\r\n\'=1+1,-2\r\n"say ""hi"", there",\r\n'
    )
    run = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", " =1", "＝1", "＠x"]
    written = page.evaluate(
        "table => Figures.csv(table)", {"columns": ["=a"], "rows": [[r] for r in run]}
    )
    assert all(line.lstrip('"').startswith("'") for line in written.strip().split("\r\n"))


def test_the_theme_follows_the_system_and_is_turned_by_a_button(opened):
    for scheme, light in (("light", True), ("dark", False)):
        page = opened("/index.html", scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 127"
        assert page.evaluate(ground) is light
        page.get_by_label("Light or dark").click()
        assert page.evaluate(ground) is not light


def test_the_check_of_accessibility_can_fail(opened):
    page = opened("/index.html")
    page.evaluate("""() => {
        const main = document.querySelector("main");
        main.insertAdjacentHTML("beforeend", `<button></button><input><h6>deep</h6>
            <p style="color: #ccc; background: #fff">faint</p><p id="x">a</p><p id="x">b</p>
            <svg role="img"></svg>`);
    }""")
    found = " ".join(page.evaluate(FAULTS))
    for fault in ("button has no name", "input has no name", "h6 after", "faint", "x is not alone",
                  "svg has no name"):  # fmt: skip
        assert fault in found


def test_one_file_turns_its_pages_and_draws_them(opened, hostile_run, tmp_path):
    folder, text = hostile_run
    out = write_report(folder, tmp_path / "one.html", single_file=True, text=text, device="cpu")
    page = opened("", report=out)
    assert page.locator("h1").inner_text() == "Overview"
    assert list(Run(folder).behaviours) == ["hostile"]
    page.locator("article a").first.click()
    page.locator("main[data-page=circuit-hostile][data-ready]").wait_for()
    assert page.title().startswith(HOSTILE[0])
    assert drawn(page) == 5
    page.locator('[data-feature="8"] circle').click()
    page.locator('[data-shown="mlp_in@0:8"]').wait_for()
    page.locator("[data-shown] h3 a").click()
    page.locator("main[data-page=features][data-ready]").wait_for()
    page.locator('[data-shown="mlp_in@0:8"]').wait_for()


def test_one_file_turns_from_trace_to_trace_and_each_has_its_own_picture(opened, tmp_path):
    run = Run(planted_run(tmp_path / "run"), device="cpu")
    for name, text in (("one", "the cake was not good so tom felt"), ("two", "not good tom felt")):
        run_trace(run, text, ["sad"], against=["glad"], name=name)
    page = opened("", report=write_report(run, single_file=True))
    for name, n_token in (("one", 9), ("two", 5)):
        page.locator("#traces a").nth(["one", "two"].index(name)).click()
        page.locator(f"main[data-page=trace-{name}][data-ready]").wait_for()
        assert page.locator("[data-trace] text.word").count() == n_token
        assert page.locator('[data-ledger="gates"] .total').count() == 3
        page.locator("[data-node]").first.focus()
        assert page.locator('nav [aria-current="page"]').get_attribute("href") == f"#/trace-{name}"
        page.locator("nav a").first.click()
        page.locator("main[data-page=index][data-ready]").wait_for()


@pytest.mark.parametrize("width", [320, 1280])
def test_a_list_of_pages_fits_and_closes_where_another_is_opened(opened, width):
    page = opened("/index.html", width=width)
    for name in ("Circuits", "Traces"):
        page.locator(".chooser", has_text=name).locator("summary").click()
        assert page.locator(".chooser[open]").count() == 1
        assert page.locator(".chooser[open] summary").inner_text() == name
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Escape")
    assert page.locator(".chooser[open]").count() == 0


def test_the_strongest_pair_is_shown_before_anything_is_chosen(opened):
    page = opened("/circuit-hostile.html")
    card = page.locator("[data-card]")
    assert "where both are active" in card.inner_text().lower()
    assert page.locator('[data-pair="3-8"].chosen').count() == 1
    assert "1.5" in card.inner_text()  # its weight


def test_a_row_of_a_table_leads_to_its_card(opened):
    page = opened("/layer-0.html")
    drawn(page)  # a page that is left while it loads has requests that fail
    page.locator("tbody a").nth(5).click()
    page.locator('[data-shown="mlp_out@0:5"]').wait_for()
    page = opened("/circuit-hostile.html")
    page.locator('[data-table="by-class"] tbody a').first.click()
    page.locator('[data-shown="mlp_in@0:3"]').wait_for()


LETTERS = """() => [...document.querySelectorAll('.plot text')].map((text) => {
    const box = text.getBoundingClientRect();
    const own = text.closest('.main-svg').getBoundingClientRect();
    return [text.textContent, parseFloat(getComputedStyle(text).fontSize),
            box.left >= own.left && box.right <= own.right && box.top >= own.top
            && box.bottom <= own.bottom];
})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_picture_through_layers_has_no_small_and_no_cut_text(opened, width):
    page = opened("/layered-hostile.html", width=width)
    drawn(page)
    texts = page.evaluate(LETTERS)
    assert len(texts) > 20
    assert [text for text, size, whole in texts if size < 12 or not whole] == []
    assert any("the answers" in text for text, *_ in texts)


@pytest.mark.parametrize("name", ["a b", "50%25", "c#1?x=2", "Ünïcödé “✓”", "<b>&amp;"])
def test_a_report_opens_from_any_folder(opened, hostile_run, tmp_path, name):
    place = tmp_path / name
    shutil.copytree(hostile_run[0] / "report", place)
    page = opened("/index.html", report=place)
    page.locator("article a").first.click()
    page.locator("main[data-page=circuit-hostile][data-ready]").wait_for()
    page.locator('[data-feature="8"] circle').click()
    page.locator('[data-shown="mlp_in@0:8"]').wait_for()  # a file of data was loaded


def test_a_page_prints_whole_black_on_white(opened):
    page = opened("/circuit-hostile.html", scheme="dark")
    folded = page.locator("main details:not([open])").count()
    assert folded > 0
    page.evaluate("Report.unfold()")
    assert page.locator("main details:not([open])").count() == 0
    for figure in page.locator("[data-figure]").all():  # none of them was ever in view
        figure.locator(".main-svg").first.wait_for()
    page.emulate_media(media="print", color_scheme="dark")
    look = "e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor, s.fill]; }"
    assert page.locator("body").evaluate(look)[:2] == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert page.locator(".plot .xtick text").first.evaluate(look)[2] == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible()
    assert not page.locator(".downloads").first.is_visible()
    assert {
        s.evaluate("e => getComputedStyle(e).overflowX") for s in page.locator(".scroll").all()
    } == {"visible"}
    page.evaluate("Report.fold()")
    assert page.locator("main details:not([open])").count() == folded
    assert page.pdf()[:5] == b"%PDF-"


def test_nothing_moves_for_those_who_ask_for_that(opened):
    page = opened("/circuit-hostile.html")
    moves = "getComputedStyle(document.querySelector('.edge path')).transitionDuration"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moves) == "0.15s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moves) == "0s"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_magnified_twofold(opened, name):
    page = opened(f"/{name}.html", width=640)  # 1280 at 200 %
    assert page.evaluate("document.documentElement.scrollWidth") <= 640


def test_keys_alone_reach_content_circuits_cards_and_the_order_of_a_table(opened):
    page = opened("/features.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.locator("[data-open]").nth(2).focus()
    page.keyboard.press("Enter")
    page.locator('[data-shown="mlp_in@0:2"]').wait_for()
    page.get_by_text("Circuits", exact=True).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    first = page.locator(".chooser a").first
    assert first.evaluate("e => e === document.activeElement")
    assert first.inner_text() == HOSTILE[0]
    page.keyboard.press("Escape")
    assert not first.is_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("main[data-page=circuit-hostile][data-ready]").wait_for()
    page = opened("/layer-0.html")
    page.get_by_role("button", name="kurtosis", exact=True).focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("kurtosis")


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_circuit_of_sixty_pairs_is_drawn(opened, hostile_run, tmp_path):
    run, text = tmp_path / "run", hostile_run[1]
    shutil.copytree(hostile_run[0], run, ignore=shutil.ignore_patterns("report", "rank", "images"))
    plain = Circuit.load(run / "circuits" / "hostile.json")
    ends = list(combinations(range(12), 2))[:60]
    wide = replace(
        plain,
        features=tuple(Feature(f, HOSTILE[f], f % 3) for f in range(12)),
        interactions=tuple(Interaction(i, j, 1.0 + i - j, contrast=0.1 * i) for i, j in ends),
    )
    wide.save(run / "circuits" / "hostile.json")
    (run / "circuits" / "hostile.validation.json").unlink()  # it was of the plain one
    write_report(run, text=text, device="cpu")
    page = opened("/circuit-hostile.html", report=run / "report")
    assert page.locator("[data-graph] .edge").count() == 60
    assert page.evaluate(FAULTS) == []
