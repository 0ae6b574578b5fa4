"""The quadratic form that a circuit is a part of, in the numbers that its page draws.

A circuit of a behaviour is a part of the form along the answers' own direction; a proposal, of the
form of one output feature. The matrix among a circuit's features is a choice of large entries, so
it looks low-rank whatever the form is; the spectrum is of the whole form, in the activation's own
space, with forms of random directions as its control.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

_RANKS = (1, 2, 4, 8)  # of the approximations, beside the whole form
_N_RANDOM = 20  # directions whose spectra are the control
_N_EIGENVALUES = 24  # shown of either end
_N_PROJECTED = 40  # features shown in addition to the circuit's
_N_POINTS = 250  # of a scatter plot


@dataclass(frozen=True, eq=False)
class CircuitForm:
    """One form, the features it is written in and, for a behaviour, its pair account."""

    found: Found
    model: Model
    layer: int
    into: Dictionary
    out: Dictionary
    interactions: Interactions  # of one output
    account: PairAccount | None  # of all cases

    @classmethod
    def of(cls, run: Run, found: Found) -> CircuitForm:
        """Of a circuit that states its layer."""
        layer = found.layer
        assert layer is not None
        into, out = (run.dictionaries[site] for site in mlp_sites(layer))
        weights = run.model.layer(layer).to(torch.float64)
        inputs = into.to(torch.float64).basis(least_squares=True)
        if found.behaviour is None:
            by_pinv, out64 = found.circuit.source.reader == "pinv", out.to(torch.float64)
            outputs = out64.basis("pinv" if by_pinv else "encoder", least_squares=by_pinv)
            account, reads = None, outputs.subset([found.circuit.outputs[0].feature])
        else:
            account = PairAccount.of(in_model(found.behaviour, run.model), layer, into)
            direction = account.mean_read[None].to(run.model.device)
            reads = Basis(direction, direction, reader="answers")
        inter = Interactions(weights, inputs, reads)
        return cls(found, run.model, layer, into, out, inter, account)

    @property
    def features(self) -> list[int]:
        """The circuit's, by group and then by number."""
        order = sorted(self.found.circuit.features, key=lambda f: (f.group, f.feature))
        return [feature.feature for feature in order]

    @cached_property
    def matrix(self) -> Float[np.ndarray, "feature feature"]:
        """The weight of each pair of the circuit's features."""
        return self.interactions.weights(0, self.features).cpu().numpy()

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the whole form, in the activation's own space."""
        return self.interactions.spectrum(0, space="model")

    def eigenvalues(self, seed: int = 0) -> pd.DataFrame:
        """The largest at either end: place, value, and the mean over forms of random directions of
        the same length at that place."""
        own = self.spectrum.values.sort(descending=True).values.cpu()
        generator, layer = torch.Generator().manual_seed(seed), self.interactions.layer
        length = float(self.interactions.outputs.read.norm())
        drawn = []
        for _ in range(_N_RANDOM):
            direction = torch.randn(layer.d_out, generator=generator, dtype=own.dtype)
            direction = (direction * length / direction.norm()).to(layer.device)
            drawn.append(torch.linalg.eigvalsh(layer.interaction(direction)).flip(0))
        control, n = torch.stack(drawn).mean(0).cpu(), len(own)
        places = [*range(min(_N_EIGENVALUES, n)), *range(max(_N_EIGENVALUES, n - 24), n)]
        table = {"eigenvalue": own[places].numpy(), "random direction": control[places].numpy()}
        return pd.DataFrame({"place": [place + 1 for place in places], **table})

    def directions(self) -> dict[str, Float[Tensor, " input"]]:
        """Directions of a behaviour in the activation's own space: what its factors do to the MLP's
        input, the mean input where its first factor shows, and the difference of the answers'
        unembeddings."""
        if self.account is None:
            return {}
        cases = self.account.cases
        site = mlp_sites(self.layer)[0]
        effects = cases.effects(self.account.x)
        named = {
            f"effect of {name}": effect
            for name, effect in zip(cases.effects_named[1:], effects[1:], strict=True)
        }
        places = _where_it_shows(cases)
        if len(places):
            read = self.model.read(cases.tokens[places[:, 0]], [site])[site].cpu()
            mean = read[torch.arange(len(read)), places[:, 1]].double().mean(0)
            named[f"mean input where “{cases.behaviour.factors[0]}” shows"] = mean
        named["difference of unembeddings"] = cases.directions().cpu().double().mean(0)
        lift = self.interactions.layer.lift
        return {name: lift(direction, 0.0) for name, direction in named.items()}

    def projections(self) -> pd.DataFrame:
        """Cosines with the top positive and negative eigenvectors: of the circuit's features, of
        other features that interact most, and of meaningful directions."""
        values = self.spectrum.values
        places = [int(values.argmax()), int(values.argmin())]
        ends, write = self.spectrum.vectors[places], self.interactions.write
        along = (write @ self.interactions.form(0) * write).sum(1).abs()
        along += (write @ ends.mT).square() @ values[places].abs()
        own = set(self.features)
        others = [f for f in along.argsort(descending=True, stable=True).tolist() if f not in own]
        rows: list[tuple[str, int | None, str, Tensor]] = []
        for kind, some in (("in the circuit", self.features), ("other", others[:_N_PROJECTED])):
            rows += [(kind, feature, self.name(feature), write[feature].cpu()) for feature in some]
        rows += [("direction", None, name, vector) for name, vector in self.directions().items()]
        # the sign of an eigenvector is arbitrary: each is turned to where most features point
        turn = torch.where((write[self.features] @ ends.mT).sum(0) < 0, -1.0, 1.0).to(ends).cpu()
        found = []
        for kind, feature, name, vector in rows:
            cosines = (ends.cpu() @ vector) / vector.norm().clamp(min=1e-30) * turn
            found.append((kind, feature, name, float(cosines[0]), float(cosines[1])))
        return pd.DataFrame(found, columns=["kind", "feature", "name", "positive", "negative"])

    def name(self, feature: int) -> str:
        """The circuit's own label, or the number."""
        constant = feature == self.into.n_feature and feature not in self.features
        return "constant" if constant else self.found.circuit.label(feature)

    def outputs_shown(self) -> list[int]:
        """Output features whose activation is shown: the one that carries most, those that detect
        a class, then the others by what they carry."""
        circuit = self.found.circuit
        detectors = [detector.features[0] for detector in circuit.detectors if detector.features]
        order = sorted(circuit.outputs, key=lambda o: -abs(o.share or 0.0))
        carried = [output.feature for output in order]
        return list(dict.fromkeys([*carried[:1], *detectors, *carried]))[:4]

    def approximations(
        self, text: TextActivations, output: int, seed: int = 0
    ) -> dict[str, Any] | None:
        """An output feature's activation and its approximation by 1, 2, … eigenvectors of its own
        form, where it is active; the correlation of each, and that of random directions."""
        tokens, active = text.active(output)
        if len(tokens) < 3:
            return None
        reads = self.out.to(torch.float64).basis("encoder").subset([output])
        identity = Basis.identity(self.interactions.layer.d_model, dtype=torch.float64,
                                  device=self.model.device)  # fmt: skip
        inter = Interactions(self.interactions.layer, identity, reads)
        spectrum = inter.spectrum(0, space="model")
        x = text.x[tokens].double()
        added = spectrum.activation(x).cumsum(1).cpu().numpy() + inter.bias(0)
        rotated = spectrum.rotated(seed).activation(x).cumsum(1).cpu().numpy()
        ranks = [rank for rank in _RANKS if rank < len(spectrum)] + [len(spectrum)]
        some = np.unique(np.linspace(0, len(tokens) - 1, _N_POINTS).astype(int))
        points = pd.DataFrame({"activation": active[some]})
        for rank in ranks:
            points[f"rank {rank}"] = added[some, rank - 1]
        ways = {"correlation": added, "random directions": rotated}
        rows = [
            {"rank": rank, **{k: _correlation(active, x[:, rank - 1]) for k, x in ways.items()}}
            for rank in ranks
        ]
        return {"points": points, "ranks": rows, "n": len(tokens)}


def _where_it_shows(cases: ModelCases) -> Int64[Tensor, "found two"]:
    """Case and position where a case with the first factor first differs from the case of its pair
    that lacks only this factor."""
    behaviour = cases.behaviour
    first, rest = behaviour.factors[0], behaviour.factors[1:]
    if cases.pair is None:
        return torch.zeros(0, 2, dtype=torch.int64)
    with_first: dict[bool, dict[Any, int]] = {True: {}, False: {}}
    for number, case in enumerate(behaviour.cases):
        others = (case.pair, *(behaviour.value_of(case, factor) for factor in rest))
        with_first[behaviour.value_of(case, first)][others] = number
    found = []
    for others, number in with_first[True].items():
        if (partner := with_first[False].get(others)) is not None:
            differs = (cases.tokens[number] != cases.tokens[partner]).nonzero()
            found += [(number, int(place)) for place in differs[:1]]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def _correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
