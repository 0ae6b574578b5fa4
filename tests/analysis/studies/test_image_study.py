"""The measurements of the image case study, its pictures, and the command that prints them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.cli.main import main
from analysis.studies.images.dictionaries import DICTIONARY
from analysis.studies.images.measurements import matches, measure, plan_for, regularisation
from analysis.studies.images.model import accuracy
from analysis.studies.images.pictures import (
    coloured,
    figure,
    sheet,
    write_png,
)
from analysis.studies.images.png import decoded, encoded
from analysis.studies.images.spectra import (
    ClassSpectra,
    explanation,
    explanation_figure,
    first_sheet,
)
from analysis.studies.images.training import ImagePlan
from circuits.errors import ImageError
from tests.support.small import normal
from tests.support.small_images import QUICK, few, random_model

TINY = ImagePlan(d_hidden=16, n_step=60, n_batch=64)


def test_the_measurements_are_those_of_the_returned_model(digits):
    row, model = measure(digits, QUICK)
    assert row["accuracy"] == accuracy(model.logits(digits.test), digits.test)
    assert row["effective_rank"] == ClassSpectra.of(model).effective_rank
    assert row["explanation_error"] < 1e-5
    assert 0 < row["pinv_loss_recovered"] <= 1.05
    assert row["mask_fooled"] > row["mask_fooled_control"]


def test_weight_decay_lowers_the_effective_rank(digits):
    grid = regularisation(digits, replace(TINY, n_step=300), [0.0, 1.0], [0.3])
    without, decayed = grid["effective_rank"]
    assert decayed < without
    assert grid["n"].tolist() == [len(digits.train)] * 2


def test_few_images_without_regularisation_are_memorised(digits):
    part = replace(digits, train=digits.train.take(60))
    grid = regularisation(part, replace(TINY, n_step=300, n_batch=30), [0.0, 1.0], [0.0, 0.5])
    memorised, tamed = grid.iloc[0], grid.iloc[3]
    assert memorised["train"] == 1
    assert memorised["train"] - memorised["test"] > 0.1
    assert tamed["effective_rank"] < memorised["effective_rank"]
    assert tamed["roughness"] < memorised["roughness"]


def test_matches_need_two_models_and_find_each_in_itself():
    model = random_model()
    found = matches([model, model], 2)
    assert found["cosine"].to_numpy() == pytest.approx(1)
    assert found["n"].tolist() == [4, 4]
    with pytest.raises(ImageError, match="one model cannot be compared"):
        matches([model])


def test_many_images_get_the_plan_for_many():
    small = few()
    many = replace(small, pixels=torch.rand(10_000, 6), labels=torch.arange(10_000) % 4)
    assert plan_for(many) == ImagePlan()
    assert plan_for(small).d_hidden < ImagePlan().d_hidden


# pictures


def test_blue_is_positive_red_negative_and_white_zero():
    colours = coloured(torch.tensor([[1.0, 0.0, -1.0]]))[0]
    assert colours[0][2] > colours[0][0]
    assert colours[1].tolist() == [255] * 3
    assert colours[2][0] > colours[2][2]
    assert coloured(torch.zeros(2, 2)).min() == 255


def test_a_sheet_holds_every_picture_in_its_place():
    pictures = torch.zeros(3, 42, 42)
    pictures[1] = 1
    page = sheet([pictures, pictures[:1]])
    assert page.shape == (2 * 88, 3 * 88, 3)
    blue = (page != 255).any(2)
    assert blue[:88, 88:176].any()
    assert not blue[88:].any()
    assert not blue[:, [*range(88), *range(176, 264)]].any()


def test_a_sheet_of_spectra_survives_its_file(tmp_path):
    page = ClassSpectra.of(random_model()).sheet(2)
    write_png(page, tmp_path / "page.png")
    assert np.array_equal(decoded((tmp_path / "page.png").read_bytes()), page)
    assert decoded(encoded(page)).shape[2] == 3


def test_a_row_for_each_model_shows_the_first_eigenvector_for_each_class():
    first, second = (ClassSpectra.of(random_model(seed=seed)) for seed in (0, 1))
    page = first_sheet([first, second])
    positive = second.pictures(2)[second[2].values > 0][:1]
    tall, wide = page.shape[0] // 2, page.shape[1] // 4
    assert np.array_equal(page[tall:, 2 * wide : 3 * wide], sheet([positive]))


def test_figures_show_each_picture_upright():
    pytest.importorskip("plotly")
    pictures = normal(3, 4, 5)
    page = figure(pictures, ["a", "b", "c"], wrap=2)
    assert [heat.z.shape for heat in page.data] == [(4, 5)] * 3
    assert np.array_equal(page.data[2].z, pictures[2].numpy())
    assert all(axis.autorange == "reversed" for axis in page.select_yaxes())


def test_an_explanation_shows_what_adds_most():
    pytest.importorskip("plotly")
    model = random_model()
    spectra, image = ClassSpectra.of(model), few().pixels[0]
    page = explanation_figure(spectra, image, n_class=1, n=2)
    label = int(model(image).argmax())
    table = explanation(spectra, image)
    own = table[(table["class"] == label) & (table["rank"] >= 0)]
    wanted = own["adds"].abs().nlargest(2)
    titles = [note.text for note in page.layout.annotations]
    assert titles[0].startswith(f"{label}: ")
    assert [abs(float(title)) for title in titles[1:]] == pytest.approx(wanted.tolist(), abs=0.06)


# the command


def test_digits_prints_its_measurements_as_one_json_object(tmp_path, capsys, monkeypatch):
    few_tokens = replace(DICTIONARY, n_features=12, k=3, n_tokens=10_000)
    monkeypatch.setattr("analysis.cli.commands.studies.plan_for", lambda images: TINY)
    monkeypatch.setattr(
        "analysis.studies.images.measurements.dictionary_plan_for", lambda images: few_tokens
    )
    assert main(["digits", "--json", "--seed", "3", "--pictures", str(tmp_path / "page.png")]) == 0
    printed = json.loads(capsys.readouterr().out)
    wanted = {"accuracy", "pinv_loss_recovered", "effective_rank", "hosvd_top20_drop",
              "hosvd_top50_drop"}  # fmt: skip
    assert wanted <= set(printed)
    about = ("data", "n_train", "n_test", "seed")
    assert [printed[name] for name in about] == ["digits", 1437, 360, 3]
    assert decoded((tmp_path / "page.png").read_bytes()).ndim == 3


@pytest.mark.parametrize("option", ["--run", "--pictures"])
def test_digits_refuses_an_impossible_place_before_it_trains(tmp_path, capsys, monkeypatch, option):
    def trained(*_):
        raise AssertionError("trained before the place was checked")

    monkeypatch.setattr("analysis.runs.images.measure", trained)
    monkeypatch.setattr("analysis.cli.commands.studies.measure", trained)
    (tmp_path / "file").touch()
    assert main(["digits", option, str(tmp_path / "file" / "within" / "it")]) == 2
    assert "file" in capsys.readouterr().err


def test_digits_refuses_missing_data_in_one_line(tmp_path, capsys):
    assert main(["digits", "--data", str(tmp_path / "nothing.npz")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no such file or folder" in captured.err
