"""The steps that a run lacks, each with the command that makes it: one that its model can run.

What the built-in stories offer (their text, the behaviour "negation") is of no use to a model that
does not know their words, such as the twin of a pretrained one: it needs text and cases of its own.
"""

from __future__ import annotations

from collections.abc import Collection

from analysis.runs.folder import RunFolder
from circuits.corpus.documents import built_in
from circuits.errors import ModelError
from circuits.storage.files import read_json

TRACE = "circuits trace RUN TEXT"
ACROSS = "circuits find RUN --behaviour NAME --across"
_NEEDS_TEXT = ("sae train", "validate", "rank")


def missing_steps(folder: RunFolder, layers: Collection[int], *, stories: bool) -> dict[str, str]:
    """The command of each step, with RUN for the folder; ``stories``: whether the model knows the
    built-in stories."""
    steps = {} if folder.model_place else {"a model": "circuits model train RUN"}
    behaved = [files for files in folder.one_layer.there() if files.behaviour.exists()]
    if not layers:
        steps["dictionaries before and after an MLP"] = command_for("sae train", stories)
    if set(layers) - set(folder.layers(folder.interactions)):
        steps["interactions of every output"] = command_for("interactions", stories)
    if not behaved:
        steps["circuits of a behaviour"] = command_for("find", stories)
    if unproven := [files.stem for files in behaved if not files.validation.exists()]:
        steps[f"validation of {', '.join(unproven)}"] = command_for("validate", stories)
    layered = [files.stem for files in folder.across_layers.there()
               if not files.validation.exists()]  # fmt: skip
    if layered:
        steps[f"validation of {', '.join(layered)} across layers"] = (
            "circuits validate RUN --across"
        )
    if not folder.layers(folder.rank_summary):
        steps["low rank"] = command_for("rank", stories)
    return steps


def command_for(step: str, stories: bool) -> str:
    """The command of a step, with RUN for the folder."""
    options = " --text PATH" if step in _NEEDS_TEXT and not stories else ""
    if step == "find":
        options = f" --behaviour {'negation' if stories else 'CASES.jsonl'}"
    return f"circuits {step} RUN{options}"


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
