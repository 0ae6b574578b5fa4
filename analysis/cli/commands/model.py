"""`circuits model train|twin|ready|info|generate`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from analysis.cli.answers import Answer, fields_answer, lined
from analysis.cli.commands.inputs import (
    named_text,
    opened_model,
    planned,
    saved_when_interrupted,
)
from analysis.runs.folder import RunFolder, in_shell
from analysis.runs.training import run_model, run_ready, run_twin
from circuits.corpus.documents import built_in
from circuits.errors import RunError
from circuits.model.identity import TwinLabel
from circuits.model.loading import load_model
from circuits.model.plan import ModelPlan
from circuits.twin.plan import TwinPlan

_SELF_WRITTEN = 2000  # texts, where no other text is given
_LABEL = """\
loss, original loss: nats a token on held-out text; gap: the first less the second, ± its standard
error. kl: from the original's answers to the twin's, in nats; agreement: share of tokens at which
both have the same first answer. removed loss: the control, the original with its gates removed and
nothing trained. mlp fvu: by layer, what the twin's MLP misses of the original's output on the same
inputs (0: nothing, 1: as much as a constant); fitted fvu: the same when it was fitted alone."""


def model_train(options: Namespace) -> Answer:
    """A transformer in RUN/model."""
    plan = planned(ModelPlan, options.plan, n_steps=options.steps, seed=options.seed)
    if options.lies and options.text is not None:
        raise RunError(
            f"--lies is of the built-in stories, and --text {options.text} is given. Leave one out."
        )
    corpus = named_text(options) or built_in(plan.seed, lies=options.lies)
    with saved_when_interrupted(RunFolder(Path(options.run_folder)).model):
        trained = run_model(
            options.run_folder, plan, corpus, options.device, **_arithmetic(options)
        )
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


def model_twin(options: Namespace) -> Answer:
    """The bilinear twin of a gated model, in RUN/model."""
    plan = planned(TwinPlan, options.plan, n_steps=options.steps, seed=options.seed,
                   remove_norms=options.remove_norms or None)  # fmt: skip
    corpus, folder = named_text(options), RunFolder(Path(options.run_folder)).model
    n_written = options.self_written
    if n_written is None:
        n_written = 0 if corpus else _SELF_WRITTEN
    how = {"tokenizer": options.tokenizer, "device": options.device, "self_written": n_written}
    with saved_when_interrupted(folder):
        twin = run_twin(
            options.run_folder, options.original, corpus, plan, **how, **_arithmetic(options)
        )
    label = twin.label
    assert label is not None  # it has just been written
    rows = {"folder": str(twin.path), "gap": label.gap, **label.as_dict()}
    return Answer(with_label({"folder": str(twin.path)}, label), rows)


def model_ready(options: Namespace) -> Answer:
    """A model that comes with this package, with its dictionaries, in a run of its own."""
    folder = run_ready(options.run_folder, options.name)
    model = load_model(folder.model, device="cpu")
    fields: dict[str, object] = {
        "model": str(folder.model),
        "layers": model.n_layer,
        "dictionaries": str(folder.dictionaries),
        "text": f"{folder.path / 'text'}",
        "next": f"circuits interactions {folder} --text {in_shell(folder.path / 'text')}",
    }
    label = {} if model.label is None else model.label.as_dict()
    return Answer(with_label(fields, model.label), {**fields, **label})


def with_label(fields: dict[str, object], label: TwinLabel | None) -> str:
    """The lines of some fields and, where the model is a twin, of its label, explained."""
    if label is None:
        return lined(fields)
    doubts = [f"note: {doubt}" for doubt in label.doubts]
    return "\n".join([lined({**fields, **label.figures}), "", _LABEL, *doubts])


def _arithmetic(options: Namespace) -> dict[str, Any]:
    return {"precision": options.precision, "rows_at_once": options.rows_at_once}


def model_info(options: Namespace) -> Answer:
    """A model's layers, sizes and hooks."""
    model = opened_model(options)
    fields = model.describe()
    shown = {name: value for name, value in fields.items() if name != "twin"}
    return Answer(with_label(shown, model.label), fields)


def model_generate(options: Namespace) -> Answer:
    """A text, continued."""
    how = {"temperature": options.temperature, "seed": options.seed}
    text = opened_model(options, options.device).generate(options.prompt, options.tokens, **how)
    return Answer(text, {"prompt": options.prompt, "text": text, **how})
