"""The model's loss when every feature is replaced by its approximation of rank r.

At each counted token each feature's rank-r approximation is computed from the MLP's input, the
dictionary's own rule selects among the approximations, and the selected ones are decoded in place
of the MLP's output. With every eigenpair and the encoder as reader this is the dictionary's own
reconstruction, so the loss at full rank separates what truncation costs from what the dictionary
costs.

An approximation that is good where its feature is active can be far off where it is not, and then
displaces the correct one. In the column ``chosen`` the really active features are given, and only
their values are approximations; ``rotated`` has the same eigenvalues along random directions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.lowrank.sums import Forms
from circuits.model.model import Model
from circuits.storage.records import Word
from sae.dictionary import Dictionary
from sae.reading import Reading

_TILE = 2**20  # squares that are held at a time
_ROWS = 2**24  # scores that are held at a time


class Replacement(Word):
    """What takes the place of the MLP's output, beside the ranks; the values are in the table."""

    CLEAN = "clean"  # nothing: the model as it is
    ZERO = "zero"
    SAE = "sae"  # the dictionary's own reconstruction
    FULL_RANK = "full rank"

    @staticmethod
    def of_rank(rank: int) -> str:
        """How the table names a rank."""
        return f"rank {rank}"


@torch.no_grad()
def truncation_loss(
    model: Model,
    dictionary: Dictionary,
    forms: Forms,
    inputs: Iterable[tuple[Reading, Float[Tensor, "token input"]]],
    ranks: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Mean nats a token for each `Replacement` and rank; ``forms`` are those of all features."""
    random = forms.rotated(seed)
    site = dictionary.known_site("truncation_loss")
    sums: dict[tuple[str, str], float] = {}
    n_predicted = 0
    for reading, x in inputs:
        n_predicted += reading.batch.n_predicted
        for name, values in _replacements(
            dictionary, (forms, random), reading.activations[site], x, ranks
        ):
            nats = reading.losses(site, values)
            sums[name] = sums.get(name, 0.0) + float(nats.double().sum())
    losses = {name: total / n_predicted for name, total in sums.items()}
    clean, zero = losses[Replacement.CLEAN, "loss"], losses[Replacement.ZERO, "loss"]
    table = pd.DataFrame({"loss": pd.Series(losses)}).unstack(1)["loss"]
    table = table.reindex(dict.fromkeys(name for name, _ in losses))[["loss", "chosen", "rotated"]]
    table["added"] = table["loss"] - clean
    table["beyond_sae"] = table["loss"] - losses[Replacement.SAE, "loss"]
    table["recovered"] = (zero - table["loss"]) / (zero - clean)
    return table.rename_axis("replaced_by", axis=0).rename_axis(None, axis=1).reset_index()


def _replacements(
    dictionary: Dictionary,
    forms: tuple[Forms, Forms],
    output: Float[Tensor, "token model"],
    x: Float[Tensor, "token input"],
    ranks: Sequence[int],
) -> Iterator[tuple[tuple[str, str], Tensor | None]]:
    """Each replacement of the output, by row and column of the table; None leaves it as it is."""
    yield (Replacement.CLEAN.value, "loss"), None
    yield (Replacement.ZERO.value, "loss"), torch.zeros_like(output)
    yield (Replacement.SAE.value, "loss"), dictionary.reconstruct(output)
    own, random = forms
    names = [*map(Replacement.of_rank, ranks), Replacement.FULL_RANK.value]
    made: dict[tuple[str, str], list[Tensor]] = {}
    n_together = max(1, _ROWS // (len(names) * dictionary.n_feature))
    for start in range(0, len(x), n_together):
        rows = slice(start, start + n_together)
        active = dictionary.active(output[rows])
        for name, scores in zip(names, _approximations(own, x[rows], ranks), strict=True):
            values = scores[active.rows, active.features] * active.active
            given = replace(active, values=values.relu() if dictionary.relu else values)
            for how, code in (("loss", dictionary.selected(scores)), ("chosen", given)):
                made.setdefault((name, how), []).append(dictionary.decoded(code))
        for name, scores in zip(names[:-1], _approximations(random, x[rows], ranks), strict=False):
            code = dictionary.selected(scores)
            made.setdefault((name, "rotated"), []).append(dictionary.decoded(code))
    for which, parts in made.items():
        yield which, torch.cat(parts)


def _approximations(
    forms: Forms, x: Float[Tensor, "token input"], ranks: Sequence[int]
) -> Float[Tensor, "rank_or_whole token form"]:
    """The value of each form at each rank, and its exact value, on every token."""
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
