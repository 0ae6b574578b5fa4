"""The quadratic form that a circuit is a part of, in numbers that its page draws.

A circuit of a behaviour is a part of the form along the answers' own direction; a proposal of the
form of one output feature. What a reader would get wrong: the matrix among a circuit's features is
a choice of large entries, so it looks low-rank whatever the form is; the spectrum beside it is of
the whole form, in the activation's own space, with forms of random directions as its control.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.report.catalogue.text_activations import TextActivations
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from circuits.algebra.basis import Basis
from circuits.algebra.interactions import Interactions
from circuits.algebra.spectrum import Spectrum
from circuits.model.model import Model
from circuits.model.site import mlp_sites
from sae.dictionary import Dictionary

RANKS = (1, 2, 4, 8)
"""Of the approximations that activations are held against, beside the whole form."""

_N_RANDOM = 20  # directions whose spectra are the control
_N_EIGENVALUES = 24  # drawn from either end
_N_PROJECTED = 40  # features beside the circuit's own
_N_POINTS = 250  # of a scatter plot


@dataclass(frozen=True, eq=False)
class CircuitForm:
    """One form, the features it is written in and, of a behaviour, its cases in the model."""

    found: Found
    model: Model
    layer: int
    into: Dictionary
    out: Dictionary
    inter: Interactions  # of one output
    asked: ModelCases | None

    @classmethod
    def of(cls, run: Run, found: Found) -> CircuitForm:
        """Of a circuit that says which layer it is of."""
        layer = found.layer
        assert layer is not None
        into, out = (run.dictionaries[site] for site in mlp_sites(layer))
        weights = run.model.layer(layer).to(torch.float64)
        inputs = into.to(torch.float64).basis(least_squares=True)
        if found.behaviour is None:
            reader: Literal["pinv", "encoder"] = (
                "pinv" if found.circuit.source.reader == "pinv" else "encoder"
            )
            output = found.circuit.outputs[0].feature
            outputs = out.to(torch.float64).basis(reader, least_squares=reader == "pinv")
            return cls(found, run.model, layer, into, out,
                       Interactions(weights, inputs, outputs.subset([output])), None)  # fmt: skip
        asked = in_model(found.behaviour, run.model)
        direction = PairAccount.of(asked, layer, into).mean_read[None].to(run.model.device)
        reads = Basis(direction, direction, reader="answers")
        return cls(found, run.model, layer, into, out, Interactions(weights, inputs, reads), asked)

    @property
    def features(self) -> list[int]:
        """The circuit's, by group and then by number."""
        order = sorted(self.found.circuit.features, key=lambda f: (f.group, f.feature))
        return [feature.feature for feature in order]

    @cached_property
    def matrix(self) -> Float[np.ndarray, "feature feature"]:
        """Each pair's weight among the circuit's features; a feature with itself once."""
        return self.inter.weights(0, self.features).cpu().numpy()

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the whole form, in the activation's own space."""
        return self.inter.spectrum(0, space="model")

    def eigenvalues(self, seed: int = 0) -> pd.DataFrame:
        """The largest at either end: place, value, and the mean of forms of random directions of
        the same length at the same place."""
        own = self.spectrum.values.sort(descending=True).values.cpu()
        generator = torch.Generator().manual_seed(seed)
        length = float(self.inter.outputs.read.norm())
        drawn = []
        for _ in range(_N_RANDOM):
            direction = torch.randn(self.inter.layer.d_out, generator=generator, dtype=own.dtype)
            direction = (direction * length / direction.norm()).to(self.inter.layer.device)
            drawn.append(torch.linalg.eigvalsh(self.inter.layer.interaction(direction)).flip(0))
        control = torch.stack(drawn).mean(0).cpu()
        n = len(own)
        places = [*range(min(_N_EIGENVALUES, n)), *range(max(_N_EIGENVALUES, n - 24), n)]
        return pd.DataFrame(
            {
                "place": [p + 1 for p in places],
                "eigenvalue": own[places].numpy(),
                "random direction": control[places].numpy(),
            }
        )

    def directions(self) -> dict[str, Float[Tensor, " input"]]:
        """Directions of a behaviour that mean something, in the activation's own space: what its
        factors do to the MLP's input, the mean input where its first factor shows, and the
        difference of the answers' unembeddings."""
        if self.asked is None:
            return {}
        site = mlp_sites(self.layer)[0]
        x = self.asked.read([site])[str(site)].double()
        effects = self.asked.effects(x)
        named = {
            f"effect of {name}": effects[place]
            for place, name in enumerate(self.asked.effects_named)
            if place > 0
        }
        shows = _where_it_shows(self.asked)
        if len(shows):
            read = self.model.read(self.asked.tokens[shows[:, 0]], [site])[site].cpu()
            mean = read[torch.arange(len(read)), shows[:, 1]].double().mean(0)
            named[f"mean input where “{self.asked.behaviour.factors[0]}” shows"] = mean
        named["difference of unembeddings"] = self.asked.directions().cpu().double().mean(0)
        return {name: self.inter.layer.lift(vector, 0.0) for name, vector in named.items()}

    def projections(self) -> pd.DataFrame:
        """Cosines with the top positive and negative eigenvectors: of the circuit's features, of
        those that interact most beside them, and of directions that mean something."""
        values, vectors = self.spectrum.values, self.spectrum.vectors
        ends = torch.stack([vectors[values.argmax()], vectors[values.argmin()]])
        write = self.inter.write
        along = (write @ self.inter.form(0) * write).sum(1).abs()
        along += (write @ ends.mT).square() @ values[
            [int(values.argmax()), int(values.argmin())]
        ].abs()
        own = set(self.features)
        others = [f for f in along.argsort(descending=True, stable=True).tolist() if f not in own]
        chosen = [*self.features, *others[:_N_PROJECTED]]
        rows: list[tuple[str, int | None, str, Tensor]] = [
            (
                "in the circuit" if feature in own else "beside it",
                feature,
                self.name(feature),
                vector,
            )
            for feature, vector in zip(chosen, write[chosen].cpu(), strict=True)
        ]
        rows += [("direction", None, name, vector) for name, vector in self.directions().items()]
        turn = _signs(ends, write[self.features]).cpu()
        found = []
        for kind, feature, name, vector in rows:
            cosines = (ends.cpu() @ vector) / vector.norm().clamp(min=1e-30) * turn
            found.append((kind, feature, name, float(cosines[0]), float(cosines[1])))
        return pd.DataFrame(found, columns=["kind", "feature", "name", "positive", "negative"])

    def name(self, feature: int) -> str:
        """The circuit's own label, or the number."""
        for known in self.found.circuit.features:
            if known.feature == feature:
                return known.label
        return "constant" if feature == self.into.n_feature else f"feature {feature}"

    def outputs_shown(self) -> list[int]:
        """Output features whose activation is looked at: the one that carries most, those that tell
        a class, then the others by what they carry."""
        circuit = self.found.circuit
        told = [detector.features[0] for detector in circuit.detectors if detector.features]
        order = sorted(circuit.outputs, key=lambda o: -abs(o.share or 0.0))
        carried = [output.feature for output in order]
        return list(dict.fromkeys([*carried[:1], *told, *carried]))[:4]

    def approximations(
        self, text: TextActivations, output: int, seed: int = 0
    ) -> dict[str, Any] | None:
        """An output feature's activation and what 1, 2, … eigenvectors of its own form make of it,
        where it is active; the correlation of each, beside that of random directions."""
        tokens, active = text.active(output)
        if len(tokens) < 3:
            return None
        reads = self.out.to(torch.float64).basis("encoder").subset([output])
        identity = Basis.identity(self.inter.layer.d_model, dtype=torch.float64,
                                  device=self.model.device)  # fmt: skip
        inter = Interactions(self.inter.layer, identity, reads)
        spectrum = inter.spectrum(0, space="model")
        x = text.x[tokens].double()
        added = spectrum.activation(x).cumsum(1).cpu().numpy() + inter.bias(0)
        rotated = spectrum.rotated(seed).activation(x).cumsum(1).cpu().numpy()
        ranks = [rank for rank in RANKS if rank < len(spectrum)] + [len(spectrum)]
        some = np.unique(np.linspace(0, len(tokens) - 1, _N_POINTS).astype(int))
        points = pd.DataFrame({"activation": active[some]})
        for rank in ranks:
            points[f"rank {rank}"] = added[some, rank - 1]
        told = [
            {
                "rank": rank,
                "correlation": _correlation(active, added[:, rank - 1]),
                "random directions": _correlation(active, rotated[:, rank - 1]),
            }
            for rank in ranks
        ]
        return {"points": points, "ranks": told, "n": len(tokens)}


def _where_it_shows(asked: ModelCases) -> Int64[Tensor, "found two"]:
    """Case and position where a case with the first factor first differs from that of its pair
    which lacks it and nothing else."""
    behaviour, cases = asked.behaviour, asked.behaviour.cases
    first, rest = behaviour.factors[0], behaviour.factors[1:]
    if asked.pair is None:
        return torch.zeros(0, 2, dtype=torch.int64)
    known = {
        (
            case.pair,
            behaviour.value_of(case, first),
            tuple(behaviour.value_of(case, f) for f in rest),
        ): n
        for n, case in enumerate(cases)
    }
    found = []
    for (pair, present, others), number in known.items():
        partner = known.get((pair, False, others))
        if present and partner is not None:
            differs = (asked.tokens[number] != asked.tokens[partner]).nonzero()
            if len(differs):
                found.append((number, int(differs[0])))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def _signs(
    ends: Float[Tensor, "end input"], write: Float[Tensor, "feature input"]
) -> Float[Tensor, " end"]:
    """An eigenvector's sign means nothing: it is turned to where most features point."""
    total = (write @ ends.mT).sum(0)
    return torch.where(total < 0, -1.0, 1.0).to(ends)


def _correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
