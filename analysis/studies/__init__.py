"""Studies with a known answer: logic gates, planted layers, images, and rules of token pairs."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from analysis.studies import images as images
    from analysis.studies import logic_gates as logic_gates
    from analysis.studies import planted as planted
    from analysis.studies import rules as rules

__getattr__, __dir__, __all__ = lazy(__name__)
