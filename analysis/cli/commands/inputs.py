"""What the options of a command name, opened: a plan, a run, a text."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.runs.folder import RunFolder, in_training, run_above
from analysis.runs.missing import model_command
from analysis.runs.run import Run
from circuits.corpus.documents import Corpus, known_stories, open_corpus, to_measure_on
from circuits.errors import CorpusError, PlanError
from circuits.model.known_text import check_spelt
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.storage.files import read_json


def planned(kind: Any, file: str | None, **given: object) -> Any:
    """The plan in the file, or the default one, with what was given on the command line."""
    plan = kind() if file is None else kind.from_dict(read_json(Path(file), PlanError), file)
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def opened_run(options: Namespace, text: Corpus | None = None) -> Run:
    """The run, whose dictionaries are loaded: those of another model are refused before any work.
    (What does not say what it was trained on is taken as it is; `circuits sae info` lists that.)"""
    run = Run(options.run_folder, text, options.device)
    _ = run.dictionaries
    return run


def opened_model(options: Namespace, device: str | None = None) -> Model:
    """The model that was named, or that of the run."""
    run = RunFolder(Path(options.model))
    if run.model.is_dir() and options.tokenizer is None:
        return Run(run.path, device=device).model  # known by its manifest
    check_in_its_run(str(run.model_place or options.model))
    return load_model(run.model_place or options.model, tokenizer=options.tokenizer, device=device)


def check_in_its_run(place: str, command: str | None = None) -> None:
    """Refuse or mark what is damaged or edited in the folder of a dictionary, or without a
    ``command`` of a model, where it lies in a run that knows it."""
    folder = Path(place).expanduser().resolve()
    if (run := run_above(folder)) is not None:
        again = model_command(RunFolder(run)) if command is None else (command, "")
        Run(run).check_recorded(folder, *again)


def named_text(options: Namespace) -> Corpus | None:
    """The text that was named, if one was."""
    if options.text is not None:
        return open_corpus(options.text, column=options.column)
    if options.column is not None:
        raise CorpusError(
            f"--column {options.column} names a part of a text, and no text was given. Name it "
            f"with --text."
        )
    return None


def corpus_for(options: Namespace, model: Model, seed: int) -> Corpus:
    """The text that was named, refused where the model cannot spell it, or the built-in stories
    where the model knows their words."""
    if (named := named_text(options)) is not None:
        check_spelt(model, named)
        return named
    stories = known_stories(model.words("reading a corpus"), seed)
    if stories is None:
        raise CorpusError(
            f"{options.run_folder}: its model does not know the words of the built-in stories. "
            f"Name the text that it was trained on, with --text."
        )
    return stories


def held_out(options: Namespace, model: Model) -> Corpus:
    """The part of the text that training leaves out."""
    return to_measure_on(corpus_for(options, model, options.seed))


@contextmanager
def saved_when_interrupted(folder: Path) -> Iterator[None]:
    """Say after Ctrl-C that a checkpoint is there, and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        if in_training(folder):
            print("saved; run the same command to resume", file=sys.stderr)
        raise
