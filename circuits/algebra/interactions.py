"""A bilinear layer between two dictionaries: which pairs of input features build each output.

With input features ``f`` (and the constant 1 last, where there is one) an output feature reads
``f̂ᵀ matrix(o) f̂ + bias(o)``, exactly. The matrix is features x features but of rank at most
``model``, so little here builds it: spectra come from a model x model form, and the strongest pairs
from tiles. A pair of different features occurs twice in the sum, so its *weight* is ``2 ·
matrix(o)[i, j]``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from operator import index as index_of
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.algebra.basis import Basis
from circuits.algebra.bilinear import BilinearLayer, computing_dtype
from circuits.algebra.directions import Span, span
from circuits.algebra.pair_search import Search, with_scores
from circuits.algebra.spectrum import Spectrum, eigenpairs
from circuits.algebra.unchanged import while_unchanged
from circuits.arguments import checked_methods
from circuits.errors import (
    BasisError,
    FeatureRangeError,
    RunError,
    TensorError,
    check_count,
    check_devices,
    check_index,
    check_indices,
    check_memory,
    check_range,
    largest,
    shorten,
)
from circuits.groups.clusters import clusters
from circuits.plotting.display import shown
from circuits.plotting.figure import heat_map
from circuits.storage.progress import progress
from circuits.storage.shards import make_shards, merge_shards

ROWS = 512
"""Of the strips that a matrix is built in."""
_ROW = 144  # bytes of a pair: in its output's table, in that of all, and while that is sorted
_FEWER = "Ask for fewer pairs (n), or for fewer outputs."


@checked_methods
@dataclass(frozen=True, eq=False)
class Interactions:
    """One layer, the features of its input and the features of its output."""

    layer: BilinearLayer
    inputs: Basis
    outputs: Basis

    def __post_init__(self) -> None:
        layer, inputs, outputs = self.layer, self.inputs, self.outputs
        wanted = {"layer": BilinearLayer, "inputs": Basis, "outputs": Basis}
        for name, kind in wanted.items():
            if not isinstance(getattr(self, name), kind):
                raise TensorError(
                    f"Interactions: {name} is a {type(getattr(self, name)).__name__}, not a "
                    f"{kind.__name__}. Make one, for example with Basis.from_decoder(decoder)."
                )
        faults = []
        if inputs.d_model != layer.d_model:
            faults.append(
                f"the layer reads activations of width {layer.d_model}, but the input features "
                f"write to width {inputs.d_model}"
            )
        if outputs.d_model != layer.d_out:
            faults.append(
                f"the layer writes activations of width {layer.d_out}, but the output features "
                f"are read from width {outputs.d_model}"
            )
        if faults:
            raise TensorError(
                f"Interactions: {'; '.join(faults)}. Use dictionaries trained at the input and "
                f"output of this layer."
            )
        check_devices(
            "Interactions", {"layer": layer.left, "inputs": inputs.write, "outputs": outputs.write}
        )
        dtype = computing_dtype(layer.left, inputs.write, outputs.write)
        for name, part in (("layer", layer), ("inputs", inputs), ("outputs", outputs)):
            object.__setattr__(self, name, part if part.dtype == dtype else part.to(dtype))

    @while_unchanged
    def fingerprint(self) -> str:
        """A hash of every number that the interactions are made from, dtypes and shapes too."""
        digest = hashlib.sha256()
        outputs = self.outputs
        basis = (self.inputs.write, self.inputs.offset, outputs.read, outputs.offset, outputs.bias)
        for tensor in (*(getattr(self.layer, f.name) for f in fields(self.layer)), *basis):
            if tensor is None:
                digest.update(b"none")
                continue
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def n_output(self) -> int:
        """How many output features there are."""
        return self.outputs.n_feature

    @property
    def has_constant(self) -> bool:
        """Whether a constant feature follows the input features."""
        return self.layer.has_constant or self.inputs.offset is not None

    @while_unchanged
    def without_constant(self) -> Interactions:
        """The interactions of the features alone."""
        if not self.has_constant:
            return self
        layer = BilinearLayer(self.layer.left, self.layer.right, self.layer.down)
        return Interactions(layer, self.inputs.without_offset(), self.outputs)

    @property
    def n_input(self) -> int:
        """How many input features there are, the constant included."""
        return self.inputs.n_feature + self.has_constant

    @while_unchanged
    def write(self) -> Float[Tensor, "in input"]:
        """Row i: what input feature i adds to the layer's (lifted) input; the constant last."""
        if not self.has_constant:
            return self.inputs.write
        features, offset = self.inputs.write, self.inputs.offset
        last = features.new_zeros(features.shape[1]) if offset is None else offset
        return torch.cat([self.layer.lift(features, 0.0), self.layer.lift(last[None])])

    def _direction(self, output: int) -> Float[Tensor, " out"]:
        return self.outputs.read[check_index("Interactions", output, self.n_output, "output")]

    def bias(self, output: int) -> float:
        """What the output feature reads in addition to its form."""
        read = self._direction(output)
        level = torch.zeros_like(read)
        if self.layer.down_bias is not None:
            level = level + self.layer.down_bias
        if self.outputs.offset is not None:
            level = level - self.outputs.offset
        own = 0.0 if self.outputs.bias is None else float(self.outputs.bias[output])
        return float(read.double() @ level.double()) + own

    def form(self, output: int) -> Float[Tensor, "input input"]:
        """The output's form on the layer's own (lifted) input: ``matrix(o)`` in model space."""
        form = self.layer.interaction(self._direction(output))
        sizes = {
            "form": largest(form),
            "features": self._largest,
            "features (again)": self._largest,
        }
        check_range("Interactions", self.layer.dtype, sizes, len(form) ** 2)
        return form

    @while_unchanged
    def _largest(self) -> float:
        return largest(self.write)

    def matrix(self, output: int) -> Float[Tensor, "in in"]:
        """Every pair of input features for one output: symmetric to the bit, the constant last."""
        form, write, size = self.form(output), self.write, self.n_input
        matrix = write.new_empty(size, size)
        for start in range(0, size, ROWS):
            stop = min(start + ROWS, size)
            torch.mm(write[start:stop] @ form, write[start:].mT, out=matrix[start:stop, start:])
            square = matrix[start:stop, start:stop]
            square.copy_((square + square.mT) / 2)
            matrix[stop:, start:stop].copy_(matrix[start:stop, stop:].mT)
        return matrix

    def weights(self, output: int, features: Sequence[int]) -> Float[Tensor, "some some"]:
        """The weight of every pair of some features: twice ``matrix(output)`` for two features,
        once for a feature with itself."""
        write = self.write[check_indices("Interactions.weights", features, self.n_input, "feature")]
        weights = 2 * write @ self.form(output) @ write.mT
        return weights - torch.diag(weights.diagonal()) / 2

    @while_unchanged
    def span(self) -> Span:
        """The space that the input features (and the constant) write to."""
        if self.write is self.inputs.write:
            return self.inputs.span
        # rounding is measured against the features: the offset may be far larger
        sizes = self.inputs.span.sizes
        return span(self.write, float(sizes[0]) if len(sizes) else None)

    @while_unchanged
    def whitened(self) -> BilinearLayer:
        """The layer in the coordinates of an orthonormal basis of feature space: with ``write = U S
        V``, ``matrix(o) = U (S V Q Vᵀ S) Uᵀ``, and the bracket is this layer's own interaction
        matrix."""
        onto = (self.span.sizes[:, None] * self.span.directions).mT
        if not len(self.span.sizes):  # features that write nothing have only the coordinate zero
            onto = onto.new_zeros(len(onto), 1)
        left, right = (factor.double() @ onto for factor in self.layer.factors)
        dtype = self.layer.dtype
        for name, factor in (("left", left), ("right", right)):
            check_range("Interactions", dtype, {f"{name} of the features": largest(factor)})
        return BilinearLayer(left.to(dtype), right.to(dtype), self.layer.down)

    @while_unchanged
    def _unwhiten(self) -> Float[Tensor, "rank input"]:
        return self.span.directions / self.span.sizes[:, None]

    def spectrum(
        self,
        output: int,
        rank: int | None = None,
        space: Literal["feature", "model"] = "feature",
    ) -> Spectrum:
        """The eigenpairs of one output feature's form, or the first ``rank``: in "feature" space
        those of ``matrix(o)``, which is not built; in "model" space those of the form on
        activations."""
        if space == "model":
            return Spectrum(*eigenpairs(self.form(output), rank), self.layer.has_constant)
        if space != "feature":
            raise BasisError(
                f'Interactions.spectrum: there is no space "{space}". '
                f'Ask for "feature" (pairs of features) or "model" (directions of the activation).'
            )
        if not len(self.span.sizes):
            return Spectrum(self.write.new_zeros(0), self.write.new_zeros(0, self.n_input))
        form = self.whitened.interaction(self._direction(output))
        values, whitened, energy = eigenpairs(form, rank)
        vectors = (whitened.double() @ self._unwhiten).to(self.write.dtype) @ self.write.mT
        return Spectrum(values, vectors, energy, self.has_constant)

    @while_unchanged
    def energies(self) -> Float[Tensor, " output"]:
        """The squared Frobenius norm of every output's ``matrix(o)``, without building it."""
        gates = self.outputs.read.double() @ self.layer.down.double()
        sizes = {"gates": largest(gates), "inner products": largest(self.whitened.pair_gram)}
        sizes["gates (again)"] = sizes["gates"]
        check_range("Interactions.energies", gates.dtype, sizes, self.layer.d_hidden**2)
        return ((gates @ self.whitened.pair_gram) * gates).sum(1).clamp(min=0)

    def ceilings(self, outputs: list[int]) -> list[float]:
        """Bounds that no |weight| of these outputs exceeds: ``2·matrix[i, j]² ≤ ‖matrix‖²``."""
        outputs = check_indices("Interactions.ceilings", outputs, self.n_output, "output")
        gates = (self.outputs.read[outputs].double() @ self.layer.down.double()).abs()
        # energies are differences, so a bound on their rounding error is added
        terms = ((gates @ self.whitened.pair_gram.abs()) * gates).sum(1)
        lost = (self.layer.d_hidden * torch.finfo(self.layer.dtype).eps) * terms
        return (2 * (self.energies[outputs] + lost)).sqrt().mul(1 + 1e-3).tolist()

    def strongest(
        self, n: int, outputs: SupportsIndex | Iterable[int] | None = None
    ) -> pd.DataFrame:
        """The ``n`` pairs of largest |weight| over the outputs (all of them unless named); all
        pairs where there are fewer.

        Exact, in bounded memory; ``.attrs["tiles_visited"]`` is the share of tiles that may hold
        one and was computed. Columns: output, first, second (first ≤ second; the constant is
        feature ``n_input − 1``), weight.
        """
        n, listed = self._counted("strongest", n), self._listed("strongest", outputs)
        n = min(n, self._n_pairs * len(listed))
        check_memory("Interactions.strongest", n * _ROW, _FEWER)
        ceilings = [math.inf] * len(listed)
        if len(listed) > 1:
            ceilings = self.ceilings(listed)
            # the richest first: they raise the bar that lets later ones be skipped
            order = sorted(range(len(listed)), key=lambda i: (-ceilings[i], listed[i]))
            listed, ceilings = [listed[i] for i in order], [ceilings[i] for i in order]
        search = self._search(n)
        shown = progress(listed, "strongest pairs", "output")
        for output, ceiling in zip(shown, ceilings, strict=True):
            search.look(output, partial(self.form, output), ceiling)
        table = search.table()
        table.attrs["tiles_visited"] = search.visited / max(search.tiles, 1)
        return table

    def strongest_of_each(
        self,
        n: int,
        outputs: Iterable[int] | None = None,
        *,
        folder: str | Path | None = None,
        score: Callable[[pd.DataFrame, int], pd.DataFrame] | None = None,
        score_name: str | None = None,
    ) -> pd.DataFrame:
        """The ``n`` strongest pairs of every output, output by output, as ``strongest`` finds them.

        ``score(table, output)`` adds columns to the table of one output. ``folder`` keeps the
        tables as shards, so that the pass can stop, resume, and be shared by processes; a score
        has a ``score_name`` there: shards of another one are refused.
        """
        if folder is not None and (score is None) != (score_name is None):
            raise RunError("strongest_of_each: in a folder, pass score and score_name, or neither.")
        n = min(self._counted("strongest_of_each", n), self._n_pairs)
        listed = self._listed("strongest_of_each", outputs)
        check_memory("Interactions.strongest_of_each", n * len(listed) * _ROW, _FEWER)

        def pairs_of(output: int) -> pd.DataFrame:
            search = self._search(n)
            search.look(output, partial(self.form, output), math.inf)
            return search.table() if score is None else with_scores(search.table(), output, score)

        if folder is None:
            shown = progress(listed, "strongest pairs", "output")
            return pd.concat([pairs_of(output) for output in shown], ignore_index=True)
        unbroken = range(listed[0], listed[-1] + 1)
        if listed != list(unbroken):
            raise RunError(
                f"Interactions.strongest_of_each: outputs {shorten(listed)} are not an unbroken "
                f"range, which {folder} is made of. Pass outputs=range(a, b)."
            )
        made_of = f"{n} {score_name or 'strongest'} of {self.fingerprint}"
        make_shards(folder, unbroken, pairs_of, made_of, "strongest pairs")
        return merge_shards(folder, unbroken)

    def plot(
        self, output: int, n: int = 20, labels: Mapping[int, str] | Sequence[str] | None = None
    ) -> Any:
        """A plotly figure of the matrix among the features of the ``n`` strongest pairs (or all),
        ordered by group; ``labels`` name features, by number or in their order."""
        check_index("Interactions", output, self.n_output, "output")
        n = min(self._counted("plot", n), self._n_pairs)
        pairs = self.strongest(n, output)
        pairs = pairs[pairs["weight"] != 0]
        features = sorted({*pairs["first"], *pairs["second"]})
        first, second = (np.searchsorted(features, pairs[end]) for end in ("first", "second"))
        matrix = np.zeros((len(features), len(features)))
        matrix[first, second] = matrix[second, first] = pairs["weight"] / 2
        matrix[np.diag_indices_from(matrix)] *= 2
        groups = clusters(matrix)
        order = sorted(range(len(features)), key=lambda place: (groups[place], place))
        chosen = [features[place] for place in order]
        names = self.labels(chosen, labels)
        total = float(self.energies[output])
        energy = float(np.square(matrix).sum()) / total if total > 0 else 0.0
        return heat_map(
            self.weights(output, chosen).cpu().numpy(),
            [shown(names[feature]) for feature in chosen],
            chosen,
            [groups[place] for place in order],
            f"Weights for output feature {output} among the {len(chosen)} features of its "
            f"{len(pairs)} strongest pairs, {energy:.1%} of the squared norm. They were chosen for "
            f"large entries, so the matrix looks low-rank in any case; z and q of "
            f"interaction_graph(inter, {output}, …) compare with chance.",
        ).plot()

    def labels(
        self, features: Iterable[int], given: Mapping[int, str] | Sequence[str] | None = None
    ) -> dict[int, str]:
        """Input feature → its label, from those given by number or in their order, or the basis'
        own."""
        named = dict(enumerate(self.inputs.labels or ()))
        named |= given if isinstance(given, Mapping) else dict(enumerate(given or ()))
        if self.has_constant:
            named.setdefault(self.n_input - 1, "constant")
        features = check_indices("Interactions.labels", features, self.n_input, "feature")
        return {feature: str(named.get(feature, f"feature {feature}")) for feature in features}

    def __repr__(self) -> str:
        constant = " and a constant" if self.has_constant else ""
        return (
            f"Interactions({self.inputs.n_feature} input features{constant} in pairs, "
            f"{self.n_output} outputs read by {self.outputs.reader}, through {self.layer!r})"
        )

    @property
    def _n_pairs(self) -> int:
        return self.n_input * (self.n_input + 1) // 2

    def _counted(self, method: str, n: int) -> int:
        return check_count(f"Interactions.{method}", n, None, "n")

    def _search(self, n: int) -> Search:
        return Search(self.inputs.write, self.write[-1] if self.has_constant else None, n)

    def _listed(self, method: str, outputs: SupportsIndex | Iterable[int] | None) -> list[int]:
        if outputs is None:
            return list(range(self.n_output))
        try:
            if isinstance(outputs, bool):
                outputs = [outputs]  # which is refused as every boolean is
            named = [index_of(outputs)]  # type: ignore[arg-type]
        except TypeError:
            named = list(dict.fromkeys(outputs))  # type: ignore[arg-type]
        if not named:
            raise FeatureRangeError(f"Interactions.{method}: no outputs were named. Name one.")
        return check_indices(f"Interactions.{method}", named, self.n_output, "output")
