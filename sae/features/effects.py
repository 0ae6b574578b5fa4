"""Single features from the weights alone: tokens that they promote, and similar features."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.arguments import checked
from circuits.errors import FeatureRangeError, ModelError, check_count, check_indices
from circuits.model.model import Model
from sae.dictionary import Dictionary

_TILE = 2**24  # numbers that are held at a time


@checked
def logit_effects(
    dictionary: Dictionary, model: Model, features: Iterable[int] | None = None, n: int = 10
) -> pd.DataFrame:
    """The tokens whose logits each feature raises and lowers most by its direct path; rows of the
    embedding that stand for no token are left out.

    ``effect`` is the decoder row times the final norm's weight and the unembedding: without the
    norm's scale, which divides all effects at a token alike, and without what later layers add.
    Features of a transcoder act from its target.
    """
    site = dictionary.site_in(model, "logit_effects")
    site = dictionary.target or site
    if site.point == "mlp_in":
        raise ModelError(
            f"logit_effects: {site} is what an MLP reads, so its features have no direct path to a "
            f"logit. Use a dictionary of mlp_out or of the stream, or look at the MLP's "
            f"interactions between its features."
        )
    known = model.known_tokens
    n = check_count("logit_effects", n, len(known), "n")
    chosen = _chosen("logit_effects", dictionary, features)
    reads = model.unembedding[known].to(dictionary.decoder)
    found = []
    for some in chosen.split(max(1, _TILE // len(reads))):
        effects = dictionary.decoder[some.to(dictionary.device)] @ reads.mT
        for side, sign in (("top", 1), ("bottom", -1)):
            tokens = (sign * effects).topk(n).indices
            numbers, values = known[tokens.to(known.device)].cpu(), effects.gather(1, tokens).cpu()
            found.append(_rows(some, numbers, values, "effect"))
            found[-1].insert(1, "side", side)
    table = pd.concat(found).rename(columns={"other": "token_number"})
    table = table.sort_values(["feature", "side", "rank"], kind="stable", ignore_index=True)
    table.insert(3, "token", model.token_texts(table["token_number"].tolist()))
    return table


def neighbours(
    dictionary: Dictionary, features: Iterable[int] | None = None, n: int = 10
) -> pd.DataFrame:
    """For each feature the ``n`` others whose decoder rows are nearest to its own."""
    n = check_count("neighbours", n, dictionary.n_feature - 1, "n")
    chosen = _chosen("neighbours", dictionary, features)
    written = functional.normalize(dictionary.decoder, dim=1)
    read = functional.normalize(dictionary.encoder, dim=1)
    found = []
    for some in chosen.split(max(1, _TILE // dictionary.n_feature)):
        here = some.to(dictionary.device)
        cosines = written[here] @ written.mT
        cosines.scatter_(1, here[:, None], -2.0)  # a feature is not its own neighbour
        nearest = cosines.topk(n)
        table = _rows(some, nearest.indices.cpu(), nearest.values.cpu(), "decoder_cosine")
        read_cosines = (read[here, None] * read[nearest.indices]).sum(-1)
        found.append(table.assign(encoder_cosine=read_cosines.flatten().cpu().numpy()))
    return pd.concat(found, ignore_index=True).rename(columns={"other": "neighbour"})


def _chosen(
    needed_by: str, dictionary: Dictionary, features: Iterable[int] | None
) -> Int64[Tensor, " chosen"]:
    if features is None:
        return torch.arange(dictionary.n_feature)
    listed = check_indices(needed_by, features, dictionary.n_feature, "feature")
    if not listed:
        raise FeatureRangeError(f"{needed_by}: no features were named. Name one.")
    return torch.tensor(listed)


def _rows(
    features: Int64[Tensor, " chosen"],
    others: Int64[Tensor, "chosen n"],
    values: Float[Tensor, "chosen n"],
    name: str,
) -> pd.DataFrame:
    n = others.shape[1]
    return pd.DataFrame(
        {
            "feature": features.repeat_interleave(n).numpy(),
            "rank": np.tile(np.arange(n), len(features)),
            "other": others.flatten().numpy(),
            name: values.flatten().numpy(),
        }
    )
