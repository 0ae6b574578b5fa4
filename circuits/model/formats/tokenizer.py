"""A tokenizer from a model's folder: the files there under the names that they always have, and
nothing else that a configuration may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuits.errors import ModelError
from circuits.model.formats.llama import in_short
from circuits.model.formats.weights import refuse_code
from circuits.storage.files import read_json

# where a tokenizer's files list tokens that were added; None: the whole file does
_ADDED = {"tokenizer.json": "added_tokens", "tokenizer_config.json": "added_tokens_decoder",
          "added_tokens.json": None}  # fmt: skip
_TEMPLATES = ("chat_template", "response_template", "chat_control_tokens")


def read_tokenizer(folder: Path, n_token: int, *, required: bool) -> Any | None:
    """The tokenizer of a folder, if it fits an embedding of ``n_token`` rows."""
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).exists() for name in files):
        if required:
            raise ModelError(f"{folder}: holds no tokenizer ({', '.join(files)}).")
        return None
    refuse_code(folder)
    _check_tokenizer_class(folder)
    _check_added(folder, n_token)
    try:
        auto: Any = AutoTokenizer  # untyped in transformers
        where, unused = str(folder), _elsewhere(folder)
        tokenizer = auto.from_pretrained(
            where, local_files_only=True, trust_remote_code=False, **unused
        )
        _without_templates(tokenizer)
    except ModelError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        raise ModelError(
            f"{folder}: its tokenizer cannot be read ({in_short(error)}). Save it again with "
            f"tokenizer.save_pretrained."
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise ModelError(f"{folder}: the vocabulary of its tokenizer is empty. Copy it again.")
    if largest >= n_token:
        raise _other_tokenizer(folder, f"tokens go up to {largest}", n_token)
    return tokenizer


def _other_tokenizer(folder: Path, what: str, n_token: int) -> ModelError:
    return ModelError(
        f"{folder}: the tokenizer's {what}, but the embedding has {n_token} "
        f"rows (config.json, field 'vocab_size'): it is another model's tokenizer. "
        f"Pass the right one as load_model(path, tokenizer=folder)."
    )


def _check_added(folder: Path, n_token: int) -> None:
    """Refuse more added tokens than can have a row: they are read one by one, for minutes."""
    for name, field in _ADDED.items():
        if (path := folder / name).exists():
            content = read_json(path, ModelError)
            added = content.get(field, ()) if field else content
            if isinstance(added, dict | list) and len(added) > n_token:
                raise _other_tokenizer(folder, f"{name} adds {len(added)} tokens", n_token)


def _elsewhere(folder: Path) -> dict[str, None]:
    """What of a tokenizer's configuration is not used, each field without its value: names of
    files, which may lie anywhere, in place of those in the folder; and templates of chats."""
    config, marks = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    known = read_json(config, ModelError) if config.exists() else {}
    versions = known.get("fast_tokenizer_files") or []
    for name in versions if isinstance(versions, list) else (versions,):
        if not isinstance(name, str) or {*name} & {*"/\\:"}:
            raise ModelError(
                f"{config}: fast_tokenizer_files names {name!r:.60}, a file outside of this "
                f"folder. Copy the tokenizer's files into the folder, under plain names."
            )
    # transformers takes these over last, so that no other value would count
    more = read_json(marks, ModelError) if marks.exists() else {}
    if wrong := [name for name in more if name.endswith(("_file", "_files", "_template"))]:
        raise ModelError(
            f"{marks}: field {wrong[0]!r:.60} is no special token. Save the tokenizer again with "
            f"tokenizer.save_pretrained."
        )
    return dict.fromkeys([name for name in known if name.endswith("_file")] + [*_TEMPLATES])


def _without_templates(tokenizer: Any) -> None:
    """Forget templates of chats, which nothing here uses: each would be written to a file of the
    name that the folder gives it."""
    for name in _TEMPLATES:
        tokenizer.init_kwargs.pop(name, None)
        setattr(tokenizer, name, None)


def _check_tokenizer_class(folder: Path) -> None:
    """Refuse the name of something else in transformers, which would be loaded from the folder."""
    import transformers

    for name in ("tokenizer_config.json", "config.json"):
        path = folder / name
        kind = read_json(path, ModelError).get("tokenizer_class") if path.exists() else None
        found = getattr(transformers, kind, None) if isinstance(kind, str) else kind
        base = transformers.PreTrainedTokenizerBase
        if found is not None and not (isinstance(found, type) and issubclass(found, base)):
            raise ModelError(
                f"{path}: tokenizer_class is {kind!r:.40}, which is no tokenizer. Save it again "
                f"with tokenizer.save_pretrained."
            )
