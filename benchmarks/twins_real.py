"""A pretrained gated model's bilinear twin: what it loses, beside simpler ways to one.

Losses are of the first 300,000 characters of ``validation.txt``, in windows of 256 tokens of
running text. Every way sees as many tokens of ``train*.txt``; 5 % of those documents
are held out of training.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import machine, table
from circuits.corpus import open_corpus
from circuits.corpus.documents import Corpus
from circuits.errors import RunError
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from circuits.model.model import Model
from circuits.storage.files import read_json
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin

_CHARACTERS, _WINDOW = 300_000, 256
WAYS = {
    "faded": TwinPlan(),
    "faded, last layer first": TwinPlan(order="last first"),
    "faded, half from the text": TwinPlan(distilled=0.5),
    "faded, from the text alone": TwinPlan(distilled=0.0),
    "faded, MLPs alone": TwinPlan(only_mlps=True),
    "removed at once": TwinPlan(fade=0.0),
}
_HEAD = ("way", "seed", "loss", "gap", "KL", "top-1 agreement", "tokens", "minutes", "FVU by layer")


def run(device: str, model: str | None, data: str | None, folder: str | None, seeds: range) -> str:
    """The table of ways, and the first of them for every seed; trained twins stay in ``folder``."""
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
    for way, plan in WAYS.items():
        for seed in seeds if way == "faded" else seeds[:1]:
            out = where / f"{way}-{seed}".replace(" ", "-").replace(",", "")
            twin = bilinear_twin(model, corpus, replace(plan, seed=seed), out, device=device)
            rows.append(_row(way, seed, loss, twin, _measured(original, twin, windows)))
    rows.append(_from_scratch(original, corpus, where, windows, loss, device))
    removed = twin.label.removed_loss if twin.label else float("nan")
    head = (
        f"{machine()}. {Path(model).name}: {original.n_layer} layers, width {original.d_model}; "
        f"{windows.numel()} tokens of validation text. The original with its gates removed and no "
        f"training: {removed:.3f}, on the held-out text."
    )
    return "\n\n".join([head, table(rows, _HEAD), twin.generate("Once upon a time", 80)])


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


def _from_scratch(
    original: Model, corpus: Corpus, where: Path, windows: torch.Tensor, loss: float, device: str
) -> tuple[str, ...]:
    """A new bilinear model of the same sizes, with as many steps of as many tokens."""
    config, plan = original.network.config, TwinPlan()
    shape = ModelShape(
        n_layer=original.n_layer, d_model=original.d_model, d_hidden=original.d_hidden,
        n_head=config.num_attention_heads, tied_head=bool(config.tie_word_embeddings),
    )  # fmt: skip
    new = ModelPlan(shape, plan.n_steps, plan.n_rows, plan.window)
    trained = train_model(
        new, corpus, where / "from-scratch", tokenizer=original.tokenizer, device=device
    )
    model = load_model(trained.folder, device=device)
    found = _measured(original, model, windows)
    return _row("from scratch", 0, loss, model, found)
