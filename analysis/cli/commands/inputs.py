"""What the options of a command name, opened: a plan, a run's model and dictionaries, a text.

A note that does not stop a command goes to stderr.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.corpus.documents import Corpus, built_in, open_corpus
from circuits.errors import CorpusError, PlanError, RunError
from circuits.model.evaluation import split_corpus
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.files import read_json
from sae.dictionary import Dictionary
from sae.loading import load_dictionaries


def planned(kind: Any, file: str | None, **given: object) -> Any:
    """The plan in the file, or the default one, with what was given on the command line."""
    plan = kind() if file is None else kind.from_dict(read_json(Path(file), PlanError), file)
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def model_folder(where: str) -> str:
    """The model's folder, where a run's was named."""
    inside = Path(where) / "model"
    return str(inside) if inside.is_dir() else where


def model_and_dictionaries(options: Namespace) -> tuple[Model, dict[Site, Dictionary]]:
    """A run's model and its dictionaries, with a note where they do not belong together."""
    run = Path(options.run_folder)
    if run.is_dir() and not any((run / part).exists() for part in ("model", "config.json")):
        raise RunError(f"{run} has no folder 'model'. Train one: circuits model train {run}")
    dictionaries = load_dictionaries(run, device=options.device)
    model = load_model(model_folder(options.run_folder), device=options.device)
    for site, dictionary in dictionaries.items():
        trained_on = dictionary.notes.get("activations", {}).get("model", model.fingerprint)
        if trained_on != model.fingerprint:
            print(f"note: {site} was trained on another model than this one", file=sys.stderr)
    return model, dictionaries


def named_text(options: Namespace) -> Corpus | None:
    """The text that was named, if one was."""
    if options.text is not None:
        return open_corpus(options.text, column=options.column)
    if options.column is not None:
        raise CorpusError(
            f"--column {options.column} names a part of a text, and none was given. Name it with "
            f"--text."
        )
    return None


def corpus_for(options: Namespace, model: Model, seed: int) -> Corpus:
    """The text that was named, or the built-in stories where the model knows their words."""
    named = named_text(options)
    if named is not None:
        return named
    stories = built_in(seed)
    if stories.word_numbers(model.words("reading a corpus")) is None:
        raise CorpusError(
            f"{options.run_folder}: its model does not know the words of the built-in stories. "
            f"Name the text that it is made for, with --text."
        )
    return stories


def held_out(options: Namespace, model: Model) -> Corpus:
    """The part of the text that training leaves alone, or all of it where that would be none."""
    training, left_alone = split_corpus(corpus_for(options, model, options.seed))
    if left_alone is None:
        print("note: too few documents to hold any out: this is text to train on", file=sys.stderr)
    return training if left_alone is None else left_alone


@contextmanager
def saved_when_interrupted(folder: Path) -> Iterator[None]:
    """Say after Ctrl-C that a run's checkpoint is there, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if list(folder.glob("checkpoint*.safetensors")):
            print("saved; the same command goes on from there", file=sys.stderr)
        raise
