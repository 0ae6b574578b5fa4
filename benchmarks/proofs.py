"""Circuits through several layers, found on one half of a behaviour's cases and proven on the
other, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.behaviour.cases import Behaviour
from analysis.discovery.find import find_circuit
from analysis.validation.validate import validate
from circuits.errors import GraphError, NotFoundError
from circuits.model import Model, Site
from sae import Dictionary

HEAD = ["circuit", "claims", "removed", "left in the worst stratum", "kept alone", "falls short of"]


def proof(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    cases: Behaviour,
    seed: int,
    n_pairs: int | None = None,
) -> dict[str, Any]:
    """What was found and what it does, as plain values."""
    try:
        circuit = find_circuit(model, dictionaries, cases, across=True, n_pairs=n_pairs)
        proven = validate(model, circuit, cases.halves()[1], dictionaries, seed=seed)
    except (NotFoundError, GraphError) as answer:
        none = {"claims": {}, "criteria": {}, "short": []}
        return {"circuit": "not found", "why": str(answer), **none}
    pairs = zip(circuit.layers, circuit.stages, strict=True)
    return {
        "circuit": ", ".join(f"{len(s.interactions)} pairs in layer {layer}" for layer, s in pairs),
        "claims": {str(claim): holds for claim, holds in proven.claims.items()},
        "criteria": {str(one.name): one.value for one in proven.criteria},
        "short": [str(one.name) for one in proven.criteria if not one.met],
    }


def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells under `HEAD`."""
    claims = ", ".join(claim for claim, holds in found["claims"].items() if holds) or "none"
    values = [found["criteria"].get(key) for key in ("removed", "left", "kept")]
    said = ["-" if value is None else f"{value:.2f}" for value in values]
    short = ", ".join(found["short"]) or ("nothing" if found["criteria"] else "-")
    return (found["circuit"], claims, *said, short)
