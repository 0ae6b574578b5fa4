"""Through which output features a behaviour's contrast goes, and which of them detect its classes.

To carry and to detect are two things: the features that most of the contrast goes through are often
shared by classes that ask for one answer (bad, not good), and a feature that is active in one class
alone may add little. A circuit names both, each with its share.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.behaviour.in_model import ModelCases
from circuits.graph.records import Detector, Output
from sae.dictionary import Dictionary

_N_OUTPUTS = 8  # features that the contrast goes through, at most
_ENOUGH = 0.9  # of the contrast
_N_DETECTORS = 4  # features of a class, at most
_N_LIKELY = 64  # features whose cuts are tried, those that detect a class best without one
_GAIN = 0.01  # of F1 that another feature must bring


class OutputFeatures:
    """The output features' activations on some cases, and what goes through each."""

    def __init__(self, cases: ModelCases, dictionary: Dictionary) -> None:
        self.cases, self.dictionary = cases, dictionary.to("cpu")
        site = dictionary.known_site("output features")
        found, reads = cases.read_with_answers([site])
        self.reads = reads.to(self.dictionary.dtype)
        self.active = self.dictionary.encode(found[str(site)])
        self.whole = float(
            (cases.weights(cases.affected) * (found[str(site)] * reads).sum(1)).sum()
        )

    @cached_property
    def shares(self) -> Float[Tensor, " feature"]:
        """Of the contrast, through each feature; they and the error's sum to one."""
        weights = self.cases.weights(self.cases.affected)
        through = torch.zeros(self.dictionary.n_feature, dtype=torch.float64)
        for rows, direction, length in self.cases.by_answers(self.reads):
            mean = (self.active[rows] * (weights[rows] * length)[:, None]).sum(0)
            through += mean * (self.dictionary.decoder @ direction)
        return through / self.whole

    @property
    def effects(self) -> Float[Tensor, " feature"]:
        """On the logit difference, for one of each feature on the mean case."""
        return self.dictionary.decoder @ self.reads.mean(0)

    def detectors(self, held_out: OutputFeatures) -> tuple[Detector, ...]:
        """For each affected class the few features, each above its cut, that detect it best; and
        how well they do on held-out cases, beside a feature that is always active."""
        found = []
        for name in self.cases.behaviour.affected:
            features, cuts = _detecting(self.active, self._are_of(name))
            detected = (held_out.active[:, features] > torch.tensor(cuts)).any(1)
            truth = held_out._are_of(name)
            (f1,) = _f1(detected[:, None], truth)
            found.append(Detector(name, tuple(features), tuple(cuts), f1, _always(truth)))
        return tuple(found)

    def _are_of(self, name: str) -> Bool[Tensor, " case"]:
        return self.cases.label == self.cases.behaviour.labels.index(name)

    def named(self, detectors: tuple[Detector, ...]) -> tuple[Output, ...]:
        """Those that most of the contrast goes through, and those that detect its classes; the
        nearest to it where there are none of either, for a circuit has an output."""
        shares, effects = self.shares, self.effects
        order = shares.argsort(descending=True, stable=True)[:_N_OUTPUTS].tolist()
        enough = int((shares[order].cumsum(0) < _ENOUGH).sum()) + 1
        chosen = [feature for feature in order[:enough] if shares[feature] > 0]
        detecting = [feature for detector in detectors for feature in detector.features]
        outputs = []
        for feature in dict.fromkeys([*chosen, *detecting] or order[:1]):
            classes = [d.label for d in detectors if feature in d.features]
            label = f"feature {feature}" + (f" ({', '.join(classes)})" if classes else "")
            effect, share = float(effects[feature]), float(shares[feature])
            outputs.append(Output(feature, label, effect, share))
        return tuple(outputs)


def _f1(detected: Bool[Tensor, "case way"], truth: Bool[Tensor, " case"]) -> list[float]:
    hits = (detected & truth[:, None]).sum(0).double()
    return (2 * hits / (detected.sum(0) + truth.sum()).clamp(min=1)).tolist()


def _always(truth: Bool[Tensor, " case"]) -> float:
    """F1 of what is detected in every case: 2p / (1 + p) of a class with the share p of cases."""
    return _f1(torch.ones_like(truth)[:, None], truth)[0]


def _detecting(
    active: Float[Tensor, "case feature"], truth: Bool[Tensor, " case"]
) -> tuple[list[int], list[float]]:
    """Greedily the feature and cut that raise F1 most, while they raise it by a hundredth, from
    that of a feature that is always active."""
    quantiles = torch.linspace(0, 0.95, 20)
    detected, features, cuts, best = torch.zeros_like(truth), [], [], _always(truth)
    for _ in range(_N_DETECTORS):
        plain = torch.tensor(_f1((active > 0) | detected[:, None], truth))
        likely = plain.argsort(descending=True, stable=True)[:_N_LIKELY]
        top = active[:, likely].max(0).values
        ways = [
            (score, int(feature), float(share * top[place]))
            for share in quantiles
            for place, (feature, score) in enumerate(
                zip(
                    likely,
                    _f1((active[:, likely] > share * top) | detected[:, None], truth),
                    strict=True,
                )
            )
        ]
        score, feature, cut = max(ways, key=lambda way: (round(way[0], 9), -way[1], -way[2]))
        if score < best + _GAIN:
            break
        best, detected = score, detected | (active[:, feature] > cut)
        features.append(feature)
        cuts.append(cut)
    return features, cuts
