"""What `circuits find` and `validate` print with `--across`, and the same for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.cli.answers import aligned
from analysis.cli.circuit_text import circuit_rows
from analysis.discovery.find import verdict
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.validation.layered_record import LayeredValidation
from circuits.plotting.display import percent

_MOST_WAYS = 4  # that are named
_LEAST = 0.01  # of what a layer's pairs add


def layered_text(circuit: LayeredCircuit) -> str:
    """For a person: a line a layer, who carries on what it writes, and on what it was found."""
    evidence = circuit.evidence
    layers = " and ".join(filter(None, [", ".join(map(str, circuit.layers[:-1])),
                                        str(circuit.layers[-1])]))  # fmt: skip
    lines = [f"{circuit.name}: found in layer{'s' * (len(circuit.layers) > 1)} {layers}"]
    for layer, stage in zip(circuit.layers, circuit.stages, strict=True):
        assert stage.evidence is not None  # of a behaviour
        shares, n = stage.evidence.shares, len(stage.interactions)
        lines.append(
            f"Layer {layer}: {percent(shares.direct)} of the contrast flows through its MLP, and "
            f"{n} pair{'s' * (n != 1)} carr{'y' if n != 1 else 'ies'} {percent(shares.carried)} of "
            f"that; {verdict(stage)}."
        )
    lines += [carried_on(circuit, layer) for layer in circuit.layers]
    lines.append(
        f"The parts of two layers overlap: a later one holds what it passes on. Chosen on n = "
        f"{evidence.n_cases} cases; held-out half: {evidence.held_out_half}."
    )
    return "\n".join(lines)


def carried_on(circuit: LayeredCircuit, layer: int) -> str:
    """Which heads carry on what the pairs of a layer write, in a sentence."""
    ways = circuit.ways[circuit.ways["layer"] == layer].dropna()
    ways = ways.sort_values("share", key=lambda share: -share.abs(), kind="stable")
    strong = ways[ways["share"].abs() >= _LEAST].head(_MOST_WAYS)
    named = [
        f"{'head ' if way[0].isdigit() else ''}{way} ({percent(share)})"
        for way, share in zip(strong["way"], strong["share"], strict=True)
    ]
    said = f"What layer {layer} writes reaches the answers by {', '.join(named) or 'no known way'}"
    rest = ways.drop(strong.index)
    if len(rest):
        most = percent(float(rest["share"].abs().max()))
        said += f"; {len(rest)} other{'s' * (len(rest) != 1)}, at most {most}"
    return f"{said}."


def layered_rows(circuit: LayeredCircuit) -> dict[str, Any]:
    """For a script."""
    stages = [
        {"layer": layer, "verdict": verdict(stage), **circuit_rows(stage)}
        for layer, stage in zip(circuit.layers, circuit.stages, strict=True)
    ]
    return {"name": circuit.name, "layers": circuit.shares.to_dict("records"),
            "ways": circuit.ways.to_dict("records"), "stages": stages}  # fmt: skip


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
