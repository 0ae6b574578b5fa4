"""Tokenizers made from a corpus: whole words, or pieces of words down to bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from itertools import takewhile
from typing import Any, Literal

from circuits.corpus.documents import Corpus, Tokenizer
from circuits.errors import CorpusError
from circuits.storage.records import HALF

_NOT_SPLITTING = ("version", "truncation", "padding", "decoder")
_SAMPLE = "It's 1,024 words:  don't  STOP\n\tnaïve 文字 <s>"  # where a tokenizer cannot be read
_SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}


def train_tokenizer(
    corpus: Corpus,
    kind: Literal["word", "bpe"] = "word",
    *,
    n_words: int = 4096,
    n_documents: int = 20_000,
) -> Tokenizer:
    """A tokenizer of at most ``n_words`` words, from the first documents of a corpus: ``word``
    makes words and punctuation tokens and rare ones ``<unk>``, ``bpe`` goes down to bytes."""
    from tokenizers import Tokenizer as Raw
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast  # untyped in transformers
    smallest = {"word": len(_SPECIAL) + 1, "bpe": len(_SPECIAL) + 256}
    if kind not in smallest or n_words < smallest[kind]:
        raise CorpusError(
            f"a '{kind}' tokenizer of {n_words} words: want one of {sorted(smallest)}, with at "
            f"least {smallest.get(kind, 5)} words for the special tokens and the smallest pieces."
        )
    raw: Raw
    raw, trainer = _words(n_words) if kind == "word" else _pieces(n_words)
    texts = (
        corpus.documents(first, min(first + 1024, n_documents))
        for first in range(0, n_documents, 1024)
    )
    raw.train_from_iterator(takewhile(len, texts), trainer)
    bos = _SPECIAL["bos_token"]
    raw.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, raw.token_to_id(bos))]
    )
    return wrap(tokenizer_object=raw, **_SPECIAL)


def _words(n_words: int) -> tuple[Any, Any]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.WordLevel(unk_token=_SPECIAL["unk_token"]))
    word = Regex(r"\w+?(?=n't)|n't|'\w+|\w+|[^\w\s]")  # "n't" is a word: it negates
    raw.pre_tokenizer = pre_tokenizers.Split(word, behavior="removed", invert=True)
    special = list(_SPECIAL.values())
    return raw, trainers.WordLevelTrainer(
        vocab_size=n_words, special_tokens=special, show_progress=False
    )


def _pieces(n_words: int) -> tuple[Any, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw, trainers.BpeTrainer(
        vocab_size=n_words,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def known_tokens(tokenizer: Tokenizer) -> list[int]:
    """The numbers that stand for a token, in order: a vocabulary may have gaps, and an embedding
    more rows than it has tokens."""
    return sorted(set(tokenizer.get_vocab().values()))


def token_texts(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    """Each token as the tokenizer spells it; ``<id 517>`` for a number that stands for none."""
    numbers = list(tokens)
    spelt = tokenizer.convert_ids_to_tokens(numbers)
    known = zip(numbers, spelt, strict=True)
    return [f"<id {number}>" if text is None else str(text) for number, text in known]


def check_whole(owner: str, texts: Iterable[str]) -> None:
    """Refuse texts with half a character in them: a shell's bytes that are no UTF-8 become such
    halves, and JSON can spell them, but no tokenizer reads them."""
    for text in texts:
        if lone := HALF.search(text):
            raise CorpusError(
                f"{owner}: {text!a:.60} holds {lone[0]!a}, half of a character, so it is not text. "
                f"Remove it, or write the text in UTF-8."
            )


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of a text that a tokenizer has no token for, each once."""
    words, unknown = dict.fromkeys(text.split()), tokenizer.unk_token_id
    return [word for word in words if unknown in tokenizer(word, verbose=False)["input_ids"]]


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A hash of everything that decides which tokens a text becomes, where the tokenizer can state
    it; how it was last asked to pad or cut, and how it joins tokens to text, does not count."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        stated = json.loads(fast.to_str())
        decides = {name: part for name, part in stated.items() if name not in _NOT_SPLITTING}
    else:
        decides = {"vocabulary": tokenizer.get_vocab(), "sample": tokenizer(_SAMPLE)["input_ids"]}
    marks = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk")]
    decides |= {"marks": marks, "whole": bool(getattr(tokenizer, "split_special_tokens", False))}
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
