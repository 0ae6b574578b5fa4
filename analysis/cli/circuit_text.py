"""A circuit, its validation and proposals in words: what `circuits find` and `validate` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.discovery.find import verdict
from analysis.validation.validate import Validation
from circuits.graph.circuit import Circuit

_MOST_ROWS = 16


def circuit_text(circuit: Circuit) -> str:
    """For a person: the answer, then gates, pairs, features, outputs."""
    shares = circuit.shares
    pairs = _plural(len(circuit.interactions), "pair")
    return "\n\n".join(
        [
            f"{circuit.name}: found in layer {circuit.source['layer']}, {verdict(circuit)}",
            f"{pairs} of features carry {shares['carried']:.0%} of what the MLP adds to the margins"
            f" of {circuit.source['affected']};\nthe MLP adds {shares['direct']:.0%} of the model's"
            f" own margins, the dictionary's error {shares['error']:.1%} of that.",
            _titled("Gates", _gates(circuit)),
            _titled("Pairs of input features", _pairs(circuit).head(_MOST_ROWS)),
            _titled("Input features, and what each factor adds to them", _features(circuit)),
            _titled("Output features that the contrast goes through", _outputs(circuit)),
            _titled("Classes, told by output features above their cuts", _detectors(circuit)),
            "contrast, elsewhere: logits that a pair adds to the margins of the affected classes, "
            "and of the others.\nz: its weight against rotated features. F1: on cases that nothing "
            f"was chosen on.\nn = {circuit.source['cases']} cases to choose on.",
        ]
    )


def _gates(circuit: Circuit) -> pd.DataFrame:
    names = circuit.groups
    return pd.DataFrame(
        [
            {
                "gate": f"{names[str(gate.first)]} & {names[str(gate.second)]}",
                "kind": gate.gate,
                "contrast": gate.contrast,
            }
            for gate in circuit.gates
        ]
    )


def _pairs(circuit: Circuit) -> pd.DataFrame:
    labels = {feature.feature: feature.label for feature in circuit.features}
    table = circuit.tables()["interactions"]
    for end in ("first", "second"):
        table[end] = table[end].map(labels)
    table["z"] = table["z"].astype(float)
    return table[["first", "second", "weight", "contrast", "elsewhere", "z"]]


def _features(circuit: Circuit) -> pd.DataFrame:
    effects = ["mean", *str(circuit.source["factors"]).split(", "), "both"]
    table = circuit.tables()["features"]
    columns = ["label", "mean", "first_effect", "second_effect", "joint_effect"]
    told = table[columns].dropna(axis=1, how="all")
    return told.set_axis(["feature", *effects[: told.shape[1] - 1]], axis=1)


def _outputs(circuit: Circuit) -> pd.DataFrame:
    table = circuit.tables()["outputs"][["label", "effect", "share"]]
    return table.set_axis(["output", "effect on logits", "share"], axis=1)


def _detectors(circuit: Circuit) -> pd.DataFrame:
    table = circuit.tables()["detectors"]
    table["features"] = [" or ".join(map(str, some)) for some in table["features"]]
    return table[["label", "features", "f1"]].set_axis(["class", "features", "F1"], axis=1)


def layers_text(layers: pd.DataFrame) -> str:
    """What each part of the model adds to the margins, and of each MLP whence."""
    title = "Parts of the model, by their direct path; of each MLP what it computes and inherits"
    return _titled(title, layers)


def proposals_text(circuits: Sequence[Circuit]) -> str:
    """One line a proposal."""
    if not circuits:
        return "no output of this layer has a significant pair: there is nothing to propose"
    rows = [
        {
            "circuit": circuit.name,
            "pairs": len(circuit.interactions),
            "groups": len({f.group for f in circuit.features if f.group >= 0}),
            "gates": ", ".join(dict.fromkeys(g.gate for g in circuit.gates)) or "none",
            "in gates": circuit.shares["gate"],
            "explained": circuit.explained,
            "energy of 4": circuit.shares["energy of 4 eigenvectors"],
            "opposite": str(circuit.source.get("opposite end", "none")),
        }
        for circuit in circuits
    ]
    return (
        f"{aligned(pd.DataFrame(rows))}\n\nin gates: share of the pairs' energy between two groups."
        " explained: share of the form that\nthe pairs build together. opposite: the output at the "
        "other end of the same direction.\nFrom the weights alone: what a gate does to answers, a "
        "behaviour and `circuits validate` tell."
    )


def validation_text(found: Validation) -> str:
    """The verdict, the criteria, and every edit beside its controls."""
    edits = found.edits.drop(columns=["low", "high"]).assign(
        taken=[
            f"{row.taken:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.edits.itertuples()
        ]
    )
    random = found.random.groupby("kind", sort=False).agg(
        size=("size", "mean"),
        median=("taken", lambda taken: taken.abs().median()),
        mean=("taken", lambda taken: taken.abs().mean()),
        most=("taken", _most),
    )
    parts = [
        f"{found.circuit}: {found.verdict}",
        aligned(found.criteria),
        aligned(edits.dropna(axis=1, how="all")),
        _titled(
            "Random pairs that are active together, in place of the circuit's",
            random.reset_index(),
        ),
        f"Each pair by itself: predicted and measured change of {len(found.checks)} outputs differ "
        f"by at most {found.checks['off_by'].max():.1e} of it.",
    ]
    if len(found.side_effects):
        parts.append(_titled("On text where no answer is due", found.side_effects))
    parts.append(
        "contrast: mean margin of the affected classes, in logits; taken: the share of it that an "
        "edit removes\n(95 % of bootstrap draws). moved: largest relative change of another class. "
        "faithfulness: 1 for the model,\n0 with the MLP's output at its mean. size: how much the "
        "random pairs write, relative to the circuit;\nmedian, mean: of |taken| over the draws."
        f"\nn = {found.n} cases, seed {found.seed}."
    )
    return "\n\n".join(parts)


def validation_rows(found: Validation) -> dict[str, Any]:
    """For a script."""
    tables = {
        name: value.to_dict("records")
        for name, value in vars(found).items()
        if isinstance(value, pd.DataFrame)
    }
    return {"circuit": found.circuit, "proven": found.proven, "verdict": found.verdict,
            "n": found.n, "seed": found.seed, **tables}  # fmt: skip


def circuit_rows(circuit: Circuit) -> dict[str, Any]:
    """For a script."""
    tables = {name: table.to_dict("records") for name, table in circuit.tables().items()}
    told = {"shares": dict(circuit.shares), "source": dict(circuit.source)}
    return {"name": circuit.name, **told, "groups": dict(circuit.groups), **tables}


def _most(values: pd.Series) -> float:
    return float(values.iloc[int(values.abs().to_numpy().argmax())])


def _titled(title: str, table: pd.DataFrame) -> str:
    return f"{title}\n{aligned(table) if len(table) else '(none)'}"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
