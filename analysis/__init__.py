"""Questions about a model's circuits, and their reports."""

from typing import Any

__all__ = ["quality"]


def __getattr__(name: str) -> Any:
    """Found when first asked for: ``import analysis`` is what the command's help waits for."""
    if name == "quality":
        from analysis.dictionary_quality import quality

        return quality
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")
