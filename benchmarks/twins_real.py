"""A pretrained gated model's bilinear twin: what it loses, beside simpler ways to one.

Losses are of the first 300,000 characters of ``validation.txt``, in windows of 256 tokens of
running text. Every way sees as many tokens of ``train*.txt``; 5 % of those documents
are held out of training.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import machine, table
from circuits.corpus import open_corpus
from circuits.corpus.batches import BatchPlan, batches
from circuits.corpus.documents import Corpus, split_corpus
from circuits.errors import RunError
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from circuits.model.model import Model
from circuits.model.plan import cosine_rate
from circuits.model.site import mlp_sites
from circuits.storage.files import read_json
from circuits.storage.training_run import RunFiles
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import TwinTraining, bilinear_twin

_CHARACTERS, _WINDOW = 300_000, 256
MAIN = {
    "faded": TwinPlan(),
    "removed at once": TwinPlan(fade=0.0),
    "faded, then norms faded": TwinPlan(remove_norms=True),
}
"""Ways as long as the default; the first of them for every seed."""

_SHORT = TwinPlan(n_steps=500)
SHORT = {
    "short: faded": _SHORT,
    "short: faded, last layer first": replace(_SHORT, order="last first"),
    "short: faded, half from the text": replace(_SHORT, distilled=0.5),
    "short: faded, from the text alone": replace(_SHORT, distilled=0.0),
    "short: faded, MLPs alone": replace(_SHORT, only_mlps=True),
    "short: faded, MLPs' outputs matched": replace(_SHORT, matched=1.0),
    "short: removed at once": replace(_SHORT, fade=0.0),
}
"""A quarter as long, beside each other."""

FIT_STEPS, _FIT_ROWS = 600, 4096  # of a layer's stand-in, each on so many positions
_HEAD = ("way", "seed", "loss", "gap", "KL", "top-1 agreement", "tokens", "minutes", "FVU by layer")


def run(device: str, model: str | None, data: str | None, folder: str | None, seeds: range) -> str:
    """The table of ways; twins stay in ``folder``, and those there are taken as they are."""
    if model is None or data is None:
        raise SystemExit("twins-real: name a model and a folder of text: --model FOLDER --data DIR")
    text, original = Path(data), load_original(model, device=device)
    kept = tempfile.TemporaryDirectory() if folder is None else None
    where = Path(kept.name if kept is not None else str(folder))
    (where / "text").mkdir(parents=True, exist_ok=True)
    for file in sorted(text.glob("train*.txt")):
        (where / "text" / file.name).write_bytes(file.read_bytes())
    corpus = open_corpus(where / "text")
    windows = _windows(original, text / "validation.txt")
    loss, _, _ = _measured(original, original, windows)
    rows = [("the original", "", f"{loss:.3f}", "", "", "", "", "", "")]

    def add(way: str, seed: int, twin: Model) -> Model:
        rows.append(_row(way, seed, loss, twin, _measured(original, twin, windows)))
        return twin

    def trained(way: str, plan: TwinPlan) -> Model:
        out = where / "-".join([*re.findall(r"[a-z0-9]+", way.lower()), str(plan.seed)])
        return add(way, plan.seed, bilinear_twin(model, corpus, plan, out, device=device))

    first = trained("faded", MAIN["faded"])
    for way, plan in (MAIN | SHORT).items():
        for seed in seeds if way == "faded" else seeds[:1]:
            if (way, seed) != ("faded", 0):
                trained(way, replace(plan, seed=seed))
    start, fitted = _from_fitted_layers(
        original, corpus, where / "short-from-fitted-layers", device
    )
    add("short: from fitted layers", 0, fitted)
    add("from scratch", 0, _from_scratch(original, corpus, where / "from-scratch", device))
    removed = first.label.removed_loss if first.label else float("nan")
    head = (
        f"{machine()}. {Path(model).name}: {original.n_layer} layers, width {original.d_model}; "
        f"{windows.numel()} tokens of validation text. The original with its gates removed and no "
        f"training: {removed:.3f}, on the held-out text. Each layer alone, fitted in {FIT_STEPS} "
        f"steps to its own inputs and outputs: FVU {' '.join(f'{each:.2f}' for each in start)}."
    )
    return "\n\n".join([head, table(rows, _HEAD), first.generate("Once upon a time", 80)])


def _windows(original: Model, file: Path) -> torch.Tensor:
    text = file.read_text(encoding="utf-8")[:_CHARACTERS]
    tokenizer: Any = original.tokenizer
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // _WINDOW * _WINDOW]).view(-1, _WINDOW)


@torch.no_grad()
def _measured(original: Model, twin: Model, windows: torch.Tensor) -> tuple[float, float, float]:
    """Loss of the twin, its divergence from the original, and how often they agree."""
    sums = torch.zeros(3, dtype=torch.float64)
    for rows in windows.to(original.device).split(32):
        logs = [m.logits(rows[:, :-1]).log_softmax(-1).flatten(0, 1) for m in (original, twin)]
        taught, learned = logs
        sums += torch.tensor([
            float(functional.nll_loss(learned, rows[:, 1:].flatten(), reduction="sum")),
            float(functional.kl_div(learned, taught, reduction="sum", log_target=True)),
            float((taught.argmax(1) == learned.argmax(1)).sum()),
        ])  # fmt: skip
    loss, kl, agreement = (sums / (len(windows) * (_WINDOW - 1))).tolist()
    return loss, kl, agreement


def _row(way: str, seed: int, original: float, twin: Model, found: Any) -> tuple[str, ...]:
    loss, kl, agreement = found
    ended = read_json(twin.path / "training.json", RunError)
    fvu = " ".join(f"{each:.2f}" for each in twin.label.mlp_fvu) if twin.label else ""
    tokens, minutes = ended["n_tokens"], ended["seconds"] / 60
    return (way, str(seed), f"{loss:.3f}", f"{loss - original:+.3f}", f"{kl:.3f}",
            f"{agreement:.1%}", f"{tokens / 1e6:.1f} M", f"{minutes:.0f}", fvu)  # fmt: skip


def _from_scratch(original: Model, corpus: Corpus, out: Path, device: str) -> Model:
    """A new bilinear model of the same sizes, with as many steps of as many tokens."""
    config, plan = original.network.config, TwinPlan()
    shape = ModelShape(
        n_layer=original.n_layer, d_model=original.d_model, d_hidden=original.d_hidden,
        n_head=config.num_attention_heads, tied_head=bool(config.tie_word_embeddings),
    )  # fmt: skip
    new = ModelPlan(shape, plan.n_steps, plan.n_rows, plan.window)
    trained = train_model(new, corpus, out, tokenizer=original.tokenizer, device=device)
    return load_model(trained.folder, device=device)


def _from_fitted_layers(
    original: Model, corpus: Corpus, out: Path, device: str
) -> tuple[list[float], Model]:
    """Each MLP is first fitted alone, without a gate, to the original's outputs on its inputs; then
    the whole is trained without gates. The share that each stand-in misses, and the model."""
    plan = replace(_SHORT, fade=0.0)
    text, held_out = split_corpus(corpus)
    assert held_out is not None  # there is enough text
    training = TwinTraining(plan, original, text, held_out)
    files = RunFiles((out,), out / "checkpoint.safetensors", {"start": FIT_STEPS})
    missed = [_fit(original, training.network, text, layer) for layer in range(original.n_layer)]
    if not files.finished:
        training.run(files, 100)
    return missed, load_model(out, device=device)


def _fit(original: Model, network: Any, corpus: Corpus, layer: int) -> float:
    """Fit one MLP of a network to the original's, and say what it misses on other text."""
    mlp = network.model.layers[layer].mlp
    gate, at = mlp.act_fn, mlp_sites(layer)
    gate.strength = 0.0
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=3e-3, weight_decay=0.0)
    text = batches(corpus, original.tokenizer, BatchPlan(32, _WINDOW, packed=True))
    values = [original.read(batch.tokens.to(original.device), at) for batch in islice(text, 41)]
    taken = [torch.cat([read[site].flatten(0, 1) for read in values[:40]]) for site in at]
    x, y = taken
    generator = torch.Generator().manual_seed(0)
    for step in range(FIT_STEPS):
        optimizer.param_groups[0]["lr"] = cosine_rate(3e-3, 50, FIT_STEPS, step)
        rows = torch.randint(len(x), (_FIT_ROWS,), generator=generator)
        optimizer.zero_grad()
        functional.mse_loss(mlp(x[rows]), y[rows]).backward()
        optimizer.step()
    x, y = (values[40][site].flatten(0, 1) for site in at)
    with torch.no_grad():
        return float((mlp(x) - y).square().sum() / (y - y.mean(0)).square().sum())
