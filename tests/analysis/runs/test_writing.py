"""What is written where a path is given: over a file of its own kind, and over no other."""

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from analysis.cli.main import main
from analysis.lowrank.curve import RankCurve
from analysis.runs.circuits import run_validate, run_validate_layered
from analysis.runs.folder import RunFolder
from analysis.runs.run import Run
from analysis.runs.verification import verify
from analysis.studies.images.pictures import write_png
from analysis.validation.record import Validation
from circuits.errors import CircuitsError
from circuits.graph.circuit import Circuit
from circuits.storage.manifest import record
from tests.support.planted_negation import planted_behaviour
from tests.support.small_images import random_model


@pytest.fixture
def writers(hostile_run):
    """Everything that writes to a file that it is given, by the file's name."""
    run = Run(hostile_run[0], device="cpu")
    circuit, proof = run.circuits["hostile"], run.validations["hostile"]
    model = random_model()
    page = np.zeros((4, 4, 3), np.uint8)
    return {
        "circuit.json": circuit.save,
        "validation.json": proof.save,
        "cases.jsonl": planted_behaviour().save,
        "rank.parquet": run.rank(0).save,
        "rank.json": run.rank(0).save,
        "model.safetensors": model.save,
        "page.png": lambda path, **how: write_png(page, path, **how),
    }


def test_a_file_is_written_over_one_of_its_kind_and_no_other(writers, tmp_path):
    kinds = {"circuit.json": Circuit, "validation.json": Validation, "rank.json": RankCurve}
    for name, write in writers.items():
        path = tmp_path / name.replace(".", "-") / name
        path.parent.mkdir()
        path.write_text("years of work")
        with pytest.raises(CircuitsError, match=r"would be lost\. Name another.*force=True"):
            write(path)
        assert path.read_text() == "years of work"
        assert [file.name for file in path.parent.iterdir()] == [name]
        write(path, force=True)
        write(path)
        if name in kinds:
            kinds[name].load(path)


ALIKE = {  # by the names of `writers`: files of other programs that look alike at first
    "circuit.json": '{"note": "after bilinear-circuits/circuit", "years": "of work"}',
    "validation.json": '{"schema": "bilinear-circuits/validation-of-mine"}',
    "cases.jsonl": '{"text": "Once upon a time"}\n{"text": "there was a corpus"}\n',
    "rank.json": json.dumps({"schema": "mine", "about": {}, "loss": {}}, indent=2),
    "page.png": "Software\0bilinear-circuits was used for this",
}


def test_a_file_that_only_looks_like_one_of_its_kind_is_not_written_over(writers, tmp_path):
    for name, content in ALIKE.items():
        path = tmp_path / name.replace(".", "-") / name
        path.parent.mkdir()
        path.write_text(content)
        with pytest.raises(CircuitsError, match=r"would be lost\. Name another.*force=True"):
            writers[name](path)
        assert path.read_text() == content
    weights = tmp_path / "weights.safetensors"
    save_file({"head": torch.ones(1)}, weights, {"height": "3", "width": "2", "of": "mine"})
    with pytest.raises(CircuitsError, match="would be lost"):
        writers["model.safetensors"](weights)


def test_a_validation_is_not_written_over_by_a_rank_curve(writers, tmp_path):
    path = tmp_path / "rank.json"
    writers["validation.json"](path)
    with pytest.raises(CircuitsError, match="is not a rank curve, so it would be lost"):
        writers["rank.json"](path)


def test_no_file_takes_the_place_of_a_fifo(writers, tmp_path):
    for name, write in writers.items():
        path = tmp_path / name.replace(".", "-") / name
        path.parent.mkdir()
        os.mkfifo(path)
        with pytest.raises(CircuitsError, match="FIFO"):
            write(path, force=True)
        assert path.is_fifo()


def test_exports_are_written_over_exports_and_no_other_file(hostile_run, tmp_path, capsys):
    circuit = next(iter((hostile_run[0] / "circuits").glob("hostile.json")))
    written = {
        "graphml": "hostile.graphml",
        "gexf": "hostile.gexf",
        "tables": "hostile-interactions.parquet",
    }
    for kind, name in written.items():
        given = ["export", str(circuit), "--format", kind, "--out", str(tmp_path / kind)]
        path = tmp_path / kind / name
        path.parent.mkdir()
        if kind == "tables":
            pd.DataFrame({"mine": [1]}).to_parquet(path)
        else:
            path.write_text("years of work")
        was = path.read_bytes()
        assert main(given) == 2
        assert "would be lost" in capsys.readouterr().err
        assert [file.name for file in path.parent.iterdir()] == [name]
        assert path.read_bytes() == was
        assert main([*given, "--force"]) == 0
        assert main(given) == 0
        capsys.readouterr()


def test_a_photograph_is_not_replaced_by_pictures(tmp_path, capsys):
    from analysis.studies.images.png import MARK, encoded

    photograph = tmp_path / "photo.png"
    photograph.write_bytes(encoded(np.zeros((3, 3), np.uint8)).replace(MARK, b"Software\0Camera"))
    was = photograph.read_bytes()
    assert main(["digits", "--pictures", str(photograph)]) == 2
    assert "is not a picture that the toolkit wrote" in capsys.readouterr().err
    assert photograph.read_bytes() == was


@pytest.mark.filterwarnings("ignore::circuits.errors.MarkWarning")
@pytest.mark.parametrize(
    ("folder", "validate"), [("circuits", run_validate), ("layered", run_validate_layered)]
)
def test_the_validation_of_a_copy_leaves_that_of_its_original(
    folder, validate, tmp_path, hostile_run
):
    run = Run(shutil.copytree(hostile_run[0], tmp_path / "run"), device="cpu")
    place = run.folder.path / folder
    for ending in (".json", ".behaviour.jsonl"):
        shutil.copy(place / f"hostile{ending}", place / f"copy{ending}")
    before = (place / "hostile.validation.json").read_bytes()
    validate(run, "copy", n_draws=1, **({"text": hostile_run[1]} if folder == "circuits" else {}))
    assert (place / "copy.validation.json").is_file()
    assert (place / "hostile.validation.json").read_bytes() == before


def test_a_command_to_paste_holds_any_name_as_one_word(tmp_path):
    odd = "a b; touch x"
    run = RunFolder(tmp_path / odd)
    made = run.circuit("pairs").circuit
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    record(run.path, f"circuit {odd}", {}, [made])
    made.unlink()
    (command,) = verify(run.path)["command"]
    words = ["circuits", "find", str(run.path), "--behaviour", odd]
    assert shlex.split(command) == words
    assert shlex.split(str(RunFolder(Path("-run")))) == ["./-run"]
    assert shlex.split(str(RunFolder(Path("hub:own/run")))) == ["./hub:own/run"]
    with pytest.raises(CircuitsError) as refusal:
        Run(tmp_path / odd / "none")
    assert shlex.quote(str(tmp_path / odd / "none")) in str(refusal.value)
