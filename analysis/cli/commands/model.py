"""`circuits model train|info|generate`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from analysis.cli.answers import Answer, fields_answer
from analysis.cli.commands.inputs import named_text, planned, saved_when_interrupted
from analysis.runs.folder import RunFolder
from analysis.runs.training import run_model
from circuits.corpus.documents import built_in
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.model.plan import ModelPlan


def model_train(options: Namespace) -> Answer:
    """A transformer in RUN/model."""
    plan = planned(ModelPlan, options.plan, n_steps=options.steps, seed=options.seed)
    corpus = named_text(options) or built_in(plan.seed)
    with saved_when_interrupted(RunFolder(Path(options.run_folder)).model):
        trained = run_model(options.run_folder, plan, corpus, options.device)
    fields: dict[str, object] = {
        "folder": str(trained.folder),
        "parameters": trained.n_parameters,
        "steps": trained.n_steps,
        "seconds": round(trained.seconds, 1),
        "tokens_per_second": round(trained.tokens_per_second),
    }
    if trained.held_out is not None:
        fields |= {"held_out_loss": trained.held_out.loss, "gap": trained.held_out.gap}
        fields |= {"reactions_right": trained.held_out.reactions, "n": trained.held_out.n_reactions}
    return fields_answer({**fields, "seed": plan.seed})


def model_info(options: Namespace) -> Answer:
    """A model's layers, sizes and hooks."""
    return fields_answer(_loaded(options).describe())


def model_generate(options: Namespace) -> Answer:
    """A text, continued."""
    how = {"temperature": options.temperature, "seed": options.seed}
    text = _loaded(options, options.device).generate(options.prompt, options.tokens, **how)
    return Answer(text, {"prompt": options.prompt, "text": text, **how})


def _loaded(options: Namespace, device: str | None = None) -> Model:
    """The model that was named, or that of the run."""
    folder = RunFolder(Path(options.model)).model_place or options.model
    return load_model(folder, tokenizer=options.tokenizer, device=device)
