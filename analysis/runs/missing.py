"""The steps that a run lacks, each with the command that makes it: one that its model can run.

What the built-in stories offer (their text, the behaviour "negation") is of no use to a model that
does not know their words, such as the twin of a pretrained one: it needs text and cases of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote
from typing import Any

from analysis.runs.folder import RunFolder
from circuits.corpus.documents import built_in
from circuits.errors import CircuitsError, ModelError, RunError
from circuits.storage.files import PLAN, read_json
from circuits.storage.manifest import read_manifest
from circuits.twin.plan import TwinPlan

TRACE = "circuits trace RUN TEXT"
ACROSS = "circuits find RUN --behaviour NAME --across"
_NEEDS_TEXT = ("sae train", "validate", "rank")


def missing_steps(folder: RunFolder, layers: Collection[int], *, stories: bool) -> dict[str, str]:
    """The command of each step, with RUN for the folder; ``stories``: whether the model knows the
    built-in stories."""
    steps = {} if folder.model_place else {"a model": "circuits model train RUN"}
    behaved = [files for files in folder.one_layer.there() if files.behaviour.exists()]
    across = folder.across_layers.there()
    if not layers:
        steps["dictionaries before and after an MLP"] = command_for("sae train", stories)
    if set(layers) - set(folder.layers(folder.interactions)):
        steps["interactions of every output"] = command_for("interactions", stories)
    if not (behaved or across or not_found(folder)):
        steps["circuits of a behaviour"] = command_for("find", stories)
    if unproven := [files.stem for files in behaved if not files.validation.exists()]:
        steps[f"validation of {', '.join(unproven)}"] = command_for("validate", stories)
    if layered := [files.stem for files in across if not files.validation.exists()]:
        steps[f"validation of {', '.join(layered)} across layers"] = (
            "circuits validate RUN --across"
        )
    if not folder.layers(folder.rank_summary):
        steps["low rank"] = command_for("rank", stories)
    return steps


@dataclass(frozen=True)
class NotFound:
    """A behaviour that was searched for a circuit in vain."""

    name: str
    across: bool  # through several layers
    why: str


def search_step(name: str, *, across: bool) -> str:
    """The step of a search that found nothing, which the manifest notes without files."""
    return f"{'layered ' * across}search for {name}"


def not_found(folder: RunFolder, hashes: Mapping[str, str] | None = None) -> list[NotFound]:
    """The searches that found nothing, where no circuit of that name is there; with ``hashes``,
    those of this model and these dictionaries."""
    found = []
    for made_of in (entry["made_of"] for entry in read_manifest(folder.path)):
        name, why, across = (made_of.get(key) for key in ("behaviour", "not_found", "across"))
        if not (isinstance(name, str) and isinstance(why, str)):
            continue
        place = folder.across_layers if across else folder.one_layer
        of_this = hashes is None or made_of.get("of") == hashes
        if of_this and place.named(name) is None:
            found.append(NotFound(name, bool(across), why))
    return found


def command_for(step: str, stories: bool) -> str:
    """The command of a step, with RUN for the folder."""
    options = " --text PATH" if step in _NEEDS_TEXT and not stories else ""
    if step == "find":
        options = f" --behaviour {'negation' if stories else 'CASES.jsonl'}"
    return f"circuits {step} RUN{options}"


def model_command(folder: RunFolder) -> tuple[str, str]:
    """The command that makes the model again, as it was made, or makes one: what stands before the
    run's folder, and what behind it. The manifest knows it, or before its end the plan of a
    training; the files of a model may be another's."""
    made_of = _made_of(folder, "model")
    if "brought" in made_of or made_of.get("command") == "run":
        return "run MODEL", f" --text PATH{_plan_option(made_of, '--twin-plan')}"
    if "original" in made_of:
        text = " --text PATH" * (made_of.get("corpus") is not None)
        written = made_of.get("self_written")
        written = f" --self-written {written}" if written else ""
        return "model twin MODEL", text + written + _plan_option(made_of, "--plan")
    with suppress(RunError):
        if not made_of and "original" in read_json(folder.model / PLAN, RunError):
            return "model twin MODEL", ""
    return step_command(folder, "model", "model train"), ""


def step_command(folder: RunFolder, step: str, otherwise: str) -> str:
    """The command that makes a step's files again: of a model that came with the package, and of
    its dictionaries, that which copied them."""
    name = _made_of(folder, step).get("ready")
    return otherwise if name is None else f"model ready {quote(str(name))}"


def _made_of(folder: RunFolder, step: str) -> dict[str, Any]:
    made_of: dict[str, Any] = {
        each["step"]: each["made_of"] for each in read_manifest(folder.path)
    }.get(step, {})
    return made_of


def _plan_option(made_of: Mapping[str, Any], option: str) -> str:
    """The option of a plan, where a twin's is not the default one."""
    try:
        known = TwinPlan.from_dict(made_of["plan"])
    except (CircuitsError, KeyError, TypeError):
        return ""
    return "" if known == TwinPlan() else f" {option} FILE"


def seems_to_know_stories(folder: RunFolder) -> bool:
    """Whether the stories' words are among those of a model's tokenizer, by its file alone; a
    model that is still to be trained will know them."""
    if folder.model_place is None:
        return True
    try:
        words = read_json(folder.model_place / "tokenizer.json", ModelError).get("model")
    except (ModelError, OSError):
        return False
    if not isinstance(words, dict) or words.get("type") != "WordLevel":
        return False
    return set(built_in(0).generator.grammar.words) <= set(words.get("vocab", ()))
