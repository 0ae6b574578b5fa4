"""How well a dictionary represents its site: one row of numbers, each with its control.

The first token of each row counts in no statistic and is never replaced: autoencoders are not
trained on ``<bos>``, and the loss would measure that one activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.quality_sums import ActiveCounts, SplicedLosses, Way, share
from analysis.transcoder_quality import TranscoderMeasure
from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import with_constant
from circuits.algebra.directions import row_norms
from circuits.arguments import checked
from circuits.corpus.documents import Corpus
from circuits.errors import DictionaryError, check_some
from circuits.model.model import Model
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS, Reading, readings
from sae.sparse import Code

ERROR = 0.004
"""The default standard error of what is recovered."""

_ENOUGH = 100_000  # tokens that features are counted on
_FEW = 2  # no correlation of so few tokens


@checked
@torch.no_grad()
def quality(
    dictionaries: Dictionary | Iterable[Dictionary],
    model: Model,
    corpus: Corpus,
    *,
    n_documents: int = N_DOCUMENTS,
    window: int | None = None,
    error: float = ERROR,
    seed: int = 0,
) -> pd.DataFrame:
    """A row for each dictionary; losses in nats a predicted token, over the first documents of a
    corpus, until the standard error of what is recovered is at most ``error``, and all else over
    their first 100,000 tokens; with an error of 0 everything is over all of them.

    *Reconstruction*: ``fvu`` is the squared error over the variance, ``explained_variance`` 1 minus
    the error's variance over it (a constant error does not count), ``l0`` active features a token,
    ``dead`` and ``dense`` shares of features: never active, and active on over a tenth of tokens.

    *Loss*: ``clean``, ``sae`` (with the reconstruction), ``with_error`` (equal to clean), ``zero``
    and ``mean`` (ablations; the one that loses less is the stricter control), ``random`` (with as
    many random directions). ``recovered`` is where sae lies from zero (0) to clean (1),
    ``recovered_error`` its standard error over rows of text, ``recovered_from_mean`` the same from
    mean, ``added`` is sae less clean.

    *Pseudoinverse*: ``pinv_active`` is the correlation of ``D⁺x`` with TopK's activations over the
    tokens where a feature is active; ``pinv_inactive`` over the others with the score that was not
    selected. Medians over features, ``…_mean`` means, ``…_random`` with random directions.
    ``pinv_on_active`` gives TopK's features their pseudoinverse values, ``pinv_largest`` selects
    the largest of these. ``pinv_exact`` is False where the nearest pseudoinverse had to be used.

    A *transcoder*'s row is of its target, with what it writes in the target's place; it has no
    pseudoinverse, and in ``random`` each feature writes another's row.
    """
    if not 0 <= error < 1:
        raise DictionaryError(f"quality: error {error}. Pass 0 or more, and less than 1.")
    several = [dictionaries] if isinstance(dictionaries, Dictionary) else list(dictionaries)
    check_some("quality", several, "dictionaries")
    measures: list[_AutoencoderMeasure | TranscoderMeasure] = [
        (_AutoencoderMeasure if one.target is None else TranscoderMeasure)(one, model, seed)
        for one in several
    ]
    n_documents = min(n_documents, corpus.n_documents or n_documents)
    sites = list({site for each in measures for site in each.sites})
    read = partial(readings, model, corpus, sites, n_documents=n_documents, window=window)
    n_token = 0
    for reading in read():
        for each in measures:
            each.look(reading)
        n_token += int(reading.counted.sum())
        if error and n_token >= _ENOUGH:
            break
    open_ones = measures
    for reading in read():
        clean = reading.losses()
        for each in open_ones:
            each.see(reading, clean)
        open_ones = [each for each in open_ones if not each.losses.error("sae") <= error]
        if not open_ones:
            break
    return pd.DataFrame([m.row() | {"n_documents": n_documents, "seed": seed} for m in measures])


class _AutoencoderMeasure:
    """Two passes: of moments, counts and correlations, then of losses."""

    def __init__(self, dictionary: Dictionary, model: Model, seed: int) -> None:
        self.site = dictionary.site_in(model, "quality")
        self.sites = (self.site,)
        self._dictionary = dictionary = dictionary.to(model.device)
        self._moments, self._counts = _Moments(dictionary), ActiveCounts(dictionary.n_feature)
        self._reader = dictionary.basis(least_squares=True)
        self._random = self._reader.control(seed)
        self._pinv, self._control = (
            _Correlations(dictionary, basis.read) for basis in (self._reader, self._random)
        )

    def look(self, reading: Reading) -> None:
        """A batch of the first pass."""
        x = reading.activations[self.site].to(self._dictionary.dtype)
        code = self._moments.seen(x)
        self._counts.see(code)
        self._pinv.see(x, code)
        self._control.see(x, code)

    @cached_property
    def losses(self) -> SplicedLosses:
        """Of what takes the site's place, which the first pass tells."""
        dictionary = self._dictionary
        k = dictionary.k or min(max(1, round(self._counts.row()["l0"])), dictionary.n_feature)
        ways = _replacements(dictionary, self._reader, self._random, k, self._moments.mean)
        return SplicedLosses(self.site, ways)

    def see(self, reading: Reading, clean: Tensor) -> None:
        """A batch of the second pass."""
        x = reading.activations[self.site].to(self._dictionary.dtype)
        self.losses.see(reading, clean, x, x)

    def row(self) -> dict[str, Any]:
        """The columns of `quality`, but for what all rows share."""
        table = self.losses.table()
        loss = table["loss"]
        row: dict[str, Any] = {
            "site": str(self.site),
            "n_feature": self._dictionary.n_feature,
            "k": self._dictionary.k,
            **self._moments.row(),
            **self._counts.row(),
            **{f"loss_{name}": loss[name] for name in ("clean", *loss.index[:-1])},
            "added": table["added"]["sae"],
            "recovered": table["recovered"]["sae"],
            "recovered_error": self.losses.error("sae"),
            "recovered_from_mean": share(loss["mean"] - loss["sae"], loss["mean"] - loss["clean"]),
            "n_predicted": self.losses.n_predicted,
        }
        for name in ("random", "pinv_on_active", "pinv_largest"):
            row[f"fvu_{name}"] = table["fvu"][name]
            row[f"recovered_{name}"] = table["recovered"][name]
        return row | {
            "pinv_exact": len(self._reader.span.sizes) == self._dictionary.d_model,
            **self._pinv.row(self._moments, self._control),
            "n_token": self._counts.n_token,
        }


def _replacements(
    dictionary: Dictionary, reader: Basis, random: Basis, k: int, mean: Float[Tensor, " model"]
) -> dict[str, Way]:
    """What the site's activation is replaced with, by name."""
    silent = torch.zeros_like(dictionary.bias)
    plain = replace(dictionary, bias=silent, k=k, threshold=None, statistics=None)
    # in float64: squares leave the range of float32 long before the norms do
    norms = row_norms(random.write)[:, None]
    reads = (random.write / norms.square()).nan_to_num(0.0).to(random.write)
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "sae": dictionary.reconstruct,
        "with_error": lambda x: (made := dictionary.reconstruct(x)) + (x - made),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
        "random": replace(plain, encoder=reads, decoder=random.write).reconstruct,
        "pinv_on_active": partial(_on_active, dictionary, reader.read),
        "pinv_largest": replace(plain, encoder=reader.read).reconstruct,
    }
    return {name: partial(_alone, function) for name, function in made.items()}


def _alone(function: Callable[[Tensor], Tensor], x: Tensor, _y: Tensor) -> Tensor:
    """Of what is read alone: an autoencoder's site is its target."""
    return function(x)


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
            "fvu": share(float(self._error), self.variance),
            "explained_variance": 1 - share(float(self._error) - biased, self.variance),
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


def _on_active(
    dictionary: Dictionary, read: Float[Tensor, "feature model"], x: Float[Tensor, "token model"]
) -> Float[Tensor, "token model"]:
    """The reconstruction with the reader's values for the features that TopK selects."""
    code = dictionary.active(x)
    values = code.products(x - dictionary.offset, read) * code.active
    return dictionary.decoded(replace(code, values=values))


def _over(summary: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    return float(summary(values)) if np.isfinite(values).any() else float("nan")
