"""Names of a circuit's features as its page shows them: labels, captions and links to their cards.

Names come from files and so may hold anything: each is made visible before it goes into a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable

from analysis.report.catalogue.captions import Caption
from analysis.report.catalogue.catalogue import Catalogue
from analysis.runs.belonging import Found
from circuits.model.site import Site
from circuits.plotting.display import shown


class Labels:
    """What the features of a circuit are called on its page."""

    def __init__(self, found: Found, books: dict[Site, Catalogue]) -> None:
        layer = self._layer = found.layer
        self._circuit = found.circuit
        self._into = None if layer is None else books.get(Site("mlp_in", layer))
        self._out = None if layer is None else books.get(Site("mlp_out", layer))

    def caption(self, feature: int) -> Caption:
        """When an input feature is active."""
        return Caption() if self._into is None else self._into.caption(feature)

    def output_caption(self, feature: int) -> str:
        """The tokens that an output feature promotes, else when it is active."""
        if self._out is None or feature >= len(self._out.cards):
            return ""
        promoted = [token for token, _ in self._out.cards[feature]["up"][:2]]
        return " ".join(promoted) or self._out.caption(feature).text

    def name(self, feature: int) -> str:
        """What an input feature is called in the circuit."""
        return shown(self._circuit.label(feature))

    def name_and_caption(self, feature: int) -> str:
        """Its name, and when it is active."""
        caption = self.caption(feature).text
        return self.name(feature) + (f" “{caption}”" if caption else "")

    def input_cards(self, features: Iterable[int]) -> list[str]:
        """The cards of input features; the constant has none."""
        n = 0 if self._into is None else self._into.dictionary.n_feature
        return [f"mlp_in@{self._layer}:{f}" if f < n else "" for f in features]

    def output_cards(self, features: Iterable[int]) -> list[str]:
        """The cards of output features."""
        return ["" if self._out is None else f"mlp_out@{self._layer}:{f}" for f in features]
