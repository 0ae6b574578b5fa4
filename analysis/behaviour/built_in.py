"""Behaviours that the built-in stories teach: negation, pronouns, "but"."""

from __future__ import annotations

from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import single_tokens
from circuits.corpus.documents import built_in
from circuits.corpus.stories.lexicon import Lexicon
from circuits.corpus.stories.prompts import BEHAVIOURS, MinimalPair, minimal_pairs
from circuits.errors import BehaviourError, check_count
from circuits.model.evaluation import CASES
from circuits.model.model import Model

_LABELS: dict[str, dict[tuple[bool, ...], str]] = {
    "negation": {
        (False, True): "good",
        (False, False): "bad",
        (True, True): "not good",
        (True, False): "not bad",
    },
    "pronoun": {(False,): "boy", (True,): "girl"},
    "but": {(True,): "good, but", (False,): "bad, but"},
}
_MATTER = ("positive", "negative", "negators", "intensifiers", "glad", "sad", "cheers", "tears")
_TWINS = (("positive", "negative"), ("glad", "sad"), ("cheers", "tears"))


def built_in_behaviour(
    name: str, model: Model | None = None, n: int = 128, *, seed: int = 0
) -> Behaviour:
    """One of the behaviours that the little stories teach, as ``n`` minimal pairs.

    With a model whose tokenizer does not have all the stories' words as single tokens, those words
    are used that it has.
    """
    if name not in BEHAVIOURS:
        raise BehaviourError(
            f"no behaviour '{name}' is built in; there are {', '.join(BEHAVIOURS)}. Write cases of "
            f"your own as JSONL and name the file."
        )
    check_count("built_in_behaviour", n, None, "n")
    lexicon = None if model is None else _known_lexicon(model)
    cases = []
    for number, pair in enumerate(_different(name, n, seed, lexicon)):
        parts = zip(pair.texts, pair.factors, pair.right, pair.wrong, strict=True)
        for text, factors, right, wrong in parts:
            label = _LABELS[name][tuple(factors.values())]
            cases.append(Case(text, label, right, wrong, factors, number))
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


def _different(name: str, n: int, seed: int, lexicon: Lexicon | None) -> list[MinimalPair]:
    """As many pairs, of the first that are drawn, that have no text in common."""
    kept: list[MinimalPair] = []
    texts: set[str] = set()
    for pair in minimal_pairs(name, 2 * n + 16, seed=seed, lexicon=lexicon):
        if len(kept) < n and not texts & set(pair.texts):
            kept.append(pair)
            texts |= set(pair.texts)
    if len(kept) < n:
        raise BehaviourError(
            f"built_in_behaviour: {2 * n + 16} pairs of '{name}' are only {len(kept)} different "
            f"ones, of {n} wanted. Ask for fewer."
        )
    return kept


def _known_lexicon(model: Model) -> Lexicon | None:
    """The stories' words that matter, as far as a tokenizer has each as one token."""
    tokenizer, plain = model.words("words"), Lexicon()
    words = sorted({word for name in _MATTER for word in getattr(plain, name)})
    known = single_tokens(tokenizer, "the cake was", words)
    if len(known) == len(words):
        return None
    kept = {name: [w for w in getattr(plain, name) if w in known] for name in _MATTER}
    for one, other in _TWINS:
        least = min(len(kept[one]), len(kept[other]))
        kept[one], kept[other] = kept[one][:least], kept[other][:least]
    if short := [name for name, found in kept.items() if len(found) < 2]:
        raise BehaviourError(
            f"{model.path}: its tokenizer has fewer than two of the words for "
            f"{', '.join(short)} as single tokens (of "
            f"{', '.join(map(repr, getattr(plain, short[0])))}). Write cases "
            f"with words that it has, as JSONL."
        )
    return Lexicon(**{name: tuple(found) for name, found in kept.items()})
