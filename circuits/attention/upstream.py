"""Features of earlier sites as an MLP's input, along paths of heads and without a text.

The rows that a feature writes are the feature itself, or what a chain of heads makes of it; how
much of each reaches a token is data: its activation, times for each head the pattern and the
inverse scale where that head looks. `text_paths` has these numbers for one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise, product
from math import comb

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.arguments import checked
from circuits.attention.paths import stage
from circuits.errors import (
    ModelError,
    check_index,
    check_memory,
    check_some,
    check_width,
    shorten,
)
from circuits.model.model import Model
from circuits.model.site import Site, as_sites

Chain = tuple[tuple[int, int], ...]
_REMEDY = "Pass fewer paths, or Basis.subset of the features in question."


@checked
def upstream_basis(
    model: Model,
    bases: Mapping[Site, Basis] | Mapping[str, Basis],
    layer: int,
    *,
    paths: int | Iterable[Sequence[tuple[int, int]]] = 1,
) -> Basis:
    """The features of earlier sites, each along every path to a layer's MLP, as features of that
    MLP's input: of ``resid_mid`` divided by its scale, as ``model.layer(layer, fold_norm=True)``
    reads it. `Interactions` of both, their graphs and groups are pairs of features *by paths*.

    ``bases`` are by site, such as ``{"resid_pre@0": Basis.of_tokens(model), "mlp_out@0":
    dictionary.basis()}``. ``paths`` is the largest number of heads in a chain (0: the stream
    alone), or the chains themselves, as ``[(), [(1, 3)]]`` with heads as (layer, head); each is
    used for the sites before it, and refused where there is none. Features come site by site, path
    by path, with labels such as "feature 7 of mlp_out@0 via 1.3"; a basis' offset follows its
    features. What biases of attention and of MLPs add is not among them: pass it as a basis of its
    site.
    """
    layer = check_index("upstream_basis", layer, model.n_layer, "layer")
    sites = {as_sites(site)[0]: basis for site, basis in bases.items()}
    check_some("upstream_basis", sites, "bases")
    starts = {site: _start(site, layer) for site in sites}
    # an iterator gives them once, and a path that is there twice counts once
    asked = paths if isinstance(paths, int) else [*dict.fromkeys(_named(model, c) for c in paths)]
    chains = {site: list(_chains(model, start, layer, asked)) for site, start in starts.items()}
    _check_used(asked, chains, layer)
    n_row = sum((sites[site].n_feature + 1) * len(some) for site, some in chains.items())
    check_memory("upstream_basis", 4 * n_row * model.d_model, _REMEDY)
    written, labels = list[Tensor](), list[str]()
    for site, basis in sites.items():
        check_width("upstream_basis", basis.write, model.d_model, f"features of {site}")
        rows, names = _rows(site, basis)
        for chain in chains[site]:
            written.append(_along(model, rows, chain))
            via = f" via {_heads(chain)}" if chain else ""
            labels += [f"{name}{via}" for name in names]
    return Basis.from_decoder(torch.cat(written)).labelled(labels)


def _check_used(
    asked: int | Sequence[Chain], chains: Mapping[Site, Sequence[Chain]], layer: int
) -> None:
    """Refuse chains that no site can use: they would be left out."""
    used = {chain for some in chains.values() for chain in some}
    idle = [] if isinstance(asked, int) else [chain for chain in asked if chain not in used]
    if used and not idle:
        return
    which = f"the heads {shorten(f'[{_heads(chain)}]' for chain in idle)} lead from none of"
    raise ModelError(
        f"upstream_basis: {which if used else 'none of these paths leads from'} "
        f"{', '.join(map(str, chains))} to layer {layer}. Name heads of the layers between, in "
        f"order."
    )


def _start(site: Site, layer: int) -> int:
    """The first layer whose heads read what is written at a site."""
    at = stage(site)
    if at is None or at > 2 * layer + 1:
        raise ModelError(
            f"upstream_basis: {site} is not a point of the stream before the MLP of layer {layer}. "
            f"Pass features of resid_pre, attn_out, mlp_out or resid_post of earlier layers."
        )
    return -(-at // 2)


def _chains(model: Model, start: int, layer: int, paths: int | Iterable[Chain]) -> Iterator[Chain]:
    """The chains of heads from the layer ``start`` to a layer, each in order of its layers."""
    between = range(start, layer + 1)
    if isinstance(paths, int):
        if paths < 0 or isinstance(paths, bool):
            raise ModelError(
                f"upstream_basis: paths = {paths}. Give how many heads a path passes at most, 0 or "
                f"more, or the paths themselves, as [((0, 3), (1, 2))]."
            )
        most = paths
        most = min(most, len(between))
        n_chain = sum(comb(len(between), n) * model.n_head**n for n in range(most + 1))
        check_memory("upstream_basis", 4 * n_chain * model.d_model, _REMEDY)
        for n in range(most + 1):
            for layers in combinations(between, n):
                for heads in product(range(model.n_head), repeat=n):
                    yield tuple(zip(layers, heads, strict=True))
        return
    for chain in paths:
        rising = all(one < two for (one, _), (two, _) in pairwise(chain))
        if rising and all(at in between for at, _ in chain):
            yield chain


def _named(model: Model, chain: Sequence[tuple[int, int]]) -> Chain:
    """A chain of heads that the model has."""
    return tuple(
        (
            check_index("upstream_basis", at, model.n_layer, "layer"),
            check_index("upstream_basis", head, model.n_head, "head"),
        )
        for at, head in chain
    )


def _heads(chain: Chain) -> str:
    return ", ".join(f"{at}.{head}" for at, head in chain)


def _rows(site: Site, basis: Basis) -> tuple[Float[Tensor, "row model"], list[str]]:
    """What a basis writes, the offset last, and the names."""
    names = list(basis.labels or (f"feature {i} of {site}" for i in range(basis.n_feature)))
    if basis.offset is None:
        return basis.write, names
    return torch.cat([basis.write, basis.offset[None]]), [*names, f"offset of {site}"]


def _along(
    model: Model, rows: Float[Tensor, "row model"], chain: Chain
) -> Float[Tensor, "row model"]:
    """What a chain of heads makes of some rows."""
    for layer, head in chain:
        made = model.head(layer, head)
        rows = rows.to(made.value) @ made.value.mT @ made.output.mT
    return rows
