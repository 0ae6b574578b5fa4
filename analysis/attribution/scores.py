"""One attention score as a sum: a query feature with a key feature, constants, and errors.

A head's score of two tokens is bilinear in their streams, each divided by its scale. With both
streams written in features of one dictionary the score falls into pairs, first the query's part and
then the key's. The head's biases are constants, which no scale divides.
"""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.ledger import Ledger
from circuits.arguments import checked
from circuits.errors import ModelError, check_index
from circuits.model.formats.heads import scores_of_run
from circuits.model.model import Model
from circuits.model.site import Site
from sae.dictionary import Dictionary


@checked
def score_ledger(
    model: Model,
    layer: int,
    head: int,
    inputs: Dictionary,
    tokens: Int64[Tensor, " pos"],
    query: int,
    key: int,
    *,
    form: int = 0,
) -> Ledger:
    """The account of a head's score, before the softmax, of one row of tokens: of the token at
    ``query`` looking at the one at ``key``. Where a pattern is the product of two scores, ``form``
    says of which.

    ``inputs`` are features of the stream before the layer's attention: ``resid_pre`` of it, or
    ``resid_post`` of the layer before. Kinds of rows: ``pair``, a feature of the query and one of
    the key; ``linear``, a feature with the other's constant (the dictionary's offset and the head's
    bias); ``constant``; ``error``, all terms with what the dictionary misses.
    """
    inputs.known_site("score_ledger")
    site = inputs.site_in(model, "score_ledger")
    here = Site("resid_pre", layer)
    if site != here and (site.point, site.layer + 1) != ("resid_post", layer):
        raise ModelError(
            f"score_ledger: the input features are of {site}, and attention of layer {layer} reads "
            f"{here}. Take a dictionary of that, or of resid_post of the layer before."
        )
    made = model.head(layer, head).to(torch.float64)
    query = check_index("score_ledger", query, len(tokens), "query")
    key = check_index("score_ledger", key, query + 1, "key")
    stream = model.read(tokens[None], here)[here][0].double()
    sides = [_parts(model, inputs, stream[position]) for position in (query, key)]
    (queries, first), (keys, second) = sides
    terms = made.terms(queries, keys, query - key, at=key, form=form)
    if made.query_bias is not None or made.key_bias is not None:
        terms = _with_biases(terms, made.query_bias is not None, made.key_bias is not None)
    rows = list(_rows(terms.tolist(), first, second))
    table = pd.DataFrame(rows, columns=["kind", "first", "second", "value"])
    table = table.sort_values("value", key=abs, ascending=False, kind="stable", ignore_index=True)
    scores = scores_of_run(model.network, tokens[None].to(model.device), layer)
    computed = float(scores[0, head if made.n_form == 1 else form, query, key])
    return Ledger(table, computed, f"score of {made.name}", f"of token {query} at token {key}")


def _parts(
    model: Model, inputs: Dictionary, x: Float[Tensor, " model"]
) -> tuple[Float[Tensor, "part model"], list[int]]:
    """A stream over its scale as a sum: active features, error, constant; and the features."""
    code = inputs.active(x[None].to(inputs.dtype))
    chosen = code.features[code.active].long()
    written = code.values[code.active].double()[:, None] * inputs.decoder[chosen].double()
    offset = inputs.offset.double()
    error = x - written.sum(0) - offset
    parts = torch.cat([written, error[None], offset[None]])
    return parts / model.scale(x), chosen.tolist()


def _with_biases(
    terms: Float[Tensor, "query_term key_term"], query: bool, key: bool
) -> Float[Tensor, "query_part key_part"]:
    """The terms of biases, which stand last, added to those of the constants before them."""
    if query:
        terms = torch.cat([terms[:-2], terms[-2:].sum(0, keepdim=True)])
    if key:
        terms = torch.cat([terms[:, :-2], terms[:, -2:].sum(1, keepdim=True)], dim=1)
    return terms


def _rows(
    values: list[list[float]], first: list[int], second: list[int]
) -> list[tuple[str, int, int, float]]:
    """Each pair of parts: kind, the query's feature and the key's (−1: none), value."""
    rows = []
    for i, of_query in enumerate([*first, None, -1]):
        for j, of_key in enumerate([*second, None, -1]):
            query, key = (-1 if one is None else one for one in (of_query, of_key))
            if of_query is None or of_key is None:
                kind = "error"
            else:
                kind = {0: "pair", 1: "linear", 2: "constant"}[(query < 0) + (key < 0)]
            rows.append((kind, query, key, values[i][j]))
    return rows
