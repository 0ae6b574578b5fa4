"""`circuits sae train|info|quality`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from warnings import warn

import pandas as pd

from analysis.cli.answers import Answer, lined
from analysis.cli.commands import inputs
from analysis.dictionary_quality import quality
from analysis.runs.folder import RunFolder
from analysis.runs.run import Run
from analysis.runs.training import run_saes
from analysis.transcoder_quality import WHAT_IS_LOST, transcoder_table
from circuits.errors import DictionaryError, MarkWarning, PlanError
from circuits.model.site import mlp_sites
from circuits.storage.files import RESULT, read_json
from circuits.storage.manifest import is_as_made
from circuits.storage.training_run import METRICS, METRICS_HASH, edited_notes
from sae.dictionary import Dictionary
from sae.formats.folders import STATISTICS, is_dictionary
from sae.loading import load_dictionaries, load_dictionary
from sae.statistics import noted_weights
from sae.training.loggers import log_to
from sae.training.plan import TRANSCODED, TrainingPlan

_QUALITY = """\
fvu: squared error over the variance (explained_variance: 1 less that, without a constant error).
l0: active features a token; dead, dense: shares of features that are never active, and that are
active on over a tenth of tokens. loss_…: nats a token, of the model as it is (clean) and with the
site replaced: by the reconstruction (sae; with its error it is clean again), zero, its mean, as
many random directions, or the pseudoinverse's values for the selected features (pinv_on_active) or
for those that it selects itself (pinv_largest). added: sae less clean. recovered: 1 is the clean
model, 0 the site set to zero; below 0 is worse than that (_from_mean: 0 is its mean; _error: the
standard error, over rows of text). fvu_…, recovered_…: of these replacements. pinv_active,
pinv_inactive: median correlation of the pseudoinverse's values with the activations where a feature
is active, and with its scores elsewhere (_mean: the mean; _random: of random directions; _n:
features that count); pinv_exact: whether the pseudoinverse reads exactly. A site's losses are read
until recovered is known well enough, so those of two sites may be of more or less of the text:
n_predicted says how much. Good: recovered near 1, far above recovered_random, and few dead."""


def sae_train(options: Namespace) -> Answer:
    """Dictionaries in RUN/saes, or transcoders in RUN/transcoders."""
    sites = options.sites and tuple(options.sites)
    named = {} if options.plan is None else read_json(Path(options.plan), PlanError)
    if options.target is not None and "sites" not in named:
        sites = sites or TRANSCODED
    plan = inputs.planned(
        TrainingPlan,
        options.plan,
        sites=sites,
        target=options.target,
        n_features=options.features,
        k=options.k,
        n_tokens=options.tokens,
        seed=options.seed,
    )
    run = Run(options.run_folder, device=options.device)
    corpus = inputs.corpus_for(options, run.model, plan.seed)
    log = None if options.log is None else log_to(options.log, run.folder.path)
    place = run.folder.dictionaries if plan.target is None else run.folder.transcoders
    with inputs.saved_when_interrupted(place):
        trained = run_saes(run.folder.path, run.model, plan, corpus, options.device, log)
    return _answer({place / site.hook_name: each for site, each in trained.items()})


def sae_info(options: Namespace) -> Answer:
    """What the dictionaries of a run, or one dictionary, are."""
    where = Path(options.where)
    inputs.check_in_its_run(options.where, "sae train")
    if where.is_dir() and not is_dictionary(where):
        run = RunFolder(where)
        places = [place for place in (run.dictionaries, run.transcoders) if place.is_dir()]
        for place in places:  # known by their manifest
            Run(where, device="cpu").check_recorded(place, "sae train")
        found: dict[Path, Dictionary] = {}
        for place in places or [where]:
            loaded = load_dictionaries(place, device="cpu")
            found |= {place / site.hook_name: each for site, each in loaded.items()}
        return _answer(found)
    return _answer({where: load_dictionary(options.where, device="cpu")})


def sae_quality(options: Namespace) -> Answer:
    """How well each dictionary of a run stands in for its site, or a transcoder for its target."""
    run = Run(options.run_folder, None, options.device)
    # where there are transcoders alone, no autoencoder is missed
    alone = run.transcoders and not run.folder.dictionaries.exists()
    dictionaries = {} if alone else run.dictionaries
    corpus = inputs.held_out(options, run.model)
    how = {"n_documents": options.documents, "seed": options.seed}
    several = [*dictionaries.values(), *run.transcoders.values()]
    table = quality(several, run.model, corpus, **how).set_index("site")
    text, answer = [_shown(table.T), _QUALITY], table.to_dict("index")
    for transcoder in run.transcoders.values():
        into, out = mlp_sites(transcoder.read_site("sae quality").layer)
        known = {into, out} <= set(dictionaries)
        if not known or (transcoder.site, transcoder.target) != (into, out):
            continue
        pair = dictionaries[into], dictionaries[out]
        n = options.documents
        beside = transcoder_table(transcoder, *pair, run.model, corpus, n_documents=n)
        text += [_shown(beside), WHAT_IS_LOST]
        answer[f"{into} to {out}"]["beside"] = beside.to_dict("index")
    return Answer("\n\n".join(text), answer)


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(float_format=lambda value: f"{value + 0.0:.4g}")


def _answer(dictionaries: dict[Path, Dictionary]) -> Answer:
    rows = {folder: _row(folder, dictionary) for folder, dictionary in dictionaries.items()}
    text = "\n\n".join(map(lined, rows.values()))
    for folder, row in rows.items():
        if marks := [*_marks_of(folder, row)]:
            row["marks"] = marks
            for mark in marks:
                warn(mark, MarkWarning, stacklevel=1)  # a note below the text
    return Answer(text, {"dictionaries": [*rows.values()]})


def _row(folder: Path, dictionary: Dictionary) -> dict[str, Any]:
    row: dict[str, Any] = {
        "folder": str(folder),
        "site": None if dictionary.site is None else str(dictionary.site),
        **({} if dictionary.target is None else {"target": str(dictionary.target)}),
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


def _marks_of(folder: Path, row: Mapping[str, Any]) -> Iterator[str]:
    """What is said of shown numbers that are not known to be of this dictionary."""
    counts = folder / STATISTICS
    if counts.is_file() and noted_weights(counts) is None and not is_as_made(counts):
        yield f"{counts}: nothing records of which dictionary they are (an earlier version's)"
    if "fvu" in row and (mark := _mark_of(folder)):
        yield f"{folder / METRICS}: {mark}"


def _mark_of(folder: Path) -> str | None:
    """What is said of metrics that are not known to be those of the training in their folder."""
    if not (folder / RESULT).is_file():
        return f"no {RESULT} is beside it: nothing records where its numbers are from"
    known = read_json(folder / RESULT, DictionaryError).get(METRICS_HASH)
    if known is None:
        return "its training did not note its hash: an edit of its numbers would not be seen"
    if edited_notes(folder):
        return "edited after its training: its numbers may not be those measured"
    return None


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
