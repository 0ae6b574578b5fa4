"""How a behaviour's circuit works, class by class: which features are on, and what each pair adds.

Everything is measured on the half of the cases that the circuit was not chosen on. What a reader
would get wrong: a pair's *weight* is towards the answers of one side, whatever the class; what it
*adds* is to the margin of the answers that fit the class. So a negative weight adds where the
other side fits: "takes from smiling" is "adds to crying".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.report.circuit.circuit_tables import Labels
from analysis.report.page import Table
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from analysis.validation.edits import DrawKind, EditKind
from circuits.graph.circuit import Circuit
from circuits.model.site import Site
from circuits.plotting.display import number, shown, two

_LEAST = 0.15  # of what a class's pairs add that one must, to be told of
_MOST = 3  # pairs that are told of a class
_SMALL = 0.05  # of what a pair adds in one class: less than this in another is not told
_HUB = 0.9  # of all that the pairs add, by pairs that one feature is in
_WORDS = 24  # of a text that are shown, from its end


@dataclass(frozen=True, eq=False)
class Mechanism:
    """A circuit's features and pairs in each class of its behaviour, and an example of each."""

    found: Found
    asked: ModelCases
    weight: Float[Tensor, " pair"]  # towards the answers of side +1
    means: Float[Tensor, "class feature"]
    added: Float[Tensor, "class pair"]  # to the margin of the class's fitting answers, in logits
    mlp: Float[Tensor, " class"]  # what the whole MLP adds to it
    margin: Float[Tensor, " class"]  # the model's own

    @classmethod
    def of(cls, run: Run, found: Found) -> Mechanism:
        """Of a circuit that was found for a behaviour and says which layer it is of."""
        assert found.behaviour is not None
        assert found.layer is not None
        asked = in_model(found.behaviour.halves()[1], run.model)
        into = run.dictionaries[Site("mlp_in", found.layer)]
        account = PairAccount.of(asked, found.layer, into)
        values, written = _of_features(account, found.circuit)
        place = {f.feature: n for n, f in enumerate(found.circuit.features)}
        first, second = (
            torch.tensor([place[getattr(pair, end)] for pair in found.circuit.interactions],
                         dtype=torch.int64)
            for end in ("first", "second")
        )  # fmt: skip
        twice = torch.where(first == second, 1.0, 2.0).double()
        added = values.new_zeros(len(asked), len(first))
        for answers in range(len(asked.answers)):
            rows = (asked.answer == answers).nonzero()[:, 0]
            reads = account.reads[rows[0]]
            form = written @ account.layer.interaction(reads) @ written.mT
            length = asked.side[rows] * account.reads[rows].norm(dim=1) / reads.norm()
            products = values[rows][:, first] * values[rows][:, second]
            added[rows] = products * (twice * form[first, second]) * length[:, None]
        mean = written @ account.layer.interaction(account.mean_read) @ written.mT
        return cls(
            found,
            asked,
            twice * mean[first, second],
            asked.class_means(values),
            asked.class_means(added),
            account.class_totals,
            asked.class_means(asked.margins().double()),
        )

    @property
    def n(self) -> int:
        """Cases that were measured."""
        return len(self.asked)

    @property
    def of_mlp(self) -> dict[str, str]:
        """What the MLP adds to the margins of the classes that the circuit must be seen in, on
        average, and the share of it that the circuit's pairs carry."""
        there = self.asked.affected > 0
        added, whole = (float(x[there].mean()) for x in (self.added.sum(1), self.mlp))
        return {"mlp": two(whole), "carried": two(added / whole if whole else None)}

    def classes(self) -> list[dict[str, Any]]:
        """Of each class that the circuit must be seen in: an example, its answers, and the pairs
        that add most to the answers that fit, less what they take from those of other classes: a
        pair that helps one class and hurts another as much tells neither."""
        behaviour, told = self.asked.behaviour, []
        for place, label in enumerate(behaviour.labels):
            if label not in behaviour.affected:
                continue
            case = behaviour.cases[int((self.asked.label == place).nonzero()[0, 0])]
            here = self.added[place]
            taken = self.added.clamp(max=0).sum(0) - here.clamp(max=0)
            order = (here + taken).argsort(descending=True, stable=True).tolist()
            enough = max(_LEAST * float(here.clamp(min=0).sum()), 1e-9)
            told.append(
                {
                    "label": shown(label),
                    "text": _end_of(case.text),
                    "right": quoted(case.right[0]),
                    "wrong": quoted(case.wrong[0]),
                    "pairs": [self._pair(n, place) for n in order if float(here[n]) >= enough][
                        :_MOST
                    ],
                    "together": _signed(float(here.sum())),
                    "mlp": _signed(float(self.mlp[place])),
                }
            )
        return told

    def _pair(self, n: int, place: int) -> dict[str, Any]:
        pair, here = self.found.circuit.interactions[n], float(self.added[place, n])
        elsewhere = [
            f"{_signed(float(self.added[other, n]))} in {shown(name)}"
            for other, name in enumerate(self.asked.behaviour.labels)
            if other != place and abs(float(self.added[other, n])) >= _SMALL * abs(here)
        ]
        return {
            "ends": [self._name(f) for f in dict.fromkeys((pair.first, pair.second))],
            "weight": _signed(float(self.weight[n]), 3),
            "adds": _signed(here),
            "elsewhere": ", ".join(elsewhere),
        }

    def _name(self, feature: int) -> str:
        labels = (f.label for f in self.found.circuit.features if f.feature == feature)
        return shown(next(labels, f"feature {feature}"))

    def hub(self, labels: Labels) -> dict[str, Any] | None:
        """The feature that is in the pairs of almost all that the circuit adds, if there is one,
        and the classes that it is on in."""
        pairs = self.found.circuit.interactions
        size = self.added.abs().sum(0)
        for place, feature in enumerate(self.found.circuit.features):
            mine = [n for n, p in enumerate(pairs) if feature.feature in (p.first, p.second)]
            if len(mine) < 2 or float(size[mine].sum()) < _HUB * float(size.sum()):
                continue
            means = self.means[:, place]
            on = means.abs() >= means.abs().max() / 2
            names = self.asked.behaviour.labels
            return {
                "name": self._name(feature.feature),
                "feature": feature.feature,
                "caption": labels.input(feature.feature),
                "pairs": len(mine),
                "on": [
                    (shown(x), two(float(m)))
                    for x, m, is_on in zip(names, means, on, strict=True)
                    if is_on
                ],
                "off": two(float(means[~on].abs().max())) if bool((~on).any()) else None,
            }
        return None

    @property
    def towards(self) -> tuple[str, str]:
        """Of the answers that a positive weight adds to, and those it takes from, the first."""
        case = self.asked.behaviour.cases[int((self.asked.side > 0).nonzero()[0, 0])]
        return quoted(case.right[0]), quoted(case.wrong[0])

    def tables(self, labels: Labels) -> list[Table]:
        """How active each feature is in each class, and what each pair adds there."""
        circuit, names = self.found.circuit, list(self.asked.behaviour.labels)
        n = f"n = {self.n} cases that nothing was chosen on"
        features = pd.DataFrame(self.means.mT.numpy(), columns=names)
        features.insert(0, "feature", [labels.label(f.feature) for f in circuit.features])
        sums = {"these pairs together": self.added.sum(1), "the whole MLP": self.mlp,
                "the model": self.margin}  # fmt: skip
        rows = torch.cat([self.added.mT, torch.stack([*sums.values()])])
        pairs = pd.DataFrame(rows.numpy(), columns=names)
        pairs.insert(0, "weight", [*self.weight.tolist(), *[float("nan")] * len(sums)])
        pairs.insert(0, "pair", [
            *(" × ".join(labels.name(f) for f in (pair.first, pair.second))
              for pair in circuit.interactions), *sums,
        ])  # fmt: skip
        right, wrong = self.towards
        return [
            replace(Table.of("by-class", f"How active each feature is at the token that the answer "
                             f"follows, on average; {n}.", features),
                    cards=labels.inputs(f.feature for f in circuit.features)),
            Table.of("added", f"What each pair adds to the logits of the answers that fit the "
                     f"class over the others. Weight: towards {right} over {wrong}, in any class; "
                     f"{n}.", pairs),
        ]  # fmt: skip

    def asked_table(self) -> Table:
        """What was asked, with a case of each class."""
        behaviour = self.asked.behaviour
        rows = []
        right = self.asked.shown(self.asked.margins())
        for place, label in enumerate(behaviour.labels):
            mine = (self.asked.label == place).nonzero()[:, 0]
            case = behaviour.cases[int(mine[0])]
            rows.append({"class": label, "for example": _end_of(case.text),
                         "fits": ", ".join(case.right), "does not fit": ", ".join(case.wrong),
                         "n": len(mine), "answered rightly": float(right[place]),
                         "margin": float(self.margin[place])})  # fmt: skip
        caption = (
            f"What was asked: how the text goes on. Margin: mean {behaviour.metric} of what fits "
            f"over what does not; n = {self.n} cases that nothing was chosen on."
        )
        return Table.of("asked", caption, pd.DataFrame(rows))


def without(found: Found) -> dict[str, Any] | None:
    """What removing the circuit does to each class, and what as many random pairs remove."""
    if found.validation is None or found.behaviour is None:
        return None
    before, after = (found.validation.edit(kind) for kind in (EditKind.NONE, EditKind.REMOVE))
    affected = found.behaviour.affected
    draws = found.validation.random
    removed = draws.loc[draws["kind"] == DrawKind.SAME_NUMBER.value, "removed"].abs()
    return {
        "affected": [
            (shown(label), _signed(float(before[label])), _signed(float(after[label])))
            for label in affected
        ],
        "others": ", ".join(shown(x) for x in found.behaviour.labels if x not in affected),
        "moved": number(float(after["side_effect"]), 2),
        "random": number(float(removed.median()), 2),
        "draws": len(removed),
        "n": found.validation.n,
        "seed": found.validation.seed,
    }


def _of_features(
    account: PairAccount, circuit: Circuit
) -> tuple[Float[Tensor, "case feature"], Float[Tensor, "feature input"]]:
    """How active a circuit's features are in each case, and what they write."""
    place = {int(f): n for n, f in enumerate(account.features)}
    values = torch.zeros(len(account.cases), len(circuit.features), dtype=torch.float64)
    written = values.new_zeros(len(circuit.features), account.written.shape[1])
    for n, feature in enumerate(circuit.features):
        if feature.feature in place:  # else it is never active in these cases
            values[:, n] = account.values[:, place[feature.feature]]
            written[n] = account.written[place[feature.feature]]
    return values, written


def _signed(value: float, digits: int = 0) -> str:
    told = number(value, digits) if digits else two(value)
    return told if told.startswith("−") else f"+{told}"


def quoted(word: str) -> str:
    """A word in a sentence."""
    return f"“{shown(word)}”"


def _end_of(text: str) -> str:
    words = text.split()
    return ("… " if len(words) > _WORDS else "") + " ".join(shown(w) for w in words[-_WORDS:])
