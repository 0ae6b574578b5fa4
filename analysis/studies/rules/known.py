"""A folder of rules that a model was trained on: what is true, to compare with what is found.

``rules.json`` names the kinds of tokens, the probabilities of each subject's verbs (bigram) and the
skip rules; ``sequences.npz`` holds text, and for each token the rule that fixed it.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from circuits.arguments import checked
from circuits.errors import (
    ArgumentError,
    CorpusError,
    TensorError,
    check_count,
    first_line,
    shorten,
)
from circuits.storage.files import read_json
from circuits.storage.limits import check_readable, check_unpacked

BY_RULE = ("bigram", "skip", "induction")
"""The rules by their numbers in ``sequences.npz``, from 1; 0 is a token that none fixed."""

_SKIP = {"place": "first", "adjective": "second", "connective": "answer"}
_UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, OSError, KeyError,
               NotImplementedError, RuntimeError, AttributeError, TypeError)  # fmt: skip


@checked
@dataclass(frozen=True, eq=False)
class KnownRules:
    """The rules, and text that follows them."""

    kinds: Mapping[str, Any]  # the tokens of each
    bigram: Mapping[int, Any]  # of a subject, the probability of each verb
    skip: pd.DataFrame  # first, second, answer
    tokens: Int64[Tensor, "row pos"]
    rule: Int64[Tensor, "row pos"]  # which fixed this token: 0, or a place in BY_RULE from 1

    def top_1(self, answers: Int64[Tensor, "row pos"]) -> dict[str, float]:
        """How often an answer, given after each token, is the next token; by its rule."""
        if answers.shape != self.tokens.shape:
            raise TensorError(
                f"KnownRules.top_1: answers of shape {tuple(answers.shape)} for tokens of shape "
                f"{tuple(self.tokens.shape)}. Pass one after each token."
            )
        right = answers[:, :-1] == self.tokens[:, 1:]
        return {
            name: float(right[self.rule[:, 1:] == number].double().mean())
            for number, name in enumerate(BY_RULE, 1)
        }

    def is_skip_rule(self, table: pd.DataFrame) -> np.ndarray:
        """Whether each row (first, second, answer) is one of the skip rules."""
        if lacking := [name for name in _SKIP.values() if name not in table]:
            raise ArgumentError(
                f"KnownRules: a table of candidates lacks the columns {', '.join(lacking)}. Pass "
                f"rows of Effects.strongest."
            )
        rows = zip(*(table[name] for name in _SKIP.values()), strict=True)
        true = {tuple(row) for row in self.skip[[*_SKIP.values()]].to_numpy().tolist()}
        return np.array([row in true for row in rows], dtype=bool)

    def skip_scores(self, table: pd.DataFrame) -> dict[str, float]:
        """How well the order of a table of candidates (first, second, answer) separates the true
        rules: average precision, and the recall of as many as there are."""
        hit = self.is_skip_rule(table)
        n_true = len(self.skip)
        precision = hit.cumsum() / np.arange(1, len(hit) + 1)
        return {
            "average_precision": float(precision[hit].sum() / n_true),
            "recall": float(hit[:n_true].sum() / n_true),
        }

    def top_verbs(self) -> dict[int, int]:
        """Each subject's most probable verb."""
        return {subject: max(verbs, key=verbs.get) for subject, verbs in self.bigram.items()}


@checked
def load_known_rules(folder: str | Path, n_token: int) -> KnownRules:
    """The rules in a folder, of a model with this many tokens."""
    check_count("load_known_rules", n_token, None, "n_token")
    folder = Path(folder)
    where = folder / "rules.json"
    content = read_json(where, CorpusError)
    try:
        kinds = {str(name): tuple(map(_whole, of)) for name, of in content["kinds"].items()}
        bigram = {
            _named(subject): {_named(verb): _probability(p) for verb, p in verbs.items()}
            for subject, verbs in content["bigram"].items()
        }
        rows = [[_whole(rule[name]) for name in _SKIP] for rule in content["skip"]]
        listed = [token for name in _SKIP for token in kinds[name]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"{where}: not of this layout ({type(error).__name__}: {first_line(error)}). It needs "
            f"kinds (tokens of place, adjective and connective), bigram and skip."
        ) from error
    known = {*listed, *bigram, *(verb for verbs in bigram.values() for verb in verbs)}
    known |= {token for row in rows for token in row} | {t for of in kinds.values() for t in of}
    if beyond := sorted(token for token in known if not 0 <= token < n_token):
        raise CorpusError(
            f"{where}: names the tokens {shorten(beyond, 3)}, but the model has 0 to "
            f"{n_token - 1}. The file belongs to another model: copy the whole folder again."
        )
    skip = pd.DataFrame(rows, columns=[*_SKIP.values()])
    counted_twice = [f"kind {name!r:.40}" for name, of in kinds.items() if len({*of}) < len(of)]
    if counted_twice := counted_twice + ["skip"] * bool(skip.duplicated().any()):
        raise CorpusError(
            f"{where}: {', '.join(counted_twice)} lists something twice, which would count twice "
            f"in every score. List each token of a kind and each rule once."
        )
    if outside := [row for row in rows if any(t not in kinds[n] for t, n in zip(row, _SKIP))]:  # noqa: B905
        raise CorpusError(
            f"{where}: {len(outside)} skip rules are not of a place, an adjective and a connective "
            f"of its kinds, such as {outside[0]}. Correct the file."
        )
    if not rows or not bigram or not all(bigram.values()):
        raise CorpusError(f"{where}: no skip rule or no verbs. Pass a file with both.")
    return KnownRules(kinds, bigram, skip, *_read_text(folder / "sequences.npz", n_token))


def _named(key: str) -> int:
    """The token that a key names: JSON has no other keys than text."""
    if not (key.isascii() and key.isdecimal()) or str(int(key)) != key:
        raise TypeError(f"{key!r:.40} is no token")
    return int(key)


def _probability(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise TypeError(f"{value!r:.40} is no probability")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no token")
    return value


def _read_text(path: Path, n_token: int) -> tuple[Tensor, Tensor]:
    """Tokens and their rules; never a pickle, which could run any code."""
    check_readable(path, CorpusError)
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, sum(one.file_size for one in archive.infolist()), CorpusError)
        with np.load(path, allow_pickle=False) as arrays:
            found = [arrays[name] for name in ("tokens", "rule")]
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file. Copy the whole folder.") from None
    except _UNREADABLE as error:
        raise CorpusError(
            f"{path}: no archive of the arrays tokens and rule ({first_line(error)}). Write it "
            f"with numpy.savez(path, tokens=…, rule=…), both of whole numbers."
        ) from error
    tokens, rule = found
    limits = {"tokens": n_token, "rule": len(BY_RULE) + 1}
    faults = [f"tokens {tokens.shape} and rule {rule.shape}"] * (tokens.shape != rule.shape)
    for (name, limit), array in zip(limits.items(), found, strict=True):
        if array.ndim != 2 or array.dtype.kind not in "iu" or array.shape[-1] < 2:
            faults.append(f"{name} is {array.dtype} of shape {array.shape}")
        elif array.size and not 0 <= array.min() <= array.max() < limit:
            faults.append(f"{name} has {array.min()} to {array.max()}, not 0 to {limit - 1}")
    if not faults and (
        none := [n for i, n in enumerate(BY_RULE, 1) if not (rule[:, 1:] == i).any()]
    ):
        faults.append(f"no token after the first of its row is fixed by {', '.join(none)}")
    if faults:
        raise CorpusError(
            f"{path}: " + "; ".join(faults) + ". Both must be whole numbers of shape (row, pos)."
        )
    return torch.tensor(tokens.astype(np.int64)), torch.tensor(rule.astype(np.int64))
