"""The report shows the run's own numbers, as text whatever they hold, and says what lacks."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.attribution.contrast import PairAccount
from analysis.attribution.pair_terms import terms_of
from analysis.behaviour.in_model import in_model
from analysis.cli.main import main
from analysis.html.page import names_of
from analysis.html.writing import brief, script_json
from analysis.report import report_of, write_report
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.pages.layered import layered_page
from analysis.runs.run import Run
from analysis.validation.record import Validation
from circuits.algebra.interactions import Interactions
from circuits.errors import GraphError, RunError
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_figure import picture
from circuits.graph.records import Feature, Gate, Interaction, Output
from circuits.model import Site, load_model
from circuits.model.identity import TwinLabel
from circuits.model.site import mlp_sites
from circuits.plotting.display import MOST, shown
from tests.support.reports import page_data
from tests.support.small_runs import HOSTILE, begun

TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


class Page(HTMLParser):
    """Elements with their attributes, links, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def pages(report: Path) -> dict[str, Page]:
    return {path.name: Page(path.read_text("utf-8")) for path in sorted(report.glob("*.html"))}


def test_a_report_has_these_files_and_its_links_lead_to_them(hostile_run):
    report = hostile_run[0] / "report"
    found = pages(report)
    assert list(found) == [
        "circuit-hostile.html", "circuit-nsafe-name.html", "features.html", "images.html",
        "index.html", "layer-0.html", "layered-hostile.html", "rank.html", "trace-hostile.html",
    ]  # fmt: skip
    titles = [page.text.split("·")[0].strip() for page in found.values()]
    assert titles[2:6] == ["Features", "Images", "Overview", "Layer 0"]
    assert titles[6:] == [f"{HOSTILE[0]} across layers", "Low rank", "hostile"]
    assert {path.name for path in (report / "assets").iterdir()} == {
        "style.css", "plotly.js", "report.js", "figures.js", "tables.js", "graph.js", "features.js",
        "trace.js",
    }  # fmt: skip
    for page in found.values():
        links = [a["href"] for a in page.of("a")] + [o["value"] for o in page.of("option")]
        files = {link.split("#")[0] for link in links if ".html" in link}
        assert files <= set(found)
        assert len(page.of("h1")) == 1
        assert len(page.of("main")) == 1


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(hostile_run, tmp_path):
    folder, text = hostile_run
    shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("report"))
    write_report(tmp_path / "elsewhere", text=text, device="cpu")

    def bytes_of(report: Path) -> dict[str, str]:
        return {
            str(path.relative_to(report)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(report.rglob("*"))
            if path.is_file()
        }

    assert bytes_of(folder / "report") == bytes_of(tmp_path / "elsewhere" / "report")


def test_nothing_of_a_hostile_vocabulary_becomes_markup_or_turns_the_line(hostile_run):
    report = hostile_run[0] / "report"
    for name, page in pages(report).items():
        scripts = page.of("script")
        assert all(set(s) == {"defer", "src"} and s["src"].startswith("assets/") for s in scripts)
        assert not [a for _, found in page.elements for a in found if a.startswith("on")], name
        assert not {"b", "i"} & {tag for tag, _ in page.elements}
        assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
        assert len(page.of("img")) == (2 if name == "images.html" else 0)
        whole = (report / name).read_text("utf-8")
        assert not TURNING & set(whole)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", whole)
    for path in (report / "data").iterdir():
        written = path.read_bytes()
        assert not set(b"<>&\x00\r") & set(written)
        assert max(written) < 128


def test_hostile_names_are_read_as_they_are(hostile_run):
    page = pages(hostile_run[0] / "report")["circuit-hostile.html"]
    assert HOSTILE[0] in page.text  # the parser has undone the escapes: it is text
    assert "⟨U+202E⟩turned" in page.text
    drawn = page_data(hostile_run[0] / "report", "circuit-hostile")["graph"]
    assert [group["name"] for group in drawn["groups"]][:2] == [HOSTILE[0], "⟨U+202E⟩turned"]
    words = page_data(hostile_run[0] / "report", "features-mlp_in-0")["words"]
    assert {"null⟨U+0000⟩byte", "שלום", f"{'x' * MOST}… (10000 characters)"} <= set(words)


def test_the_page_through_layers_has_what_heads_look_at(hostile_run):
    folder = hostile_run[0]
    text = pages(folder / "report")["layered-hostile.html"].text
    for cell in (f"token {HOSTILE[0]}", "feature 3 of mlp_out@0", "all others"):
        assert cell in text
    assert "Head 0.1 looks elsewhere in one class than in another: with its pattern at" in text
    found = Run(folder, device="cpu").layered_found[0]
    (table,) = (t for t in layered_page(found, "x", {}).tables if t.key == "looks")
    assert table.columns[-1] == "share of the contrast"
    assert [row[-1] for row in table.rows] == ["0.25", "0.25", "−0.05"]
    older = replace(found, circuit=replace(found.circuit, looks=found.circuit.looks.iloc[:0]))
    assert "looks" not in [table.key for table in layered_page(older, "x", {}).tables]


def test_features_that_heads_look_at_are_called_by_when_they_are_active(hostile_run):
    report = hostile_run[0] / "report"
    assert page_data(report, "features-mlp_out-0")["caption"][3]
    page = pages(report)["layered-hostile.html"]
    assert re.search(r"feature 3 of mlp_out@0: \S", page.text)


def test_no_page_names_a_host_and_each_forbids_them_all(hostile_run):
    report = hostile_run[0] / "report"
    own = [*report.glob("*.html"), *(p for p in (report / "assets").iterdir())]
    own = [path for path in own if path.name != "plotly.js"]
    for path in own:
        hosts = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}", path.read_text("utf-8")))
        assert hosts <= {"http://www.w3.org"}, path  # the name of SVG, which is no address
    for page in pages(report).values():
        policy = next(m for m in page.of("meta") if m.get("http-equiv"))["content"]
        assert policy.startswith("default-src 'none'; script-src 'self' file:;")
        assert "http" not in policy


def test_one_file_holds_the_same_pages_and_runs_only_its_own_scripts(hostile_run, tmp_path):
    folder, text = hostile_run
    out = write_report(folder, tmp_path / "one.html", single_file=True, text=text, device="cpu")
    html = out.read_text("utf-8")
    page = Page(html)
    names = {path.stem for path in (folder / "report").glob("*.html")}
    assert {t["id"].removeprefix("page-") for t in page.of("template")} == names
    blocks = re.findall(r'<script type="application/json" id="data-(.*?)">(.*?)</script>', html)
    kept = {path.stem: path for path in (folder / "report" / "data").iterdir()}
    assert {name for name, _ in blocks} == set(kept)
    for name, block in blocks:
        assert json.loads(block) == page_data(folder / "report", name)
    policy = next(m for m in page.of("meta") if m.get("http-equiv"))["content"]
    run = re.findall(r'<script(?: type="text/plain" id="plotly")?>(.*?)</script>', html, flags=re.S)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in run]
    assert len(run) == 2
    assert all(f"'sha256-{one}'" in policy for one in hashes)
    assert "file:;" not in policy.split("style-src")[0]


def test_the_page_of_a_circuit_has_the_numbers_of_its_files(hostile_run):
    folder, _ = hostile_run
    circuit = Circuit.load(folder / "circuits" / "hostile.json")
    validation = Validation.load(folder / "circuits" / "hostile.validation.json")
    data = page_data(folder / "report", "circuit-hostile")
    pairs = {(p["first"], p["second"]): p["known"] for p in data["pairs"]}
    assert set(pairs) == {(p.first, p.second) for p in circuit.interactions}
    for pair in circuit.interactions:
        assert pairs[pair.first, pair.second]["weight"] == pair.weight
    edits = data["tables"]["edits"]["table"]
    assert len(edits["rows"]) == len(validation.edits)
    for name, head in (("contrast", "contrast"), ("removed", "effect removed")):
        column = edits["columns"].index(head)
        values = [np.nan if row[column] is None else row[column] for row in edits["rows"]]
        np.testing.assert_allclose(values, validation.edits[name], rtol=1e-4)
    assert validation.edits["contrast"].notna().all()
    assert any(row[0].startswith("control: untrained") for row in edits["rows"])
    text = pages(folder / "report")["circuit-hostile.html"].text
    assert validation.verdict[1:] in text


def test_a_proposal_is_described_by_its_strongest_pairs_and_its_gates(hostile_run):
    page = pages(hostile_run[0] / "report")["circuit-nsafe-name.html"].text
    circuit = Circuit.load(hostile_run[0] / "circuits" / "Ünsafe name!.json")
    at = [page.index(f": weight {pair.weight:+.3g}.") for pair in circuit.interactions]
    assert at == sorted(at)  # they were made in order of strength
    assert "AND: “<script>alert(1)</script>” (features 3, 5) with" in page
    assert "None" not in page


def test_every_ledger_of_a_page_adds_up_to_what_the_model_computed(hostile_run):
    report = hostile_run[0] / "report"
    for name in ("circuit-hostile", "circuit-nsafe-name"):
        data = page_data(report, name)["ledgers"]
        assert len(data) == {"circuit-hostile": 8, "circuit-nsafe-name": 4}[name]
        for ledger in data:
            value = ledger["rows"]["columns"].index("value")
            total = sum(row[value] for row in ledger["rows"]["rows"])
            size = max(abs(row[value]) for row in ledger["rows"]["rows"])
            assert total == pytest.approx(ledger["computed"], abs=1e-4 * size)
    labels = [ledger["label"] for ledger in page_data(report, "circuit-hostile")["ledgers"]]
    # the affected classes first, and of them several to choose from
    assert [label.split(" margin")[0] for label in labels] == [
        "not bad: median", "not bad: weakest", "not bad: strongest",
        "not <b>good: median", "not <b>good: weakest", "not <b>good: strongest",
        "bad: median", "<b>good: median",
    ]  # fmt: skip


def test_a_ledger_is_of_its_own_case_and_its_marked_rows_are_what_the_circuit_writes(hostile_run):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    found = run.found[0]
    asked, (before, after) = in_model(found.behaviour, run.model), mlp_sites(0)
    x, y = (asked.read([site])[str(site)] for site in (before, after))
    account = PairAccount.of(asked, 0, run.dictionaries[before])
    terms = terms_of(run.model, 0, run.dictionaries[before], found.circuit.interactions)
    data = page_data(folder / "report", "circuit-hostile")["ledgers"]
    margins = asked.margins()
    for ledger in data:
        case = ledger["case"]
        label = found.behaviour.labels[int(asked.label[case])]
        class_, kind = ledger["label"].split(" margin")[0].rsplit(": ", 1)
        assert class_ == label
        alike = margins[asked.label == asked.label[case]]
        wanted = {"weakest": alike.min(), "strongest": alike.max()}
        assert margins[case] == wanted.get(kind, alike.sort().values[len(alike) // 2])
        reads = float(asked.side[case]) * account.reads[case]
        computed, written = (float(v[case].double() @ reads) for v in (y, terms(x)))
        assert ledger["computed"] == pytest.approx(computed, rel=1e-3)
        assert ledger["by_circuit"] == pytest.approx(written, rel=1e-3, abs=1e-6)
        assert len(ledger["tokens"]) == int(asked.position[case])


def test_the_matrix_and_the_spectrum_are_of_the_forms_they_name(hostile_run):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    behaved, proposed = run.found
    form = CircuitForm.of(run, behaved)
    into = run.dictionaries[mlp_sites(0)[0]]
    account = PairAccount.of(in_model(behaved.behaviour, run.model), 0, into)
    place = {int(f): i for i, f in enumerate(account.features)}
    for a, first in enumerate(form.features):
        for b, second in enumerate(form.features):
            if first in place and second in place:
                wanted = float(account.weight[place[first], place[second]])
                assert form.matrix[a, b] == pytest.approx(wanted, abs=1e-9)
    out = run.dictionaries[mlp_sites(0)[1]].to(torch.float64)
    layer = run.model.layer(0).to(torch.float64)
    inter = Interactions(layer, into.to(torch.float64).basis(), out.basis("encoder"))
    own = inter.spectrum(2, space="model").values
    data = CircuitForm.of(run, proposed).eigenvalues()
    # the form of 17 numbers (a constant among them, or none) is shown whole
    assert sorted(data["eigenvalue"].unique()) == pytest.approx(sorted(own.tolist()), abs=1e-9)


def test_contexts_are_where_a_pairs_product_is_largest(hostile_run):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    read = TextActivations.read(run.model, 0, run.dictionaries, text, 30)
    dense = read.inputs.dense().double()
    pair = max(
        ((i, j) for i in range(6) for j in range(i + 1, 6)),
        key=lambda p: float((dense[:, p[0]] * dense[:, p[1]]).abs().max()),
    )
    product = dense[:, pair[0]] * dense[:, pair[1]]
    mean, found = read.pair(*pair)
    best = found[0]["first"] * found[0]["second"]
    assert best == pytest.approx(float(product[product.abs().argmax()]))
    assert abs(best) > 0
    assert mean == pytest.approx(float(product.mean()))
    tokens, place = read.row(int(product.abs().argmax()))
    word = run.model.tokenizer.convert_ids_to_tokens([int(tokens[place])])[0]
    assert found[0]["tokens"][found[0]["place"]] == shown(word)


def test_the_whole_form_of_an_output_is_its_activation(hostile_run):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    form = CircuitForm.of(run, run.found[0])
    read = TextActivations.read(run.model, 0, run.dictionaries, text, 30)
    found = [form.approximations(read, output) for output in form.outputs_shown()]
    for one in found:
        points, last = one["points"], one["ranks"][-1]
        whole = points[f"rank {last['rank']}"]
        np.testing.assert_allclose(whole, points["activation"], atol=1e-4)
        assert last["correlation"] == pytest.approx(1, abs=1e-6)
        assert abs(last["random directions"]) < 1


def test_a_card_has_what_its_dictionary_measured(hostile_run):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    counts = run.dictionaries[Site("mlp_out", 0)].statistics
    index = page_data(folder / "report", "features-mlp_out-0")
    assert index["pairs_read_by"] == "pinv"  # what `circuits interactions` noted
    cards = page_data(folder / "report", "features-mlp_out-0-0")
    assert index["n_feature"] == len(cards) == 48
    np.testing.assert_allclose(index["frequency"], counts.frequency, rtol=1e-4)
    for feature, card in enumerate(cards):
        assert sum(card["histogram"]) == card["n_active"] == int(counts.n_active[feature])
        values = [example[0] for example in card["examples"]]
        assert values == sorted(values, reverse=True)
        for value, words, place, shades in card["examples"]:
            assert len(words) == len(shades) > place
            assert shades[place] == "9" or value < 0
    uses = cards[2]["circuits"]
    assert uses[0] == ["circuit-hostile", HOSTILE[0], "output"]
    assert uses[-1] == ["layered-hostile", f"{HOSTILE[0]}, across layers", "output"]
    kept = run.tables[0]
    strongest = kept[kept["output"] == 7]["weight"].abs().max()
    assert abs(cards[7]["pairs"][0][3]) == pytest.approx(strongest, rel=1e-4)


def test_the_constant_is_called_so_wherever_pairs_are_listed(hostile_run, tmp_path):
    run = Run(hostile_run[0], device="cpu").checked()
    n_input = run.dictionaries["mlp_in@0"].n_feature
    strongest = run.tables[0].index[:40:4]
    run.tables[0].loc[strongest, ["first", "second"]] = [3, n_input]
    run.tables[0].loc[strongest[::2], "first"] = n_input
    run.tables[0].loc[strongest, "weight"] = 1e6
    report = write_report(run, tmp_path / "report").parent
    cards = page_data(report, "features-mlp_out-0-0") + page_data(report, "features-mlp_in-0-0")
    ends = [pair[1:3] for card in cards for pair in card["pairs"]]
    assert ["constant", "constant"] in ends
    assert [3, "constant"] in ends
    assert all(end == "constant" or end < n_input for both in ends for end in both)
    found = {page.name: page for page in report_of(run).pages}
    tables = {table.key: table for table in found["circuit-hostile"].tables}
    for key in ("parts", "checks"):
        firsts, seconds = zip(*(row[:2] for row in tables[key].rows), strict=True)
        assert not any(end.isdecimal() for end in (*firsts, *seconds))
        assert "constant" in seconds
    (alone,) = (table for table in found["layered-hostile"].tables if table.key == "alone")
    assert all(" × " in row[0] and "&" not in row[0].split(" × ")[1] for row in alone.rows)
    assert any("constant" in row[0] for row in alone.rows)


def test_what_was_not_made_is_named_with_its_command(tmp_path, capsys):
    folder = tmp_path / "run"
    begun(folder)
    assert main(["report", str(folder), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    commands = ["interactions", "find", "rank", "report"]
    for command in commands:
        assert f"(circuits {command} {folder}" in said
    assert said.splitlines()[-1] == str(folder / "report" / "index.html")
    overview = pages(folder / "report")["index.html"].text
    assert overview.count("circuits find RUN --behaviour CASES.jsonl") == 2
    assert "negation" not in overview.split("How to read it")[0]
    assert "circuits trace RUN TEXT explains a text's answer" in overview
    assert str(tmp_path) not in overview
    assert "circuits rank RUN --text PATH makes it" in pages(folder / "report")["rank.html"].text
    assert main(["report", str(folder), "--device", "cpu", "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert [each["command"].split()[1] for each in as_json["missing"]] == commands


def labelled(model: Path) -> None:
    """Give a model the label of a twin."""
    label = TwinLabel(
        "<b>gated", "0", "silu", original_loss=1.5, loss=1.375, removed_loss=5.25, gap_error=0.01,
        kl=0.0625, agreement=0.88, mlp_fvu=(0.25,), n_held_out=4321, tokens=98765, seed=0,
        versions="",
    )  # fmt: skip
    label.write_first(model, load_model(model, device="cpu").fingerprint)


def test_the_report_of_a_twin_says_first_whose_twin_it_is_and_what_it_lost(tmp_path):
    begun(tmp_path / "run")
    labelled(tmp_path / "run" / "model")
    run = Run(tmp_path / "run", device="cpu")
    write_report(run)
    whole = write_report(run, single_file=True).read_text()
    first = pages(tmp_path / "run" / "report")["index.html"].text.split("Missing")[0]
    for said in ("bilinear twin of the gated model <b>gated (silu gates)", "1.3750", "1.5000",
                 "-0.1250 ± 0.0100", "0.0625", "0.8800", "5.2500", "0.2500", "98,765 tokens",
                 "4,321 held-out tokens"):  # fmt: skip
        assert said in first
    assert "bilinear twin of the gated model &lt;b&gt;gated (silu gates)" in whole


def copied(hostile_run, tmp_path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(hostile_run[0], run, ignore=shutil.ignore_patterns("report"))
    return run


def test_the_report_of_a_twin_offers_the_original_only_to_circuits_of_one_layer(
    hostile_run, tmp_path
):
    run = copied(hostile_run, tmp_path)
    labelled(run / "model")

    def first() -> str:
        write_report(Run(run, device="cpu"))
        return pages(run / "report")["index.html"].text.split("Loss, gap")[0]

    both = first()
    assert "Whether a circuit of one layer matters in the original is measured by" in both
    assert "for one through several layers, there is no such measurement" in both
    shutil.rmtree(run / "circuits")
    across = first()
    assert "a circuit through several layers matters in the original cannot be measured" in across
    shutil.rmtree(run / "layered")
    assert "Whether it matters in the original is measured by circuits validate RUN" in first()


def test_a_run_that_lacks_its_first_steps_is_refused_with_their_command(tmp_path):
    with pytest.raises(RunError, match=r"no such run\. Make one: circuits model train"):
        write_report(tmp_path / "none")
    with pytest.raises(RunError, match=r"no folder 'model'\. Make it: circuits model train"):
        write_report(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(RunError, match=r"no folder 'saes'\. Make it: circuits sae train"):
        write_report(tmp_path)
    (tmp_path / "saes").mkdir()
    (tmp_path / "saes" / "checkpoint-7.safetensors").touch()
    with pytest.raises(
        RunError, match=r"training is not finished\. Let it finish: circuits sae train"
    ):
        write_report(tmp_path)


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_files_that_are_half_written_newer_or_of_another_run_are_refused(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)
    path = run / "circuits" / "hostile.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(GraphError, match="not readable JSON"):
        write_report(run, device="cpu")
    path.write_text(whole.replace('"version": 3', '"version": 4'))
    with pytest.raises(GraphError, match="of schema version 4"):
        write_report(run, device="cpu")
    data = json.loads(whole)
    data["source"]["model"] = "0" * 64
    path.write_text(json.dumps(data))
    with pytest.raises(GraphError, match=r"hash of its model is 000000000000….*circuits find"):
        write_report(run, device="cpu")
    path.write_text(whole)
    table = run / "interactions" / "layer-0.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(RunError, match=r"is damaged .* Make it again: circuits interactions"):
        write_report(run, device="cpu")
    table.unlink()
    curve = run / "rank" / "layer-0.parquet"
    curve.write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"Make it again: circuits rank"):
        write_report(run, device="cpu")
    assert not (run / "report").exists()


def changed(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def with_a_feature_beyond(data) -> None:
    data["interactions"].pop()  # the constant's only pair
    data["features"][-1]["feature"] = 49


def of_another_model(data) -> None:
    data["about"]["model"] = "0" * 64


def of_another_dictionary(data) -> None:
    (entry,) = (each for each in data if each["step"] == "interactions of layer 0")
    assert set(entry["made_of"]["of"]) == {"model", "mlp_in@0", "mlp_out@0"}
    entry["made_of"]["of"]["mlp_in@0"] = "0" * 64


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("circuits/hostile.validation.json", lambda v: v.update(circuit="other"),
         r"its validation is of the circuit 'other'.*circuits validate"),
        ("circuits/hostile.validation.json", lambda v: v.update(n=7),
         r"its validation is of 7 cases, held out are 24"),
        ("circuits/hostile.json", lambda c: c["interactions"].pop(),
         r"its validation is of other pairs \(4, it has 3\)"),
        ("circuits/hostile.json", lambda c: c["evidence"].update(affected=["bad"]),
         r"found with the affected classes bad, its cases have not bad, not <b>good"),
        ("rank/layer-0.json", of_another_model,
         r"layer-0 was made with another model than .*circuits rank"),
        ("manifest.json", of_another_dictionary,
         r"interactions/layer-0 was made with another mlp_in@0 than .*circuits interactions"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(
    hostile_run, tmp_path, file, change, message
):
    run = copied(hostile_run, tmp_path)
    Run(run, hostile_run[1], "cpu").checked()
    changed(run / file, change)
    with pytest.raises(RunError, match=message):
        Run(run, hostile_run[1], "cpu").checked()


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["outputs"][0].update(feature=48),
         r"is of another run: mlp_out@0 has 48 features, and no 48"),
        (with_a_feature_beyond, r"is of another run: mlp_in@0 has 48 features, and no 49"),
    ],
)  # fmt: skip
def test_a_circuit_of_features_that_the_run_lacks_is_refused(
    hostile_run, tmp_path, change, message
):
    run = copied(hostile_run, tmp_path)
    changed(run / "circuits" / "hostile.json", change)
    with pytest.raises(GraphError, match=message):
        Run(run, hostile_run[1], "cpu").checked()


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_behaviours_circuit_without_pairs_says_so(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)
    path = run / "circuits" / "hostile.json"
    changed(path, lambda c: c.update(interactions=[], gates=[], features=[]))
    path.with_name("hostile.validation.json").unlink()
    write_report(run, text=hostile_run[1], device="cpu")
    text = " ".join(pages(run / "report")["circuit-hostile.html"].text.split())
    assert "one factor" not in text
    assert "The circuit has no pairs; the MLP adds" in text
    assert "All pairs together: +0.00" in text


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_file_that_was_changed_since_its_step_is_marked(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)

    def since() -> dict[str, str]:
        overview = report_of(Run(run, hostile_run[1], "cpu").checked()).pages[0]
        return {name: now for step in overview.context["manifest"] for name, _, now in step["made"]}

    assert set(since().values()) == {""}
    path = run / "circuits" / "hostile.validation.json"
    path.write_text(path.read_text() + " ")
    (run / "rank" / "layer-0.json").unlink()
    assert {name: now for name, now in since().items() if now} == {
        "circuits/hostile.validation.json": "edited since",
        "rank/layer-0.json": "missing",
    }


def test_circuits_of_behaviours_come_first(hostile_run):
    folder, text = hostile_run
    assert list(Run(folder).behaviours) == ["hostile"]
    assert [found.stem for found in Run(folder, text, "cpu").found] == [
        "hostile", "Ünsafe name!",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
def test_a_circuit_by_hand_without_a_layer_is_drawn_all_the_same(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)
    shutil.rmtree(run / "circuits")
    plain = Circuit(
        "by hand",
        (Output(0, "o"),),
        (Feature(0, "a"), Feature(1, "b")),
        (Interaction(0, 1, 1.0),),
        energy=0.5,
    )
    plain.save(run / "circuits" / "by-hand.json")
    write_report(run, text=hostile_run[1], device="cpu")
    data = page_data(run / "report", "circuit-by-hand")
    assert [node["feature"] for node in data["graph"]["nodes"]] == [0, 1]
    assert data["figures"] == {}


def test_groups_stand_apart_and_hold_their_features():
    features = tuple(Feature(f, "f", group=f % 5) for f in range(60))
    pairs = tuple(Interaction(f, f + 1, 1.0 + f) for f in range(59))
    gates = (Gate(0, 1, "AND", 1.0, 1.0, 1.0),)
    drawn = picture(Circuit("many", (Output(0, "o"),), features, pairs, gates).drawing())
    spots = {group["group"]: group for group in drawn["groups"]}
    assert len(drawn["nodes"]) == 60
    for node in drawn["nodes"]:
        group = spots[node["group"]]
        away = np.hypot(node["x"] - group["x"], node["y"] - group["y"])
        assert away + node["radius"] <= group["radius"]
        assert 0 < node["x"] < drawn["width"]
        assert 0 < node["y"] < drawn["height"]
    for a in spots.values():
        for b in spots.values():
            if a is not b:
                away = np.hypot(a["x"] - b["x"], a["y"] - b["y"])
                assert away > a["radius"] + b["radius"]


def test_a_circuit_without_pairs_is_its_outputs_alone():
    drawn = picture(Circuit("none", (Output(4, "o"),), (Feature(0, "f"),), ()).drawing())
    assert (drawn["groups"], drawn["nodes"], drawn["edges"]) == ([], [], [])
    assert [output["feature"] for output in drawn["outputs"]] == [4]


def test_of_very_many_features_the_strongest_pairs_are_drawn():
    features = tuple(Feature(f, "f") for f in range(400))
    pairs = tuple(Interaction(2 * f, 2 * f + 1, 1.0 + f) for f in range(200))
    drawn = picture(Circuit("many", (Output(0, "o"),), features, pairs).drawing())
    assert len(drawn["nodes"]) == 120
    assert {edge["strength"] for edge in drawn["edges"]} == {1.0 + f for f in range(140, 200)}


@given(st.text(st.characters()))
def test_a_shown_token_has_a_shape_and_an_end(token):
    text = shown(token)
    assert text
    assert len(text) <= 10 * MOST
    assert not TURNING & set(text)
    assert text.isprintable()
    text.encode("utf-8")


@given(st.recursive(st.text() | st.floats() | st.none() | st.integers(), st.lists))
def test_json_in_a_script_is_plain_and_reads_back(data):
    text = script_json(data)
    assert not set("<>&\u2028") & set(text)
    assert text.isascii()

    def wanted(value):
        if isinstance(value, list):
            return [wanted(one) for one in value]
        return brief(value) if isinstance(value, float) else value

    assert json.loads(text) == wanted(data)


def test_names_of_pages_are_plain_and_no_two_alike():
    names = names_of(["a b", "a/b", "../../x", "<script>", "", "é"])
    assert list(names.values()) == [
        "circuit-a-b", "circuit-a-b-2", "circuit-x", "circuit-script", "circuit-unnamed",
        "circuit-unnamed-2",
    ]  # fmt: skip
