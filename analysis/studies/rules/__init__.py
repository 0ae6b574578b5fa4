"""Rules of token pairs in a polynomial transformer, read from its weights and then removed."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from analysis.studies.rules.effects import Effects as Effects
    from analysis.studies.rules.effects import explaining_paths as explaining_paths
    from analysis.studies.rules.effects import pair_effects as pair_effects
    from analysis.studies.rules.effects import path_neurons as path_neurons
    from analysis.studies.rules.effects import single_effects as single_effects
    from analysis.studies.rules.example import write_example as write_example
    from analysis.studies.rules.induction import Induction as Induction
    from analysis.studies.rules.induction import find_induction as find_induction
    from analysis.studies.rules.induction import induction_removal as induction_removal
    from analysis.studies.rules.known import KnownRules as KnownRules
    from analysis.studies.rules.known import load_known_rules as load_known_rules
    from analysis.studies.rules.page import write_page as write_page
    from analysis.studies.rules.removal import logits_without as logits_without
    from analysis.studies.rules.removal import skip_removal as skip_removal
    from analysis.studies.rules.study import RuleStudy as RuleStudy
    from analysis.studies.rules.study import study_rules as study_rules

__getattr__, __dir__, __all__ = lazy(__name__)
