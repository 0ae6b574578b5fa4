"""Train the dictionaries of several sites in one pass of the model, to the same bits each time.

The first buffer gives each site's scale and centre. A scale that was trained in is undone in what
is saved, so that a dictionary takes the model's own activations.
"""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.arguments import checked
from circuits.corpus.documents import Corpus, split_corpus
from circuits.errors import DictionaryError, check_count, check_memory
from circuits.model.loading import chosen_device
from circuits.model.model import Model
from circuits.model.site import BySite, Site
from circuits.storage.checkpoint import check_numbers, fitting, optimizer_state, restore_optimizer
from circuits.storage.training_run import (
    Row,
    RunFiles,
    TrainingRun,
)
from sae.dictionary import Dictionary
from sae.formats.folders import write
from sae.loading import dictionary_in
from sae.training.mixer import Mixer, Place, check_summary, summary
from sae.training.plan import TrainingPlan
from sae.training.sources import Activations, ModelActivations
from sae.training.step import Coder, Measured

_DEAD_AFTER = 0.1  # of the run's tokens (or ten million) without being active, a feature is dead
_MOST_DEAD_AFTER = 10_000_000
_AT_A_TIME = 8192  # tokens whose statistics are taken
_ELSEWHERE = "leave its site out (--sites), or train in another run"
_MIDDLE, _ROUNDS = 2**14, 20  # tokens and rounds that a geometric median is made of

Log = Callable[[str, dict[str, float | int]], None]
"""Called at every step with a site and a row of its metrics."""


@checked
def train_saes(
    model: Model,
    corpus: Corpus,
    plan: TrainingPlan,
    out: str | Path,
    *,
    device: torch.device | str | None = None,
    checkpoint_every: int = 100,
    log: Log | None = None,
) -> BySite[Dictionary]:
    """Train a dictionary for each of the plan's sites into ``out/<hook name>``; with a target they
    are transcoders, named after what they read.

    An interrupted run resumes; a finished one is returned as it is. The first documents are held
    out.
    """
    training, _ = split_corpus(corpus)
    read = model.check_sites(plan.sites)
    targets = map(plan.target_of, read)
    source = ModelActivations(model, training, model.check_sites([*read, *targets]), plan.seed)
    return train_on(source, plan, out, device=device, checkpoint_every=checkpoint_every, log=log)


@checked
def train_on(
    source: Activations,
    plan: TrainingPlan,
    out: str | Path,
    *,
    device: torch.device | str | None = None,
    log: Log | None = None,
    checkpoint_every: int = 100,
) -> BySite[Dictionary]:
    """Like `train_saes`, on activations from a cache or of one's own; the sites are theirs, and
    with a target those of other points, each beside the target of its layer."""
    check_count("train_on", checkpoint_every, None, "checkpoint_every")
    widths, targets = source.widths, _targets(source.widths, plan)
    n_bytes = 4 * plan.n_buffer * sum(widths.values())
    for site, target in targets.items():  # two matrices, their gradients and moments
        n_bytes += 32 * widths[site] * plan.features_of(widths[site], target.point)
    check_memory("train_on", n_bytes, "Make the plan's n_buffer or n_features smaller.")
    made_of = {"plan": plan.as_dict(), "activations": source.made_of}
    folders = {site: Path(out) / site.hook_name for site in targets}
    name = sha256(json.dumps([made_of, list(map(str, widths))]).encode()).hexdigest()[:8]
    checkpoint = Path(out) / f"checkpoint-{name}.safetensors"
    files = RunFiles(tuple(folders.values()), checkpoint, made_of, _ELSEWHERE)
    if not files.finished:
        DictionaryTraining(source, plan, device, log).run(files, checkpoint_every)
    return BySite((site, dictionary_in(there, device=device)) for site, there in folders.items())


class DictionaryTraining(TrainingRun):
    """The autoencoders, or transcoders, of several sites in training, and their place in the
    text."""

    doing, shown, fault = "training dictionaries", "fvu", DictionaryError
    packages = ("torch", "bilinear-circuits")
    plan: TrainingPlan

    def __init__(
        self,
        source: Activations,
        plan: TrainingPlan,
        device: torch.device | str | None = None,
        log: Log | None = None,
    ) -> None:
        super().__init__(plan)
        self._source, self._log = source, log
        self._targets = _targets(source.widths, plan)
        self._device = chosen_device(device)
        self._mixer = Mixer(
            source, plan.n_buffer, plan.n_batch, plan.seed, plan.outlier, self._device
        )
        self.coders: dict[Site, Coder] = {}
        self._scales: dict[Site, float] = {}
        self._summaries: dict[str, dict[str, float | int]] = {}
        self._place = Place()

    def begin(self) -> None:
        """Start every autoencoder from the first buffer."""
        buffer = self._mixer.buffer(self._place)
        for site, x in buffer.items():
            if not bool(torch.isfinite(x.sum())):
                raise DictionaryError(
                    f"{site}: the first {len(x)} activations hold NaN or infinity, so nothing can "
                    f"be learned from them. Look at the model and its text."
                )
            self._summaries[str(site)] = summary(x)
            mean_square = float(x.double().square().mean())
            self._scales[site] = mean_square**-0.5 if mean_square > 0 else 1.0
        for site, target in self._targets.items():
            x, y = (buffer[at][:_AT_A_TIME] * self._scales[at] for at in (site, target))
            centres = [middle(buffer[at]) * self._scales[at] for at in (site, target)]
            transcodes = target != site
            self._add(site, centres[1], centres[0] if transcodes else None)
            self.coders[site].fit_length(x, y if transcodes else None)

    def _add(self, site: Site, offset: Tensor, centre: Tensor | None) -> None:
        plan, width = self.plan, len(offset)
        # each site has a start of its own, whichever others there are
        seed = int(sha256(f"{plan.seed} {site}".encode()).hexdigest()[:15], 16)
        self.coders[site] = Coder.start(
            width,
            plan.features_of(width, self._targets[site].point),
            torch.Generator().manual_seed(seed),
            offset,
            centre=centre,
            k=plan.k,
            activation=plan.activation,
            auxiliary=plan.auxiliary,
            dead_after=min(_MOST_DEAD_AFTER, int(_DEAD_AFTER * plan.n_tokens)),
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Every autoencoder, its optimizer and its counters; scales and the place in the text."""
        tensors: dict[str, Tensor] = {}
        for site, coder in self.coders.items():
            tensors |= optimizer_state(_named(site, coder.weights), coder.optimizer)
            tensors[f"tokens_since/{site}"] = coder.tokens_since
            tensors[f"threshold/{site}"] = coder.threshold
            if coder.centre is not None:
                tensors[f"centre/{site}"] = coder.centre
        scales = {str(site): scale for site, scale in self._scales.items()}
        place = vars(self._place)
        return tensors, {"place": place, "scales": scales, "summaries": self._summaries}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The way back from `state`."""
        widths = self._source.widths
        names = list(map(str, widths))
        check_numbers(values["scales"], above_zero=names)
        for name in names:
            check_summary(values["summaries"][name])
        self._scales = {site: values["scales"][str(site)] for site in widths}
        for site, target in self._targets.items():
            offset = torch.zeros(widths[site], device=self._device)
            centre = None
            if target != site:
                centre = fitting(tensors, f"centre/{site}", offset).to(offset)
            self._add(site, offset, centre)
            coder = self.coders[site]
            restore_optimizer(_named(site, coder.weights), coder.optimizer, tensors)
            for name, kept in (
                ("tokens_since", coder.tokens_since),
                ("threshold", coder.threshold),
            ):
                kept.copy_(fitting(tensors, f"{name}/{site}", kept))
        self._place, self._summaries = Place(**values["place"]), values["summaries"]
        self._place.check(names)
        self._mixer.buffer(self._place)  # the one to go on with; refused if there is no such place

    def batches(self) -> Iterator[tuple[dict[Site, Tensor], Place]]:
        """Shuffled batches for every site, each with the place after it."""
        return self._mixer.batches(self._place)

    def learn(self, batch: tuple[dict[Site, Tensor], Place]) -> dict[Site, Measured]:
        """One step of every autoencoder."""
        activations, self._place = batch
        rate = self.plan.rate(self.step)
        measured = {}
        for site, target in self._targets.items():
            x = activations[site] * self._scales[site]
            y = None if target == site else activations[target] * self._scales[target]
            measured[site] = self.coders[site].step(x, rate, y)
        self.n_tokens += self.plan.n_batch
        return measured

    def rows(self, measured: dict[Site, Measured]) -> list[Row]:
        """Each site's metrics, which wait for the device."""
        return [_row(measured[site], coder.n_feature) for site, coder in self.coders.items()]

    def check(self, row: Row, nth: int, checkpoint: Path) -> None:
        """Stop before anything that is not finite is saved; pass the row to the log."""
        site, finite = list(self.coders)[nth], row.pop("finite")
        if not (finite and math.isfinite(row["loss"])):
            what, remedy = "the activations hold NaN or infinity", "Look at the model and its text."
            if finite:
                what, remedy = "the loss is no longer finite", self.slower
            self.stop(f"step {row['step']}, site {site}", what, remedy, checkpoint)
        if self._log is not None:
            self._log(str(site), row)

    def results(self) -> Iterator[tuple[Callable[[Path], None], dict[str, Any]]]:
        """Each site's dictionary with its statistics, and what it was trained on."""
        tokens = self._mixer.buffer(self._place)
        for site in self.coders:
            dictionary = self.dictionary(site).measured(tokens[site].split(_AT_A_TIME))
            yield (
                partial(write, dictionary),
                {
                    "site": str(site),
                    "n_steps": self.step,
                    "n_tokens": self.n_tokens,
                    "n_outliers": self._mixer.n_masked(self._place),
                    "seconds": self.seconds,
                    "scale": self._scales[site],
                    "summary": self._summaries[str(site)],
                },
            )

    def dictionary(self, site: Site) -> Dictionary:
        """A site's autoencoder as it stands, for activations as the model has them."""
        coder, target, plan = self.coders[site], self._targets[site], self.plan
        scale = self._scales[target]  # of what is written, and so of the features' values
        unit, centre = coder.unit, coder.centre
        encoder = unit.encoder if centre is None else unit.encoder * (self._scales[site] / scale)
        bias = unit.bias if centre is None else unit.bias - unit.encoder @ centre
        together = plan.activation == "batchtopk"
        threshold = coder.settled_threshold(self.step).float().expand(coder.n_feature) / scale
        notes = {
            "hook_name": site.hook_name,
            "trained_by": "bilinear-circuits",
            "plan": plan.as_dict(),
            "activations": self._source.made_of,
        }
        return Dictionary(
            encoder,
            unit.decoder,
            bias / scale,
            coder.offset / scale,
            k=None if together else plan.k,
            threshold=threshold if together else None,
            relu=plan.activation != "signed_topk",
            site=site,
            notes=notes,
            target=None if target == site else target,
        )


def _targets(widths: dict[Site, int], plan: TrainingPlan) -> dict[Site, Site]:
    """Where each dictionary reads, and where it writes."""
    read = [site for site in widths if site.point != plan.target]
    targets = {site: plan.target_of(site) for site in read}
    faults = [
        f"{site} has {widths[site]} dimensions, {target} {widths.get(target, 'is missing')}"
        for site, target in targets.items()
        if widths.get(target) != widths[site]
    ]
    if faults or not read:
        raise DictionaryError(
            f"train_on: {'; '.join(faults) or f'there is no other site than {plan.target}'}. A "
            f"transcoder needs activations of the same tokens at a site and at its layer's target, "
            f"of one width."
        )
    return targets


def _named(site: Site, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{site}/{name}": weight for name, weight in weights.items()}


def middle(x: Float[Tensor, "token model"]) -> Float[Tensor, " model"]:
    """The geometric median of some tokens: a few outliers hardly move it."""
    x = x[:_MIDDLE]
    centre = x.mean(0)
    for _ in range(_ROUNDS):
        weights = 1 / torch.linalg.vector_norm(x - centre, dim=1).clamp(min=1e-12)
        centre = (weights @ x) / weights.sum()
    return centre


def _row(measured: Measured, n_feature: int) -> Row:
    """A row of metrics: numbers that have arrived."""
    loss, fvu, l0, finite = (float(measured[name]) for name in ("loss", "fvu", "l0", "finite"))
    row = {"loss": loss, "fvu": fvu, "explained_variance": 1 - fvu, "l0": l0}
    return {**row, "dead_share": int(measured["n_dead"]) / n_feature, "finite": bool(finite)}
