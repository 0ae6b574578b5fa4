"""What the model loses when every feature is what r eigenpairs make of it.

At each counted token the MLP's output is replaced by a decoded code. The code comes from the
weights and from what the MLP was given: each feature's rank-r approximation is computed, the
dictionary's own rule (the k largest, cut at zero) chooses among the approximations, and what it
chooses is decoded. With every eigenpair and the encoder as reader that is the dictionary's own
reconstruction, so the loss at full rank beside a rank's tells what truncation costs beyond what the
dictionary costs.

What a reader would get wrong: choosing among approximations is the harder task. An approximation
that is good where its feature is active can still be far off where it is not, and then displaces a
right one. ``chosen`` shows that apart: the features that are really active are given, and only
their values are approximations. ``rotated`` is the control of ``loss``: the same eigenvalues along
random directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.lowrank.sums import Forms
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary
from sae.reading import Reading
from sae.sparse import Code

_TILE = 2**20  # squares that are held at a time
_ROWS = 2**24  # scores that are held at a time


@torch.no_grad()
def truncation_loss(
    model: Model,
    dictionary: Dictionary,
    forms: Forms,
    inputs: Iterable[tuple[Reading, Float[Tensor, "token input"]]],
    ranks: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Mean nats a token for the model as it is, with the dictionary in place, and for each rank;
    ``forms`` has one for every feature, in their order."""
    random = forms.rotated(seed)
    site = dictionary.known_site("truncation_loss")
    sums: dict[tuple[str, str], float] = {}
    n_predicted = 0
    for reading, x in inputs:
        n = reading.batch.n_predicted
        n_predicted += n
        for name, values in _replacements(
            dictionary, (forms, random), reading.activations[site], x, ranks
        ):
            loss = float(_spliced(model, site, reading, values))
            sums[name] = sums.get(name, 0.0) + n * loss
    losses = {name: total / n_predicted for name, total in sums.items()}
    clean, zero, sae = (losses[name, "loss"] for name in ("clean", "zero", "sae"))
    table = pd.DataFrame({"loss": pd.Series(losses)}).unstack(1)["loss"]
    table = table.reindex(dict.fromkeys(name for name, _ in losses))[["loss", "chosen", "rotated"]]
    table["added"] = table["loss"] - clean
    table["beyond_sae"] = table["loss"] - sae
    table["recovered"] = (zero - table["loss"]) / (zero - clean)
    return table.rename_axis("replaced_by", axis=0).rename_axis(None, axis=1).reset_index()


def _replacements(
    dictionary: Dictionary,
    forms: tuple[Forms, Forms],
    output: Float[Tensor, "token model"],
    x: Float[Tensor, "token input"],
    ranks: Sequence[int],
) -> Iterator[tuple[tuple[str, str], Tensor | None]]:
    """Each thing that takes the output's place, by name; None leaves it alone."""
    yield ("clean", "loss"), None
    yield ("zero", "loss"), torch.zeros_like(output)
    yield ("sae", "loss"), _decoded(dictionary, dictionary.active(output))
    own, random = forms
    names = [*(f"rank {rank}" for rank in ranks), "full rank"]
    made: dict[tuple[str, str], list[Tensor]] = {}
    n_together = max(1, _ROWS // (len(names) * dictionary.n_feature))
    for start in range(0, len(x), n_together):
        rows = slice(start, start + n_together)
        active = dictionary.active(output[rows])
        for name, scores in zip(names, approximations(own, x[rows], ranks), strict=True):
            values = scores[active.rows, active.features] * active.active
            given = replace(active, values=values.relu() if dictionary.relu else values)
            for how, code in (("loss", dictionary.selected(scores)), ("chosen", given)):
                made.setdefault((name, how), []).append(_decoded(dictionary, code))
        for name, scores in zip(names[:-1], approximations(random, x[rows], ranks), strict=False):
            code = dictionary.selected(scores)
            made.setdefault((name, "rotated"), []).append(_decoded(dictionary, code))
    for which, parts in made.items():
        yield which, torch.cat(parts)


def approximations(
    forms: Forms, x: Float[Tensor, "token input"], ranks: Sequence[int]
) -> Float[Tensor, "rank_or_whole token form"]:
    """What each form is at each rank, and exactly, on every token."""
    n_form, n_rank, d_input = forms.vectors.shape
    kept = torch.arange(n_rank, device=x.device) < torch.tensor(ranks, device=x.device)[:, None]
    weights = forms.values[:, None] * kept
    scores = x.new_empty(len(ranks) + 1, len(x), n_form)
    n_together = max(1, _TILE // (n_rank * len(x)))
    for start in range(0, n_form, n_together):
        block = slice(start, min(start + n_together, n_form))
        squares = (forms.vectors[block].reshape(-1, d_input) @ x.mT).square_()
        found = weights[block] @ squares.unflatten(0, (-1, n_rank))
        scores[:-1, :, block] = (found + forms.constant[block, None, None]).permute(1, 2, 0)
    scores[-1] = forms.whole(x)
    return scores


def _decoded(dictionary: Dictionary, code: Code) -> Tensor:
    return code.times(dictionary.decoder) + dictionary.offset


def _spliced(model: Model, site: Site, reading: Reading, values: Tensor | None) -> Tensor:
    """The loss with these values in the site's place at the tokens that are counted."""
    if values is None:
        return model.loss(reading.batch.tokens, reading.batch.mask)
    here = reading.counted.to(model.device)
    place = here.nonzero()[:, 1]

    def function(x: Tensor) -> Any:
        new = x.clone()
        # the last token of a row predicts nothing, and the model is not asked about it
        new[here[:, : x.shape[1]]] = values[place < x.shape[1]].to(x)
        return new

    with model.replaced({site: function}):
        return model.loss(reading.batch.tokens, reading.batch.mask)
