"""A layer's page measures as many outputs as is affordable, and says how many."""

import pytest

from analysis.report.catalogue.catalogue import catalogues
from analysis.report.pages.layer import LayerTable, layer_page, most_outputs
from analysis.runs.run import Run
from tests.support.small_runs import begun


@pytest.mark.parametrize(
    ("n_input", "measured"), [(2, 1024), (128, 1024), (4096, 298), (65_536, 16)]
)
def test_wide_layers_have_fewer_outputs_measured(n_input, measured):
    assert most_outputs(n_input) == measured


def test_a_layers_page_says_how_many_of_its_outputs_were_measured(tmp_path):
    _, text = begun(tmp_path / "run")
    run = Run(tmp_path / "run", text).checked()
    table = LayerTable.of(run, 0, seed=0, most=20)
    assert list(table.rows["output"]) == list(range(20))
    assert len(table.control) == 5
    page = layer_page(run, table, catalogues(run, {}, {}))
    assert page.context["note"].startswith("n = 20 of 48 output features")
    assert "n = 5 of them with random directions" in page.context["note"]


def test_a_layers_page_says_where_two_readers_stand_in_one_table(hostile_run, monkeypatch):
    folder, text = hostile_run
    run = Run(folder, text, "cpu").checked()
    own = {each.stem: each.stem for each in run.found}
    layered = {each.stem: each.stem for each in run.layered_found}
    books = catalogues(run, own, layered)
    table = LayerTable.of(run, 0, seed=0)
    caption = layer_page(run, table, books).tables[0].caption
    assert caption.startswith("Every output, read by encoder; listed pairs at q 0.05, by pinv.")
    assert "q tests a pair against the whole form, so this count includes shadows" in caption
    monkeypatch.setattr(Run, "reader_of_interactions", lambda *_: "encoder")
    assert "by pinv" not in layer_page(run, table, books).tables[0].caption
    monkeypatch.setitem(vars(run), "tables", {})
    without = layer_page(run, table, books).tables[0].caption
    assert "q 0.05" not in without
    assert "shadows" not in without
