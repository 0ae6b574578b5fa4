"""Questions about a model's circuits, and their reports."""

from importlib import import_module
from typing import Any

_AT = {
    "RankCurve": "analysis.lowrank_curve",
    "quality": "analysis.dictionary_quality",
    "rank_curve": "analysis.lowrank",
}

__all__ = ["RankCurve", "quality", "rank_curve"]


def __getattr__(name: str) -> Any:
    """Found when first asked for: ``import analysis`` is what the command's help waits for."""
    if name in _AT:
        return getattr(import_module(_AT[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")
