"""`circuits sae train|info|quality`."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pandas as pd

from analysis.cli.answers import Answer, lined
from analysis.cli.commands import inputs
from analysis.dictionary_quality import quality
from analysis.runs.folder import RunFolder
from analysis.runs.run import Run
from analysis.runs.training import run_saes
from circuits.errors import DictionaryError
from circuits.storage.progress import progress
from circuits.storage.training_run import METRICS
from sae.dictionary import Dictionary
from sae.formats.folders import is_dictionary
from sae.loading import load_dictionaries, load_dictionary
from sae.training.loggers import log_to
from sae.training.plan import TrainingPlan


def sae_train(options: Namespace) -> Answer:
    """Dictionaries in RUN/saes."""
    plan = inputs.planned(
        TrainingPlan,
        options.plan,
        sites=options.sites and tuple(options.sites),
        n_features=options.features,
        k=options.k,
        n_tokens=options.tokens,
        seed=options.seed,
    )
    run = Run(options.run_folder, device=options.device)
    corpus = inputs.corpus_for(options, run.model, plan.seed)
    log = None if options.log is None else log_to(options.log, run.folder.path)
    with inputs.saved_when_interrupted(run.folder.dictionaries):
        trained = run_saes(run.folder.path, run.model, plan, corpus, options.device, log)
    return _answer({run.folder.dictionary(site): each for site, each in trained.items()})


def sae_info(options: Namespace) -> Answer:
    """What the dictionaries of a run, or one dictionary, are."""
    where = Path(options.where)
    if where.is_dir() and not is_dictionary(where):
        inside = RunFolder(where).dictionaries
        folder = inside if inside.is_dir() else where
        found = load_dictionaries(where, device="cpu")
        return _answer({folder / site.hook_name: each for site, each in found.items()})
    return _answer({where: load_dictionary(options.where, device="cpu")})


def sae_quality(options: Namespace) -> Answer:
    """How well each dictionary of a run stands in for its site."""
    run = inputs.opened_run(options)
    corpus = inputs.held_out(options, run.model)
    how = {"n_documents": options.documents, "seed": options.seed}
    rows = [
        quality(dictionary, run.model, corpus, **how).assign(site=str(site))
        for site, dictionary in progress(run.dictionaries.items(), "quality", "site")
    ]
    table = pd.concat(rows).set_index("site")
    text = table.T.to_string(float_format=lambda value: f"{value:.4g}")
    return Answer(text, table.to_dict("index"))


def _answer(dictionaries: dict[Path, Dictionary]) -> Answer:
    rows = [_row(folder, dictionary) for folder, dictionary in dictionaries.items()]
    return Answer("\n\n".join(map(lined, rows)), rows)


def _row(folder: Path, dictionary: Dictionary) -> dict[str, object]:
    row: dict[str, object] = {
        "folder": str(folder),
        "site": None if dictionary.site is None else str(dictionary.site),
        "features": dictionary.n_feature,
        "width": dictionary.d_model,
        "trained_on": "not stated" if (of := dictionary.trained_on) is None else f"model {of[:12]}",
        "active": "by threshold" if dictionary.k is None else dictionary.k,
    }
    if (statistics := dictionary.statistics) is not None:
        frequency = statistics.frequency
        row |= {
            "l0": float(frequency.sum()),
            "dead_share": float((frequency == 0).float().mean()),
            "dense_share": float((frequency > 0.1).float().mean()),
            "tokens_measured": int(statistics.n_token),
        }
    return row | _last_of(folder / METRICS)


def _last_of(metrics: Path) -> dict[str, float]:
    """The last metrics of its training; a copy need not have them."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        if not lines:
            return {}
        last = json.loads(lines[-1])
        return {"fvu": last["fvu"], "steps": last["step"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DictionaryError(
            f"{metrics}: its last line is not a training step ({error!r}). It was cut short or is "
            f"another file: restore it, or remove it."
        ) from error
