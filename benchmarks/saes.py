"""A training step against sae-lens' on the same batches, several sites at once, and what it holds.

Both begin with the same weights, see the same tokens in the same order at the same falling rate,
and are then asked how much of other tokens' variance they leave unexplained. The bound is what a
step would take that multiplied densely: ten products of ``token x feature x model``, at the fastest
rate of any float32 product here.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from analysis import quality, transcoder_table
from analysis.transcoder_quality import WHAT_IS_LOST
from benchmarks.measure import cell, extra_memory, gemm_peak, machine, table
from circuits.corpus import built_in
from circuits.corpus.documents import split_corpus
from circuits.model import ModelPlan, load_model, train_model
from circuits.model.site import mlp_sites
from sae import TrainingPlan, train_saes
from sae.training.mixer import Mixer, Place
from sae.training.sources import ModelActivations
from sae.training.step import Coder

N_BATCH, N_BATCHES, RATE = 4096, 64, 2e-3
SIZES = (  # model, features, k, steps, wanted ratio
    (128, 512, 8, 300, 2.5),
    (128, 1024, 16, 200, 3.5),
    (128, 4096, 32, 100, 6.0),
    (512, 8192, 32, 24, None),
)
ON_CUDA = ((1024, 65_536, 32, 24, None),)  # on a processor, minutes of dense products
_BOUNDED = 8192  # features; of more, nobody would multiply densely


def sparse_sums(d_model: int, n_true: int, k: int, n_token: int, seed: int = 0) -> Tensor:
    """Tokens that are sums of a few of many directions, with a little noise and an offset."""
    draw = torch.Generator().manual_seed(seed)
    truth = functional.normalize(torch.randn(n_true, d_model, generator=draw))
    offset = 0.3 * torch.randn(d_model, generator=draw)
    parts = []
    for _ in range(0, n_token, N_BATCH):
        chosen = torch.randint(0, n_true, (N_BATCH, k), generator=draw)
        size = 0.5 + torch.rand(N_BATCH, k, generator=draw)
        exact = functional.embedding_bag(chosen, truth, per_sample_weights=size, mode="sum")
        parts.append(exact + offset + 0.02 * torch.randn(N_BATCH, d_model, generator=draw))
    return torch.cat(parts)[:n_token]


def sae_lens_trainer(start: Coder, batches: Iterator[Tensor], device: str) -> Any:
    """sae-lens' own trainer of a TopK autoencoder from our start, with nothing logged or saved."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(
        d_in=start.d_model, d_sae=start.n_feature, k=start.k, device=device
    )
    how: dict[str, Any] = {
        "n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False,
        "total_training_samples": 10**9, "device": device, "autocast": False, "lr": RATE,
        "lr_end": RATE, "lr_scheduler_name": "constant", "lr_warm_up_steps": 0,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "lr_decay_steps": 0, "n_restart_cycles": 1,
        "train_batch_size_samples": N_BATCH, "dead_feature_window": 1000,
        "feature_sampling_window": 2000, "logger": LoggingConfig(log_to_wandb=False),
    }  # fmt: skip
    sae = TopKTrainingSAE(config)
    with torch.no_grad():
        sae.W_enc.copy_(start.encoder.mT)
        sae.W_dec.copy_(start.decoder)
        sae.b_dec.copy_(start.offset)
    return SAETrainer(SAETrainerConfig(**how), sae, batches)


def unexplained(x: Tensor, reconstruction: Tensor) -> float:
    return float((x - reconstruction).square().sum() / (x - x.mean(0)).square().sum())


def timed(step: Any, device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def against_sae_lens(
    d_model: int, n_feature: int, k: int, n_steps: int, wanted: float | None, device: str
) -> tuple[str, ...]:
    x = sparse_sums(d_model, n_feature, max(4, k // 2), N_BATCH * (N_BATCHES + 1)).to(device)
    held_out, batches = x[:N_BATCH], x[N_BATCH:].split(N_BATCH)
    coder = Coder.start(
        d_model, n_feature, torch.Generator().manual_seed(0), x[: 4 * N_BATCH].mean(0), k=k
    )
    coder.fit_length(batches[0])
    trainer = sae_lens_trainer(coder, cycle(batches), device)
    taken: dict[str, list[float]] = {"ours": [], "sae-lens": []}
    for i, batch in enumerate(
        islice(cycle(batches), n_steps)
    ):  # in turns: a slow moment meets both
        rate = RATE * (1 - i / n_steps)
        trainer.optimizer.param_groups[0]["lr"] = rate
        taken["ours"].append(timed(lambda b=batch, r=rate: coder.step(b, r), device))
        taken["sae-lens"].append(timed(lambda: trainer.step(next(trainer.data_provider)), device))
    centred = held_out - coder.offset
    unit = coder.unit
    ours = unexplained(centred, coder.encode(centred, unit).times(unit.decoder))
    theirs = unexplained(held_out, trainer.sae(held_out).detach())
    seconds = {name: sorted(times)[len(times) // 2] for name, times in taken.items()}
    rate = N_BATCH / seconds["ours"]
    bound = gemm_peak(device) / (10 * n_feature * d_model) if n_feature <= _BOUNDED else None
    return (
        f"d {d_model}, {n_feature} features, k {k}",
        f"{rate:.0f}",
        f"{N_BATCH / seconds['sae-lens']:.0f}",
        f"{seconds['sae-lens'] / seconds['ours']:.1f}x",
        "-" if wanted is None else f">= {wanted}x",
        "-" if bound is None else f"{rate / bound:.2f}",
        f"{ours:.4f} / {theirs:.4f}",
        f"{n_steps}",
    )


def together(folder: Path, device: str) -> list[tuple[str, ...]]:
    """Three sites in one run against three steps and a forward pass, each timed alone."""
    trained = train_model(ModelPlan(n_steps=20), built_in(0), folder / "model", device=device)
    model = load_model(trained.folder, device=device)
    plan = TrainingPlan()
    source = ModelActivations(model, built_in(0).part(2000), model.check_sites(plan.sites))
    mixer = Mixer(source, plan.n_buffer, plan.n_batch, 0, None, device)
    n_rounds, seconds = 3, {"run": 1e9, "steps": 1e9, "read": 1e9}
    buffer = mixer.buffer(next(mixer.batches())[1])
    for i in range(n_rounds):
        start = time.perf_counter()
        train_saes(model, built_in(0), plan, folder / f"run{i}", device=device)
        seconds["run"] = min(seconds["run"], time.perf_counter() - start)
        taken = 0.0
        for site in source.sites:
            x = buffer[site]
            coder = Coder.start(128, 256, torch.Generator().manual_seed(0), x.mean(0), k=plan.k)
            batches = x.split(plan.n_batch)
            taken += timed(
                lambda c=coder, b=batches: [
                    c.step(x, RATE) for x in islice(cycle(b), plan.n_steps)
                ],
                device,
            )
        seconds["steps"] = min(seconds["steps"], taken)
        start, n_token = time.perf_counter(), 0
        for chunk in source.chunks():
            n_token += chunk.n_token
            if n_token >= plan.n_tokens:
                break
        seconds["read"] = min(seconds["read"], time.perf_counter() - start)
    whole = seconds["steps"] + seconds["read"]
    return [
        (
            f"three sites, {plan.n_tokens} tokens, everything that is saved included",
            f"{seconds['run']:.1f} s",
            f"{seconds['run'] / whole:.2f}x steps ({seconds['steps']:.1f} s) and reading "
            f"({seconds['read']:.1f} s)",
            "<= 1.1x",
        )
    ]


def held_memory(device: str) -> list[tuple[str, ...]]:
    """What a run of 8192 features at width 512 holds: its buffer, its weights, its work."""
    from sae import TensorActivations, train_on

    x = sparse_sums(512, 1024, 8, 2**16)
    plan = TrainingPlan(n_features=8192, k=32, n_tokens=8 * N_BATCH, n_batch=N_BATCH)
    with tempfile.TemporaryDirectory() as name:
        rounds = iter(range(9))

        def run() -> object:
            out = Path(name) / str(next(rounds))
            return train_on(TensorActivations([x]), plan, out, device=device)

        more = extra_memory(run)
    return [
        (
            "8192 features at width 512, batches of 4096, buffer 65,536",
            f"{more / 2**30:.2f} GiB above what was there",
            f"buffer {2**16 * 512 * 4 / 2**30:.3f} GiB, weights and moments "
            f"{2 * 8192 * 512 * 4 * 4 / 2**30:.3f} GiB",
            "< 3 GiB",
        )
    ]


def speed(device: str) -> str:
    """Training steps against sae-lens, three sites in one run, memory."""
    warnings.filterwarnings("ignore", module="sae_lens|transformer_lens")
    sizes = (*SIZES, *ON_CUDA) if device == "cuda" else SIZES
    rows = [against_sae_lens(*size, device) for size in sizes]
    head = (
        "step", "tokens/s", "sae-lens", "ratio", "wanted", "of dense bound",
        "FVU / sae-lens", "steps",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        more = [*together(Path(name), device), *held_memory(device)]
    steps = table(rows, head) + "\n\n" + table(more, ("run", "measured", "beside", "wanted"))
    return f"{machine()}, batches of {N_BATCH}, seed 0.\n\n" + steps


def transcoders(device: str) -> str:
    """A transcoder of the built-in model's MLP beside autoencoders of its size, and their steps."""
    corpus = built_in(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = train_model(ModelPlan(), corpus, folder / "model", device=device)
        model = load_model(trained.folder, device=device)
        into, out = mlp_sites(0)
        plan = TrainingPlan(sites=(str(into), str(out)), n_features=2 * model.d_model)
        pair = train_saes(model, corpus, plan, folder / "saes", device=device)
        over = replace(plan, sites=(str(into),), target=out.point)
        made = train_saes(model, corpus, over, folder / "transcoders", device=device)
        held_out = split_corpus(corpus)[1]
        found = transcoder_table(made[into], pair[into], pair[out], model, held_out)
        source = ModelActivations(model, corpus, (into, out))
        mixer = Mixer(source, plan.n_buffer, plan.n_batch, 0, None, device)
        steps = _steps_of_both([mixer.buffer(Place())[site] for site in (into, out)], plan, device)
    columns = ["fvu", "added", "recovered", "n_feature", "k", "terms_90", "energy_90", "between"]
    rows = [
        (str(name), *(cell(row[column]) for column in columns)) for name, row in found.iterrows()
    ]
    n_token = int(found["n_token"].iloc[0])
    return f"{machine()}, {n_token} held-out tokens, seed 0.\n\n" + "\n\n".join(
        [table(rows, ("in place of the MLP", *columns)), WHAT_IS_LOST, steps]
    )


def _steps_of_both(buffers: list[Tensor], plan: TrainingPlan, device: str) -> str:
    """Steps of an autoencoder of the input and of a transcoder, in turns."""
    x, y = (each / each.square().mean().sqrt() for each in buffers)
    made = [
        Coder.start(
            x.shape[1], 2 * x.shape[1], torch.Generator().manual_seed(0), at.mean(0), k=plan.k,
            centre=None if at is x else x.mean(0),
        )
        for at in (x, y)
    ]  # fmt: skip
    made[0].fit_length(x[:N_BATCH])
    made[1].fit_length(x[:N_BATCH], y[:N_BATCH])
    taken: dict[str, list[float]] = {"autoencoder": [], "transcoder": []}
    pairs = zip(x.split(plan.n_batch), y.split(plan.n_batch), strict=True)
    for read, wanted in islice(cycle(pairs), 200):
        taken["autoencoder"].append(timed(lambda b=read: made[0].step(b, RATE), device))
        taken["transcoder"].append(timed(lambda b=read, w=wanted: made[1].step(b, RATE, w), device))
    seconds = {name: sorted(times)[len(times) // 2] for name, times in taken.items()}
    rates = [f"{plan.n_batch / each:.0f}" for each in seconds.values()]
    ratio = f"{seconds['transcoder'] / seconds['autoencoder']:.2f}x"
    return table([(*rates, ratio)], ("autoencoder, tokens/s", "transcoder", "time"))


def seed_table(device: str, n_seeds: int = 10) -> str:
    """The default plan on the built-in model, each from its own seed, on held-out stories."""
    rows = []
    for seed in range(n_seeds):
        with tempfile.TemporaryDirectory() as name:
            corpus = built_in(seed)
            trained = train_model(ModelPlan(seed=seed), corpus, Path(name) / "model", device=device)
            model = load_model(trained.folder, device=device)
            start = time.perf_counter()
            plan = replace(TrainingPlan(), seed=seed)
            dictionaries = train_saes(model, corpus, plan, Path(name) / "saes", device=device)
            seconds = time.perf_counter() - start
            for site, dictionary in dictionaries.items():
                row = quality(dictionary, model, split_corpus(corpus)[1], seed=seed).iloc[0]
                rows.append(
                    (
                        f"{seed}", f"{site}", f"{row.fvu:.4f}", f"{row.dead:.3f}",
                        f"{row.recovered:.4f}", f"{row.recovered_from_mean:.4f}",
                        f"{row.added:+.5f}", f"{seconds:.0f} s", f"{int(row.n_token)}",
                    )
                )  # fmt: skip
    head = (
        "seed", "site", "FVU", "dead", "recovered", "from mean", "added nats",
        "training of all three", "tokens",
    )  # fmt: skip
    return f"{machine()}.\n\n" + table(rows, head)
