"""A model's activations on a corpus, in order, at the tokens that count.

Every token counts once, except padding and the first of each row: the activation at ``<bos>`` is
the same in every row and far from all others, so it would dominate what is measured.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from circuits.arguments import checked, checked_methods
from circuits.corpus.batches import Batch, BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import check_count, check_rows, check_width
from circuits.model.model import Model
from circuits.model.site import BySite, Site, begun_at
from circuits.storage.progress import progress

N_DOCUMENTS = 1000
"""The default number of documents."""

_MOST_WINDOW = 2**20
_WINDOW = 128  # tokens in a row, or fewer where the model takes fewer


@checked_methods
@dataclass(frozen=True, eq=False)
class Reading:
    """A batch and the model's activations at its tokens that count."""

    model: Model
    batch: Batch
    window: int  # documents are cut into rows of at most this length
    counted: Bool[Tensor, "batch pos"]
    activations: dict[Site, Float[Tensor, "token model"]]  # of the counted tokens, row by row
    _streams: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def position(self) -> Int64[Tensor, " token"]:
        """Each counted token's position in its document, from 0 after ``<bos>``."""
        row, place = self.counted.nonzero(as_tuple=True)
        return self.batch.nth[row] * (self.window - 1) + place - 1

    def losses(
        self,
        site: Site | None = None,
        values: Float[Tensor, "token model"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The nats of each row, with these values at the site's counted tokens; None: as it is."""
        model, tokens, mask = self.model, self.batch.tokens, self.batch.mask
        if site is None or values is None:
            return model.losses(tokens, mask)
        check_rows("Reading.losses", values, int(self.counted.sum()), "counted tokens")
        check_width("Reading.losses", values, model.d_model, "values")
        here = self.counted.to(model.device)
        place = here.nonzero()[:, 1]

        def replaced(x: Tensor) -> Tensor:
            new = x.clone()
            # the last token of a row predicts nothing, so the model does not run on it
            new[here[:, : x.shape[1]]] = values[place < x.shape[1]].to(x)
            return new

        stream = self._stream(site.layer)
        with begun_at(model.network, site.layer, stream), model.replaced({site: replaced}):
            return model.losses(tokens, mask)

    def _stream(self, layer: int) -> Float[Tensor, "batch pos model"]:
        """Before a layer, of all tokens that predict one; computed once."""
        if layer not in self._streams:
            site = Site("resid_pre", layer)
            self._streams[layer] = self.model.read(self.batch.tokens[:, :-1], site)[site]
        return self._streams[layer]


@checked
def readings(
    model: Model,
    corpus: Corpus,
    sites: Iterable[Site],
    *,
    n_documents: int = N_DOCUMENTS,
    window: int | None = None,
) -> Iterator[Reading]:
    """The first documents of a corpus, in rows of up to ``window`` tokens."""
    check_count("reading a corpus", n_documents, None, "n_documents")
    if window is not None:
        check_count("reading a corpus", window, _MOST_WINDOW, "window")
    words, sites = model.words("reading a corpus"), list(sites)
    plan = BatchPlan(window=min(_WINDOW, model.n_context) if window is None else window)
    batches = in_order(corpus, words, plan, n_documents)
    for batch in progress(batches, "reading", "batch"):
        yield Reading(model, batch, plan.window, *read_counted(model, batch, sites))


@torch.no_grad()
def read_counted(
    model: Model, batch: Batch, sites: Iterable[Site]
) -> tuple[Bool[Tensor, "batch pos"], dict[Site, Float[Tensor, "token model"]]]:
    """The tokens of a batch that count, and the model's activations there at some sites."""
    counted = batch.mask.clone()
    counted[:, 0] = False  # <bos>
    here = counted.to(model.device)
    found = model.read(batch.tokens, sites).items()
    return counted, BySite((site, x[here]) for site, x in found)
