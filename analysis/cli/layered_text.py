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
            "looks": circuit.looks.to_dict("records"), "stages": stages}  # fmt: skip


def layered_validation_text(found: LayeredValidation) -> str:
    """The verdict, the edits with attention free and frozen, and the controls."""
    edits = _in_percent(found.edit_table, ("free", "frozen", "side_effect", "frozen_side_effect"))
    edits.columns = ["edit", "pairs", "free", "frozen", "side effect, free", "frozen"]
    random = found.random_table
    random = _in_percent(
        random, ("free", "frozen", "free_most", "frozen_most"), ("kind", "draws", "pairs", "size")
    )
    random.columns = ["random pairs", "draws", "pairs", "size", "free", "frozen",
                      "most, free", "frozen"]  # fmt: skip
    n = len(found.pair_table)
    return "\n\n".join(
        [
            f"{found.circuit}, across layers: {found.verdict}",
            aligned(edits),
            aligned(random),
            f"free, frozen: share of the affected classes' margin that an edit removes, as the "
            f"network really runs, and with\nattention patterns and norm scales as they were. "
            f"Frozen, each of {n} pairs alone does what its weights predict, to\n{found.off_by:.1e}"
            f" of the largest margin. side effect: largest relative change of another class. "
            f"size: how much random\npairs write, relative to the circuit. n = {found.n} cases, "
            f"seed {found.seed}.",
        ]
    )


def _in_percent(
    table: pd.DataFrame, shares: tuple[str, ...], first: tuple[str, ...] = ("edit", "n_pairs")
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
    return {"circuit": found.circuit, "claims": claims, "verdict": found.verdict, "n": found.n,
            "seed": found.seed, "off_by": found.off_by, "criteria": criteria, **tables}  # fmt: skip
