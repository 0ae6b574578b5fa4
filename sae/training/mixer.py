"""Batches of shuffled activations, and what the activations of a site are like.

The buffer is never saved: a run that resumes refills it from the position where it began.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DictionaryError
from circuits.model.site import Site
from circuits.storage.checkpoint import check_numbers
from sae.training.sources import Activations, Chunk


def summary(x: Float[Tensor, "token model"]) -> dict[str, float | int]:
    """Statistics of a site's activations; ``rank`` is their covariance's, in float32,
    ``effective_rank`` the square of the sum of its eigenvalues over the sum of their squares."""
    norms = torch.linalg.vector_norm(x, dim=1).double()
    mean = x.double().mean(0).to(x)
    centred = x - mean
    sizes = torch.linalg.eigvalsh((centred.mT @ centred).double() / len(x)).clamp(min=0)
    precision = torch.finfo(torch.float32).eps * len(sizes)
    return {
        "n_token": len(x),
        "mean_norm": float(norms.mean()),
        "median_norm": float(norms.median()),
        "rank": int((sizes > precision * sizes.max()).sum()),
        "effective_rank": float(sizes.sum() ** 2 / sizes.square().sum().clamp(min=1e-300)),
        "norm_of_mean": float(mean.norm()),
    }


def check_summary(kept: dict[str, Any]) -> None:
    """Refuse what is no `summary`."""
    sizes = ("mean_norm", "median_norm", "effective_rank", "norm_of_mean")
    check_numbers(kept, {"n_token": 1, "rank": 0}, least=dict.fromkeys(sizes, 0))


@dataclass
class Place:
    """A mixer's position: everything needed to resume, as plain numbers."""

    block: int = 0
    at: dict[str, int] | None = None  # position in the source where the block's buffer begins
    batch: int = 0  # of the block
    n_masked: int = 0  # outliers left out before this block
    limits: dict[str, float] | None = None  # norms beyond which a token is an outlier

    def check(self, sites: list[str]) -> None:
        """Refuse what is no place; the source knows its own positions."""
        check_numbers(vars(self), dict.fromkeys(("block", "batch", "n_masked"), 0))
        if self.at is not None:
            check_numbers(self.at, dict.fromkeys(self.at, 0))
        if self.limits is not None:
            check_numbers(self.limits, least=dict.fromkeys(sites, 0))


@dataclass(frozen=True, eq=False)
class Mixer:
    """Batches of tokens drawn from a shuffled buffer of the source."""

    source: Activations
    n_buffer: int  # tokens held at a time
    n_batch: int  # at most n_buffer
    seed: int = 0
    outlier: float | None = None  # tokens beyond this multiple of the median norm are left out
    device: torch.device | str = "cpu"
    # the buffer in use, and where it began
    _last: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def _prefetches(self) -> bool:
        """Whether the next buffer is filled while this one is in use."""
        return torch.device(self.device).type == "cuda"

    def batches(self, start: Place | None = None) -> Iterator[tuple[dict[Site, Tensor], Place]]:
        """Endless batches, each with the place where the next one begins."""
        blocks, n_batches = self._blocks(start or Place()), self.n_buffer // self.n_batch
        for buffer, here, next_one in prefetched(blocks) if self._prefetches else blocks:
            order = np.random.default_rng([self.seed, here.block]).permutation(self.n_buffer)
            shuffled = torch.from_numpy(order).to(self.device)
            for batch in range(here.batch, n_batches):
                rows = shuffled[batch * self.n_batch : (batch + 1) * self.n_batch]
                after = replace(here, batch=batch + 1) if batch + 1 < n_batches else next_one
                yield {site: tensor.index_select(0, rows) for site, tensor in buffer.items()}, after

    def n_masked(self, place: Place) -> int:
        """Outliers left out up to a place, including those of the buffer in use there."""
        _, here, after = next(self._blocks(place))
        return after.n_masked if place.batch else here.n_masked

    def buffer(self, place: Place) -> dict[Site, Float[Tensor, "token model"]]:
        """The whole buffer at a place, not shuffled: to look at, not to train on."""
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
        return {
            site: torch.empty((self.n_buffer, width), device=self.device)
            for site, width in self.source.widths.items()
        }

    @cached_property
    def _shared(self) -> dict[Site, Tensor]:
        """Memory reused for every buffer, where none is filled while another is in use."""
        return self._storage()

    def _filled(
        self, chunks: Iterator[Chunk], here: Place
    ) -> tuple[dict[Site, Tensor], dict[str, int], dict[str, float] | None, int]:
        limits, buffer = here.limits, self._storage() if self._prefetches else self._shared
        filled = n_masked = 0
        at: dict[str, int] = here.at or {}
        while filled < self.n_buffer:
            chunk = next(chunks)
            if here.block == 0 and chunk.after["epoch"] > 0:
                raise DictionaryError(
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
    """Tokens that are not outliers at any site; non-finite ones are kept, for later checks."""
    norms = {site: tensor.norm(dim=1) for site, tensor in found.items()}
    beyond = [(n > limits[str(site)]) & n.isfinite() for site, n in norms.items()]
    return ~torch.stack(beyond).any(0)


Item = TypeVar("Item")


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one made in another thread while this one is in use."""
    end: Any = object()
    with ThreadPoolExecutor(1, "activations") as thread:
        waiting = thread.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = thread.submit(next, items, end)
            yield item
