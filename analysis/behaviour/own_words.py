"""Words that a model's tokenizer has for a kind of behaviour, in two halves without a common word.

Texts that are compared need as many tokens each, so the two words in which they differ are of as
many: each word of a list has one partner in the other. Of answers, those are taken of which most
is in the token that is compared: words of one token, if there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from analysis.behaviour.answers import first_piece, pieces, single_tokens
from analysis.behaviour.kinds import FILLERS, Frame, Kind
from analysis.behaviour.word_lists import WORDS
from circuits.corpus.tokenizer import known_tokens, token_texts
from circuits.errors import BehaviourError

BEFORE = "the"
"""A text after which words are cut into tokens."""
_DRAWN, _WORDS = 2000, 160  # tokens of a vocabulary that are looked at, and words of them
_LETTERS = 3  # that a word of the vocabulary has at least
_MARKS = "Ġ▁ "

Pair = tuple[str, str]


@dataclass(frozen=True)
class Half:
    """Words that texts are made of: of either half, the words that set classes apart are its own,
    and so are the others where there are two at least."""

    contrasts: Mapping[str, tuple[Pair, ...]]  # by slot
    fillers: Mapping[str, tuple[str, ...]]  # by list
    lists: Mapping[str, Pair]  # of a contrast's two words, by slot

    def words_of(self, name: str) -> set[str]:
        """Its words of one list."""
        found = {*self.fillers.get(name, ())}
        for slot, pairs in self.contrasts.items():
            for side, of in enumerate(self.lists[slot]):
                found |= {pair[side] for pair in pairs if of == name}
        return found


def word_lists(
    kind: Kind, given: Mapping[str, Sequence[str]], frames: Iterable[Frame], tokenizer: Any,
    draw: np.random.Generator,
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """The lists that a kind needs in some frames: those given, else the ready ones."""
    slots = {slot for frame in frames for slot in frame.slots if slot not in kind.contrasts}
    fillers = {FILLERS[slot] for slot in slots if slot in FILLERS}
    names = tuple(dict.fromkeys((*kind.lists, *sorted(fillers))))
    if unknown := [name for name in given if name not in names]:
        raise BehaviourError(
            f"words for {', '.join(map(repr, unknown))}, of which {kind.name!r} has no list. Its "
            f"lists are {', '.join(names)}."
        )
    lists = {name: tuple(dict.fromkeys(given.get(name, WORDS.get(name, ())))) for name in names}
    if "words" in lists and "words" not in given:
        lists["words"] = _vocabulary(tokenizer, draw)
    if aligned := _aligned(kind):
        lists |= {name: tuple(given.get(name, WORDS[name])) for name in aligned}
        one, other = (lists[name] for name in aligned)
        if len(one) != len(other):
            raise BehaviourError(
                f"words of {kind.name!r}: {len(one)} for {aligned[0]!r} and {len(other)} for "
                f"{aligned[1]!r}, where those at one place belong together. Give as many of both."
            )
    return lists


def _aligned(kind: Kind) -> Pair | None:
    """Two lists whose words belong together, place by place."""
    return next(iter(kind.contrasts.values())) if kind.answering == "other word" else None


def _vocabulary(tokenizer: Any, draw: np.random.Generator) -> tuple[str, ...]:
    """Words of a vocabulary that are one token, in a random order."""
    tokens = draw.permutation(sorted(known_tokens(tokenizer)))[:_DRAWN].tolist()
    texts = (text.strip(_MARKS) for text in token_texts(tokenizer, tokens))
    words = [text for text in texts if text.isascii() and text.isalpha() and len(text) >= _LETTERS]
    return tuple(single_tokens(tokenizer, BEFORE, words))[:_WORDS]


def halves(
    kind: Kind, lists: Mapping[str, Sequence[str]], tokenizer: Any, draw: np.random.Generator
) -> tuple[Half, Half]:
    """The usable words in two halves."""
    contrasts = {
        slot: _split(_pairs(kind, lists[one], lists[other], tokenizer, draw), draw)
        for slot, (one, other) in kind.contrasts.items()
    }
    fillers = {
        name: _split([word for word in lists[name] if pieces(tokenizer, BEFORE, word)], draw)
        for name in lists
        if name in FILLERS.values()
    }
    for slot, (one, other) in kind.contrasts.items():
        if one == other:  # and words that fill other slots, of the same half
            fillers[one] = tuple(tuple(chain(*pairs)) for pairs in contrasts[slot])
    first, second = (
        Half(
            {slot: parts[number] for slot, parts in contrasts.items()},
            {name: parts[number] for name, parts in fillers.items()},
            kind.contrasts,
        )
        for number in (0, 1)
    )
    return first, second


def _pairs(
    kind: Kind, one: Sequence[str], other: Sequence[str], tokenizer: Any, draw: np.random.Generator
) -> list[Pair]:
    """Two words each, in which classes may differ."""
    if kind.answering == "lists":
        return _partners(one, other, tokenizer, draw)
    if kind.answering == "same word":
        return _couples(one, tokenizer, draw)
    token = {word: first_piece(tokenizer, BEFORE, word) for word in (*one, *other)}
    both = [(u, v, token[u], token[v]) for u, v in zip(one, other, strict=True)]
    return [(u, v) for u, v, a, b in both if a is not None and b is not None and a[0] != b[0]]


def _couples(words: Sequence[str], tokenizer: Any, draw: np.random.Generator) -> list[Pair]:
    """Two words of a list each, of as many tokens and with another first one."""
    waiting: dict[int, list[tuple[str, int]]] = {}
    found = []
    for word in draw.permutation(list(words)).tolist():
        if (first := first_piece(tokenizer, BEFORE, word)) is None:
            continue
        same = waiting.setdefault(len(pieces(tokenizer, BEFORE, word)), [])
        place = next((i for i, (_, token) in enumerate(same) if token != first[0]), None)
        if place is None:
            same.append((word, first[0]))
        else:
            found.append((same.pop(place)[0], word))
    return found


def _partners(
    one: Sequence[str], other: Sequence[str], tokenizer: Any, draw: np.random.Generator
) -> list[Pair]:
    """Each word with one of the other list that has as many tokens: of those at the same place
    with each other, if they have."""
    size = {word: len(pieces(tokenizer, BEFORE, word)) for word in (*one, *other)}
    together = [(u, v) for u, v in zip(one, other, strict=False) if 0 < size[u] == size[v]]
    left = [[word for word in words if size[word]] for words in (one, other)]
    left = [[w for w in words if all(w not in pair for pair in together)] for words in left]
    by_size: dict[int, list[str]] = {}
    for word in left[1]:
        by_size.setdefault(size[word], []).append(word)
    found = together
    for word in draw.permutation(left[0]).tolist():
        if same := by_size.get(size[word]):
            found.append((word, same.pop(int(draw.integers(len(same))))))
    return found


def _split(items: Sequence[Any], draw: np.random.Generator) -> tuple[tuple[Any, ...], ...]:
    """Two halves of some items in a random order; the only one is in both."""
    order = [items[place] for place in draw.permutation(len(items))]
    return (
        (tuple(order), tuple(order)) if len(order) < 2 else (tuple(order[::2]), tuple(order[1::2]))
    )


def answers(
    tokenizer: Any, before: str, pair: tuple[Sequence[str], Sequence[str]]
) -> tuple[tuple[tuple[str, ...], tuple[str, ...]] | None, str]:
    """Of two lists of answers those that can be compared after a text, or None and why not."""
    kept, tokens = [], []
    for words in pair:
        whole = single_tokens(tokenizer, before, words)
        begun = {w: found for w in words if (found := first_piece(tokenizer, before, w))}
        share = {w: 1.0 if w in whole else len(read) / len(w) for w, (_, read) in begun.items()}
        best = tuple(word for word in words if share.get(word, 0) == max(share.values(), default=1))
        if not best:
            return None, f"no token for {', '.join(words)}"
        kept.append(best)
        tokens.append({begun[word][0] for word in best})
    if tokens[0] & tokens[1]:
        return None, f"{', '.join(kept[0])} and {', '.join(kept[1])} begin with one token"
    return (kept[0], kept[1]), ""
