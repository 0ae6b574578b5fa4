"""What `circuits find` and `validate` print with `--across`, and the same for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.cli.circuit_text import circuit_rows
from analysis.discovery.find import verdict
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.validation.layered_record import LayeredValidation
from circuits.plotting.display import percent


def layered_text(circuit: LayeredCircuit) -> str:
    """For a person."""
    return "\n".join(layered_sentences(circuit))


def layered_rows(circuit: LayeredCircuit) -> dict[str, Any]:
    """For a script."""
    stages = [
        {"layer": layer, "verdict": verdict(stage), **circuit_rows(stage)}
        for layer, stage in zip(circuit.layers, circuit.stages, strict=True)
    ]
    return {"name": circuit.name, "layers": circuit.shares.to_dict("records"),
            "ways": circuit.ways.to_dict("records"),
            "looks": circuit.looks.to_dict("records"),
            "links": circuit.links.to_dict("records"), "stages": stages,
            "chosen": list(map(asdict, circuit.chosen)),
            "left_out": list(map(asdict, circuit.left_out))}  # fmt: skip


def layered_validation_text(found: LayeredValidation) -> str:
    """The verdict, the edits with attention free and frozen, and the controls."""
    edits = _in_percent(found.edit_table, ("free", "frozen", "side_effect", "frozen_side_effect"))
    if found.strata["affected"].all():
        known = found.edit_table["free"].notna()
        edits.loc[known, ["side_effect", "frozen_side_effect"]] = "no other class"
    edits.columns = ["edit", "pairs", "cases", "removed, free", "removed, frozen",
                     "side effect, free", "side effect, frozen"]  # fmt: skip
    random = _random_text(found.random_table)
    n = len(found.pair_table)
    return "\n\n".join(
        [
            f"{found.circuit}, across layers{found.elsewhere}: {found.verdict}",
            aligned(edits),
            aligned(random),
            f"removed: share of the affected classes' margin that an edit removes, as the "
            f"network really runs (free), and with\nattention patterns and norm scales as they "
            f"were (frozen). Pairs are removed by putting what they write at its mean over the "
            f"classes;\nonly the circuit is kept by putting all else that these MLPs write at its "
            f"mean. Frozen, each of {n} pairs alone does\nwhat its weights predict, to "
            f"{found.off_by:.1e} of the largest margin. side effect: largest relative change of "
            f"another class.\nsize: how much random pairs write, relative to the circuit; median: "
            f"of what they remove or (below 0) add, whatever its sign. n = {found.n} cases,\nseed "
            f"{found.seed}.",
        ]
    )


def _random_text(table: pd.DataFrame) -> pd.DataFrame:
    """The draws, with the least and the most that they remove as one range."""
    said = table[["kind", "draws", "distinct", "pairs", "size"]].rename(
        columns={"kind": "random pairs"}
    )
    for name in ("free", "frozen"):
        ends = zip(table[f"{name}_least"], table[f"{name}_most"], strict=True)
        said[f"median, {name}"] = [_share(value) for value in table[name]]
        said[f"range, {name}"] = [f"{_share(low)} to {_share(high)}" for low, high in ends]
    return said


def _in_percent(
    table: pd.DataFrame,
    shares: tuple[str, ...],
    first: tuple[str, ...] = ("edit", "n_pairs", "n_cases"),
) -> pd.DataFrame:
    chosen = table[[*first, *shares]]
    said = {name: [_share(value) for value in chosen[name]] for name in shares}
    return chosen.assign(**said)


def _share(value: float) -> str:
    """In percent, to a hundredth of one; NaN where the behaviour is not shown."""
    return percent(round(value, 4)) or "not shown"


def layered_validation_rows(found: LayeredValidation) -> dict[str, Any]:
    """For a script."""
    tables = {
        name: value.to_dict("records")
        for name, value in vars(found).items()
        if isinstance(value, pd.DataFrame)
    }
    criteria = [asdict(one) | {"criterion": one.label, "met": one.met} for one in found.criteria]
    claims = {str(claim): holds for claim, holds in found.claims.items()}
    return {"circuit": found.circuit, "behaviour": found.behaviour, "claims": claims,
            "verdict": found.verdict, "n": found.n, "seed": found.seed,
            "off_by": found.off_by, "criteria": criteria, **tables}  # fmt: skip
