"""The page of the image case study: its pictures and figures are the run's, and are whole."""

import base64
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from analysis.report.pages.images import images_page
from analysis.runs.images import ImageStudy, run_images
from analysis.studies.images.data import open_images
from analysis.studies.images.png import decoded
from circuits.errors import ImageError
from circuits.storage.manifest import read_manifest
from tests.support.small_images import QUICK


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = open_images()
    row = run_images(folder, data, replace(QUICK, n_step=60))
    return folder, row


def test_a_study_is_saved_and_recorded(run):
    folder, row = run
    study = ImageStudy.load(folder)
    assert study is not None
    unequal = {"training_seconds"}  # of two equal runs: it is printed, not saved
    assert study.measurements == json.loads(
        json.dumps({k: v for k, v in row.items() if k not in unequal})
    )
    assert set(study.tables) == {"spectra", "truncation", "explanation"}
    (entry,) = read_manifest(folder)
    assert entry["step"] == "images"
    assert {name.split("/")[0] for name in entry["made"]} == {"images"}
    assert len(entry["made"]) == 6


def test_the_page_shows_its_pictures_and_measurements(run):
    folder, row = run
    page = images_page(ImageStudy.load(folder))
    kind, content = page.context["pictures"]["eigenvectors"].split(",")
    assert kind == "data:image/png;base64"
    assert decoded(base64.b64decode(content)).shape[2] == 3
    (table,) = page.tables
    shown = table.raw.set_index("measure")
    assert shown.loc["accuracy", "value"] == row["accuracy"]
    assert shown.loc["effective rank", "control"] == row["effective_rank_without_decay"]
    assert {figure.key for figure in page.figures} == {"truncation", "spectra", "explanation"}


def test_the_bars_of_an_explanation_sum_to_its_logits(run):
    folder, _ = run
    page = images_page(ImageStudy.load(folder))
    (figure,) = (f for f in page.figures if f.key == "explanation")
    up, down, logit = figure.traces
    sums = dict(zip(up["x"], up["y"], strict=True))
    for label, value in zip(down["x"], down["y"], strict=True):
        sums[label] = sums.get(label, 0.0) + value
    for label, value in zip(logit["x"], logit["y"], strict=True):
        assert sums[label] == pytest.approx(value, abs=1e-9)


def test_a_run_without_images_has_none_and_half_of_them_is_refused(run, tmp_path):
    assert ImageStudy.load(tmp_path) is None
    folder, _ = run
    half = tmp_path / "half" / "images"
    half.mkdir(parents=True)
    (half / "study.json").write_text((folder / "images" / "study.json").read_text())
    with pytest.raises(ImageError, match=r"incomplete or damaged .*circuits digits --run"):
        ImageStudy.load(half.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"about": {}},
        {"about": 3},
        {"figures": 3},
        {"about": dict(data="a", n_train=1, n_test=[1], label=0, seed=0)},
    ],
)
def test_a_study_of_another_kind_is_refused(run, tmp_path, changes):
    folder, _ = run
    shutil.copytree(folder / "images", tmp_path / "images")
    path = tmp_path / "images" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ImageError, match="incomplete or damaged"):
        ImageStudy.load(tmp_path)


def test_a_table_of_another_kind_is_refused(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "images", tmp_path / "images")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "images" / "spectra.parquet")
    with pytest.raises(ImageError, match=r"incomplete or damaged .*class"):
        ImageStudy.load(tmp_path)


@pytest.mark.parametrize("name", ["spectra", "truncation", "explanation"])
def test_a_table_without_rows_is_refused(run, tmp_path, name):
    folder, _ = run
    shutil.copytree(folder / "images", tmp_path / "images")
    path = tmp_path / "images" / f"{name}.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path, index=False)
    with pytest.raises(ImageError, match=f"incomplete or damaged .*{name}"):
        ImageStudy.load(tmp_path)
