"""The page of a trace opens anywhere, shows every node, and each node's ledger adds up."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from analysis import attribution_graph
from analysis.attribution.page.trace_page import trace_page
from analysis.cli.main import main
from analysis.html.writing import script_json
from circuits.errors import RunError
from circuits.model import Site
from circuits.storage.manifest import record
from tests.support import ROOT
from tests.support.planted_negation import planted_run
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_network
from tests.support.small_runs import HOSTILE, hostile_tokenizer
from tests.support.small_traces import ALL, traced

CHROMIUM = next(
    (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if p.exists()), None
)
browser_only = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None, reason="Chromium or Playwright is missing"
)
FAULTS = (ROOT / "tests/support/faults.js").read_text("utf-8")


@pytest.fixture(scope="module")
def graph():
    return traced(n_layer=2, targets=["w8", "w9"], against=["w12"], n_nodes=60, n_gates=300)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A trace of hostile words."""
    from circuits.model import load_model
    from circuits.model.formats.llama import write

    folder = tmp_path_factory.mktemp("hostile")
    write(small_network(), hostile_tokenizer(), folder)
    model = load_model(folder, device="cpu")
    site = Site("mlp_out", 0)
    made = small_dictionary(3, site=site)
    text = " ".join(HOSTILE[:8])
    return attribution_graph(model, [made], text, [HOSTILE[0]], against=[HOSTILE[5]])


def test_a_page_is_made_from_what_the_file_holds(graph, tmp_path):
    kept = json.loads(graph.save(tmp_path / "one.json").read_text())
    again, first = (script_json(trace_page(c).content) for c in (kept, graph.as_dict()))
    assert again == first


def test_every_ledger_of_the_page_adds_up_to_the_models_number(graph):
    trace = trace_page(graph.as_dict()).content["trace"]
    explained = set()
    for kind in ("gates", "edges"):
        for number, (node, account) in enumerate(zip(trace["nodes"], trace[kind], strict=True)):
            if account is not None:
                values = [row[-1] for row in account["rows"]]
                largest = max(map(abs, values))
                assert abs(sum(values) - node["value"]) < 1e-4 * largest
                assert account["total"] == pytest.approx(sum(values))
                assert account["difference"] < 1e-4 * largest
                explained.add(number)
    assert len(explained) == (graph.nodes["kind"].isin(["feature", "logit"])).sum()


def test_all_marks_are_inside_the_picture_and_none_covers_another(graph):
    drawn = trace_page(graph.as_dict()).content["trace"]["picture"]
    inner = (graph.nodes["kind"] != "logit").to_numpy()
    x, y, r = (np.array([place[n] for place in drawn["places"]])[inner] for n in "xyr")
    assert np.min([x - r, drawn["width"] - x - r, y - r, drawn["height"] - y - r]) > 0
    apart = np.hypot(x[:, None] - x, y[:, None] - y) - (r[:, None] + r)
    assert apart[np.triu_indices(len(x), 1)].min() > 0
    # size by influence, columns by token, rows by layer
    influence = graph.nodes["influence"].to_numpy()[inner]
    assert (np.argsort(-influence, kind="stable") == np.argsort(-r, kind="stable")).all()
    rows = graph.nodes[inner].assign(x=x, y=y)
    features = rows[rows["kind"] == "feature"]
    assert features[features["layer"] == 1]["y"].max() < features[features["layer"] == 0]["y"].min()
    ends = rows.groupby("position")["x"].agg(["min", "max"]).sort_index()
    assert (ends["max"].iloc[:-1].to_numpy() < ends["min"].iloc[1:].to_numpy()).all()


def test_net_influence_is_the_sign_of_a_single_reading_and_never_more_than_influence():
    graph = traced(n_layer=1, targets=["w8"], **ALL)
    nodes = graph.nodes.set_index("node")
    assert (nodes["net"].abs() <= nodes["influence"] + 1e-9).all()
    added = graph.edges[graph.edges["node"] == "logit w8"].set_index("source")["value"]
    shares = added / added.abs().sum()
    features = nodes[nodes["kind"] == "feature"].index.intersection(shares.index)
    assert len(features) > 3
    # the last layer's features are read by the logit alone
    np.testing.assert_allclose(nodes["net"][features], shares[features], atol=0.01)
    assert (nodes["net"] < 0).any()


def test_what_gates_hold_of_a_node_is_all_where_all_gates_are_kept(graph):
    whole = traced(n_layer=2, targets=["w8"], **ALL).nodes.set_index("kind")
    np.testing.assert_allclose(whole["kept"].dropna(), 1, atol=1e-6)
    assert whole.loc[["token"], "kept"].isna().all()
    few = graph.nodes["kept"].dropna()
    assert few.between(0, 1).all()
    assert few.min() < 0.99


def test_features_promote_what_their_decoder_rows_read(graph):
    nodes = graph.nodes[graph.nodes["kind"] == "feature"]
    assert all(len(words.split()) == 3 for words in nodes["promotes"])
    assert (graph.nodes["promotes"][graph.nodes["kind"] != "feature"] == "").all()


def test_only_a_page_that_is_as_it_was_written_is_replaced(graph, tmp_path):
    page = graph.write_report(tmp_path / "page.html")
    first = page.read_bytes()
    assert graph.write_report(page).read_bytes() == first
    page.write_bytes(first + b"mine")
    with pytest.raises(RunError, match="contents would be lost"):
        graph.write_report(page)
    assert graph.write_report(page, force=True).read_bytes() == first


def test_hostile_words_are_no_markup(hostile, tmp_path):
    html = hostile.write_report(tmp_path / "page.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert "<img" not in html
    assert not set("\u202e\u200f\x00") & set(html)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    hosts = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}", html))
    assert hosts <= {"http://www.w3.org"}


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_the_command_writes_the_page_and_says_which_files_were_edited(tmp_path, capsys):
    run = planted_run(tmp_path / "run")
    text = "the cake was not good so tom felt"
    asked = ["trace", str(run), text, "--targets", "sad", "--against", "glad", "--name", "one"]
    assert main([*asked, "--device", "cpu"]) == 0
    page = run / "traces" / "one.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    html = page.read_text("utf-8")
    assert "How the model gets to “sad” rather than “glad”" in html
    assert "edited after the step" not in html
    config = run / "saes" / Site("mlp_out", 0).hook_name / "cfg.json"
    record(run, "saes", {}, config.parent.iterdir())
    config.write_text(config.read_text() + "\n")
    assert main([*asked, "--device", "cpu"]) == 0
    assert "edited after the step" in page.read_text("utf-8")


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
def opened(browser, tmp_path):
    """A function that opens a graph's page; faults and requests are looked at in the end."""
    faults, contexts = [], []

    def open_page(graph, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}, accept_downloads=True
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
        page.goto(graph.write_report(tmp_path / "page.html").as_uri())
        page.wait_for_selector("main[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def check_ledgers(page) -> int:
    """The rows of the ledgers that are shown sum to the model's number; how many ledgers."""
    for ledger in page.locator("[data-card] [data-ledger]").all():
        if (smaller := ledger.get_by_text(re.compile(r"^\d+ smaller$"))).count():
            smaller.click()
        values = [number(text) for text in ledger.locator(
            "tbody tr:not(.total) td:last-child").all_inner_texts()]  # fmt: skip
        total, model, difference = (
            number(text) for text in ledger.locator("tr.total td:last-child").all_inner_texts()
        )
        largest = max(map(abs, values))
        assert abs(sum(values) - model) < 1e-3 * largest  # as they are rounded
        assert abs(total - model) < 1e-4 * largest
        assert difference < 1e-4 * largest
    return page.locator("[data-card] [data-ledger]").count()


@browser_only
def test_all_nodes_are_drawn_and_a_click_shows_a_ledger_that_adds_up(opened, graph):
    page = opened(graph)
    nodes = page.locator("[data-trace] [data-node]")
    assert nodes.count() == len(graph.nodes)
    assert page.locator("[data-node].chosen").get_attribute("data-node") == "0"
    assert check_ledgers(page) == 2
    feature = int(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    page.locator(f'[data-node="{feature}"] .reach').click()
    assert page.locator("[data-card] h3").inner_text().startswith(graph.nodes["node"][feature][:3])
    assert check_ledgers(page) == 2
    wires = page.locator(".wires path.more, .wires path.less")
    assert wires.count() > 0
    assert page.locator(".product").count() > 0
    assert page.evaluate(FAULTS) == []
    page.locator("[data-card] [data-to]").first.click()  # a node's name leads to it
    token = int(graph.nodes.index[graph.nodes["kind"] == "token"][0])
    page.locator(f'[data-node="{token}"] .reach').dispatch_event("click")
    assert check_ledgers(page) == 0
    assert "A start" in page.locator("[data-card]").inner_text()
    with page.expect_download() as saved:
        page.locator('[data-node="0"] rect').click()
        page.locator('[data-ledger="gates"] [data-save="json"]').click()
    rows = json.loads(Path(saved.value.path()).read_text("utf-8"))
    name = graph.nodes["node"][0]
    assert len(rows) == (graph.gates["node"] == name).sum()


@browser_only
def test_a_node_that_is_pointed_at_shows_its_wires_and_leaving_brings_back_the_chosen(
    opened, graph
):
    page = opened(graph)
    feature = int(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    page.locator(f'[data-node="{feature}"] .reach').hover()
    assert page.locator("[data-node].here").get_attribute("data-node") == str(feature)
    page.locator("h1").hover()
    assert page.locator("[data-node].here").get_attribute("data-node") == "0"
    page.locator("[data-card] [data-to]").first.hover()
    assert page.locator("[data-node].pointed").count() == 1


@browser_only
def test_keys_reach_every_node_go_from_one_to_the_next_and_choose(opened, graph):
    page = opened(graph)
    page.locator("[data-trace]").focus()
    reached = set()
    for _ in graph.nodes["node"]:
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.node"))
    assert reached == {str(n) for n in range(len(graph.nodes))}
    at = "Number(document.activeElement.dataset.node)"
    place = f"Trace.picture.places[{at}]"
    page.locator('[data-node="0"]').focus()
    before = page.evaluate(place)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(place)["y"] > before["y"]
    lower = page.evaluate(place)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(place)["x"] < lower["x"]
    page.keyboard.press("Enter")
    chosen = page.locator("[data-node][aria-pressed=true]")
    assert chosen.get_attribute("data-node") == str(page.evaluate(at)) != "0"
    page.keyboard.press("Escape")
    assert chosen.get_attribute("data-node") == "0"


@browser_only
def test_hostile_words_are_shown_and_do_nothing(opened, hostile):
    page = opened(hostile, scheme="dark")
    words = " ".join(page.locator("[data-trace] .word").all_text_contents())
    assert "<script>alert(1)</script>" in words
    for node in page.locator("[data-node]").all():
        node.dispatch_event("click")
    assert page.evaluate(FAULTS) == []
    assert page.locator("main img, main script").count() == 0


@browser_only
@pytest.mark.parametrize("width", [400, 640])
def test_the_page_fits_a_phone_and_begins_at_the_answer(opened, graph, width):
    page = opened(replace(graph, notes=("a note",)), width, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(FAULTS) == []
    answer = page.locator('[data-node="0"]').bounding_box()
    assert 0 < answer["x"] < width
    assert page.locator(".warn").inner_text() == "A note."
