"""Behaviours that the built-in stories teach: negation, pronouns, "but", lies about lies."""

from __future__ import annotations

from dataclasses import replace

from analysis.behaviour.answers import single_tokens
from analysis.behaviour.cases import JSON_LINES, Behaviour, Case
from circuits.arguments import checked
from circuits.corpus.documents import built_in
from circuits.corpus.stories.lexicon import Lexicon
from circuits.corpus.stories.prompts import BEHAVIOURS, MinimalPair, minimal_pairs
from circuits.errors import BehaviourError, check_count
from circuits.model.evaluation import CASES
from circuits.model.model import Model

_MOST = 100_000  # pairs
_LABELS: dict[str, dict[tuple[bool, ...], str]] = {
    "negation": {
        (False, True): "good",
        (False, False): "bad",
        (True, True): "not good",
        (True, False): "not bad",
    },
    "pronoun": {(False,): "boy", (True,): "girl"},
    "but": {(True,): "good, but", (False,): "bad, but"},
    "lies": {
        (False, True): "one lie, good",
        (False, False): "one lie, bad",
        (True, True): "two lies, good",
        (True, False): "two lies, bad",
    },
}
_MATTER = {
    "negation": (
        *("positive", "negative", "negators", "intensifiers"),
        *("glad", "sad", "cheers", "tears"),
    ),
    "pronoun": ("boys", "girls", "positive", "negative"),
    "but": ("positive", "negative"),
    "lies": (*("positive", "negative", "honest", "liars"), *("glad", "sad", "cheers", "tears")),
}
_SPLIT = ("positive", "negative", "negators", "intensifiers", "boys", "girls")
_TWINS = (("boys", "girls"), ("positive", "negative"), ("glad", "sad"), ("cheers", "tears"))


@checked
def built_in_behaviour(
    name: str, model: Model | None = None, n: int = 400, *, seed: int = 0, fresh_words: bool = False
) -> Behaviour:
    """One of the behaviours that the little stories teach, as ``n`` minimal pairs.

    With a model whose tokenizer does not have all the stories' words as single tokens, those words
    are used that it has. With ``fresh_words`` the two halves of the behaviour (`Behaviour.halves`)
    have no negator, intensifier, adjective or name in common.
    """
    if name not in BEHAVIOURS:
        raise BehaviourError(
            f"no behaviour '{name}' is built in; there are {', '.join(BEHAVIOURS)}. Write cases of "
            f"your own as JSONL and name the file."
        )
    check_count("built_in_behaviour", n, _MOST, "n")
    lexicon = (None if model is None else _known_lexicon(model, name)) or Lexicon()
    halves = _word_halves(lexicon) if fresh_words else (lexicon, lexicon)
    cases = []
    for number, pair in enumerate(_different(name, n, seed, halves)):
        parts = zip(pair.texts, pair.factors, pair.right, pair.wrong, pair.strata, strict=True)
        for text, factors, right, wrong, strata in parts:
            label = _LABELS[name][tuple(factors.values())]
            cases.append(Case(text, label, right, wrong, factors, number, strata=strata))
    return Behaviour(name, tuple(cases))


def cases_from_stories(n: int = 1000, *, seed: int = 0) -> Behaviour:
    """Negation as it comes in running stories: their first ``n`` reactions, each text up to its
    word, in the four classes of the stories' own truth.

    Not minimal pairs: clauses of every form, after whatever came before. What two stories say
    alike counts once.
    """
    stories = built_in(seed).stories(0, check_count("cases_from_stories", n, None, "n"))
    lexicon, texts = Lexicon(), [text.split() for text in stories.texts]
    glad, sad = (*lexicon.glad, *lexicon.cheers), (*lexicon.sad, *lexicon.tears)
    labels = {values: label for label, values in CASES.items()}
    cases: dict[str, Case] = {}
    for row in stories.reactions.head(n).to_dict("records"):
        text = " ".join(texts[row["document"]][: row["position"]])
        positive, negated = bool(row["polarity"] > 0), bool(row["negated"])
        right, wrong = (glad, sad) if row["sentiment"] > 0 else (sad, glad)
        factors = {"negated": negated, "positive": positive}
        label = labels[1 if positive else -1, negated]
        cases.setdefault(text, Case(text, label, right, wrong, factors))
    return Behaviour("negation", tuple(cases.values()))


def _different(name: str, n: int, seed: int, halves: tuple[Lexicon, Lexicon]) -> list[MinimalPair]:
    """As many pairs that have no text in common, in turn of the words of one half and the other."""
    n_each = n + 16
    drawn = (
        minimal_pairs(name, n_each, seed=2 * seed + half, lexicon=lexicon)
        for half, lexicon in enumerate(halves)
    )
    waiting = [iter(pairs) for pairs in drawn]
    kept: list[MinimalPair] = []
    texts: set[str] = set()
    while len(kept) < n:
        pair = next((p for p in waiting[len(kept) % 2] if not texts & set(p.texts)), None)
        if pair is None:
            raise BehaviourError(
                f"built_in_behaviour: {2 * n_each} pairs of '{name}' are only {len(kept)} "
                f"different ones, of {n} wanted. Ask for fewer."
            )
        kept.append(pair)
        texts |= set(pair.texts)
    return kept


def _word_halves(lexicon: Lexicon) -> tuple[Lexicon, Lexicon]:
    """The same lexicon twice, each with one half of the words that a behaviour turns on."""
    one, other = ({name: getattr(lexicon, name)[half::2] for name in _SPLIT} for half in (0, 1))
    return replace(lexicon, **one), replace(lexicon, **other)


def _known_lexicon(model: Model, behaviour: str) -> Lexicon | None:
    """The stories' words that matter to a behaviour, as far as a tokenizer has each as one
    token."""
    tokenizer, plain, matter = model.words("words"), Lexicon(), _MATTER[behaviour]
    words = sorted({word for name in matter for word in getattr(plain, name)})
    known = single_tokens(tokenizer, "the cake was", words)
    if len(known) == len(words):
        return None
    kept = {name: [w for w in getattr(plain, name) if w in known] for name in matter}
    for one, other in (each for each in _TWINS if {*each} <= {*matter}):
        least = min(len(kept[one]), len(kept[other]))
        kept[one], kept[other] = kept[one][:least], kept[other][:least]
    if short := [n for n, found in kept.items() if len(found) < min(2, len(getattr(plain, n)))]:
        raise BehaviourError(
            f"{model.path}: the built-in '{behaviour}' is of the stories' words, and its tokenizer "
            f"has fewer than two of those for {', '.join(short)} as single tokens (of "
            f"{', '.join(map(repr, getattr(plain, short[0])))}). Write cases of words that it has "
            f"as {JSON_LINES}, then: circuits find RUN --behaviour CASES.jsonl"
        )
    return Lexicon(**{name: tuple(found) for name, found in kept.items()})
