"""Studies with a known answer: logic gates, planted layers, and images."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from analysis.studies import images, logic_gates, planted

__all__ = ["images", "logic_gates", "planted"]

__getattr__, __dir__ = lazy(__name__)
