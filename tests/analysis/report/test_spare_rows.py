"""A run whose model has rows in its embedding that no token has: every step, and its report."""

from analysis.runs.circuits import run_validate
from analysis.runs.run import Run
from circuits.storage.manifest import record
from tests.support.commands import command
from tests.support.small_models import N_TOKEN
from tests.support.small_runs import HOSTILE, begun, behaviour, circuit


def test_a_run_of_a_model_with_spare_rows_is_measured_and_reported(tmp_path):
    folder = tmp_path / "run"
    model, text = begun(folder, n_spare=24)
    assert model.n_token == N_TOKEN + 24
    run = Run(folder, device="cpu", model=model)
    made = [
        circuit(model, run.dictionaries, HOSTILE[0]).save(folder / "circuits" / "hostile.json"),
        behaviour().save(folder / "circuits" / "hostile.behaviour.jsonl"),
    ]
    record(folder, "circuit hostile", {}, made)
    run_validate(run, "hostile", text=text, n_draws=2)
    place, source = str(folder), ["--text", str(folder / "text.jsonl")]
    few = ["--documents", "20"]
    for step in (
        ["interactions", place, *source, *few],
        ["rank", place, *source, *few, "--min-active", "10"],
        ["sae", "quality", place, *source, *few],
        ["report", place, *source],
    ):
        done = command(*step)
        assert done.returncode == 0, done.stderr
    pages = [*(folder / "report").rglob("*.html"), *(folder / "report").rglob("*.js")]
    assert pages
    for page in pages:
        assert "<id " not in page.read_text(encoding="utf-8")
