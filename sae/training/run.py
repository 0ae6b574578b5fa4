"""Train the dictionaries of several sites in one pass of the model, to the same bits each time.

    1. the plan, the model and the text name the run; a folder never holds two
    2. the first buffer tells each site's scale and middle, from which its autoencoder starts
    3. each step: a batch for every site by its place in the text, and one step of each autoencoder
    4. every so many steps, and at Ctrl-C or SIGTERM, the whole state goes to one file
    5. the finished dictionaries are put in place site by site, and the state is removed last

What a reader would get wrong: the buffer is no part of the state. It is filled again, from the
text, when a run goes on; and a scale that was trained in is undone in what is saved, so that a
dictionary is asked about the model's own activations.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.corpus.documents import Corpus
from circuits.errors import ActivationError, PlanError
from circuits.model.evaluation import parted
from circuits.model.loading import chosen_device
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.files import without_nan, write_json
from circuits.storage.progress import counted
from circuits.storage.training_run import (
    METRICS,
    RESULT,
    claimed,
    is_run,
    optimizer_state,
    put_in_place,
    restore_optimizer,
    save_state,
    saved_state,
    stop_requests,
    truncate_metrics,
)
from sae.dictionary import Dictionary
from sae.formats.folders import write
from sae.loading import load_dictionary
from sae.training.mixer import Mixer, Place, Summary
from sae.training.plan import TrainingPlan
from sae.training.sources import Activations, ModelActivations
from sae.training.step import Coder, Measured

_FLUSH = 10  # steps between two writes of metrics: on a GPU, each waits for the steps before
_DEAD_AFTER = 0.1  # of the run's tokens (or ten million) without being active, a feature is dead
_MOST_DEAD_AFTER = 10_000_000
_AT_A_TIME = 8192  # tokens whose statistics are taken
_MIDDLE, _ROUNDS = 2**14, 20  # tokens and rounds that a geometric median is made of

Log = Callable[[str, dict[str, float | int]], None]
"""Told a site and a row of its metrics, at every step."""


def train_saes(
    model: Model,
    corpus: Corpus,
    plan: TrainingPlan,
    out: str | Path,
    *,
    device: torch.device | str | None = None,
    checkpoint_every: int = 100,
    log: Log | None = None,
) -> dict[Site, Dictionary]:
    """Train a dictionary for each of the plan's sites into ``out/<hook name>``.

    Goes on where a run stopped; a finished run of the same plan, model and text is returned as it
    is. The first documents of the corpus are held out, as they are when models are trained.
    """
    training, _ = parted(corpus)
    source = ModelActivations(model, training, model.check_sites(plan.sites), plan.seed)
    return train_on(source, plan, out, device=device, checkpoint_every=checkpoint_every, log=log)


def train_on(
    source: Activations,
    plan: TrainingPlan,
    out: str | Path,
    *,
    device: torch.device | str | None = None,
    checkpoint_every: int = 100,
    log: Log | None = None,
) -> dict[Site, Dictionary]:
    """Like `train_saes`, on activations from a cache or of one's own; the sites are theirs."""
    if checkpoint_every < 1:
        raise PlanError(f"checkpoint_every is {checkpoint_every}: save every step or less often.")
    widths = source.widths
    for site, width in widths.items():
        plan.features_of(width, site.point)
    made_of = {"plan": plan.as_dict(), "activations": source.made_of}
    folders = {site: Path(out) / site.hook_name for site in widths}
    name = sha256(json.dumps([made_of, list(map(str, widths))]).encode()).hexdigest()[:8]
    checkpoint = Path(out) / f"checkpoint-{name}.safetensors"
    begun = [is_run(folder, made_of) for folder in folders.values()]
    ended = all((folder / RESULT).exists() for folder in folders.values())
    if all(begun) and ended and not checkpoint.exists():
        return _loaded(folders, device)
    run = Run(source, plan, device)
    if checkpoint.exists():
        run.resume(checkpoint, made_of)
    else:
        run.begin()  # what is wrong with the activations is told before anything is made
    with claimed(list(folders.values()), made_of):
        for folder in folders.values():
            truncate_metrics(folder / METRICS, run.step)
        with stop_requests() as stop:
            _train(run, folders, checkpoint, made_of, checkpoint_every, stop, log)
        return _finish(run, folders, checkpoint, made_of)


class Run:
    """Autoencoders on their way: their weights and how far they have come."""

    def __init__(
        self, source: Activations, plan: TrainingPlan, device: torch.device | str | None = None
    ) -> None:
        self.source, self.plan = source, plan
        self.device = chosen_device(device)
        self.mixer = Mixer(
            source, plan.n_buffer, plan.n_batch, plan.seed, plan.outlier, self.device
        )
        self.coders: dict[Site, Coder] = {}
        self.scales: dict[Site, float] = {}
        self.summaries: dict[str, dict[str, float | int]] = {}
        self.place = Place()
        self.step, self.seconds = 0, 0.0

    def begin(self) -> None:
        """Start every autoencoder from the first buffer."""
        for site, x in self.mixer.buffer(self.place).items():
            if not bool(torch.isfinite(x.sum())):
                raise ActivationError(
                    f"{site}: the first {len(x)} activations hold NaN or infinity. Nothing can be "
                    f"learnt from them: look at the model and its text."
                )
            summary = Summary.of(x)
            self.summaries[str(site)] = summary.as_dict()
            mean_square = float(x.double().square().mean())
            scale = mean_square**-0.5 if self.plan.normalise and mean_square > 0 else 1.0
            self._add(site, x.shape[1], scale, middle(x) * scale)
            self.coders[site].fit_length(x[:_AT_A_TIME] * scale)

    def _add(self, site: Site, width: int, scale: float, offset: Tensor) -> None:
        plan = self.plan
        # each site has a start of its own, whichever others there are
        seed = int(sha256(f"{plan.seed} {site}".encode()).hexdigest()[:15], 16)
        self.scales[site] = scale
        self.coders[site] = Coder.start(
            width,
            plan.features_of(width, site.point),
            torch.Generator().manual_seed(seed),
            offset,
            k=plan.k,
            activation=plan.activation,
            auxiliary=plan.auxiliary,
            dead_after=min(_MOST_DEAD_AFTER, int(_DEAD_AFTER * plan.n_tokens)),
        )

    def resume(self, checkpoint: Path, made_of: dict[str, Any]) -> None:
        """Take up the state that a checkpoint holds."""
        with saved_state(checkpoint, made_of) as (tensors, header):
            for site, width in self.source.widths.items():
                offset = torch.zeros(width, device=self.device)
                self._add(site, width, header["scales"][str(site)], offset)
                coder = self.coders[site]
                restore_optimizer(_named(site, coder.weights), coder.optimizer, tensors)
                coder.tokens_since.copy_(tensors[f"tokens_since/{site}"])
                coder.threshold.copy_(tensors[f"threshold/{site}"])
            self.place = Place(**header["place"])
            self.step, self.seconds = header["step"], header["seconds"]
            self.summaries = header["summaries"]

    def save(self, checkpoint: Path, made_of: dict[str, Any]) -> None:
        """Write the whole state."""
        tensors: dict[str, Tensor] = {}
        for site, coder in self.coders.items():
            tensors |= optimizer_state(_named(site, coder.weights), coder.optimizer)
            tensors[f"tokens_since/{site}"] = coder.tokens_since
            tensors[f"threshold/{site}"] = coder.threshold
        header = {
            "made_of": made_of,
            "place": vars(self.place),
            "step": self.step,
            "seconds": self.seconds,
            "scales": {str(site): scale for site, scale in self.scales.items()},
            "summaries": self.summaries,
        }
        save_state(checkpoint, tensors, header)

    def learn(self, batch: dict[Site, Tensor], after: Place) -> dict[Site, Measured]:
        """One step of every autoencoder."""
        rate = self.plan.rate(self.step)
        measured = {}
        for site, x in batch.items():
            scale = self.scales[site]
            measured[site] = self.coders[site].step(x if scale == 1 else x * scale, rate)
        self.step += 1
        self.place = after
        return measured

    def dictionary(self, site: Site) -> Dictionary:
        """What a site's autoencoder has come to, for the activations as the model has them."""
        coder, scale, plan = self.coders[site], self.scales[site], self.plan
        unit = coder.unit
        together = plan.activation == "batchtopk"
        threshold = coder.settled_threshold(self.step).float().expand(coder.n_feature) / scale
        notes = {
            "hook_name": site.hook_name,
            "trained_by": "bilinear-circuits",
            "plan": plan.as_dict(),
            "activations": self.source.made_of,
        }
        return Dictionary(
            unit.encoder,
            unit.decoder,
            unit.bias / scale,
            coder.offset / scale,
            k=None if together else plan.k,
            threshold=threshold if together else None,
            relu=plan.activation != "signed_topk",
            site=site,
            notes=notes,
        )


def _named(site: Site, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{site}/{name}": weight for name, weight in weights.items()}


def middle(x: Float[Tensor, "token model"]) -> Float[Tensor, " model"]:
    """The geometric median of some tokens, which no few of them can draw away."""
    x = x[:_MIDDLE]
    centre = x.mean(0)
    for _ in range(_ROUNDS):
        weights = 1 / torch.linalg.vector_norm(x - centre, dim=1).clamp(min=1e-12)
        centre = (weights @ x) / weights.sum()
    return centre


def _train(
    run: Run,
    folders: dict[Site, Path],
    checkpoint: Path,
    made_of: dict[str, Any],
    checkpoint_every: int,
    stop: Callable[[], int | None],
    log: Log | None,
) -> None:
    n_steps, before, began = run.plan.n_steps, run.seconds, time.perf_counter()
    first, waiting = run.step, []
    bar = counted(n_steps, "training dictionaries", "step", run.step)
    with ExitStack() as files, bar:
        metrics = {
            site: files.enter_context((folder / METRICS).open("a", encoding="utf-8"))
            for site, folder in folders.items()
        }
        for batch, after in islice(run.mixer.batches(run.place), n_steps - run.step):
            rate = run.plan.rate(run.step)
            waiting.append((run.step + 1, rate, run.learn(batch, after)))
            stopped, last = stop(), run.step == n_steps
            saving = stopped or last or run.step % checkpoint_every == 0
            if not saving and len(waiting) < _FLUSH:
                continue
            rows = [
                (site, {"step": step, **_told(measured[site]), "learning_rate": rate})
                for step, rate, measured in waiting
                for site in folders
            ]  # waits for the GPU
            run.seconds = before + time.perf_counter() - began
            speed = (run.step - first) * run.plan.n_batch / (run.seconds - before)
            for site, row in rows:
                _check(site, row, checkpoint)
                row.pop("finite")
                metrics[site].write(_line({**row, "tokens_per_second": round(speed)}))
                if log is not None:
                    log(str(site), row)
            for file in metrics.values():
                file.flush()
            fvu = " ".join(f"{row['fvu']:.3f}" for _, row in rows[-len(folders) :])
            bar.set_postfix({"fvu": fvu, "tok/s": f"{speed:.0f}"}, refresh=False)
            bar.update(len(waiting))
            waiting.clear()
            if saving:
                run.save(checkpoint, made_of)
            if stopped:
                return


def _told(measured: Measured) -> dict[str, float | int]:
    """A row of metrics: numbers that have arrived."""
    fvu = float(measured.fvu)
    return {
        "loss": float(measured.loss),
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "l0": float(measured.n_active),
        "dead_share": measured.n_dead / measured.n_feature,
        "finite": bool(measured.finite),
    }


def _line(row: dict[str, float | int]) -> str:
    """As JSON: the share of a variance that is zero is null."""
    return json.dumps(without_nan(row), allow_nan=False) + "\n"


def _check(site: Site, row: dict[str, float | int], checkpoint: Path) -> None:
    """Stop before anything that is not a number is saved."""
    if row["finite"] and math.isfinite(row["loss"]):
        return
    if row["finite"]:
        what, remedy = "the loss is no longer finite", "Lower the learning rate."
    else:
        what, remedy = "the activations hold NaN or infinity", "Look at the model and its text."
    kept = "no checkpoint had been written yet"
    if checkpoint.exists():
        kept = f"the checkpoint before it, {checkpoint}, is kept"
    raise ActivationError(f"step {row['step']:.0f}, site {site}: {what}; {kept}. {remedy}")


def _finish(
    run: Run, folders: dict[Site, Path], checkpoint: Path, made_of: dict[str, Any]
) -> dict[Site, Dictionary]:
    tokens = run.mixer.buffer(run.place)
    for site, folder in folders.items():
        dictionary = run.dictionary(site).measured(tokens[site].split(_AT_A_TIME))
        with put_in_place(folder) as files:
            write(dictionary, files)
        versions = {name: version(name) for name in ("torch", "bilinear-circuits")}
        result = {
            "site": str(site),
            "n_steps": run.step,
            "n_tokens": run.step * run.plan.n_batch,
            "n_outliers": run.mixer.n_masked(run.place),
            "seconds": run.seconds,
            "scale": run.scales[site],
            "summary": run.summaries[str(site)],
            **made_of,
            "versions": {**versions, "python": platform.python_version()},
        }
        write_json(folder / RESULT, result)
    checkpoint.unlink(missing_ok=True)
    return _loaded(folders, run.device)


def _loaded(folders: dict[Site, Path], device: torch.device | str | None) -> dict[Site, Dictionary]:
    return {site: load_dictionary(folder, device=device) for site, folder in folders.items()}
