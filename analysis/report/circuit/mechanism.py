"""How a behaviour's circuit works, class by class: which features are active, what each pair adds.

Everything is measured on the held-out half of the cases. A pair's *weight* favours the answers of
one side, whatever the class; what it *adds* goes to the margin of the class's right answers. So a
pair with a negative weight adds where the other side is right.
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
from analysis.html.page import Table
from analysis.report.circuit.labels import Labels
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from analysis.validation.edits import DrawKind, EditKind
from circuits.model.site import Site
from circuits.plotting.display import number, percent, seen, shown, two

_LEAST = 0.15  # share of what a class's pairs add, below which a pair is not described
_MOST = 3  # pairs described per class
_SMALL = 0.05  # of what a pair adds in one class: if it adds less in another, that is "about 0"
_HUB = 0.9  # share of what all pairs add, by the pairs of one feature
_WORDS = 24  # of a text that are shown, from its end


@dataclass(frozen=True, eq=False)
class Mechanism:
    """A circuit's features and pairs in each class of its behaviour, with an example of each."""

    found: Found
    cases: ModelCases
    weight: Float[Tensor, " pair"]  # towards the answers of side +1
    means: Float[Tensor, "class feature"]
    added: Float[Tensor, "class pair"]  # to the margin of the class's right answers, in logits
    mlp: Float[Tensor, " class"]  # added by the whole MLP
    margin: Float[Tensor, " class"]  # the model's own

    @classmethod
    def of(cls, run: Run, found: Found) -> Mechanism:
        """Of a circuit that was found for a behaviour and states its layer."""
        assert found.behaviour is not None
        assert found.layer is not None
        cases = in_model(found.behaviour.halves()[1], run.model)
        account = PairAccount.of(cases, found.layer, run.dictionaries[Site("mlp_in", found.layer)])
        features = [f.feature for f in found.circuit.features]
        known = {int(feature): place for place, feature in enumerate(account.features)}
        places = torch.tensor([known.get(f, -1) for f in features], dtype=torch.int64)
        active = (places >= 0).double()  # the others are active in none of these cases
        pairs = [[features.index(p.first), features.index(p.second)]
                 for p in found.circuit.interactions]  # fmt: skip
        first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).mT
        both = active[first] * active[second]
        return cls(
            found,
            cases,
            account.weight[places[first], places[second]] * both,
            cases.class_means(account.values[:, places]) * active,
            account.added(places)[:, first, second] * both,
            account.class_totals,
            cases.class_means(cases.margins().double()),
        )

    @property
    def mlp_effect(self) -> dict[str, str]:
        """What the MLP adds to the affected classes' margins on average, in logits, and how much
        of it the circuit's pairs add."""
        affected = self.cases.affected > 0
        added, whole = (float(x[affected].mean()) for x in (self.added.sum(1), self.mlp))
        return {"mlp": two(whole), "carried": percent(added / whole if whole else None)}

    def classes(self) -> list[dict[str, Any]]:
        """For each affected class an example, its answers, and the pairs that explain it best.

        A pair is ranked by what it adds here less what it takes from other classes: one that helps
        a class and hurts another as much explains neither.
        """
        behaviour, found = self.cases.behaviour, []
        for place, label in enumerate(behaviour.labels):
            if label not in behaviour.affected:
                continue
            case = behaviour.cases[int((self.cases.label == place).nonzero()[0, 0])]
            here = self.added[place]
            taken = self.added.clamp(max=0).sum(0) - here.clamp(max=0)
            order = (here + taken).argsort(descending=True, stable=True).tolist()
            enough = max(_LEAST * float(here.clamp(min=0).sum()), 1e-9)
            best = [n for n in order if float(here[n]) >= enough][:_MOST]
            found.append(
                {
                    "label": shown(label),
                    "text": _end_of(case.text),
                    "right": _quoted(case.right[0]),
                    "wrong": _quoted(case.wrong[0]),
                    "pairs": [self._pair(n, place) for n in best],
                    "together": _signed(float(here.sum())),
                    "mlp": _signed(float(self.mlp[place])),
                }
            )
        return found

    def _pair(self, n: int, place: int) -> dict[str, Any]:
        pair, here = self.found.circuit.interactions[n], float(self.added[place, n])
        elsewhere = [
            f"{_signed(float(self.added[other, n]))} in {shown(name)}"
            for other, name in enumerate(self.cases.behaviour.labels)
            if other != place and abs(float(self.added[other, n])) >= _SMALL * abs(here)
        ]
        return {
            "ends": [
                shown(self.found.circuit.label(f)) for f in dict.fromkeys((pair.first, pair.second))
            ],
            "weight": _signed(float(self.weight[n]), 3),
            "adds": _signed(here),
            "elsewhere": ", ".join(elsewhere),
        }

    def bridge(self) -> dict[str, str] | None:
        """The pair whose size here and in the picture differ most: what it adds to each affected
        class, their mean, and its one number there, on the cases that the circuit was chosen on."""
        names, pairs = self.cases.behaviour.labels, self.found.circuit.interactions
        affected = [place for place, on in enumerate(self.cases.affected.tolist()) if on]
        added = self.added[affected]
        if len(affected) < 2 or not len(pairs) or not bool(added.any()):
            return None
        n = int((added - added.mean(0)).abs().amax(0).argmax())
        ends = dict.fromkeys((pairs[n].first, pairs[n].second))
        contrast = pairs[n].contrast
        return {
            "pair": " × ".join(shown(self.found.circuit.label(f)) for f in ends),
            "by_class": " and ".join(
                f"{_signed(value) if abs(value) >= 0.005 else 'about 0'} in {shown(names[place])}"
                for place, value in zip(affected, added[:, n].tolist(), strict=True)
            ),
            "mean": _signed(float(added[:, n].mean())),
            "there": "" if contrast is None else _signed(contrast),
        }

    def hub(self, labels: Labels) -> dict[str, Any] | None:
        """The feature whose pairs add almost everything, if there is one, and the classes that it
        is active in."""
        pairs = self.found.circuit.interactions
        size = self.added.abs().sum(0)
        for place, feature in enumerate(self.found.circuit.features):
            own = [n for n, p in enumerate(pairs) if feature.feature in (p.first, p.second)]
            if len(own) < 2 or float(size[own].sum()) < _HUB * float(size.sum()):
                continue
            means = self.means[:, place]
            active = means.abs() >= means.abs().max() / 2
            names = self.cases.behaviour.labels
            return {
                "name": labels.name(feature.feature),
                "feature": feature.feature,
                "caption": labels.caption(feature.feature).text,
                "pairs": len(own),
                "active": [
                    (shown(name), two(float(mean)))
                    for name, mean, is_active in zip(names, means, active, strict=True)
                    if is_active
                ],
                "most_elsewhere": two(float(means[~active].abs().max()))
                if bool((~active).any())
                else None,
            }
        return None

    @property
    def sides(self) -> tuple[str, str]:
        """An answer that a positive weight favours, and one that a negative weight favours."""
        case = self.cases.behaviour.cases[int((self.cases.side > 0).nonzero()[0, 0])]
        return _quoted(case.right[0]), _quoted(case.wrong[0])

    def tables(self, labels: Labels) -> list[Table]:
        """How active each feature is in each class, what each pair adds there, and the cases."""
        circuit, names = self.found.circuit, list(self.cases.behaviour.labels)
        n = f"n = {len(self.cases)} held-out cases"
        features = pd.DataFrame(self.means.mT.numpy(), columns=names)
        features.insert(0, "feature",
                        [labels.name_and_caption(f.feature) for f in circuit.features])  # fmt: skip
        sums = {"these pairs together": self.added.sum(1), "the whole MLP": self.mlp,
                "the model": self.margin}  # fmt: skip
        rows = torch.cat([self.added.mT, torch.stack([*sums.values()])])
        pairs = pd.DataFrame(rows.numpy(), columns=names)
        pairs.insert(0, "weight", [*self.weight.tolist(), *[float("nan")] * len(sums)])
        pairs.insert(0, "pair", [
            *(" × ".join(labels.name(f) for f in (pair.first, pair.second))
              for pair in circuit.interactions), *sums,
        ])  # fmt: skip
        positive, negative = self.sides
        return [
            replace(Table.of("by-class", f"Mean activation of each feature at the token before "
                             f"the answer; {n}.", features),
                    cards=labels.input_cards(f.feature for f in circuit.features)),
            Table.of("added", f"Logits that each pair adds to the right answers over the wrong "
                     f"ones, by class. Weight: towards {positive} over {negative}, in any class; "
                     f"{n}.", pairs),
            self._case_table(),
        ]  # fmt: skip

    def _case_table(self) -> Table:
        """An example of each class."""
        behaviour = self.cases.behaviour
        rows = []
        correct = self.cases.shown(self.cases.margins())
        for place, label in enumerate(behaviour.labels):
            own = (self.cases.label == place).nonzero()[:, 0]
            case = behaviour.cases[int(own[0])]
            rows.append({"class": label, "example": _end_of(case.text),
                         "right answers": ", ".join(case.right),
                         "wrong answers": ", ".join(case.wrong), "n": len(own),
                         "correct": float(correct[place]),
                         "margin": float(self.margin[place])})  # fmt: skip
        caption = (
            f"The cases: the answer is the next word of the text. Correct: share of cases that the "
            f"model gets right. Margin: mean {behaviour.metric} of the right answers over the "
            f"wrong ones; n = {len(self.cases)} held-out cases."
        )
        return Table.of("cases", caption, pd.DataFrame(rows))


def removal_effect(found: Found) -> dict[str, Any] | None:
    """What removing the circuit does to each class, and what removing random pairs does."""
    if found.validation is None or found.behaviour is None:
        return None
    before, after = (found.validation.edit(kind) for kind in (EditKind.NONE, EditKind.REMOVE))
    affected = found.behaviour.affected
    many, loud = map(found.validation.drawn, DrawKind)
    return {
        "affected": [
            (shown(label), _signed(float(before[label])), _signed(float(after[label])))
            for label in affected
        ],
        "others": ", ".join(shown(x) for x in found.behaviour.labels if x not in affected),
        "side_effect": percent(float(after["side_effect"])),
        "random": percent(float(many["median_size"])),
        "loud": [percent(float(loud[name])) for name in ("median", "least", "most")],
        "draws": int(many["draws"]),
        "case_by_case": found.validation.case_by_case,
        "in_original": found.validation.in_original and seen(found.validation.in_original),
        "n": found.validation.n,
        "seed": found.validation.seed,
    }


def _signed(value: float, digits: int = 0) -> str:
    text = number(value, digits) if digits else two(value)
    return text if text.startswith("−") else f"+{text}"


def _quoted(word: str) -> str:
    return f"“{shown(word)}”"


def _end_of(text: str) -> str:
    words = text.split()
    return ("… " if len(words) > _WORDS else "") + " ".join(shown(w) for w in words[-_WORDS:])
