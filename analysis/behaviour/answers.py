"""The tokens of a behaviour's answers: words after a text, as a tokenizer cuts them.

A word of several tokens is compared by its first, which `ModelCases.first_pieces` states.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from analysis.behaviour.cases import Behaviour
from circuits.corpus.tokenizer import check_whole, token_texts

_MARKS = "Ġ▁"  # of a space before a token, as tokenizers spell it


def answer_tokens(
    behaviour: Behaviour, tokenizer: Any, faults: list[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """The token of every answer after the first text that asks for it, of several tokens the first;
    and what those of several begin with."""
    wanted: dict[str, str] = {}
    for case in behaviour.cases:
        for word in (*case.right, *case.wrong):
            wanted.setdefault(word, case.text)
    known: dict[str, int] = {}
    by_text: dict[str, list[str]] = {}
    for word, text in wanted.items():
        by_text.setdefault(text, []).append(word)
    for text, words in by_text.items():
        known |= single_tokens(tokenizer, text, words)
    begun = {w: first_piece(tokenizer, wanted[w], w) for w in wanted if w not in known}
    cut = {word: found for word, found in begun.items() if found is not None}
    if lost := [word for word in begun if word not in cut]:
        faults.append(
            f"no token of {suggested(tokenizer, lost)} can be an answer: it is unknown, begins "
            f"with a token that is a space alone, or changes how the text before is cut; take "
            f"other words"
        )
        return known, {}
    known |= {word: token for word, (token, _) in cut.items()}
    for right, wrong in dict.fromkeys((case.right, case.wrong) for case in behaviour.cases):
        if said := _one_token(right, wrong, known, cut):
            faults.append(said)
            break
    return known, {word: piece for word, (_, piece) in cut.items()}


def _one_token(
    right: tuple[str, ...], wrong: tuple[str, ...], known: dict[str, int], cut: Collection[str]
) -> str | None:
    """What is wrong with answers of which some are one token. Words of several tokens may begin
    alike on one side, where their token counts once."""
    by_token: dict[int, list[str]] = {}
    for word in (*right, *wrong):
        by_token.setdefault(known[word], []).append(word)
    for words in by_token.values():
        both_sides = bool({*words} & {*right}) and bool({*words} & {*wrong})
        begin = bool({*words} & {*cut})
        if len(words) > 1 and (both_sides or not begin):
            what = "begin with" if begin else "are"
            return (
                f"the answers {' and '.join(map(repr, words))} {what} one token, which would count "
                f"more than once, or for and against; keep one of them"
            )
    return None


def suggested(tokenizer: Any, words: list[str]) -> str:
    """The words, the first few with the nearest that the tokenizer has."""
    plain = {token.lstrip(_MARKS) for token in tokenizer.get_vocab()} - {""}
    suggested = []
    for place, word in enumerate(words):
        near = difflib.get_close_matches(word, plain, n=3, cutoff=0.5) if place < 8 else []
        suggested.append(f"{word!r}" + (f" (it has {', '.join(near)})" if near else ""))
    return ", ".join(suggested)


def single_tokens(tokenizer: Any, before: str, words: Iterable[str]) -> dict[str, int]:
    """The words that are a single token after a text, with that token. A word may begin with the
    mark that a tokenizer writes for the space before it; a space alone is no word."""
    words = list(words)
    check_whole("a word after a text", [before, *words])
    head = tokenizer(before, verbose=False)["input_ids"]
    found = {}
    for word in dict.fromkeys(words):
        if not word.strip().strip(_MARKS).strip():
            continue
        for spoken in dict.fromkeys((word, _unmarked(word))):
            whole = tokenizer(f"{before} {spoken}", verbose=False)["input_ids"]
            if whole[:-1] == head and whole[-1] != tokenizer.unk_token_id:
                found[word] = whole[-1]
                break
    return found


def _unmarked(word: str) -> str:
    return word[1:] if len(word) > 1 and word[0] in _MARKS else word


def first_piece(tokenizer: Any, before: str, word: str) -> tuple[int, str] | None:
    """The first token of a word after a text, and how it reads; None where the text itself would be
    cut otherwise, a piece is unknown, or that token is a space alone, as of any word."""
    first = pieces(tokenizer, before, word)[:1]
    reads = "".join(token_texts(tokenizer, first)).strip(_MARKS + " ")
    return (first[0], reads) if reads else None


def pieces(tokenizer: Any, before: str, word: str) -> list[int]:
    """The tokens of a word after a text; none where it has an unknown piece, or the text before it
    would be cut otherwise."""
    head = tokenizer(before, verbose=False)["input_ids"]
    whole = tokenizer(f"{before} {_unmarked(word)}", verbose=False)["input_ids"]
    known = whole[: len(head)] == head and tokenizer.unk_token_id not in whole[len(head) :]
    return whole[len(head) :] if known else []
