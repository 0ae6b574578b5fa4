"""Circuits through two layers from several seeds, with what one layer learns of the same stories.

A seed is the two-layer model of `circuits demo --two-layers` with its dictionaries, and a model of
one layer with as many heads, trained for as many steps. What was measured of a seed is kept, so
that an interrupted run resumes. Then the search on models that learned nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.behaviour.built_in import built_in_behaviour
from analysis.behaviour.in_model import in_model
from analysis.cli.demo import (
    TWO_LAYER_BEHAVIOURS,
    TWO_LAYER_DICTIONARIES,
    TWO_LAYER_PAIRS,
    TWO_LAYER_PLAN,
)
from analysis.discovery.find import find_circuit
from analysis.validation.criteria import Claim
from analysis.validation.validate import validate
from benchmarks.measure import machine, table
from benchmarks.proofs import HEAD, cells, proof
from circuits.corpus import built_in
from circuits.errors import GraphError, NotFoundError
from circuits.model import Model, load_model, train_model
from circuits.model.loading import untrained
from circuits.storage.files import read_json, write_json
from sae import load_dictionaries, train_saes

SEEDS = range(10)
N_CONTROLS = 20  # untrained models
_VERSION = 3  # of what is measured of a seed
_HEAD = ["seed", "right, one lie", "two lies", "one layer: one lie", "two lies", "behaviour", *HEAD]


def run(device: str, folder: str | None = None, seeds: Iterable[int] = SEEDS) -> str:
    """The table; models, dictionaries and results are kept in a folder where one is named."""
    seeds = list(seeds)
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        found = {seed: _of_seed(seed, where, device) for seed in seeds}
        controls = _controls(where / str(seeds[0]), device)
    proven = {
        name: sum(each[name]["claims"].get("causal", False) for each in found.values())
        for name in TWO_LAYER_BEHAVIOURS
    }
    rows = [row for seed, each in found.items() for row in _rows(seed, each)]
    counted = "; ".join(f"{name} {n} of {len(seeds)}" for name, n in proven.items())
    head = (
        f"{machine()}. {TWO_LAYER_PAIRS} minimal pairs, half to choose on and half to measure on."
    )
    return "\n\n".join([head, table(rows, _HEAD), f"- found and causal: {counted}\n- {controls}"])


def _of_seed(seed: int, folder: Path, device: str) -> dict[str, Any]:
    file = folder / str(seed) / f"measured-{_VERSION}.json"
    if file.exists():
        return read_json(file, GraphError)
    stories = built_in(seed, lies=True)
    plan, place = replace(TWO_LAYER_PLAN, seed=seed), folder / str(seed)
    shallow = replace(plan, shape=replace(plan.shape, n_layer=1))
    for name, each in (("model", plan), ("one", shallow)):
        train_model(each, stories, place / name, device=device)
    model = load_model(place / "model", device=device)
    dictionaries = replace(TWO_LAYER_DICTIONARIES, seed=seed)
    train_saes(model, stories, dictionaries, place / "saes", device=device)
    found = {
        "two layers": _right(model, seed),
        "one layer": _right(load_model(place / "one", device=device), seed),
    }
    saes = load_dictionaries(place / "saes", device=model.device)
    for name in TWO_LAYER_BEHAVIOURS:
        cases = built_in_behaviour(name, model, TWO_LAYER_PAIRS, seed=seed)
        found[name] = proof(model, saes, cases, seed)
    write_json(file, found)
    return found


def _right(model: Model, seed: int) -> dict[str, float]:
    """Share of right answers, by class."""
    behaviour = built_in_behaviour("lies", model, TWO_LAYER_PAIRS, seed=seed)
    cases = in_model(behaviour, model)
    right = (cases.margins() > 0).double()
    return dict(zip(behaviour.labels, cases.class_means(right).tolist(), strict=True))


def _rows(seed: int, found: dict[str, Any]) -> list[tuple[str, ...]]:
    right = [
        f"{sum(share for name, share in found[what].items() if name.startswith(lies)) / 2:.2f}"
        for what in ("two layers", "one layer")
        for lies in ("one lie", "two lies")
    ]
    return [(str(seed), *right, name, *cells(found[name])) for name in TWO_LAYER_BEHAVIOURS]


def _controls(place: Path, device: str) -> str:
    """The search on models that learned nothing, with the gate on right cases and without."""
    model = load_model(place / "model", device=device)
    dictionaries = {
        site: replace(each, notes={})
        for site, each in load_dictionaries(place / "saes", device=device).items()
    }
    gated = found = causal = 0
    for seed in range(N_CONTROLS):
        other = untrained(model, seed)
        cases = built_in_behaviour("lies", other, TWO_LAYER_PAIRS)
        gated += _is_found(other, dictionaries, cases) is not None
        circuit = _is_found(other, dictionaries, cases, shown=0.0)
        if circuit is not None:
            found += 1
            proof = validate(other, circuit, cases.halves()[1], dictionaries)
            causal += proof.claims[Claim.CAUSAL]
    return (
        f"{N_CONTROLS} untrained models: a circuit in {gated}; with the gate on right cases "
        f"switched off, in {found}, of which causal {causal}"
    )


def _is_found(model: Model, dictionaries: Any, cases: Any, **how: float) -> Any:
    try:
        return find_circuit(model, dictionaries, cases, across=True, **how)
    except NotFoundError:
        return None
