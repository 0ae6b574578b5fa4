"""Questions about a model's circuits, and their reports."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from analysis import studies
    from analysis.attribution.contrast import by_layer
    from analysis.attribution.ledger import Reader, ledger
    from analysis.behaviour.built_in import built_in_behaviour
    from analysis.behaviour.cases import Behaviour
    from analysis.behaviour.in_model import in_model
    from analysis.dictionary_quality import quality
    from analysis.discovery.find import find_circuit
    from analysis.discovery.propose import propose_circuits
    from analysis.lowrank.circuit_rank import circuit_rank
    from analysis.lowrank.measure import rank_curve
    from analysis.opened_run import open_run
    from analysis.report import write_report
    from analysis.validation.validate import validate

__all__ = [
    "Behaviour",
    "Reader",
    "built_in_behaviour",
    "by_layer",
    "circuit_rank",
    "find_circuit",
    "in_model",
    "ledger",
    "open_run",
    "propose_circuits",
    "quality",
    "rank_curve",
    "studies",
    "validate",
    "write_report",
]

__getattr__, __dir__ = lazy(__name__)
