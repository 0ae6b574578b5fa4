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
from circuits.corpus.documents import Corpus, split_corpus
from circuits.errors import RunError
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from circuits.model.model import Model
from circuits.storage.files import read_json
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import TwinTraining, bilinear_twin

_CHARACTERS, _WINDOW = 300_000, 256
_SHORT = TwinPlan(n_steps=500, distilled=1.0)
OTHERS = {
    "faded, from the answers alone": TwinPlan(fit=0, fade=0.6, distilled=1.0),
    "short: fitted": _SHORT,
    "short: removed at once": replace(_SHORT, fit=0),
    "short: faded": replace(_SHORT, fit=0, fade=0.6),
    "short: faded, last layer first": replace(_SHORT, fit=0, fade=0.6, order="last first"),
    "short: fitted, MLPs alone": replace(_SHORT, only_mlps=True),
    "short: fitted, outputs matched": replace(_SHORT, matched=1.0),
    "short: fitted, a tenth from the text": replace(_SHORT, distilled=0.9),
    "short: the same, norms faded": replace(_SHORT, distilled=0.9, remove_norms=True),
    "short: fitted, half from the text": replace(_SHORT, distilled=0.5),
}
"""As long as the default, and a quarter of it; from the original's answers alone unless it says
else."""

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

    twins = [trained("the default", replace(TwinPlan(), seed=seed)) for seed in seeds]
    for way, plan in OTHERS.items():
        trained(way, plan)
    add("short: from scratch", 0, _from_scratch(original, corpus, where / "from-scratch", device))
    whole = _trained_on(original, corpus)
    found = _measured(original, whole, windows)
    rows.append(("short: the original, half from the text", "0", *_losses(loss, found), "", "", ""))
    label = twins[0].label
    assert label is not None  # it is a twin
    head = (
        f"{machine()}. {Path(model).name}: {original.n_layer} layers, width {original.d_model}; "
        f"{windows.numel()} tokens of validation text. The original with its gates removed and no "
        f"training: {label.removed_loss:.3f}, on the held-out text. Each layer's stand-in, fitted "
        f"alone, misses {' '.join(f'{each:.2f}' for each in label.fitted_fvu or ())}."
    )
    return "\n\n".join([head, table(rows, _HEAD), twins[0].generate("Once upon a time", 80)])


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
    ended = read_json(twin.path / "training.json", RunError)
    fvu = " ".join(f"{each:.2f}" for each in twin.label.mlp_fvu) if twin.label else ""
    tokens, minutes = ended["n_tokens"], ended["seconds"] / 60
    return (way, str(seed), *_losses(original, found), f"{tokens / 1e6:.1f} M", f"{minutes:.0f}",
            fvu)  # fmt: skip


def _losses(original: float, found: Any) -> tuple[str, ...]:
    loss, kl, agreement = found
    return f"{loss:.3f}", f"{loss - original:+.3f}", f"{kl:.3f}", f"{agreement:.1%}"


def _from_scratch(original: Model, corpus: Corpus, out: Path, device: str) -> Model:
    """A new bilinear model of the same sizes, with as many steps of as many tokens."""
    config = original.network.config
    shape = ModelShape(
        n_layer=original.n_layer, d_model=original.d_model, d_hidden=original.d_hidden,
        n_head=config.num_attention_heads, tied_head=bool(config.tie_word_embeddings),
    )  # fmt: skip
    plan = ModelPlan(shape, _SHORT.n_steps, _SHORT.n_rows, _SHORT.window)
    trained = train_model(plan, corpus, out, tokenizer=original.tokenizer, device=device)
    return load_model(trained.folder, device=device)


def _trained_on(original: Model, corpus: Corpus) -> Model:
    """The control for what the text itself teaches: the original with its gates, trained on."""
    text, held_out = split_corpus(corpus)
    assert held_out is not None  # there is enough text
    plan = replace(_SHORT, fit=0, fade=1.0, distilled=0.5)
    training = TwinTraining(plan, original, text, held_out)
    training.plan = _Whole(**plan.as_dict())
    for batch in islice(training.batches(), plan.n_steps):
        training.learn(batch)
        training.step += 1
    return replace(original, network=training.network.eval())


class _Whole(TwinPlan):
    """A plan in which gates stay."""

    def strengths(self, step: int, n_layer: int) -> list[float]:
        return [1.0] * n_layer
