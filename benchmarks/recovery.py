"""Known features, hidden in activations and recovered: ours beside plain sae-lens.

    1. more directions than dimensions write activations, a few features on each token
    2. both train on the same batches in the same order, with equal rate, k and number of features
    3. what they learned is compared with the truth, beside two controls that learned nothing

A low error is not recovery: tokens themselves, taken as directions,
explain a good part of other tokens; so directions are compared, and each may stand for one feature
only. The activations are made here, not by ``sae_lens.synthetic``, because that draws from the one
generator that everything in a process shares.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, cycle
from statistics import mean, stdev
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import machine, table
from sae import Dictionary, TensorActivations, TrainingPlan, load_dictionary, train_on
from sae.training.run import DictionaryTraining

FOUND = 0.9
"""The cosine above which a learned direction stands for a true one."""

N_BATCH, N_HELD_OUT = 2048, 2**15
CONTROLS = ("random: our start", "tokens as directions")
HEAD = (
    *("truth", "learned by", "rate", "cosine of true", "of learned"),
    *("recall", "precision", "FVU", "dead"),
)

_CAUSES = 8  # hidden ones, which make features fire together
_SCALED_BY = 8  # batches that sae-lens takes its scale from
_SEEDS = 2**31  # far from the seeds of training: an equal one would start it at the truth


@dataclass(frozen=True)
class Problem:
    """How activations are made; features outnumber dimensions, so none is read cleanly."""

    name: str
    d_model: int = 64
    n_true: int = 192
    n_active: float = 5.0  # features on a token, on average
    together: float = 0.0  # the share of a few common causes in whether a feature is active
    noise: float = 0.0  # the share of the activation's variance that no feature has written
    rarest: float = 1.0  # the rarest feature's frequency over the commonest's, falling as 1/rank

    @property
    def k(self) -> int:
        """What is trained with."""
        return round(self.n_active)

    def frequencies(self) -> Tensor:
        """The share of tokens on which each feature fires."""
        falling = 1 / torch.arange(1, self.n_true + 1).double()
        shares = (falling - falling[-1]) / (falling[0] - falling[-1])
        shares = self.rarest + (1 - self.rarest) * shares
        return shares * self.n_active / shares.sum()


PROBLEMS = (
    Problem("superposition"),
    Problem("correlated", together=0.5),
    Problem("noise", noise=0.2),
    Problem("heavy-tailed", rarest=1 / 64),
)


@dataclass(frozen=True, eq=False)
class Truth:
    """The directions of a problem, and the tokens that they write."""

    problem: Problem
    seed: int

    @cached_property
    def directions(self) -> Tensor:
        """``feature model``, of length one."""
        made = torch.randn(self.problem.n_true, self.problem.d_model, generator=self._rng(0))
        return functional.normalize(made, dim=1)

    def tokens(self, part: int, n_token: int) -> Tensor:
        """``token model``; another part, other tokens of the same features."""
        problem, rng = self.problem, self._rng(1)
        shared = torch.randn(problem.n_true, _CAUSES, generator=rng)
        shared = functional.normalize(shared, dim=1) * problem.together**0.5
        # fires where a normal number is beyond its quantile, so as often as it should
        least = torch.special.ndtri(1 - problem.frequencies()).float()
        rng = self._rng(2 + part)
        causes = torch.randn(n_token, _CAUSES, generator=rng) @ shared.mT
        alone = torch.randn(n_token, problem.n_true, generator=rng)
        fires = causes + (1 - problem.together) ** 0.5 * alone > least
        strength = 1 + 0.3 * torch.randn(n_token, problem.n_true, generator=rng)
        written = (fires * strength.relu()) @ self.directions
        variance = written.var(0).mean() * problem.noise / (1 - problem.noise)
        return written + variance.sqrt() * torch.randn(written.shape, generator=rng)

    def _rng(self, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(_SEEDS + 1_000_003 * self.seed + part)


def recovery(learned: Tensor, true: Tensor) -> dict[str, float]:
    """How much of the truth (``feature model``) some directions hold.

    ``true_cosine`` is the mean over true features of the largest cosine with any learned one,
    ``learned_cosine`` the other way round. ``recall`` and ``precision`` are the shares of true and
    of learned features in the largest set of pairs above `FOUND` in which none occurs twice.
    """
    cosines = functional.normalize(true, dim=1) @ functional.normalize(learned, dim=1).mT
    above = (cosines > FOUND).numpy()
    n_found = int(above[linear_sum_assignment(above, maximize=True)].sum())
    return {
        "true_cosine": float(cosines.amax(1).mean()),
        "learned_cosine": float(cosines.amax(0).mean()),
        "recall": n_found / len(true),
        "precision": n_found / len(learned),
    }


def measured(dictionary: Dictionary, truth: Truth, held_out: Tensor) -> dict[str, float]:
    """A dictionary against the truth, and on tokens that it was not trained on."""
    error = dictionary.error(held_out).square().sum()
    n_dead = int((dictionary.active(held_out).counts == 0).sum())
    return {
        **recovery(dictionary.decoder, truth.directions),
        "fvu": float(error / (held_out - held_out.mean(0)).square().sum()),
        "dead": n_dead / dictionary.n_feature,
    }


def ours(batches: list[Tensor], plan: TrainingPlan) -> Dictionary:
    """Trained by `train_on`, batch by batch as they are given."""
    with tempfile.TemporaryDirectory() as out:
        (trained,) = train_on(TensorActivations(batches), plan, out, device="cpu").values()
    return trained


def sae_lens(batches: list[Tensor], plan: TrainingPlan, *, like_ours: bool = False) -> Dictionary:
    """Trained by sae-lens: with its defaults, or scaled and scheduled as ours is."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(
        d_in=batches[0].shape[1],
        d_sae=plan.features_of(batches[0].shape[1]),
        k=plan.k,
        normalize_activations="expected_average_only_in" if like_ours else "none",
    )
    schedule: dict[str, Any] = {
        "lr_warm_up_steps": plan.n_steps // 20,
        "lr_decay_steps": plan.n_steps // 5,
        "dead_feature_window": plan.n_steps // 10,
        "n_batches_for_norm_estimate": _SCALED_BY,
    }
    trainer = SAETrainerConfig(
        total_training_samples=plan.n_tokens,
        train_batch_size_samples=plan.n_batch,
        lr=plan.learning_rate,
        lr_end=plan.learning_rate,  # from which the decay begins
        **(schedule if like_ours else {}),
    )
    batches_in_turn = chain(batches[:_SCALED_BY] if like_ours else (), cycle(batches))
    with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):  # its progress bar
        torch.manual_seed(plan.seed)
        trained = SAETrainer(trainer, TopKTrainingSAE(config), batches_in_turn).fit()
    with tempfile.TemporaryDirectory() as out:
        trained.save_inference_model(out)
        return load_dictionary(out, device="cpu")


def start(batches: list[Tensor], plan: TrainingPlan) -> Dictionary:
    """What `ours` starts from, before its first step: random directions, read by themselves."""
    run = DictionaryTraining(TensorActivations(batches), plan, "cpu")
    run.begin()
    (site,) = run.coders
    return run.dictionary(site)


def of_tokens(batches: list[Tensor], plan: TrainingPlan) -> Dictionary:
    """Some tokens as directions: they hold true features, though hardly one alone."""
    offset = batches[0].mean(0)
    rows = functional.normalize(batches[0][: plan.n_features] - offset, dim=1)
    return Dictionary(rows, rows, rows.new_zeros(len(rows)), offset, k=plan.k)


WAYS: dict[str, Callable[[list[Tensor], TrainingPlan], Dictionary]] = {
    "ours": ours,
    "sae-lens": sae_lens,
    "sae-lens, our schedule": partial(sae_lens, like_ours=True),
    **dict(zip(CONTROLS, (start, of_tokens), strict=True)),
}


def plan_of(problem: Problem, batches: list[Tensor], rate: float, seed: int) -> TrainingPlan:
    """As many features as there are, and batches as they come: a buffer holds just one."""
    n_batch = len(batches[0])
    return TrainingPlan(
        n_features=problem.n_true,
        k=problem.k,
        n_tokens=n_batch * len(batches),
        n_batch=n_batch,
        n_buffer=n_batch,
        learning_rate=rate,
        seed=seed,
    )


def attempts(
    problem: Problem, rates: tuple[float, ...], n_tokens: int, n_seeds: int
) -> dict[tuple[str, float], list[dict[str, float]]]:
    """What each way comes to at each rate, seed by seed; all of them on the same batches."""
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in range(n_seeds):
        truth = Truth(problem, seed)
        batches = [truth.tokens(part, N_BATCH) for part in range(n_tokens // N_BATCH)]
        held_out = truth.tokens(len(batches), N_HELD_OUT)
        for rate in rates:
            plan = plan_of(problem, batches, rate, seed)
            for name, way in WAYS.items():
                if name not in CONTROLS or rate == rates[0]:  # controls learn at no rate
                    one = measured(way(batches, plan), truth, held_out)
                    found.setdefault((name, rate), []).append(one)
    return found


def run(n_tokens: int = 1_000_000, n_seeds: int = 3, rates: tuple[float, ...] = (4e-3,)) -> str:
    """Every problem and every way: means over seeds, and their standard deviations."""
    rows = []
    for problem in PROBLEMS:
        for (name, rate), found in attempts(problem, rates, n_tokens, n_seeds).items():
            values = {key: [one[key] for one in found] for key in found[0]}
            shown = (f"{mean(v):.3f} ± {stdev(v):.3f}" for v in values.values())
            rows.append((problem.name, name, "" if name in CONTROLS else f"{rate:g}", *shown))
    first = PROBLEMS[0]
    said = (
        f"{first.n_true} features in {first.d_model} dimensions, {first.n_active:g} on a token; "
        f"k = {first.k}, {first.n_true} features learned from {n_tokens // N_BATCH} batches of "
        f"{N_BATCH} tokens; means ± standard deviations of seeds 0 to {n_seeds - 1}; found is a "
        f"cosine above {FOUND}; errors and dead features over {N_HELD_OUT} further tokens."
    )
    return f"{machine()}.\n\n{said}\n\n" + table(rows, HEAD)
