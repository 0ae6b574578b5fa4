"""Whether a model's tokenizer has tokens for a text: of one that it cannot spell, such as Chinese
for a model of English stories, nothing can be learned or explained."""

from __future__ import annotations

import math
import re

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from circuits.corpus.batches import BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import CorpusError
from circuits.model.model import Model

_MOST = 0.5  # share of tokens that are unknown, or bytes
_DOCUMENTS, _WINDOW = 64, 128  # that a corpus is known by, and tokens of each row
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # how a tokenizer spells a byte that no piece of it covers


def check_spelt(model: Model, text: Corpus | str) -> None:
    """Refuse a text, or a corpus by its first documents, of which most tokens are unknown; or are
    single bytes, and the model does worse on it than a guess among all tokens."""
    found = _read(model, text)
    if found is None:
        return
    tokens, mask = found
    kept = tokens[mask & ~torch.isin(tokens, torch.tensor(_marks(model)))]
    if not len(kept):
        return
    unknown = model.words("reading a text").unk_token_id
    n_unknown = 0 if unknown is None else int((kept == unknown).sum())
    if n_unknown > _MOST * len(kept):
        _refuse(model, n_unknown / len(kept), "unknown to its tokenizer")
    used = kept.unique().tolist()
    spelt = zip(used, model.token_texts(used), strict=True)
    bytes_ = torch.tensor([n for n, text in spelt if _BYTE.fullmatch(text)], dtype=torch.int64)
    n_bytes = int(torch.isin(kept, bytes_).sum()) + n_unknown
    if n_bytes > _MOST * len(kept):
        guess = math.log(len(model.known_tokens))
        if float(model.loss(tokens, mask)) > guess:
            _refuse(model, n_bytes / len(kept), "single bytes, which its tokenizer has no word for")


def _refuse(model: Model, share: float, what: str) -> None:
    raise CorpusError(
        f"{model.path}: of this text {share:.0%} of the tokens are {what}, so the model does not "
        f"know its language, and nothing can be learned or explained of it. Give text in a "
        f"language that the model knows, or load the model with its own tokenizer."
    )


def _read(
    model: Model, text: Corpus | str
) -> tuple[Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"]] | None:
    """The tokens that are looked at, and which of them are not padding."""
    if isinstance(text, str):
        tokens = model.tokens(text)[:, : model.n_context].cpu()
        return tokens, model.mask(tokens)
    plan = BatchPlan(_DOCUMENTS, min(_WINDOW, model.n_context))
    batch = next(in_order(text, model.words("reading a corpus"), plan, _DOCUMENTS), None)
    return None if batch is None else (batch.tokens, batch.mask)


def _marks(model: Model) -> list[int]:
    """The tokens that begin, end and pad a text: some tokenizers have one for these and for what
    they do not know."""
    words = model.words("reading a text")
    marks = (words.bos_token_id, words.eos_token_id, words.pad_token_id)
    return [mark for mark in marks if mark is not None]
