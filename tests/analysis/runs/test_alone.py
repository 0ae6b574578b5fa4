"""Two notebooks at one run: who writes is alone there, and has read what the other has made."""

import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from analysis.cli.demo import run_demo
from analysis.opened_run import open_run
from analysis.report import write_report
from analysis.runs import alone as alone_module
from analysis.runs.circuits import run_find, run_propose, run_validate
from analysis.runs.images import run_images
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run
from analysis.runs.training import run_model, run_saes
from circuits.errors import RunError
from circuits.storage.files import content_hash
from circuits.storage.lock import locked
from circuits.storage.manifest import read_manifest, record
from circuits.storage.replacing import PLACING
from tests.support.planted_negation import planted_behaviour, planted_run


@pytest.fixture
def folder(tmp_path) -> Path:
    return planted_run(tmp_path / "run")


@contextmanager
def another_notebook(folder: Path):
    """A thread that holds the run."""
    held, done = threading.Event(), threading.Event()

    def work() -> None:
        with locked(folder, "another notebook"):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    held.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_every_function_that_writes_to_a_run_waits_for_its_lock(folder, monkeypatch):
    monkeypatch.setattr(alone_module, "locked", partial(locked, wait=False))
    run, opened = Run(folder, device="cpu"), open_run(folder, device="cpu")
    calls = [
        partial(run_find, run, planted_behaviour()), partial(run_propose, run),
        partial(run_validate, run, "negation"), partial(run_interactions, run),
        partial(run_rank, run), partial(run_images, folder, None, None),
        partial(run_model, folder, None, None), partial(run_saes, folder, None, None, None),
        partial(run_demo, folder), partial(write_report, run), partial(write_report, folder),
        opened.report,
    ]  # fmt: skip
    with another_notebook(folder):
        for call in calls:
            with pytest.raises(RunError, match=r"another notebook .* works there"):
                call()


def test_what_another_notebook_has_trained_since_is_read_again(folder):
    """As when the training came first."""
    run = Run(folder, device="cpu")
    site, before = next(iter(run.dictionaries.items()))
    saved = folder / "saes" / site.hook_name
    shutil.rmtree(saved)
    replace(before, bias=before.bias + 0.01).save(saved)
    record(folder, f"saes/{site.hook_name}", {"other": True}, saved.iterdir())
    (first, *_) = run_propose(run, n=1)
    now = Run(folder, device="cpu")
    assert first.source.inputs == now.dictionaries[site].fingerprint != before.fingerprint
    assert run.hashes == now.hashes
    model = run.model
    run_propose(run, n=1)
    assert run.model is model  # which is the same, and is kept


def test_what_another_notebook_has_found_since_is_in_the_report(folder):
    run = Run(folder, device="cpu")
    assert run.found == []
    run_find(Run(folder, device="cpu"), planted_behaviour())
    page = write_report(run, single_file=True)
    assert "circuit-negation" in page.read_text()


def test_a_file_that_goes_while_it_is_asked_for_is_missed(folder):
    behaviour = planted_behaviour()
    run = Run(folder, device="cpu")
    run_find(run, behaviour)
    gone = replace(run.behaviours, read=lambda _files: None)  # it was there when it was looked for
    with pytest.raises(RunError, match="has no circuit of a behaviour 'negation'"):
        gone[behaviour.name]


def test_a_run_that_is_read_completes_what_a_kill_left_half_placed(folder):
    run_find(Run(folder, device="cpu"), planted_behaviour())
    files = {path.name: path.read_bytes() for path in (folder / "circuits").iterdir()}
    new = folder / PLACING / "circuits" / "negation.graphml"
    new.parent.mkdir(parents=True)
    (folder / "circuits" / "negation.graphml").replace(new)
    known = content_hash(new)
    decided = {"circuits/negation.graphml": [known, known]}
    (folder / PLACING / ".decided").write_text(json.dumps(decided))
    assert Run(folder, device="cpu").checked().marks == {}
    assert {path.name: path.read_bytes() for path in (folder / "circuits").iterdir()} == files
    assert not (folder / PLACING).exists()
    assert [entry["step"] for entry in read_manifest(folder)] == ["circuit negation"]


@pytest.mark.parametrize("manifest", ["[" * 100_000, '[{"step": 5}]'])
def test_a_manifest_that_was_damaged_since_is_refused(folder, manifest):
    run = Run(folder, device="cpu")
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(RunError, match="manifest"):
        run_interactions(run, n=4)
