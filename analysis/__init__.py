"""Questions about a model's circuits, and their reports."""

from importlib import import_module
from typing import Any

_AT = {
    "Behaviour": "analysis.behaviour.cases",
    "Ledger": "analysis.attribution.ledger",
    "RankCurve": "analysis.lowrank",
    "Validation": "analysis.validation.validate",
    "built_in_behaviour": "analysis.behaviour.cases",
    "circuit_rank": "analysis.lowrank.circuit_rank",
    "find_circuit": "analysis.discovery.find",
    "ledger": "analysis.attribution.ledger",
    "propose_circuits": "analysis.discovery.propose",
    "quality": "analysis.quality",
    "rank_curve": "analysis.lowrank",
    "validate": "analysis.validation.validate",
    "write_report": "analysis.report",
}

__all__ = [
    "Behaviour",
    "Ledger",
    "RankCurve",
    "Validation",
    "built_in_behaviour",
    "circuit_rank",
    "find_circuit",
    "ledger",
    "propose_circuits",
    "quality",
    "rank_curve",
    "validate",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Found when first asked for: ``import analysis`` is what the command's help waits for."""
    if name in _AT:
        return getattr(import_module(_AT[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")
