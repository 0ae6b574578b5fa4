"""Every file that is read, changed at random: it ends in a value, or in the toolkit's own error.

The smallest change that fails is printed. FUZZ=10000 tries as many of each kind, drawn anew.
"""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import attribution_graph
from analysis.attribution.page.trace_page import trace_page
from analysis.attribution.traced import AttributionGraph
from analysis.behaviour.cases import Behaviour
from analysis.cli.layered_text import layered_text, layered_validation_text
from analysis.cli.steps import StepMemory
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.lowrank.curve import RankCurve
from analysis.runs.folder import RunFolder
from analysis.runs.images import ImageStudy
from analysis.runs.run import Run
from analysis.runs.verification import verify
from analysis.studies.images.data import open_images
from analysis.validation.layered_record import LayeredValidation
from analysis.validation.record import Validation
from circuits import Circuit
from circuits.corpus import open_corpus
from circuits.errors import CircuitsError
from circuits.model import ModelPlan, load_model
from circuits.storage.files import read_json
from sae import TrainingPlan, load_dictionary
from tests.support.commands import command
from tests.support.planted_path import ANSWER, TEXT, planted_path

TRIES = int(os.environ.get("FUZZ", "0"))
A_FEW = settings(
    max_examples=TRIES or 12,
    derandomize=not TRIES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**30, -(10**400), 0.5, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "0", "nan", "\x00", "\u2028", "../../x", "x" * 5000, [], [None],
    [1, "x"], {}, {"x": 1}, [[]], [{}],
]  # fmt: skip
"""What a value may be replaced with."""

CHANGES = ("replace", "remove", "add", "twice", "exchange")


def places(content: Any, at: tuple = ()) -> list[tuple]:
    """The path of every value in a JSON value, from outside in."""
    found = [at]
    if isinstance(content, dict):
        for key, inner in content.items():
            found += places(inner, (*at, key))
    elif isinstance(content, list):
        for number, inner in enumerate(content[:20]):
            found += places(inner, (*at, number))
    return found


def changed(content: Any, change: str, which: int, strange: Any) -> Any:
    """A JSON value with one change somewhere in it."""
    content = copy.deepcopy(content)
    paths = places(content)
    *above, last = paths[which % len(paths)] or (None,)
    if last is None:
        return strange
    holder = content
    for step in above:
        holder = holder[step]
    if change == "remove":
        del holder[last]
    elif change == "add" and isinstance(holder, dict):
        holder["another"] = strange
    elif change == "twice" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif change == "exchange" and isinstance(holder, list):
        holder.reverse()
    else:
        holder[last] = strange
    return content


json_change = st.tuples(st.sampled_from(CHANGES), st.integers(0, 10_000), st.sampled_from(STRANGE))
byte_change = st.tuples(
    st.sampled_from(["turn", "cut", "insert", "repeat", "nulls"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=8),
)


def bytes_changed(content: bytes, change: str, place: float, extra: bytes) -> bytes:
    at = int(place * len(content))
    if change == "cut":
        return content[:at]
    if change == "insert":
        return content[:at] + extra + content[at:]
    if change == "repeat":
        return content + content[at:]
    put = extra if change == "turn" else bytes(len(extra) * 20)
    return content[:at] + put + content[at + len(put) :]


def used(value: Any) -> None:
    """What a page or a notebook asks of it."""
    repr(value)
    if hasattr(value, "_repr_html_"):
        value._repr_html_()
    for name in ("tables", "verdict", "claims", "summary", "cases", "describe", "claims_in_words"):
        part = getattr(value, name, None)
        if callable(part):
            part()


def printed(*arguments: str) -> Callable[[Path], None]:
    """Of a command, that it ends without a bug."""

    def run(path: Path) -> None:
        given = [str(path.parents[len(Path(a[1:]).parts) - 1]) if a.startswith("^") else a
                 for a in arguments]  # fmt: skip
        done = command(*given)
        assert done.returncode in (0, 1, 2), done.stderr
        assert "bug of the toolkit" not in done.stderr, done.stderr

    return run


def plan_of(kind: type) -> Callable[[Path], Any]:
    return lambda path: kind.from_dict(read_json(path, CircuitsError), str(path))


def inside(n_folders: int, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of the folder so far above the file."""
    return lambda path: read(path.parents[n_folders - 1])


def trace_read(path: Path) -> None:
    graph = AttributionGraph.load(path)
    graph.attribution()
    trace_page(graph.as_dict())


def layered_read(path: Path) -> LayeredCircuit:
    circuit = LayeredCircuit.load(path)
    _ = circuit.shares, circuit.figure().drawn
    layered_text(circuit)
    return circuit


def layered_proof_read(path: Path) -> LayeredValidation:
    proof = LayeredValidation.load(path)
    _ = proof.edit_table, proof.pair_table, proof.criteria_table
    layered_validation_text(proof)
    return proof


def demo_read(path: Path) -> None:
    memory = StepMemory(RunFolder(path.parent), 0, print)
    memory.holds("interactions", [path])


def documents(path: Path) -> list[str]:
    return open_corpus(path).documents(0, 5)


def rank_read(path: Path) -> RankCurve:
    return RankCurve.load(path.with_suffix(".json"))


OF_A_RUN: dict[str, Callable[[Path], Any]] = {
    "circuits/hostile.json": Circuit.load,
    "circuits/Ünsafe name!.json": Circuit.load,
    "circuits/hostile.behaviour.jsonl": Behaviour.load,
    "circuits/hostile.validation.json": Validation.load,
    "layered/hostile.json": layered_read,
    "layered/hostile.validation.json": layered_proof_read,
    "rank/layer-0.json": rank_read,
    "rank/layer-0.parquet": rank_read,
    "interactions/layer-0.parquet": inside(2, lambda run: Run(run, device="cpu").strongest(0)),
    "images/study.json": inside(2, ImageStudy.load),
    "images/spectra.parquet": inside(2, ImageStudy.load),
    "manifest.json": inside(1, verify),
    "model/config.json": inside(1, partial(load_model, device="cpu")),
    "model/model.safetensors": inside(1, partial(load_model, device="cpu")),
    "model/tokenizer.json": inside(1, partial(load_model, device="cpu")),
    "model/tokenizer_config.json": inside(1, partial(load_model, device="cpu")),
    "saes/blocks.0.hook_mlp_out/cfg.json": inside(1, partial(load_dictionary, device="cpu")),
    "saes/blocks.0.hook_mlp_out/sae_weights.safetensors": inside(
        1, partial(load_dictionary, device="cpu")
    ),
    "saes/blocks.0.hook_mlp_out/stats.safetensors": inside(
        1, partial(load_dictionary, device="cpu")
    ),
}


def made(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """Files that no run holds, and how each is read."""
    x = np.linspace(0, 1, 160, dtype=np.float32).reshape(10, 4, 4)
    arrays = {"x_train": x, "y_train": np.arange(10) % 3, "x_test": x, "y_test": np.arange(10) % 3}
    np.savez(folder / "images.npz", **arrays)
    rows = [{"text": f"one {n} and two"} for n in range(30)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("one day\n\ntwo days\n")
    pd.DataFrame(rows).to_parquet(folder / "text.parquet")
    (folder / "model.json").write_text(json.dumps(ModelPlan().as_dict()))
    (folder / "saes.json").write_text(json.dumps(TrainingPlan(sites=("mlp_in@0",)).as_dict()))
    attribution_graph(*planted_path(), TEXT, [ANSWER]).save(folder / "trace.json")
    done = {"inputs": "0" * 64, "files": "1" * 64}
    (folder / "steps.json").write_text(json.dumps({"rank": done}))
    return {
        folder / "images.npz": open_images,
        folder / "text.jsonl": documents,
        folder / "text.txt": documents,
        folder / "text.parquet": documents,
        folder / "model.json": plan_of(ModelPlan),
        folder / "saes.json": plan_of(TrainingPlan),
        folder / "steps.json": demo_read,
        folder / "trace.json": trace_read,
    }


def endures(path: Path, read: Callable[[Path], Any], content: bytes) -> None:
    """The file with this content ends in a value that can be used, or in the toolkit's error."""
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used(read(path))
    except CircuitsError:
        pass
    finally:
        path.write_bytes(whole)


def as_json(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())


def written(path: Path, content: Any) -> bytes:
    if path.suffix == ".jsonl" and isinstance(content, list):
        return "".join(json.dumps(line) + "\n" for line in content).encode()
    return json.dumps(content).encode()


@pytest.fixture(autouse=True)
def _own_errors(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first


@pytest.fixture(scope="module")
def readers(hostile_run, tmp_path_factory) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Every file that is read, by its name, in a copy of the run."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(hostile_run[0], folder / "run", ignore=shutil.ignore_patterns("report"))
    all_ = {folder / "run" / name: read for name, read in OF_A_RUN.items()} | made(folder)
    return {path.name if name is None else name: (path, read)
            for path, read in all_.items()
            for name in [path.relative_to(folder).as_posix().removeprefix("run/")]}  # fmt: skip


NAMES = [*OF_A_RUN, "images.npz", "text.jsonl", "text.txt", "text.parquet", "model.json",
         "saes.json", "steps.json", "trace.json"]  # fmt: skip
JSON = [name for name in NAMES if name.endswith((".json", ".jsonl"))]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_changed_at_random(readers, name):
    path, read = readers[name]
    whole = path.read_bytes()

    @A_FEW
    @given(st.lists(byte_change, min_size=1, max_size=2))
    def check(changes: list[tuple[str, float, bytes]]) -> None:
        content = whole
        for change in changes:
            content = bytes_changed(content, *change)
        endures(path, read, content)

    check()


@pytest.mark.parametrize("name", JSON)
def test_values_changed_at_random(readers, name):
    path, read = readers[name]
    whole = as_json(path)

    @settings(A_FEW, max_examples=TRIES or 40)
    @given(st.lists(json_change, min_size=1, max_size=2))
    def check(changes: list[tuple[str, int, Any]]) -> None:
        content = whole
        for change in changes:
            content = changed(content, *change)
        endures(path, read, written(path, content))

    check()


def test_whole_files_stay_whole(readers):
    for path, read in readers.values():
        used(read(path))
        if path.name in JSON:
            with tempfile.TemporaryDirectory() as folder:
                other = Path(folder) / path.name
                other.write_bytes(written(path, as_json(path)))
                used(read(other))
