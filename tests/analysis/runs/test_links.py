"""Nothing is written through a link that leads out of a run, and that is said before any work."""

from pathlib import Path

import pytest

from analysis import open_run
from analysis.runs import layers
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.training import run_model, run_ready, run_saes, run_twin
from circuits.corpus import built_in
from circuits.errors import RunError
from circuits.model import ModelPlan, load_model
from circuits.twin.plan import TwinPlan
from sae.training.plan import TrainingPlan

NAME = "stories260K-bilinear"


@pytest.fixture
def run(tmp_path) -> Path:
    run_ready(tmp_path / "run", NAME)
    return tmp_path / "run"


def led_out(run: Path, name: str) -> Path:
    """A folder of the run that is a link to another place."""
    place = run.parent / "elsewhere"
    place.mkdir()
    (run / name).symlink_to(place)
    return place


def test_parts_of_tables_are_not_written_through_a_link(run, monkeypatch):
    place = led_out(run, "interactions")
    monkeypatch.setattr(layers, "scored_strongest", None)
    with pytest.raises(RunError, match=r"interactions/.layer-0: leads out of"):
        run_interactions(open_run(run), n=2, layers=[0])
    assert not [*place.iterdir()]


def test_parts_of_ranks_are_not_written_through_a_link(run, monkeypatch):
    place = led_out(run, "rank")
    monkeypatch.setattr(layers, "rank_curve", None)
    with pytest.raises(RunError, match=r"rank/.layer-0: leads out of"):
        run_rank(open_run(run), layers=[0], n_documents=2)
    assert not [*place.iterdir()]


def test_statistics_are_not_written_through_a_link(run):
    place = led_out(run, "statistics")
    with pytest.raises(RunError, match=r"statistics/layer-0-.*: leads out of"):
        open_run(run).folder.statistics(0, "learned", "0" * 64)
    assert not [*place.iterdir()]


def test_a_link_within_the_run_is_followed(run):
    (run / "mine").mkdir()
    (run / "interactions").symlink_to("mine")
    assert open_run(run).folder.interaction_shards(0) == run / "interactions" / ".layer-0"


def test_dictionaries_are_not_trained_through_a_link(tmp_path):
    place = led_out(Path(run_folder(tmp_path)), "saes")
    plan = TrainingPlan(sites=("mlp_in@0",), n_tokens=64, n_batch=32, n_buffer=64)
    with pytest.raises(RunError, match=r"saes/.*: leads out of"):
        run_saes(tmp_path / "new", load_model(NAME, device="cpu"), plan, built_in(n_documents=50))
    assert not [*place.iterdir()]


@pytest.mark.parametrize("how", ["twin", "trained"])
def test_a_model_is_not_written_through_a_link(how, tmp_path):
    new = run_folder(tmp_path)
    place = led_out(new, "model")
    make = {
        "twin": lambda: run_twin(new, NAME, None, TwinPlan()),
        "trained": lambda: run_model(new, ModelPlan(), built_in(n_documents=50)),
    }
    with pytest.raises(RunError, match="model: leads out of"):
        make[how]()
    assert not [*place.iterdir()]


def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path / "new"
