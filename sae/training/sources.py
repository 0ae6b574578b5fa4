"""Streams of activations to train on: from a model, from a cache on disk, from any tensors.

A *source* gives chunks, each a tensor ``token model`` for every site, tokens side by side; the
`Mixer` makes batches of them. It fills a buffer, shuffles it whole, hands out its batches and fills
it anew. What a reader would get wrong: the buffer is never saved. It is the same again when it is
filled from the position where it began, so a run's state is a few numbers, whatever its size.

A model is read where `sae.reading` counts: ``<bos>`` and padding are left out.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.corpus.batches import BatchPlan, Position, batches
from circuits.corpus.documents import Corpus
from circuits.corpus.tokenizer import tokenizer_hash
from circuits.errors import ActivationError, check_count, first_line
from circuits.model.model import Model
from circuits.model.site import Site, as_sites
from circuits.storage.files import content_hash, folder_written_whole, read_json, write_json
from circuits.storage.progress import counted
from sae.reading import read_counted

_TOKENS = 8192  # in a forward pass, padding and all
_WINDOW = 1024  # the longest rows that activations are read from
_SHARD = 2**16  # tokens in a file of a cache
_INDEX = "activations.json"


@dataclass(frozen=True, eq=False)
class Chunk:
    """Activations of the same tokens at every site, and where the next ones are."""

    activations: dict[Site, Float[Tensor, "token model"]]
    after: dict[str, int]

    @property
    def n_token(self) -> int:
        """How many tokens there are."""
        return len(next(iter(self.activations.values())))


class Activations(ABC):
    """A source of activations that begins again from any position it has named."""

    @property
    @abstractmethod
    def widths(self) -> dict[Site, int]:
        """The sites, and how wide their activations are."""

    @abstractmethod
    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """Chunks from a position on; without end where there is more than one pass to be had."""

    @property
    @abstractmethod
    def made_of(self) -> dict[str, Any]:
        """What the activations come from, as hashes: the same record, the same activations."""


@dataclass(frozen=True, eq=False)
class ModelActivations(Activations):
    """What a model does at some sites on the documents of a corpus, one forward pass for all."""

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
        """A chunk for each forward pass, in a shuffled order of documents, epoch after epoch."""
        words = self.model.words("reading a corpus")
        for batch in batches(self.corpus, words, self._plan, Position(**(after or {}))):
            _, found = read_counted(self.model, batch, self.sites)
            yield Chunk(found, batch.after.as_dict())


@dataclass(frozen=True, eq=False)
class TensorActivations(Activations):
    """Tensors of one's own: a list of them, or a function that begins an iterator over them.

    Each is ``token model``, or a dict of one such tensor for every site. The iterator has to be
    the same each time it is begun, because that is how a run that was stopped finds its place.
    """

    tensors: Sequence[Tensor | dict[Site, Tensor]] | Callable[[], Iterable[Tensor | dict]]
    site: Site | str = "mlp_in@0"  # of tensors that come without one

    def __post_init__(self) -> None:
        given = self.tensors
        if isinstance(given, Iterator) or (callable(given) and _is_begun_only_once(given)):
            raise ActivationError(
                "an iterator that can be used up was given, and a run that was stopped could not "
                "find its place in it. Give a list, or a function that begins a new one."
            )

    def _begun(self) -> Iterator[dict[Site, Tensor]]:
        items = self.tensors() if callable(self.tensors) else self.tensors
        (site,) = as_sites(self.site)
        for item in items:
            named = {site: item} if isinstance(item, Tensor) else dict(item)
            lengths = {len(tensor) for tensor in named.values() if tensor.ndim == 2}
            if len(lengths) != 1 or any(tensor.ndim != 2 for tensor in named.values()):
                shapes = ", ".join(f"{s}: {tuple(t.shape)}" for s, t in named.items())
                raise ActivationError(
                    f"activations of shapes {shapes}: each item must hold the same tokens at every "
                    f"site, as tensors of shape (token, model). Flatten batch and position."
                )
            yield named

    @cached_property
    def _first(self) -> dict[Site, Tensor]:
        first = next(self._begun(), None)
        if first is None:
            raise ActivationError("there are no tensors to train on: the first pass is empty.")
        return first

    @property
    def widths(self) -> dict[Site, int]:
        """The sites and widths of the first item."""
        return {site: tensor.shape[1] for site, tensor in self._first.items()}

    @property
    def made_of(self) -> dict[str, Any]:
        """A hash of the first item."""
        digest = hashlib.sha256()
        for site, tensor in self._first.items():
            digest.update(f"{site} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return {"tensors": digest.hexdigest()}

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
                    told, wanted = (
                        ", ".join(f"{site}: {width}" for site, width in widths.items())
                        for widths in (found, self.widths)
                    )
                    raise ActivationError(
                        f"item {item} has the sites and widths {told}, and the first one has "
                        f"{wanted}. Give every item the same."
                    )
                yield Chunk(named, {"epoch": epoch, "item": item + 1})
            if empty and not first:
                raise ActivationError(
                    f"pass {epoch + 1} over the tensors is empty: an iterator that can be used up "
                    f"was given. Give a list, or a function that begins a new one."
                )


def _is_begun_only_once(begin: Callable[[], Iterable[Tensor | dict]]) -> bool:
    first = begin()
    return isinstance(first, Iterator) and begin() is first


@dataclass(frozen=True, eq=False)
class CachedActivations(Activations):
    """Activations that `cache_activations` has put on disk, read where they lie.

    Files are mapped into memory, so runs side by side share one copy of what they read.
    """

    folder: Path

    @cached_property
    def _index(self) -> dict[str, Any]:
        return read_json(Path(self.folder) / _INDEX, ActivationError)

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
        """What the activations came from, and every file's hash when it was written.

        The files are not hashed again: what has changed in them since is not seen here.
        """
        return {**self._index["made_of"], "shards": [s["sha256"] for s in self._index["shards"]]}

    def chunks(self, after: dict[str, int] | None = None) -> Iterator[Chunk]:
        """Pieces of one file after another, the files in another order each epoch."""
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
        try:
            with safe_open(path, framework="pt") as file:
                views = {site: file.get_slice(str(site)) for site in self.widths}
                wanted = {site: [shard["n_token"], width] for site, width in self.widths.items()}
                if any(views[site].get_shape() != shape for site, shape in wanted.items()):
                    raise SafetensorError("its tensors are not those of the index")
                for first in range(start, shard["n_token"], _TOKENS):
                    stop = min(first + _TOKENS, shard["n_token"])
                    found = {site: view[first:stop].float() for site, view in views.items()}
                    yield Chunk(found, {**where, "token": stop})
        except (SafetensorError, OSError) as error:
            raise ActivationError(
                f"{path}: cannot be read ({first_line(error)}). The cache is damaged: make it "
                f"again, or copy it anew."
            ) from error


def cache_activations(
    source: Activations,
    folder: str | Path,
    n_token: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> CachedActivations:
    """Write the first ``n_token`` tokens of a source to a new folder; whole or not at all.

    In bfloat16 the files are half as large, and what is trained on has three digits.
    """
    folder = Path(folder)
    if folder.exists():
        raise ActivationError(f"{folder}: is there already. Name a new folder, or remove this one.")
    check_count("cache_activations", n_token, None, "n_token")
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
                name = f"shard-{len(shards):05d}.safetensors"
                save_file(whole, files / name)
                shards.append(
                    {"file": name, "n_token": waiting, "sha256": content_hash(files / name)}
                )
                done, waiting, pending = done + waiting, 0, []
            if done == n_token:
                break
        widths = {str(site): width for site, width in source.widths.items()}
        index = {"widths": widths, "shards": shards, "made_of": source.made_of}
        write_json(files / _INDEX, index)
    return CachedActivations(folder)


@dataclass(frozen=True)
class Summary:
    """What the activations of a site are like, over the tokens of one buffer."""

    n_token: int
    mean: Float[Tensor, " model"]
    mean_norm: float
    median_norm: float
    rank: int  # of the covariance, to float32 precision
    effective_rank: float  # (sum of its eigenvalues)² / sum of their squares

    @classmethod
    def of(cls, x: Float[Tensor, "token model"]) -> Summary:
        """Of some tokens."""
        norms = torch.linalg.vector_norm(x, dim=1).double()
        mean = x.double().mean(0)
        centred = x - mean.to(x)
        covariance = (centred.mT @ centred).double() / len(x)
        sizes = torch.linalg.eigvalsh(covariance).clamp(min=0)
        precision = torch.finfo(torch.float32).eps * len(sizes)
        return cls(
            len(x),
            mean.to(x),
            float(norms.mean()),
            float(norms.median()),
            int((sizes > precision * sizes.max()).sum()),
            float(sizes.sum() ** 2 / sizes.square().sum().clamp(min=1e-300)),
        )

    def as_dict(self) -> dict[str, float | int]:
        """Without the mean itself: plain numbers for a record."""
        numbers = {name: value for name, value in vars(self).items() if name != "mean"}
        return {**numbers, "norm_of_mean": float(self.mean.norm())}


@dataclass
class Place:
    """Where a mixer stands: all that it needs to go on, as plain numbers."""

    block: int = 0
    at: dict[str, int] | None = None  # in the source, where the block's buffer begins
    batch: int = 0  # of the block
    n_masked: int = 0  # outliers left out before this block
    limits: dict[str, float] | None = None  # norms beyond which a token is an outlier


@dataclass(frozen=True, eq=False)
class Mixer:
    """Batches whose tokens come from a whole buffer of the source, shuffled."""

    source: Activations
    n_buffer: int  # tokens held at a time
    n_batch: int
    seed: int = 0
    outlier: float | None = None  # a token is left out at so many times the median norm
    device: torch.device | str = "cpu"
    _last: dict[str, Any] = field(default_factory=dict, repr=False)  # filled, and where it began

    def __post_init__(self) -> None:
        if self.n_batch > self.n_buffer:
            raise ActivationError(
                f"batches of {self.n_batch} tokens from a buffer of {self.n_buffer}: the buffer "
                f"must hold one. Make it larger, or the batch smaller."
            )

    @property
    def _ahead(self) -> bool:
        """Whether the next buffer is filled while one is used."""
        return torch.device(self.device).type == "cuda"

    def batches(self, start: Place | None = None) -> Iterator[tuple[dict[Site, Tensor], Place]]:
        """Batches without end, each with the place where the next one begins."""
        place = start or Place()
        blocks = self._blocks(place)
        n_batches = self.n_buffer // self.n_batch
        for buffer, here, next_one in ahead(blocks) if self._ahead else blocks:
            order = np.random.default_rng([self.seed, here.block]).permutation(self.n_buffer)
            shuffled = torch.from_numpy(order).to(self.device)
            for batch in range(here.batch, n_batches):
                rows = shuffled[batch * self.n_batch : (batch + 1) * self.n_batch]
                last = batch + 1 == n_batches
                after = next_one if last else replace(here, batch=batch + 1)
                yield {site: tensor.index_select(0, rows) for site, tensor in buffer.items()}, after

    def n_masked(self, place: Place) -> int:
        """Outliers left out up to a place, those of the buffer that is in use there included."""
        _, here, after = next(self._blocks(place))
        return after.n_masked if place.batch else here.n_masked

    def buffer(self, place: Place) -> dict[Site, Float[Tensor, "token model"]]:
        """The whole buffer at a place, in no shuffled order: to look at, not to train on."""
        return next(self._blocks(place))[0]

    def _blocks(self, place: Place) -> Iterator[tuple[dict[Site, Tensor], Place, Place]]:
        """Filled buffers, each with its place and the one after it."""
        chunks = None
        for block in count(place.block):
            here = replace(place, block=block)
            if self._last.get("from") != (block, here.at):
                chunks = chunks or self.source.chunks(here.at)
                self._last.clear()
                self._last["filled"] = self._filled(chunks, here)
                self._last["from"] = (block, here.at)
            buffer, at, limits, n_masked = self._last["filled"]
            chunks = chunks or self.source.chunks(at)
            here = replace(here, limits=limits)
            place = Place(block + 1, at, 0, here.n_masked + n_masked, limits)
            yield buffer, here, place

    def _storage(self) -> dict[Site, Tensor]:
        widths = self.source.widths.items()
        sizes = {site: (self.n_buffer, width) for site, width in widths}
        return {site: torch.empty(size, device=self.device) for site, size in sizes.items()}

    @cached_property
    def _shared(self) -> dict[Site, Tensor]:
        """The same memory for every buffer, where none is filled while another is used."""
        return self._storage()

    def _filled(
        self, chunks: Iterator[Chunk], here: Place
    ) -> tuple[dict[Site, Tensor], dict[str, int], dict[str, float] | None, int]:
        limits, buffer = here.limits, self._storage() if self._ahead else self._shared
        filled = n_masked = 0
        at: dict[str, int] = here.at or {}
        while filled < self.n_buffer:
            chunk = next(chunks)
            if here.block == 0 and chunk.after["epoch"] > 0:
                raise ActivationError(
                    f"one pass over the data gives {filled} tokens, fewer than the buffer of "
                    f"{self.n_buffer}. Give more text, or make the plan's n_buffer (and n_batch) "
                    f'smaller: on the command line {{"n_buffer": …}} in the file of --plan.'
                )
            found = {s: t.to(self.device, torch.float32) for s, t in chunk.activations.items()}
            if self.outlier is not None:
                limits = limits or {
                    str(s): self.outlier * float(t.norm(dim=1).median()) for s, t in found.items()
                }
                kept = _within(found, limits)
                n_masked += int((~kept).sum())
                found = {site: tensor[kept] for site, tensor in found.items()}
            taken = min(len(next(iter(found.values()))), self.n_buffer - filled)
            for site, tensor in found.items():
                buffer[site][filled : filled + taken] = tensor[:taken]
            filled += taken
            at = chunk.after
        return buffer, at, limits, n_masked


def _within(found: dict[Site, Tensor], limits: dict[str, float]) -> Bool[Tensor, " token"]:
    """Which tokens are no outliers at any site; what is not finite is left for others to see."""
    norms = {site: tensor.norm(dim=1) for site, tensor in found.items()}
    beyond = [(n > limits[str(site)]) & n.isfinite() for site, n in norms.items()]
    return ~torch.stack(beyond).any(0)


Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one made in another thread while this one is used."""
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(1)
    over = threading.Event()

    def put(item: Item | None, ended_by: BaseException | None) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                waiting.put((item, ended_by), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if over.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are used
            put(None, error)

    worker = threading.Thread(target=work, name="activations", daemon=True)
    worker.start()
    try:
        while True:
            item, ended_by = waiting.get()
            if isinstance(ended_by, StopIteration):
                return
            if ended_by is not None:
                raise ended_by
            yield cast(Item, item)
    finally:
        over.set()
        worker.join()
