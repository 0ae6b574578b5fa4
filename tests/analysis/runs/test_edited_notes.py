"""What a training notes of itself, which no manifest lists, is known by a hash that it holds."""

import json
import warnings

import pytest

from analysis.runs.training import run_model
from analysis.runs.verification import verify
from circuits.corpus import built_in
from circuits.errors import MarkWarning
from circuits.model import ModelPlan, ModelShape
from tests.support.commands import command

PLAN = ModelPlan(ModelShape(d_model=16, d_hidden=24), n_steps=2, n_rows=8)


@pytest.fixture
def run(tmp_path):
    run_model(tmp_path, PLAN, built_in(1, 400), "cpu")
    return tmp_path


def edited(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_how_a_training_ended_is_as_it_was_written_in_any_layout(run):
    edited(run / "model" / "training.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_model(run, PLAN, built_in(1, 400), "cpu")
    assert set(verify(run)["state"]) == {"as it was made"}


def test_how_a_training_ended_is_marked_where_it_was_edited(run):
    path = run / "model" / "training.json"
    known = json.loads(path.read_text())["held_out"]
    edited(path, held_out={**known, "loss": 0.001})
    with pytest.warns(MarkWarning, match=r"training\.json: edited after the training"):
        trained = run_model(run, PLAN, built_in(1, 400), "cpu")
    assert trained.held_out.loss == 0.001
    table = verify(run).set_index("file")["state"]
    assert table["model/training.json"] == "edited since"
    done = command("verify", str(run))
    assert done.returncode == 1
    assert "model/training.json" in done.stdout


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_how_a_training_ended_is_listed_where_it_is_cut_short(run, content):
    (run / "model" / "training.json").write_text(content)
    assert verify(run).set_index("file")["state"]["model/training.json"] == "edited since"


def test_metrics_that_were_edited_are_listed(run):
    with (run / "model" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 0.001}\n')
    assert verify(run).set_index("file")["state"]["model/metrics.jsonl"] == "edited since"
