"""Training and reading against the least that could do it, and what training comes to.

The bare loop is the same network, batches and optimizer without checkpoints, metrics, signals and
progress. The twins are one plan with other activations, all of them with equally many weights.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import get_args

import torch
from torch.nn import functional

from benchmarks.measure import fastest, machine, side_by_side, table
from circuits.corpus import built_in
from circuits.corpus.batches import CHUNK, BatchPlan, batches
from circuits.corpus.tokenizer import train_tokenizer
from circuits.model import Model, ModelPlan, ModelShape, load_model, train_model
from circuits.model.network_training import Precision, bfloat16_gain
from circuits.model.training import ModelTraining, new_network

TWINS = {
    "bilinear": ("linear", True),
    "SwiGLU": ("silu", True),
    "GEGLU": ("gelu", True),
    "ReGLU": ("relu", True),
    "GELU": ("gelu", False),
    "ReLU": ("relu", False),
}


def bare_loop(plan: ModelPlan, tokenizer: object, device: str) -> None:
    """What the training loop would be if nothing could go wrong."""
    network = new_network(plan, tokenizer).to(device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), fused=True
    )
    text = batches(
        built_in(plan.seed).part(2000), tokenizer, BatchPlan(plan.n_rows, plan.window, plan.seed)
    )
    for batch in islice(text, plan.n_steps):
        tokens, mask = batch.tokens.to(device), batch.mask[:, 1:].to(device)
        with torch.autocast(device, torch.bfloat16, device == "cuda"):
            hidden = network.model(tokens[:, :-1], use_cache=False).last_hidden_state
            logits = network.lm_head(hidden[mask])
        loss = functional.cross_entropy(logits.float(), tokens[:, 1:][mask])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.step()


def throughput(device: str, folder: Path, n_steps: int = 60, times: int = 5) -> tuple[str, ...]:
    plan = ModelPlan(n_steps=n_steps)
    tokenizer = train_tokenizer(built_in(0).part(2000))
    rounds = iter(range(1000))

    def ours() -> float:
        out = folder / f"speed{next(rounds)}"
        trained = train_model(plan, built_in(0), out, tokenizer=tokenizer, device=device)
        return trained.seconds

    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(times):
        taken["ours"].append(ours())
        start = time.perf_counter()
        bare_loop(plan, tokenizer, device)
        taken["bare"].append(time.perf_counter() - start)
    ours_best, bare_best = (min(seconds) for seconds in taken.values())
    return (
        f"training, {n_steps} steps",
        f"{ours_best / n_steps * 1e3:.1f} ms a step",
        f"{ours_best / bare_best:.2f}x the bare loop",
        "<= 1.15x",
    )


def generating() -> tuple[str, ...]:
    """Stories with their ground truth, on one thread: faster than any model reads them."""
    first = iter(range(0, 10**6, CHUNK))
    seconds = fastest(lambda: built_in(0).stories(start := next(first), start + CHUNK), 15)
    rate = CHUNK / seconds
    return (
        "stories with ground truth",
        f"{seconds * 1e3:.1f} ms for {CHUNK}",
        f"{rate:.0f}/s",
        ">= 40000/s",
    )


def reading(model: Model, device: str) -> list[tuple[str, ...]]:
    tokens = torch.randint(4, model.n_token, (64, 64)).to(device)
    inner, last = model.network.model, model.n_layer - 1
    cut = load_model(model.path, device=device).network.model
    rows = []
    for layer in (0, last):
        cut.config.num_hidden_layers = layer + 1  # transformers runs the first layers only

        def forward() -> object:
            return cut(tokens, use_cache=False)

        def read(layer: int = layer) -> object:
            return model.read(tokens, f"mlp_out@{layer}")

        with torch.no_grad():
            taken = side_by_side({"forward": forward, "read": read}, times=31)
        rows.append(
            (
                f"reading mlp_out@{layer} of {len(inner.layers)} layers",
                f"{taken['read'] * 1e3:.1f} ms",
                f"{taken['read'] / taken['forward']:.2f}x a forward pass of {layer + 1} layers",
                "<= 1.15x",
            )
        )
    return rows


def twins(device: str, folder: Path, n_steps: int, seed: int = 0) -> list[tuple[str, ...]]:
    rows = []
    for name, (activation, gated) in TWINS.items():
        shape = ModelShape(activation=activation, gated=gated)
        plan = ModelPlan(shape, n_steps=n_steps, seed=seed)
        trained = train_model(plan, built_in(seed), folder / name, device=device)
        measured = trained.held_out
        right = min(measured.reactions.values())
        rows.append(
            (
                name,
                f"{trained.n_parameters}",
                f"{measured.loss:.4f}",
                f"{measured.gap:.4f}",
                f"{right:.3f}",
                f"{trained.tokens_per_second:.0f}",
                f"{seed}",
            )
        )
    return rows


def seeds(device: str, folder: Path, n_seeds: int = 10) -> list[tuple[str, ...]]:
    rows = []
    for seed in range(n_seeds):
        trained = train_model(
            ModelPlan(seed=seed), built_in(seed), folder / f"seed{seed}", device=device
        )
        right = trained.held_out.reactions
        rows.append(
            (
                f"{seed}",
                *(f"{right[case]:.4f}" for case in right),
                f"{trained.held_out.n_reactions}",
                f"{trained.held_out.gap:.4f}",
                f"{trained.seconds:.0f} s",
            )
        )
    return rows


def speed(device: str) -> str:
    """Training against a bare loop, reading against a forward pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        deep = replace(ModelPlan(n_steps=1), shape=ModelShape(n_layer=4))
        train_model(deep, built_in(0), folder / "deep", device=device)
        model = load_model(folder / "deep", device=device)
        rows = [throughput(device, folder), *reading(model, device), generating()]
    return f"{machine()}.\n\n" + table(rows, ("what", "time", "ratio", "wanted"))


def precisions(device: str, n_steps: int = 240) -> str:
    """A wide model trained in bfloat16 beside float32: speed in turns, and both curves."""
    plan = ModelPlan(ModelShape(4, 256, 1024, 4), n_steps, n_rows=32, window=256)
    text = built_in(0)
    tokenizer = train_tokenizer(text.part(2000))
    both = {
        precision: ModelTraining(plan, text, tokenizer, device, precision)
        for precision in get_args(Precision)[1:]
    }
    streams = {name: training.batches() for name, training in both.items()}
    seconds: dict[str, list[float]] = {name: [] for name in both}
    curves: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(n_steps):
        for name, training in both.items():
            batch, start = next(streams[name]), time.perf_counter()
            curves[name].append(float(training.learn(batch)[0]))
            seconds[name].append(time.perf_counter() - start)
            training.step += 1
    taken = {name: statistics.median(times) for name, times in seconds.items()}
    means = {name: torch.tensor(curve).view(-1, 20).mean(1) for name, curve in curves.items()}
    apart = (means["float32"] - means["bfloat16"]).abs()
    rows = [
        (name, f"{taken[name] * 1e3:.0f} ms", f"{taken['float32'] / taken[name]:.2f}x",
         f"{means[name][-1]:.4f}", f"{apart.max():.4f}" if name == "bfloat16" else "")
        for name in both
    ]  # fmt: skip
    head = ("precision", "a step", "speed", "loss of the last 20 steps", "curves at most apart")
    about = (
        f"{machine()}. {plan.shape.n_layer} layers, width {plan.shape.d_model}, hidden "
        f"{plan.shape.d_hidden}; {n_steps} steps of {plan.n_rows} rows of {plan.window}, in turns, "
        f"seed 0; curves are means of 20 steps. Products alone: "
        f"{bfloat16_gain(plan.shape.d_model, plan.shape.d_hidden):.1f}x."
    )
    return f"{about}\n\n" + table(rows, head)


def losses(device: str, n_steps: int = 700) -> str:
    """The bilinear model and its twins of equal size."""
    head = ("MLP", "weights", "held-out loss", "gap to floor", "least right", "tok/s", "seed")
    with tempfile.TemporaryDirectory() as name:
        return f"{machine()}.\n\n" + table(twins(device, Path(name), n_steps), head)


def seed_table(device: str, n_seeds: int = 10) -> str:
    """The default model of the built-in stories, trained from several seeds."""
    head = ("seed", "good", "not good", "bad", "not bad", "reactions", "gap to floor", "training")
    with tempfile.TemporaryDirectory() as name:
        return f"{machine()}.\n\n" + table(seeds(device, Path(name), n_seeds), head)
