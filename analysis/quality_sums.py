"""Sums over tokens that the quality of a dictionary is made of: the model's loss with a site's
activation replaced, by row of text, so that it has an error; and how often features are active."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.site import Site
from sae.reading import Reading
from sae.sparse import Code

Way = Callable[[Tensor, Tensor], Tensor]
"""What takes a site's place, made from the activations that are read and those at the site."""

_DENSE = 0.1  # a feature that is active on a larger share of tokens is dense
_FEW = 32  # rows, of which no error is taken for known


class SplicedLosses:
    """With a site as it is and with each replacement: the loss, and what the replacement misses."""

    def __init__(self, site: Site, ways: Mapping[str, Way]) -> None:
        self._site, self._ways = site, ways
        self._nats: list[Float[np.ndarray, "row way"]] = []
        self._missed = dict.fromkeys((*ways, "clean"), 0.0)
        self._errors: dict[str, Tensor] = {}
        self._sum: Tensor | float = 0.0  # of the site's activation, and of its squares
        self._squares = 0.0
        self.n_predicted = self.n_token = 0

    def see(self, reading: Reading, clean: Tensor, x: Tensor, y: Tensor) -> None:
        """Add a batch: its clean losses by row, what is read, and the site's activation."""
        self.n_predicted += reading.batch.n_predicted
        self.n_token += len(y)
        wide = y.double()
        self._sum = self._sum + wide.sum(0)
        self._squares += float(wide.square().sum())
        rows = [clean]
        for name, way in self._ways.items():
            made = way(x, y)
            rows.append(reading.losses(self._site, made))
            error = (y - made).double()
            self._missed[name] += float(error.square().sum())
            self._errors[name] = self._errors.get(name, 0) + error.sum(0)
        self._nats.append(torch.stack(rows, 1).double().cpu().numpy())

    @property
    def variance(self) -> float:
        """Of the site's activation, summed over tokens and dimensions."""
        return self._squares - float(torch.as_tensor(self._sum).square().sum()) / self.n_token

    def constant(self, name: str) -> float:
        """The share of the variance that the mean error of a way makes up."""
        return share(float(self._errors[name].square().sum()) / self.n_token, self.variance)

    def table(self) -> pd.DataFrame:
        """For each way: ``fvu``, ``loss``, ``added`` to the clean loss, and ``recovered``, where it
        lies from zero in its place (0) to clean (1)."""
        total = sum(each.sum(0) for each in self._nats)
        loss = pd.Series(total / self.n_predicted, ("clean", *self._ways))
        loss = loss[[*self._ways, "clean"]]
        missed = {name: share(each, self.variance) for name, each in self._missed.items()}
        table = pd.DataFrame({"fvu": pd.Series(missed), "loss": loss})
        table["added"] = loss - loss["clean"]
        zero, whole = loss["zero"], loss["zero"] - loss["clean"]
        table["recovered"] = [share(zero - each, whole) for each in loss]
        return table

    def error(self, name: str) -> float:
        """The standard error of what a way recovers, over rows; NaN for too few of them."""
        nats = np.concatenate(self._nats)
        if len(nats) < _FEW:
            return float("nan")
        place = ("clean", *self._ways).index
        gained = nats[:, place("zero")] - nats[:, place(name)]
        whole = nats[:, place("zero")] - nats[:, place("clean")]
        off = gained - share(gained.sum(), whole.sum()) * whole
        spread = np.sqrt(len(off) / (len(off) - 1) * np.square(off).sum())
        return share(float(spread), abs(float(whole.sum())))


class ActiveCounts:
    """On how many tokens each feature is active."""

    def __init__(self, n_feature: int) -> None:
        self._n_active, self.n_token = torch.zeros(n_feature, dtype=torch.int64), 0

    def see(self, code: Code) -> None:
        """Add some tokens."""
        on = code.features[code.active].cpu()
        self._n_active += torch.bincount(on, minlength=len(self._n_active))
        self.n_token += code.n_row

    def row(self) -> dict[str, float]:
        """Active features a token, and the shares of features that are never or densely active."""
        share_of_tokens = self._n_active.double() / self.n_token
        return {
            "l0": float(self._n_active.sum()) / self.n_token,
            "dead": float((self._n_active == 0).double().mean()),
            "dense": float((share_of_tokens > _DENSE).double().mean()),
        }


def share(part: float, whole: float) -> float:
    """NaN where the whole is zero."""
    return part / whole if whole != 0 else float("nan")
