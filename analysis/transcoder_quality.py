"""How well a transcoder stands in for what it replaces, and what of the layer it cannot show.

Beside it stands the same layer between two autoencoders, where every output is an exact sum over
pairs of features. The first token of each row counts in nothing and is never replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.quality_sums import ActiveCounts, SplicedLosses, Way, share
from circuits.algebra.bilinear import BilinearLayer, with_constant
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import DictionaryError, check_count
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, Reading, readings

WHAT_IS_LOST = (
    "Between what a transcoder's features read and what they write everything is linear: read row, "
    "gate, write row. Which pairs make a feature active is not in it; a bilinear layer between two "
    "autoencoders has these pairs, exactly."
)
_OFF = 0.1  # what may be missing where 90 % are reached


@checked
@torch.no_grad()
def transcoder_table(
    transcoder: Dictionary,
    inputs: Dictionary,
    outputs: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    n_documents: int = N_DOCUMENTS,
    window: int | None = None,
    n_explained: int = 500,
) -> pd.DataFrame:
    """A transcoder of an MLP beside autoencoders of its input and output with the layer between.

    ``fvu`` is of the MLP's output, ``loss`` the model's with the row in its place, in nats a
    predicted token; ``recovered`` is where it lies from zero in its place (0) to the model (1).
    Rows: the ``transcoder``; ``autoencoders and layer``, the output's reconstruction of what the
    layer makes of the input's; ``input and layer`` and ``output`` with one autoencoder alone;
    ``affine map``, the best one on these tokens; ``clean`` and ``zero``.

    ``terms_90`` is how many terms make up 90 % of an output feature's reading (the encoder's row
    times the output, of the features active on it): the strongest, until their sum is within a
    tenth of the sum of all that have a feature in them. A term is one feature of the transcoder, or
    one pair of input features (or a square, or a feature with the constant) of the layer.
    ``energy_90`` is how many active features, the strongest written ones first, leave at most a
    tenth of the squared norm of all that is written. Both are medians over the first
    ``n_explained`` tokens. ``between`` says whether pairs are known.
    """
    check_count("transcoder_table", n_explained, None, "n_explained")
    site = transcoder.site_in(model, "transcoder_table")
    layer = _between(transcoder, inputs, outputs, site, model)
    transcoder, inputs, outputs = (d.to(model.device) for d in (transcoder, inputs, outputs))
    read = partial(_read, model, corpus, mlp_sites(site.layer), n_documents, window)
    first = _First(transcoder)
    for _, x, y in read():
        first.see(x, y)
    ways: dict[str, Way] = {
        "transcoder": lambda x, y: transcoder.reconstruct(x),
        "autoencoders and layer": lambda x, y: outputs.reconstruct(layer(inputs.reconstruct(x))),
        "input and layer": lambda x, y: layer(inputs.reconstruct(x)),
        "output": lambda x, y: outputs.reconstruct(y),
        "affine map": first.affine,
        "zero": lambda x, y: torch.zeros_like(y),
    }
    losses, needed = SplicedLosses(mlp_sites(site.layer)[1], ways), Needed(n_explained)
    for reading, x, y in read():
        losses.see(reading, reading.losses(), x, y)
        needed.see(x, y, (transcoder, inputs, outputs), layer)
    table = losses.table()
    columns = _described({"transcoder": transcoder, "input and layer": inputs, "output": outputs})
    columns["terms_90"] = {"transcoder": needed.median("features"), _PAIR: needed.median("pairs")}
    columns["energy_90"] = {"transcoder": needed.median("written"), _PAIR: needed.median("outputs")}
    columns["between"] = {"transcoder": "linear, no pairs", _PAIR: "pairs, exact"}
    for name, values in columns.items():
        table[name] = pd.Series(values, dtype=object)
    return table.rename_axis("in place of the MLP").assign(n_token=first.n_token)


_PAIR = "autoencoders and layer"


def _described(shown: dict[str, Dictionary]) -> dict[str, dict[str, Any]]:
    """How many features each row's dictionaries have, and how many are active."""
    columns: dict[str, dict[str, Any]] = {
        "n_feature": {name: str(each.n_feature) for name, each in shown.items()},
        "k": {name: str(each.k or "threshold") for name, each in shown.items()},
    }
    for column in columns.values():
        column[_PAIR] = f"{column['input and layer']} + {column['output']}"
    return columns


class TranscoderMeasure:
    """A transcoder's row of `quality`: of its target, with it in the target's place. In ``random``
    each feature writes another feature's row."""

    def __init__(self, transcoder: Dictionary, model: Model, seed: int) -> None:
        assert transcoder.target is not None  # the caller looked
        self.site = transcoder.site_in(model, "quality")
        (self.target,) = model.check_sites(transcoder.target)
        self._transcoder = transcoder = transcoder.to(model.device)
        self.sites = (self.site, self.target)
        self._first, self._counts = _First(transcoder), ActiveCounts(transcoder.n_feature)
        draw = torch.randperm(transcoder.n_feature, generator=torch.Generator().manual_seed(seed))
        shuffled = replace(transcoder, decoder=transcoder.decoder[draw.to(transcoder.device)])
        self.losses = SplicedLosses(
            self.target,
            {
                "sae": lambda x, y: transcoder.reconstruct(x),
                "with_error": lambda x, y: (made := transcoder.reconstruct(x)) + (y - made),
                "zero": lambda x, y: torch.zeros_like(y),
                "mean": lambda x, y: self._first.mean.expand_as(y),
                "random": lambda x, y: shuffled.reconstruct(x),
            },
        )

    def look(self, reading: Reading) -> None:
        """A batch of the first pass: sums of squares, and counts."""
        self._counts.see(self._first.see(*self._both(reading)))

    def see(self, reading: Reading, clean: Tensor) -> None:
        """A batch of the second pass: losses."""
        self.losses.see(reading, clean, *self._both(reading))

    def _both(self, reading: Reading) -> tuple[Tensor, Tensor]:
        return reading.activations[self.site], reading.activations[self.target]

    def row(self) -> dict[str, Any]:
        """The columns of `quality` that a transcoder has."""
        table = self.losses.table()
        loss = table["loss"]
        return {
            "site": f"{self.site} to {self.target}",
            "n_feature": self._transcoder.n_feature,
            "k": self._transcoder.k,
            "fvu": table["fvu"]["sae"],
            "explained_variance": 1 - table["fvu"]["sae"] + self.losses.constant("sae"),
            **self._counts.row(),
            **{f"loss_{name}": value for name, value in loss.items()},
            "added": table["added"]["sae"],
            "recovered": table["recovered"]["sae"],
            "recovered_error": self.losses.error("sae"),
            "recovered_from_mean": share(loss["mean"] - loss["sae"], loss["mean"] - loss["clean"]),
            "n_predicted": self.losses.n_predicted,
            "fvu_random": table["fvu"]["random"],
            "recovered_random": table["recovered"]["random"],
            "n_token": self._first.n_token,
        }


def _between(
    transcoder: Dictionary, inputs: Dictionary, outputs: Dictionary, site: Site, model: Model
) -> BilinearLayer:
    """The layer, refused where the three are not of its MLP."""
    into, out = mlp_sites(site.layer)
    pair = [each.known_site("transcoder_table") for each in (inputs, outputs)]
    if [site, transcoder.target, *pair] != [into, out, into, out]:
        shown = f"{site} to {transcoder.target}, autoencoders of {pair[0]} and {pair[1]}"
        raise DictionaryError(
            f"transcoder_table: {shown}, but the bilinear layer is between {into} and {out}. "
            f"Give the dictionaries of one layer's mlp_in and mlp_out, and a transcoder of these."
        )
    for dictionary in (inputs, outputs):
        dictionary.site_in(model, "transcoder_table")
    return model.layer(site.layer)


def _read(
    model: Model, corpus: Corpus, sites: tuple[Site, Site], n_documents: int,
    window: int | None,
) -> Iterator[tuple[Reading, Tensor, Tensor]]:  # fmt: skip
    """Each batch with its counted tokens' activations at the site and at the target."""
    for reading in readings(model, corpus, sites, n_documents=n_documents, window=window):
        x, y = (reading.activations[site] for site in sites)
        yield reading, x, y


class _First:
    """A first pass: the target's mean, and its best affine map."""

    def __init__(self, transcoder: Dictionary) -> None:
        self._transcoder = transcoder
        wide = (transcoder.d_model + 1, transcoder.d_target)
        like: Any = {"dtype": torch.float64, "device": transcoder.device}
        self._second = torch.zeros(wide[0], wide[0], **like)
        self._across = torch.zeros(wide, **like)

    def see(self, x: Float[Tensor, "token model"], y: Float[Tensor, "token target"]) -> Any:
        """Add some tokens; returns their active features."""
        lifted, y = with_constant(x.double()), y.double()
        self._second += lifted.mT @ lifted
        self._across += lifted.mT @ y
        return self._transcoder.active(x)

    @property
    def n_token(self) -> int:
        return int(self._second[-1, -1])

    @property
    def mean(self) -> Float[Tensor, " target"]:
        return (self._across[-1] / self.n_token).to(self._transcoder.dtype)

    def affine(self, x: Float[Tensor, "token model"], y: Tensor) -> Float[Tensor, "token target"]:
        """The least-squares map of these tokens."""
        # a ridge of rounding's size: directions that no token has are left out
        ridge = (
            1e-9 * self._second.diagonal().mean() * torch.eye(len(self._second)).to(self._second)
        )
        solved = torch.linalg.solve(self._second + ridge, self._across)
        return (with_constant(x.double()) @ solved).to(y)


class Needed:
    """How many terms make up most of what is written, on the first tokens."""

    def __init__(self, n_token: int) -> None:
        self._left = n_token
        self.found: dict[str, list[int]] = {}

    def median(self, name: str) -> float:
        """NaN where nothing was active."""
        return float(np.median(self.found[name])) if self.found.get(name) else float("nan")

    def see(
        self, x: Tensor, y: Tensor, dictionaries: tuple[Dictionary, ...], layer: BilinearLayer
    ) -> None:
        """Count for some tokens, as far as the number wanted goes."""
        n = min(self._left, len(x))
        self._left -= n
        for into, out in zip(x[:n], y[:n], strict=True):
            self._token(into[None], out[None], dictionaries, layer)

    def _token(
        self, x: Tensor, y: Tensor, dictionaries: tuple[Dictionary, ...], layer: BilinearLayer
    ) -> None:
        transcoder, inputs, outputs = dictionaries
        written, read = _written(transcoder, x), _written(inputs, x)
        code = outputs.active(y)
        reads = outputs.encoder[code.features[code.active]]
        self.add("features", written @ reads.mT)
        self.add("pairs", pair_terms(layer, read, inputs.offset, reads))
        out = _written(outputs, layer(inputs.reconstruct(x)))
        for name, rows in (("written", written), ("outputs", out)):
            rows = rows[rows.square().sum(1).argsort(descending=True)]
            left = (rows.sum(0) - rows.cumsum(0)).square().sum(1)
            self._count(name, left[:, None], _OFF * rows.sum(0).square().sum()[None])

    def add(self, name: str, terms: Float[Tensor, "term read"]) -> None:
        """Count the terms of each reading."""
        terms = terms.gather(0, terms.abs().argsort(0, descending=True))
        left = (terms.sum(0) - terms.cumsum(0)).abs()
        self._count(name, left, _OFF * terms.sum(0).abs())

    def _count(
        self, name: str, left: Float[Tensor, "term sum"], most: Float[Tensor, " sum"]
    ) -> None:
        """How many terms it takes until what is left of each sum is small."""
        if len(left):
            within = left <= most
            within[-1] = True  # all of them, whatever is rounded
            self.found.setdefault(name, []).extend((within.long().argmax(0) + 1).tolist())


def _written(
    dictionary: Dictionary, x: Float[Tensor, "one model"]
) -> Float[Tensor, "active target"]:
    """What each active feature of a token writes."""
    code = dictionary.active(x)
    return code.values[code.active][:, None] * dictionary.decoder[code.features[code.active]]


def pair_terms(
    layer: BilinearLayer,
    written: Float[Tensor, "active model"],
    offset: Float[Tensor, " model"],
    reads: Float[Tensor, "read out"],
) -> Float[Tensor, "pair read"]:
    """What each pair of features adds to each reading; squares, and features with the constant
    (the offset and the layer's own), are pairs too, the constant alone is not."""
    parts = torch.cat([layer.lift(written, 0.0), layer.lift(offset[None])]).to(layer.dtype)
    left, right = (parts @ factor.mT for factor in layer.factors)
    gates = reads.to(layer.dtype) @ layer.down
    forms = torch.einsum("ih,jh,rh->ijr", left, right, gates)
    forms = forms + forms.transpose(0, 1)
    first, second = torch.triu_indices(len(parts), len(parts), device=parts.device)[:, :-1]
    halved = torch.where(first == second, 0.5, 1.0).to(forms)
    return forms[first, second] * halved[:, None]
