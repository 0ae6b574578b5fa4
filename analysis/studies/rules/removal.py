"""The proof: a path is removed from the running model, and the rule it makes must be lost.

On real text, exactly this path is left out, at exactly these tokens, and everything after it is
computed anew. Beside it stand controls of the same size: the same paths of other tokens, and other
paths of the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.studies.rules.effects import pair_effects
from analysis.studies.rules.known import KnownRules
from analysis.studies.rules.paths import (
    FIRST,
    OTHER,
    SECOND,
    Path,
    SplitPass,
    check_is_polynomial,
)
from circuits.arguments import checked
from circuits.errors import (
    ArgumentError,
    TensorError,
    check_count,
    check_index,
    check_indices,
    check_some,
)
from circuits.model.model import Model
from circuits.model.ranges import check_tokens

MOST_DRAWS = 1000  # of a control
_ROWS = 128
_Cuts = Mapping[int, Bool[Tensor, "row query key"]]


@checked
@torch.no_grad()
def logits_without(
    model: Model,
    tokens: Int64[Tensor, "batch pos"],
    first: Sequence[int] = (),
    second: Sequence[int] = (),
    paths: Sequence[Path] = (),
    cut: Mapping[int, Bool[Tensor, "_ query key"]] | None = None,
) -> Float[Tensor, "batch pos token"]:
    """The logits of the running model without these paths: of the tokens ``first`` and ``second``
    wherever they stand. ``cut`` sets scores of a layer's head to zero where it is True."""
    owner = "logits_without"
    check_is_polynomial(owner, model)
    check_tokens(tokens, model.n_token, model.n_context, model.path)
    for group in (first, second):
        check_indices(owner, group, model.n_token, "token")
    if both := {*first} & {*second}:
        raise ArgumentError(
            f"{owner}: token {min(both)} is among the first and the second tokens, so a path from "
            f"one to the other is not defined. Pass groups without a common token."
        )
    shape = (len(tokens), tokens.shape[1], tokens.shape[1])
    for layer, where in (cut or {}).items():
        check_index(owner, layer, model.n_layer, "layer")
        if where.shape != shape:
            raise TensorError(
                f"{owner}: cut of layer {layer} has shape {tuple(where.shape)}, not {shape}. Pass "
                f"a row of keys for each query."
            )
    tokens = tokens.to(model.device)
    of_first, of_second = (
        torch.isin(tokens, torch.tensor([*group], dtype=torch.int64, device=model.device))
        for group in (first, second)
    )
    groups = {FIRST: of_first, SECOND: of_second, OTHER: ~(of_first | of_second)}
    cells = {layer: one.to(model.device) for layer, one in (cut or {}).items()}
    embedded = model.network.get_input_embeddings()(tokens)
    logits: Tensor = model.network.lm_head(
        SplitPass(model, embedded, groups, paths, cells).normed()
    )
    return logits


@checked
def skip_removal(
    model: Model, known: KnownRules, paths: Sequence[Path], n_draws: int = 5, seed: int = 0
) -> pd.DataFrame:
    """How often the first answer is right, by rule, without the paths that make the skip rules;
    one more is removed in each row. Then as many paths chosen at random: the same of other tokens
    (``random tokens``), and others of the same tokens (``random paths``)."""
    check_count("skip_removal", n_draws, MOST_DRAWS, "n_draws")
    paths = check_some("skip_removal", paths, "paths")
    first, second = (sorted(set(known.skip[name])) for name in ("first", "second"))
    rows: list[tuple[str, str, list[int], list[int], list[Path]]]
    rows = [("intact", "", first, second, [])]
    rows += [("paths", str(paths[n - 1]), first, second, paths[:n])
             for n in range(1, len(paths) + 1)]  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    others = [one for one in range(model.n_token) if one not in {*first, *second}]
    if len(others) < len(first) + len(second):
        raise ArgumentError(
            f"skip_removal: {len(others)} tokens are in no skip rule, too few for random ones "
            f"instead of {len(first) + len(second)}. Pass a model with more tokens."
        )
    every = pair_effects(model, first[:1], second[:1]).paths
    unnamed = [path for path in every if path not in paths]
    for draw in range(n_draws):
        order = torch.randperm(len(others), generator=generator).tolist()
        drawn = [others[i] for i in order]
        rows.append(("random tokens", f"draw {draw}", drawn[: len(first)],
                     drawn[len(first) : len(first) + len(second)], paths))  # fmt: skip
    for draw in range(n_draws):
        order = torch.randperm(len(unnamed), generator=generator).tolist()[: len(paths)]
        rows.append(
            ("random paths", f"draw {draw}", first, second, [unnamed[i] for i in sorted(order)])
        )
    return pd.DataFrame([
        {"removed": kind, "which": which,
         **known.top_1(first_answers(model, known.tokens, one, two, removed))}
        for kind, which, one, two, removed in rows
    ])  # fmt: skip


def first_answers(
    model: Model,
    tokens: Int64[Tensor, "row pos"],
    first: Sequence[int] = (),
    second: Sequence[int] = (),
    paths: Sequence[Path] = (),
    cut: _Cuts | None = None,
) -> Int64[Tensor, "row pos"]:
    """The most probable next token after each, in batches."""
    found = []
    for start in range(0, len(tokens), _ROWS):
        rows = slice(start, start + _ROWS)
        cells = {layer: one[rows] for layer, one in (cut or {}).items()}
        logits = logits_without(model, tokens[rows], first, second, paths, cells)
        found.append(logits.argmax(-1).cpu())
    return torch.cat(found)
