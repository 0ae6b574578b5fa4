"""What `circuits find` and `circuits validate` print, and the same for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.discovery.find import verdict
from analysis.validation.record import Validation
from circuits.graph.circuit import Circuit
from circuits.graph.records import UNIT, Metric
from circuits.plotting.display import fixed

_MOST_ROWS = 16


def circuit_text(circuit: Circuit) -> str:
    """For a person: the answer, then gates, pairs, features, outputs."""
    assert circuit.evidence is not None  # of find_circuit
    evidence, shares = circuit.evidence, circuit.evidence.shares
    tables = circuit.tables()
    outputs = tables["outputs"][["label", "effect", "share"]]
    outputs.columns = ["output", "effect on logits", "share"]
    names = [" or ".join(map(str, some)) or "none" for some in tables["detectors"]["features"]]
    columns = ["label", "features", "f1", "baseline"]
    detectors = tables["detectors"][columns].assign(features=names)
    detectors.columns = ["class", "features", "F1", "F1 if always active"]
    pairs = f"{(n := len(circuit.interactions))} pair{'s' * (n != 1)}"
    return "\n\n".join(
        [
            f"{circuit.name}: found in layer {circuit.source.layer}, {verdict(circuit)}",
            f"{pairs} of features carry {shares.carried:.0%} of what the MLP adds to the margins"
            f" of {', '.join(evidence.affected)};\nthe MLP adds {shares.direct:.0%} of the model's"
            f" own margins, the dictionary's error {round(shares.error, 3) + 0.0:.1%} of that.",
            _titled("Gates", _gates(circuit)),
            _titled("Pairs of input features", _pairs(circuit).head(_MOST_ROWS)),
            _titled("Input features, and what each factor adds to them", _features(circuit)),
            _titled("Output features that the contrast goes through", outputs),
            _titled("Classes, detected by output features above their thresholds", detectors),
            "contrast, elsewhere: logits that a pair adds to the margins of the affected classes, "
            "and of the others.\nz: its weight against rotated features. F1: on held-out cases.\n"
            f"The circuit was chosen on n = {evidence.n_cases} cases. Held-out half: "
            f"{evidence.held_out_half}. {evidence.compared}".rstrip(),
        ]
    )


def _gates(circuit: Circuit) -> pd.DataFrame:
    name = circuit.group_name
    rows = [(f"{name(g.first)} & {name(g.second)}", g.gate, g.contrast) for g in circuit.gates]
    return pd.DataFrame(rows, columns=["gate", "kind", "contrast"])


def _pairs(circuit: Circuit) -> pd.DataFrame:
    table = circuit.tables()["interactions"]
    for end in ("first", "second"):
        table[end] = table[end].map(circuit.label)
    table["z"] = table["z"].astype(float)
    return table[["first", "second", "weight", "contrast", "elsewhere", "z"]]


def _features(circuit: Circuit) -> pd.DataFrame:
    factors = () if circuit.evidence is None else circuit.evidence.factors
    effects = ["mean", *factors, "both"]
    table = circuit.tables()["features"]
    columns = ["label", "mean", "first_effect", "second_effect", "joint_effect"]
    known = table[columns].dropna(axis=1, how="all")
    return known.set_axis(["feature", *effects[: known.shape[1] - 1]], axis=1)


def layers_text(layers: pd.DataFrame) -> str:
    """What each part of the model adds to the margins; of each MLP also computed or inherited."""
    title = "Direct contribution of each part of the model; of each MLP, computed and inherited"
    return _titled(title, layers)


def proposals_text(circuits: Sequence[Circuit], layer: int) -> str:
    """One line a proposal."""
    if not circuits:
        return (
            f"no output of layer {layer} has a significant pair: there is nothing to propose.\n"
            "In models of real text few outputs have any. What to try: another layer (--layer), "
            "a behaviour,\nwhose circuit needs no significant pairs (--behaviour), or a dictionary "
            "that misses less\n(circuits sae quality RUN; fvu is the share that it misses)."
        )
    rows = [
        {
            "circuit": circuit.name,
            "pairs": len(circuit.interactions),
            "groups": len({f.group for f in circuit.features if f.group >= 0}),
            "gates": ", ".join(dict.fromkeys(g.gate for g in circuit.gates)) or "none",
            "in gates": proposal.in_gates,
            "explained": circuit.explained,
            "energy of 4": proposal.energy_of_four,
            "opposite": "none" if proposal.opposite is None else str(proposal.opposite),
        }
        for circuit in circuits
        if (proposal := circuit.proposal) is not None
    ]
    return (
        f"{aligned(pd.DataFrame(rows))}\n\nin gates: share of the pairs' energy between two groups."
        " explained: share of the form that\nthe pairs build together. opposite: the output at the "
        "other end of the same direction.\nFrom the weights alone: to measure what a gate does to "
        "answers, find a circuit of a behaviour and validate it."
    )


def validation_text(found: Validation, metric: Metric = "logit difference") -> str:
    """The verdict, the criteria, and every edit beside its controls."""
    table = found.edit_table
    edits = table.drop(columns=["low", "high"]).assign(
        removed=[
            f"{fixed(removed)} [{fixed(low)}, {fixed(high)}]"
            for removed, low, high in table[["removed", "low", "high"]].to_numpy(float)
        ]
    )
    parts = [
        f"{found.circuit}: {found.verdict}",
        aligned(found.criteria_table),
        _titled("The worst stratum of each kind", found.worst_strata),
        found.judged,
        found.case_by_case,
        aligned(edits.dropna(axis=1, how="all")),
        *([found.in_original] if found.in_original else []),
        _titled(
            "Random pairs that are active together, in place of the circuit's", found.random_table
        ),
        _titled("Other bases in place of the dictionary's features", found.bases),
        f"Each pair alone: predicted and measured change of {len(found.checks)} outputs differ "
        f"by at most {found.checks['off_by'].max():.1e} of it.",
    ]
    if len(found.side_effects):
        title = "On other text, where no answer of the behaviour follows"
        parts.append(_titled(title, found.side_effect_table))
    parts.append(
        f"contrast: mean margin of the affected classes, in {UNIT[metric]}; removed: the share of "
        "it that\n"
        "an edit removes (95 % of bootstrap draws). n_cases: the patch is over those that have a\n"
        "counterpart in their minimal pair. side_effect: largest relative change of\n"
        "another class. faithfulness, kept: 1 for the model, 0 with the MLP's output at its mean\n"
        "left: of a stratum's margin, without the circuit (negative: the answer turns). size:\n"
        "how much random pairs write, relative to the circuit; distinct: draws that differ;\n"
        "median, most, least: of what they remove over the draws (negative: the margin grows),\n"
        "median_size: whichever the sign.\n"
        "needed: pairs that carry 80 % of the contrast in every stratum; there: pairs of the basis."
        f"\nn = {found.n} cases, seed {found.seed}."
    )
    return "\n\n".join(parts)


def validation_rows(found: Validation, metric: Metric = "logit difference") -> dict[str, Any]:
    """For a script."""
    tables = {
        name: value.to_dict("records")
        for name, value in vars(found).items()
        if isinstance(value, pd.DataFrame)
    }
    labels = found.edit_table["edit"]
    tables["edits"] = found.edits.assign(edit=labels).to_dict("records")
    criteria = [asdict(one) | {"criterion": one.label, "met": one.met} for one in found.criteria]
    claims = {str(claim): holds for claim, holds in found.claims.items()}
    return {"circuit": found.circuit, "claims": claims, "verdict": found.verdict, "n": found.n,
            "seed": found.seed, "metric": metric, "criteria": criteria,
            "in_original": found.in_original, **tables}  # fmt: skip


def circuit_rows(circuit: Circuit) -> dict[str, Any]:
    """For a script."""
    tables = {name: table.to_dict("records") for name, table in circuit.tables().items()}
    source = {k: v for k, v in asdict(circuit.source).items() if v is not None}
    shares: dict[str, Any] = {}
    if circuit.evidence is not None:
        evidence = circuit.evidence
        shares = {k.replace("_", " "): v for k, v in evidence.shares.as_dict().items()}
        source |= {
            "behaviour": evidence.behaviour,
            "metric": evidence.metric,
            "factors": list(evidence.factors),
            "affected": list(evidence.affected),
            "cases": evidence.n_cases,
            "held-out half": evidence.held_out_half,
            "first_pieces": [*evidence.first_pieces],
        }
    if circuit.proposal is not None:
        shares = asdict(circuit.proposal)
    groups = {str(group.number): group.name for group in circuit.groups}
    return {"name": circuit.name, "shares": shares, "source": source, "groups": groups, **tables}


def _titled(title: str, table: pd.DataFrame) -> str:
    return f"{title}\n{aligned(table) if len(table) else '(none)'}"
