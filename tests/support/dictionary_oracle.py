"""A dictionary and the model's losses with its site replaced, dense and all tokens at once."""

import torch
from torch.nn import functional

from circuits.corpus.batches import BatchPlan, in_order
from tests.support.small_dictionaries import D_MODEL, small_dictionary

WINDOW = 12


def tied(**fields):
    """Read by its own rows, so that what it reconstructs has something to do with its input."""
    rows = functional.normalize(small_dictionary(dtype=torch.float64).decoder, dim=1)
    parts = {"encoder": rows, "decoder": rows, "offset": torch.zeros(D_MODEL)}
    return small_dictionary(dtype=torch.float64, **{**parts, **fields})


class Oracle:
    """All tokens at once, dense."""

    def __init__(self, model, corpus, dictionary):
        self.model, self.site = model, dictionary.site
        self.batches = list(in_order(corpus, model.tokenizer, BatchPlan(64, WINDOW), 1000))
        with torch.no_grad():
            self.x = torch.cat([self.counted(b, model.read(b.tokens, self.site)[self.site])
                                for b in self.batches])  # fmt: skip

    @staticmethod
    def counted(batch, activation):
        mask = batch.mask.clone()
        mask[:, 0] = False
        return activation[mask]

    def loss(self, function):
        """Mean nats a token with the site replaced everywhere but at <bos>."""

        def replaced(x):
            new = function(x.reshape(-1, D_MODEL)).view(x.shape)
            return torch.cat([x[:, :1], new[:, 1:]], dim=1)

        total, n = 0.0, 0
        for batch in self.batches:
            with torch.no_grad(), self.model.replaced({self.site: replaced}):
                logits = self.model.logits(batch.tokens)[:, :-1]
            losses = functional.cross_entropy(
                logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
            )
            total += float(losses[batch.mask[:, 1:].flatten()].sum())
            n += batch.n_predicted
        return total / n
