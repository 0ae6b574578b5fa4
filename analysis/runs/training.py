"""A run's model and dictionaries, trained and noted in its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.runs.alone import alone
from analysis.runs.folder import RunFolder
from circuits.corpus.documents import Corpus
from circuits.errors import CircuitsError, RunError
from circuits.model.identity import TWIN
from circuits.model.loading import load_model, ready_folder, ready_models
from circuits.model.model import Model
from circuits.model.plan import ModelPlan
from circuits.model.site import Site, as_sites
from circuits.model.training import Trained, train_model
from circuits.storage.files import content_hash, folder_written_whole, written_whole
from circuits.storage.manifest import read_manifest, record, was_edited
from circuits.storage.replacing import keep_aside, within
from circuits.storage.training_run import trained_files
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin, self_written_place
from sae.dictionary import Dictionary
from sae.training.plan import TRANSCODED, TrainingPlan
from sae.training.run import Log, train_saes

_OPTIONS = {"n_features": "features", "k": "k", "n_tokens": "tokens", "seed": "seed"}
"""Of `circuits sae train`, by the field of the plan that each sets."""


@alone
def run_model(
    run: str | Path, plan: ModelPlan, corpus: Corpus, device: str | None = None, **how: Any
) -> Trained:
    """``RUN/model``; ``how`` is handed to `train_model`."""
    folder = RunFolder(Path(run))
    trained = train_model(plan, corpus, within(folder.path, folder.model), device=device, **how)
    record(run, "model", {"plan": plan.as_dict(), "corpus": corpus.fingerprint}, trained.files)
    return trained


@alone
def run_twin(
    run: str | Path,
    path: str | Path,
    corpus: Corpus | None,
    plan: TwinPlan,
    *,
    command: str | None = None,
    **how: Any,
) -> Model:
    """``RUN/model``, the bilinear twin of a gated model; ``how`` is handed to `bilinear_twin`. A
    ``command`` other than `circuits model twin` that made it is noted."""
    folder = within(Path(run), RunFolder(Path(run)).model)
    twin = bilinear_twin(path, corpus, plan, folder, **how)
    assert twin.label is not None  # it has just been written
    made_of = {"plan": plan.as_dict(), "corpus": corpus and corpus.fingerprint}
    made_of |= {"original": twin.label.original_fingerprint}
    made_of |= {"self_written": how.get("self_written", 0)}
    made_of |= {} if command is None else {"command": command}
    made = trained_files(folder)
    if (written := self_written_place(folder)).is_file() and how.get("self_written"):
        made.append(written)
    record(run, "model", made_of, made)
    return twin


@alone
def run_brought(run: str | Path, path: str | Path, device: str | None = None) -> Model:
    """``RUN/model``, a copy of a bilinear model. One that is there already stays if it is the same,
    and is refused if it is another, or has another twin's label or one that was edited."""
    model, place = load_model(path, device=device), RunFolder(Path(run)).model
    if not place.exists():
        model.save(place)
    elif (there := load_model(place, device=device)).fingerprint != model.fingerprint:
        raise RunError(
            f"{place}: the model there is not {path}. Name another run, or move or remove this one."
        )
    elif there.label is not None and (was_edited(place / TWIN) or _differs(there, model)):
        raise RunError(
            f"{place / TWIN}: not the label of {path}, so it would be noted as if it were. Remove "
            f"it, or name another run."
        )
    made = [file for file in place.iterdir() if file.is_file()]
    record(run, "model", {"brought": model.fingerprint}, made)
    return model


def _differs(there: Model, model: Model) -> bool:
    """Whether two models' labels differ; earlier ones do not say of which whole model they are."""
    labels = [each.label and replace(each.label, fingerprint=None) for each in (there, model)]
    return labels[0] != labels[1]


@alone
def run_ready(run: str | Path, name: str) -> RunFolder:
    """``RUN/model``, ``RUN/saes`` and ``RUN/text``: copies of a model that comes with this package.

    What is there already stays if it is the same, and is refused if it is something else.
    """
    ready, folder = ready_folder(name), RunFolder(Path(run))
    if ready is None:
        raise RunError(
            f"'{name}' is no model that comes with this package: {', '.join(ready_models())}."
        )
    origin, text = RunFolder(ready), ready / "text"
    for place in (origin.model, origin.dictionaries, text):
        _copied(place, folder.path / place.name, folder.path)
    steps = {"model": origin.model, text.name: text}
    steps |= {f"{origin.dictionaries.name}/{p.name}": p for p in origin.dictionaries.iterdir()}
    for step, place in steps.items():
        made = [folder.path / step / file.name for file in place.iterdir()]
        record(run, step, {"ready": name}, made)
    return folder


def _copied(origin: Path, place: Path, run: Path) -> None:
    """Put a copy of a folder there, unless there is one; of one that was noted in the run, files
    that are not as they were are made anew, and changed ones kept aside."""
    files = {file.relative_to(origin): file for file in origin.rglob("*") if file.is_file()}
    if place.exists():
        ours = [e["made"] for e in read_manifest(run) if "ready" in e["made_of"]]
        known = {run / name: by["sha256"] for made in ours for name, by in made.items()}
        other = [name for name, file in files.items() if _differ(file, place / name)]
        if not {place / name for name in other} <= known.keys():
            raise RunError(
                f"{place}: its files are other ones than those that come with this package. Name "
                f"another run, or move or remove this one."
            )
        for name in sorted(other):
            (place / name).parent.mkdir(exist_ok=True)
            keep_aside(place / name, known[place / name])
            with written_whole(place / name) as file:
                file.write_bytes(files[name].read_bytes())
        return
    with folder_written_whole(place) as new:
        for name, file in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(file.read_bytes())


def _differ(file: Path, other: Path) -> bool:
    return not other.is_file() or content_hash(file) != content_hash(other)


@alone
def run_saes(
    run: str | Path,
    model: Model,
    plan: TrainingPlan,
    corpus: Corpus,
    device: str | None = None,
    log: Log | None = None,
) -> dict[Site, Dictionary]:
    """``RUN/saes/<hook name>``, or with a target ``RUN/transcoders/<hook name>``."""
    run_folder = RunFolder(Path(run))
    place = run_folder.dictionaries if plan.target is None else run_folder.transcoders
    for site in as_sites(plan.sites):
        within(run_folder.path, place / site.hook_name)
    trained = train_saes(model, corpus, plan, place, device=device, log=log)
    for site, dictionary in trained.items():
        made_of = {"plan": plan.as_dict(), "activations": dictionary.notes["activations"]}
        made = trained_files(place / site.hook_name)
        record(run, f"{place.name}/{site.hook_name}", made_of, made)
    return trained


def sae_options(plan: Any, *, transcoders: bool) -> list[str]:
    """The options of `circuits sae train` that give a plan, as a manifest notes it; of a plan that
    cannot be read, whether it was of transcoders."""
    try:
        known = TrainingPlan.from_dict(plan)
        sites = tuple(map(str, as_sites(known.sites)))
    except CircuitsError:
        return ["--target", "mlp_out"] * transcoders
    default = TrainingPlan(sites=TrainingPlan.sites if known.target is None else TRANSCODED)
    options = [] if sites == default.sites else ["--sites", *sites]
    options += [] if known.target is None else ["--target", known.target]
    theirs, ours = known.as_dict(), default.as_dict()
    differing = [name for name in ours if name != "sites" and theirs[name] != ours[name]]
    for name in _OPTIONS:
        options += [f"--{_OPTIONS[name]}", str(theirs[name])] if name in differing else []
    return [*options, "--plan", "FILE"] if set(differing) - _OPTIONS.keys() else options
