"""How well a dictionary represents its site: one row of numbers, each with its control.

The first token of each row counts in no statistic and is never replaced: autoencoders are not
trained on ``<bos>``, and the loss would measure that one activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.transcoder_quality import transcoder_row
from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import with_constant
from circuits.algebra.directions import row_norms
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, Reading, readings
from sae.sparse import Code
from sae.statistics import statistics

_DENSE = 0.1  # a feature that is active on a larger share of tokens is dense
_FEW = 2  # no correlation of so few tokens


@checked
@torch.no_grad()
def quality(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    n_documents: int = N_DOCUMENTS,
    window: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row; losses in nats a predicted token, over the first documents of a corpus.

    *Reconstruction*: ``fvu`` is the squared error over the variance, ``explained_variance`` 1 minus
    the error's variance over it (a constant error does not count), ``l0`` active features a token,
    ``dead`` and ``dense`` shares of features: never active, and active on over a tenth of tokens.

    *Loss*: ``clean``, ``sae`` (with the reconstruction), ``with_error`` (equal to clean), ``zero``
    and ``mean`` (ablations; the one that loses less is the stricter control), ``random`` (with as
    many random directions). ``recovered`` is where sae lies from zero (0) to clean (1),
    ``recovered_from_mean`` the same from mean, ``added`` is sae less clean.

    *Pseudoinverse*: ``pinv_active`` is the correlation of ``D⁺x`` with TopK's activations over the
    tokens where a feature is active; ``pinv_inactive`` over the others with the score that was not
    selected. Medians over features, ``…_mean`` means, ``…_random`` with random directions.
    ``pinv_on_active`` gives TopK's features their pseudoinverse values, ``pinv_largest`` selects
    the largest of these. ``pinv_exact`` is False where the nearest pseudoinverse had to be used.

    A *transcoder*'s row is of its target, with what it writes in the target's place; it has no
    pseudoinverse, and in ``random`` each feature writes another's row.
    """
    if dictionary.target is not None:
        return transcoder_row(dictionary, model, corpus, n_documents, window, seed)
    return _autoencoder_row(dictionary, model, corpus, n_documents, window, seed)


def _autoencoder_row(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    n_documents: int,
    window: int | None,
    seed: int,
) -> pd.DataFrame:
    site = dictionary.site_in(model, "quality")
    dictionary = dictionary.to(model.device)
    read = partial(readings, model, corpus, [site], n_documents=n_documents, window=window)
    moments = _Moments(dictionary)
    found = statistics(moments.seen(reading.activations[site]) for reading in read())
    l0 = float(found.n_active.sum()) / int(found.n_token)
    k = dictionary.k or min(max(1, round(l0)), dictionary.n_feature)
    reader = dictionary.basis(least_squares=True)
    random = reader.control(seed)
    replacements = _replacements(dictionary, reader, random, k, moments.mean)
    losses = _Losses(model, site, replacements)
    pinv, control = (_Correlations(dictionary, basis.read) for basis in (reader, random))
    for reading in read():
        x = reading.activations[site].to(dictionary.dtype)
        code = dictionary.active(x)
        pinv.see(x, code)
        control.see(x, code)
        losses.see(reading, x)
    row: dict[str, Any] = {
        "site": str(site),
        "n_feature": dictionary.n_feature,
        "k": dictionary.k,
        **moments.row(),
        "l0": l0,
        "dead": float((found.n_active == 0).double().mean()),
        "dense": float((found.frequency > _DENSE).double().mean()),
        **losses.row(moments),
        "pinv_exact": len(reader.span.sizes) == dictionary.d_model,
        **pinv.row(moments, control),
        "n_token": int(found.n_token),
        "n_documents": min(n_documents, corpus.n_documents or n_documents),
        "seed": seed,
    }
    return pd.DataFrame(row, index=[0])


def _replacements(
    dictionary: Dictionary, reader: Basis, random: Basis, k: int, mean: Float[Tensor, " model"]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What the site's activation is replaced with, by name."""
    silent = torch.zeros_like(dictionary.bias)
    plain = replace(dictionary, bias=silent, k=k, threshold=None, statistics=None)
    # in float64: squares leave the range of float32 long before the norms do
    norms = row_norms(random.write)[:, None]
    reads = (random.write / norms.square()).nan_to_num(0.0).to(random.write)
    return {
        "sae": dictionary.reconstruct,
        "with_error": lambda x: (made := dictionary.reconstruct(x)) + (x - made),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
        "random": replace(plain, encoder=reads, decoder=random.write).reconstruct,
        "pinv_on_active": partial(_on_active, dictionary, reader.read),
        "pinv_largest": replace(plain, encoder=reader.read).reconstruct,
    }


class _Moments:
    """``Σ x̂ x̂ᵀ`` over all tokens, ``x̂ = [x − offset; 1]``: it gives means and covariances."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        wide = dictionary.d_model + 1
        self.second = torch.zeros(wide, wide, dtype=torch.float64, device=dictionary.device)
        self._error = torch.zeros((), dtype=torch.float64)
        self._errors = torch.zeros(wide - 1, dtype=torch.float64, device=dictionary.device)

    def seen(self, x: Float[Tensor, "token model"]) -> Code:
        """Add some tokens; returns their active features."""
        dictionary = self._dictionary
        x = x.to(dictionary.dtype)
        code = dictionary.active(x)
        error = (x - dictionary.decoded(code)).double()
        self._error = self._error + error.square().sum().cpu()
        self._errors += error.sum(0)
        lifted = with_constant((x - dictionary.offset).double())
        self.second += lifted.mT @ lifted
        return code

    @property
    def n_token(self) -> float:
        return float(self.second[-1, -1])

    @property
    def mean(self) -> Float[Tensor, " model"]:
        """Of the activation."""
        centre = self.second[-1, :-1] / self.n_token
        return (centre + self._dictionary.offset.double()).to(self._dictionary.dtype)

    @property
    def variance(self) -> float:
        """Summed over tokens and dimensions."""
        square = self.second.diagonal()[:-1].sum()
        return float(square - self.second[-1, :-1].square().sum() / self.n_token)

    def row(self) -> dict[str, float]:
        biased = float(self._errors.square().sum()) / self.n_token
        return {
            "fvu": _share(float(self._error), self.variance),
            "explained_variance": 1 - _share(float(self._error) - biased, self.variance),
        }


class _Correlations:
    """Between a reader's values and the scores that TopK selects from, for each feature; those over
    inactive tokens are those over all, from second moments, less those over active ones."""

    def __init__(self, dictionary: Dictionary, read: Float[Tensor, "feature model"]) -> None:
        self._dictionary, self._read = dictionary, read
        self._active = np.zeros((6, dictionary.n_feature))  # n, z, s, zz, ss, zs

    def see(self, x: Float[Tensor, "token model"], code: Code) -> None:
        centred = x - self._dictionary.offset
        active = code.active
        z = code.products(centred, self._read)[active].double().cpu().numpy()
        s = code.values[active].double().cpu().numpy()
        feature = code.features[active].cpu().numpy()
        for i, weights in enumerate((np.ones_like(z), z, s, z * z, s * s, z * s)):
            self._active[i] += np.bincount(feature, weights, minlength=len(self._active[i]))

    def shares(self, moments: _Moments) -> tuple[np.ndarray, np.ndarray]:
        """For each feature on active and on other tokens; NaN where there are too few."""
        dictionary = self._dictionary
        z = with_constant(self._read.double(), 0.0)
        s = torch.cat([dictionary.encoder, dictionary.bias[:, None]], dim=1).double()
        z_moment, s_moment = z @ moments.second, s @ moments.second
        total = [z_moment[:, -1], s_moment[:, -1]]
        total += [(a * b).sum(1) for a, b in ((z_moment, z), (s_moment, s), (z_moment, s))]
        whole = np.stack([np.full(len(z), moments.n_token), *(t.cpu().numpy() for t in total)])
        return _correlation(self._active), _correlation(whole - self._active)

    def row(self, moments: _Moments, control: _Correlations) -> dict[str, float]:
        row: dict[str, float] = {}
        both = zip(self.shares(moments), control.shares(moments), strict=True)
        for name, (own, random) in zip(("pinv_active", "pinv_inactive"), both, strict=True):
            row |= {
                name: _over(np.nanmedian, own),
                f"{name}_mean": _over(np.nanmean, own),
                f"{name}_random": _over(np.nanmedian, random),
                f"{name}_n": int(np.isfinite(own).sum()),
            }
        return row


def _correlation(sums: Float[np.ndarray, "6 feature"]) -> Float[np.ndarray, " feature"]:
    n, z, s, zz, ss, zs = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (zz - z * z / n) * (ss - s * s / n)
        constant = spread <= 1e-20 * zz * ss  # up to rounding
        return np.where((n > _FEW) & ~constant, (zs - z * s / n) / np.sqrt(spread), np.nan)


class _Losses:
    """The model's loss with the site unchanged and with each replacement."""

    def __init__(
        self, model: Model, site: Site, replacements: dict[str, Callable[[Tensor], Tensor]]
    ) -> None:
        self._model, self._site, self._replacements = model, site, replacements
        self._sums = dict.fromkeys(("clean", *replacements), 0.0)
        self._errors = dict.fromkeys(("random", "pinv_on_active", "pinv_largest"), 0.0)
        self._n_predicted = 0

    def see(self, reading: Reading, x: Float[Tensor, "token model"]) -> None:
        n = reading.batch.n_predicted
        self._n_predicted += n
        self._sums["clean"] += n * reading.loss(self._model, self._site, None)
        for name, make in self._replacements.items():
            made = make(x)
            self._sums[name] += n * reading.loss(self._model, self._site, made)
            if name in self._errors:
                self._errors[name] += float((made - x).double().square().sum())

    def row(self, moments: _Moments) -> dict[str, float]:
        loss = {name: total / self._n_predicted for name, total in self._sums.items()}

        def recovered(name: str, control: str = "zero") -> float:
            return _share(loss[control] - loss[name], loss[control] - loss["clean"])

        row = {f"loss_{name}": value for name, value in loss.items()}
        row |= {
            "added": loss["sae"] - loss["clean"],
            "recovered": recovered("sae"),
            "recovered_from_mean": recovered("sae", "mean"),
            "n_predicted": self._n_predicted,
        }
        for name, error in self._errors.items():
            row[f"fvu_{name}"] = _share(error, moments.variance)
            row[f"recovered_{name}"] = recovered(name)
        return row


def _on_active(
    dictionary: Dictionary, read: Float[Tensor, "feature model"], x: Float[Tensor, "token model"]
) -> Float[Tensor, "token model"]:
    """The reconstruction with the reader's values for the features that TopK selects."""
    code = dictionary.active(x)
    values = code.products(x - dictionary.offset, read) * code.active
    return dictionary.decoded(replace(code, values=values))


def _share(part: float, whole: float) -> float:
    """NaN where the whole is zero."""
    return part / whole if whole != 0 else float("nan")


def _over(summary: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    return float(summary(values)) if np.isfinite(values).any() else float("nan")
