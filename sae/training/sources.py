"""Streams of activations to train on: from a model, a cache on disk, or any tensors.

A source gives chunks: for every site a tensor ``token model`` of the same tokens.
"""

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.arguments import checked
from circuits.corpus.batches import BatchPlan, Position, batches
from circuits.corpus.documents import Corpus
from circuits.corpus.tokenizer import tokenizer_hash
from circuits.errors import DictionaryError, check_count, first_line
from circuits.model.model import Model
from circuits.model.site import Site, as_sites
from circuits.storage.files import content_hash, folder_written_whole, read_json, write_json
from circuits.storage.limits import check_readable
from circuits.storage.progress import counted
from sae.reading import read_counted

_TOKENS = 8192  # in a forward pass, padding included
_WINDOW = 1024  # the longest rows that activations are read from
_SHARD = 2**16  # tokens in a file of a cache
_INDEX = "activations.json"


@dataclass(frozen=True, eq=False)
class Chunk:
    """Activations of the same tokens at every site, and the position of the next chunk."""

    activations: dict[Site, Float[Tensor, "token model"]]
    after: dict[str, int]

    @property
    def n_token(self) -> int:
        """How many tokens there are."""
        return len(next(iter(self.activations.values())))


class Activations(ABC):
    """A source of activations that can resume at any position it has reported."""

    @property
    @abstractmethod
    def widths(self) -> dict[Site, int]:
        """The sites, and how wide their activations are."""

    @abstractmethod
    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """Endless chunks from a position on, pass after pass."""

    @property
    @abstractmethod
    def made_of(self) -> dict[str, Any]:
        """Hashes of what the activations come from: equal hashes mean equal activations."""


@dataclass(frozen=True, eq=False)
class ModelActivations(Activations):
    """A model's activations at some sites on a corpus, one forward pass for all sites."""

    model: Model
    corpus: Corpus
    sites: tuple[Site, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", self.model.check_sites(self.sites))

    @property
    def widths(self) -> dict[Site, int]:
        """The sites, each as wide as the model."""
        return dict.fromkeys(self.sites, self.model.d_model)

    @property
    def made_of(self) -> dict[str, Any]:
        """Hashes of the model, its tokenizer and the text, and how rows are cut."""
        return {
            "model": self.model.fingerprint,
            "tokenizer": tokenizer_hash(self.model.words("reading a corpus")),
            "corpus": self.corpus.fingerprint,
            "context": self._plan.window,
            "text_seed": self.seed,
        }

    @property
    def _plan(self) -> BatchPlan:
        window = min(self.model.n_context, _WINDOW)
        return BatchPlan(max(1, _TOKENS // window), window, self.seed)

    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """A chunk for each forward pass, the documents shuffled anew each epoch."""
        words = self.model.words("reading a corpus")
        for batch in batches(self.corpus, words, self._plan, Position(**(after or {}))):
            _, found = read_counted(self.model, batch, self.sites)
            yield Chunk(found, batch.after.as_dict())


@checked
@dataclass(frozen=True, eq=False)
class TensorActivations(Activations):
    """Your own tensors ``token model``, or dicts with one such tensor for every site: a list, or a
    function that returns a new iterator over the same tensors."""

    tensors: Sequence[Tensor | dict[Site, Tensor]] | Callable[[], Iterable[Tensor | dict]]
    site: Site | str = "mlp_in@0"  # of tensors given without one

    def __post_init__(self) -> None:
        given = self.tensors
        first = given() if callable(given) else given
        if isinstance(first, Iterator) and (not callable(given) or given() is first):
            raise DictionaryError(
                "TensorActivations: this iterator can be used only once, so a stopped run could "
                "not resume. Pass a list, or a function that returns a new iterator."
            )

    def _begun(self) -> Iterator[dict[Site, Tensor]]:
        items = self.tensors() if callable(self.tensors) else self.tensors
        (site,) = as_sites(self.site)
        for item in items:
            named = {site: item} if isinstance(item, Tensor) else dict(item)
            lengths = {len(tensor) for tensor in named.values() if tensor.ndim == 2}
            if len(lengths) != 1 or any(tensor.ndim != 2 for tensor in named.values()):
                shapes = ", ".join(f"{s}: {tuple(t.shape)}" for s, t in named.items())
                raise DictionaryError(
                    f"activations of shapes {shapes}: each item must hold the same tokens at every "
                    f"site, as tensors of shape (token, model). Flatten batch and position."
                )
            yield named

    @cached_property
    def _first(self) -> dict[Site, Tensor]:
        first = next(self._begun(), None)
        if first is None:
            raise DictionaryError("no tensors to train on: the first pass is empty. Pass some.")
        return first

    @property
    def widths(self) -> dict[Site, int]:
        """The sites and widths of the first item."""
        return {site: tensor.shape[1] for site, tensor in self._first.items()}

    @property
    def made_of(self) -> dict[str, Any]:
        """A hash of all items, which one pass over them computes."""
        return {"tensors": self._hash}

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        assert self._first  # an empty pass is refused
        for site, tensor in (pair for item in self._begun() for pair in item.items()):
            digest.update(f"{site} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """A chunk for each item, pass after pass."""
        after = after or {"epoch": 0, "item": 0}
        for epoch in count(after["epoch"]):
            first = after["item"] if epoch == after["epoch"] else 0
            empty = True
            for item, named in islice(enumerate(self._begun()), first, None):
                empty = False
                found = {site: tensor.shape[1] for site, tensor in named.items()}
                if found != self.widths:
                    here, wanted = (
                        ", ".join(f"{site}: {width}" for site, width in widths.items())
                        for widths in (found, self.widths)
                    )
                    raise DictionaryError(
                        f"item {item} has the sites and widths {here}, but the first has {wanted}. "
                        f"Give every item the same."
                    )
                yield Chunk(named, {"epoch": epoch, "item": item + 1})
            if empty and not first:
                raise DictionaryError(
                    f"pass {epoch + 1} over the tensors is empty: the iterator can be used only "
                    f"once. Pass a list, or a function that returns a new iterator."
                )


@checked
@dataclass(frozen=True, eq=False)
class CachedActivations(Activations):
    """Activations on disk, from `cache_activations`; parallel runs share one copy in memory."""

    folder: Path

    @cached_property
    def _index(self) -> dict[str, Any]:
        return read_json(Path(self.folder) / _INDEX, DictionaryError)

    @property
    def widths(self) -> dict[Site, int]:
        """The sites that were cached, and their widths."""
        return {Site.parse(name): width for name, width in self._index["widths"].items()}

    @property
    def n_token(self) -> int:
        """How many tokens there are."""
        return sum(shard["n_token"] for shard in self._index["shards"])

    @property
    def made_of(self) -> dict[str, Any]:
        """The source's hashes and each file's from when it was written; later changes go unseen."""
        return {**self._index["made_of"], "shards": [s["sha256"] for s in self._index["shards"]]}

    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """Pieces of one file after another, the files reordered each epoch."""
        after = after or {"epoch": 0, "shard": 0, "token": 0}
        shards = self._index["shards"]
        for epoch in count(after["epoch"]):
            resumed = epoch == after["epoch"]
            order = np.random.default_rng(epoch).permutation(len(shards)).tolist()
            for nth in range(after["shard"] if resumed else 0, len(order)):
                start = after["token"] if resumed and nth == after["shard"] else 0
                yield from self._pieces(shards[order[nth]], start, {"epoch": epoch, "shard": nth})

    def _pieces(self, shard: dict[str, Any], start: int, where: dict[str, int]) -> Iterator[Chunk]:
        path = Path(self.folder) / shard["file"]
        check_readable(path, DictionaryError)
        try:
            with safe_open(path, framework="pt") as file:
                views = {site: file.get_slice(str(site)) for site in self.widths}
                wanted = {site: [shard["n_token"], width] for site, width in self.widths.items()}
                if any(views[site].get_shape() != shape for site, shape in wanted.items()):
                    raise SafetensorError("its tensors differ from the index")
                for first in range(start, shard["n_token"], _TOKENS):
                    stop = min(first + _TOKENS, shard["n_token"])
                    found = {site: view[first:stop].float() for site, view in views.items()}
                    yield Chunk(found, {**where, "token": stop})
        except (SafetensorError, OSError) as error:
            raise DictionaryError(
                f"{path}: cannot be read ({first_line(error)}). The cache is damaged: write or "
                f"copy it again."
            ) from error


@checked
def cache_activations(
    source: Activations, folder: str | Path, n_token: int, *, dtype: torch.dtype = torch.float32
) -> CachedActivations:
    """Write the first ``n_token`` tokens of a source to a new folder; whole or not at all. Values
    keep about three digits in bfloat16, whose files are half as large."""
    folder = Path(folder)
    if folder.exists():
        raise DictionaryError(f"{folder}: already exists. Name a new folder, or remove this one.")
    check_count("cache_activations", n_token, None, "n_token")
    n_bytes = n_token * sum(source.widths.values()) * dtype.itemsize
    there = next(path for path in folder.absolute().parents if path.exists())
    if n_bytes > (free := shutil.disk_usage(there).free):
        raise DictionaryError(
            f"cache_activations: {n_token:,} tokens take {n_bytes / 2**30:,.1f} GiB, and {there} "
            f"has {free / 2**30:,.1f} free. Ask for fewer, or for dtype=torch.bfloat16."
        )
    shards: list[dict[str, Any]] = []
    pending: list[dict[Site, Tensor]] = []
    done = waiting = 0
    with folder_written_whole(folder) as files, counted(n_token, "caching", "token") as bar:
        for chunk in source.chunks():
            taken = min(chunk.n_token, n_token - done - waiting)
            pending.append({s: t[:taken].to("cpu", dtype) for s, t in chunk.activations.items()})
            waiting += taken
            bar.update(taken)
            if waiting >= _SHARD or done + waiting == n_token:
                whole = {str(s): torch.cat([p[s] for p in pending]) for s in source.widths}
                path = files / f"shard-{len(shards):05d}.safetensors"
                save_file(whole, path)
                written = {"file": path.name, "n_token": waiting, "sha256": content_hash(path)}
                shards.append(written)
                done, waiting, pending = done + waiting, 0, []
            if done == n_token:
                break
        widths = {str(site): width for site, width in source.widths.items()}
        index = {"widths": widths, "shards": shards, "made_of": source.made_of}
        write_json(files / _INDEX, index)
    return CachedActivations(folder)
