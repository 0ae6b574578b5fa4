"""Every command that writes files, on runs that are small enough to be made hundreds of times."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from circuits.model.plan import ModelPlan, ModelShape
from circuits.twin.plan import TwinPlan
from tests.support.killed_commands import run_command, small_ready
from tests.support.planted_negation import planted_behaviour, planted_run, planted_text
from tests.support.small_models import gated_folder, small_corpus
from tests.support.small_runs import hostile_text

_FIND = "find RUN --behaviour IN/negation.jsonl --device cpu"
_FIND_NONE = "find RUN --behaviour IN/none/negation.jsonl --device cpu"
_FIND_OTHER = "find RUN --behaviour IN/fewer/negation.jsonl --device cpu"
_PROPOSE = "find RUN --proposals 2 --device cpu"
_VALIDATE = "validate RUN --text IN/text.txt --draws 1 --device cpu"
_ACROSS = "find RUN --behaviour IN/negation.jsonl --across --device cpu"
_ACROSS_NONE = "find RUN --behaviour IN/none/negation.jsonl --across --device cpu"
_ACROSS_OTHER = "find RUN --behaviour IN/fewer/negation.jsonl --across --device cpu"
_PROVE_ACROSS = "validate RUN --across --draws 1 --device cpu"
_INTERACTIONS = (
    "interactions RUN --n 3 --reader encoder --documents 9 --text IN/text.txt --device cpu"
)
_RANK = "rank RUN --text IN/text.txt --documents 9 --min-active 2 --device cpu"
_TRACE = "trace RUN TEXT --targets glad --against sad --nodes 9 --gates 9 --name one --device cpu"
_REPORT = "report RUN --text IN/text.txt --device cpu"
_DIGITS = "digits --run RUN"
_SAES = "sae train RUN --text IN/long.txt --plan IN/saes.json --device cpu"
_MODEL = "model train RUN --text IN/text.jsonl --plan IN/model.json --device cpu"
_TWIN = "model twin IN/gated RUN --text IN/words --plan IN/twin.json --self-written 40 --device cpu"
_READY = "model ready stories260K-bilinear RUN"
_EXPORT = "export RUN/circuits/negation.json --out OUT --format"


class Scene(NamedTuple):
    """A command, and those that were run before it in the same place."""

    command: str
    before: tuple[str, ...] = ()
    begins: str = "planted"  # with a model and dictionaries; or "model", "empty", or "layered"


SCENES = {
    "find": Scene(_FIND),
    "find again": Scene(_FIND, (_FIND, _VALIDATE)),
    "find another": Scene(_FIND_OTHER, (_FIND, _VALIDATE)),
    "find none": Scene(_FIND_NONE, (_FIND, _VALIDATE)),
    "propose": Scene(_PROPOSE),
    "propose again": Scene(_PROPOSE.replace("2", "3"), (_FIND, _PROPOSE)),
    "validate": Scene(_VALIDATE, (_FIND,)),
    "validate again": Scene(f"{_VALIDATE} --seed 1", (_FIND, _VALIDATE)),
    "find across": Scene(_ACROSS, begins="layered"),
    "find across again": Scene(_ACROSS, (_ACROSS, _PROVE_ACROSS), "layered"),
    "find another across": Scene(_ACROSS_OTHER, (_ACROSS, _PROVE_ACROSS), "layered"),
    "find none across": Scene(_ACROSS_NONE, (_ACROSS, _PROVE_ACROSS), "layered"),
    "validate across": Scene(_PROVE_ACROSS, (_ACROSS,), "layered"),
    "validate across again": Scene(
        f"{_PROVE_ACROSS} --seed 1", (_ACROSS, _PROVE_ACROSS), "layered"
    ),
    "interactions": Scene(_INTERACTIONS),
    "interactions again": Scene(_INTERACTIONS.replace("9", "8"), (_INTERACTIONS,)),
    "rank": Scene(_RANK),
    "rank again": Scene(f"{_RANK} --seed 1", (_RANK,)),
    "trace": Scene(_TRACE),
    "trace again": Scene(_TRACE.replace("9", "8"), (_TRACE,)),
    "report": Scene(_REPORT, (_FIND,)),
    "report again": Scene(f"{_REPORT} --seed 1", (_FIND, _REPORT, _VALIDATE)),
    "report in a file": Scene(f"{_REPORT} --single-file", (_FIND,)),
    "report in a file again": Scene(
        f"{_REPORT} --single-file --seed 1", (_FIND, f"{_REPORT} --single-file", _VALIDATE)
    ),
    "digits": Scene(_DIGITS),
    "digits again": Scene(f"{_DIGITS} --seed 1", (_DIGITS,)),
    "sae train": Scene(_SAES, begins="model"),
    "model train": Scene(_MODEL, begins="empty"),
    "model twin": Scene(_TWIN, begins="empty"),
    "model ready": Scene(_READY, begins="empty"),
    **{
        f"export as {kind}": Scene(f"{_EXPORT} {kind}", (_FIND,))
        for kind in ("graphml", "gexf", "attribution", "tables")
    },
    "export again": Scene(f"{_EXPORT} attribution --scan other", (_FIND, f"{_EXPORT} attribution")),
}

WRITING = {
    "find": _FIND,
    "find another": _FIND_OTHER,
    "find none": _FIND_NONE,
    "propose": _PROPOSE,
    "validate": _VALIDATE,
    "interactions": _INTERACTIONS,
    "rank": _RANK,
    "trace": _TRACE,
    "report": _REPORT,
    "report in a file": f"{_REPORT} --single-file",
    "digits": _DIGITS,
    **{
        f"export as {kind}": f"export RUN/circuits/negation.json --format {kind}"
        for kind in ("graphml", "gexf", "attribution", "tables")
    },
}
"""Those that write to a run with a circuit."""

LAYERED = {
    "find across": _ACROSS,
    "find another across": _ACROSS_OTHER,
    "find none across": _ACROSS_NONE,
    "validate across": _PROVE_ACROSS,
}
"""Those that write to a run of two layers with a circuit through both."""

LAYERED_FOUND = Scene("", (_ACROSS,), "layered")

BEGINNING = {
    "sae train": Scene(_SAES, begins="model"),
    "model train": Scene(_MODEL, begins="empty"),
    "model twin": Scene(_TWIN, begins="empty"),
    "model ready": Scene(_READY, begins="empty"),
}
"""Those that make what others need."""

READING = {
    "verify": "verify RUN",
    "rank of a circuit": f"{_RANK} --circuit negation",
    "sae info": "sae info RUN",
    "sae quality": "sae quality RUN --text IN/text.txt --documents 9 --device cpu",
    "model info": "model info RUN",
    "model generate": "model generate RUN good --tokens 2 --device cpu",
    "behaviour": "behaviour RUN negation --device cpu",
    "calibrate": "calibrate RUN --snr 3 --seeds 1 --gates 1",
}
"""Those that read a run and leave it as it is."""


def arguments(command: str, place: Path) -> list[str]:
    """The words of a command whose run is in a place."""
    known = {"RUN": place / "run", "IN": place / "in", "OUT": place / "out"}
    known["TEXT"] = Path("the cake was not good so tom felt")
    words = []
    for word in command.split():
        first, *rest = word.split("/")
        words.append("/".join([str(known.get(first, first)), *rest]))
    return words


def prepared(scene: Scene, place: Path) -> None:
    """All that a scene begins with, made anew in a place."""
    small_ready()  # before any process is forked
    shutil.rmtree(place, ignore_errors=True)
    _write_inputs(place / "in")
    layered = scene.begins == "layered"
    planted_run(place / "run", "moved" if layered else "computed", both=layered)
    if scene.begins in ("model", "empty"):
        shutil.rmtree(place / "run" / "saes")
    if scene.begins == "empty":
        shutil.rmtree(place / "run")
    for command in scene.before:
        done = run_command(arguments(command, place))
        assert done.returncode == 0, done.stderr


def _write_inputs(folder: Path) -> None:
    for name in ("none", "fewer"):
        (folder / name).mkdir(parents=True)
    cases = planted_behaviour()
    cases.save(folder / "negation.jsonl")
    planted_behaviour(8).save(folder / "fewer" / "negation.jsonl")
    wrong = tuple(replace(case, right=case.wrong, wrong=case.right) for case in cases.cases)
    planted_behaviour(cases=wrong).save(folder / "none" / "negation.jsonl")
    planted_text(folder)
    hostile_text(folder)
    texts = (folder / "text.txt").read_text()
    (folder / "long.txt").write_text("\n\n".join([texts] * 5))
    plan = {"sites": ["mlp_in@0", "mlp_out@0"], "n_tokens": 2000, "n_batch": 256}
    plan |= {"n_buffer": 1000, "k": 3}
    (folder / "saes.json").write_text(json.dumps(plan))
    shape = ModelShape(d_model=8, d_hidden=8, n_layer=1, n_head=1)
    gated_folder(folder / "gated")
    (folder / "words").mkdir()
    small_corpus(folder / "words", 100)
    twin = TwinPlan(n_steps=6, fit=4, n_rows=2, window=16)
    (folder / "twin.json").write_text(json.dumps(twin.as_dict()))
    (folder / "model.json").write_text(json.dumps(asdict(ModelPlan(shape, n_steps=12, n_rows=4))))


def tree(place: Path) -> Mapping[str, bytes]:
    """Every file below a folder, less the seconds that a training took; folders end in /."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        found[f"{name}/" if path.is_dir() else name] = b"" if path.is_dir() else _content(path)
    return found


def _content(path: Path) -> bytes:
    if path.name not in ("metrics.jsonl", "training.json"):
        return path.read_bytes()
    text = path.read_text()
    try:
        rows = [json.loads(line) for line in (text.splitlines() if "l" in path.suffix else [text])]
    except ValueError:  # cut short
        return path.read_bytes()
    timed = (
        "seconds",
        "tokens_per_second",
        "metrics_sha256",
        "sha256",
    )  # speeds are among the metrics
    rows = [{name: row[name] for name in row if name not in timed} for row in rows]
    return json.dumps(rows).encode()
