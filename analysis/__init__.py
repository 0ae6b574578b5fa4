"""Questions about a model's circuits, and their reports."""

from typing import TYPE_CHECKING

from bilinear_circuits import check_packages, leave_out_the_current_folder

leave_out_the_current_folder()
check_packages("circuits", "sae")

from circuits.lazy import lazy  # noqa: E402

if TYPE_CHECKING:
    from analysis import studies as studies
    from analysis.attribution.contrast import by_layer as by_layer
    from analysis.attribution.ledger import Reader as Reader
    from analysis.attribution.ledger import ledger as ledger
    from analysis.attribution.network import attribution_graph as attribution_graph
    from analysis.attribution.scores import score_ledger as score_ledger
    from analysis.attribution.traced import AttributionGraph as AttributionGraph
    from analysis.behaviour.built_in import built_in_behaviour as built_in_behaviour
    from analysis.behaviour.cases import Behaviour as Behaviour
    from analysis.behaviour.in_model import in_model as in_model
    from analysis.behaviour.lexicon import behaviour_from_lexicon as behaviour_from_lexicon
    from analysis.dictionary_quality import quality as quality
    from analysis.discovery.find import find_circuit as find_circuit
    from analysis.discovery.layered_circuit import LayeredCircuit as LayeredCircuit
    from analysis.discovery.propose import propose_circuits as propose_circuits
    from analysis.lowrank.circuit_rank import circuit_rank as circuit_rank
    from analysis.lowrank.curve import RankCurve as RankCurve
    from analysis.lowrank.measure import rank_curve as rank_curve
    from analysis.opened_run import open_run as open_run
    from analysis.report import write_report as write_report
    from analysis.transcoder_quality import transcoder_table as transcoder_table
    from analysis.validation.layered_record import LayeredValidation as LayeredValidation
    from analysis.validation.record import Validation as Validation
    from analysis.validation.validate import validate as validate
    from circuits.twin.plan import TwinPlan as TwinPlan
    from circuits.twin.training import bilinear_twin as bilinear_twin

__getattr__, __dir__, __all__ = lazy(__name__)
