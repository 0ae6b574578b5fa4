"""Pictures and cards hold the numbers they are of, their controls, and any text as text."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import find_circuit, ledger, validate
from analysis.attribution.ledger import Reader
from circuits import Basis, BilinearLayer, Interactions, Spectrum
from circuits.errors import BasisError, FeatureRangeError
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_figure import circuit_figure
from circuits.graph.records import (
    BehaviourEvidence,
    Feature,
    Gate,
    Group,
    Interaction,
    Output,
    Shares,
    Thresholds,
)
from circuits.model import Site, load_model
from circuits.plotting.display import html_of, number
from circuits.plotting.figure import BLUE, ORANGE, Figure, line, side_by_side
from sae import card
from tests.support.planted_negation import planted_behaviour, planted_dictionaries, planted_model
from tests.support.small import basis, normal, small_layer
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_folder

TAGS = '<b onclick="alert(1)">not</b> & \u202egood\x00'


@pytest.fixture(scope="module")
def inter() -> Interactions:
    return Interactions(small_layer(), basis(20, seed=1), basis(15, seed=2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(small_folder(tmp_path_factory.mktemp("model") / "llama"), device="cpu")


EVIDENCE = BehaviourEvidence(
    "by hand", "logit difference", ("not",), ("good", "bad"), 24,
    Shares(0.875, 0.75, 0.125, 0.125, 0.01, 0.5, 0.9), Thresholds(0.9, 16, 0.75),
)  # fmt: skip


def circuit(**fields) -> Circuit:
    """Two groups, a gate, a feature with itself, and a pair that takes away."""
    features = (
        Feature(3, TAGS, group=0),
        Feature(5, "five", group=1),
        Feature(8, "eight", group=1),
    )
    pairs = (Interaction(3, 5, 2.0), Interaction(3, 8, -1.0), Interaction(8, 8, 0.5))
    made = {
        "gates": (Gate(0, 1, "AND", 1.0, 0.8, 0.9),),
        "groups": (Group(0, TAGS), Group(1, "others")),
    }
    return Circuit("by hand", (Output(7, "seven"),), features, pairs, **(made | fields))


def test_a_matrix_is_drawn_with_the_weights_of_its_pairs(inter):
    figure = inter.plot(4, n=9)
    (drawn,) = figure.data
    named = [int(name) for name in figure.layout.xaxis.ticktext]
    whole = 2 * inter.matrix(4) - torch.diag(inter.matrix(4).diagonal())
    np.testing.assert_allclose(np.array(drawn.z), whole[named][:, named], atol=1e-12)
    strongest = inter.strongest(9, 4)
    assert set(named) == set(strongest["first"]) | set(strongest["second"])
    assert drawn.zmax == -drawn.zmin == np.abs(np.array(drawn.z)).max()


def test_labels_of_a_matrix_stay_text(inter):
    figure = inter.plot(4, n=9, labels=[TAGS] * 20)
    whole = '&lt;b onclick="alert(1)"&gt;not&lt;/b&gt; &amp; ⟨U+202E⟩good⟨U+0000⟩'
    assert set(figure.layout.yaxis.ticktext) <= {
        '&lt;b onclick="alert(1)"&gt;not&lt;/…', "constant",
    }  # fmt: skip
    assert f"{whole} × {whole}" in str(figure.data[0].text)  # in full where one is pointed at
    assert "<b" not in str(figure.data[0].text)


def test_dollars_make_no_formula_in_a_notebook(inter):
    drawn = inter.plot(4, n=9, labels=["$x^2$ of $5"] * 20).to_json()
    assert "$" not in drawn
    assert "&#36;x^2&#36; of &#36;5" in drawn
    page = circuit(groups=(Group(0, "$a$"),))._repr_html_()
    assert page.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert page.endswith("</div>")
    assert "mathjax_ignore" in card(small_dictionary(), 3)._repr_html_()


def test_a_few_inputs_are_drawn_whole():
    inter = Interactions(small_layer(3, 4), Basis.identity(3), Basis.identity(3))
    (drawn,) = inter.plot(0).data
    assert np.shape(drawn.z) == (3, 3)
    with pytest.raises(FeatureRangeError, match="n = 0"):
        inter.plot(0, n=0)


def test_an_output_that_is_not_there_is_refused(inter):
    with pytest.raises(FeatureRangeError, match="output 15"):
        inter.plot(15)


def test_a_spectrum_is_drawn_from_its_largest_eigenvalue_with_colours_of_their_signs(inter):
    spectrum = inter.spectrum(2)
    own = spectrum.plot().data[-1]
    np.testing.assert_allclose(own.y, sorted(spectrum.values.tolist(), reverse=True))
    assert list(own.marker.color) == [BLUE if value > 0 else ORANGE for value in own.y]


def test_the_random_form_beside_a_spectrum_is_what_random_forms_have():
    """Wigner's semicircle against the mean of forms that are drawn."""
    drawn = []
    for seed in range(40):
        form = normal(60, 60, seed=seed)
        spectrum = Spectrum.of(form + form.mT)
        drawn.append(spectrum.values.sort(descending=True).values.numpy())
    control = spectrum.plot().data[0]
    assert control.name == "a random form"
    # of the width of the whole; the outermost eigenvalue lies a little inside the circle's edge
    assert np.abs(np.array(control.y) - np.mean(drawn, 0)).max() < 0.03 * np.ptp(control.y)
    energy = float(spectrum.values.square().sum())
    assert np.square(control.y).sum() == pytest.approx(energy, rel=0.01)


def test_a_partial_spectrum_has_no_random_form_and_says_what_it_keeps(inter):
    spectrum = inter.spectrum(2, rank=3)
    figure = spectrum.plot()
    assert [trace.name for trace in figure.data] == ["this form"]
    assert figure.layout.xaxis.dtick == 1  # no place lies between two
    assert "places are among these" in figure.layout.title.subtitle.text
    assert f"{spectrum.energy(3):.1%} of the energy" in figure.layout.title.subtitle.text


def test_named_controls_stand_beside_a_spectrum(inter):
    control = Interactions(inter.layer, inter.inputs.control(seed=0), inter.outputs)
    figure = inter.spectrum(2).plot(rotated_features=control.spectrum(2))
    wanted = sorted(control.spectrum(2).values.tolist(), reverse=True)
    np.testing.assert_allclose(figure.data[1].y, wanted)
    assert figure.data[1].name == "rotated features"
    with pytest.raises(BasisError) as refused:
        inter.spectrum(2).plot(rotated=control.spectrum(2, rank=3))
    assert str(refused.value).startswith("Spectrum.plot: 'rotated' holds 3 eigenvalues, the ")


def test_a_circuit_is_drawn_pair_by_pair():
    figure = circuit_figure(circuit().drawing())
    pairs = [t for t in figure.traces if t.get("line", {}).get("color") in (BLUE, ORANGE)]
    assert [t["line"]["color"] for t in pairs] == [BLUE, ORANGE, BLUE]  # the strongest first
    widths = [t["line"]["width"] for t in pairs]
    assert widths == sorted(widths, reverse=True)
    at = {t["name"]: t for t in figure.traces if t["name"]}
    assert at["features"]["text"] == ["3", "5", "8"]
    assert at["gates"]["text"] == ["AND +1"]
    assert at["outputs"]["text"] == ["seven"]
    place = {name: at for name, *at in zip(*(at["features"][k] for k in ("text", "x", "y")),
                                           strict=True)}  # fmt: skip
    ends = [list(end) for end in zip(pairs[0]["x"], pairs[0]["y"], strict=True)]
    assert ends == [place["3"], place["5"]]
    assert list(figure.table["weight"]) == [2.0, -1.0, 0.5]


def test_the_note_of_a_circuit_says_what_its_numbers_are():
    note = circuit_figure(circuit().drawing()).note
    assert note.startswith("3 pairs of 3 features. ")
    assert "Numbers at gates are weights." in note
    gate = Gate(0, 1, "AND", 1.0, 0.8, 0.9, contrast=0.5)
    behaved = circuit(gates=(gate,), evidence=EVIDENCE)
    whole = circuit_figure(behaved.drawing()).note
    assert "they carry 88% of the contrast (n = 24 cases that they were chosen on)" in whole
    assert "Numbers at gates are what they add, in logits." in whole
    assert whole.endswith("validate() shows what edits of the model do, beside their controls.")
    assert "validate()" not in note  # there is nothing that it could edit for
    assert "Numbers at gates" not in circuit_figure(circuit(gates=()).drawing()).note
    one = Circuit("one", (Output(7, "seven"),), (Feature(3, "3"),), (Interaction(3, 3, 1.0),))
    assert circuit_figure(one.drawing()).note.startswith("1 pair of 1 features")


def test_names_of_outputs_stand_beside_the_picture_however_long():
    made = replace(circuit(), outputs=(Output(7, "a feature that promotes " + 9 * "many words "),))
    figure = made.plot()
    (outputs,) = (trace for trace in figure.data if trace.name == "outputs")
    assert outputs.text == ("a feature that promotes man…",)
    assert outputs.cliponaxis is False
    assert figure.layout.xaxis.range[1] < outputs.x[0] + 30
    assert figure.layout.margin.r >= 6 * len(outputs.text[0])


def test_a_circuit_without_gates_is_drawn_without_wires():
    names = [t["name"] for t in circuit_figure(circuit(gates=()).drawing()).traces]
    assert "gates" not in names
    assert {"features", "outputs"} <= set(names)


def test_names_of_a_circuit_stay_text():
    drawn = circuit().plot().to_json()
    assert "onclick" in drawn
    assert "<b" not in drawn.replace("\\u003cbr\\u003e", "")
    assert "\\u003cb " not in drawn
    assert "\u202e" not in drawn
    page = circuit()._repr_html_()
    assert "<b onclick" not in page
    assert "<td>others</td>" in page  # a gate's groups by their names


def test_what_is_empty_is_shown_empty():
    nothing = Circuit("nothing", (Output(0, "output 0"),), (), ())
    assert "0 pairs of 0 features" in nothing._repr_html_()
    assert {"outputs", "features"} <= {trace.name for trace in nothing.plot().data}
    zero = torch.zeros(3, 3)
    inter = Interactions(BilinearLayer(zero, zero, zero), Basis.identity(3), Basis.identity(3))
    assert len(inter.plot(0).data[0].z) == 0
    assert "3 eigenpairs" in inter.spectrum(0)._repr_html_()
    assert list(inter.spectrum(0).plot().data[-1].y) == [0, 0, 0]


def test_figures_side_by_side_have_one_legend_and_every_axis():
    table = pd.DataFrame({"x": [1, 2]})
    made = [
        Figure("a", "one", "same note.", [line([1, 2], [3, 4], "line")], table,
               {"xaxis": {"type": "log"}}),
        Figure("b", "two", "same note.", [line([1, 2], [5, 6], "line")], table),
    ]  # fmt: skip
    figure = side_by_side(made, "both")
    assert [trace.showlegend for trace in figure.data] == [True, False]
    assert (figure.layout.xaxis.type, figure.layout.xaxis2.type) == ("log", None)
    assert figure.layout.title.subtitle.text == "same note."


def rows_of(page: str) -> list[list[str]]:
    """The cells of every row of the page's tables, as text."""
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def assert_shows(page: str, table: pd.DataFrame) -> None:
    """Every row of the table is a row of the page."""
    shown, wanted = rows_of(page), table.itertuples(index=False)
    assert len(table) > 0
    for row in wanted:
        assert [cell if isinstance(cell, str) else number(cell) for cell in row] in shown


def test_results_show_their_numbers_in_a_notebook(inter):
    model, behaviour = planted_model(), planted_behaviour()
    dictionaries = planted_dictionaries()
    classes = [row[:2] for row in rows_of(behaviour._repr_html_()) if row]
    n_cases = [sum(c.label == label for c in behaviour.cases) for label in behaviour.labels]
    assert classes == [[label, f"{n}"] for label, n in zip(behaviour.labels, n_cases, strict=True)]
    tokens = model.tokens(behaviour.cases[0].text)[0]
    reader = Reader.of(dictionaries[Site("mlp_out", 0)], 0)
    found = ledger(model, 0, dictionaries[Site("mlp_in", 0)], reader, tokens, len(tokens) - 1)
    assert f"off by {found.off_by:.1e}" in found._repr_html_()
    assert_shows(found._repr_html_(), found.rows.head(12))
    spectrum = inter.spectrum(0)
    eigenpairs = [
        [str(n + 1), number(float(value)), number(spectrum.energy(n + 1))]
        for n, value in enumerate(spectrum.values)
    ]
    assert [row for row in rows_of(spectrum._repr_html_()) if row] == eigenpairs[:12]


def test_a_validation_shows_its_criteria_and_edits():
    model, dictionaries, behaviour = planted_model(), planted_dictionaries(), planted_behaviour()
    found = find_circuit(model, dictionaries, behaviour)
    validation = validate(model, found, behaviour.halves()[1], dictionaries, n_draws=2)
    page = validation._repr_html_()
    assert_shows(page, validation.criteria_table)
    assert_shows(page, validation.edit_table)


def test_cells_are_escaped_and_what_has_no_shape_is_written_out():
    page = html_of(TAGS, rows=pd.DataFrame({"a": [TAGS], "b": [0.123456], "c": [(1, 2.5)]}))
    assert "<b onclick" not in page
    assert "\u202e" not in page
    assert "<td>0.123</td>" in page
    assert "<td>1, 2.5</td>" in page
