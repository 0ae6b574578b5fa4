"""A model's activations on a corpus, in order, at the tokens that count.

Every token counts once, except padding and the first of each row: the activation at ``<bos>`` is
the same in every row and far from all others, so it would dominate what is measured.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from circuits.arguments import checked, checked_methods
from circuits.corpus.batches import Batch, BatchPlan, in_order
from circuits.corpus.documents import Corpus
from circuits.errors import check_count, check_rows, check_width
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.progress import progress

N_DOCUMENTS = 1000
"""The default number of documents."""

_MOST_WINDOW = 2**20
_WINDOW = 128  # tokens in a row, or fewer where the model takes fewer


@checked_methods
@dataclass(frozen=True, eq=False)
class Reading:
    """A batch and the model's activations at its tokens that count."""

    batch: Batch
    window: int  # documents are cut into rows of at most this length
    counted: Bool[Tensor, "batch pos"]
    activations: dict[Site, Float[Tensor, "token model"]]  # of the counted tokens, row by row

    @property
    def position(self) -> Int64[Tensor, " token"]:
        """Each counted token's position in its document, from 0 after ``<bos>``."""
        row, place = self.counted.nonzero(as_tuple=True)
        return self.batch.nth[row] * (self.window - 1) + place - 1

    def loss(self, model: Model, site: Site, values: Float[Tensor, "token model"] | None) -> float:
        """The model's loss with these values at the site's counted tokens; None: as it is."""
        tokens, mask = self.batch.tokens, self.batch.mask
        if values is None:
            return float(model.loss(tokens, mask))
        check_rows("Reading.loss", values, int(self.counted.sum()), "counted tokens")
        check_width("Reading.loss", values, model.d_model, "values")
        here = self.counted.to(model.device)
        place = here.nonzero()[:, 1]

        def replaced(x: Tensor) -> Tensor:
            new = x.clone()
            # the last token of a row predicts nothing, so the model does not run on it
            new[here[:, : x.shape[1]]] = values[place < x.shape[1]].to(x)
            return new

        with model.replaced({site: replaced}):
            return float(model.loss(tokens, mask))


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
        yield Reading(batch, plan.window, *read_counted(model, batch, sites))


@torch.no_grad()
def read_counted(
    model: Model, batch: Batch, sites: Iterable[Site]
) -> tuple[Bool[Tensor, "batch pos"], dict[Site, Float[Tensor, "token model"]]]:
    """The tokens of a batch that count, and the model's activations there at some sites."""
    counted = batch.mask.clone()
    counted[:, 0] = False  # <bos>
    here = counted.to(model.device)
    return counted, {site: x[here] for site, x in model.read(batch.tokens, sites).items()}
