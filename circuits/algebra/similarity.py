"""Which output features compute the same thing: the cosine of their quadratic forms.

``⟨Q_a, Q_b⟩ / ‖Q_a‖‖Q_b‖`` is 1 for one gate read twice, −1 for opposite ends of one direction (not
good, not bad) and 0 for forms that share nothing. It is computed from the hidden units' inner
products, ``gate_aᵀ G gate_b``, without building either form.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.interactions import Interactions
from circuits.errors import GraphError, check_count, check_indices
from circuits.storage.progress import progress

_ROWS = 512  # outputs at a time


def form_cosines(
    inter: Interactions, outputs: Iterable[int], others: Iterable[int] | None = None
) -> Float[Tensor, "output other"]:
    """The cosine of each output's form with each other's; zeros for an output without a form."""
    listed = check_indices("form_cosines", outputs, inter.n_output, "output")
    against = listed
    if others is not None:
        against = check_indices("form_cosines", others, inter.n_output, "output")
    down, gram = inter.layer.down.double(), inter.whitened.pair_gram
    one = inter.outputs.read[listed].double() @ down
    two = inter.outputs.read[against].double() @ down
    sizes = [side.norm(dim=1) * float(gram.diagonal().max()) ** 0.5 for side in (one, two)]
    norms = [inter.energies[names].sqrt() for names in (listed, against)]
    # where hidden units cancel up to rounding, there is no form
    norms = [
        torch.where(norm > 1e-7 * size, norm, torch.inf)
        for norm, size in zip(norms, sizes, strict=True)
    ]
    cosines = (one @ gram @ two.mT) / norms[0][:, None] / norms[1]
    return cosines.clamp(-1, 1)


def nearest_outputs(
    inter: Interactions, n: int = 5, outputs: Iterable[int] | None = None
) -> pd.DataFrame:
    """The ``n`` outputs most similar to each, by |cosine|, among all or those named: output, other,
    cosine."""
    n = check_count("nearest_outputs", n, None, "n")
    named = range(inter.n_output) if outputs is None else outputs
    listed = list(dict.fromkeys(check_indices("nearest_outputs", named, inter.n_output, "output")))
    if not listed:
        raise GraphError("nearest_outputs: no outputs were named. Name at least one.")
    tables = []
    for start in progress(range(0, len(listed), _ROWS), "similar outputs", "strip"):
        strip = listed[start : start + _ROWS]
        cosines = form_cosines(inter, strip, listed)
        place = torch.arange(len(strip))
        cosines[place, place + start] = torch.nan  # itself
        kept = cosines.abs().nan_to_num(-1).topk(min(n, len(listed) - 1), dim=1).indices
        tables.append(
            pd.DataFrame(
                {
                    "output": np.repeat(strip, kept.shape[1]),
                    "other": np.array(listed)[kept.flatten().cpu().numpy()],
                    "cosine": cosines.gather(1, kept).flatten().cpu().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
